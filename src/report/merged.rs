//! Answers of several runs put together: the lines of `check --json`, read again.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::formats::{Case, Ending};
use super::full_name;
use super::paint::{Paint, Tone, compact};
use super::real;
use super::table::{Cell, Table};
use super::verdicts::{self, Mark, Totals};
use crate::model::Cost;
use crate::terminal::printed;

/// Which part of all variants a run was to answer, and which of them this is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shard {
    /// The run, from 1.
    pub number: usize,
    /// How many runs there are.
    pub of: usize,
    /// The variant, from 1.
    pub job: usize,
    /// How many variants all runs have to answer.
    pub jobs: usize,
    /// Digest of the questions and of how they were asked: the same in all runs.
    pub asked: u32,
}

/// A line of `check --json`.
#[derive(Debug, Clone, Deserialize)]
pub struct Line {
    test: String,
    variant: String,
    #[serde(default)]
    expected: Option<String>,
    observation: Option<String>,
    #[serde(default)]
    as_expected: Option<bool>,
    #[serde(default)]
    shown: bool,
    #[serde(default)]
    states: u64,
    #[serde(default)]
    schedules: u128,
    #[serde(default)]
    shortest: Option<Vec<u8>>,
    #[serde(default)]
    costs: BTreeMap<String, Range>,
    #[serde(default)]
    vacuous: bool,
    #[serde(default)]
    stopped: Option<String>,
    #[serde(default)]
    replayed: Option<usize>,
    #[serde(default)]
    agreed: Option<usize>,
    #[serde(default)]
    skipped: Option<String>,
    #[serde(default)]
    difference: Option<String>,
    #[serde(default)]
    kernel: Option<Kernel>,
    #[serde(default)]
    shard: Option<Shard>,
    #[serde(default)]
    error: Option<String>,
}

#[derive(Debug, Clone, Deserialize)]
struct Range {
    least: u64,
    most: u64,
}

#[derive(Debug, Clone, Deserialize)]
struct Kernel {
    #[serde(default)]
    difference: Option<serde_json::Value>,
}

/// All lines of one report.
#[derive(Debug)]
pub struct Merged {
    lines: Vec<Line>,
}

/// Why runs can't be put together.
#[derive(Debug, thiserror::Error)]
pub enum MergeError {
    /// Not what `check --json` prints.
    #[error("{file}:{number}: not a line of `driftheap check --json`: {error}")]
    NotALine {
        /// In which file.
        file: String,
        /// In which line.
        number: usize,
        /// What is wrong with it.
        error: String,
    },
    /// A variant, by its name.
    #[error("{0} is answered twice")]
    Twice(String),
    /// The files are empty.
    #[error("there is no answer in these files: did the runs fail?")]
    Nothing,
    /// With `--shard` and without.
    #[error("some answers are of a shard and others are not")]
    Mixed,
    /// Parts of different sizes.
    #[error(
        "one run was a shard of {} over {} variants, another of {} over {}: these were asked \
         different things",
        .0.of, .0.jobs, .1.of, .1.jobs
    )]
    OtherParts(Shard, Shard),
    /// The digests of what was asked differ.
    #[error(
        "these runs were asked different things: other files, another order of them, other options \
         of `check`, or another version of driftheap"
    )]
    OtherQuestion,
    /// An answer that its shard does not have.
    #[error("variant {} of {} is not one of shard {}/{}", .0.job, .0.jobs, .0.number, .0.of)]
    OtherShard(Shard),
    /// Runs that are not there.
    #[error("{missing} of {jobs} answers are missing{shards}")]
    Missing {
        /// How many answers.
        missing: usize,
        /// Of how many.
        jobs: usize,
        /// Whose they are.
        shards: String,
    },
}

