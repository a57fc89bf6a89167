//! Hostile clients: no hang, no crash, no leak of descriptors, threads or memory, counted in the
//! supervisor by the client itself.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod device_kit;

use device_kit::{available, example, install, run, stage, text, users};

/// Resident memory that a supervisor may gain over a test, KiB: its tables, whatever was freed
/// and is not yet returned.
const RSS_GROWTH_KIB_MAX: u64 = 16 * 1024;

/// Runs the hostile client as every user; its first line must be `expect`.
fn check(options: &[&str], mode: &[&str], expect: &str) {
    let stage = stage();
    if !available(stage.path()) {
        return;
    }
    let hostile = install(stage.path(), &example("hostile"), "hostile");
    let program: Vec<&str> =
        std::iter::once(hostile.to_str().unwrap()).chain(mode.iter().copied()).collect();
    for user in users() {
        let output = run(stage.path(), user, options, &program);
        let text = text(&output);
        assert!(output.status.success(), "{mode:?} {user:?}: {text}");
        let first = text.lines().next().unwrap_or_default();
        assert_eq!(first, expect, "{mode:?} {user:?}: {text}");
        let line = text.lines().find_map(|line| line.strip_prefix("supervisor: "));
        let numbers: Vec<u64> = line
            .unwrap_or_default()
            .split_ascii_whitespace()
            .filter_map(|word| word.parse().ok())
            .collect();
        let [fds, fds_after, threads, threads_after, rss, rss_after] = numbers[..] else {
            panic!("{mode:?} {user:?}: {text}");
        };
        assert!(fds > 3, "the supervisor was looked into: {text}");
        // A pidfd for each caller seen lately is all that may have come.
        assert!(fds_after <= fds + 256, "{mode:?} {user:?}: {text}");
        assert_eq!(threads, threads_after, "{mode:?} {user:?}: {text}");
        assert!(rss_after <= rss + RSS_GROWTH_KIB_MAX, "{mode:?} {user:?}: {text}");
    }
}

#[test]
fn random_calls() {
    for seed in ["1", "2"] {
        check(&["-q"], &["random", seed], "20 clients of 1000 random calls, 0 died");
        check(&["-q", "--strict"], &["random", seed], "20 clients of 1000 random calls, 0 died");
    }
}

#[test]
fn arguments_that_change_during_the_call() {
    check(&["-q"], &["race"], "raced ALLOCs, 0 answered otherwise, both seen true");
}

#[test]
fn full_descriptor_table() {
    check(&["-q"], &["full"], "2000 of 2000 EMFILE");
}

#[test]
fn ten_thousand_buffers() {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).maximum;
    let want = limit.unwrap_or(u64::MAX).min(10_064) - 64;
    if want < 10_000 {
        eprintln!("only {want} buffers: the hard limit of descriptors is {limit:?}");
    }
    check(&["-q"], &["many"], &format!("{want} of {want} buffers, {want} synced"));
}

#[test]
fn killed_at_any_time() {
    check(&["-q"], &["death", "3"], "100 of 100 killed, then alloc ok");
    check(&["-q", "--strict"], &["death", "4"], "100 of 100 killed, then alloc ok");
}

#[test]
fn a_fork_bomb_meets_the_quota() {
    let quota = ["-q", "--max-buffers", "100"];
    check(&quota, &["bomb"], "100 allocated 412 refused, then alloc ok");
}

#[test]
fn the_byte_quota_answers_enomem() {
    let quota = ["-q", "--max-bytes", "1M"];
    check(&quota, &["bytes"], "large ENOMEM, 256 pages, then ENOMEM, after closing ok");
    let heap = ["-q", "--heap", "system:1M"];
    check(&heap, &["bytes"], "large ENOMEM, 256 pages, then ENOMEM, after closing ok");
}

/// A program whose supervisor dies gets errors: ENOSYS, no descriptor, no hang.
#[test]
fn a_dead_supervisor_means_errors() {
    let stage = stage();
    if !available(stage.path()) {
        return;
    }
    let hostile = install(stage.path(), &example("hostile"), "hostile");
    for user in users() {
        let output = run(stage.path(), user, &["-q"], &[hostile.to_str().unwrap(), "orphan"]);
        let text = text(&output);
        assert!(!output.status.success(), "driftheap itself was killed");
        assert!(text.starts_with("alloc ENOSYS fd 0 open ENOSYS"), "{user:?}: {text}");
    }
}
