//! The guest's other task: comparison and module are held to account. Each wrong model and each wrong
//! step of the module has to be noticed, misuse refused, and all given back in the end.

use std::fs;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, anyhow, bail, ensure};
use driftheap::exec::{ExecOptions, KernelExecutor, Replays, Sabotage, WrongRule, schedules};
use driftheap::litmus::parse;
use driftheap::litmus::rules::ModelRules;
use driftheap::question::scenario::Scenario;
use driftheap::question::verdict::{Search, judge};
use driftheap::random::SplitMix64;
use driftheap::report::full_name;
use driftheap::suite;
use driftheap::sys::lab::Lab;
use driftheap::uapi::lab::{MMAP_WRITE, Op, Step};
use rustix::io::Errno;

use super::guest::SABOTAGES;

/// Tests that show a difference for one of the switches each, and are small.
const TESTS: [&str; 26] = [
    "userptr-mmu-notifier",
    "dynamic-importer-move",
    "insert-page-and-move",
    "ttm-insert-mixed",
    "ttm-map-private",
    "anon-read-pin",
    "pin-then-fork",
    "pfnmap-by-hand",
    "notifier-on-cow",
    "revoke-steps",
    "static-importer-pin",
    "exporter-honours-pins",
    "importer-mmap-address-space",
    "one-vma-pointer",
    "fork-then-move",
    "gdrcopy-zap",
    "shmem-helper-fake-offset",
    "fault-from-start",
    "move-behind-fence",
    "vgem-import-shmem",
    "bounce-buffer",
    "drm-node-mmap",
    "ttm-huge-special",
    "gpu-tlb-flush",
    "mmap-lock-inversion",
    "bar-has-no-pages",
];

/// `enum lab_mistake`, by number.
const MISTAKES: [(u32, &str); 18] = [
    (1, "zap-nothing"),
    (2, "copy-nothing"),
    (3, "notify-nobody"),
    (4, "pins-unseen"),
    (5, "map-neighbour"),
    (6, "dma-wrong"),
    (7, "put-nothing"),
    (8, "notifier-deaf"),
    (9, "copy-at-fork"),
    (10, "zap-finds"),
    (11, "fault-offset"),
    (12, "fence-nothing"),
    (13, "import-nothing"),
    (14, "sync-nothing"),
    (15, "node-checked"),
    (16, "devmap-plain"),
    // 17 is for a guest with an IOMMU.
    (18, "flush-nothing"),
    (19, "bar-pages"),
];

/// Schedules of a variant besides the shortest to each outcome.
const SAMPLED: usize = 2;
/// Random steps of the misuse.
const RANDOM_STEPS: usize = 20_000;
/// Clients that are killed in the middle.
const VICTIMS: u32 = 20;
/// Longest wait for the last process of a killed client to be gone.
const GONE_SECONDS_MAX: u64 = 60;

/// The module's switches and counts.
const PARAMETERS: &str = "/sys/module/driftheap_lab/parameters";

/// A variant with the schedules to take.
struct Case {
    name: String,
    scenario: Scenario,
    schedules: Vec<Vec<u8>>,
}

/// All of it; fails where something was not noticed, not refused or not given back.
pub(crate) fn run() -> anyhow::Result<()> {
    let cases = cases(&TESTS)?;
    let mut missed = Vec::new();
    if let Some(found) = first_difference(&cases, None)? {
        bail!("a right model and a right module differ: {found}");
    }
    let models = SABOTAGES.iter().copied();
    let rules = WrongRule::ALL.iter().map(|&(name, rule)| (name, Sabotage::Rule(rule)));
    for (name, sabotage) in models.chain(rules) {
        note("wrong model", name, first_difference(&cases, Some(sabotage))?, &mut missed)?;
    }
    for (number, name) in MISTAKES {
        set("mistake", number)?;
        let found = first_difference(&cases, None);
        set("mistake", 0)?;
        note("wrong module", name, found?, &mut missed)?;
    }
    ensure!(missed.is_empty(), "not noticed: {}", missed.join(", "));
    misuse()?;
    random_steps()?;
    given_back()?;
    killed_clients()?;
    given_back()?;
    killed_holders()?;
    given_back()?;
    say("all given back")
}

/// A client that works until it is killed.
pub(crate) fn victim() -> anyhow::Result<()> {
    let cases = cases(&TESTS[..2])?;
    let mut executor = executor(None)?;
    say("working")?;
    loop {
        for case in &cases {
            for schedule in &case.schedules {
                drop(executor.replay(&case.scenario, schedule, false)?);
            }
        }
    }
}

