//! The kernel's own answer: `check --kernel`. The host judges and chooses the schedules; one boot of
//! a guest takes them all, and each schedule that should end in a kernel bug gets a boot of its own.
//! What depends on a rule that this kernel has not is asked of the next of [`Version::machines`].

mod console;
mod drivers;
mod guest;
mod machine;
pub(super) mod race;
pub(super) mod trial;
mod wire;

use std::collections::BTreeMap;
use std::fs;
use std::process::Command;

use anyhow::{Context as _, bail};
use driftheap::exec::{Replays, kernel_supports, schedules};
use driftheap::model::{HazardKind, Reply, Signal};
use driftheap::question::scenario::Scenario;
use driftheap::question::verdict::Judgement;
use driftheap::report::full_name;
use driftheap::report::kernel::{Kernel, KernelDifference, KernelDriver};

use super::input::Loaded;
use super::measure::{Ran, bounded, bounded_until};
use super::one;
use super::vm::{SKIPPED, Scripts};
pub(crate) use guest::run as guest;
use machine::Machine;
pub(crate) use machine::Version;
use wire::{Answered, Differs, Job, Said, VariantJob};

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

/// The schedules of one variant that the kernel is to take.
pub(super) struct Question<'a> {
    loaded: &'a Loaded,
    pub(super) scenario: &'a Scenario,
    schedules: Vec<Vec<u8>>,
    /// The one that the model ends with a bug of the kernel's.
    bug: Option<Vec<u8>>,
}

impl<'a> Question<'a> {
    /// Of a variant that was judged.
    pub(super) fn new(
        loaded: &'a Loaded,
        scenario: &'a Scenario,
        judgement: &Judgement,
        how: Replays,
    ) -> Self {
        let (chosen, _) = schedules(scenario, judgement, how);
        let hit = judgement.hazards.get(&HazardKind::KernelBug);
        let bug = hit.filter(|schedule| ends_in_bug(scenario, schedule)).cloned();
        Self { loaded, scenario, schedules: chosen, bug }
    }

    /// One schedule.
    pub(super) fn one(loaded: &'a Loaded, scenario: &'a Scenario, schedule: &[u8]) -> Self {
        let (mut schedules, mut bug) = (Vec::new(), None);
        if ends_in_bug(scenario, schedule) {
            bug = Some(schedule.to_vec());
        } else {
            schedules.push(schedule.to_vec());
        }
        Self { loaded, scenario, schedules, bug }
    }

    fn name(&self) -> String {
        full_name(&self.scenario.test, &self.scenario.variant)
    }

    /// Which variant of its test it is.
    fn position(&self) -> usize {
        let name = &self.scenario.variant;
        let variants = &self.loaded.test.variants;
        variants.iter().position(|variant| variant.name == *name).unwrap_or(0)
    }

    /// A job with these schedules.
    fn job(&self, id: usize, schedules: Vec<Vec<u8>>, provoke: bool) -> Job {
        let variant = VariantJob { id, index: self.position(), name: self.name(), schedules };
        Job {
            file: self.loaded.file.clone(),
            text: self.loaded.text.clone(),
            variants: vec![variant],
            provoke,
            drivers: false,
            race: None,
        }
    }

    fn difference(
        &self,
        schedule: Option<&Vec<u8>>,
        found: Differs,
        console: String,
        option: &str,
    ) -> KernelDifference {
        let variant = &self.scenario.variant;
        let word = &self.loaded.word;
        let again = schedule.map_or_else(
            || format!("driftheap replay {word}{option} --variant {variant}"),
            |schedule| one::again(word, option, variant, schedule),
        );
        let Differs { step, what, model, real } = found;
        let schedule = schedule.cloned().unwrap_or_default();
        KernelDifference { schedule, step, what, model, real, again, console }
    }
}

/// Whether the model ends a schedule with a bug of the kernel's.
fn ends_in_bug(scenario: &Scenario, schedule: &[u8]) -> bool {
    let replay = scenario.replay(schedule);
    let last = replay.ok().and_then(|replay| replay.events.last().map(|event| event.reply));
    last == Some(Reply::Signal(Signal::Oops))
}

/// A guest that can be booted.
struct Guest<'a> {
    scripts: &'a Scripts,
    machine: &'a Machine,
    /// The option that asks it.
    option: &'static str,
    /// Of the kernel that answered.
    release: String,
}

