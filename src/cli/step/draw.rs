//! A view as text in a grid of cells.
//!
//! ```text
//! title                                                    step 4 of 10 (...)
//! what the last step did
//! memory, addresses, buffers            | the file, with the line in hand
//! the next steps
//! keys
//! ```
//!
//! Colour repeats what a letter or a sign says already.

use driftheap::report::picture::{Look, Picture};
use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Paragraph, Wrap};

use super::view::View;

const COLUMNS_MIN: u16 = 40;
const LINES_MIN: u16 = 12;

/// Colours of buffers, in their order.
const OWNERS: [Color; 6] =
    [Color::Blue, Color::Yellow, Color::Green, Color::Magenta, Color::Cyan, Color::LightRed];

const KEYS: &str = "Right/Left step  Enter take  n/N hazard  s schedule  v variant  ? help  q quit";

const HELP: &str = "\
Right, l, Space  a step along the schedule
Left, h          a step back
Up, Down, k, j   choose one of the next steps
Enter            take it; 1 to 9 take one at once
n, N             to the next hazard, the one before
Home, End, g, G  to the start, to the end
s                the next schedule, from its start
v                the next variant
PageUp, PageDown scroll the picture
q, Esc, Ctrl-C   leave

---> an address that is held    -x-> a stale one
! a hazard    > the line of the last step
Any key goes back.";

/// How things look.
#[derive(Clone, Copy)]
struct Ink {
    colour: bool,
}

impl Ink {
    fn fg(self, colour: Color) -> Style {
        if self.colour { Style::new().fg(colour) } else { Style::new() }
    }

    fn bad(self) -> Style {
        self.fg(Color::Red).add_modifier(Modifier::BOLD)
    }

    fn owner(self, look: Look) -> Style {
        match look {
            Look::Owned(buf) => {
                self.fg(OWNERS[buf.index() % OWNERS.len()]).add_modifier(Modifier::BOLD)
            }
            Look::Passing(buf) => self.fg(OWNERS[buf.index() % OWNERS.len()]),
            Look::Free => Style::new().add_modifier(Modifier::DIM),
            Look::Other => Style::new(),
        }
    }
}

const STRONG: Style = Style::new().add_modifier(Modifier::BOLD);
const DIM: Style = Style::new().add_modifier(Modifier::DIM);

pub(super) fn draw(frame: &mut Frame<'_>, view: &View<'_>, colour: bool) {
    let ink = Ink { colour };
    let area = frame.area();
    if area.width < COLUMNS_MIN || area.height < LINES_MIN {
        let text = format!("too small: {COLUMNS_MIN} columns and {LINES_MIN} lines are needed");
        frame.render_widget(Paragraph::new(text).wrap(Wrap { trim: true }), area);
        return;
    }
    let steps = next(view, ink);
    let height = u16::try_from(steps.len()).unwrap_or(u16::MAX);
    let rows = [
        Constraint::Length(1),
        Constraint::Length(2),
        Constraint::Min(4),
        Constraint::Length(height),
        Constraint::Length(1),
    ];
    let [head, said, body, below, foot] = Layout::vertical(rows).areas(area);
    frame.render_widget(Paragraph::new(title(view, usize::from(head.width))), head);
    frame.render_widget(Paragraph::new(last(view, ink)).wrap(Wrap { trim: true }), said);
    if view.help {
        frame.render_widget(Paragraph::new(HELP), body.union(below));
    } else {
        self::body(frame, view, body, ink);
        frame.render_widget(Paragraph::new(steps), below);
    }
    let keys = view.note.map_or(Line::styled(KEYS, DIM), |note| Line::styled(note, ink.bad()));
    frame.render_widget(Paragraph::new(keys), foot);
}

