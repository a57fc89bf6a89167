//! `--record FILE`: writes what happened as a litmus test, and asks the model about it at once.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, anyhow};
use driftheap::device::live::record::Recording;
use driftheap::litmus::ast::Verdict;
use driftheap::litmus::rules::ModelRules;
use driftheap::model::HazardKind;
use driftheap::question::scenario::Scenario;
use driftheap::question::verdict::{Search, judge};

use super::{Exit, out::Out};

/// Where a recording goes, which was found to be writable before anything ran. A file that was made for
/// that and got nothing goes again.
#[derive(Debug)]
pub(crate) struct Place {
    path: PathBuf,
    made: Option<File>,
}

impl Place {
    /// Looks.
    ///
    /// # Errors
    /// It can't be written.
    pub(crate) fn new(path: &Path) -> anyhow::Result<Self> {
        let made = OpenOptions::new().write(true).create_new(true).open(path).ok();
        if made.is_none() {
            OpenOptions::new()
                .write(true)
                .open(path)
                .with_context(|| format!("can't write the recording to {}", path.display()))?;
        }
        Ok(Self { path: path.to_owned(), made })
    }

    /// Where.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let is_empty =
            |file: &File| file.metadata().is_ok_and(|file| file.is_file() && file.len() == 0);
        if self.made.as_ref().is_some_and(is_empty) {
            // Somebody may have removed it meanwhile.
            let _gone = std::fs::remove_file(&self.path);
        }
    }
}

/// The name of the test in a file: the file's own, as the language takes it.
pub(crate) fn name_of(path: &Path) -> String {
    let stem = path.file_stem().map_or_else(String::new, |s| s.to_string_lossy().into_owned());
    let parts = stem.split(|c: char| !c.is_ascii_alphanumeric()).filter(|part| !part.is_empty());
    std::iter::once("recorded").chain(parts).collect::<Vec<_>>().join("-")
}

/// The file of a window, counted from 1: `what.litmus`, `what-2.litmus`, ...
fn file_of(path: &Path, number: usize) -> PathBuf {
    if number == 1 {
        return path.to_owned();
    }
    let mut name = path.file_stem().unwrap_or_default().to_owned();
    name.push(format!("-{number}"));
    if let Some(extension) = path.extension() {
        name.push(".");
        name.push(extension);
    }
    path.with_file_name(name)
}

/// Writes the recording. Each window's `Result:` is the model's answer; what was seen must be in it.
/// A model that does not find it, or finds more where nothing overlapped, is a bug of driftheap, and
/// said.
pub(crate) fn write(path: &Path, recordings: &[Recording], out: &Out) -> anyhow::Result<Exit> {
    if recordings.is_empty() {
        out.note("driftheap: nothing to record: no buffer was made that can move\n");
        return Ok(Exit::Good);
    }
    let (mut exit, mut unseen) = (Exit::Good, BTreeMap::new());
    for (number, recording) in (1..).zip(recordings) {
        let file = file_of(path, number);
        exit = exit.max(window(&file, recording, &mut unseen, out)?);
    }
    for (kind, file) in unseen {
        if !out.quiet && !recordings.iter().any(|recording| recording.seen.contains(&kind)) {
            out.note(&format!(
                "driftheap: {kind} was not seen, and can happen where what overlapped comes in \
                 another order: driftheap explain {} --variant {kind}\n",
                file.display()
            ));
        }
    }
    remove_older(path, recordings.len() + 1);
    if !out.quiet {
        let events: usize = recordings.iter().map(|recording| recording.events).sum();
        let files = match recordings.len() {
            1 => path.display().to_string(),
            count => format!("{} to {}", path.display(), file_of(path, count).display()),
        };
        out.note(&format!(
            "driftheap: recorded {events} events to {files}; what repeats stands there once\n"
        ));
        if let Some(why) = recordings.iter().find_map(|recording| recording.stopped.as_ref()) {
            out.note(&format!("driftheap: not all of it is there: {why}\n"));
        }
    }
    Ok(exit)
}

/// Removes the windows of an older recording of this name that was longer.
fn remove_older(path: &Path, first: usize) {
    for number in first.. {
        let file = file_of(path, number);
        let is_ours = std::fs::read(&file).is_ok_and(|text| {
            let title = format!("DMABUF {}-{number}\n", name_of(path));
            text.starts_with(title.as_bytes())
        });
        if !is_ours || std::fs::remove_file(&file).is_err() {
            return;
        }
    }
}

/// Writes one window. What can happen in it and was not seen goes to `unseen`, the first file of each.
fn window(
    path: &Path,
    recording: &Recording,
    unseen: &mut BTreeMap<HazardKind, PathBuf>,
    out: &Out,
) -> anyhow::Result<Exit> {
    let found = verdicts(&recording.with_result(None))?;
    let word = |kind: HazardKind| match (recording.seen.contains(&kind), found.get(&kind)) {
        // What was seen and is impossible is to be found by `check`, too.
        (true, None | Some(Verdict::Never)) => "Sometimes",
        (_, Some(verdict)) => verdict.word(),
        (false, None) => "Never",
    };
    std::fs::write(path, recording.with_result(Some(&word)))
        .with_context(|| format!("can't write {}", path.display()))?;
    let mut exit = Exit::Good;
    for &kind in HazardKind::ALL {
        let possible = found.get(&kind).is_some_and(|verdict| *verdict != Verdict::Never);
        let seen = recording.seen.contains(&kind);
        if possible && !seen && recording.overlaps {
            unseen.entry(kind).or_insert_with(|| path.to_owned());
        } else if possible != seen {
            let (was, is) =
                if possible { ("not seen", "possible") } else { ("seen", "impossible") };
            out.error(&format!(
                "{kind} was {was} and is {is} on the model: a bug of driftheap, please report {}",
                path.display()
            ));
            exit = Exit::Differs;
        }
    }
    Ok(exit)
}

/// What the model says of each hazard.
fn verdicts(text: &str) -> anyhow::Result<BTreeMap<HazardKind, Verdict>> {
    let test = driftheap::litmus::parse("recording", text, &ModelRules).map_err(|found| {
        let found: Vec<String> = found.iter().map(ToString::to_string).collect();
        anyhow!("the recording does not parse, a bug of driftheap: {}", found.join("; "))
    })?;
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let search = Search { threads, ..Search::default() };
    let mut verdicts = BTreeMap::new();
    for variant in &test.variants {
        let scenario = Scenario::new(variant, text)
            .map_err(|error| anyhow!("the recording can't be explored: {error}"))?;
        let judgement = judge(&scenario, &search, &mut |_| ())?;
        let kind = HazardKind::from_word(&scenario.variant);
        verdicts.extend(kind.zip(judgement.observation));
    }
    Ok(verdicts)
}
