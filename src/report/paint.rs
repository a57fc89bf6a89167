//! Colour, width and numbers.

use anstyle::{AnsiColor, Style};

/// What a piece of text is to say by its colour.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Tone {
    /// Nothing.
    #[default]
    Plain,
    /// As it should be.
    Good,
    /// Not as it should be.
    Bad,
    /// Not known, or worth a look.
    Warn,
    /// Beside the point.
    Dim,
    /// A heading.
    Strong,
}

/// How text may look where it goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Paint {
    /// Escape sequences, or none at all.
    pub colour: bool,
    /// Columns of the terminal; none where it goes to no terminal.
    pub room: Option<usize>,
}

impl Paint {
    /// `text` in the tone's colour.
    #[must_use]
    pub fn paint(self, tone: Tone, text: &str) -> String {
        let style = match tone {
            Tone::Plain => return text.to_owned(),
            Tone::Good => AnsiColor::Green.on_default(),
            Tone::Bad => AnsiColor::Red.on_default().bold(),
            Tone::Warn => AnsiColor::Yellow.on_default(),
            Tone::Dim => Style::new().dimmed(),
            Tone::Strong => Style::new().bold(),
        };
        if self.colour && !text.is_empty() {
            format!("{style}{text}{style:#}")
        } else {
            text.to_owned()
        }
    }
}

/// Columns that `text` takes.
pub(super) fn width(text: &str) -> usize {
    text.chars().count()
}

/// A number in at most 10 characters or so: all digits while they fit, `1.2e12` above.
///
/// ```
/// use driftheap::report::compact;
/// assert_eq!(compact(9_999_999_999), "9999999999");
/// assert_eq!(compact(1_234_567_890_123), "1.2e12");
/// assert_eq!(compact(u128::MAX), "3.4e38");
/// ```
#[must_use]
pub fn compact(number: u128) -> String {
    let digits = number.to_string();
    if digits.len() <= 10 {
        return digits;
    }
    format!("{}.{}e{}", &digits[..1], &digits[1..2], digits.len() - 1)
}

/// `1 variant`, `2 variants`.
#[must_use]
pub fn plural(count: usize, noun: &str) -> String {
    if count == 1 { format!("1 {noun}") } else { format!("{count} {noun}s") }
}

/// The lines of `text` broken at blanks so that none is wider than `columns`, where words allow.
pub(super) fn wrap(text: &str, columns: usize) -> Vec<String> {
    let columns = columns.max(1);
    let mut lines = Vec::new();
    for line in text.lines() {
        let indent = line.len() - line.trim_start().len();
        let indent = line[..indent].to_owned();
        let mut current = indent.clone();
        for word in line.split_whitespace() {
            let fits = width(&current) + 1 + width(word) <= columns;
            if width(&current) > indent.len() && !fits {
                lines.push(std::mem::replace(&mut current, indent.clone()));
            }
            if width(&current) > indent.len() {
                current.push(' ');
            }
            current.push_str(word);
        }
        lines.push(current);
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_break_at_blanks_and_keep_their_indent() {
        assert_eq!(wrap("  one two three", 9), ["  one two", "  three"]);
        assert_eq!(wrap("unbreakable", 3), ["unbreakable"]);
        assert_eq!(wrap("a\nb", 80), ["a", "b"]);
        assert_eq!(wrap("", 80), Vec::<String>::new());
    }

    #[test]
    fn colour_only_when_asked() {
        let plain = Paint::default();
        let colour = Paint { colour: true, room: None };
        assert_eq!(plain.paint(Tone::Bad, "x"), "x");
        assert_eq!(colour.paint(Tone::Plain, "x"), "x");
        let painted = colour.paint(Tone::Bad, "x");
        assert!(painted.starts_with('\u{1b}') && painted.ends_with('m') && painted.contains('x'));
    }

    #[test]
    fn numbers_stay_exact_while_they_fit() {
        for (number, text) in [
            (0, "0"),
            (9_999_999_999, "9999999999"),
            (10_000_000_000, "1.0e10"),
            (u128::MAX, "3.4e38"),
        ] {
            assert_eq!(compact(number), text);
        }
    }
}
