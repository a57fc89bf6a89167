//! One attack: started, watched, judged.

use std::collections::BTreeSet;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use super::attacks::{Beside, Run};
use super::table::Column;

/// An attack that takes longer hangs. A busy machine needs a tenth of it.
const SECONDS_MAX: u64 = 60;
/// The same where a hang is seeded.
const SEEDED_SECONDS_MAX: u64 = 15;
/// How long a process may outlive its driftheap.
const OUTLIVE_SECONDS_MAX: u64 = 40;
/// The same where one that stays is seeded.
const SEEDED_OUTLIVE_SECONDS_MAX: u64 = 3;
/// Resident memory that a supervisor may gain, KiB: its tables, and what was freed and is kept.
const KIB_MORE_MAX: u64 = 16 * 1024;
/// Descriptors that it may have more: files that are let go at the next look.
const DESCRIPTORS_MORE_MAX: u64 = 4;

/// What marks the processes of one attack.
const MARK: &str = "DRIFTHEAP_HOSTILE_RUN";

/// A plain user.
pub(crate) const USER: u32 = 65534;
/// Another one.
const STRANGER: u32 = 54_000;
/// The first of those that have nothing else: each attack with few processes has one of its own.
const LONELY: u32 = 54_001;

/// Updates that go with the pages of a move that is under way as both processes are killed which know of it:
/// a word of each of the writers in each page of the buffer, at most.
const LOST_WITH_A_MOVE: u64 = 11 * 64;

/// The guardian's name (`driftheap::sys::guard::COMM`).
const GUARDIAN: &str = driftheap::sys::guard::COMM;

/// Where the programs are.
pub(crate) struct Stage {
    pub(crate) dir: tempfile::TempDir,
}

/// What came of an attack.
#[derive(Debug, Default)]
pub(crate) struct Came {
    pub(crate) skipped: Option<String>,
    pub(crate) faults: Vec<(Column, String)>,
    pub(crate) moves: u64,
    pub(crate) pages: u64,
    pub(crate) stores: u64,
    pub(crate) lost: u64,
}

/// An attack's own directory, and its mark.
pub(crate) struct Place {
    pub(crate) dir: PathBuf,
    mark: String,
    user: Option<u32>,
    stage: PathBuf,
}

impl Place {
    pub(crate) fn new(stage: &Stage, run: &Run) -> Self {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let stage = stage.dir.path().to_owned();
        let dir = stage.join(format!("run-{number}"));
        let mark = format!("{}-{number}", std::process::id());
        let own = match run.beside {
            Beside::Processes(_) => LONELY + u32::try_from(number).unwrap() % 10_000,
            _ => USER,
        };
        let user = (run.plain_user && rustix::process::geteuid().is_root()).then_some(own);
        for path in [dir.clone(), dir.join("tmp"), dir.join("mount")] {
            std::fs::create_dir(&path).unwrap();
            std::os::unix::fs::chown(&path, user, user).unwrap();
        }
        Self { dir, mark, user, stage }
    }

    /// The attack's program.
    fn program(&self, run: &Run) -> PathBuf {
        let stem = Path::new(run.attack.program).file_stem().unwrap().to_str().unwrap();
        let stem = if run.attack.program == super::attacks::CLIENT { "hostile" } else { stem };
        self.stage.join(stem)
    }

    /// A file of the stage, to be run as the attack's user.
    pub(crate) fn command(&self, before: &str, program: &str) -> Command {
        self.command_as(self.user, before, program)
    }

    /// The same as another user than the attack's.
    pub(crate) fn as_stranger(&self, program: &str) -> Command {
        self.command_as(Some(STRANGER), "", program)
    }

    fn command_as(&self, user: Option<u32>, before: &str, program: &str) -> Command {
        let mut command = Command::new("sh");
        command.arg("-c").arg(format!("{before} exec \"$@\"")).arg("sh");
        if let Some(user) = user {
            let user = user.to_string();
            command.args(["setpriv", "--reuid", &user, "--regid", &user, "--clear-groups"]);
        }
        command.arg(self.stage.join(program)).current_dir(&self.dir);
        command.env("TMPDIR", self.dir.join("tmp")).env_remove("XDG_RUNTIME_DIR");
        command.env(MARK, &self.mark).stdin(Stdio::null());
        command
    }

