//! What real memory said of a variant, next to the model's answer.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::paint::{Paint, Tone, plural};
use super::table::{Align, Cell, Column};

/// Schedules of a variant on real memory.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Real {
    /// Schedules that were carried out.
    pub replayed: usize,
    /// Of these, those in which every observation was what the model said.
    pub agreed: usize,
    /// Single observations that were compared.
    pub compared: usize,
    /// Why nothing was replayed.
    pub skipped: Option<String>,
    /// What the first difference was: both sides, and the command that repeats it.
    pub difference: Option<String>,
    /// What hazards left in their victims' memory, as another process read it.
    pub corrupted: usize,
}

/// The columns that [`cells`] fills.
#[must_use]
pub fn columns() -> Vec<Column> {
    vec![
        Column::new("replayed", Align::Right),
        Column::new("agreed", Align::Right),
        Column::new("", Align::Left).at_least(7),
    ]
}

/// A variant's cells: schedules replayed and agreed, and `skipped` where there are none.
#[must_use]
pub fn cells(real: &Real) -> Vec<Cell> {
    let (mark, tone) = match real {
        Real { difference: Some(_), .. } => ("DIFFERS", Tone::Bad),
        Real { skipped: Some(_), .. } => ("skipped", Tone::Warn),
        _ => ("ok", Tone::Good),
    };
    if real.skipped.is_some() {
        let none = || Cell::toned("-", Tone::Dim);
        return vec![none(), none(), Cell::toned(mark, tone)];
    }
    vec![
        Cell::new(real.replayed.to_string()),
        Cell::new(real.agreed.to_string()),
        Cell::toned(mark, tone),
    ]
}

/// What all variants came to on real memory.
#[derive(Debug, Clone, Default)]
pub struct RealTotals {
    variants: usize,
    expressed: usize,
    replayed: usize,
    agreed: usize,
    compared: usize,
    corrupted: usize,
    differ: usize,
    skipped: BTreeMap<String, Vec<String>>,
}

impl RealTotals {
    /// Count one more variant.
    pub fn count(&mut self, name: &str, real: &Real) {
        self.variants += 1;
        self.replayed += real.replayed;
        self.agreed += real.agreed;
        self.compared += real.compared;
        self.corrupted += real.corrupted;
        self.differ += usize::from(real.difference.is_some());
        match &real.skipped {
            Some(why) => self.skipped.entry(why.clone()).or_default().push(name.to_owned()),
            None => self.expressed += 1,
        }
    }

    /// Whether nothing differed.
    #[must_use]
    pub const fn good(&self) -> bool {
        self.differ == 0
    }

    /// A line with the share of variants, and one for each reason why some were skipped.
    #[must_use]
    pub fn summary(&self, paint: Paint) -> String {
        let share = 100 * self.expressed / self.variants.max(1);
        let verdict = if self.differ == 0 {
            paint.paint(Tone::Good, "no disagreement")
        } else {
            let differ = plural(self.differ, "variant");
            paint.paint(Tone::Bad, &format!("{differ} on which model and memory disagree"))
        };
        let mut out = format!(
            "real memory: {} of {} ({share}%) replayed, {} of {} schedules agreed, {} observations \
             compared: {verdict}\n",
            self.expressed,
            plural(self.variants, "variant"),
            self.agreed,
            self.replayed,
            self.compared,
        );
        if self.corrupted > 0 {
            let _ = writeln!(
                out,
                "{} corrupted pages were read back from their victims by another process",
                self.corrupted
            );
        }
        out + &skips(&self.skipped, paint)
    }
}

/// A line for each reason, with the variants that were skipped for it.
pub(super) fn skips(skipped: &BTreeMap<String, Vec<String>>, paint: Paint) -> String {
    skipped.iter().fold(String::new(), |mut out, (why, names)| {
        let skip = paint.paint(Tone::Warn, "SKIP");
        let _ = writeln!(out, "{skip} {}: {why}", names.join(", "));
        out
    })
}
