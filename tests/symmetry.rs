//! Interchangeable processes: what is merged is the same, and what is the same is merged.

#![allow(clippy::print_stdout, reason = "the figures are worth reading")]

#[path = "common/lab.rs"]
mod lab;
#[path = "common/random_litmus.rs"]
mod random_litmus;

use std::fmt::Write as _;

use driftheap::explore::{ActorNames, Exploration, Machine, Reduction, SAME_NAMES, actors_in};
use driftheap::question::scenario::{Outcome, Scenario, ScenarioState};
use driftheap::random::SplitMix64;
use random_litmus::{Choices, Shape};

/// A random test of which the last process stands there twice or three times, each with names of its
/// own, and is asked for what it reads.
fn doubled(choices: &mut Choices<'_>, shape: Shape) -> String {
    let text = random_litmus::text(choices, shape);
    let (head, _) = text.rsplit_once("exists").expect("a condition");
    let at = head.rfind("\nP").expect("a process") + 1;
    let (others, last) = head.split_at(at);
    let (number, body) = last[1..].split_once(' ').expect("a role");
    let number: usize = number.parse().expect("a number");
    let copies = 1 + usize::from(choices.one_in(3));
    let other_values = choices.one_in(2);
    let own = own_names(others, body);
    let register = own.iter().find(|name| name.starts_with('r'));
    let mut out = others.to_owned();
    let mut asked = String::from("hazard any \\/ A[0] = 1");
    for copy in 0..=copies {
        let mut named = renamed(body, &own, copy);
        for value in (1..8).filter(|_| other_values) {
            let (old, new) = (format!("= {value}\n"), format!("= {}\n", 10 * (copy + 1) + value));
            named = named.replace(&old, &new);
        }
        let _infallible = write!(out, "P{} {named}", number + copy);
        if let Some(register) = register {
            let register = renamed(register, &own, copy);
            let _infallible = write!(asked, " \\/ P{}:{register} = 1", number + copy);
        }
    }
    format!("{out}exists ({asked})\n")
}

/// The words of a text, with what stands between them.
fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split_inclusive(|c: char| !c.is_ascii_alphanumeric() && c != '_').flat_map(|piece| {
        let end = piece.trim_end_matches(|c: char| !c.is_ascii_alphanumeric() && c != '_').len();
        let (word, rest) = piece.split_at(end);
        [word, rest]
    })
}

/// What a body names, a letter with a number, and no other body does.
fn own_names(others: &str, body: &str) -> Vec<String> {
    let is_name = |word: &&str| {
        let rest = word.strip_prefix(|c: char| c.is_ascii_lowercase());
        rest.is_some_and(|rest| !rest.is_empty() && rest.bytes().all(|b| b.is_ascii_digit()))
    };
    let free = |word: &&str| !words(others).any(|other| other == *word);
    words(body).filter(is_name).filter(free).map(str::to_owned).collect()
}

fn renamed(text: &str, own: &[String], copy: usize) -> String {
    let name = |word: &str| match own.iter().any(|own| own == word) {
        true if copy > 0 => format!("{word}0{copy}"),
        _ => word.to_owned(),
    };
    words(text).map(name).collect()
}

/// Calls `visit` for so many random tests with interchangeable processes.
fn each_doubled(count: u64, seed: u64, statements: usize, mut visit: impl FnMut(&Scenario, &str)) {
    let mut random = SplitMix64::new(seed);
    for _ in 0..count {
        let list: Vec<u16> =
            (0..300).map(|_| u16::try_from(random.below(1 << 16)).unwrap_or(0)).collect();
        let mut choices = Choices::new(&list);
        let broken = *choices.of(&[3, 6, 12, 1000]);
        let text = doubled(&mut choices, Shape { broken, statements });
        let scenario = lab::variant(&text, "-");
        let ordered = ["bounce = yes", "mmap = bypass", "mmap = aperture"];
        let is_ordered = ordered.iter().any(|rule| text.contains(rule));
        let is_found = !scenario.interchangeable().is_empty();
        assert!(is_found || is_ordered, "not found\n{text}");
        if is_found {
            visit(&scenario, &text);
        }
    }
}