    /// The same in a namespace of its own.
    fn apart(&self, command: &Command, flags: &[&str]) -> Command {
        let mut apart = Command::new("unshare");
        apart.args(flags).arg("sh").args(command.get_args()).current_dir(&self.dir);
        for (name, value) in command.get_envs() {
            match value {
                Some(value) => apart.env(name, value),
                None => apart.env_remove(name),
            };
        }
        apart.stdin(Stdio::null());
        apart
    }

    /// Starts it; what it prints goes to a file, since others of its tree may outlive it.
    pub(crate) fn start(&self, command: Command) -> Child {
        self.start_with(command, &self.dir.join("output"))
    }

    fn start_with(&self, mut command: Command, stderr: &Path) -> Child {
        let open = |path: &Path| File::options().append(true).create(true).open(path).unwrap();
        command.stdout(open(&self.dir.join("output"))).stderr(open(stderr));
        command.spawn().unwrap()
    }

    pub(crate) fn output(&self) -> Vec<u8> {
        std::fs::read(self.dir.join("output")).unwrap_or_default()
    }

    /// The processes with this mark that have not ended.
    pub(crate) fn processes(&self) -> BTreeSet<i32> {
        let mark = format!("{MARK}={}", self.mark).into_bytes();
        let pid = |entry: std::io::Result<std::fs::DirEntry>| {
            let pid = entry.ok()?.file_name().to_str()?.parse::<i32>().ok()?;
            let environ = std::fs::read(format!("/proc/{pid}/environ")).ok()?;
            environ.split(|&byte| byte == 0).any(|line| line == mark).then_some(pid)
        };
        std::fs::read_dir("/proc").unwrap().filter_map(pid).collect()
    }

    /// Waits until none is left, so long at most; says which are left, and ends them.
    pub(crate) fn left(&self, patience: Duration) -> Vec<String> {
        let begun = Instant::now();
        while !self.processes().is_empty() && begun.elapsed() < patience {
            std::thread::sleep(Duration::from_millis(20));
        }
        let left = self.processes();
        let told = left.iter().map(|&pid| described(pid)).collect();
        left.into_iter().for_each(kill);
        told
    }

    /// A socket that nobody listens at any more.
    fn stale_socket(&self) -> PathBuf {
        let path = self.dir.join("socket");
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        if let Some(user) = self.user {
            std::os::unix::fs::chown(&path, Some(user), Some(user)).unwrap();
            std::os::unix::fs::chown(&self.dir, Some(user), Some(user)).unwrap();
        }
        path
    }

    /// What is left where temporary files are.
    pub(crate) fn files_left(&self) -> Vec<PathBuf> {
        let entries = std::fs::read_dir(self.dir.join("tmp")).unwrap().flatten();
        entries.map(|entry| entry.path()).collect()
    }
}

pub(crate) fn signal(pid: i32, signal: rustix::process::Signal) {
    if let Some(pid) = rustix::process::Pid::from_raw(pid) {
        // It may have ended by itself.
        let _gone = rustix::process::kill_process(pid, signal);
    }
}

fn kill(pid: i32) {
    signal(pid, rustix::process::Signal::KILL);
}

/// A process, and where it waits.
fn described(pid: i32) -> String {
    let read = |file: &str| {
        let text = std::fs::read_to_string(format!("/proc/{pid}/{file}")).unwrap_or_default();
        text.trim().replace('\0', " ")
    };
    format!("{pid} `{}` in {} ({})", read("cmdline"), read("wchan"), read("syscall"))
}

/// Waits for a child to end; none if it does not.
pub(crate) fn wait(child: &mut Child, patience: Duration) -> Option<ExitStatus> {
    let begun = Instant::now();
    loop {
        match child.try_wait().unwrap() {
            None if begun.elapsed() > patience => return None,
            None => std::thread::sleep(Duration::from_millis(5)),
            status => return status,
        }
    }
}

/// What happens before driftheap starts, as a shell has it; a reason if it can't.
fn before(run: &Run, place: &Place) -> Result<String, String> {
    let root = rustix::process::geteuid().is_root();
    Ok(match run.beside {
        Beside::AddressSpace(kib) => format!("ulimit -v {kib} &&"),
        Beside::Memory(mib) if root => {
            let group = group(place, mib).ok_or("no control group for memory")?;
            format!("echo $$ >{}/cgroup.procs &&", group.display())
        }
        Beside::NoSpace if root => format!(
            "mount -t tmpfs -o size=4k,mode=1777 none /dev/shm && mount -t tmpfs -o \
             size=16k,mode=1777 none {} && {{ cat /dev/zero >/dev/shm/full; true; }} 2>/dev/null &&",
            place.dir.join("tmp").display()
        ),
        Beside::Memory(_) | Beside::NoSpace | Beside::First if !root => {
            return Err("needs root".into());
        }
        Beside::Processes(_) if !run.plain_user => return Err("root has no such limit".into()),
        Beside::Processes(many) => format!("prlimit --pid $$ --nproc={many} &&"),
        Beside::FileSize(limits) => format!("prlimit --pid $$ --fsize={limits} &&"),
        Beside::Descriptors(many) => format!("ulimit -n {many} &&"),
        _ => String::new(),
    })
}