/// The variant on the left, the step on the right.
fn title(view: &View<'_>, columns: usize) -> Line<'static> {
    let place = view.place();
    let room = columns.saturating_sub(place.chars().count() + 1);
    let name: String = view.title.chars().take(room).collect();
    let gap = columns.saturating_sub(name.chars().count() + place.chars().count());
    Line::from(vec![Span::styled(name, STRONG), Span::raw(" ".repeat(gap)), Span::raw(place)])
}

/// What the last step did, and how it ended.
fn last(view: &View<'_>, ink: Ink) -> Line<'static> {
    let mut spans = Vec::new();
    match view.last() {
        None => spans.push(Span::raw("Nobody has done anything yet.")),
        Some(edge) => {
            for sight in &edge.hazards {
                spans.push(Span::styled(format!("! {} ", sight.kind.word()), ink.bad()));
            }
            let text = format!("P{} {}: {}", edge.actor, edge.statement, edge.what);
            spans.push(Span::raw(text));
        }
    }
    Line::from(spans)
}

/// Memory and what points at it on the left, the file on the right where there is room.
fn body(frame: &mut Frame<'_>, view: &View<'_>, area: Rect, ink: Ink) {
    let picture = view.picture();
    let lines = self::picture(view, &picture, ink);
    let narrow = area.width < 2 * COLUMNS_MIN;
    let widths = if narrow {
        [Constraint::Percentage(100), Constraint::Length(0)]
    } else {
        [Constraint::Fill(1), Constraint::Percentage(46)]
    };
    let [left, right] = Layout::horizontal(widths).areas(area);
    let hidden = u16::try_from(lines.len()).unwrap_or(u16::MAX).saturating_sub(left.height);
    let top = view.scroll.min(hidden);
    frame.render_widget(Paragraph::new(lines).scroll((top, 0)), left);
    if top < hidden {
        let more = Rect { y: left.bottom() - 1, height: 1, ..left };
        let text = format!("... {} more lines: PageDown", hidden - top + 1);
        frame.render_widget(ratatui::widgets::Clear, more);
        frame.render_widget(Paragraph::new(Line::styled(text, STRONG)), more);
    }
    if !narrow {
        frame.render_widget(Paragraph::new(file(view, &picture, right)), right);
    }
}

/// Frames, then addresses, then buffers.
fn picture(view: &View<'_>, picture: &Picture, ink: Ink) -> Vec<Line<'static>> {
    let stage = view.stage();
    let sights = view.last().map_or(&[][..], |edge| &edge.hazards);
    let mut lines = vec![Line::styled("Memory", STRONG)];
    let names = stage.places.iter().map(|place| place.name.len()).max().unwrap_or(0);
    for (index, (place, cell)) in stage.places.iter().zip(&picture.cells).enumerate() {
        let hit = sights.iter().any(|sight| sight.place == Some(index));
        let holds = format!("{} {}", cell.owner, cell.holds);
        let mut spans = vec![
            Span::raw(format!("{:<names$} ", place.name)),
            Span::styled(format!("[{:<14}]", holds.trim_end()), ink.owner(cell.look)),
        ];
        if hit {
            spans.push(Span::styled(" !", ink.bad()));
        }
        lines.push(Line::from(spans));
    }
    lines.push(Line::styled("Addresses held", STRONG));
    let name = |slot: usize| {
        let slot = &stage.slots[slot];
        format!("P{} {} {}", slot.lane, slot.kind, slot.name)
    };
    let width = picture.arrows.iter().map(|arrow| name(arrow.slot).len()).max().unwrap_or(0);
    for arrow in &picture.arrows {
        let hit = |sight: &driftheap::report::picture::Sight| {
            sight.slot == Some(arrow.slot) && sight.place == Some(arrow.to)
        };
        let hit = sights.iter().any(hit);
        let (shaft, word) = if arrow.stale { ("-x->", " stale") } else { ("--->", "") };
        let style = if hit { ink.bad() } else { Style::new() };
        let to = &stage.places[arrow.to].name;
        let text = format!("{:<width$} {shaft} {to}{word} {}", name(arrow.slot), arrow.note);
        let mut spans = vec![Span::styled(text.trim_end().to_owned(), style)];
        if hit {
            spans.push(Span::styled(" !", ink.bad()));
        }
        lines.push(Line::from(spans));
    }
    if picture.arrows.is_empty() {
        lines.push(Line::styled("none", DIM));
    }
    lines.push(Line::styled("Buffers", STRONG));
    lines.extend(picture.notes.iter().map(|note| Line::raw(note.clone())));
    lines
}

/// The part of the file around the line in hand, and who is where.
fn file(view: &View<'_>, picture: &Picture, area: Rect) -> Vec<Line<'static>> {
    let now = view.last().map_or(0, |edge| edge.line);
    let height = usize::from(area.height);
    let here = |number: u32| {
        let at = picture.hands.iter().enumerate().filter(move |(_, line)| **line == number);
        at.map(|(lane, _)| format!("P{lane}")).collect::<Vec<_>>().join(",")
    };
    let hand = if now > 0 { now } else { picture.hands.iter().copied().max().unwrap_or(0) };
    let middle = usize::try_from(hand).unwrap_or_default();
    let top = middle.saturating_sub(height / 2 + 1).min(view.source.len().saturating_sub(height));
    let lines = view.source.iter().zip(1u32..).skip(top).take(height);
    let line = |(text, number): (&&str, u32)| {
        let mark = if number == now { '>' } else { ' ' };
        let text = format!("{mark}{:>5} {}", here(number), text.replace('\t', "    "));
        let style =
            if number == now { STRONG.add_modifier(Modifier::REVERSED) } else { Style::new() };
        Line::styled(text, style)
    };
    lines.map(line).collect()
}

/// The steps that can be taken, or how it ended.
fn next(view: &View<'_>, ink: Ink) -> Vec<Line<'static>> {
    let node = view.node();
    if let Some((outcome, holds)) = &node.end {
        let holds = if *holds { "What is asked holds." } else { "What is asked does not hold." };
        return vec![
            Line::styled(format!("The end. {holds}"), STRONG),
            Line::raw(format!("  {outcome}")),
        ];
    }
    let mut lines = vec![Line::styled("Who goes next?", STRONG)];
    for (index, edge) in node.edges.iter().enumerate() {
        let chosen = index == view.chosen;
        let mark = if chosen { '>' } else { ' ' };
        let text = format!("{mark}{} P{} {}: {}", index + 1, edge.actor, edge.statement, edge.what);
        let style = if chosen { STRONG } else { Style::new() };
        let mut spans = vec![Span::styled(text, style)];
        if !edge.hazards.is_empty() {
            let kinds: Vec<&str> = edge.hazards.iter().map(|sight| sight.kind.word()).collect();
            spans.insert(0, Span::styled(format!("! {} ", kinds.join(" ")), ink.bad()));
        }
        lines.push(Line::from(spans));
    }
    lines
}
