//! What a real kernel said of a variant: the third column.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::paint::{Paint, Tone, plural};
use super::table::{Align, Cell, Column};

/// Schedules of a variant in a kernel.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Kernel {
    /// Schedules that were carried out.
    pub replayed: usize,
    /// Of these, those in which every observation was what the model said.
    pub agreed: usize,
    /// Single observations that were compared.
    pub compared: usize,
    /// Why the kernel was not asked.
    pub skipped: Option<String>,
    /// What the first difference was: both sides, and how to repeat it.
    pub difference: Option<String>,
    /// The kernel's report of the bug that the model said it would hit.
    pub bug: Option<String>,
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
            None => self.answered += 1,
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
        let mut out = format!(
            "kernel {release}: {} of {} ({share}%) answered, {} of {} schedules agreed, {} \
             observations compared, {} brought: {verdict}\n",
            self.answered,
            plural(self.variants, "variant"),
            self.agreed,
            self.replayed,
            self.compared,
            plural(self.bugs, "kernel bug"),
        );
        for (why, names) in &self.skipped {
            let skipped = paint.paint(Tone::Warn, "SKIP");
            let _ = writeln!(out, "{skipped} {}: {why}", names.join(", "));
        }
        out
    }
}
