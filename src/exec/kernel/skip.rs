//! What this kernel, or this machine, can't be asked.

use super::super::error::Skip;
use super::super::plan::Steps;
use super::super::team::ACTORS_MAX;
use super::huge::Layout;
use crate::model::{
    Bus, Coherency, CpuSync, FollowPfn, GupFast, HostRules, IotlbFlush, MmapKind, Peer2Peer,
    Placement, Step, YesNo, ZapReach,
};
use crate::question::scenario::{Replay, Scenario};
use crate::units::{BufId, FrameId};

/// Whether the laboratory's kernel can be asked a scenario at all.
///
/// # Errors
/// [`Skip`]: why not.
pub fn askable(scenario: &Scenario) -> Result<(), Skip> {
    if scenario.programs.len() >= ACTORS_MAX {
        return Err(Skip::new("more processes than there are actors"));
    }
    if scenario.world.locks_address_spaces() {
        return Err(Skip::new(
            "who waits for an mmap_lock with a dma_resv held hangs, and the guest's process with it",
        ));
    }
    exporters(scenario)?;
    drop(Layout::of(scenario)?);
    steps(scenario)
}

/// Why this kernel does not answer a schedule of a host with other rules; none where the rules make
/// no difference to it. The guest's kernel is the default host.
pub(super) fn other_host(scenario: &Scenario, schedule: &[u8], replay: &Replay) -> Option<String> {
    let host = &scenario.world.host;
    // The check that was proposed for dma_buf_mmap is the laboratory's own.
    let guest = HostRules { dma_buf_mmap_check: host.dma_buf_mmap_check, ..HostRules::default() };
    if *host == guest {
        return None;
    }
    let mut twin = scenario.clone();
    twin.world.host = guest;
    let same = |other: &Replay| {
        let pairs = || replay.events.iter().zip(&other.events);
        replay.events.len() == other.events.len()
            && pairs().all(|(a, b)| a.reply == b.reply && a.after == b.after)
    };
    if twin.replay(schedule).is_ok_and(|other| same(&other)) {
        return None;
    }
    Some(format!(
        "the schedules depend on a rule of the host that the guest's kernel has not: {}",
        others(host)
    ))
}

fn others(host: &HostRules) -> String {
    let rules = [
        (host.pte_special == YesNo::No, "pte-special = no"),
        (host.follow_pfn == FollowPfn::No, "follow-pfn = no"),
        (host.follow_pfn == FollowPfn::NoPage, "follow-pfn = no-page"),
        (host.vram_pages == YesNo::No, "vram-pages = no"),
        (host.iotlb_flush == IotlbFlush::Lazy, "iotlb-flush = lazy"),
        (host.bus != Bus::Identity, "bus"),
        (host.longterm_unshare == YesNo::No, "longterm-unshare = no"),
        (host.longterm_migrate == YesNo::No, "longterm-migrate = no"),
        (host.fork_copies_pinned == YesNo::No, "fork-copies-pinned = no"),
        (host.gup_fast == GupFast::Any, "gup-fast = any"),
    ];
    let named: Vec<&str> =
        rules.iter().filter(|(differs, _)| *differs).map(|(_, name)| *name).collect();
    named.join(", ")
}

fn exporters(scenario: &Scenario) -> Result<(), Skip> {
    let world = &scenario.world;
    if world.device_tlbs() {
        return Err(Skip::new("the laboratory's devices have no page tables, and no TLB"));
    }
    for buf in (0..world.bufs()).map(BufId::at) {
        let rules = world.exporter_of(buf);
        if rules.peer2peer != Peer2Peer::Reachable {
            return Err(Skip::new("the laboratory's devices reach all memory: none is a peer's"));
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