fn check(scenario: &Scenario, text: &str) -> [u64; 3] {
    let full = lab::explore_on(scenario, Reduction::Full, 1);
    let live = lab::explore_on(scenario, Reduction::Live, 1);
    let two = lab::explore_on(scenario, Reduction::Live, 2);
    let reduced = lab::explore_on(scenario, Reduction::Persistent, 1);
    assert_eq!(live, two, "two threads\n{text}");
    let shown = |found: &Exploration<Outcome>, counted: bool| -> Vec<(Outcome, usize, u128)> {
        let show = |(outcome, stats): (&Outcome, &driftheap::explore::OutcomeStats)| {
            let replay = scenario.replay(&stats.shortest);
            let replay = replay.unwrap_or_else(|error| panic!("{error}\n{text}"));
            assert_eq!(&replay.outcome, outcome, "{:?}\n{text}", stats.shortest);
            (outcome.clone(), stats.shortest.len(), if counted { stats.schedules } else { 0 })
        };
        found.outcomes.iter().map(show).collect()
    };
    assert_eq!(shown(&full, true), shown(&live, true), "{text}");
    assert_eq!(shown(&full, false), shown(&reduced, false), "{text}");
    assert_eq!(full.schedules, live.schedules, "{text}");
    let lengths = |found: &Exploration<Outcome>| -> Vec<(u32, usize)> {
        found.watched.iter().map(|(bit, schedule)| (*bit, schedule.len())).collect()
    };
    assert_eq!(lengths(&full), lengths(&live), "{text}");
    for schedule in live.watched.values().chain(reduced.watched.values()) {
        assert!(scenario.replay(schedule).is_ok(), "{schedule:?}\n{text}");
    }
    [full.states, live.states, reduced.states]
}

#[test]
fn doubled_processes_are_merged_and_nothing_is_lost() {
    let mut states = [0; 3];
    let worlds = lab::asked("DRIFTHEAP_WORLDS", 300);
    each_doubled(worlds, lab::asked("DRIFTHEAP_SEED", 20_261_127), 2, |scenario, text| {
        let found = check(scenario, text);
        states = std::array::from_fn(|at| states[at] + found[at]);
    });
    println!(
        "doubled tests: {} states, {} live, {} with reduction",
        states[0], states[1], states[2]
    );
}

fn encoded(scenario: &Scenario, state: &ScenarioState) -> Vec<u8> {
    let mut bytes = Vec::new();
    scenario.encode(state, &mut bytes, &mut Vec::new());
    bytes
}

/// The names of a new order of the first class.
fn turned(scenario: &Scenario) -> ActorNames {
    let mut names = SAME_NAMES;
    let class: Vec<u8> = actors_in(scenario.interchangeable()[0]).collect();
    for (at, actor) in class.iter().enumerate() {
        names[usize::from(*actor)] = class[(at + 1) % class.len()];
    }
    names
}

/// Whether a renamed state takes the renamed steps to the renamed states, everywhere on a random
/// schedule, where `rename` gives the names.
fn is_kept(
    scenario: &Scenario,
    random: &mut SplitMix64,
    rename: impl Fn(&ScenarioState, &ActorNames, &mut ScenarioState),
) -> bool {
    let names = turned(scenario);
    let mut state = scenario.initial();
    let mut other = scenario.initial();
    loop {
        rename(&state, &names, &mut other);
        let enabled: Vec<u8> = actors_in(scenario.enabled(&state)).collect();
        let named = enabled.iter().fold(0, |set, actor| set | 1 << names[usize::from(*actor)]);
        let same = scenario.enabled(&other) == named
            && scenario.rename_outcome(&scenario.classify(&state), &names)
                == scenario.classify(&other)
            && actors_in(scenario.interchangeable()[0]).all(|actor| {
                let new = names[usize::from(actor)];
                scenario.rank(&state, actor) == scenario.rank(&other, new)
            });
        if !same {
            return false;
        }
        let mut expected = scenario.initial();
        for actor in &enabled {
            let (mut one, mut two) = (state.clone(), other.clone());
            scenario.apply(&mut one, *actor);
            scenario.apply(&mut two, names[usize::from(*actor)]);
            rename(&one, &names, &mut expected);
            if encoded(scenario, &expected) != encoded(scenario, &two) {
                return false;
            }
            scenario.forget(&mut one);
            scenario.forget(&mut two);
            rename(&one, &names, &mut expected);
            scenario.forget(&mut expected);
            if encoded(scenario, &expected) != encoded(scenario, &two) {
                return false;
            }
        }
        if enabled.is_empty() {
            return true;
        }
        let actor = enabled[random.index(enabled.len())];
        scenario.apply(&mut state, actor);
    }
}

