//! How a scenario is made real: which arena each placement is, where each VMA goes, how each pin is
//! taken; and whether this machine can express it at all.
//!
//! The choice that matters is the arena. `memfd_secret` answers `get_user_pages` as VM_PFNMAP and
//! special entries do, EFAULT; a memfd answers as ordinary pages do. A placement is made of one of
//! them for the whole scenario, because a frame can't change its kind.
//!
//! | the exporter's entries | the placement's arena |
//! |---|---|
//! | VM_PFNMAP, or special (`mixedmap-insert-pfn` with a special bit) | `memfd_secret` |
//! | plain huge entries of those | memfd: the fast path takes them |
//! | `mixedmap-insert-page`, shmem, `insert_pfn` without a special bit | memfd |
//! | any of them, where nothing is ever pinned | memfd |
//!
//! **Differs from Linux:** without a special bit `vm_insert_mixed` inserts a counted page. What
//! `get_user_pages` then meets is an ordinary page, and so it is here; the architecture itself is
//! not emulated. Huge entries are eight or fewer small ones that come and go together.

use super::command::{ArenaPage, PinHow};
use super::error::Skip;
use super::store::{Arenas, FRAMES_MAX, PLACEMENTS};
use super::team::{ACTORS_MAX, Abilities};
use crate::explore::Machine;
use crate::model::{
    Coherency, Dir, Foll, GupAnswer, GupQuestion, Handle, ImporterMmap, Mmap, Operation, Placement,
    Step, World, YesNo,
};
use crate::question::scenario::{Action, Scenario};
use crate::units::{BufId, FrameId, PinId, VmaId};

/// How one scenario is made real.
#[derive(Debug, Clone)]
pub(super) struct Plan {
    /// First slot of each VMA; a forked child's are its parent's.
    slots: Vec<u16>,
    /// Placement and position of each frame.
    frames: Vec<ArenaPage>,
    /// How each pin is taken, where one ever is.
    pins: Vec<Option<PinHow>>,
    /// Pins that a device writes through.
    written: Vec<bool>,
    /// VMAs whose CPU accesses go through a cache that devices don't see.
    incoherent: Vec<bool>,
}

impl Plan {
    /// Decide, or say why it can't be done here.
    pub(super) fn new(
        scenario: &Scenario,
        arenas: &Arenas,
        abilities: Abilities,
    ) -> Result<Self, Skip> {
        let steps = Steps::of(scenario);
        steps.expressible(scenario)?;
        let secret = steps.secret_placements(scenario, arenas)?;
        let frames = places(&scenario.world, secret)?;
        let slots = steps.slots(scenario)?;
        let pins = steps.pins(scenario, abilities)?;
        let incoherent =
            (0..slots.len()).map(|index| steps.incoherent(scenario, VmaId::at(index))).collect();
        let written = (0..pins.len()).map(|pin| steps.is_written(PinId::at(pin))).collect();
        Ok(Self { slots, frames, pins, written, incoherent })
    }

    /// The slot of a VMA's page.
    pub(super) fn slot(&self, vma: VmaId, page: u8) -> u16 {
        self.slots[vma.index()] + u16::from(page)
    }

    /// Where a frame's memory is.
    pub(super) fn memory(&self, frame: FrameId) -> ArenaPage {
        self.frames[frame.index()]
    }

    /// Where the CPU's cache line of a frame is.
    pub(super) fn cache(&self, frame: FrameId) -> ArenaPage {
        let place = self.memory(frame);
        ArenaPage { page: place.page + FRAMES_MAX, ..place }
    }

    /// What a CPU mapping of a frame maps.
    pub(super) fn mapped(&self, vma: VmaId, frame: FrameId) -> ArenaPage {
        if self.incoherent[vma.index()] { self.cache(frame) } else { self.memory(frame) }
    }

    /// How a pin is taken; where it is [`PinHow::Vmsplice`] the moment decides.
    pub(super) fn pin(&self, pin: PinId) -> Option<PinHow> {
        self.pins[pin.index()]
    }

    /// Whether a device writes through a pin.
    pub(super) fn is_written(&self, pin: PinId) -> bool {
        self.written[pin.index()]
    }

