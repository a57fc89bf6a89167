//! The probes: what they answer is consistent, and they leave nothing behind.

use anyhow::Result;
use driftheap::sys::probe::{self, Probe};

/// Open fds, lines of the mount table, children: what a probe might leave.
fn traces() -> Result<(usize, usize, String)> {
    let fds = std::fs::read_dir("/proc/self/fd")?.count();
    let mounts = std::fs::read_to_string("/proc/self/mountinfo")?.lines().count();
    let mut children = String::new();
    for task in std::fs::read_dir("/proc/self/task")? {
        children += &std::fs::read_to_string(task?.path().join("children")).unwrap_or_default();
    }
    Ok((fds, mounts, children))
}

/// One test: the traces are the whole process's, so nothing may run beside it.
#[test]
fn probes_are_consistent_and_leave_nothing() -> Result<()> {
    every_probe_answers_twice_the_same_and_leaves_nothing()?;
    a_probe_can_say_no();
    the_probes_of_memory_use_what_the_executor_uses();
    Ok(())
}

fn every_probe_answers_twice_the_same_and_leaves_nothing() -> Result<()> {
    let before = traces()?;
    let first = probe::all();
    let second = probe::all();
    assert_eq!(before, traces()?);
    let verdicts = |probes: &[Probe]| -> Vec<_> {
        probes.iter().map(|probe| (probe.name, probe.available)).collect()
    };
    assert_eq!(verdicts(&first), verdicts(&second));
    for probe in &first {
        eprintln!(
            "{:32} {:3} {}",
            probe.name,
            if probe.available { "yes" } else { "NO" },
            probe.detail
        );
        assert!(!probe.detail.is_empty() && !probe.coverage_lost.is_empty(), "{probe:?}");
        assert_eq!(probe.remedy.is_empty(), probe.available, "{probe:?}");
    }
    Ok(())
}

fn a_probe_can_say_no() {
    // /proc has no unnamed files, whoever asks.
    let probe = probe::direct_io("/proc".as_ref());
    assert!(!probe.available && !probe.remedy.is_empty(), "{probe:?}");
}

fn the_probes_of_memory_use_what_the_executor_uses() {
    // Where the kernel has userfaultfd for us, opening one must work, and the other way round.
    use driftheap::sys::uffd::{Features, Uffd, Via};
    let opened = Uffd::open(Via::UserModeOnly, Features::POISON | Features::MINOR_SHMEM);
    assert_eq!(opened.is_ok(), probe::userfaultfd().available);
    let secret = driftheap::sys::secret::SecretArena::create(1);
    assert_eq!(secret.is_ok(), probe::memfd_secret().available);
}
