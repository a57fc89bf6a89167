//! `driftheap run`: a program that sees the device.

use std::ffi::{CString, OsString};
use std::fs::File;
use std::io::Write as _;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use anyhow::Context as _;
use clap::{Args, ValueEnum};

use driftheap::device::Stats;
use driftheap::device::control::Controlled;
use driftheap::device::live::emulate::{DeviceSpec, Idle};
use driftheap::device::live::mover::Step;
use driftheap::device::live::record::Recorder;
use driftheap::device::live::{ChaosConfig, Sabotage};
use driftheap::device::look::Look;
use driftheap::device::misuse::guard::Mode;
use driftheap::device::misuse::{Kinds, Log};
use driftheap::device::supervisor::{self, CheckConfig, Config, Exit as Ran, Level, LiveConfig};
use driftheap::device::transport::{lock, now_ns};

use super::ctl::serve_control;
use super::device::{DeviceArgs, distinct_devices};
use super::live::{Listening, Web, WebArgs};
use super::{Exit, out::Out};

/// Run a program that sees /dev/dma_heap and /dev/udmabuf, whether or not the host has them.
///
/// Needs no privilege and no kernel module. Setuid programs gain nothing under it
/// (no_new_privs). It returns when the last process that the program started has ended, with the
/// program's own exit status.
#[derive(Args, Debug)]
pub(crate) struct RunArgs {
    #[command(flatten)]
    device: DeviceArgs,
    /// Answer every call that could tell a buffer from the file behind it.
    ///
    /// Traps read, write, fstat, fcntl, poll and their like too: exact, and slow for programs
    /// that do much I/O.
    #[arg(long)]
    strict: bool,
    /// Let ALLOC answer ENOMEM where there is no memory that get_user_pages refuses.
    ///
    /// A buffer of a pfnmap heap counts against RLIMIT_MEMLOCK (`ulimit -l`). Beyond it the buffer
    /// has ordinary memory, which the kernel pins, and what fails on hardware passes here.
    #[arg(long, conflicts_with_all = ["live", "chaos", "devices", "record", "perfetto"])]
    require_pfnmap: bool,
    /// Let buffers move: `driftheap ctl move|evict|purge|revoke INO`.
    ///
    /// The heaps' buffers then have ordinary memory on which get_user_pages succeeds, except where
    /// a heap is given mmap=pfnmap, whose buffers stay where they are.
    #[arg(long)]
    live: bool,
    /// Move buffers at seeded random times while the program uses them. Implies --live.
    ///
    /// rate: how many a second (1000). kinds: move+evict, and purge and revoke, which take a
    /// buffer's memory away: a program that uses it gets SIGBUS.
    #[arg(long, value_name = "SEED[,rate=N][,kinds=KIND[+KIND]...]")]
    chaos: Option<ChaosConfig>,
    /// Emulated device that uses a buffer of the program, may be repeated. Implies --live.
    ///
    /// NAME,writes=BUF or reads=BUF, with BUF a name given by DMA_BUF_SET_NAME or #INDEX. Options:
    /// every=16ms; hold=1ms, the time between an access's translation and its transfer;
    /// importer=dynamic or static; notify=handled or ignored, what it does on move_notify;
    /// fence=yes or no; bracket=waits or ignored, whether a job waits until the program has ended its
    /// SYNC bracket. What it hits by a stale address is reported.
    #[arg(long = "device", value_name = "SPEC")]
    devices: Vec<DeviceSpec>,
    /// Write what happened as litmus tests for `driftheap check`. Implies --live.
    ///
    /// What one test has no room for is in FILE with -2, -3 and so on before its extension: each
    /// begins with the state that it finds. Where something is left out, `check` exits 1.
    #[arg(long, value_name = "FILE")]
    record: Option<PathBuf>,
    /// Write what happened to FILE as a trace for ui.perfetto.dev (track events), or to FILE.json as
    /// JSON, which chrome://tracing reads, too. Implies --live.
    ///
    /// Tracks of who did what, of where each buffer was, and of pins and sg_tables; a flow leads from
    /// an address that was taken by way of the move to the access that did harm. The first 100000
    /// events.
    #[arg(long, value_name = "FILE")]
    perfetto: Option<PathBuf>,
    /// Break the exporter on purpose, to test that it is noticed.
    #[arg(long, value_name = "HOW", hide = true, value_parser = sabotage)]
    sabotage: Option<Sabotage>,
    #[command(flatten)]
    web: WebArgs,
    /// Report misuse of buffers, with the source line where the program was built with -g.
    ///
    /// KASAN-like reports on stderr: private mappings, SYNC brackets that do not balance, pins
    /// alive across a move, access after a purge or revoke, buffers still held at exit.
    #[arg(long)]
    misuse: bool,
    /// Write the reports to FILE at the end, one JSON object a line. Implies --misuse.
    #[arg(long, value_name = "FILE")]
    misuse_json: Option<PathBuf>,
    /// Write the reports to FILE at the end as SARIF, for a code host. Implies --misuse.
    #[arg(long, value_name = "FILE")]
    misuse_sarif: Option<PathBuf>,
    /// Write the kinds of misuse to FILE at the end as JUnit, for a CI server. Implies --misuse.
    #[arg(long, value_name = "FILE")]
    misuse_junit: Option<PathBuf>,
    /// The same as KTAP. Implies --misuse.
    #[arg(long, value_name = "FILE")]
    misuse_ktap: Option<PathBuf>,
    /// Exit with status 99 where a program that succeeded was reported for one of these kinds.
    /// Implies --misuse.
    ///
    /// Kinds: unbracketed-access, write-in-read-bracket, private-mapping, pin-across-move,
    /// access-after-revoke, access-after-purge, importer-mmap, leaked-fd, unfenced-dma,
    /// unended-bracket, end-without-start, mismatched-end, nested-bracket, stale-dma,
    /// dma-in-bracket; any.
    #[arg(long, value_name = "KIND[,KIND]...")]
    fail_on: Option<Kinds>,
    /// Report CPU accesses outside of a SYNC bracket. Implies --misuse.
    ///
    /// exhaustive closes the buffers' mappings between END and START, and for writing in brackets
    /// for reading; sampled closes a few pages now and then, by --check-seed. The program is
    /// traced with ptrace meanwhile: no debugger can be attached to it.
    #[arg(long, value_name = "MODE", default_value = "off")]
    check_access: CheckMode,
    /// Seed of --check-access sampled.
    #[arg(long, value_name = "N", default_value_t = 1)]
    check_seed: u64,
    /// Program and its arguments.
    #[arg(last = true, required = true, value_name = "PROGRAM")]
    command: Vec<OsString>,
}