/// A client that holds its own `mmap_lock`, for reading or for writing by the last bit of its number, until
/// it is killed.
pub(crate) fn holder() -> anyhow::Result<()> {
    let lab = Lab::open().context("the laboratory")?;
    // Whatever faults from here on would wait for the lock.
    let words = "holding\n".as_bytes();
    let mut out = std::io::stdout().lock();
    out.flush()?;
    let step = Step { flags: std::process::id() & u32::from(MMAP_WRITE), ..Step::default() };
    lab.step(Op::MmapLock, step).context("its mmap_lock")?;
    out.write_all(words).and_then(|()| out.flush())?;
    loop {
        std::hint::spin_loop();
    }
}

fn say(text: &str) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{text}")?;
    Ok(out.flush()?)
}

fn note(
    kind: &str,
    name: &str,
    found: Option<String>,
    missed: &mut Vec<String>,
) -> anyhow::Result<()> {
    match found {
        Some(found) => say(&format!("{kind} {name}: noticed at {found}")),
        None => {
            missed.push(format!("{kind} {name}"));
            say(&format!("{kind} {name}: NOT NOTICED"))
        }
    }
}

fn cases(tests: &[&str]) -> anyhow::Result<Vec<Case>> {
    let mut cases = Vec::new();
    for bundled in suite::TESTS.iter().filter(|bundled| tests.contains(&bundled.name)) {
        let test = parse(bundled.file, bundled.text, &ModelRules);
        let test = test.map_err(|_| anyhow!("{} does not parse", bundled.file))?;
        for variant in &test.variants {
            let scenario =
                Scenario::new(variant, bundled.text).map_err(|error| anyhow!(error.message))?;
            if driftheap::exec::kernel_supports(&scenario).is_err() {
                continue;
            }
            let judgement = judge(&scenario, &Search::default(), &mut |_| ())?;
            let (schedules, _) = schedules(&scenario, &judgement, Replays::Sample(SAMPLED, 1));
            let name = full_name(&scenario.test, &scenario.variant);
            cases.push(Case { name, scenario, schedules });
        }
    }
    Ok(cases)
}

fn executor(sabotage: Option<Sabotage>) -> anyhow::Result<KernelExecutor> {
    let mut options = ExecOptions::new(own()?);
    options.timeout = Duration::from_secs(60);
    options.sabotage = sabotage;
    Ok(KernelExecutor::new(options)?)
}

fn own() -> anyhow::Result<PathBuf> {
    std::env::current_exe().context("own executable")
}

/// Where model and kernel differ first.
fn first_difference(cases: &[Case], sabotage: Option<Sabotage>) -> anyhow::Result<Option<String>> {
    let mut executor = executor(sabotage)?;
    for case in cases {
        for schedule in &case.schedules {
            let report = executor.replay(&case.scenario, schedule, false)?;
            if let Some(found) = report.disagreement {
                let (name, step) = (&case.name, found.event + 1);
                let (what, model, real) = (found.what, found.model, found.real);
                return Ok(Some(format!("{name}, step {step}, {what}: {model} / {real}")));
            }
        }
    }
    Ok(None)
}

fn set(parameter: &str, value: u32) -> anyhow::Result<()> {
    fs::write(format!("{PARAMETERS}/{parameter}"), value.to_string()).context("the module's switch")
}

fn count(parameter: &str) -> anyhow::Result<u64> {
    let text = fs::read_to_string(format!("{PARAMETERS}/{parameter}")).context("a count")?;
    text.trim().parse().context("a count")
}