/// A control group of so much memory (version 1 or 2), if root may make one.
fn group(place: &Place, mib: u32) -> Option<PathBuf> {
    let name = format!("driftheap-{}", place.mark);
    let kinds =
        [("/sys/fs/cgroup/memory", "memory.limit_in_bytes"), ("/sys/fs/cgroup", "memory.max")];
    for (base, file) in kinds {
        let group = Path::new(base).join(&name);
        if std::fs::create_dir(&group).is_err() {
            continue;
        }
        if std::fs::write(group.join(file), format!("{mib}M")).is_ok() {
            return Some(group);
        }
        drop(std::fs::remove_dir(&group));
    }
    None
}

/// Removes it.
fn ungroup(place: &Place) {
    for base in ["/sys/fs/cgroup/memory", "/sys/fs/cgroup"] {
        drop(std::fs::remove_dir(Path::new(base).join(format!("driftheap-{}", place.mark))));
    }
}

/// Arguments with what stands for a path put in.
fn arguments(run: &Run, place: &Place) -> Vec<String> {
    let put = |argument: &&str| match *argument {
        "MOUNT" => place.dir.join("mount").display().to_string(),
        "FILE" => place.dir.join("file").display().to_string(),
        other => other.to_owned(),
    };
    run.attack.arguments.iter().map(put).collect()
}

/// Makes one attack.
pub(crate) fn make(stage: &Stage, run: &Run) -> Came {
    let place = Place::new(stage, run);
    let came = match run.beside {
        Beside::Served(kind) => super::served::make(&place, kind),
        _ => attack(&place, run),
    };
    ungroup(&place);
    came.unwrap_or_else(|reason| Came { skipped: Some(reason), ..Came::default() })
}

fn attack(place: &Place, run: &Run) -> Result<Came, String> {
    let seeded = run.attack.program.ends_with("seeded.c");
    let mut command = place.command(&before(run, place)?, "driftheap");
    match run.beside {
        Beside::NoSpace => command = place.apart(&command, &["-m"]),
        Beside::First => command = place.apart(&command, &["-pf", "--mount-proc"]),
        _ => {}
    }
    command.arg("run").args(run.mode.options());
    match run.beside {
        Beside::Options(options) => drop(command.args(options)),
        Beside::StaleSocket => drop(command.arg("--control").arg(place.stale_socket())),
        Beside::Record => drop(command.arg("--record").arg(place.dir.join("seen.litmus"))),
        _ => {}
    }
    command.arg("--");
    let dies = matches!(run.beside, Beside::Kill(_) | Beside::KillBoth(_))
        || matches!(run.beside, Beside::Options(options) if options.join(" ").contains("die-at"));
    if is_watched(run, dies) {
        command.arg(place.stage.join("around"));
    }
    command.arg(place.program(run)).args(arguments(run, place));
    let mut child = match run.beside {
        Beside::FullStderr => place.start_with(command, Path::new("/dev/full")),
        _ => place.start(command),
    };
    let mut faults: Vec<(Column, String)> =
        disturb(run, place, &mut child).err().into_iter().collect();
    let patience = if seeded { SEEDED_SECONDS_MAX } else { SECONDS_MAX };
    let status = wait(&mut child, Duration::from_secs(patience));
    if status.is_none() {
        let all: Vec<String> = place.processes().into_iter().map(described).collect();
        faults.push((Column::Hung, all.join("; ")));
        place.processes().into_iter().for_each(kill);
        child.wait().unwrap();
    }
    let patience = if seeded { SEEDED_OUTLIVE_SECONDS_MAX } else { OUTLIVE_SECONDS_MAX };
    let left = place.left(Duration::from_secs(patience));
    if !left.is_empty() && status.is_some() {
        faults.push((Column::Leaked, format!("still there: {}", left.join("; "))));
    }
    if dies {
        tidy(place);
    }
    if matches!(run.beside, Beside::Record) {
        faults.extend(recording(place).err());
    }
    let output = place.output();
    let text = String::from_utf8_lossy(&output).into_owned();
    let mut came = figures(&text);
    came.faults = faults;
    if let Some(status) = status {
        judge(&mut came, run, place, status, &output, dies);
    }
    if run.mode.moves() && text.contains("buffers can't move here") {
        came.skipped = Some("buffers can't move here".into());
        came.faults.clear();
    }
    Ok(came)
}

