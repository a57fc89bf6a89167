//! `driftheap run --live` and `--chaos`: buffers move under unmodified programs, and nothing is
//! lost.
//!
//! Writers count in every page (tests/clients/writers.c), in every way that a program can map a
//! buffer; a test fails when one update is missing. Each of the dangers is shown to be seen by
//! breaking the exporter on purpose (`--sabotage`).
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod device_kit;

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use device_kit::{User, available, bounded, run, stage, text, users};

/// Compiles a client; `None` and a SKIP where that is impossible.
fn compile(stage: &Path, name: &str, flags: &[&str]) -> Option<PathBuf> {
    let out = stage.join(format!("{name}{}", flags.join("")));
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients").join(name);
    let mut command = Command::new("cc");
    command.args(flags).args(["-O2", "-pthread", "-o"]).arg(&out).arg(source.with_extension("c"));
    if Command::new("cc").arg("--version").stdout(Stdio::null()).status().is_err() {
        eprintln!("SKIP: no C compiler called cc");
        return None;
    }
    let output = bounded(command);
    if !output.status.success() && flags.contains(&"-static") {
        eprintln!("SKIP: no static C library: {}", text(&output));
        return None;
    }
    assert!(output.status.success(), "{}", text(&output));
    Some(out)
}

/// A stage on which buffers can move; `None` and a SKIP if they can't.
fn live_stage() -> Option<tempfile::TempDir> {
    let stage = stage();
    if !available(stage.path()) {
        return None;
    }
    let output = run(stage.path(), User::Own, &["-q", "--live"], &["true"]);
    if !output.status.success() {
        eprintln!("SKIP: {}", text(&output).trim());
        return None;
    }
    Some(stage)
}

/// The number before `word` in the summary line.
fn figure(output: &str, word: &str) -> u64 {
    let summary =
        output.lines().rfind(|line| line.starts_with("driftheap: ") && line.contains(word));
    let before = summary.and_then(|line| line.split(word).next());
    let number = before.and_then(|text| text.split(' ').rfind(|part| !part.is_empty()));
    number.and_then(|number| number.parse().ok()).unwrap_or(0)
}

/// The lines of writers that missed an update.
fn losses(output: &str) -> Vec<&str> {
    output.lines().filter(|line| line.ends_with(" lost") && !line.ends_with(" 0 lost")).collect()
}

#[test]
fn no_update_is_lost() {
    const PAGES_MIN: u64 = 100_000;
    let Some(stage) = live_stage() else { return };
    let programs = [&[][..], &["-static"]].map(|flags| compile(stage.path(), "writers", flags));
    let mut pages = 0;
    let started = Instant::now();
    let mut seed = 0;
    while pages < PAGES_MIN {
        for program in programs.iter().flatten() {
            for user in users() {
                for level in [&[][..], &["--strict"]] {
                    seed += 1;
                    let chaos = format!("{seed},rate=20000");
                    let options = [&["--chaos", &chaos][..], level].concat();
                    let program = [program.to_str().unwrap(), "2"];
                    let text = text(&run(stage.path(), user, &options, &program));
                    assert!(losses(&text).is_empty(), "{user:?} {options:?}: {text}");
                    assert_eq!(text.matches(" 0 lost").count(), 11, "{user:?} {options:?}: {text}");
                    assert!(figure(&text, " pages") > 0, "{user:?} {options:?}: {text}");
                    assert!(!text.contains("refused"), "{user:?} {options:?}: {text}");
                    pages += figure(&text, " pages");
                }
            }
        }
        assert!(started.elapsed() < Duration::from_secs(600), "only {pages} pages were moved");
    }
    eprintln!("{pages} page moves in {:?}", started.elapsed());
}

/// A process whose execve, clone3, unshare, setns or fork fails is followed as before, and so are its
/// children.
#[test]
fn a_failed_exec_loses_nothing() {
    let Some(stage) = live_stage() else { return };
    let Some(program) = compile(stage.path(), "exec_fails", &[]) else { return };
    for user in users() {
        for seed in 1..=3 {
            let chaos = format!("{seed},rate=20000,kinds=move");
            let program = [program.to_str().unwrap(), "0.4"];
            let output = run(stage.path(), user, &["--chaos", &chaos], &program);
            let text = text(&output);
            assert!(losses(&text).is_empty(), "{user:?}: {text}");
            assert_eq!(text.matches(" 0 lost").count(), 16, "{user:?}: {text}");
            assert!(figure(&text, " pages") > 0, "{user:?}: {text}");
            assert!(!text.contains("refused"), "{user:?}: {text}");
        }
    }
}

