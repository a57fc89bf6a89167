//! The command line: verbs, options, exit codes.
//!
//! A verb reads its input, asks the library and writes what `driftheap::report` makes of the
//! answer. It returns an [`Exit`]; only [`main`] turns one into a process's exit status.

mod check;
mod compare;
mod complete;
mod ctl;
mod device;
mod doctor;
mod explain;
mod fmt;
mod formats;
mod hunt;
mod input;
mod interrupt;
mod kernel;
mod list;
mod live;
mod matrix;
mod measure;
mod memory;
mod merge;
mod misuse;
mod new;
mod one;
mod out;
mod perfetto;
mod play;
mod pool;
mod real;
mod record;
mod reference;
mod replay;
mod report;
mod run;
mod schema;
mod serve;
mod serve_cuse;
mod serve_socket;
mod shard;
mod step;
mod vm;
mod web;

use std::ffi::OsStr;
use std::path::Path;
use std::process::ExitCode;

use clap::{Args, ColorChoice, Parser, Subcommand, ValueEnum};
use driftheap::explore::{Limits, Reduction};
use driftheap::question::verdict::Search;

use out::{Out, is_broken_pipe};

/// How a command ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Exit {
    /// Everything as expected.
    Good,
    /// Something differs, or could not be told.
    Differs,
    /// Bad usage or input.
    Input,
    /// As the program ended that was run.
    Program(u8),
}

impl Exit {
    fn code(self) -> ExitCode {
        ExitCode::from(match self {
            Self::Good => 0,
            Self::Differs => 1,
            Self::Input => 2,
            Self::Program(status) => status,
        })
    }
}

/// What a shell makes of a program that SIGPIPE ended.
const BROKEN_PIPE: u8 = 141;

const AFTER_HELP: &str = "\
Examples:
  driftheap                              the bundled suite: a line per variant
  driftheap explain ttm-direct-io        the shortest schedule that goes wrong, step by step
  driftheap matrix A1-A7                 what get_user_pages does on which mapping
  driftheap check my.litmus -v           your own question
  driftheap check - < my.litmus          the same from standard input

Exit status:
  0  every variant is as its file expects
  1  a variant differs, or a limit was reached before its answer was known
  2  bad usage, or input that can't be read; every mistake is printed with its place";

/// A userspace dma-buf heap whose buffers move: litmus tests for dma-buf lifetimes.
///
/// A litmus test is a question: a few processes map, pin, attach, move and free buffers, and at
/// its end stands a condition such as `exists (hazard cross-buffer-write)`. driftheap tries every
/// interleaving and answers Always, Sometimes or Never, with the shortest schedule that shows it.
///
/// Without a verb it runs the bundled suite.
#[derive(Debug, Parser)]
#[command(name = "driftheap", version, after_help = AFTER_HELP, after_long_help = AFTER_HELP)]
struct Cli {
    #[command(subcommand)]
    verb: Option<Command>,

    #[command(flatten)]
    global: Global,
}

#[derive(Debug, Clone, Args)]
pub(crate) struct Global {
    /// When to colour
    #[arg(long, value_name = "WHEN", default_value = "auto", global = true)]
    color: When,

    /// Print nothing but what is not as expected
    #[arg(short, long, global = true)]
    quiet: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum When {
    /// On a terminal, unless NO_COLOR is set
    Auto,
    Always,
    Never,
}

#[derive(Debug, Subcommand)]
enum Command {
    Check(check::CheckArgs),
    Explain(explain::ExplainArgs),
    Step(step::StepArgs),
    Replay(replay::ReplayArgs),
    Hunt(hunt::HuntArgs),
    Merge(merge::MergeArgs),
    Matrix(matrix::MatrixArgs),
    Report(report::ReportArgs),
    Play(play::PlayArgs),
    Doctor(doctor::DoctorArgs),
    List(list::ListArgs),
    Rules(reference::RulesArgs),
    Statement(reference::StatementArgs),
    New(new::NewArgs),
    Schema(schema::SchemaArgs),
    Fmt(fmt::FmtArgs),
    Completions(complete::CompletionsArgs),
    Run(run::RunArgs),
    Ctl(ctl::CtlArgs),
    Serve(serve::ServeArgs),
    Compare(compare::CompareArgs),
}

/// How far and how to search.
#[derive(Debug, Clone, Args)]
pub(crate) struct SearchArgs {
    /// Give up a variant after N states; its answer is then unknown
    #[arg(long, value_name = "N", default_value_t = 1 << 28,
          value_parser = clap::value_parser!(u32).range(1..=1 << 28))]
    states: u32,

    /// Give up a variant that needs more memory, as 512M or 4G [default: half of what is free]
    #[arg(long, value_name = "SIZE", value_parser = memory::size)]
    memory: Option<u64>,

    /// Use N threads [default: one per processor]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=256))]
    threads: Option<u16>,
}