/// What a killed driftheap left is removed by the next one.
fn tidy(place: &Place) {
    let mut next = place.command("", "driftheap");
    next.args(["run", "-q", "--", "true"]);
    drop(next.output());
}

/// Whether what driftheap holds is looked at before and after, by a process between the two: driftheap
/// must not die, signals that are passed on have to reach the program itself, and there may be no
/// process more.
fn is_watched(run: &Run, dies: bool) -> bool {
    !dies && !matches!(run.beside, Beside::Signals | Beside::Processes(_))
}

/// The recording parses, whatever it found.
pub(crate) fn recording(place: &Place) -> Result<(), (Column, String)> {
    let windows = std::fs::read_dir(&place.dir).unwrap().flatten().map(|entry| entry.path());
    let windows: Vec<PathBuf> =
        windows.filter(|path| path.extension().is_some_and(|kind| kind == "litmus")).collect();
    if windows.is_empty() {
        return Err((Column::Wrong, "nothing was recorded".into()));
    }
    let output = place.command("", "driftheap").arg("check").args(windows).output().unwrap();
    match output.status.code() {
        Some(0 | 1) => Ok(()),
        code => {
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            Err((Column::Wrong, format!("check of the recording: {code:?}: {said}")))
        }
    }
}

/// Kills the process that outlives driftheap.
fn kill_guardian(place: &Place) -> Result<(), (Column, String)> {
    let named = |pid: &i32| {
        let name = std::fs::read_to_string(format!("/proc/{pid}/comm"));
        name.is_ok_and(|name| name.trim_end() == GUARDIAN)
    };
    let found: Vec<i32> = place.processes().into_iter().filter(named).collect();
    let &[guardian] = &found[..] else {
        return Err((Column::Wrong, format!("guardians: {found:?}")));
    };
    kill(guardian);
    Ok(())
}