/// The modes of `--check-access`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum CheckMode {
    Off,
    Sampled,
    Exhaustive,
}

/// The exit status for our own errors.
const OURS: u8 = 125;

/// The exit status of a run that succeeded but for a misuse that `--fail-on` names.
const MISUSED: u8 = 99;

/// Runs it; the exit status is the program's own, 128+N where signal N killed it and could not be
/// repeated on ourselves, 127 or 126 where the program could not be executed, 99 by `--fail-on`, 125
/// for our errors: those after the program's end, such as a report that can't be written, where it
/// succeeded.
pub(crate) fn run(args: RunArgs, out: &Out) -> Exit {
    driftheap::sys::alloc::exit_with(i32::from(OURS));
    let fail_on = args.fail_on.clone().unwrap_or_default();
    match supervise(args, out) {
        Ok((exit, failures)) => {
            for error in &failures {
                out.error(&format!("{error:#}"));
            }
            if !out.quiet {
                summarise(&exit, out);
            }
            let reports = exit.misuse.as_ref().map_or(&[][..], Log::reports);
            let misused = reports.iter().any(|report| fail_on.contains(report.kind));
            for Idle { spec, was_there } in &exit.idle_devices {
                if *was_there {
                    out.note(&format!(
                        "driftheap: the device {spec} had nothing to do: its buffer was gone before \
                         it looked\n"
                    ));
                } else {
                    out.error(&format!(
                        "the device {spec} had nothing to do: the program never had such a buffer; \
                         name it with DMA_BUF_SET_NAME_B, or count as #INDEX"
                    ));
                }
            }
            match end_like(&exit) {
                0 if misused => Exit::Program(MISUSED),
                0 if !failures.is_empty() => Exit::Program(OURS),
                0 if exit.idle_devices.iter().any(|idle| !idle.was_there) => Exit::Program(OURS),
                status => Exit::Program(status),
            }
        }
        Err(error) => {
            out.error(&format!("{error:#}"));
            Exit::Program(exit_code(&error))
        }
    }
}