/// A process of several threads that executes a program while they map: nobody is killed for it, and
/// nobody waits for ever.
#[test]
fn threads_that_map_do_not_hold_up_an_exec() {
    let Some(stage) = live_stage() else { return };
    let Some(program) = compile(stage.path(), "exec_threads", &[]) else { return };
    for user in users() {
        for options in [&["--chaos", "1"][..], &["--chaos", "2", "--misuse"]] {
            let program = [program.to_str().unwrap(), "20"];
            let output = run(stage.path(), user, options, &program);
            let text = text(&output);
            let good = output.status.success() && text.contains("ok\n");
            assert!(good, "{user:?} {options:?}: {text}");
        }
    }
}

/// What has pinned its pages goes on with them, whatever userfaultfd traps: it is waited for.
#[test]
fn direct_io_and_remote_writes_arrive() {
    let Some(stage) = live_stage() else { return };
    let Some(program) = compile(stage.path(), "direct", &[]) else { return };
    for user in users() {
        let file = stage.path().join(format!("file-{user:?}"));
        let program = [program.to_str().unwrap(), "1", file.to_str().unwrap()];
        let output = run(stage.path(), user, &["--chaos", "1,kinds=move"], &program);
        let text = text(&output);
        if output.status.code() == Some(77) {
            eprintln!("SKIP: {text}");
            continue;
        }
        assert!(output.status.success() && text.contains(" 0 lost"), "{user:?}: {text}");
        assert!(figure(&text, " pages") > 0, "{user:?}: {text}");
    }
}

/// As process 1 the guardian is a child of ours, and what the process that executed us has started
/// is so too: neither is waited for.
#[test]
fn only_the_program_is_waited_for() {
    let Some(stage) = live_stage() else { return };
    let binary = stage.path().join("driftheap");
    let mut first = Command::new("unshare");
    first.args(["-Urpf", "--mount-proc"]).arg(&binary);
    let mut probe = Command::new("unshare");
    probe.args(["-Urpf", "--mount-proc", "true"]);
    if bounded(probe).status.success() {
        first.args(["run", "-q", "--chaos", "1", "--", "sh", "-c", "sleep 0.1 & exit 3"]);
        let output = bounded(first);
        assert_eq!(output.status.code(), Some(3), "{}", text(&output));
    } else {
        eprintln!("SKIP process 1: no user namespaces");
    }
    let script = "sleep 600 >/dev/null 2>&1 & echo $!; exec \"$0\" run -q --chaos 1 -- true";
    let mut shell = Command::new("sh");
    shell.args(["-c", script]).arg(&binary);
    let output = bounded(shell);
    assert!(output.status.success(), "{}", text(&output));
    let sleeper = text(&output).trim().parse().ok().and_then(rustix::process::Pid::from_raw);
    let killed = rustix::process::kill_process(sleeper.unwrap(), rustix::process::Signal::KILL);
    assert_eq!(killed, Ok(()), "it still sleeps");
}

/// Heaps whose rules free twice, or free what is still used: a bug of the exporter's, and no reason
/// to end the program.
#[test]
fn no_rule_ends_the_program() {
    let Some(stage) = live_stage() else { return };
    let Some(program) = compile(stage.path(), "writers", &[]) else { return };
    let record = stage.path().join("twice.litmus");
    for steps in
        ["lock reserve free free copy rebind unlock", "lock reserve free reserve free unlock"]
    {
        let heap = format!("system,move=[{steps}]");
        let options = ["--heap", &heap, "--chaos", "1", "--record", record.to_str().unwrap()];
        let output = run(stage.path(), User::Own, &options, &[program.to_str().unwrap(), "2"]);
        let text = text(&output);
        // Every writer ends and says so; on a busy machine one may not have begun in its time.
        assert!(losses(&text).is_empty(), "{steps}: {text}");
        assert_eq!(text.matches(" 0 lost").count(), 11, "{steps}: {text}");
        assert!(!text.contains("panicked"), "{steps}: {text}");
    }
}

