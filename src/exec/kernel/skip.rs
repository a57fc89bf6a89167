//! What this kernel, or this machine, can't be asked.

use super::super::error::Skip;
use super::super::plan::Steps;
use super::super::team::ACTORS_MAX;
use super::huge::Layout;
use crate::model::{
    Bus, Coherency, CpuSync, FaultPurged, FollowPfn, GupFast, HostRules, Huge, IotlbFlush,
    MmapKind, MunmapFlush, Peer2Peer, Placement, Step, Unshare, YesNo, ZapReach,
};
use crate::question::scenario::{Replay, ReplayError, Scenario, ScheduleStep};
use crate::units::{BufId, FrameId};

/// Whether the laboratory's kernel can be asked a scenario at all.
///
/// # Errors
/// [`Skip`]: why not.
pub fn askable(scenario: &Scenario) -> Result<(), Skip> {
    if scenario.programs.len() >= ACTORS_MAX {
        return Err(Skip::new("more processes than there are actors"));
    }
    exporters(scenario)?;
    drop(Layout::of(scenario)?);
    steps(scenario)
}

/// The first two numbers of a release.
fn version(release: &str) -> (u32, u32) {
    let mut numbers = release.split(['.', '-', '+']).map(|word| word.parse().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
}

/// Why a kernel can't be asked about huge entries: from 6.0 ("mm: thp: kill __transhuge_page_enabled()")
/// to 6.6 it asked no driver for one where a mapping is VM_PFNMAP or VM_MIXEDMAP (measured on 6.1).
pub(super) fn no_huge_entries(scenario: &Scenario, release: &str) -> Option<String> {
    let world = &scenario.world;
    let any = |which: &dyn Fn(Huge) -> bool| {
        (0..world.bufs()).map(BufId::at).any(|buf| which(world.exporter_of(buf).huge))
    };
    let version = version(release);
    let why = if ((6, 0)..(6, 7)).contains(&version) && any(&|huge| huge != Huge::None) {
        "the guest's kernel asks no driver for a huge entry (6.0 to 6.6)"
    } else if version >= (6, 17) && any(&|huge| huge == Huge::Devmap) {
        "the guest's kernel has no devmap entries any more (pfn_t went in 6.17)"
    } else if version >= (7, 0) && any(&|huge| huge == Huge::Plain) {
        // A zap drops a reference and a mapcount that nobody took: "Bad page state" (measured on 7.3).
        "to the guest's kernel a huge entry that is not special is an ordinary page's (zap_huge_pmd, vm_normal_folio_pmd)"
    } else {
        return None;
    };
    Some(why.to_owned())
}

/// The rules of a host with the kernel of a release, the newest of which has the defaults; its device is
/// behind an IOMMU or not.
pub(super) fn host_of(release: &str, iommu: bool) -> HostRules {
    let version = version(release);
    let mut host = HostRules::default();
    if iommu {
        host.bus = Bus::Iommu;
    }
    if version < (6, 10) {
        host.gup_fast = GupFast::Any;
    }
    if version >= (7, 1) {
        host.gup_fast = GupFast::ShortTerm;
    }
    if version < (6, 2) {
        host.longterm_unshare = Unshare::Anonymous;
    }
    if version < (5, 19) {
        host.munmap_flush = MunmapFlush::AfterUnlink;
    }
    host
}

/// Rules of a test's host that the laboratory can have whatever its kernel has.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Own {
    /// Video memory is a BAR without struct page.
    pub(super) bar: bool,
    /// `follow_pfn` refuses what is not special, as was proposed: `follow_pfnmap_start` tells since 6.12.
    pub(super) no_page: bool,
}

impl Own {
    pub(super) fn of(scenario: &Scenario, has_bar: bool, release: &str) -> Self {
        let world = &scenario.world;
        let attaches = |(_, step): &(usize, &Step)| matches!(step, Step::Attach { .. });
        // An sg_table of the laboratory's is of pages, and so is a huge page.
        let by_page = Steps::of(scenario).all.iter().any(attaches)
            || (0..world.bufs()).any(|buf| world.exporter_of(BufId::at(buf)).huge != Huge::None);
        Self {
            bar: has_bar && world.host.vram_pages == YesNo::No && !by_page,
            no_page: world.host.follow_pfn == FollowPfn::NoPage && version(release) >= (6, 12),
        }
    }
}

/// The rules that [`with_own_rules`] changes.
pub(super) const OWN_RULES: &str = "gup-fast = short-term";

/// A question that leaves open what newer kernels do otherwise, asked with the rule of this one, where that
/// makes a difference; and the schedule, as far as it goes there.
pub(super) fn with_own_rules(
    scenario: &Scenario,
    schedule: &[u8],
    replay: &Replay,
    guest: &HostRules,
) -> Option<(Scenario, Replay)> {
    let host = &scenario.world.host;
    let open = host.gup_fast == HostRules::default().gup_fast;
    if !open || guest.gup_fast != GupFast::ShortTerm {
        return None;
    }
    let mut own = scenario.clone();
    own.world.host.gup_fast = guest.gup_fast;
    let replayed = own
        .replay(schedule)
        .or_else(|error| {
            let (ReplayError::NoSuchActor { step, .. } | ReplayError::NotReady { step, .. }) =
                error;
            own.replay(&schedule[..step - 1])
        })
        .ok()?;
    (!same(replay, &replayed)).then_some((own, replayed))
}

