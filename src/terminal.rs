//! What may be shown on a terminal, and how a report of a bug begins.

use std::fmt::Display;

/// Stands above and below a report.
pub const RULER: &str = "==================================================================";

/// The first line of a report: the kind of bug, and where it is or whose, in words.
#[must_use]
pub fn bug_line(kind: impl Display, place: &str) -> String {
    format!("BUG: driftheap: {kind} {place}")
}

/// A name that somebody else chose, without what a terminal would obey or what would fake a line.
#[must_use]
pub fn printed(name: &str) -> String {
    let kept = |c: char| {
        !c.is_control() && !matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    };
    let escape = |c: char| if kept(c) { c.to_string() } else { c.escape_default().to_string() };
    name.chars().map(escape).collect()
}