/// A panic of the supervisor's at any step of a move: the move is ended, nothing is lost, nobody
/// waits, and it is told.
#[test]
fn a_panic_of_ours_ends_the_moves_and_not_the_program() {
    let Some(stage) = live_stage() else { return };
    let Some(program) = compile(stage.path(), "writers", &[]) else { return };
    for user in users() {
        for step in ["protect", "copy", "punch", "refill", "release"] {
            let sabotage = format!("panic-at-{step}:20");
            let options = ["--sabotage", &sabotage, "--chaos", "1,rate=20000"];
            let output = run(stage.path(), user, &options, &[program.to_str().unwrap(), "2"]);
            let text = text(&output);
            assert!(losses(&text).is_empty(), "{user:?} {step}: {text}");
            assert_eq!(text.matches(" 0 lost").count(), 11, "{user:?} {step}: {text}");
            assert!(text.contains("no buffer moves from now on"), "{user:?} {step}: {text}");
        }
    }
}

#[test]
fn losses_are_seen_without_write_protection() {
    let Some(stage) = live_stage() else { return };
    let Some(program) = compile(stage.path(), "writers", &[]) else { return };
    let options = ["--sabotage", "no-protect", "--chaos", "1,rate=20000"];
    // How soon a store falls between copy and punch is chance.
    for _ in 0..20 {
        let output = run(stage.path(), User::Own, &options, &[program.to_str().unwrap(), "1"]);
        if !losses(&text(&output)).is_empty() {
            assert!(!output.status.success());
            return;
        }
    }
    panic!("no loss in 20 runs");
}

/// write(2) of a mapping and read(2) into one succeed while the buffer moves, as on hardware.
#[test]
fn system_calls_never_see_a_move() {
    let Some(stage) = live_stage() else { return };
    let Some(program) = compile(stage.path(), "copier", &[]) else { return };
    let program = [program.to_str().unwrap(), "3"];
    for user in users() {
        for level in [&[][..], &["--strict"]] {
            let options = [&["--chaos", "1,rate=5000"][..], level].concat();
            let output = run(stage.path(), user, &options, &program);
            let text = text(&output);
            assert!(output.status.success(), "{user:?} {options:?}: {text}");
            assert!(figure(&text, " moves") > 0, "{user:?} {options:?}: {text}");
        }
    }
    // Only a userfaultfd that traps the kernel too, which root's does, hides it otherwise.
    for user in users().into_iter().filter(|&user| user == User::Nobody) {
        let options = ["--sabotage", "ignore-calls", "--chaos", "1,rate=20000"];
        let output = run(stage.path(), user, &options, &program);
        assert!(!output.status.success(), "no EFAULT was seen: {}", text(&output));
    }
}

/// Real-time signals between a call's trap and what is done in its place are delivered, and nobody
/// is left standing.
#[test]
fn real_time_signals_do_not_get_in_the_way() {
    let Some(stage) = live_stage() else { return };
    let Some(program) = compile(stage.path(), "realtime", &[]) else { return };
    for user in users() {
        let options = ["-q", "--chaos", "1"];
        let output = run(stage.path(), user, &options, &[program.to_str().unwrap()]);
        let text = text(&output);
        assert!(output.status.success(), "{user:?}: {text}");
        assert!(text.contains("realtime ok, many signals"), "{user:?}: {text}");
    }
}

/// Whether a process has the file open.
fn is_open(path: &Path) -> bool {
    let entries = |path: PathBuf| std::fs::read_dir(path).into_iter().flatten().flatten();
    entries("/proc".into())
        .flat_map(|process| entries(process.path().join("fd")))
        .any(|fd| std::fs::read_link(fd.path()).is_ok_and(|file| file == path))
}