#[test]
fn a_renamed_state_takes_the_renamed_steps() {
    let mut random = SplitMix64::new(7);
    each_doubled(1500, 20_261_128, 5, |scenario, text| {
        let is_kept =
            is_kept(scenario, &mut random, |from, names, to| scenario.rename(from, names, to));
        assert!(is_kept, "{text}");
    });
}

#[test]
fn whatever_keeps_its_name_is_noticed() {
    type Mutation = (&'static str, fn(&ScenarioState, &mut ScenarioState));
    let mutations: [Mutation; 7] = [
        ("VMAs", |from, to| to.model.vmas.clone_from(&from.model.vmas)),
        ("entries", |from, to| to.model.ptes.clone_from(&from.model.ptes)),
        ("pins", |from, to| to.model.pins.clone_from(&from.model.pins)),
        ("sg_tables", |from, to| to.model.sgs.clone_from(&from.model.sgs)),
        ("DMAs", |from, to| to.model.dmas.clone_from(&from.model.dmas)),
        ("values", |from, to| to.model.frames.clone_from(&from.model.frames)),
        ("results", |from, to| to.slots.clone_from(&from.slots)),
    ];
    let mut unseen = mutations.to_vec();
    let mut random = SplitMix64::new(7);
    each_doubled(300, 20_261_129, 5, |scenario, _| {
        unseen.retain(|(_, keep)| {
            is_kept(scenario, &mut random, |from, names, to| {
                scenario.rename(from, names, to);
                keep(from, to);
            })
        });
    });
    let unseen: Vec<&str> = unseen.iter().map(|one| one.0).collect();
    assert!(unseen.is_empty(), "kept its name, and nobody notices: {unseen:?}");
}

#[test]
fn what_is_not_alike_is_not_merged() {
    let test = |one: &str, other: &str, asked: &str| {
        let text = format!(
            "DMABUF alike\nexporter e {{}}\nimporter i {{ }}\nimporter j {{ sync = forwarded }}\n\
             buffer A {{ exporter = e }}\nP0 {one}\nP1 {other}\nP2 exporter e {{ move A -> system }}\n\
             exists ({asked})\n"
        );
        lab::variant(&text, "-").interchangeable().to_vec()
    };
    let writer =
        |value: u8| format!("application {{ mmap v = A shared rw\nstore v[0] = {value} }}");
    assert_eq!(test(&writer(1), &writer(1), "hazard any"), [0b011]);
    assert_eq!(test(&writer(1), &writer(2), "A[0] = 1"), [0b011], "values have no names");
    assert!(test(&writer(0), &writer(2), "hazard any").is_empty(), "but what a buffer begins with");
    assert!(test(&writer(1), "application { mmap v = A shared rw }", "hazard any").is_empty());
    let reader = "application { mmap v = A shared rw\nload r = v[0] }";
    assert_eq!(test(reader, reader, "P0:r = 0 /\\ P1:r = 1"), [0b011]);
    assert!(test(reader, reader, "P0:r = 0").is_empty(), "one of them is asked");
    let device = |name: &str, importer: &str| {
        format!(
            "device importer {importer} {{ attach t{name} = A dynamic\nmap s{name} = t{name} }}"
        )
    };
    assert_eq!(test(&device("1", "i"), &device("2", "i"), "hazard any"), [0b011]);
    assert!(test(&device("1", "i"), &device("2", "j"), "hazard any").is_empty(), "other rules");
}