/// Runs it, and writes what was asked for. What could not be written is no reason to lose the rest.
fn supervise(args: RunArgs, out: &Out) -> anyhow::Result<(Ran, Vec<anyhow::Error>)> {
    let files = super::misuse::Files {
        json: args.misuse_json,
        sarif: args.misuse_sarif,
        junit: args.misuse_junit,
        ktap: args.misuse_ktap,
    };
    let watch = args.misuse || files.wanted() || args.fail_on.is_some();
    let mode = match args.check_access {
        CheckMode::Off => Mode::Off,
        CheckMode::Sampled => Mode::Sampled,
        CheckMode::Exhaustive => Mode::Exhaustive,
    };
    let watch = watch || mode != Mode::Off;
    let files = files.open()?;
    let listening = args.web.listen("driftheap run --web")?;
    let record = args.record.is_some() || args.perfetto.is_some();
    let emulates = record || !args.devices.is_empty();
    distinct_devices(&args.devices)?;
    let heaps = args.device.heaps()?;
    let moves = args.live || args.chaos.is_some() || emulates;
    if !moves {
        DeviceArgs::note_idle_rules(&heaps, out);
    }
    let perfetto = args.perfetto.as_deref().map(create_trace).transpose()?;
    let recording = args.record.as_deref().map(super::record::Place::new).transpose()?;
    let argv = args.command.into_iter().map(|arg| CString::new(arg.into_vec()));
    let config = Config {
        argv: argv.collect::<Result<_, _>>().context("an argument holds a NUL byte")?,
        heaps,
        limits: args.device.limits(),
        live: moves
            .then(|| LiveConfig { chaos: args.chaos, sabotage: args.sabotage.unwrap_or_default() }),
        level: if args.strict { Level::Strict } else { Level::Needed },
        devices: args.devices,
        record,
        watch,
        check: CheckConfig { mode, seed: args.check_seed },
        require_pfnmap: args.require_pfnmap,
        quiet: out.quiet,
    };
    let mut control = None;
    let mut kept = None;
    let mut web = None;
    let ran = supervisor::run(config, |shared| {
        kept = Some(Arc::clone(shared));
        if perfetto.is_some() {
            keep_times(shared);
        }
        let asked: Arc<dyn Controlled> = Arc::clone(shared) as Arc<_>;
        control = serve_control(args.device.control.clone(), Arc::clone(&asked), out);
        web = listening.map(|listening| serve_web(listening, shared, asked, out));
    });
    drop(control);
    let ran = ran?;
    let mut failures = Vec::new();
    match web {
        Some(Ok(web)) => web.end(ran.misuse.as_ref().map_or(&[], Log::reports)),
        Some(Err(error)) => failures.push(error),
        None => {}
    }
    if let Some(log) = &ran.misuse {
        failures.extend(files.write(log));
    }
    if let Some(shared) = kept {
        failures.extend(report_devices(&shared, recording.as_ref(), out).err());
        if let Some((file, path)) = perfetto.zip(args.perfetto.as_deref()) {
            failures.extend(write_trace((file, path), &shared).err());
        }
    }
    Ok((ran, failures))
}

/// A path that can't be written is known before the program runs.
fn create_trace(path: &Path) -> anyhow::Result<File> {
    File::create(path).with_context(|| format!("can't write the trace to {}", path.display()))
}

fn keep_times(shared: &Mutex<supervisor::Shared>) {
    if let Some(program) = &mut lock(shared).program_bus
        && let Some(recorder) = &mut program.bus.recorder
    {
        recorder.keep_times(now_ns);
    }
}

fn write_trace(
    (mut file, path): (File, &Path),
    shared: &Mutex<supervisor::Shared>,
) -> anyhow::Result<()> {
    let shared = lock(shared);
    let program = shared.program_bus.as_ref();
    let recorder = program.and_then(|program| program.bus.recorder.as_ref());
    let Some(timeline) = recorder.and_then(Recorder::timeline) else { return Ok(()) };
    file.write_all(&super::perfetto::trace(timeline).bytes_for(path))
        .context("can't write the trace")
}

fn serve_web(
    listening: Listening,
    shared: &Arc<Mutex<supervisor::Shared>>,
    asked: Arc<dyn Controlled>,
    out: &Out,
) -> anyhow::Result<Web> {
    let seen = Arc::clone(shared);
    let looker = move |known, thorough| {
        let shared = &mut *lock(&seen);
        if thorough {
            shared.files.sweep(&mut shared.device);
        }
        let bus = shared.program_bus.as_ref().map(|program| &program.bus);
        Look::at(&shared.device, bus, shared.watch.as_ref(), known)
    };
    listening.serve(Box::new(looker), asked, out)
}

