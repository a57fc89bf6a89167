//! Answers of a kernel and of ours side by side: pure, values in, lines out.

use std::collections::BTreeMap;

use super::differences::why;
use super::expectations;

/// Answers by row.
pub type Answers = BTreeMap<String, String>;

/// A way in which this program offers a heap.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Transport {
    /// `driftheap run`.
    Run,
    /// `driftheap run --strict`.
    Strict,
    /// `driftheap serve --mount`.
    Mount,
    /// `driftheap serve --cuse`, with a client that opens handles.
    Cuse,
}

impl Transport {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Run, Self::Strict, Self::Mount, Self::Cuse];

    /// The words that a user types.
    pub fn name(self) -> &'static str {
        match self {
            Self::Run => "run",
            Self::Strict => "run --strict",
            Self::Mount => "serve --mount",
            Self::Cuse => "serve --cuse",
        }
    }

    /// One word, for tables and JSON.
    pub fn key(self) -> &'static str {
        match self {
            Self::Run => "run",
            Self::Strict => "strict",
            Self::Mount => "mount",
            Self::Cuse => "cuse",
        }
    }
}

/// What Linux answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reference {
    rows: Vec<Known>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Known {
    id: &'static str,
    /// As the sources say.
    expect: &'static str,
    note: &'static str,
    /// As a kernel said, if the row could be asked there.
    measured: Option<String>,
}

impl Reference {
    /// The rows with a kernel's answers; what it skipped (for want of sw_sync, say) stays as the
    /// sources say.
    pub fn new(kernel: &Answers) -> Self {
        let known = |(id, expect, note)| {
            let measured = kernel.get(id).filter(|answer| !is_skip(answer)).cloned();
            Known { id, expect, note, measured }
        };
        Self { rows: expectations().map(known).collect() }
    }

    /// How many rows there are.
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Never.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// How many rows a kernel answered.
    pub fn measured(&self) -> usize {
        self.rows.iter().filter(|row| row.measured.is_some()).count()
    }

    /// Rows that this kernel answers otherwise than the sources say, and why that is right; the
    /// reason is empty where there is none.
    pub fn surprises(&self) -> Vec<ComparedRow> {
        let line = |row: &Known| {
            let real = row.measured.as_ref().filter(|real| real.as_str() != row.expect)?;
            let reason = row.note.strip_prefix("kernel: ");
            let outcome = reason.map_or(Agreement::Unexplained, Agreement::Explained);
            Some(ComparedRow { row: row.id, real: row.expect.into(), ours: real.clone(), outcome })
        };
        self.rows.iter().filter_map(line).collect()
    }

    /// Each row of a transport beside the kernel's answer.
    pub fn compare(&self, transport: Transport, ours: &Answers) -> Vec<ComparedRow> {
        let line = |row: &Known| {
            let real = row.measured.as_deref().unwrap_or(row.expect);
            let ours = ours.get(row.id).map_or("no answer", String::as_str);
            let outcome = if ours == real {
                Agreement::Same
            } else if is_skip(ours) {
                Agreement::Skipped
            } else {
                why(transport, row.id, row.note)
                    .map_or(Agreement::Unexplained, Agreement::Explained)
            };
            ComparedRow { row: row.id, real: real.into(), ours: ours.into(), outcome }
        };
        self.rows.iter().map(line).collect()
    }
}

/// How two answers to a row relate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Agreement {
    /// They are the same.
    Same,
    /// It could not be asked here.
    Skipped,
    /// They differ, for a known reason.
    Explained(&'static str),
    /// They differ, and nobody knows why.
    Unexplained,
}

/// One row of a comparison.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ComparedRow {
    /// The row.
    pub row: &'static str,
    /// What it is compared with.
    pub real: String,
    /// The answer.
    pub ours: String,
    /// What that makes.
    pub outcome: Agreement,
}

fn is_skip(answer: &str) -> bool {
    answer.starts_with("SKIP")
}

/// Reads what the conformance suite prints: row and answer, whatever follows.
pub fn answers(text: &str) -> Answers {
    let line = |line: &str| {
        let mut fields = line.split('\t');
        Some((fields.next()?.to_owned(), fields.next()?.to_owned()))
    };
    text.lines().filter_map(line).collect()
}

/// Reads a table of columns: `column<TAB>row<TAB>answer` a line, `#` before a comment.
pub fn parse(text: &str) -> BTreeMap<String, Answers> {
    let mut columns: BTreeMap<String, Answers> = BTreeMap::new();
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let mut fields = line.splitn(3, '\t');
        if let (Some(column), Some(row), Some(answer)) =
            (fields.next(), fields.next(), fields.next())
        {
            columns.entry(column.to_owned()).or_default().insert(row.to_owned(), answer.to_owned());
        }
    }
    columns
}

/// Prints such a table, in the order of the suite's rows.
pub fn print(columns: &BTreeMap<String, Answers>) -> String {
    let mut text = String::new();
    for (column, answers) in columns {
        for (row, ..) in expectations() {
            if let Some(answer) = answers.get(row) {
                text += &format!("{column}\t{row}\t{answer}\n");
            }
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn expected() -> Answers {
        expectations().map(|(id, expect, _)| (id.to_owned(), expect.to_owned())).collect()
    }

    fn outcome(ours: &Answers, row: &str) -> Agreement {
        let lines = Reference::new(&expected()).compare(Transport::Run, ours);
        lines.iter().find(|line| line.row == row).expect("a row").outcome
    }

    #[test]
    fn every_kind_of_difference_is_told() {
        let mut ours = expected();
        assert_eq!(outcome(&ours, "sync.start-rw"), Agreement::Same);
        for (answer, expect) in
            [("EINVAL", Agreement::Unexplained), ("SKIP no file", Agreement::Skipped)]
        {
            ours.insert("sync.start-rw".into(), answer.into());
            assert_eq!(outcome(&ours, "sync.start-rw"), expect);
        }
        ours.remove("sync.start-rw");
        assert_eq!(outcome(&ours, "sync.start-rw"), Agreement::Unexplained, "a row that was lost");
        ours.insert("io.read".into(), "ok".into());
        assert!(matches!(outcome(&ours, "io.read"), Agreement::Explained(_)));
    }

    #[test]
    fn a_kernel_that_surprises_is_told() {
        let mut kernel = expected();
        assert_eq!(Reference::new(&kernel).surprises(), []);
        kernel.insert("sync.start-rw".into(), "EINVAL".into());
        kernel.insert("alloc.beyond-memory".into(), "killed by signal 9".into());
        kernel.insert("wait.signalled".into(), "SKIP no sw_sync: ENOENT".into());
        let reference = Reference::new(&kernel);
        assert_eq!(reference.measured() + 1, reference.len());
        let surprises = reference.surprises();
        let kinds: Vec<_> = surprises.iter().map(|line| (line.row, line.outcome)).collect();
        assert!(matches!(
            kinds.as_slice(),
            [
                ("alloc.beyond-memory", Agreement::Explained(_)),
                ("sync.start-rw", Agreement::Unexplained)
            ]
        ));
    }

    #[test]
    fn tables_survive_their_text() {
        let columns = BTreeMap::from([("system".to_owned(), expected())]);
        assert_eq!(parse(&format!("# a comment\n{}", print(&columns))), columns);
    }
}
