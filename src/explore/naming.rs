//! Interchangeable actors: states that are one but for who is who are kept once.
//!
//! # What it is
//! A machine may say that some of its actors are interchangeable ([`Machine::interchangeable`]). Any
//! new order of such actors, with all that is their own, is a *renaming*, and the graph of states
//! looks the same after it. So of all states that are renamings of one another the search keeps one:
//! the *canonical* one, in which interchangeable actors stand in the order of their ranks
//! ([`Machine::rank`]), and, where ranks are equal, in the order that gives the least bytes.
//!
//! # What it keeps
//! Everything that an answer says. The initial state is its own renaming. Hence of the schedules to
//! a state and to a renaming of it, one kind is the other with new names: they are as many, and as
//! long. An edge leads from a canonical state for each of its actors, so that the ways in the graph
//! of canonical states are as many as the schedules to all renamings of a state together. A terminal
//! state stands for the outcomes of all its renamings ([`outcomes`]), each with its equal share of
//! the ways. A schedule is told with the names that it began with ([`super::bfs::Space::told`]).
//! Which of several shortest schedules is told may differ from the full search.
//!
//! # What has to be proved
//! That a renaming of a state takes the renamed steps to the renamed states. The tests try every
//! action in random states of the suite and of random tests whose processes are doubled, and hold
//! outcomes, numbers of schedules and lengths against the full search's.

use std::collections::BTreeMap;

use super::machine::{ACTORS_MAX, ActorNames, Machine, SAME_NAMES, actors_in};

/// The most orders of actors of equal rank that are tried for a state. Where there are more, some
/// renamings of a state are kept beside it: the answers stay as they are.
const TRIED_MAX: usize = 720;

/// Memory to name states in.
pub(super) struct Naming<S> {
    named: S,
    bytes: Vec<u8>,
    least: Vec<u8>,
    ends: Vec<usize>,
}

impl<S: PartialEq> Naming<S> {
    pub(super) const fn new(named: S) -> Self {
        Self { named, bytes: Vec::new(), least: Vec::new(), ends: Vec::new() }
    }

    /// Makes `state` canonical; returns the new names.
    pub(super) fn settle<M: Machine<State = S>>(
        &mut self,
        machine: &M,
        classes: &[u16],
        state: &mut S,
    ) -> ActorNames {
        if classes.is_empty() {
            return SAME_NAMES;
        }
        let mut names = SAME_NAMES;
        let mut equal = Vec::new();
        for class in classes {
            let mut ranked = [(0, 0); ACTORS_MAX];
            let mut count = 0;
            for actor in actors_in(*class) {
                ranked[count] = (machine.rank(state, actor), actor);
                count += 1;
            }
            let ranked = &mut ranked[..count];
            ranked.sort_unstable();
            let mut places = actors_in(*class);
            for run in ranked.chunk_by(|one, other| one.0 == other.0) {
                if let [(_, actor)] = run {
                    names[usize::from(*actor)] = places.next().unwrap_or(*actor);
                    continue;
                }
                let row =
                    self.row(machine, state, run.iter().map(|(_, actor)| *actor), &mut places);
                row.name(&mut names);
                if row.order.iter().any(|group| *group > 0) {
                    equal.push(row);
                }
            }
        }
        if !equal.is_empty() {
            names = self.least(machine, state, names, &mut equal);
        }
        if names != SAME_NAMES {
            self.rename(machine, state, &names);
            std::mem::swap(state, &mut self.named);
        }
        names
    }

    /// The state by other names, without what no action looks at: that has other names, too.
    fn rename<M: Machine<State = S>>(&mut self, machine: &M, state: &S, names: &ActorNames) {
        machine.rename(state, names, &mut self.named);
        machine.forget(&mut self.named);
    }

    /// A row of actors of one rank in the next places, those that are alike in groups.
    fn row<M: Machine<State = S>>(
        &mut self,
        machine: &M,
        state: &S,
        actors: impl Iterator<Item = u8>,
        places: &mut impl Iterator<Item = u8>,
    ) -> Row {
        let mut row = Row::default();
        for (actor, place) in actors.zip(places) {
            let alike = |group: &Vec<u8>| {
                let mut swapped = SAME_NAMES;
                swapped.swap(usize::from(actor), usize::from(group[0]));
                self.rename(machine, state, &swapped);
                self.named == *state
            };
            let group = row.groups.iter().position(alike).unwrap_or(row.groups.len());
            if group == row.groups.len() {
                row.groups.push(Vec::new());
            }
            row.groups[group].push(actor);
            row.places.push(place);
            row.order.push(group);
        }
        row.order.sort_unstable();
        row
    }