/// What the emulated devices hit, and the recording.
fn report_devices(
    shared: &Mutex<supervisor::Shared>,
    record: Option<&super::record::Place>,
    out: &Out,
) -> anyhow::Result<()> {
    let shared = lock(shared);
    let Some(program) = &shared.program_bus else { return Ok(()) };
    out.note(&program.bus.findings.text());
    let summary = program.bus.findings.summary();
    if !summary.is_empty() {
        out.note(&format!("driftheap: devices: {summary}\n"));
    }
    if let Some((place, recorder)) = record.zip(program.bus.recorder.as_ref()) {
        let name = super::record::name_of(place.path());
        let recordings = recorder.recordings(&name, "What a program and its devices did.");
        super::record::write(place.path(), &recordings, out)?;
    }
    Ok(())
}

/// `no-protect`, `ignore-calls`, `hold-up:MS`, `die-unguarded:N`, `die-at-STEP[:N]` or `panic-at-STEP[:N]`.
fn sabotage(text: &str) -> Result<Sabotage, String> {
    if text == "no-protect" {
        return Ok(Sabotage::NoProtect);
    }
    if text == "ignore-calls" {
        return Ok(Sabotage::IgnoreCalls);
    }
    if let Some(ms) = text.strip_prefix("hold-up:") {
        return Ok(Sabotage::HoldUp(ms.parse().map_err(|_| "no number")?));
    }
    if let Some(nth) = text.strip_prefix("die-unguarded:") {
        return Ok(Sabotage::DieUnguarded(nth.parse().map_err(|_| "no number")?));
    }
    let (rest, dies) = match text.strip_prefix("panic-at-") {
        Some(rest) => (rest, false),
        None => (text.strip_prefix("die-at-").ok_or("no-protect or die-at-STEP[:N]")?, true),
    };
    let (step, nth) = rest.split_once(':').unwrap_or((rest, "1"));
    let step = Step::WORDS.iter().find(|(word, _)| *word == step).ok_or("no such step")?;
    let nth = nth.parse().map_err(|_| "no number")?;
    Ok(if dies { Sabotage::DieAt(step.1, nth) } else { Sabotage::PanicAt(step.1, nth) })
}

fn summarise(exit: &Ran, out: &Out) {
    let stats = &exit.stats;
    out.note(&format!(
        "driftheap: {} buffers, {} bytes, {} ioctls ({} failed){}{}{}{}\n",
        stats.buffers,
        stats.bytes,
        stats.ioctls,
        stats.ioctl_errors,
        stats.held_at_exit.map_or_else(String::new, |n| format!(", {n} leaked")),
        match stats.pfnmap_fallbacks {
            0 => String::new(),
            n => format!(", {n} without pfnmap"),
        },
        match stats.unwatched {
            0 => String::new(),
            1 => ", 1 program not watched".into(),
            n => format!(", {n} programs not watched"),
        },
        moves(stats),
    ));
    if let Some(misuse) = &exit.misuse {
        let summary = misuse.summary();
        let summary = summary.as_deref().unwrap_or("none seen");
        out.note(&format!("driftheap: misuse: {summary}\n"));
    }
}

fn moves(stats: &Stats) -> String {
    let (moves, pages) = (stats.moves, stats.pages_moved);
    let mut text = String::new();
    if moves > 0 {
        text += &format!(", {moves} moves of {pages} pages");
    }
    if stats.unmovable + stats.barred > 0 {
        text += &format!(", {} that can't move", stats.unmovable + stats.barred);
    }
    if stats.moves_refused > 0 {
        text += &format!(", {} moves refused", stats.moves_refused);
    }
    if stats.killed > 0 {
        text += &format!(", {} buffers purged or revoked", stats.killed);
    }
    text
}

fn end_like(exit: &Ran) -> u8 {
    match exit.status {
        supervisor::Ended::Exited(status) => u8::try_from(status & 0xff).unwrap_or(1),
        supervisor::Ended::Signalled(signal) => {
            if let Ok(named) = signal.try_into() {
                driftheap::sys::supervise::die_of(named);
            }
            128 + u8::try_from(signal).unwrap_or(0)
        }
    }
}

fn exit_code(error: &anyhow::Error) -> u8 {
    match error.downcast_ref() {
        Some(supervisor::RunError::Exec { error, .. })
            if error.kind() == std::io::ErrorKind::NotFound =>
        {
            127
        }
        Some(supervisor::RunError::Exec { .. } | supervisor::RunError::Foreign { .. }) => 126,
        _ => OURS,
    }
}
