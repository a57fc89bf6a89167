//! `--record FILE`: writes what happened as a litmus test, and asks the model about it at once.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context as _, anyhow};
use driftheap::device::live::record::Recording;
use driftheap::litmus::ast::Verdict;
use driftheap::litmus::rules::ModelRules;
use driftheap::model::HazardKind;
use driftheap::question::scenario::Scenario;
use driftheap::question::verdict::{Search, judge};

use super::{Exit, out::Out};

/// The name of the test in a file: the file's own, as the language takes it.
pub(crate) fn name_of(path: &Path) -> String {
    let stem = path.file_stem().map_or_else(String::new, |s| s.to_string_lossy().into_owned());
    let clean = |c: char| if c.is_ascii_alphanumeric() { c } else { '-' };
    let name: String = stem.chars().map(clean).collect();
    format!("recorded-{}", name.trim_matches('-')).trim_end_matches('-').to_owned()
}

/// Writes the recording. Its `Result:` is what was seen; the word between Sometimes and Always is
/// the model's. A model that finds other hazards than the run did is a bug of driftheap, and said.
pub(crate) fn write(path: &Path, recording: &Recording, out: &Out) -> anyhow::Result<Exit> {
    if recording.events == 0 {
        out.note("driftheap: nothing to record: no buffer was made that can move\n");
        return Ok(Exit::Good);
    }
    let found = verdicts(&recording.with_result(None))?;
    let word = |kind: HazardKind| match (recording.seen.contains(&kind), found.get(&kind)) {
        (false, _) => "Never",
        (true, Some(Verdict::Always)) => "Always",
        (true, _) => "Sometimes",
    };
    std::fs::write(path, recording.with_result(Some(&word)))
        .with_context(|| format!("can't write {}", path.display()))?;
    if !out.quiet {
        let stopped = recording.stopped.as_ref();
        let stopped = stopped.map_or_else(String::new, |why| format!(", then stopped: {why}"));
        out.note(&format!(
            "driftheap: recorded {} events to {}{stopped}\n",
            recording.events,
            path.display()
        ));
    }
    let mut exit = Exit::Good;
    for &kind in HazardKind::ALL {
        let possible = found.get(&kind).is_some_and(|verdict| *verdict != Verdict::Never);
        if possible != recording.seen.contains(&kind) {
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
