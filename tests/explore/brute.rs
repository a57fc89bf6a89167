//! Brute force: every schedule, one by one, with no memory of states.

use std::collections::BTreeMap;

use driftheap::explore::{Machine, actors_in};

/// By outcome, the number of schedules and the least of the shortest.
pub(crate) type Schedules<O> = BTreeMap<O, (u128, Vec<u8>)>;

/// Enumerates every complete schedule; `None` if there are more than `schedules_max`.
pub(crate) fn every_schedule<M: Machine>(
    machine: &M,
    schedules_max: usize,
) -> Option<Schedules<M::Outcome>> {
    let mut found = BTreeMap::new();
    let mut left = schedules_max;
    walk(machine, &machine.initial(), &mut Vec::new(), &mut found, &mut left).then_some(found)
}

fn walk<M: Machine>(
    machine: &M,
    state: &M::State,
    schedule: &mut Vec<u8>,
    found: &mut Schedules<M::Outcome>,
    left: &mut usize,
) -> bool {
    let enabled = machine.enabled(state);
    if enabled == 0 {
        if *left == 0 {
            return false;
        }
        *left -= 1;
        let entry = found.entry(machine.classify(state)).or_insert((0, schedule.clone()));
        entry.0 += 1;
        if (schedule.len(), &*schedule) < (entry.1.len(), &entry.1) {
            entry.1.clone_from(schedule);
        }
        return true;
    }
    actors_in(enabled).all(|actor| {
        let mut next = state.clone();
        machine.apply(&mut next, actor);
        schedule.push(actor);
        let goes_on = walk(machine, &next, schedule, found, left);
        schedule.pop();
        goes_on
    })
}