/// Waits until the program has printed this.
fn wait_for(place: &Place, word: &str) -> Result<(), (Column, String)> {
    let begun = Instant::now();
    while !String::from_utf8_lossy(&place.output()).contains(word) {
        if begun.elapsed() > Duration::from_secs(SECONDS_MAX) {
            return Err((Column::Hung, format!("it never said `{word}`")));
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}

/// Does to driftheap what is to happen beside the attack.
fn disturb(run: &Run, place: &Place, child: &mut Child) -> Result<(), (Column, String)> {
    use rustix::process::Signal;
    let pid = child.id().cast_signed();
    let rest = |ms: u64| std::thread::sleep(Duration::from_millis(ms));
    match run.beside {
        Beside::Kill(ms) => {
            rest(ms);
            kill(pid);
        }
        Beside::KillGuardian(ms) => {
            rest(ms);
            kill_guardian(place)?;
        }
        Beside::KillBoth(ms) => {
            rest(ms);
            kill_guardian(place)?;
            kill(pid);
        }
        Beside::Stop => {
            rest(300);
            signal(pid, Signal::STOP);
            rest(1000);
            signal(pid, Signal::CONT);
        }
        Beside::Signals => {
            wait_for(place, "ready")?;
            for sent in [
                Signal::ALARM,
                Signal::VTALARM,
                Signal::PROF,
                Signal::XCPU,
                Signal::POWER,
                Signal::TERM,
                Signal::HUP,
                Signal::INT,
                Signal::QUIT,
                Signal::USR1,
                Signal::USR2,
            ] {
                signal(pid, sent);
                rest(20);
            }
        }
        Beside::StaleSocket => {
            let ctl = || {
                let mut ctl = place.command("", "driftheap");
                ctl.args(["ctl", "list", "--socket"]).arg(place.dir.join("socket"));
                ctl.output().unwrap().status.success()
            };
            // Until it listens, or has ended.
            while !ctl() {
                if child.try_wait().unwrap().is_some() {
                    return Err((Column::Wrong, "nobody listened at the control socket".into()));
                }
            }
        }
        _ => {}
    }
    Ok(())
}

/// The number before a word.
fn number_before(text: &str, word: &str) -> u64 {
    let before = text.split(word).next().filter(|before| before.len() < text.len());
    let number = before.and_then(|before| before.trim_end().rsplit(' ').next());
    number.and_then(|number| number.parse().ok()).unwrap_or(0)
}

fn figures(text: &str) -> Came {
    let mut came = Came::default();
    for line in text.lines() {
        if line.starts_with("driftheap: ") {
            came.moves += number_before(line, " moves of ");
            came.pages += number_before(line, " pages");
        } else if line.ends_with(" lost") {
            came.stores += number_before(line, " stores");
            came.lost += number_before(line, " lost");
        }
    }
    came
}

/// What an attack that has ended shows.
fn judge(came: &mut Came, run: &Run, place: &Place, status: ExitStatus, output: &[u8], dies: bool) {
    use std::os::unix::process::ExitStatusExt as _;
    let text = String::from_utf8_lossy(output);
    let said = || text.trim_end().lines().rev().take(4).collect::<Vec<_>>().join(" | ");
    let seeded_death = dies && run.attack.kind == "a supervisor that dies";
    let tolerated = if matches!(run.beside, Beside::KillBoth(_)) { LOST_WITH_A_MOVE } else { 0 };
    if came.lost > tolerated {
        came.faults.push((Column::Lost, format!("{} updates: {}", came.lost, said())));
    }
    if text.contains("panicked at") || text.contains("BUG in driftheap") {
        came.faults.push((Column::Crashed, format!("driftheap panicked: {}", said())));
    }
    if text.contains("has held up everybody") {
        came.faults.push((Column::Hung, format!("a call held driftheap up: {}", said())));
    }
    // The random client looks at its parent, too, and before.
    let lines_of = |word: &str| text.lines().rev().find_map(|line| line.strip_prefix(word));
    let skip = || text.lines().find(|line| line.contains("SKIP") || line.contains("can't"));
    match (status.code(), status.signal()) {
        (_, Some(_)) if dies && !seeded_death => {}
        (_, Some(signal)) => {
            came.faults.push((Column::Crashed, format!("signal {signal}: {}", said())));
        }
        (Some(77), _) => came.skipped = Some(skip().unwrap_or("it says so").to_owned()),
        (Some(125), _) => {
            came.faults.push((Column::Crashed, format!("driftheap failed: {}", said())))
        }
        (Some(status), _) if status >= 128 => {
            came.faults.push((Column::Crashed, format!("status {status}: {}", said())));
        }
        (Some(0), _) => {}
        // It says so, and counts it as failed; nothing is shown by it.
        (Some(1), _) if came.lost == 0 && text.contains(" 0 stores, 0 lost") => {
            came.skipped = Some("a writer did not get to run: a busy machine".into());
        }
        (code, _) if came.lost <= tolerated => {
            came.faults.push((Column::Wrong, format!("status {code:?}: {}", said())));
        }
        _ => {}
    }
    if let Some(byte) = output.iter().find(|&&byte| byte < b' ' && byte != b'\n' && byte != b'\t') {
        came.faults.push((Column::Wrong, format!("byte {byte:#x} was printed as it is")));
    }
    if let Some(line) = lines_of("supervisor: ") {
        // Reports of misuse name source lines: the program's symbols stay in memory.
        let symbols = std::fs::metadata(place.program(run)).map_or(0, |file| file.len() / 1024 * 2);
        leaks(came, line, if run.mode.reports() { symbols } else { 0 });
    } else if is_watched(run, dies) && status.code().is_some_and(|code| code != 125) {
        came.faults.push((Column::Wrong, format!("it did not come to its end: {}", said())));
    }
    let left = place.files_left();
    if !left.is_empty() {
        came.faults.push((Column::Leaked, format!("left in TMPDIR: {left:?}")));
    }
}

/// What the supervisor had before and after.
fn leaks(came: &mut Came, line: &str, symbols_kib: u64) {
    let words = line.split_ascii_whitespace().filter_map(|word| word.parse().ok());
    let numbers: Vec<u64> = words.collect();
    let [fds, fds_after, watches, watches_after, threads, threads_after, kib, kib_after] =
        numbers[..]
    else {
        came.faults.push((Column::Wrong, format!("not understood: {line}")));
        return;
    };
    // A supervisor that can't be looked into shows nothing.
    let grew = fds == 0
        || fds_after > fds + DESCRIPTORS_MORE_MAX
        || watches_after > watches
        || threads_after > threads
        || kib_after > kib + KIB_MORE_MAX + symbols_kib;
    if grew {
        came.faults.push((Column::Leaked, line.to_owned()));
    }
}