impl SearchArgs {
    fn threads(&self) -> usize {
        let all = || std::thread::available_parallelism().map_or(1, usize::from);
        self.threads.map_or_else(all, usize::from)
    }

    fn search(&self, reduce: bool) -> Search {
        let memory_bytes_max = self.memory.unwrap_or_else(memory::half_of_free);
        let limits = Limits { states_max: self.states, memory_bytes_max, ..Limits::default() };
        let reduction = if reduce { Reduction::Persistent } else { Reduction::Live };
        Search { limits, reduction, threads: self.threads(), first: None }
    }
}

/// What the guest of `check --kernel` runs: a file of jobs, or `--trial`.
pub(crate) fn lab(what: &OsStr, sabotage: Option<&OsStr>) -> ExitCode {
    let ran = match what.to_str() {
        Some("--trial") => kernel::trial::run(),
        Some("--victim") => kernel::trial::victim(),
        Some("--holder") => kernel::trial::holder(),
        _ => kernel::guest(Path::new(what), sabotage.and_then(OsStr::to_str)),
    };
    match ran {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            anstream::eprintln!("{error:#}");
            ExitCode::from(2)
        }
    }
}

/// Everything between the command line and the exit status.
pub(crate) fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version are "errors" too, with status 0.
            let printed = error.print();
            return match printed.map_err(anyhow::Error::from) {
                Ok(()) => ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2)),
                // Who has read enough of it has closed the pipe.
                Err(closed) if is_broken_pipe(&closed) => ExitCode::SUCCESS,
                Err(error) => {
                    anstream::eprintln!("error: can't write the help: {error:#}");
                    Exit::Input.code()
                }
            };
        }
    };
    let out = Out::new(&cli.global);
    match run(cli, &out) {
        Ok(exit) => exit.code(),
        Err(error) if is_broken_pipe(&error) => ExitCode::from(BROKEN_PIPE),
        Err(error) => {
            out.error(&format!("{error:#}"));
            Exit::Input.code()
        }
    }
}

fn run(cli: Cli, out: &Out) -> anyhow::Result<Exit> {
    match cli.verb {
        None => check::suite(out),
        Some(Command::Check(args)) => check::run(&args, out),
        Some(Command::Explain(args)) => explain::run(&args, out),
        Some(Command::Step(args)) => step::run(&args, out),
        Some(Command::Replay(args)) => replay::run(&args, out),
        Some(Command::Hunt(args)) => hunt::run(&args, out),
        Some(Command::Doctor(args)) => doctor::run(&args, out),
        Some(Command::Merge(args)) => merge::run(&args, out),
        Some(Command::Matrix(args)) => matrix::run(&args, out),
        Some(Command::Report(args)) => report::run(&args, out),
        Some(Command::Play(args)) => play::run(&args, out),
        Some(Command::List(args)) => list::run(&args, out),
        Some(Command::Rules(args)) => reference::rules(&args, out),
        Some(Command::Statement(args)) => reference::statement(&args, out),
        Some(Command::New(args)) => new::run(&args, out),
        Some(Command::Schema(args)) => schema::run(&args, out),
        Some(Command::Fmt(args)) => fmt::run(&args, out),
        Some(Command::Completions(args)) => complete::run(&args, out),
        Some(Command::Run(args)) => Ok(run::run(args, out)),
        Some(Command::Ctl(args)) => ctl::run(&args, out),
        Some(Command::Serve(args)) => serve::run(args, out),
        Some(Command::Compare(args)) => compare::run(&args, out),
    }
}

impl Global {
    const fn choice(&self) -> ColorChoice {
        match self.color {
            When::Auto => ColorChoice::Auto,
            When::Always => ColorChoice::Always,
            When::Never => ColorChoice::Never,
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        super::Cli::command().debug_assert();
    }
}