    /// Whether any buffer is incoherent.
    pub(super) fn has_caches(&self) -> bool {
        self.incoherent.contains(&true)
    }

    /// Whether the CPU's accesses through a VMA are cached apart from memory.
    pub(super) fn is_incoherent(&self, vma: VmaId) -> bool {
        self.incoherent[vma.index()]
    }
}

/// Frames by placement, each in its arena.
fn places(world: &World, secret: [bool; 3]) -> Result<Vec<ArenaPage>, Skip> {
    let mut used = [0u16; 3];
    let mut places = Vec::with_capacity(world.frames());
    for frame in (0..world.frames()).map(FrameId::at) {
        let at = index(world.placement(frame));
        let arena = u8::try_from(at).unwrap_or(0) + if secret[at] { PLACEMENTS } else { 0 };
        places.push(ArenaPage { arena, page: used[at] });
        used[at] += 1;
        if used[at] > FRAMES_MAX {
            return Err(Skip::with_remedy(
                format!("a placement has more than {FRAMES_MAX} frames"),
                "use fewer or smaller buffers, or set `memory`",
            ));
        }
    }
    Ok(places)
}

fn index(placement: Placement) -> usize {
    match placement {
        Placement::Vram => 0,
        Placement::System => 1,
        Placement::Cma => 2,
    }
}

/// All steps of a scenario, with the process that takes each.
pub(super) struct Steps<'a> {
    pub(super) all: Vec<(usize, &'a Step)>,
    pub(super) vmas: usize,
    pins: usize,
}

impl<'a> Steps<'a> {
    pub(super) fn of(scenario: &'a Scenario) -> Self {
        let mut all = Vec::new();
        for (process, program) in scenario.programs.iter().enumerate() {
            for instruction in &program.instructions {
                if let Action::Step(step) = &instruction.action {
                    all.push((process, step));
                }
            }
        }
        let state = scenario.initial().model;
        Self { all, vmas: state.vmas.len(), pins: state.pins.len() }
    }

    /// What no machine of ours can do.
    fn expressible(&self, scenario: &Scenario) -> Result<(), Skip> {
        if scenario.programs.len() >= ACTORS_MAX {
            return Err(Skip::new("more processes than there are actors"));
        }
        if scenario.world.locks_address_spaces() {
            return Err(Skip::new(
                "a process here has no mmap_lock from one system call to the next, and no dma_resv: \
                 who waits for whom would be the model's answer again",
            ));
        }
        for (_, step) in &self.all {
            if let Step::Mmap(mmap) = step
                && !mmap.shared
                && self.incoherent(scenario, mmap.vma)
            {
                return Err(Skip::new(
                    "a private mapping of an incoherent buffer would copy the page that stands \
                     for the CPU's cache",
                ));
            }
            if let Step::Load { vma, .. } = step
                && self.mmaps(*vma).any(|mmap| !mmap.read)
            {
                let name = scenario.names.vma(*vma);
                return Err(Skip::new(format!(
                    "page tables can't make `{name}` writable and not readable"
                )));
            }
        }
        Ok(())
    }