impl Merged {
    /// The lines of `texts`, each what one run printed, in the order of a run that answers all.
    ///
    /// # Errors
    /// [`MergeError`].
    pub fn new<'t>(
        texts: impl IntoIterator<Item = (&'t str, &'t str)>,
    ) -> Result<Self, MergeError> {
        let mut lines = Vec::new();
        for (file, text) in texts {
            for (number, text) in
                (1..).zip(text.lines()).filter(|(_, text)| !text.trim().is_empty())
            {
                let line: Line = serde_json::from_str(text).map_err(|error| {
                    let file = file.to_owned();
                    MergeError::NotALine { file, number, error: error.to_string() }
                })?;
                lines.push(line);
            }
        }
        let mut seen = BTreeSet::new();
        for line in &lines {
            // Two files may have tests of one name; which variant of all it is tells them apart.
            if !seen.insert((line.shard.map(|shard| shard.job), &line.test, &line.variant)) {
                return Err(MergeError::Twice(line.name()));
            }
        }
        if lines.is_empty() {
            return Err(MergeError::Nothing);
        }
        order(&mut lines)?;
        Ok(Self { lines })
    }

    /// The table with its header and, below, the numbers.
    #[must_use]
    pub fn text(&self, paint: Paint) -> String {
        let names: Vec<String> = self.lines.iter().map(Line::name).collect();
        let mut table = verdicts::named_table(names.iter().map(String::as_str), paint);
        let replayed = self.lines.iter().any(|line| line.replayed.is_some());
        if replayed {
            real::columns().into_iter().for_each(|column| table.push(column));
        }
        let mut out = if self.lines.is_empty() { String::new() } else { table.header() };
        for line in &self.lines {
            out.push_str(&line.text(&table, replayed));
        }
        if !self.lines.is_empty() {
            out.push('\n');
        }
        out.push_str(&self.totals().summary(paint));
        out
    }

    fn totals(&self) -> Totals {
        let mut totals = Totals::default();
        for line in &self.lines {
            totals.count(line.mark(), line.states);
            totals.vacuous += usize::from(line.vacuous);
        }
        let tests: BTreeSet<&String> = self.lines.iter().map(|line| &line.test).collect();
        totals.tests = tests.len();
        totals
    }

    /// Whether every answer is as its file expects, and nobody who was asked beside the model differs.
    #[must_use]
    pub fn good(&self) -> bool {
        self.lines.iter().all(|line| !line.mark().fails() && line.differences().next().is_none())
    }

    /// The answers for other tools.
    #[must_use]
    pub fn cases(&self) -> Vec<Case> {
        self.lines.iter().map(Line::case).collect()
    }
}

/// Most missing answers whose shards are named.
const NAMED_MAX: usize = 1_000_000;

/// Puts the lines of shards in the order of their variants, and misses none.
fn order(lines: &mut [Line]) -> Result<(), MergeError> {
    let shards: Vec<Shard> = lines.iter().filter_map(|line| line.shard).collect();
    let Some(first) = shards.first().copied() else { return Ok(()) };
    if shards.len() < lines.len() {
        return Err(MergeError::Mixed);
    }
    if let Some(other) = shards.iter().find(|one| (one.of, one.jobs) != (first.of, first.jobs)) {
        return Err(MergeError::OtherParts(first, *other));
    }
    if shards.iter().any(|one| one.asked != first.asked) {
        return Err(MergeError::OtherQuestion);
    }
    let belongs = |one: &&Shard| {
        (1..=one.jobs).contains(&one.job) && one.number == (one.job - 1) % one.of.max(1) + 1
    };
    if let Some(other) = shards.iter().find(|one| !belongs(one)) {
        return Err(MergeError::OtherShard(*other));
    }
    lines.sort_by_key(|line| line.shard.map(|shard| shard.job));
    let there: BTreeSet<usize> = shards.iter().map(|shard| shard.job).collect();
    if first.jobs - there.len() > NAMED_MAX {
        let missing = first.jobs - there.len();
        return Err(MergeError::Missing { missing, jobs: first.jobs, shards: String::new() });
    }
    let missing: Vec<usize> = (1..=first.jobs).filter(|job| !there.contains(job)).collect();
    if !missing.is_empty() {
        let of = |job: &usize| (job - 1) % first.of.max(1) + 1;
        let shards: BTreeSet<usize> = missing.iter().map(of).collect();
        let shards: Vec<String> =
            shards.iter().map(|shard| format!("{shard}/{}", first.of)).collect();
        let shards = format!(": of shard {}", shards.join(", "));
        return Err(MergeError::Missing { missing: missing.len(), jobs: first.jobs, shards });
    }
    Ok(())
}

