//! The kernel's own answer: `check --kernel`. The host judges and chooses the schedules; one boot of
//! a guest takes them all, and each schedule that should end in a kernel bug gets a boot of its own.

mod guest;
mod wire;

use std::collections::BTreeMap;
use std::fs;
use std::process::Command;

use anyhow::{Context as _, bail};
use driftheap::exec::{Replays, schedules};
use driftheap::model::{HazardKind, Reply, Signal};
use driftheap::question::scenario::Scenario;
use driftheap::question::verdict::Judgement;
use driftheap::report::kernel::Kernel;

use super::input::Loaded;
use super::measure::{Ran, bounded};
use super::vm::{SKIPPED, Scripts};
pub(crate) use guest::run as guest;
use wire::{Answered, Job, Said, VariantJob};

/// Longest that the one boot with all schedules may take.
const SUITE_SECONDS_MAX: u64 = 480;
/// Longest that a boot may take that is to end in a kernel bug.
const BUG_SECONDS_MAX: u64 = 120;
/// What a first run fetches and builds.
const FETCH_SECONDS_MAX: u64 = 600;

/// Tests of the comparison: a wrong model (a name that the guest knows), a wrong module (a number of
/// `enum lab_mistake`).
const SABOTAGE: &str = "DRIFTHEAP_LAB_SABOTAGE";
const MISTAKE: &str = "DRIFTHEAP_LAB_MISTAKE";

/// One variant that was judged.
pub(super) struct Question<'a> {
    pub(super) loaded: &'a Loaded,
    pub(super) scenario: &'a Scenario,
    pub(super) judgement: &'a Judgement,
}

/// A guest that can be booted.
pub(super) struct Guest {
    scripts: Scripts,
    /// Of the kernel that answered.
    pub(super) release: String,
}

/// Where there can be no guest: the reason and the remedy.
#[derive(Debug)]
pub(super) struct NoGuest(pub(super) String);

impl Guest {
    /// Fetches and builds what is missing.
    ///
    /// `Ok(Err(_))`: it can't be had here.
    pub(super) fn new() -> anyhow::Result<Result<Self, NoGuest>> {
        let scripts = Scripts::unpack()?;
        let mut boot = Command::new(scripts.path("run"));
        boot.args(["--timeout", "120", "--", "uname", "-r"]);
        let ran = bounded(&mut boot, FETCH_SECONDS_MAX)?;
        match ran.status.code() {
            Some(0) => {}
            Some(SKIPPED) => return Ok(Err(NoGuest(ran.stderr.trim().to_owned()))),
            _ => bail!("the guest does not boot: {}\n{}", ran.status, ran.stderr.trim()),
        }
        let mut build = Command::new(scripts.path("lab-module/build"));
        build.arg(scripts.path(""));
        let built = bounded(&mut build, FETCH_SECONDS_MAX)?;
        match built.status.code() {
            Some(0) => {}
            Some(SKIPPED) => return Ok(Err(NoGuest(built.stderr.trim().to_owned()))),
            _ => bail!("{}", built.stderr.trim()),
        }
        // Without debug information the program is a tenth as long; with it, it works as well.
        let own = scripts.path("driftheap");
        let stripped = scripts.path("stripped");
        let mut strip = Command::new("strip");
        strip.arg("-o").arg(&stripped).arg(&own);
        if bounded(&mut strip, BUG_SECONDS_MAX).is_ok_and(|ran| ran.status.success()) {
            fs::remove_file(&own).and_then(|()| fs::rename(&stripped, &own)).context("strip")?;
        }
        Ok(Ok(Self { scripts, release: ran.stdout.trim().to_owned() }))
    }

