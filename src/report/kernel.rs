//! What a real kernel said of a variant: the third column.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde::Serialize;

use super::paint::{Paint, Tone, plural};
use super::real::skips;
use super::table::{Align, Cell, Column};

/// Schedules of a variant in a kernel.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct Kernel {
    /// Which kernel: `uname -r`. Empty where there is none.
    pub release: String,
    /// Schedules that were carried out.
    pub replayed: usize,
    /// Of these, those in which every observation was what the model said.
    pub agreed: usize,
    /// Single observations that were compared.
    pub compared: usize,
    /// Why the kernel was not asked.
    pub skipped: Option<String>,
    /// Rules that are this kernel's own, where the variant leaves them open and they make a difference: the
    /// model was asked with these.
    pub own_rules: Option<String>,
    /// What each of the kernel's own drivers said, where these were asked.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub drivers: Vec<KernelDriver>,
    /// The first difference.
    pub difference: Option<KernelDifference>,
    /// The kernel's report of the bug that the model said it would hit.
    pub bug: Option<String>,
}

/// Schedules of a variant on buffers of a driver, as far as they go there.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct KernelDriver {
    /// The driver.
    pub name: String,
    /// Schedules that were carried out.
    pub replayed: usize,
    /// Of these, those in which every observation was what the model said.
    pub agreed: usize,
    /// Single observations that were compared.
    pub compared: usize,
    /// Steps that were taken: a driver does not move its buffers because a test wants it to.
    pub steps: usize,
    /// Steps that these schedules have.
    pub of: usize,
}

/// Both sides of a difference, and how to see it again.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct KernelDifference {
    /// The process of each step; none where it is not known.
    pub schedule: Vec<u8>,
    /// Counted from 1; 0 where it is not known.
    pub step: usize,
    /// What was observed.
    pub what: String,
    /// What the model says.
    pub model: String,
    /// What the kernel says.
    pub real: String,
    /// The command that takes the schedule again.
    pub again: String,
    /// What the guest's kernel printed meanwhile.
    pub console: String,
}

impl KernelDifference {
    /// A heading and a line each, indented.
    #[must_use]
    pub fn text(&self) -> String {
        let step = if self.step == 0 { String::new() } else { format!("step {}, ", self.step) };
        let mut out = format!(
            "{step}{}\n    the model says   {}\n    the kernel says  {}\n    to repeat it: {}\n",
            self.what, self.model, self.real, self.again
        );
        if !self.console.is_empty() {
            out.push_str("    its console:\n");
            out.push_str(&indented(&self.console, 6));
        }
        out
    }
}

fn indented(text: &str, by: usize) -> String {
    text.lines().fold(String::new(), |mut out, line| {
        let _ = writeln!(out, "{:by$}{line}", "");
        out
    })
}

/// What came of a variant's schedules.
#[must_use]
pub fn replayed(name: &str, kernel: &Kernel, paint: Paint) -> String {
    let Kernel { release, agreed, replayed, compared, .. } = kernel;
    if let Some(why) = &kernel.skipped {
        return format!("{} {name}: {why}\n", paint.paint(Tone::Warn, "SKIP"));
    }
    let mut out = format!(
        "{name}: kernel {release}: {agreed} of {} agreed, {} compared\n",
        plural(*replayed, "schedule"),
        plural(*compared, "observation")
    );
    if let Some(rules) = &kernel.own_rules {
        let _ = writeln!(out, "  the model was asked with a rule of this kernel's own: {rules}");
    }
    for driver in &kernel.drivers {
        let KernelDriver { name, agreed, replayed, steps, of, .. } = driver;
        let _ =
            writeln!(out, "  driver {name}: {agreed} of {replayed} agreed, {steps} of {of} steps");
    }
    if let Some(bug) = &kernel.bug {
        out.push_str(&indented(bug, 2));
    }
    if let Some(difference) = &kernel.difference {
        let differs = paint.paint(Tone::Bad, "DISAGREEMENT");
        let _ = write!(out, "  {differs}: {}", difference.text());
    }
    out
}

/// What stands below the story of one schedule.
#[must_use]
pub fn below_story(kernel: &Kernel, paint: Paint) -> String {
    if let Some(why) = &kernel.skipped {
        return format!("\n{} the kernel was not asked: {why}\n", paint.paint(Tone::Warn, "SKIP"));
    }
    let release = &kernel.release;
    if let Some(difference) = &kernel.difference {
        let differs = paint.paint(Tone::Bad, "DISAGREES");
        return format!("\nThe kernel {release} {differs}: {}", difference.text());
    }
    match &kernel.bug {
        Some(bug) => {
            format!("\nThe kernel {release} took this schedule, and said so:\n{}", indented(bug, 1))
        }
        None => format!(
            "\nThe kernel {release} took this schedule and agrees: {} compared.\n",
            plural(kernel.compared, "observation")
        ),
    }
}