/// The exporter killed at each step of a move: the writers go on with what they wrote, or fail
/// loudly; nobody reads zeros.
#[test]
fn a_killed_exporter_loses_nothing() {
    let Some(stage) = live_stage() else { return };
    let Some(program) = compile(stage.path(), "writers", &[]) else { return };
    let log = stage.path().join("log");
    let killed_at = |user: User, sabotage: &str| {
        // The writers outlive their supervisor, so they write to a file.
        let script = format!("exec {} 2 >{} 2>&1", program.display(), log.display());
        let options = ["--sabotage", sabotage, "--chaos", "1,rate=5000"];
        let output = run(stage.path(), user, &options, &["sh", "-c", &script]);
        assert!(!output.status.success(), "it was not killed: {}", text(&output));
        // Every writer that has not failed says how many it lost, and ends.
        let begun = Instant::now();
        while is_open(&log) && begun.elapsed() < Duration::from_secs(10) {
            std::thread::sleep(Duration::from_millis(20));
        }
        let text = std::fs::read_to_string(&log).unwrap();
        drop(std::fs::remove_file(&log));
        text
    };
    for user in users() {
        for step in ["protect", "copy", "punch", "refill", "release"] {
            let text = killed_at(user, &format!("die-at-{step}:600"));
            assert!(losses(&text).is_empty(), "{user:?} {step}: {text}");
            assert!(text.contains(" 0 lost"), "{user:?} {step}: {text}");
        }
    }
    // Without a guardian they do.
    let unguarded = (1..20).any(|n| {
        !losses(&killed_at(User::Own, &format!("die-unguarded:{}", 600 + n * 20))).is_empty()
    });
    assert!(unguarded, "no zeros were seen without a guardian");
}

/// The kernel's own selftests, where tools/selftests/fetch has built them.
#[test]
fn selftests_pass_while_buffers_move() {
    let Some(stage) = live_stage() else { return };
    let built = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/selftests");
    for (name, expect, moves) in
        [("dmabuf-heap", "alloc compat:  OK", true), ("udmabuf", "udmabuf: ok", false)]
    {
        if !built.join(name).exists() {
            eprintln!("SKIP {name}: run tools/selftests/fetch");
            continue;
        }
        device_kit::install(stage.path(), &built.join(name), name);
        let program = stage.path().join(name);
        for user in users() {
            let options = ["--chaos", "1,rate=20000"];
            let output = run(stage.path(), user, &options, &[program.to_str().unwrap()]);
            let text = text(&output);
            assert!(output.status.success() && text.contains(expect), "{name} {user:?}: {text}");
            assert_eq!(figure(&text, " moves") > 0, moves, "{name} {user:?}: {text}");
        }
    }
}

/// A device whose program writes until it is told to stop.
struct Device {
    child: Child,
    stage: tempfile::TempDir,
}

impl Device {
    fn start(options: &[&str], program: &[&str], stage: tempfile::TempDir) -> Self {
        let mut command = Command::new(stage.path().join("driftheap"));
        command.args(["run", "--control"]).arg(stage.path().join("sock")).args(options).arg("--");
        command.args(program).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let device = Self { child: command.spawn().unwrap(), stage };
        let started = Instant::now();
        while !device.ctl(&["list"]).contains(" system ") {
            assert!(started.elapsed() < Duration::from_secs(60), "no buffer yet");
            std::thread::sleep(Duration::from_millis(10));
        }
        device
    }

    fn ctl(&self, args: &[&str]) -> String {
        let mut command = Command::new(self.stage.path().join("driftheap"));
        command.arg("ctl").args(args).arg("--socket").arg(self.stage.path().join("sock"));
        text(&bounded(command))
    }

    fn ino(&self) -> String {
        let list = self.ctl(&["list"]);
        let line =
            list.lines().find(|line| line.contains(" system ")).unwrap_or_else(|| panic!("{list}"));
        line.split_ascii_whitespace().next().unwrap().to_owned()
    }

    fn end(self) -> Output {
        self.child.wait_with_output().unwrap()
    }
}