/// Waits until the module has nothing left: a killed process takes its time to go.
fn given_back() -> anyhow::Result<()> {
    let since = Instant::now();
    loop {
        let left = [count("labs")?, count("frames")?, count("objects")?];
        if left == [0; 3] {
            return Ok(());
        }
        let [labs, frames, objects] = left;
        if since.elapsed() > Duration::from_secs(GONE_SECONDS_MAX) {
            bail!("not given back: {labs} laboratories, {frames} frames, {objects} objects");
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Steps that are refused, and with what.
fn misuse() -> anyhow::Result<()> {
    let lab = Lab::open().context("the laboratory")?;
    for op in [0, 54, u32::MAX] {
        let answer = lab.step_numbered(op, Step::default());
        ensure!(answer == Err(Errno::INVAL), "step {op}: {answer:?}");
    }
    let out = Step { obj: u32::MAX, page: u32::MAX, addr: 1 << 62, ..Step::default() };
    for (op, name) in Op::ALL {
        let harmless = *op == Op::Pte;
        let answer = lab.step(*op, out);
        ensure!(answer.is_err() != harmless, "{name} out of range: {answer:?}");
    }
    let order: [(Op, Step, Result<(), Errno>); 21] = [
        (Op::Map, Step::default(), Err(Errno::INVAL)),
        (Op::Unmap, Step::default(), Err(Errno::INVAL)),
        (Op::Attach, Step::default(), Err(Errno::INVAL)),
        (Op::Signal, Step::default(), Err(Errno::INVAL)),
        (Op::GupPut, Step::default(), Err(Errno::INVAL)),
        (Op::DmaWrite, Step::default(), Err(Errno::INVAL)),
        (Op::Lock, Step::default(), Err(Errno::INVAL)),
        (Op::Export, Step { page: 17, ..Step::default() }, Err(Errno::INVAL)),
        (Op::Export, Step { page: 1, ..Step::default() }, Ok(())),
        (Op::Export, Step { page: 1, ..Step::default() }, Err(Errno::EXIST)),
        (Op::Unlock, Step::default(), Err(Errno::PERM)),
        (Op::Copy, Step::default(), Err(Errno::NOENT)),
        (Op::Attach, Step { flags: 1, ..Step::default() }, Ok(())),
        // It has no pages.
        (Op::Map, Step::default(), Err(Errno::NODEV)),
        (Op::Bind, Step::default(), Ok(())),
        (Op::Map, Step::default(), Ok(())),
        (Op::Detach, Step::default(), Err(Errno::BUSY)),
        (Op::Lock, Step::default(), Ok(())),
        (Op::Lock, Step::default(), Err(Errno::ALREADY)),
        // The attachment has a reference of its own; the lock is held all the while.
        (Op::Close, Step::default(), Ok(())),
        (Op::Close, Step::default(), Err(Errno::BADF)),
    ];
    for (position, (op, step, expected)) in order.into_iter().enumerate() {
        let answer = lab.step(op, step).map(drop);
        ensure!(answer == expected, "step {position}, {op:?}: {answer:?}, not {expected:?}");
    }
    say("misuse: refused")
}

/// Random steps, of which none may do harm.
fn random_steps() -> anyhow::Result<()> {
    let mut random = SplitMix64::new(1);
    let mut lab = Lab::open().context("the laboratory")?;
    let mut done = 0_usize;
    for round in 0..RANDOM_STEPS {
        let (op, _) = Op::ALL[random.below(u32::try_from(Op::ALL.len())?) as usize];
        // Descriptors would be this process's to close.
        if matches!(op, Op::Fd | Op::ImporterFd) {
            continue;
        }
        // Who locks its own address space for writing faults no more.
        if matches!(op, Op::MmapLock | Op::MmapUnlock) {
            continue;
        }
        let step = Step {
            obj: random.below(3),
            page: random.below(3),
            flags: random.below(1024),
            value: random.below(4).into(),
            ..Step::default()
        };
        let step = if op == Op::Wait || op == Op::Fence {
            Step { flags: random.below(5), ..step }
        } else {
            step
        };
        done += usize::from(lab.step(op, step).is_ok());
        if round % 1000 == 999 {
            lab = Lab::open().context("the laboratory")?;
        }
    }
    ensure!(done > RANDOM_STEPS / 10, "only {done} random steps were taken");
    say(&format!("misuse: {RANDOM_STEPS} random steps, {done} of them possible"))
}

/// Clients that are killed in the middle of a schedule.
fn killed_clients() -> anyhow::Result<()> {
    let mut random = SplitMix64::new(2);
    for _ in 0..VICTIMS {
        let mut command = Command::new(own()?);
        let mut child = command
            .args(["__lab", "--victim"])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .context("a client to be killed")?;
        let mut said = [0; 8];
        let stdout = child.stdout.as_mut().context("its output")?;
        std::io::Read::read_exact(stdout, &mut said).context("a client that should work")?;
        std::thread::sleep(Duration::from_millis(random.below(300).into()));
        child.kill().context("can't kill it")?;
        child.wait().context("can't wait for it")?;
    }
    say(&format!("misuse: {VICTIMS} clients killed in the middle"))
}

/// Clients that are killed while they hold an `mmap_lock`, which their end needs.
fn killed_holders() -> anyhow::Result<()> {
    let (mut random, mut written) = (SplitMix64::new(3), 0);
    for _ in 0..VICTIMS {
        let mut command = Command::new(own()?);
        command.args(["__lab", "--holder"]).stdin(Stdio::null()).stdout(Stdio::piped());
        let mut child = command.spawn().context("a client that holds a lock")?;
        let mut said = [0; 8];
        let stdout = child.stdout.as_mut().context("its output")?;
        std::io::Read::read_exact(stdout, &mut said).context("a client that should hold a lock")?;
        std::thread::sleep(Duration::from_millis(random.below(30).into()));
        written += child.id() & u32::from(MMAP_WRITE);
        child.kill().context("can't kill it")?;
        let since = Instant::now();
        while child.try_wait().context("can't wait for it")?.is_none() {
            if since.elapsed() > Duration::from_secs(GONE_SECONDS_MAX) {
                bail!("who was killed with its mmap_lock held does not end");
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }
    ensure!(written > 0 && written < VICTIMS, "{written} of {VICTIMS} held it for writing");
    say(&format!(
        "misuse: {VICTIMS} clients killed with their mmap_lock held, {written} for writing"
    ))
}
