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

    /// One line, with its newline; missing cells are empty, what does not fit sticks out.
    #[must_use]
    pub fn row(&self, cells: &[Cell]) -> String {
        let empty = Cell::default();
        let mut line = String::new();
        let mut owed = 0;
        for (index, column) in self.columns.iter().enumerate() {
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
            owed += 2;
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
}
