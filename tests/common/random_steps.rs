//! Random worlds, and random steps with the ids of a world.
//!
//! Include it with `#[path = "common/random_steps.rs"] mod random_steps;` next to `random_litmus`.

#![allow(clippy::unwrap_used, reason = "a world this small has no limits to exceed")]

use driftheap::model::{
    Dir, EXPORTER_RULES, ExporterRules, ExporterStep, Foll, HOST_RULES, Handle, HostRules,
    IMPORTER_RULES, ImporterRules, Mmap, Notifier, Operation, Placement, Reservations, RuleSpec,
    RuleValues, Step, SyncAccess, Usage, World,
};
use driftheap::units::{
    ActorId, AttachmentId, BufId, FenceId, ImporterId, PageId, PinId, SgId, VmaId,
};

use crate::random_litmus::Choices;

const ACTORS: usize = 3;
/// Two per actor, and one each for anonymous memory.
const VMAS: usize = 9;
const PINS: usize = 4;
const ATTACHMENTS: usize = 3;
const FENCES: usize = 3;
const PAGES: usize = 3;

fn words(choices: &mut Choices<'_>, table: &[RuleSpec], mut set: impl FnMut(&str, &[&str])) {
    for rule in table {
        if let RuleValues::Words(allowed) = rule.values
            && choices.one_in(3)
        {
            set(rule.name, &[*choices.of(allowed)]);
        }
    }
}

/// A random world: two buffers, two exporters, everything else a few times.
pub(crate) fn world(choices: &mut Choices<'_>) -> World {
    let mut host = HostRules::default();
    words(choices, HOST_RULES, |name, value| host.set(name, value).unwrap());
    let mut world = World::new(host);
    let threads = choices.one_in(3);
    for index in 0..ACTORS {
        if threads && index > 0 && choices.one_in(2) {
            world.add_thread(ActorId::at(0)).unwrap();
        } else {
            world.add_actor().unwrap();
        }
    }
    for placement in [Placement::Vram, Placement::System, Placement::Cma] {
        world.add_frames(placement, 1 + choices.below(4)).unwrap();
    }
    if choices.one_in(2) {
        world.lock_address_spaces();
    }
    if choices.one_in(2) {
        world.draw_tickets();
    }
    let mut bufs = Vec::new();
    for (pages, allocated) in [(2, true), (1, choices.one_in(2))] {
        let mut rules = ExporterRules::default();
        words(choices, EXPORTER_RULES, |name, value| rules.set(name, value).unwrap());
        let exporter = world.add_exporter(rules).unwrap();
        let at = *choices.of(&[Placement::Vram, Placement::System, Placement::Cma]);
        bufs.push(world.add_buf(exporter, pages, at, allocated, 1).unwrap());
    }
    let mut importers = Vec::new();
    for _ in 0..2 {
        let mut rules = ImporterRules::default();
        words(choices, IMPORTER_RULES, |name, value| rules.set(name, value).unwrap());
        importers.push(world.add_importer(rules).unwrap());
    }
    for actor in (0..ACTORS).map(ActorId::at) {
        for buf in [bufs[0], *choices.of(&bufs), BufId::NONE] {
            let pages = 1 + u8::from(choices.one_in(2));
            world.add_vma(world.mm(actor), pages, buf, choices.one_in(2)).unwrap();
        }
    }
    for _ in 0..PINS {
        let notifier = *choices.of(&[Notifier::None, Notifier::NoWait, Notifier::Wait]);
        world.add_pin(notifier, choices.one_in(3)).unwrap();
    }
    for _ in 0..ATTACHMENTS {
        let attachment = world.add_attachment(*choices.of(&importers)).unwrap();
        world.add_sg(attachment).unwrap();
    }
    for _ in 0..FENCES {
        world.add_fence().unwrap();
    }
    world
}

/// Any step with ids of the world, by any actor.
pub(crate) fn step(choices: &mut Choices<'_>, world: &World) -> (ActorId, Step) {
    let actor = ActorId::at(choices.below(ACTORS));
    let step = match choices.below(4) {
        0 => cpu(choices, world),
        1 => pin(choices),
        2 => device(choices),
        _ => exporter(choices),
    };
    (actor, step)
}

fn vma(choices: &mut Choices<'_>) -> VmaId {
    VmaId::at(choices.below(VMAS))
}

fn buf(choices: &mut Choices<'_>) -> BufId {
    BufId::at(choices.below(2))
}

/// Also one that no VMA and no buffer has.
fn page(choices: &mut Choices<'_>) -> u8 {
    *choices.of(&[0, 0, 1, 7, 9])
}

fn importer(choices: &mut Choices<'_>) -> ImporterId {
    *choices.of(&[ImporterId::NONE, ImporterId::at(0), ImporterId::at(1)])
}