    /// Of the orders of actors of equal rank, the one that gives the least bytes.
    fn least<M: Machine<State = S>>(
        &mut self,
        machine: &M,
        state: &S,
        mut names: ActorNames,
        equal: &mut [Row],
    ) -> ActorNames {
        let mut best = names;
        for tried in 0..TRIED_MAX {
            self.bytes.clear();
            self.ends.clear();
            if names == SAME_NAMES {
                machine.encode(state, &mut self.bytes, &mut self.ends);
            } else {
                self.rename(machine, state, &names);
                machine.encode(&self.named, &mut self.bytes, &mut self.ends);
            }
            if tried == 0 || self.bytes < self.least {
                best = names;
                std::mem::swap(&mut self.bytes, &mut self.least);
            }
            if !equal.iter_mut().any(Row::next) {
                break;
            }
            equal.iter().for_each(|row| row.name(&mut names));
        }
        best
    }
}

/// Actors of one rank, the places that they can have, and one of their orders.
#[derive(Default)]
struct Row {
    /// Actors that are alike: the state is the same when they change places.
    groups: Vec<Vec<u8>>,
    places: Vec<u8>,
    /// By place, which group has it.
    order: Vec<usize>,
}

impl Row {
    /// Gives the actors the names of their places.
    fn name(&self, names: &mut ActorNames) {
        let mut taken = vec![0; self.groups.len()];
        for (place, group) in self.places.iter().zip(&self.order) {
            let actor = self.groups[*group][taken[*group]];
            taken[*group] += 1;
            names[usize::from(actor)] = *place;
        }
    }

    /// The lexicographically next order; false, and the first one again, after the last.
    fn next(&mut self) -> bool {
        let order = &mut self.order;
        let falls = (1..order.len()).rev().find(|at| order[at - 1] < order[*at]);
        match falls {
            Some(at) => {
                let above = (at..order.len()).rev().find(|other| order[*other] > order[at - 1]);
                order.swap(at - 1, above.unwrap_or(at));
                order[at..].reverse();
            }
            None => order.reverse(),
        }
        falls.is_some()
    }
}

/// The outcomes of all renamings of a terminal state, each with names that make it of `outcome`.
pub(super) fn outcomes<M: Machine>(
    machine: &M,
    classes: &[u16],
    outcome: M::Outcome,
) -> BTreeMap<M::Outcome, ActorNames> {
    let mut found = BTreeMap::from([(outcome.clone(), SAME_NAMES)]);
    let mut open = vec![(outcome, SAME_NAMES)];
    while let Some((outcome, names)) = open.pop() {
        for class in classes {
            for (one, other) in actors_in(*class).zip(actors_in(*class).skip(1)) {
                let mut swapped = SAME_NAMES;
                swapped.swap(usize::from(one), usize::from(other));
                let next = machine.rename_outcome(&outcome, &swapped);
                if !found.contains_key(&next) {
                    let names = after(&names, &swapped);
                    found.insert(next.clone(), names);
                    open.push((next, names));
                }
            }
        }
    }
    found
}

/// A set of actors by new names.
pub(super) fn named(actors: u16, names: &ActorNames) -> u16 {
    if *names == SAME_NAMES {
        return actors;
    }
    actors_in(actors).fold(0, |set, actor| set | 1 << names[usize::from(actor)])
}

/// New names, and then others.
pub(super) fn after(first: &ActorNames, second: &ActorNames) -> ActorNames {
    first.map(|name| second[usize::from(name)])
}

/// The old names by the new ones.
pub(super) fn inverse(names: &ActorNames) -> ActorNames {
    let mut old = SAME_NAMES;
    for (actor, name) in SAME_NAMES.iter().zip(names) {
        old[usize::from(*name)] = *actor;
    }
    old
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_order_of_what_is_not_alike_comes_once() {
        let groups = vec![vec![0, 2], vec![1], vec![3]];
        let mut row = Row { groups, places: vec![0, 1, 2, 3], order: vec![0, 0, 1, 2] };
        let named = |row: &Row| {
            let mut names = SAME_NAMES;
            row.name(&mut names);
            names
        };
        let mut seen = vec![named(&row)];
        while row.next() {
            seen.push(named(&row));
        }
        let count = seen.len();
        seen.sort_unstable();
        seen.dedup();
        assert_eq!((count, seen.len()), (12, 12));
        assert_eq!(row.order, [0, 0, 1, 2], "the first one again");
    }
}
