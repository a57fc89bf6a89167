//! A few threads for many jobs, with results in the order of the jobs.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::Duration;

const TICK: Duration = Duration::from_millis(100);

/// Do `work` on every job, on `threads` threads, and give each result to `done` on this thread, in
/// the order of the jobs. `tick` is called with the number of jobs that are done whenever
/// there was nothing new for a while.
///
/// An error of `done` ends it: jobs that were not begun are dropped, `abandoned` is called, then
/// those under way are waited for.
pub(crate) fn ordered<J: Sync, R: Send, E>(
    jobs: &[J],
    threads: usize,
    work: impl Fn(&J) -> R + Sync,
    mut done: impl FnMut(usize, R) -> Result<(), E>,
    tick: impl Fn(usize),
    abandoned: impl Fn(&E),
) -> Result<(), E> {
    let next = AtomicUsize::new(0);
    let stop = AtomicBool::new(false);
    let (sender, results) = channel();
    std::thread::scope(|scope| {
        for at_work in 0..threads.clamp(1, jobs.len().max(1)) {
            let (sender, next, stop, work) = (sender.clone(), &next, &stop, &work);
            let worker = move || {
                while !stop.load(Ordering::Relaxed) {
                    let index = next.fetch_add(1, Ordering::Relaxed);
                    let Some(job) = jobs.get(index) else { break };
                    if sender.send((index, work(job))).is_err() {
                        break;
                    }
                }
            };
            // Out of threads: those that there are do the work, or else this one.
            if std::thread::Builder::new().spawn_scoped(scope, worker.clone()).is_err() {
                if at_work == 0 {
                    worker();
                }
                break;
            }
        }
        drop(sender);
        let mut waiting = BTreeMap::new();
        let (mut at, mut finished) = (0, 0);
        loop {
            match results.recv_timeout(TICK) {
                Ok((index, result)) => {
                    finished += 1;
                    waiting.insert(index, result);
                }
                Err(RecvTimeoutError::Timeout) => tick(finished),
                Err(RecvTimeoutError::Disconnected) => return Ok(()),
            }
            while let Some(result) = waiting.remove(&at) {
                if let Err(error) = done(at, result) {
                    stop.store(true, Ordering::Relaxed);
                    abandoned(&error);
                    return Err(error);
                }
                at += 1;
            }
        }
    })
}

#[cfg(test)]
mod tests {
    use super::ordered;

    #[test]
    fn results_come_in_the_order_of_the_jobs() {
        let jobs: Vec<u64> = (0..200).collect();
        for threads in [1, 2, 7] {
            let mut seen = Vec::new();
            let done = |index: usize, result: u64| {
                seen.push((index, result));
                Ok::<(), ()>(())
            };
            // The first jobs take longest, so that later ones finish before them.
            let work = |job: &u64| (0..(200 - job) * 100).fold(*job, |sum, n| sum ^ n ^ n);
            assert_eq!(ordered(&jobs, threads, work, done, |_| (), |()| ()), Ok(()));
            let expected: Vec<_> =
                jobs.iter().map(|&job| (usize::try_from(job).unwrap(), job)).collect();
            assert_eq!(seen, expected, "{threads} threads");
        }
    }

    #[test]
    fn an_error_ends_it() {
        let jobs: Vec<u32> = (0..1000).collect();
        let mut count = 0;
        let done = |index: usize, _: u32| {
            count += 1;
            if index == 3 { Err("full") } else { Ok(()) }
        };
        assert_eq!(ordered(&jobs, 2, |job| *job, done, |_| (), |_| ()), Err("full"));
        assert_eq!(count, 4);
    }

    #[test]
    fn nothing_to_do_is_done() {
        let none: [u8; 0] = [];
        assert_eq!(ordered(&none, 4, |_| 0, |_, _| Err("called"), |_| (), |_| ()), Ok(()));
    }
}
