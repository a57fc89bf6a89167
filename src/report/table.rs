//! Columns that line up, printed row by row while rows come.

use super::paint::{Paint, Tone, width};

/// On which side the padding goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Align {
    /// Words.
    Left,
    /// Numbers.
    Right,
}

/// A column.
#[derive(Debug, Clone)]
pub struct Column {
    title: String,
    align: Align,
    width: usize,
}

impl Column {
    /// A column at least as wide as its title.
    #[must_use]
    pub fn new(title: &str, align: Align) -> Self {
        Self { title: title.to_owned(), align, width: width(title) }
    }

    /// Made wide enough for `text`.
    #[must_use]
    pub fn fit<'a>(mut self, texts: impl IntoIterator<Item = &'a str>) -> Self {
        self.width = texts.into_iter().map(width).fold(self.width, usize::max);
        self
    }

    /// Made at least `columns` wide.
    #[must_use]
    pub fn at_least(mut self, columns: usize) -> Self {
        self.width = self.width.max(columns);
        self
    }
}

/// What stands in one column of one row.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Cell {
    /// The text.
    pub text: String,
    /// Its colour.
    pub tone: Tone,
}

impl Cell {
    /// Text without colour.
    #[must_use]
    pub fn new(text: impl Into<String>) -> Self {
        Self { text: text.into(), tone: Tone::Plain }
    }

    /// Text with a colour.
    #[must_use]
    pub fn toned(text: impl Into<String>, tone: Tone) -> Self {
        Self { text: text.into(), tone }
    }
}

/// Blanks between two columns.
const GAP: usize = 2;

/// Blanks before what stands below a row's first cell.
const INDENT: usize = 4;

/// Columns of a terminal that the words at the end of a row need at least, to be worth a place there.
const WORDS_MIN: usize = 24;

/// `text` in at most `room` columns.
fn elided(text: &str, room: usize) -> String {
    if width(text) <= room {
        return text.to_owned();
    }
    let kept: String = text.chars().take(room.saturating_sub(1)).collect();
    format!("{}\u{2026}", kept.trim_end())
}

/// A table whose rows need not be known before the first is printed.
#[derive(Debug, Clone)]
pub struct Table {
    columns: Vec<Column>,
    paint: Paint,
}

impl Table {
    /// A table of these columns.
    #[must_use]
    pub fn new(columns: Vec<Column>, paint: Paint) -> Self {
        Self { columns, paint }
    }

    /// One more column, on the right.
    pub fn push(&mut self, column: Column) {
        self.columns.push(column);
    }

    /// The titles.
    #[must_use]
    pub fn header(&self) -> String {
        let titles = self.columns.iter().map(|c| Cell::toned(c.title.clone(), Tone::Strong));
        self.row(&titles.collect::<Vec<_>>())
    }

    /// One line, with its newline; missing cells are empty, what does not fit its column sticks out.
    ///
    /// On a terminal that is too narrow, a last column of words is cut short; where that is not
    /// enough, the first cell has a line of its own and the others follow below it.
    #[must_use]
    pub fn row(&self, cells: &[Cell]) -> String {
        let Some(room) = self.paint.room.filter(|&room| self.width() > room) else {
            return self.line(&self.columns, cells);
        };
        let before = self.width() - self.columns.last().map_or(0, |column| column.width);
        let is_words = self.columns.last().is_some_and(|column| column.align == Align::Left);
        if is_words && before + WORDS_MIN <= room {
            let mut cells = cells.to_vec();
            if let Some(cell) = cells.get_mut(self.columns.len() - 1) {
                cell.text = elided(&cell.text, room - before);
            }
            return self.line(&self.columns, &cells);
        }
        let Some((first, rest)) = cells.split_first() else { return "\n".into() };
        let mut text = self.paint.paint(first.tone, &elided(&first.text, room)) + "\n";
        let (mut from, mut used) = (1, INDENT);
        for (index, column) in self.columns.iter().enumerate().skip(1) {
            if used + column.width > room && index > from {
                text += &self.part(from..index, rest);
                (from, used) = (index, INDENT);
            }
            used += column.width + GAP;
        }
        text + &self.part(from..self.columns.len(), rest)
    }

    /// Some columns' cells, below the row's first.
    fn part(&self, columns: std::ops::Range<usize>, rest: &[Cell]) -> String {
        let cells = rest.get(columns.start - 1..).unwrap_or_default();
        let cells = &cells[..cells.len().min(columns.len())];
        if cells.iter().all(|cell| cell.text.is_empty()) {
            return String::new();
        }
        " ".repeat(INDENT) + &self.line(&self.columns[columns], cells)
    }

    /// Columns that a whole row takes.
    fn width(&self) -> usize {
        let widths = self.columns.iter().map(|column| column.width + GAP);
        widths.sum::<usize>().saturating_sub(GAP)
    }

    fn line(&self, columns: &[Column], cells: &[Cell]) -> String {
        let empty = Cell::default();
        let mut line = String::new();
        let mut owed = 0;
        for (index, column) in columns.iter().enumerate() {
            let cell = cells.get(index).unwrap_or(&empty);
            let room = column.width.saturating_sub(width(&cell.text));
            if column.align == Align::Right {
                owed += room;
            }
            if !cell.text.is_empty() {
                line.extend(std::iter::repeat_n(' ', owed));
                owed = 0;
                line.push_str(&self.paint.paint(cell.tone, &cell.text));
            }
            if column.align == Align::Left {
                owed += room;
            }
            owed += GAP;
        }
        line.push('\n');
        line
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_line_up_and_end_without_blanks() {
        let columns = vec![
            Column::new("name", Align::Left).fit(["a", "longer"]),
            Column::new("n", Align::Right).at_least(4),
            Column::new("mark", Align::Left),
        ];
        let table = Table::new(columns, Paint::default());
        let row = |cells: &[&str]| {
            table.row(&cells.iter().map(|text| Cell::new(*text)).collect::<Vec<_>>())
        };
        assert_eq!(table.header(), "name       n  mark\n");
        assert_eq!(row(&["a", "17", "ok"]), "a         17  ok\n");
        assert_eq!(row(&["longer", "", "ok"]), "longer        ok\n");
        assert_eq!(row(&["a"]), "a\n");
        assert_eq!(row(&["much longer", "1", "x"]), "much longer     1  x\n");
    }
    #[test]
    fn a_narrow_terminal_gets_two_lines_or_fewer_words() {
        let narrow = |room| Paint { room: Some(room), ..Paint::default() };
        let columns = vec![
            Column::new("name", Align::Left).fit(["a-long-name"]),
            Column::new("count", Align::Right),
            Column::new("states", Align::Right),
            Column::new("mark", Align::Left).at_least(10),
        ];
        let row = |room: usize, cells: &[&str]| {
            let table = Table::new(columns.clone(), narrow(room));
            table.row(&cells.iter().map(|text| Cell::new(*text)).collect::<Vec<_>>())
        };
        let cells = ["a-long-name", "1", "20", "ok"];
        assert_eq!(row(80, &cells), "a-long-name      1      20  ok\n");
        assert_eq!(row(30, &cells), "a-long-name\n        1      20  ok\n");
        assert_eq!(row(18, &cells), "a-long-name\n        1      20\n    ok\n");
        assert_eq!(row(30, &["a"]), "a\n");
        let words =
            vec![Column::new("name", Align::Left), Column::new("what", Align::Left).at_least(60)];
        let table = Table::new(words, narrow(33));
        let row = table.row(&[Cell::new("a"), Cell::new("what takes more than there is room for")]);
        assert_eq!(row, "a     what takes more than there\u{2026}\n");
    }
}