impl Line {
    fn name(&self) -> String {
        printed(&full_name(&self.test, &self.variant))
    }

    fn mark(&self) -> Mark {
        match (&self.observation, &self.expected, self.as_expected) {
            _ if self.error.is_some() => Mark::Failed,
            (_, _, Some(false)) => Mark::Differs,
            (_, _, Some(true)) => Mark::AsExpected,
            (None, Some(_), None) if self.shown => Mark::Shown,
            (None, ..) if !self.shown => Mark::Unknown,
            (_, _, None) => Mark::Unjudged,
        }
    }

    /// Where real memory or a real kernel said something else.
    fn differences(&self) -> impl Iterator<Item = String> {
        let kernel = self.kernel.as_ref().and_then(|kernel| kernel.difference.as_ref());
        self.difference.clone().into_iter().chain(kernel.map(ToString::to_string))
    }

    fn text(&self, table: &Table, replayed: bool) -> String {
        let mark = self.mark();
        let none = || Cell::toned("-", Tone::Dim);
        let observed = match &self.observation {
            Some(word) if self.vacuous => Cell::toned(format!("{word}*"), Tone::Warn),
            Some(word) => Cell::new(word),
            None if self.error.is_some() => none(),
            None => Cell::toned(verdicts::without_answer(self.shown), Tone::Warn),
        };
        let shortest = self.shortest.as_ref().map(|schedule| schedule.len().to_string());
        let mut cells = vec![
            Cell::new(self.name()),
            Cell::new(self.expected.as_deref().unwrap_or("-")),
            observed,
            Cell::new(compact(u128::from(self.states))),
            Cell::new(compact(self.schedules)),
            shortest.map_or_else(none, Cell::new),
            mark.cell(),
        ];
        if replayed && (self.replayed.is_some() || self.skipped.is_some()) {
            cells.extend(real::cells(&real::Real {
                replayed: self.replayed.unwrap_or_default(),
                agreed: self.agreed.unwrap_or_default(),
                skipped: self.skipped.clone(),
                difference: self.difference.clone(),
                ..real::Real::default()
            }));
        }
        let costs = Cost::ALL.iter().filter_map(|cost| {
            let Range { least, most } = self.costs.get(cost.word())?;
            Some((*cost, *least, *most))
        });
        let costs: Vec<_> = costs.collect();
        let mut text = table.row(&cells) + &verdicts::costs_line(&costs, &[]);
        let said = self.stopped.clone().into_iter().chain(self.error.clone());
        for more in said.chain(self.differences()) {
            text.push_str(&format!("  {}: {more}\n", self.name()));
        }
        text
    }