    /// The mmap calls that may make a VMA, its own or its ancestors'.
    pub(super) fn mmaps(&self, vma: VmaId) -> impl Iterator<Item = &'a Mmap> {
        let family = self.family(vma);
        self.all.iter().filter_map(move |(_, step)| {
            if let Step::Mmap(mmap) = step
                && family.contains(&mmap.vma)
            {
                Some(mmap)
            } else {
                None
            }
        })
    }

    /// A VMA and those whose mapping it may take over, by fork or by mremap.
    fn family(&self, vma: VmaId) -> Vec<VmaId> {
        let mut family = vec![vma];
        let mut at = 0;
        while at < family.len() {
            let own = family[at];
            for (_, step) in &self.all {
                let from = if let Step::Mremap { to, from } = **step
                    && to == own
                {
                    Some(from)
                } else if let Step::Fork { parent_first, child_first, count, .. } = **step
                    && (child_first.0..child_first.0.saturating_add(count)).contains(&own.0)
                {
                    Some(VmaId(parent_first.0 + (own.0 - child_first.0)))
                } else {
                    None
                };
                if let Some(from) = from.filter(|from| !family.contains(from)) {
                    family.push(from);
                }
            }
            at += 1;
        }
        family
    }

    fn incoherent(&self, scenario: &Scenario, vma: VmaId) -> bool {
        let (_, buf, _) = scenario.world.vma_shape(vma);
        let aperture = |mmap: &Mmap| {
            mmap.via.is_some() && scenario.world.importer(mmap.via).mmap == ImporterMmap::Aperture
        };
        buf.is_some()
            && !self.mmaps(vma).any(aperture)
            && scenario.world.exporter_of(buf).coherency == Coherency::Incoherent
    }

    /// First slot of each VMA.
    pub(super) fn slots(&self, scenario: &Scenario) -> Result<Vec<u16>, Skip> {
        let count = self.vmas;
        let mut slots = vec![0u16; count];
        let mut next = 0u16;
        for vma in (0..count).map(VmaId::at) {
            slots[vma.index()] = next;
            next += u16::from(scenario.world.vma_pages(vma));
        }
        if next > super::actor::SLOTS {
            return Err(Skip::with_remedy(
                "more pages are mapped than an actor has slots",
                "map fewer",
            ));
        }
        // Parents before children, however deep: as many rounds as there are processes.
        for _ in &scenario.programs {
            for (_, step) in &self.all {
                if let Step::Fork { parent_first, child_first, count, .. } = **step {
                    for at in 0..count {
                        let (child, parent) = (child_first.0 + at, parent_first.0 + at);
                        slots[usize::from(child)] = slots[usize::from(parent)];
                    }
                }
            }
        }
        Ok(slots)
    }

    /// The placements that have to be made of memory that can't be pinned.
    fn secret_placements(&self, scenario: &Scenario, arenas: &Arenas) -> Result<[bool; 3], Skip> {
        let (mut special, mut ordinary) = ([false; 3], [false; 3]);
        for (_, step) in &self.all {
            if let Step::GupFast { vma, .. } = **step {
                for mmap in self.mmaps(vma).filter(|mmap| mmap.buf.is_some()) {
                    for placement in self.placements(scenario, mmap.buf) {
                        let refuses = refuses_pins_at(scenario, mmap, placement);
                        let of = if refuses { &mut special } else { &mut ordinary };
                        of[index(placement)] = true;
                    }
                }
            } else if let Step::Mmap(mmap) = **step
                && mmap.buf.is_some()
                && !mmap.shared
            {
                for placement in self.placements(scenario, mmap.buf) {
                    ordinary[index(placement)] = true;
                }
            }
        }
        if (0..3).any(|at| special[at] && ordinary[at]) {
            return Err(Skip::new(
                "one placement would have to hold memory that can be pinned (or mapped privately) \
                 and memory that can't",
            ));
        }
        if let (true, Some(error)) = (special.contains(&true), &arenas.no_secret) {
            return Err(Skip::new(format!("EFAULT of get_user_pages needs memfd_secret: {error}")));
        }
        Ok(special)
    }

    /// Where a buffer may ever be.
    fn placements(&self, scenario: &Scenario, buf: BufId) -> Vec<Placement> {
        let mut placements = vec![scenario.world.buf(buf).placement];
        for (_, step) in &self.all {
            if let Step::Exporter { buf: moved, operation: Operation::Move(to), .. } = **step
                && moved == buf
            {
                placements.push(to);
            }
        }
        placements
    }

    fn pins(&self, scenario: &Scenario, abilities: Abilities) -> Result<Vec<Option<PinHow>>, Skip> {
        let mut plans: Vec<Option<PinHow>> = vec![None; self.pins];
        for (_, step) in &self.all {
            let Step::GupFast { pin, vma, foll, .. } = **step else { continue };
            let how = self.pin_how(scenario, pin, vma, foll)?;
            if matches!(how, PinHow::Uring | PinHow::Force) && !abilities.io_uring {
                if self.always_refused(scenario, vma) {
                    // Whoever asks for such pages is refused.
                    plans[pin.index()] = Some(PinHow::Vmsplice);
                    continue;
                }
                return Err(Skip::with_remedy(
                    "a pin for writing needs io_uring registered buffers",
                    "allow it with `sysctl kernel.io_uring_disabled=0`, and in the container's \
                     seccomp profile; raise `ulimit -l`",
                ));
            }
            plans[pin.index()] = Some(how);
        }
        Ok(plans)
    }

    /// Whether `get_user_pages` refuses a VMA whatever happens.
    fn always_refused(&self, scenario: &Scenario, vma: VmaId) -> bool {
        let refused = |mmap: &Mmap| {
            let at = |placement: &Placement| refuses_pins_at(scenario, mmap, *placement);
            mmap.buf.is_some() && self.placements(scenario, mmap.buf).iter().all(at)
        };
        self.mmaps(vma).all(|mmap| mmap.shared && refused(mmap))
    }

    fn pin_how(
        &self,
        scenario: &Scenario,
        pin: PinId,
        vma: VmaId,
        foll: Foll,
    ) -> Result<PinHow, Skip> {
        let host = &scenario.world.host;
        let (_, _, private) = scenario.world.vma_shape(vma);
        let (writable, fixed) = self.right_to_write(vma);
        let forks = self.all.iter().any(|(_, step)| matches!(step, Step::Fork { .. }));
        let refused = self.always_refused(scenario, vma);
        let mut users = Vec::new();
        for (process, step) in &self.all {
            if let Step::DmaStart { via: Handle::Pin(through), .. } = step
                && *through == pin
            {
                users.push(*process);
            }
        }
        users.dedup();
        if users.len() > 1 && !refused {
            return Err(Skip::new("two devices use one pin: it has one transfer at a time"));
        }
        if self.incoherent(scenario, vma) && !refused {
            return Err(Skip::new(
                "a kernel pin of an incoherent buffer would pin the page that stands for the \
                 CPU's cache",
            ));
        }
        if foll.write && foll.force && writable && !fixed && !refused {
            return Err(Skip::new(
                "a pin with FOLL_FORCE is of a mapping that may be written at one time and not at another: \
                 io_uring has no FOLL_FORCE, and what stands for it is for a mapping that is read-only \
                 throughout",
            ));
        }
        let reference = foll.get || host.fork_copies_pinned == YesNo::No;
        if private && forks && foll.write && reference {
            if self.is_written(pin) {
                return Err(Skip::new(
                    "this kernel copies pinned pages at fork: only a vmsplice reference is not \
                     copied, and it can't be written through",
                ));
            }
            return Ok(PinHow::Vmsplice);
        }
        if foll.write {
            return Ok(if foll.force && !writable { PinHow::Force } else { PinHow::Uring });
        }
        Ok(PinHow::Vmsplice)
    }

    /// Whether a VMA may ever be written, and whether that is so from its mmap to its end.
    fn right_to_write(&self, vma: VmaId) -> (bool, bool) {
        let family = self.family(vma);
        let changes = self.all.iter().filter_map(|(_, step)| {
            if let Step::Mprotect { vma, write } = **step
                && family.contains(&vma)
            {
                Some(write)
            } else {
                None
            }
        });
        let rights: Vec<bool> = self.mmaps(vma).map(|mmap| mmap.write).chain(changes).collect();
        (rights.contains(&true), !rights.contains(&true) || !rights.contains(&false))
    }

    /// Whether a device writes through a pin.
    fn is_written(&self, pin: PinId) -> bool {
        self.all.iter().any(|(_, step)| {
            matches!(step, Step::DmaStart { via: Handle::Pin(through), dir: Dir::Write(_), .. }
                if *through == pin)
        })
    }
}

/// Whether `get_user_pages` refuses every entry of such a mapping while the buffer is there: what has no
/// struct page can't be pinned at all.
fn refuses_pins_at(scenario: &Scenario, mmap: &Mmap, placement: Placement) -> bool {
    let world = &scenario.world;
    let question = GupQuestion {
        host: &world.host,
        exporter: world.exporter_of(mmap.buf),
        importer: mmap.via.is_some().then(|| world.importer(mmap.via)),
        placement,
        pages: world.buf(mmap.buf).pages,
        shared: mmap.shared,
        node: mmap.node,
        write: false,
    };
    matches!(question.answer(), GupAnswer::Refused(_))
}