#[test]
fn ctl_moves_and_evicts() {
    let Some(stage) = live_stage() else { return };
    let Some(program) = compile(stage.path(), "writers", &[]) else { return };
    let device = Device::start(&["--live"], &[program.to_str().unwrap(), "4"], stage);
    let ino = device.ino();
    for (verb, place) in [("evict", "system"), ("move", "vram"), ("evict", "system")] {
        let answer = device.ctl(&[verb, &ino]);
        assert_eq!(answer, format!("{verb} {ino}: 64 pages have new memory\n"));
        let list = device.ctl(&["list"]);
        assert!(list.lines().any(|line| line.contains(&format!(" {place} "))), "{list}");
        assert!(device.ctl(&["info", &ino]).contains(&format!("where:\t{place}\n")));
    }
    assert!(device.ctl(&["move", "1"]).contains("no buffer with inode 1"));
    assert!(device.ctl(&["move"]).contains("say which buffer"));
    let trace = device.ctl(&["trace"]);
    assert!(trace.contains(": dma_buf_evict: exp_name=system size=262144 ino="), "{trace}");
    assert!(trace.contains(" first=0 pages=64"), "{trace}");
    assert!(device.ctl(&["stats"]).contains("moves\t3 of 192 pages, 0 refused"));
    let output = device.end();
    assert!(output.status.success(), "{}", text(&output));
}

#[test]
fn ctl_revoke_and_purge_are_sigbus_and_nothing_else_dies() {
    for (verb, mmap) in [("revoke", "mmap: No such device"), ("purge", "mmap: ok")] {
        let Some(stage) = live_stage() else { return };
        let Some(program) = compile(stage.path(), "victim", &[]) else { return };
        let device = Device::start(&["--live"], &[program.to_str().unwrap()], stage);
        let ino = device.ino();
        assert_eq!(device.ctl(&[verb, &ino]), format!("{verb} {ino}: its pages are gone\n"));
        let answer = device.ctl(&["move", &ino]);
        assert!(answer.contains("purged or revoked"), "{answer}");
        let output = device.end();
        let text = text(&output);
        for line in ["load: SIGBUS", "write: Bad address", mmap, "sync: ok", "child: SIGBUS"] {
            assert!(text.contains(line), "{verb}: {line}: {text}");
        }
        assert!(text.contains("other buffer: ok"), "{verb}: {text}");
        assert!(text.contains("1 buffers purged or revoked"), "{verb}: {text}");
    }
}

#[test]
fn what_can_not_move_says_why() {
    let moved = |options: &[&str], expect: &str| {
        let Some(stage) = live_stage() else { return };
        let Some(program) = compile(stage.path(), "writers", &[]) else { return };
        let device = Device::start(options, &[program.to_str().unwrap(), "2"], stage);
        let ino = device.ino();
        let answer = device.ctl(&["move", &ino]);
        assert!(answer.contains(expect), "{options:?}: {answer}");
        assert!(losses(&text(&device.end())).is_empty());
    };
    moved(&[], "start it with `driftheap run --live`");
    moved(&["--live", "--heap", "system,mmap=pfnmap"], "memfd_secret");
}

/// What does not move though it was asked for is told once, and counted.
#[test]
fn what_stays_where_it_is_is_told() {
    let Some(stage) = live_stage() else { return };
    let Some(program) = compile(stage.path(), "lives", &[]) else { return };
    let program = [program.to_str().unwrap(), "loop", "3"];
    let told = |options: &[&str]| text(&run(stage.path(), User::Own, options, &program));
    let pfnmap = told(&["--chaos", "1", "--heap", "system,mmap=pfnmap"]);
    assert_eq!(pfnmap.matches("stays where it is").count(), 1, "{pfnmap}");
    assert!(pfnmap.contains(", 3 that can't move"), "{pfnmap}");
    let moving = told(&["--chaos", "1"]);
    assert!(!moving.contains("stays where it is"), "{moving}");
    assert!(!moving.contains("that can't move"), "{moving}");
}

/// Programs that nobody can look into, or that somebody else traces, lose nothing either: their
/// buffers stay where they are.
#[test]
fn who_can_not_be_trapped_is_left_alone() {
    let Some(stage) = live_stage() else { return };
    let Some(hidden) = compile(stage.path(), "hidden", &[]) else { return };
    let Some(writers) = compile(stage.path(), "writers", &[]) else { return };
    let chaos = ["--chaos", "1,rate=20000"];
    for user in users() {
        let text = text(&run(stage.path(), user, &chaos, &[hidden.to_str().unwrap()]));
        assert!(text.contains(" 0 lost"), "{user:?}: {text}");
    }
    if Command::new("strace").arg("-V").stdout(Stdio::null()).status().is_err() {
        eprintln!("SKIP: no strace");
        return;
    }
    let traced = ["strace", "-f", "-o", "/dev/null", writers.to_str().unwrap(), "3"];
    let device = Device::start(&chaos, &traced, stage);
    let ino = device.ino();
    let started = Instant::now();
    // Until it is mapped it can move.
    while !device.ctl(&["move", &ino]).contains("can't be traced") {
        assert!(started.elapsed() < Duration::from_secs(3), "{}", device.ctl(&["move", &ino]));
    }
    assert!(losses(&text(&device.end())).is_empty());
}