/// Where there can be no guest: the reason and the remedy.
#[derive(Debug)]
struct NoGuest(String);

impl<'a> Guest<'a> {
    /// Fetches and builds what is missing.
    ///
    /// `Ok(Err(_))`: it can't be had here.
    fn new(
        scripts: &'a Scripts,
        machine: &'a Machine,
        option: &'static str,
    ) -> anyhow::Result<Result<Self, NoGuest>> {
        let flavour = machine.flavour;
        let module = scripts.path(flavour);
        if module.exists() {
            return Ok(Ok(Self { scripts, machine, option, release: String::new() }));
        }
        let mut fetch = Command::new(scripts.path("run"));
        fetch.args(["--flavour", flavour, "--fetch"]);
        let ran = bounded(&mut fetch, FETCH_SECONDS_MAX)?;
        match ran.status.code() {
            Some(0) => {}
            Some(SKIPPED) => return Ok(Err(NoGuest(ran.stderr.trim().to_owned()))),
            _ => bail!("the kernel can't be fetched: {}\n{}", ran.status, ran.stderr.trim()),
        }
        let mut build = Command::new(scripts.path("lab-module/build"));
        fs::create_dir_all(&module).context("can't make a directory")?;
        build.arg(module).arg(flavour);
        let built = bounded(&mut build, FETCH_SECONDS_MAX)?;
        match built.status.code() {
            Some(0) => {}
            Some(SKIPPED) => return Ok(Err(NoGuest(built.stderr.trim().to_owned()))),
            _ => bail!("{}", built.stderr.trim()),
        }
        Ok(Ok(Self { scripts, machine, option, release: built.stdout.trim().to_owned() }))
    }

    /// Boots and takes the jobs.
    fn boot(&self, jobs: &[Job], seconds_max: u64) -> anyhow::Result<Boot> {
        self.boot_until(jobs, seconds_max, &mut || false)
    }