    fn case(&self) -> Case {
        let word = |word: &Option<String>| word.clone().unwrap_or_else(|| "-".to_owned());
        let none = verdicts::without_answer(self.shown);
        let observed = self.observation.as_deref().unwrap_or(none);
        let said = self
            .error
            .clone()
            .unwrap_or_else(|| format!("expected {}, observed {observed}", word(&self.expected)));
        let ending = match self.differences().next() {
            _ if self.mark().fails() => {
                Ending::Fail(said, self.stopped.clone().unwrap_or_default())
            }
            Some(difference) => {
                Ending::Fail("another answer differs from the model".into(), difference)
            }
            None => Ending::Pass,
        };
        let notes = self.skipped.iter().map(|why| format!("real memory was not asked: {why}"));
        let (group, name) = (self.test.clone(), self.variant.clone());
        Case { group, name, ending, notes: notes.collect() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(job: usize, shard: usize) -> String {
        format!(
            r#"{{"test":"t","variant":"v{job}","expected":"Never","observation":"Never","as_expected":true,"states":2,"schedules":340282366920938463463374607431768211455,"shard":{{"number":{shard},"of":2,"job":{job},"jobs":3,"asked":7}}}}"#
        )
    }

    #[test]
    fn shards_become_one_report_in_order() {
        let (a, b) = (format!("{}\n{}\n", line(1, 1), line(3, 1)), line(2, 2));
        let merged = Merged::new([("b", b.as_str()), ("a", a.as_str())]).expect("all three");
        let names: Vec<String> = merged.lines.iter().map(Line::name).collect();
        assert_eq!(names, ["t/v1", "t/v2", "t/v3"]);
        assert!(merged.good());
        let text = merged.text(Paint::default());
        assert!(text.ends_with("\n1 test, 3 variants: all as expected; 6 states\n"), "{text}");
    }

    #[test]
    fn what_is_missing_or_does_not_belong_is_said() {
        let error = |texts: &[&str]| {
            let merged = Merged::new(texts.iter().map(|text| ("f", *text)));
            merged.map(|_| ()).expect_err("a mistake").to_string()
        };
        let (one, two, three) = (line(1, 1), line(2, 2), line(3, 1));
        assert_eq!(error(&[&one, &three]), "1 of 3 answers are missing: of shard 2/2");
        assert_eq!(error(&[&one, &two, &three, &two]), "t/v2 is answered twice");
        assert!(error(&[&one, &two.replace("\"jobs\":3", "\"jobs\":4")]).contains("different"));
        assert!(
            error(&[&one, &two.replace("\"asked\":7", "\"asked\":8"), &three])
                .contains("different")
        );
        assert!(error(&["{}"]).starts_with("f:1: not a line of"));
        assert!(error(&["", "\n"]).contains("no answer in these files"));
        let wrong = one.replace("\"number\":1", "\"number\":7");
        assert_eq!(error(&[&wrong, &two, &three]), "variant 1 of 3 is not one of shard 7/2");
        let many = one.replace("\"jobs\":3", &format!("\"jobs\":{}", usize::MAX));
        assert!(error(&[&many]).ends_with("answers are missing"));
    }

    #[test]
    fn tests_of_one_name_in_two_files_are_two() {
        let same = |job, shard| line(job, shard).replace(&format!("v{job}"), "v");
        let text = [same(1, 1), same(2, 2), same(3, 1)].join("\n");
        assert_eq!(Merged::new([("f", text.as_str())]).expect("all three").lines.len(), 3);
    }

    #[test]
    fn whatever_differs_fails() {
        let good = line(1, 1).replace("\"jobs\":3", "\"jobs\":1");
        let is_good = |text: &str| Merged::new([("f", text)]).expect("one line").good();
        assert!(is_good(&good));
        assert!(!is_good(&good.replace("\"as_expected\":true", "\"as_expected\":false")));
        assert!(!is_good(&good.replace("\"states\"", "\"difference\":\"other\",\"states\"")));
        let kernel = "\"kernel\":{\"difference\":\"other\"},\"states\"";
        assert!(!is_good(&good.replace("\"states\"", kernel)));
        let unknown =
            good.replace("\"observation\":\"Never\",\"as_expected\":true", "\"observation\":null");
        assert!(!is_good(&unknown));
        assert!(!is_good(&unknown.replace("\"states\"", "\"shortest\":[0],\"states\"")));
        assert!(is_good(&unknown.replace("\"states\"", "\"shown\":true,\"states\"")));
    }
}
