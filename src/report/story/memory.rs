//! Frames and page tables: how they stand after a step, and what the step changed.

use super::words::{Teller, slot_word, vma_kind};
use crate::model::{Frame, Life, MmapLock, Owner, Pte, Slot, State};
use crate::question::scenario::{Replay, ScenarioState};
use crate::units::{ActorId, BufId, FenceId, FrameId, MAX_PAGES, PinId, PteId, SgId, VmaId};

/// The frames that are anybody's at any time of a schedule.
pub(super) fn frames_used(replay: &Replay) -> Vec<FrameId> {
    let states = || {
        let after = replay.events.iter().map(|event| &event.after.model);
        std::iter::once(&replay.before.model).chain(after)
    };
    (0..replay.before.model.frames.len())
        .filter(|&index| states().any(|state| state.frames[index].owner != Owner::Free))
        .map(FrameId::at)
        .collect()
}

impl Teller<'_> {
    /// `A[0]=1`, `free`, `orphan=3`.
    pub(super) fn frame_state(self, frame: &Frame) -> String {
        let page = |page| self.scenario.names.page(&self.scenario.world, page);
        let owner = match frame.owner {
            Owner::Free => return "free".to_owned(),
            Owner::Page(owner) => page(owner),
            Owner::Reserved(owner) => format!("new {}", page(owner)),
            Owner::Retired(owner) => format!("old {}", page(owner)),
            Owner::Shadow(owner) => format!("shadow {}", page(owner)),
            Owner::Bounce(owner) => format!("bounce {}", page(owner)),
            Owner::Anon => "anon".to_owned(),
            Owner::Orphan => "orphan".to_owned(),
            Owner::Zero => "zeros".to_owned(),
        };
        let cache = match (frame.cached, frame.dirty) {
            (false, _) => String::new(),
            (true, false) => format!(" cpu {}", frame.cache_value),
            (true, true) => format!(" cpu {}*", frame.cache_value),
        };
        format!("{owner}={}{cache}", frame.value)
    }

    /// What differs between two states: mappings, entries, pins, sg_tables, fences, locks, lives.
    pub(super) fn changes(self, before: &ScenarioState, after: &ScenarioState) -> Vec<String> {
        let (before, after) = (&before.model, &after.model);
        let mut out = Vec::new();
        self.vma_changes(before, after, &mut out);
        self.pte_changes(before, after, &mut out);
        self.pin_changes(before, after, &mut out);
        self.sg_changes(before, after, &mut out);
        self.buf_changes(before, after, &mut out);
        out
    }

    /// The process in front of a name that several processes use.
    fn qualified(self, vma: VmaId) -> String {
        let name = self.scenario.names.vma(vma);
        let count = self.vmas().filter(|other| self.scenario.names.vma(*other) == name).count();
        if count > 1 {
            format!("{:?}:{name}", self.scenario.world.mm_of(vma))
        } else {
            name.to_owned()
        }
    }

    fn vmas(self) -> impl Iterator<Item = VmaId> {
        let count = self.scenario.initial_state().model.vmas.len();
        (0..count).map(VmaId::at)
    }

    fn vma_changes(self, before: &State, after: &State, out: &mut Vec<String>) {
        for vma in self.vmas() {
            let (old, new) = (&before.vmas[vma.index()], &after.vmas[vma.index()]);
            let name = self.qualified(vma);
            match (old.mapped, new.mapped) {
                (old, new) if old == new => {}
                (0, _) => out.push(format!("vma {name}: {}", vma_kind(new))),
                (_, 0) => out.push(format!("vma {name} gone")),
                (_, left) => out.push(format!("vma {name}: {} pages left", left.count_ones())),
            }
        }
    }

    fn pte_changes(self, before: &State, after: &State, out: &mut Vec<String>) {
        for index in 0..after.ptes.len() {
            let (old, new) = (&before.ptes[index], &after.ptes[index]);
            let (vma, page) = self.scenario.world.vma_of(PteId::at(index));
            let name = format!("{}[{page}]", self.qualified(vma));
            if (old.frame, old.write, old.special, old.huge)
                == (new.frame, new.write, new.special, new.huge)
            {
                continue;
            }
            out.push(if new.present() {
                format!("pte {name}={}{}", self.frame(new.frame), pte_bits(new))
            } else {
                format!("pte {name} gone")
            });
        }
    }

    fn pin_changes(self, before: &State, after: &State, out: &mut Vec<String>) {
        for index in 0..after.pins.len() {
            let (old, new) = (&before.pins[index], &after.pins[index]);
            if old.slot == new.slot && old.frame == new.frame {
                continue;
            }
            let name = self.scenario.names.pin(PinId::at(index));
            let what = if new.counted { "pin" } else { "pfn" };
            out.push(match new.slot {
                Slot::Held | Slot::Taking => format!("{what} {name}={}", self.frame(new.frame)),
                Slot::Failed => format!("{name} refused"),
                Slot::Invalid | Slot::Dropped | Slot::None => {
                    format!("{what} {name} {}", slot_word(new.slot))
                }
            });
        }
    }

    fn sg_changes(self, before: &State, after: &State, out: &mut Vec<String>) {
        for index in 0..after.sgs.len() {
            let range = index * MAX_PAGES..(index + 1) * MAX_PAGES;
            let (old, new) = (before.sgs[index], after.sgs[index]);
            self.tlb_changes(before, after, SgId::at(index), out);
            let frames = &after.sg_frames[range.clone()];
            if old == new && before.sg_frames[range] == *frames {
                continue;
            }
            let name = self.scenario.names.sg(SgId::at(index));
            if new == Slot::Held {
                let frames = frames.iter().filter(|frame| frame.is_some());
                let frames: Vec<String> = frames.map(|frame| self.frame(*frame)).collect();
                out.push(format!("sg {name}={}", frames.join(",")));
            } else {
                out.push(format!("sg {name} {}", slot_word(new)));
            }
        }
    }

    fn tlb_changes(self, before: &State, after: &State, sg: SgId, out: &mut Vec<String>) {
        for page in 0..MAX_PAGES {
            let at = sg.index() * MAX_PAGES + page;
            let (old, new) = (before.tlb.get(at).copied(), after.tlb.get(at).copied());
            let Some(frame) = new.filter(|_| old != new) else { continue };
            let name = self.scenario.names.sg(sg);
            out.push(if frame.is_some() {
                format!("TLB: {name}[{page}] is {}", self.frame(frame))
            } else {
                format!("TLB: {name}[{page}] gone")
            });
        }
    }

    fn buf_changes(self, before: &State, after: &State, out: &mut Vec<String>) {
        for index in 0..after.fences.len() {
            let (old, new) = (&before.fences[index], &after.fences[index]);
            if old.slot != new.slot {
                let name = self.scenario.names.fence(FenceId::at(index));
                out.push(match new.slot {
                    Slot::Held => format!("fence {name} pending"),
                    Slot::Dropped => format!("fence {name} signalled"),
                    Slot::None | Slot::Taking | Slot::Invalid | Slot::Failed => {
                        format!("fence {name} {}", slot_word(new.slot))
                    }
                });
            }
        }
        for (mm, (old, new)) in before.mms.iter().zip(after.mms.iter()).enumerate() {
            if old != new {
                out.push(format!("mmap_lock of P{mm}: {}", mmap_lock(new)));
            }
        }
        for index in 0..after.bufs.len() {
            let (old, new) = (&before.bufs[index], &after.bufs[index]);
            let name = self.buf(BufId::at(index));
            if old.lock != new.lock {
                out.push(if new.lock == ActorId::NONE {
                    format!("{name} unlocked")
                } else {
                    format!("{name} locked by {:?}", new.lock)
                });
            }
            if old.pins != new.pins {
                out.push(format!("{name} dma_buf_pin {}", new.pins));
            }
            if old.life != new.life {
                out.push(format!("{name} {}", life_word(new.life)));
            }
        }
    }
}

/// Who has it, and who waits.
fn mmap_lock(lock: &MmapLock) -> String {
    let all = |bits: u16| (0..16).filter(move |actor| bits & 1 << actor != 0);
    let mut parts = Vec::new();
    if lock.writer != ActorId::NONE {
        parts.push(format!("{:?} writes", lock.writer));
    }
    parts.extend(all(lock.readers | lock.faults).map(|actor| format!("P{actor} reads")));
    parts.extend(all(lock.queued).map(|actor| format!("P{actor} waits to write")));
    if parts.is_empty() { "free".to_owned() } else { parts.join(", ") }
}

fn pte_bits(pte: &Pte) -> String {
    let mut bits = String::from(if pte.write { " rw" } else { " ro" });
    for (set, word) in [(pte.special, " special"), (pte.huge, " huge"), (pte.own, " private")] {
        if set {
            bits.push_str(word);
        }
    }
    bits
}

/// Where a buffer is in its life, in a word.
pub(in crate::report) const fn life_word(life: Life) -> &'static str {
    match life {
        Life::Unallocated => "not allocated",
        Life::Live => "allocated",
        Life::Purged => "purged",
        Life::Revoked => "revoked",
        Life::Quiesced => "revoked and quiet",
        Life::Released => "released",
    }
}