fn cpu(choices: &mut Choices<'_>, world: &World) -> Step {
    let (vma, page) = (vma(choices), page(choices));
    match choices.below(11) {
        10 => Step::Mprotect { vma, write: choices.one_in(2) },
        9 => *choices.of(&[Step::FreePgtables(vma), Step::FinishMmu(vma)]),
        0..=2 => {
            let (_, buf, private) = world.vma_shape(vma);
            Step::Mmap(Mmap {
                vma,
                buf,
                offset: u8::from(choices.one_in(3)),
                shared: !private,
                read: !choices.one_in(6),
                write: !choices.one_in(3),
                via: importer(choices),
                node: choices.one_in(4),
            })
        }
        3 => Step::Munmap { vma, pages: *choices.of(&[u16::MAX, 1, 2]) },
        4 => Step::Mremap { to: vma, from: VmaId::at(choices.below(VMAS)) },
        5 => Step::Load { vma, page },
        6 | 7 => Step::Store { vma, page, value: 2 },
        _ => {
            let (parent, child) = *choices.of(&[(0, 3), (3, 6), (0, 6), (6, 0), (0, 0)]);
            Step::Fork {
                child: ActorId::at(child / 3),
                parent_first: VmaId::at(parent),
                child_first: VmaId::at(child),
                count: 3,
            }
        }
    }
}

fn pin(choices: &mut Choices<'_>) -> Step {
    let (vma, page) = (vma(choices), page(choices));
    let pin = PinId::at(choices.below(PINS));
    let [write, force, longterm] = [3, 3, 2].map(|bound| choices.one_in(bound));
    let get = !longterm && choices.one_in(2);
    let foll = Foll { write, force, longterm, get };
    match choices.below(6) {
        0 | 1 => Step::GupFast { pin, vma, page, foll },
        2 => Step::GupSlow { pin, vma, page, foll },
        3 => Step::FollowPfn { pin, vma, page, write },
        4 => Step::FrameVectorCheck {
            first: PinId::at(choices.below(PINS - 1)),
            count: u8::try_from(choices.below(3)).unwrap(),
            importer: importer(choices),
        },
        _ => Step::Unpin(pin),
    }
}

fn device(choices: &mut Choices<'_>) -> Step {
    let attachment = AttachmentId::at(choices.below(ATTACHMENTS));
    let (sg, fence) = (SgId::at(attachment.index()), FenceId::at(choices.below(FENCES)));
    let pin = PinId::at(choices.below(PINS));
    let handle = *choices.of(&[Handle::Sg(sg), Handle::Pin(pin)]);
    let dir = *choices.of(&[Dir::Write(3), Dir::Read, Dir::Prefetch]);
    let page = page(choices);
    match choices.below(15) {
        14 => Step::FlushTlb(sg),
        0 | 1 => Step::Attach {
            attachment,
            buf: *choices.of(&[BufId::at(0), BufId::at(1), BufId::NONE]),
            via: *choices.of(&[VmaId::NONE, VmaId::at(0), VmaId::at(2)]),
            dynamic: choices.one_in(2),
        },
        2 => Step::Detach(attachment),
        3 | 4 => Step::Map(sg),
        5 => Step::Unmap(sg),
        6 => Step::Validate { fence, sg },
        7 => {
            let usages = [Usage::Kernel, Usage::Write, Usage::Read, Usage::Bookkeep];
            let (usage, writes) = (*choices.of(&usages), choices.one_in(2));
            Step::Submit { fence, sg, usage, writes }
        }
        8 => Step::Signal(fence),
        9 | 10 => Step::DmaStart { via: handle, page, dir },
        11 | 12 => Step::DmaFinish { via: handle, page, dir },
        _ => *choices.of(&[Step::DmaBufPin(attachment), Step::DmaBufUnpin(attachment)]),
    }
}

fn exporter(choices: &mut Choices<'_>) -> Step {
    let (buf, via) = (buf(choices), importer(choices));
    let access = SyncAccess { read: choices.one_in(2), write: choices.one_in(2) };
    let (mm, write) = (ActorId::at(choices.below(ACTORS)), choices.one_in(2));
    match choices.below(13) {
        10 => *choices.of(&[Step::ResvLock(buf), Step::ResvUnlock(buf)]),
        12 => {
            let both = *choices.of(&[[0, 1], [1, 0]]);
            let all = Reservations::new(both.map(BufId::at));
            *choices.of(&[Step::LockAll(all), Step::DrawTicket, Step::ResvUnlock(buf)])
        }
        11 => *choices.of(&[Step::MmapLock { mm, write }, Step::MmapUnlock(mm)]),
        0 => Step::Alloc(buf),
        1 => Step::Close(buf),
        2 => Step::EvictCache(PageId::at(choices.below(PAGES))),
        3 => Step::SyncStart { buf, access, via },
        4 => Step::SyncEnd { buf, access, via },
        _ => {
            let word = choices.of(ExporterStep::WORDS);
            let step = ExporterStep::from_word(word).unwrap();
            let to = *choices.of(&[Placement::Vram, Placement::System, Placement::Cma]);
            let operation = *choices.of(&[
                Operation::Move(to),
                Operation::Move(to),
                Operation::Purge,
                Operation::Revoke,
            ]);
            Step::Exporter { buf, step, page: page(choices), operation }
        }
    }
}