/// Whether two replays went the same way, as far as anything here can tell: what a TLB holds is seen by
/// the access that goes by it, and no such one is taken.
fn same(one: &Replay, other: &Replay) -> bool {
    let seen = |event: &ScheduleStep| {
        let mut after = event.after.clone();
        for entry in &mut after.model.translations {
            entry.forget();
        }
        after
    };
    let pairs = || one.events.iter().zip(&other.events);
    one.events.len() == other.events.len()
        && pairs().all(|(a, b)| a.reply == b.reply && seen(a) == seen(b))
}

/// Why this kernel does not answer a schedule of a host with other rules; none where the rules make
/// no difference to it.
pub(super) fn other_host(
    scenario: &Scenario,
    schedule: &[u8],
    replay: &Replay,
    (guest, own): (&HostRules, Own),
) -> Option<String> {
    let host = &scenario.world.host;
    // The check that was proposed for dma_buf_mmap is the laboratory's own.
    let mut guest = HostRules { dma_buf_mmap_check: host.dma_buf_mmap_check, ..guest.clone() };
    if own.bar {
        guest.vram_pages = YesNo::No;
    }
    if own.no_page {
        guest.follow_pfn = FollowPfn::NoPage;
    }
    if *host == guest {
        return None;
    }
    let mut twin = scenario.clone();
    twin.world.host = guest.clone();
    // What was cut off above is as long as what is left.
    let schedule = &schedule[..replay.events.len().min(schedule.len())];
    if twin.replay(schedule).is_ok_and(|other| same(replay, &other)) {
        return None;
    }
    Some(format!(
        "the schedules depend on a rule of the host that the guest's kernel has not: {}",
        others(host, &guest)
    ))
}

fn others(host: &HostRules, guest: &HostRules) -> String {
    let rules = [
        (host.pte_special == YesNo::No, "pte-special = no"),
        (host.follow_pfn == FollowPfn::No, "follow-pfn = no"),
        (
            host.follow_pfn == FollowPfn::NoPage && guest.follow_pfn != FollowPfn::NoPage,
            "follow-pfn = no-page",
        ),
        (host.vram_pages != guest.vram_pages, "vram-pages = no"),
        (host.iotlb_flush == IotlbFlush::Lazy, "iotlb-flush = lazy"),
        (host.bus != guest.bus, "bus"),
        (host.longterm_unshare != guest.longterm_unshare, "longterm-unshare"),
        (host.longterm_migrate == YesNo::No, "longterm-migrate = no"),
        (host.fork_copies_pinned == YesNo::No, "fork-copies-pinned = no"),
        (host.gup_fast != guest.gup_fast, "gup-fast"),
        (host.munmap_flush != guest.munmap_flush, "munmap-flush"),
    ];
    let named: Vec<&str> =
        rules.iter().filter(|(differs, _)| *differs).map(|(_, name)| *name).collect();
    named.join(", ")
}

fn exporters(scenario: &Scenario) -> Result<(), Skip> {
    let world = &scenario.world;
    if world.apertures() {
        return Err(Skip::new("the laboratory's importer has no aperture that the CPU sees"));
    }
    for buf in (0..world.bufs()).map(BufId::at) {
        let rules = world.exporter_of(buf);
        if rules.peer2peer != Peer2Peer::Reachable {
            return Err(Skip::new("the laboratory's devices reach all memory: none is a peer's"));
        }
        let unmaps = |(_, step): &(usize, &Step)| matches!(step, Step::Munmap { .. });
        if rules.fault_purged == FaultPurged::OldPage && Steps::of(scenario).all.iter().any(unmaps)
        {
            return Err(Skip::new(
                "the laboratory's exporter keeps the pages of a purged buffer beyond its last mapping",
            ));
        }
        if rules.coherency == Coherency::Incoherent {
            return Err(Skip::new("x86 has no incoherent caches"));
        }
        let as_heap = rules.begin == CpuSync::Invalidate && rules.end == CpuSync::Clean;
        if world.bounces() && !as_heap {
            return Err(Skip::new("the laboratory's exporter syncs bounce pages as a heap does"));
        }
        if rules.zap == ZapReach::VmaPointer && rules.mmap != MmapKind::Pfnmap {
            return Err(Skip::new("zap_vma_ptes is for VM_PFNMAP alone"));
        }
    }
    let cma = |frame: FrameId| world.placement(frame) == Placement::Cma;
    if (0..world.frames()).map(FrameId::at).any(cma) {
        return Err(Skip::new("the guest's kernel is built without CONFIG_CMA"));
    }
    Ok(())
}

fn steps(scenario: &Scenario) -> Result<(), Skip> {
    let steps = Steps::of(scenario);
    for (_, step) in &steps.all {
        if let Step::Load { vma, .. } = **step
            && steps.mmaps(vma).any(|mmap| !mmap.read)
        {
            let name = scenario.names.vma(vma);
            return Err(Skip::new(format!(
                "page tables can't make `{name}` writable and not readable"
            )));
        }
    }
    steps.slots(scenario).map(drop)
}
