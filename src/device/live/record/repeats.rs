//! What says nothing new: a job or an access like one before, with nothing in between that could
//! make a difference.
//!
//! A device's job is its fence, its transfers and the signal. Between two *structural* events
//! (anything that allocates, moves, maps, pins or ends) one job of each kind is enough, and one
//! access of each kind; a job during which such an event happens is kept, and so is one that went
//! wrong in another way.

use std::collections::{BTreeMap, BTreeSet};

use super::{RecordedAction, RecordedEvent};
use crate::device::FenceId;

/// The events that have ended, in order, without those that repeat.
pub(super) fn without_repeats(events: &[RecordedEvent]) -> Vec<&RecordedEvent> {
    let mut order: Vec<&RecordedEvent> =
        events.iter().filter(|event| event.end.is_some()).collect();
    order.sort_by_key(|event| event.begin);
    let epochs = Epochs::of(&order);
    let jobs = jobs(&order);
    let mut seen = BTreeSet::new();
    let mut dropped = BTreeSet::new();
    let in_jobs: BTreeSet<usize> = jobs.iter().flatten().copied().collect();
    let alone = (0..order.len()).filter(|at| !in_jobs.contains(at)).map(|at| vec![at]);
    let mut groups: Vec<Vec<usize>> = jobs.into_iter().chain(alone).collect();
    groups.sort();
    for group in groups {
        let (Some(&first), Some(&last)) = (group.first(), group.last()) else { continue };
        let epoch = epochs.at(order[first].begin);
        if group.iter().any(|&at| order[at].changes()) || epoch != epochs.at(order[last].begin) {
            continue;
        }
        let words: Vec<String> = group.iter().map(|&at| word(order[at])).collect();
        if !seen.insert((epoch, order[first].who.clone(), words)) {
            dropped.extend(group);
        }
    }
    let keep = order.into_iter().enumerate().filter(|(at, _)| !dropped.contains(at));
    keep.map(|(_, event)| event).collect()
}

/// The times at which structural events begin or end.
struct Epochs(Vec<u64>);

impl Epochs {
    fn of(order: &[&RecordedEvent]) -> Self {
        let structural = order.iter().filter(|event| event.changes());
        let times = structural.flat_map(|event| [Some(event.begin), event.end]);
        let mut times: Vec<u64> = times.flatten().collect();
        times.sort_unstable();
        Self(times)
    }

    fn at(&self, time: u64) -> usize {
        self.0.partition_point(|&other| other <= time)
    }
}

/// Complete jobs: the places of the submit, the transfers and the signal of each.
fn jobs(order: &[&RecordedEvent]) -> Vec<Vec<usize>> {
    let mut open: BTreeMap<FenceId, (super::AttachmentId, Vec<usize>)> = BTreeMap::new();
    let mut jobs = Vec::new();
    for (at, event) in order.iter().enumerate() {
        match &event.doing {
            RecordedAction::Submit(fence, id, _) => drop(open.insert(*fence, (*id, vec![at]))),
            RecordedAction::Dma { id, .. } => {
                // Of several jobs of one attachment the first.
                let job = open.values_mut().find(|(of, _)| of == id);
                if let Some((_, places)) = job {
                    places.push(at);
                }
            }
            RecordedAction::Signal(fence) => {
                if let Some((_, mut places)) = open.remove(fence) {
                    places.push(at);
                    jobs.push(places);
                }
            }
            RecordedAction::Alloc(_)
            | RecordedAction::Close(_)
            | RecordedAction::Move { .. }
            | RecordedAction::Purge(_)
            | RecordedAction::Revoke(_)
            | RecordedAction::Attach { .. }
            | RecordedAction::Detach(_)
            | RecordedAction::Map(_)
            | RecordedAction::Unmap(_)
            | RecordedAction::DmaBufPin(..)
            | RecordedAction::Mmap { .. }
            | RecordedAction::Munmap(_)
            | RecordedAction::Cpu { .. }
            | RecordedAction::Gup { .. }
            | RecordedAction::Unpin(_)
            | RecordedAction::PinDma(..) => {}
        }
    }
    jobs
}

/// What an event is, without the number of its fence.
#[expect(clippy::wildcard_enum_match_arm, reason = "any other event is its own word")]
fn word(event: &RecordedEvent) -> String {
    let what = match &event.doing {
        RecordedAction::Submit(_, id, usage) => format!("submit {} {usage:?}", id.0),
        RecordedAction::Signal(_) => "signal".to_owned(),
        other => format!("{other:?}"),
    };
    format!("{what} {:?}", event.kinds)
}

#[cfg(test)]
mod tests {
    use super::super::{Actor, AttachmentId, BufferId, Recorder};
    use super::*;
    use crate::model::Placement;
    use crate::model::Usage;

    #[test]
    fn one_job_of_a_kind_between_two_moves() {
        let (device, id) = (Actor::Device("isp".into()), AttachmentId(1));
        let mut recorder = Recorder::default();
        let job = |recorder: &mut Recorder, fence| {
            let fence = FenceId(fence);
            recorder.push(&device, RecordedAction::Submit(fence, id, Usage::Write), &[]);
            let dma = RecordedAction::Dma { id, age: 0, page: 0, write: true };
            recorder.push(&device, dma, &[]);
            recorder.push(&device, RecordedAction::Signal(fence), &[]);
        };
        let moved = RecordedAction::Move { buffer: BufferId(1), to: Placement::System };
        (1..5).for_each(|fence| job(&mut recorder, fence));
        recorder.push(&Actor::Exporter, moved.clone(), &[]);
        (5..9).for_each(|fence| job(&mut recorder, fence));
        // A job with a move in its midst.
        recorder.push(&device, RecordedAction::Submit(FenceId(9), id, Usage::Write), &[]);
        recorder.push(&Actor::Exporter, moved, &[]);
        recorder.push(&device, RecordedAction::Signal(FenceId(9)), &[]);
        let kept = without_repeats(&recorder.segment);
        let fences: Vec<u64> = kept
            .iter()
            .filter_map(|event| {
                let RecordedAction::Submit(fence, ..) = event.doing else { return None };
                Some(fence.0)
            })
            .collect();
        assert_eq!(fences, [1, 5, 9]);
        assert_eq!(kept.len(), 3 + 1 + 3 + 3);
    }
}