/// The column that [`cell`] fills.
#[must_use]
pub fn column() -> Column {
    Column::new("kernel", Align::Right).at_least(7)
}

/// A variant's cell: schedules that agreed, of those that were taken.
#[must_use]
pub fn cell(kernel: &Kernel) -> Cell {
    match kernel {
        Kernel { difference: Some(_), .. } => Cell::toned("DIFFERS", Tone::Bad),
        Kernel { skipped: Some(_), .. } => Cell::toned("skipped", Tone::Warn),
        Kernel { replayed, agreed, .. } => Cell::toned(format!("{agreed}/{replayed}"), Tone::Good),
    }
}

/// What all variants came to.
#[derive(Debug, Clone, Default)]
pub struct KernelTotals {
    variants: usize,
    answered: usize,
    replayed: usize,
    agreed: usize,
    compared: usize,
    bugs: usize,
    differ: usize,
    /// Variants that each kernel answered.
    by: BTreeMap<String, usize>,
    /// Variants that were asked with a kernel's own rules, by these.
    own: BTreeMap<String, usize>,
    /// Variants that each driver answered, and its sums.
    drivers: BTreeMap<String, (usize, KernelDriver)>,
    skipped: BTreeMap<String, Vec<String>>,
}

impl KernelTotals {
    /// Count one more variant.
    pub fn count(&mut self, name: &str, kernel: &Kernel) {
        self.variants += 1;
        self.replayed += kernel.replayed;
        self.agreed += kernel.agreed;
        self.compared += kernel.compared;
        self.bugs += usize::from(kernel.bug.is_some());
        self.differ += usize::from(kernel.difference.is_some());
        match &kernel.skipped {
            Some(why) => self.skipped.entry(why.clone()).or_default().push(name.to_owned()),
            None => {
                self.answered += 1;
                *self.by.entry(kernel.release.clone()).or_default() += 1;
                for driver in &kernel.drivers {
                    let (variants, sums) = self.drivers.entry(driver.name.clone()).or_default();
                    *variants += 1;
                    sums.replayed += driver.replayed;
                    sums.agreed += driver.agreed;
                    sums.compared += driver.compared;
                    sums.steps += driver.steps;
                    sums.of += driver.of;
                }
                if let Some(rules) = &kernel.own_rules {
                    *self.own.entry(rules.clone()).or_default() += 1;
                }
            }
        }
    }

    /// A line with the share of variants, and one for each reason why some were skipped.
    #[must_use]
    pub fn summary(&self, release: &str, paint: Paint) -> String {
        let share = 100 * self.answered / self.variants.max(1);
        let verdict = if self.differ == 0 {
            paint.paint(Tone::Good, "no disagreement")
        } else {
            let differ = plural(self.differ, "variant");
            paint.paint(Tone::Bad, &format!("{differ} on which model and kernel disagree"))
        };
        let out = format!(
            "kernel {release}: {} of {} ({share}%) answered, {} of {} schedules agreed, {} \
             observations compared, {} brought: {verdict}\n",
            self.answered,
            plural(self.variants, "variant"),
            self.agreed,
            self.replayed,
            self.compared,
            plural(self.bugs, "kernel bug"),
        );
        let mut out = out;
        for (other, answered) in self.by.iter().filter(|(by, _)| *by != release) {
            let variants = plural(*answered, "variant");
            let _ =
                writeln!(out, "{variants} of these: kernel {other}, whose rules they are about");
        }
        for (rules, asked) in &self.own {
            let variants = plural(*asked, "variant");
            let _ = writeln!(
                out,
                "{variants} of these: asked with a rule of this kernel's own: {rules}"
            );
        }
        for (name, (variants, sums)) in &self.drivers {
            let KernelDriver { replayed, agreed, compared, steps, of, .. } = sums;
            let variants = plural(*variants, "variant");
            let _ = writeln!(
                out,
                "driver {name}: {variants}, {agreed} of {replayed} schedules agreed, as far as it \
                 goes without an exporter's steps ({steps} of {of} steps), {compared} observations \
                 compared"
            );
        }
        out + &skips(&self.skipped, paint)
    }
}
