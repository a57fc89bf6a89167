//! Misuse reports as files.

use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use driftheap::device::misuse::{Kind, Log, Report, sarif};
use driftheap::report::formats::{Case, Ending, junit, ktap};

/// Where reports go.
#[derive(Debug, Default)]
pub(super) struct Files {
    pub(super) json: Option<PathBuf>,
    pub(super) sarif: Option<PathBuf>,
    pub(super) junit: Option<PathBuf>,
    pub(super) ktap: Option<PathBuf>,
}

/// The same, open: a path that can't be written is known before the program runs.
#[derive(Debug)]
pub(super) struct Open(Vec<(Shape, PathBuf, File)>);

#[derive(Debug, Clone, Copy)]
enum Shape {
    Json,
    Sarif,
    Junit,
    Ktap,
}

impl Files {
    /// Whether any is asked for.
    pub(super) const fn wanted(&self) -> bool {
        self.json.is_some() || self.sarif.is_some() || self.junit.is_some() || self.ktap.is_some()
    }

    pub(super) fn open(self) -> anyhow::Result<Open> {
        let wanted = [
            (Shape::Json, self.json),
            (Shape::Sarif, self.sarif),
            (Shape::Junit, self.junit),
            (Shape::Ktap, self.ktap),
        ];
        let mut open = Vec::new();
        for (shape, path) in wanted {
            let Some(path) = path else { continue };
            let file = File::create(&path)
                .with_context(|| format!("can't write reports to {}", path.display()))?;
            open.push((shape, path, file));
        }
        Ok(Open(open))
    }
}

impl Open {
    /// Writes each of them; what could not be.
    pub(super) fn write(self, log: &Log) -> Vec<anyhow::Error> {
        let here = std::env::current_dir().unwrap_or_default();
        let mut failures = Vec::new();
        for (shape, path, mut file) in self.0 {
            let text = match shape {
                Shape::Json => log.reports().iter().map(|r| format!("{}\n", r.json())).collect(),
                Shape::Sarif => format!("{}\n", sarif::sarif(log.reports(), &here)),
                Shape::Junit => junit(&cases(log.reports(), &here)),
                Shape::Ktap => ktap(&cases(log.reports(), &here)),
            };
            let written = file
                .write_all(text.as_bytes())
                .with_context(|| format!("can't write the reports to {}", path.display()));
            failures.extend(written.err());
        }
        failures
    }
}

/// A case a kind of misuse: it passes where nothing of it was seen.
fn cases(reports: &[Report], here: &Path) -> Vec<Case> {
    let case = |(word, kind): (&str, Kind)| {
        let seen: Vec<&Report> = reports.iter().filter(|report| report.kind == kind).collect();
        let ending = match seen.first() {
            None => Ending::Pass,
            Some(first) => {
                let more: Vec<String> = seen.iter().map(|report| report.text()).collect();
                let place = sarif::place(first, here);
                let place =
                    place.map_or_else(String::new, |(file, line)| format!("{file}:{line}: "));
                Ending::Fail(format!("{place}{}", first.what), more.join("\n"))
            }
        };
        Case { group: "misuse".to_owned(), name: word.to_owned(), ending, notes: Vec::new() }
    };
    Kind::WORDS.into_iter().map(case).collect()
}