    /// Boots and takes the jobs.
    fn boot(&self, jobs: &[Job], seconds_max: u64) -> anyhow::Result<(Ran, String)> {
        let mut text = String::new();
        for job in jobs {
            text += &serde_json::to_string(job)?;
            text.push('\n');
        }
        let path = self.scripts.path("jobs");
        fs::write(&path, text).context("can't write the jobs")?;
        let console = self.scripts.path("console");
        let mistake = std::env::var(MISTAKE).unwrap_or_else(|_| "0".to_owned());
        let sabotage = std::env::var(SABOTAGE).unwrap_or_default();
        let command = format!(
            "insmod driftheap_lab.ko mistake={mistake} && exec ./driftheap __lab jobs {sabotage}"
        );
        let mut run = Command::new(self.scripts.path("run"));
        run.args(["--timeout", &seconds_max.to_string(), "--console"]).arg(&console);
        for file in ["driftheap_lab.ko", "jobs"] {
            run.arg("--add").arg(self.scripts.path(file));
        }
        run.arg("--program").arg(self.scripts.path("driftheap"));
        run.args(["--", "sh", "-ec", &command]);
        let ran = bounded(&mut run, seconds_max + 60)?;
        let console = fs::read(&console).unwrap_or_default();
        Ok((ran, String::from_utf8_lossy(&console).into_owned()))
    }

