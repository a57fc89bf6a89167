//! Any number of threads gives the answer of one, to the bit.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;

use driftheap::explore::{Explorer, Limits, Reached, Reduction};

use super::toys::{Op, Toy, independent, philosophers, workload};

fn check(toy: &Toy) {
    for reduction in [Reduction::Full, Reduction::Persistent] {
        let explore = |threads| Explorer::new(toy, Limits::default(), reduction, threads).explore();
        let one = explore(1).expect("no circle");
        assert!(reduction == Reduction::Persistent || one.states > 10_000, "{}", one.states);
        for threads in [2, 3, 5, 16] {
            assert_eq!(explore(threads).as_ref(), Ok(&one), "{threads} threads, {reduction:?}");
        }
    }
}

#[test]
fn answers_do_not_depend_on_the_number_of_threads() {
    check(&independent(5, 6));
    check(&philosophers(7, 1));
    check(&workload(5, 2));
}

#[test]
fn nor_where_schedules_of_different_length_meet() {
    let program = |own: u8| {
        let touch = [Op::Touch { var: 6, page: own / 2 }, Op::SkipIf { var: 3 }];
        let store = [Op::Store { var: 3, value: 1 }, Op::StoreReg { var: 6, plus: own }];
        [touch, store].concat().repeat(1 + usize::from(own < 2))
    };
    check(&Toy { programs: (0..5).map(program).collect(), bytes: 7 });
}

#[test]
fn a_wide_search_finds_the_same_nearest_state() {
    let toy = independent(6, 6);
    let reach = |threads| {
        let explorer = Explorer::new(&toy, Limits::default(), Reduction::Full, threads);
        explorer.shortest_to(|state| state.pcs[..6].iter().all(|&pc| pc >= 3 || pc == 1))
    };
    assert_eq!(reach(1), Ok(Reached::By(vec![0, 1, 2, 3, 4, 5])));
    let deep = |threads| {
        let explorer = Explorer::new(&toy, Limits::default(), Reduction::Full, threads);
        explorer.shortest_to(|state| state.pcs[..6].iter().all(|&pc| pc >= 3))
    };
    let Ok(Reached::By(way)) = deep(1) else { panic!("it can be reached") };
    assert_eq!(way, (0..6).flat_map(|actor| [actor; 3]).collect::<Vec<u8>>());
    assert_eq!(deep(2), Ok(Reached::By(way)));
}

#[test]
fn a_panic_on_another_thread_ends_the_search() {
    // On a thread of its own, so that a search that hangs fails rather than hangs the test.
    let (done, outcome) = mpsc::channel();
    std::thread::spawn(move || {
        let toy = workload(5, 3);
        let caller = std::thread::current().id();
        let has_panicked = AtomicBool::new(false);
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            let explorer = Explorer::new(&toy, Limits::default(), Reduction::Full, 2);
            explorer.shortest_to(|_| {
                let is_other = std::thread::current().id() != caller;
                assert!(!is_other || has_panicked.swap(true, Ordering::Relaxed), "on purpose");
                false
            })
        }));
        let is_reported = result.is_err() || !has_panicked.load(Ordering::Relaxed);
        done.send(is_reported).expect("the test waits");
    });
    let is_reported = outcome.recv_timeout(std::time::Duration::from_secs(120));
    assert_eq!(is_reported, Ok(true), "a search that lost a thread must not answer");
}
