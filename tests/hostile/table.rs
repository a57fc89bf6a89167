//! The table.

use super::attacks::Run;
use super::run::Came;

/// What can come of an attack, besides being skipped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Column {
    Survived,
    Hung,
    Crashed,
    Leaked,
    Lost,
    Wrong,
}

const COLUMNS: [(Column, &str); 6] = [
    (Column::Survived, "survived"),
    (Column::Hung, "hung"),
    (Column::Crashed, "crashed"),
    (Column::Leaked, "leaked"),
    (Column::Lost, "lost"),
    (Column::Wrong, "wrong"),
];

/// A kind.
#[derive(Debug)]
pub(crate) struct Row {
    kind: &'static str,
    program: &'static str,
    pub(crate) tried: usize,
    pub(crate) skipped: usize,
    found: Vec<Column>,
}

impl Row {
    /// Attacks of which this came.
    pub(crate) fn in_column(&self, column: Column) -> usize {
        self.found.iter().filter(|&&found| found == column).count()
    }
}

/// All of it.
#[derive(Debug)]
pub(crate) struct Table {
    rows: Vec<Row>,
    skips: Vec<String>,
    faults: Vec<String>,
    moves: u64,
    pages: u64,
    stores: u64,
    lost: u64,
}

impl Table {
    pub(crate) fn of(mut came: Vec<(Run, Came)>) -> Self {
        let mut table = Self {
            rows: Vec::new(),
            skips: Vec::new(),
            faults: Vec::new(),
            moves: 0,
            pages: 0,
            stores: 0,
            lost: 0,
        };
        // In the order of the kinds, whichever ended first.
        came.sort_by_key(|(run, _)| std::ptr::from_ref(run.attack).addr());
        for (run, came) in came {
            table.add(&run, came);
        }
        table
    }

    fn add(&mut self, run: &Run, came: Came) {
        let kind = run.attack.kind;
        if self.rows.last().is_none_or(|row| row.kind != kind) {
            let program = run.attack.program.rsplit('/').next().unwrap_or_default();
            let program = if program == "main.rs" { "tools/hostile" } else { program };
            self.rows.push(Row { kind, program, tried: 0, skipped: 0, found: Vec::new() });
        }
        let row = self.rows.last_mut().unwrap();
        row.tried += 1;
        self.moves += came.moves;
        self.pages += came.pages;
        self.stores += came.stores;
        self.lost += came.lost;
        if let Some(reason) = came.skipped {
            row.skipped += 1;
            let line = format!("SKIP {kind}: {reason}");
            if !self.skips.contains(&line) {
                self.skips.push(line);
            }
        } else if came.faults.is_empty() {
            row.found.push(Column::Survived);
        }
        for (column, text) in came.faults {
            row.found.push(column);
            let user = if run.plain_user { "plain user" } else { "root" };
            let how = format!("{kind}, {:?}, {user}, {:?}", run.mode, run.beside);
            self.faults.push(format!("{column:?}: {how}: {text}"));
        }
    }

    pub(crate) fn row(&self, kind: &str) -> Option<&Row> {
        self.rows.iter().find(|row| row.kind == kind)
    }

    /// Everything was survived or skipped.
    pub(crate) fn is_good(&self) -> bool {
        self.faults.is_empty()
    }

    pub(crate) fn print(&self) {
        for line in self.skips.iter().chain(&self.faults) {
            println!("{line}");
        }
        let heads: String = COLUMNS.iter().map(|(_, name)| format!(" {name:>8}")).collect();
        println!("{:<42} {:<16} {:>5}{heads} skipped", "attack", "program", "tried");
        let line = |kind: &str, program: &str, tried: usize, counts: &[usize], skipped: usize| {
            let counts: String = counts.iter().map(|count| format!(" {count:>8}")).collect();
            println!("{kind:<42} {program:<16} {tried:>5}{counts} {skipped:>7}");
        };
        let mut sums = [0; COLUMNS.len()];
        for row in &self.rows {
            let counts = COLUMNS.map(|(column, _)| row.in_column(column));
            sums.iter_mut().zip(counts).for_each(|(sum, count)| *sum += count);
            line(row.kind, row.program, row.tried, &counts, row.skipped);
        }
        let (tried, skipped) = self
            .rows
            .iter()
            .fold((0, 0), |(tried, skipped), row| (tried + row.tried, skipped + row.skipped));
        line("all", "", tried, &sums, skipped);
        println!(
            "{} moves of {} pages, {} stores, {} lost",
            self.moves, self.pages, self.stores, self.lost
        );
    }
}