    /// What the kernel says of each question.
    pub(super) fn ask(
        &mut self,
        questions: &[&Question<'_>],
        how: Replays,
    ) -> anyhow::Result<Vec<Kernel>> {
        let mut answers: BTreeMap<usize, Answered> = BTreeMap::new();
        let mut rest: Vec<usize> = (0..questions.len()).collect();
        let mut died: BTreeMap<usize, String> = BTreeMap::new();
        // A guest that dies of a variant is booted again for the others.
        for _ in 0..DEATHS_MAX {
            if rest.is_empty() {
                break;
            }
            let jobs = jobs(questions, &rest, how);
            let (ran, console) = self.boot(&jobs, SUITE_SECONDS_MAX)?;
            let said: Vec<Said> =
                ran.stdout.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
            let mut begun = None;
            for line in said {
                match line {
                    Said::Release(release) => self.release = release,
                    Said::Begin(id) => begun = Some(id),
                    Said::Answer(answer) => {
                        begun = None;
                        drop(answers.insert(answer.id, answer));
                    }
                }
            }
            rest.retain(|id| !answers.contains_key(id));
            match begun {
                Some(id) => {
                    rest.retain(|other| *other != id);
                    died.insert(id, last_words(&console, &ran));
                }
                None if rest.is_empty() => {}
                None => bail!("the guest did not begin: {}\n{}", ran.status, ran.stderr.trim()),
            }
        }
        let mut all = Vec::with_capacity(questions.len());
        for (id, question) in questions.iter().enumerate() {
            let mut kernel = match (answers.remove(&id), died.remove(&id)) {
                (Some(answered), _) => told(question, answered),
                (None, Some(console)) => Kernel {
                    difference: Some(format!(
                        "the guest died, and the model knows of no bug; its console ends:\n{console}"
                    )),
                    ..Kernel::default()
                },
                (None, None) => Kernel {
                    skipped: Some(format!("the guest died {DEATHS_MAX} times before it was asked")),
                    ..Kernel::default()
                },
            };
            self.provoke(question, &mut kernel)?;
            all.push(kernel);
        }
        Ok(all)
    }

    /// A schedule that the model calls a kernel bug has to end in one.
    fn provoke(&self, question: &Question<'_>, kernel: &mut Kernel) -> anyhow::Result<()> {
        let Some(schedule) = bug(question) else { return Ok(()) };
        if driftheap::exec::kernel_supports(question.scenario).is_err() {
            return Ok(());
        }
        let index = position(question);
        let variants = vec![VariantJob { id: 0, index, schedules: vec![schedule.clone()] }];
        let job = Job {
            file: question.loaded.file.clone(),
            text: question.loaded.text.clone(),
            variants,
            provoke: true,
        };
        let (ran, console) = self.boot(&[job], BUG_SECONDS_MAX)?;
        let splat = splat(&console);
        let named = console.contains("vmf_insert_pfn_prot");
        kernel.replayed += 1;
        kernel.skipped = None;
        match splat {
            Some(splat) if named => {
                kernel.agreed += 1;
                kernel.bug = Some(splat);
            }
            other => {
                let real = other.unwrap_or_else(|| format!("no BUG; {}", ran.stdout.trim()));
                kernel.difference = Some(format!(
                    "schedule {}: the model says a BUG_ON in vmf_insert_pfn_prot, the kernel says: \
                     {real}",
                    in_words(&schedule)
                ));
            }
        }
        Ok(())
    }
}

/// How often a guest may die of a variant before the others are left out.
const DEATHS_MAX: usize = 5;

/// The shortest schedule that the model ends with a bug of the core's.
fn bug(question: &Question<'_>) -> Option<Vec<u8>> {
    let schedule = question.judgement.hazards.get(&HazardKind::KernelBug)?;
    let replay = question.scenario.replay(schedule).ok()?;
    let last = replay.events.last()?;
    (last.reply == Reply::Signal(Signal::Oops)).then(|| schedule.clone())
}

/// Which variant of its test a question is.
fn position(question: &Question<'_>) -> usize {
    let name = &question.scenario.variant;
    let variants = &question.loaded.test.variants;
    variants.iter().position(|variant| variant.name == *name).unwrap_or(0)
}

/// A job a test.
fn jobs(questions: &[&Question<'_>], ids: &[usize], how: Replays) -> Vec<Job> {
    let mut jobs: Vec<Job> = Vec::new();
    for &id in ids {
        let question = questions[id];
        let (chosen, _) = schedules(question.scenario, question.judgement, how);
        let variant = VariantJob { id, index: position(question), schedules: chosen };
        match jobs.last_mut() {
            Some(job) if job.file == question.loaded.file => job.variants.push(variant),
            _ => jobs.push(Job {
                file: question.loaded.file.clone(),
                text: question.loaded.text.clone(),
                variants: vec![variant],
                provoke: false,
            }),
        }
    }
    jobs
}

fn told(question: &Question<'_>, answered: Answered) -> Kernel {
    let scenario = question.scenario;
    let difference = answered.difference.map(|found| {
        format!(
            "step {}, {}: the model says {}, the kernel says {}; to repeat it:\n    driftheap check \
             --kernel --replay all {} (variant {}, schedule {})",
            found.step,
            found.what,
            found.model,
            found.real,
            question.loaded.file,
            scenario.variant,
            in_words(&found.schedule)
        )
    });
    Kernel {
        replayed: answered.replayed,
        agreed: answered.agreed,
        compared: answered.compared,
        skipped: answered.skipped,
        difference,
        bug: None,
    }
}

fn in_words(schedule: &[u8]) -> String {
    schedule.iter().map(u8::to_string).collect::<Vec<_>>().join(",")
}

/// The kernel's own report of its end, without the lines that only a machine reads.
fn splat(console: &str) -> Option<String> {
    let lines: Vec<&str> = console.lines().collect();
    let from = lines.iter().position(|line| line.contains("kernel BUG at"))?;
    let wanted = |line: &&&str| {
        ["kernel BUG at", "Oops:", "CPU:", "RIP:", "Call Trace", "Kernel panic"]
            .iter()
            .any(|word| line.contains(word))
            || line.contains("+0x")
    };
    let picked: Vec<&str> = lines[from..].iter().filter(wanted).take(24).copied().collect();
    Some(picked.join("\n"))
}

fn last_words(console: &str, ran: &Ran) -> String {
    let lines: Vec<&str> = console.lines().collect();
    let from = lines.len().saturating_sub(30);
    if lines.is_empty() { ran.stderr.trim().to_owned() } else { lines[from..].join("\n") }
}