/// Processes of the tree below `pid`.
fn tree(pid: i32) -> Vec<i32> {
    let path = format!("/proc/{pid}/task/{pid}/children");
    let text = std::fs::read_to_string(path).unwrap_or_default();
    let children = text.split_ascii_whitespace().filter_map(|pid| pid.parse().ok());
    children.flat_map(|child| [vec![child], tree(child)].concat()).collect()
}

fn signal(pid: i32, signal: rustix::process::Signal) {
    if let Some(pid) = rustix::process::Pid::from_raw(pid) {
        let _ = rustix::process::kill_process(pid, signal);
    }
}

/// Processes that are stopped or killed while their buffer moves hang nobody else.
#[test]
fn stopped_and_killed_writers_hang_nobody() {
    use rustix::process::Signal;
    let Some(stage) = live_stage() else { return };
    let Some(program) = compile(stage.path(), "writers", &[]) else { return };
    let options = ["--chaos", "1,rate=5000"];
    let device = Device::start(&options, &[program.to_str().unwrap(), "5"], stage);
    let supervisor = device.child.id().cast_signed();
    std::thread::sleep(Duration::from_millis(1000));
    let writers = tree(supervisor);
    assert!(writers.len() >= 5, "{writers:?}");
    let (main, children) = writers.split_first().unwrap();
    for (pid, round) in children.iter().zip(0..) {
        signal(*pid, if round % 2 == 0 { Signal::STOP } else { Signal::KILL });
    }
    let ino = device.ino();
    for _ in 0..20 {
        let answer = device.ctl(&["move", &ino]);
        assert!(answer.contains("64 pages have new memory"), "{answer}");
    }
    for pid in children {
        signal(*pid, Signal::CONT);
    }
    assert!(Path::new(&format!("/proc/{main}")).exists());
    let text = text(&device.end());
    assert!(losses(&text).is_empty(), "{text}");
    assert!(text.contains("thread: "), "the main process went on: {text}");
}

/// Programs that come and go under chaos leave nothing behind in the supervisor.
#[test]
fn a_long_life_stays_flat() {
    let Some(stage) = live_stage() else { return };
    let Some(program) = compile(stage.path(), "writers", &[]) else { return };
    let script = format!("for n in 1 2 3 4 5 6 7 8 9 10 11 12; do {} 1; done", program.display());
    let device = Device::start(&["--chaos", "3,rate=5000"], &["sh", "-c", &script], stage);
    let pid = device.child.id();
    let sample = || {
        let count = |what: &str| std::fs::read_dir(format!("/proc/{pid}/{what}")).unwrap().count();
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        let rss = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap().to_owned();
        let kib: usize = rss.trim().trim_end_matches(" kB").parse().unwrap();
        (count("fd"), count("task"), kib)
    };
    let mut samples = Vec::new();
    for _ in 0..8 {
        std::thread::sleep(Duration::from_millis(1100));
        samples.push(sample());
    }
    let half = |samples: &[(usize, usize, usize)]| {
        samples.iter().copied().reduce(|a, b| (a.0.max(b.0), a.1.max(b.1), a.2.max(b.2)))
    };
    let (early, late) = (half(&samples[..4]).unwrap(), half(&samples[4..]).unwrap());
    // Descriptors: those of one program's processes, more or less.
    assert!(late.0 <= early.0 + 16, "descriptors grow: {samples:?}");
    assert!(late.1 <= early.1, "threads grow: {samples:?}");
    assert!(late.2 <= early.2 + 4096, "memory grows: {samples:?}");
    let text = text(&device.end());
    assert!(losses(&text).is_empty(), "{text}");
}
