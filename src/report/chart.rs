//! Small charts: a bar a figure, as text and as a drawing that stands alone.

use std::fmt::Write as _;

use maud::{Markup, html};

use super::svg::cut;

/// A figure.
#[derive(Debug, Clone, PartialEq)]
pub struct Bar {
    /// Of what.
    pub label: String,
    /// How long the bar is.
    pub value: f64,
    /// The figure in words.
    pub said: String,
    /// Whether it is one to look at: it has a mark and another colour.
    pub marked: bool,
}

/// Columns of the longest bar.
const COLUMNS: usize = 32;
/// Sizes of the drawing, in pixels.
const WIDTH: usize = 720;
const LABEL_WIDTH: usize = 400;
const BAR_WIDTH: usize = 220;
const ROW: usize = 24;
const HEAD: usize = 34;
const LABEL_CHARS: usize = 52;

fn most(bars: &[Bar]) -> f64 {
    bars.iter().map(|bar| bar.value).filter(|value| value.is_finite()).fold(0.0, f64::max)
}

/// How long a bar is, of at most `length`; what is more than nothing is seen.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "between 0 and a small number"
)]
fn share(value: f64, most: f64, length: usize) -> usize {
    if !(value > 0.0 && most > 0.0) {
        return 0;
    }
    let part = (value / most).min(1.0) * length as f64;
    (part.round() as usize).clamp(1, length)
}

/// A line a bar: `|#####     |  figure  label`; a mark before the label of those to look at.
#[must_use]
pub fn text(bars: &[Bar]) -> String {
    let most = most(bars);
    let said = bars.iter().map(|bar| bar.said.chars().count()).max().unwrap_or(0);
    let mut text = String::new();
    for bar in bars {
        let drawn = "#".repeat(share(bar.value, most, COLUMNS));
        let mark = if bar.marked { "* " } else { "  " };
        // Writing to a String can't fail.
        let _ = writeln!(text, "  |{drawn:<COLUMNS$}| {:>said$} {mark}{}", bar.said, bar.label);
    }
    text
}

/// The same as a figure (SVG): no style, script or font comes from elsewhere.
#[must_use]
pub fn svg(title: &str, about: &str, bars: &[Bar]) -> String {
    let most = most(bars);
    let height = HEAD + ROW * bars.len() + 8;
    let drawing = html! {
        svg xmlns="http://www.w3.org/2000/svg" width=(WIDTH) height=(height)
            viewBox={ "0 0 " (WIDTH) " " (height) } role="img" aria-labelledby="title desc"
            font-family="DejaVu Sans Mono, Menlo, Consolas, monospace" {
            title id="title" { (title) }
            desc id="desc" { (about) }
            rect width=(WIDTH) height=(height) fill="#ffffff" {}
            text x="8" y="20" font-size="14" font-weight="bold" fill="#1c2330" { (title) }
            @for (row, bar) in bars.iter().enumerate() {
                (line(bar, HEAD + ROW * row, share(bar.value, most, BAR_WIDTH)))
            }
        }
    };
    format!("{}\n", drawing.into_string())
}

fn line(bar: &Bar, y: usize, length: usize) -> Markup {
    let (fill, edge) = if bar.marked { ("#ffdfba", "#a85400") } else { ("#cfe3ff", "#1f5fbf") };
    let mark = if bar.marked { "* " } else { "" };
    html! {
        g class=(if bar.marked { "bar marked" } else { "bar" }) {
            text x="8" y=(y + 15) font-size="12" fill="#1c2330" { (mark) (cut(&bar.label, LABEL_CHARS)) }
            rect x=(LABEL_WIDTH) y=(y + 3) width=(length) height=(ROW - 8) fill=(fill) stroke=(edge) {}
            text x=(LABEL_WIDTH + length + 6) y=(y + 15) font-size="12" fill="#5b6472" { (bar.said) }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bars() -> Vec<Bar> {
        let bar = |label: &str, value: f64, marked| Bar {
            label: label.to_owned(),
            value,
            said: format!("{value}"),
            marked,
        };
        vec![bar("long <one>", 1000.0, true), bar("tiny", 0.1, false), bar("none", 0.0, false)]
    }

    #[test]
    fn the_longest_bar_is_the_largest_figure_and_little_is_not_nothing() {
        let text = text(&bars());
        let marks: Vec<usize> = text.lines().map(|line| line.matches('#').count()).collect();
        assert_eq!(marks, [COLUMNS, 1, 0]);
        assert!(text.lines().next().is_some_and(|line| line.ends_with("1000 * long <one>")));
        assert_eq!(super::text(&[]), "");
    }

    #[test]
    fn a_drawing_says_what_it_shows() {
        let drawing = svg("Title", "About.", &bars());
        for part in [
            "<title id=\"title\">Title</title>",
            "* long &lt;one&gt;",
            "width=\"220\"",
            "width=\"0\"",
        ] {
            assert!(drawing.contains(part), "{part}: {drawing}");
        }
        assert_eq!(drawing.matches("class=\"bar").count(), 3);
    }
}
