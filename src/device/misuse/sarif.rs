//! Reports as SARIF, which a code host shows in the diff.
//!
//! Source: *Static Analysis Results Interchange Format (SARIF) Version 2.1.0*, OASIS Standard, 27 March
//! 2020: `run` (3.14), `result` (3.27), `location` (3.28), `stack` (3.44).

use std::path::Path;

use serde_json::{Value, json};

use super::{Kind, Report, StackFrame};

/// Where a report is in the source; a path below `here` is relative to it.
#[must_use]
pub fn place(report: &Report, here: &Path) -> Option<(String, u32)> {
    source(report.site.place()?, here)
}

fn source(frame: &StackFrame, here: &Path) -> Option<(String, u32)> {
    let (file, line) = frame.symbol.source.as_ref()?;
    let path = Path::new(file);
    let path = path.strip_prefix(here).unwrap_or(path);
    Some((path.display().to_string(), (*line).max(1)))
}

/// As a URI reference: relative where the path is.
fn uri(path: &str) -> String {
    let kept = |b: u8| b.is_ascii_alphanumeric() || b"/-._~".contains(&b);
    let escape = |b: u8| if kept(b) { char::from(b).to_string() } else { format!("%{b:02X}") };
    let path: String = path.bytes().map(escape).collect();
    if path.starts_with('/') { format!("file://{path}") } else { path }
}

fn location(place: Option<(String, u32)>, words: &str) -> Value {
    let mut location = json!({ "message": { "text": words } });
    if let Some((file, line)) = place {
        location["physicalLocation"] = json!({
            "artifactLocation": { "uri": uri(&file) },
            "region": { "startLine": line },
        });
    }
    location
}

/// One run with every report; source files below `here` have relative names.
#[must_use]
pub fn sarif(reports: &[Report], here: &Path) -> Value {
    let rules: Vec<Value> = Kind::WORDS
        .iter()
        .map(|(word, kind)| {
            json!({
                "id": word,
                "shortDescription": { "text": word.replace('-', " ") },
                "help": { "text": format!("To fix it: {}.", kind.remedy()) },
            })
        })
        .collect();
    let result = |report: &Report| {
        let index = Kind::WORDS.iter().position(|(_, kind)| *kind == report.kind);
        let frames: Vec<Value> = report
            .site
            .frames
            .iter()
            .map(
                |frame| json!({ "location": location(source(frame, here), &frame.symbol.words()) }),
            )
            .collect();
        let text = format!("{} To fix it: {}.", report.what, report.kind.remedy());
        let mut result = json!({
            "ruleId": report.kind.word(),
            "ruleIndex": index,
            "level": "error",
            "message": { "text": text },
            "occurrenceCount": report.count.max(1),
        });
        if let Some(place) = place(report, here) {
            result["locations"] = json!([location(Some(place), &report.site.place_words())]);
        }
        if !frames.is_empty() {
            result["stacks"] = json!([{ "frames": frames }]);
        }
        result
    };
    json!({
        "$schema": "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json",
        "version": "2.1.0",
        "runs": [{
            "tool": { "driver": {
                "name": "driftheap", "version": env!("CARGO_PKG_VERSION"), "rules": rules,
            } },
            "results": reports.iter().map(result).collect::<Vec<_>>(),
        }],
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_a_uri_and_relative_below_the_directory() {
        assert_eq!(uri("src/a b#c.c"), "src/a%20b%23c.c");
        assert_eq!(uri("/src/x.c"), "file:///src/x.c");
    }
}
