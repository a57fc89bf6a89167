//! Results in the formats that other tools read: JUnit for CI servers, KTAP as kernel tests print it.
//!
//! Sources: the schema of the Jenkins xUnit plugin (`junit-10.xsd`), which the CI servers follow, and
//! Documentation/dev-tools/ktap.rst (KTAP version 1, 6.12).

use std::fmt::Write as _;

use maud::{PreEscaped, html};

/// How one thing ended that was looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ending {
    /// As it should.
    Pass,
    /// Not as it should: a line that says what, and more of it.
    Fail(String, String),
    /// It could not be looked at: why.
    Skip(String),
}

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Case {
    /// What it belongs to: a test, a transport, a program.
    pub group: String,
    /// What it is called there.
    pub name: String,
    /// How it ended.
    pub ending: Ending,
    /// What else is to be said.
    pub notes: Vec<String>,
}

/// The cases of each group, in the order in which the groups came.
fn groups(cases: &[Case]) -> Vec<(&str, Vec<&Case>)> {
    let mut groups: Vec<(&str, Vec<&Case>)> = Vec::new();
    for case in cases {
        match groups.iter_mut().find(|(name, _)| *name == case.group) {
            Some((_, of)) => of.push(case),
            None => groups.push((&case.group, vec![case])),
        }
    }
    groups
}

fn failures(cases: &[&Case]) -> usize {
    cases.iter().filter(|case| matches!(case.ending, Ending::Fail(..))).count()
}

fn skips(cases: &[&Case]) -> usize {
    cases.iter().filter(|case| matches!(case.ending, Ending::Skip(_))).count()
}

/// Text without the characters that XML 1.0 has no way to write.
fn xml(text: &str) -> String {
    let allowed = |c: &char| {
        !c.is_control() && !matches!(c, '\u{fffe}' | '\u{ffff}') || matches!(c, '\n' | '\t')
    };
    text.chars().filter(allowed).collect()
}

/// As JUnit: a suite a group, a case a case.
#[must_use]
pub fn junit(cases: &[Case]) -> String {
    let all: Vec<&Case> = cases.iter().collect();
    let markup = html! {
        (PreEscaped("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n"))
        testsuites name="driftheap" tests=(all.len()) failures=(failures(&all)) errors="0" skipped=(skips(&all)) {
            @for (group, cases) in groups(cases) {
                (PreEscaped("\n"))
                testsuite name=(xml(group)) tests=(cases.len()) failures=(failures(&cases)) errors="0" skipped=(skips(&cases)) {
                    @for case in cases {
                        (PreEscaped("\n"))
                        testcase classname=(xml(group)) name=(xml(&case.name)) {
                            @match &case.ending {
                                Ending::Pass => {}
                                Ending::Fail(what, more) => {
                                    failure message=(xml(what)) { (xml(more)) }
                                }
                                Ending::Skip(why) => { skipped message=(xml(why)) {} }
                            }
                            @if !case.notes.is_empty() {
                                // maud knows no element of this name.
                                (PreEscaped("<system-out>")) (xml(&case.notes.join("\n"))) (PreEscaped("</system-out>"))
                            }
                        }
                    }
                }
            }
        }
        (PreEscaped("\n"))
    };
    markup.into_string()
}

/// One line, without what begins a directive.
fn plain(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ").replace('#', "_")
}

/// As KTAP: a test a group, its cases below it.
#[must_use]
pub fn ktap(cases: &[Case]) -> String {
    let groups = groups(cases);
    let mut out = format!("KTAP version 1\n1..{}\n", groups.len());
    for (at, (group, cases)) in groups.iter().enumerate() {
        let name = plain(group);
        let count = cases.len();
        // Writing to a String does not fail.
        let _ok = write!(out, "  KTAP version 1\n  # Subtest: {name}\n  1..{count}\n");
        for (index, case) in cases.iter().enumerate() {
            for note in case.notes.iter().flat_map(|note| note.lines()) {
                let _ok = writeln!(out, "  # {note}");
            }
            let (word, directive) = match &case.ending {
                Ending::Pass => ("ok", String::new()),
                Ending::Skip(why) => ("ok", format!(" # SKIP {}", plain(why))),
                Ending::Fail(what, more) => {
                    for line in what.lines().chain(more.lines()) {
                        let _ok = writeln!(out, "  # {line}");
                    }
                    ("not ok", String::new())
                }
            };
            let _ok = writeln!(out, "  {word} {} {}{directive}", index + 1, plain(&case.name));
        }
        let word = if failures(cases) == 0 { "ok" } else { "not ok" };
        let all = if skips(cases) == count { " # SKIP" } else { "" };
        let _ok = writeln!(out, "{word} {} {name}{all}", at + 1);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cases() -> Vec<Case> {
        let case = |group: &str, name: &str, ending| Case {
            group: group.into(),
            name: name.into(),
            ending,
            notes: Vec::new(),
        };
        vec![
            case("a", "one", Ending::Pass),
            case(
                "a",
                "a<\"&>\u{1}#",
                Ending::Fail("it & broke".into(), "here\nand <there>".into()),
            ),
            case("b", "two", Ending::Skip("no # such\nkernel".into())),
        ]
    }

    #[test]
    fn junit_counts_and_escapes() {
        let text = junit(&cases());
        assert!(
            text.starts_with("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<testsuites"),
            "{text}"
        );
        for part in [
            "tests=\"3\" failures=\"1\" errors=\"0\" skipped=\"1\"",
            "<testsuite name=\"a\" tests=\"2\" failures=\"1\" errors=\"0\" skipped=\"0\">",
            "<testcase classname=\"a\" name=\"a&lt;&quot;&amp;&gt;#\">\
             <failure message=\"it &amp; broke\">here\nand &lt;there&gt;</failure></testcase>",
            "<skipped message=\"no # such\nkernel\"></skipped>",
        ] {
            assert!(text.contains(part), "{part}\n{text}");
        }
    }

    #[test]
    fn ktap_nests_and_plans() {
        let text = ktap(&cases());
        assert_eq!(
            text,
            "KTAP version 1\n1..2\n  KTAP version 1\n  # Subtest: a\n  1..2\n  ok 1 one\n\
             \x20 # it & broke\n  # here\n  # and <there>\n  not ok 2 a<\"&>\u{1}_\nnot ok 1 a\n\
             \x20 KTAP version 1\n  # Subtest: b\n  1..1\n  ok 1 two # SKIP no _ such kernel\n\
             ok 2 b # SKIP\n"
        );
    }
}