    /// The same, no longer than until `ends` says so.
    fn boot_until(
        &self,
        jobs: &[Job],
        seconds_max: u64,
        ends: &mut dyn FnMut() -> bool,
    ) -> anyhow::Result<Boot> {
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
            "echo on >/proc/sys/kernel/printk_devkmsg
             echo always >/sys/kernel/mm/transparent_hugepage/enabled
             insmod driftheap_lab.ko mistake={mistake} && exec ./driftheap __lab jobs {sabotage}"
        );
        let mut run = Command::new(self.scripts.path("run"));
        run.args(["--timeout", &seconds_max.to_string(), "--console"]).arg(&console);
        run.args(["--flavour", self.machine.flavour, "--append", self.machine.append]);
        for module in self.machine.modules {
            run.args(["--module", module]);
        }
        for word in self.machine.qemu {
            run.args(["--qemu", word]);
        }
        let module = self.scripts.path(self.machine.flavour).join("driftheap_lab.ko");
        for file in [module, self.scripts.path("jobs")] {
            run.arg("--add").arg(file);
        }
        run.arg("--program").arg(self.scripts.path("driftheap"));
        run.args(["--", "sh", "-ec", &command]);
        let ran = bounded_until(&mut run, seconds_max + 60, ends)?;
        let console = fs::read(&console).unwrap_or_default();
        let console = String::from_utf8_lossy(&console).into_owned();
        let said = ran.stdout.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
        Ok(Boot { said, ran, console })
    }

    /// What the kernel says of each question.
    fn ask(&mut self, questions: &[&Question<'_>]) -> anyhow::Result<Vec<Kernel>> {
        let mut said = self.ask_together(questions)?;
        let mut all = Vec::with_capacity(questions.len());
        // Variants that differ in what they ask alone end in the same bug.
        let mut provoked: BTreeMap<String, String> = BTreeMap::new();
        for (id, question) in questions.iter().enumerate() {
            let mut kernel = said.remove(&id).unwrap_or_default();
            if let Err(skip) = kernel_supports(question.scenario) {
                kernel.skipped = Some(skip.to_string());
            } else if let Some(schedule) = &question.bug
                && !self.asks_drivers()
            {
                let Scenario { world, programs, .. } = question.scenario;
                let same = format!("{world:?} {programs:?} {schedule:?}");
                if let Some(splat) = provoked.get(&same) {
                    kernel.replayed += 1;
                    kernel.agreed += 1;
                    (kernel.skipped, kernel.bug) = (None, Some(splat.clone()));
                } else {
                    self.provoke(question, schedule, &mut kernel)?;
                    drop(kernel.bug.clone().map(|splat| provoked.insert(same, splat)));
                }
            }
            kernel.release.clone_from(&self.release);
            all.push(kernel);
        }
        Ok(all)
    }

    /// Whether the kernel's drivers are asked, not the laboratory's exporter.
    fn asks_drivers(&self) -> bool {
        self.option == Version::Drivers.option()
    }

    /// All that should end well, in one boot.
    fn ask_together(
        &mut self,
        questions: &[&Question<'_>],
    ) -> anyhow::Result<BTreeMap<usize, Kernel>> {
        let mut answers = BTreeMap::new();
        let to_ask = |id: &usize| {
            !questions[*id].schedules.is_empty() && kernel_supports(questions[*id].scenario).is_ok()
        };
        let mut rest: Vec<usize> = (0..questions.len()).filter(to_ask).collect();
        let mut died_of = None;
        let mut never_began = String::new();
        // A guest that dies is booted again. Under emulation one dies of itself at times: only what
        // kills a second one, too, is the variant's doing.
        for _ in 0..BOOTS_MAX {
            if rest.is_empty() {
                return Ok(answers);
            }
            let boot =
                self.boot(&jobs(questions, &rest, self.asks_drivers()), SUITE_SECONDS_MAX)?;
            let mut begun = None;
            for line in boot.said {
                match line {
                    Said::Release(release) => self.release = release + self.machine.what,
                    Said::Begin { id, schedule } => begun = Some((id, schedule)),
                    Said::Answer(answer) => {
                        begun = None;
                        let id = answer.id;
                        rest.retain(|other| *other != id);
                        drop(
                            answers.insert(
                                id,
                                told(questions[id], answer, &boot.console, self.option),
                            ),
                        );
                    }
                    // Of races: nobody has asked for one.
                    Said::Saw { .. } | Said::Raced { .. } | Said::NotRaced { .. } => {}
                }
            }
            match begun {
                Some((id, _)) if died_of != Some(id) => died_of = Some(id),
                Some((id, schedule)) => {
                    rest.retain(|other| *other != id);
                    let question = questions[id];
                    let words = console::last_words(&boot.console, &question.name());
                    let died = Differs {
                        step: 0,
                        what: "the guest".to_owned(),
                        model: "it lives".to_owned(),
                        real: "it died".to_owned(),
                    };
                    let schedule = question.schedules.get(schedule);
                    let difference = Some(question.difference(schedule, died, words, self.option));
                    drop(answers.insert(id, Kernel { difference, ..Kernel::default() }));
                }
                None if rest.is_empty() => {}
                None => never_began = format!("{}\n{}", boot.ran.status, boot.ran.stderr.trim()),
            }
        }
        if answers.is_empty() && !rest.is_empty() {
            bail!("the guest did not begin: {never_began}");
        }
        let why = format!("the guest died {BOOTS_MAX} times before all was asked");
        for id in rest {
            let skipped = Some(why.clone());
            drop(answers.insert(id, Kernel { skipped, ..Kernel::default() }));
        }
        Ok(answers)
    }

    /// A schedule that the model calls a kernel bug has to end in one.
    fn provoke(
        &self,
        question: &Question<'_>,
        schedule: &Vec<u8>,
        kernel: &mut Kernel,
    ) -> anyhow::Result<()> {
        let jobs = [question.job(0, vec![schedule.clone()], true)];
        let mut boot = self.boot(&jobs, BUG_SECONDS_MAX)?;
        let mut splat = console::splat(&boot.console);
        if splat.is_none() {
            // It may have died of itself.
            boot = self.boot(&jobs, BUG_SECONDS_MAX)?;
            splat = console::splat(&boot.console);
        }
        let named = boot.console.contains(BUG_IN);
        kernel.replayed += 1;
        kernel.skipped = None;
        match splat {
            Some(splat) if named => {
                kernel.agreed += 1;
                kernel.bug = Some(splat);
            }
            splat => {
                let found = Differs {
                    step: schedule.len(),
                    what: "the access".to_owned(),
                    model: format!("a BUG_ON in {BUG_IN}"),
                    real: splat.map_or("no BUG", |_| "a BUG elsewhere").to_owned(),
                };
                let words = console::last_words(&boot.console, &question.name());
                kernel.difference =
                    Some(question.difference(Some(schedule), found, words, self.option));
            }
        }
        Ok(())
    }
}

/// What the kernel says of each question, and its release; where there is no guest to be had, all
/// are skipped with the reason.
pub(super) fn ask(
    questions: &[&Question<'_>],
    version: Version,
) -> anyhow::Result<(String, Vec<Kernel>)> {
    let scripts = Scripts::unpack()?;
    shorten(&scripts)?;
    let option = version.option();
    let Some((first, others)) = version.machines().split_first() else { bail!("no machine") };
    let mut guest = match Guest::new(&scripts, first, option)? {
        Ok(guest) => guest,
        Err(NoGuest(why)) => {
            let why = why.strip_prefix("SKIP: ").unwrap_or(&why).to_owned();
            let skipped = Kernel { skipped: Some(why), ..Kernel::default() };
            return Ok(("(none)".to_owned(), vec![skipped; questions.len()]));
        }
    };
    let mut said = guest.ask(questions)?;
    for machine in others {
        let host = |id: usize| &questions[id].scenario.world.host;
        let unanswered = |id: &usize| {
            said[*id].skipped.is_some() && kernel_supports(questions[*id].scenario).is_ok()
        };
        let left: Vec<usize> = (0..questions.len())
            .filter(|id| unanswered(id) && (machine.may_have)(host(*id)))
            .collect();
        if left.is_empty() {
            continue;
        }
        let some: Vec<&Question<'_>> = left.iter().map(|id| questions[*id]).collect();
        match Guest::new(&scripts, machine, option)? {
            Ok(mut guest) => {
                for (id, kernel) in left.iter().zip(guest.ask(&some)?) {
                    if kernel.skipped.is_none() {
                        said[*id] = kernel;
                    }
                }
            }
            Err(NoGuest(why)) => {
                for id in left {
                    let whole = said[id].skipped.take().unwrap_or_default();
                    said[id].skipped =
                        Some(format!("{whole}; nor is there another: {}", why.trim()));
                }
            }
        }
    }
    Ok((guest.release, said))
}

/// Without debug information the program is a tenth as long; with it, it works as well.
fn shorten(scripts: &Scripts) -> anyhow::Result<()> {
    let own = scripts.path("driftheap");
    let stripped = scripts.path("stripped");
    let mut strip = Command::new("strip");
    strip.arg("-o").arg(&stripped).arg(&own);
    if bounded(&mut strip, BUG_SECONDS_MAX).is_ok_and(|ran| ran.status.success()) {
        fs::remove_file(&own).and_then(|()| fs::rename(&stripped, &own)).context("strip")?;
    }
    Ok(())
}

/// What came of a boot.
struct Boot {
    said: Vec<Said>,
    ran: Ran,
    console: String,
}

/// How often a guest is booted before the variants that were not asked yet are left out.
const BOOTS_MAX: usize = 6;

/// Where the one bug is that the model knows: a copy-on-write mapping of bare pfns.
const BUG_IN: &str = "vmf_insert_pfn_prot";

/// A job a test.
fn jobs(questions: &[&Question<'_>], ids: &[usize], drivers: bool) -> Vec<Job> {
    let mut jobs: Vec<Job> = Vec::new();
    for &id in ids {
        let mut job = questions[id].job(id, questions[id].schedules.clone(), false);
        job.drivers = drivers;
        match jobs.last_mut() {
            Some(last) if last.file == job.file => last.variants.append(&mut job.variants),
            _ => jobs.push(job),
        }
    }
    jobs
}

fn driver_told(said: wire::DriverSaid) -> KernelDriver {
    let wire::DriverSaid { name, replayed, agreed, compared, steps, of, difference: _ } = said;
    KernelDriver { name, replayed, agreed, compared, steps, of }
}

fn told(question: &Question<'_>, answered: Answered, console: &str, option: &str) -> Kernel {
    let difference = answered.difference.map(|(schedule, found)| {
        let words = console::during(console, &question.name());
        question.difference(question.schedules.get(schedule), found, words, option)
    });
    Kernel {
        replayed: answered.replayed,
        agreed: answered.agreed,
        compared: answered.compared,
        skipped: answered.skipped,
        own_rules: answered.own_rules,
        drivers: answered.drivers.into_iter().map(driver_told).collect(),
        difference,
        ..Kernel::default()
    }
}
