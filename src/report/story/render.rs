//! A story as text in columns.

use super::{Story, StoryStep};
use crate::report::paint::{Paint, Tone, width, wrap};
use crate::terminal::printed;

/// A process column is no narrower.
const PROCESS_COLUMNS_MIN: usize = 18;
/// The last column gets as many before processes get more than they need.
const CHANGED_COLUMNS: usize = 28;
const GAP: &str = "  ";

/// The widths of all columns.
struct Layout {
    step: usize,
    processes: Vec<usize>,
    frames: Vec<usize>,
    changed: usize,
}

impl Story {
    /// As text, about `columns` wide.
    #[must_use]
    pub fn render(&self, paint: Paint, columns: usize) -> String {
        let mut out = self.heading(paint, columns);
        out.push('\n');
        self.table(&mut out, paint, columns);
        for splat in &self.splats {
            out.push('\n');
            out.push_str(&splat.render(paint));
        }
        out.push('\n');
        let end = if self.complete { "Outcome" } else { "Outcome so far" };
        out.push_str(&format!("{end}: {}\n", self.outcome));
        let schedule: Vec<String> = self.schedule.iter().map(ToString::to_string).collect();
        out.push_str(&format!("Schedule: {}\n", schedule.join(",")));
        out
    }

    /// A line a step: its number, the process, the statement, and what the step did.
    #[must_use]
    pub fn steps(&self) -> String {
        let digits = self.steps.len().to_string().len();
        let mut out = String::new();
        for step in &self.steps {
            let hazards: String = step.hazards.iter().map(|kind| format!("  !! {kind}")).collect();
            out.push_str(&format!(
                "{:>digits$}  P{}  {}: {}{hazards}\n",
                step.step, step.process, step.statement, step.what
            ));
        }
        out
    }

    fn heading(&self, paint: Paint, columns: usize) -> String {
        let row = self.row.as_ref().map_or_else(String::new, |row| format!("  [{row}]"));
        let mut out = format!("{}{row}\n", paint.paint(Tone::Strong, &self.name()));
        let mut block = |text: &str| {
            for line in wrap(text, columns.clamp(40, 100)) {
                out.push_str(&line);
                out.push('\n');
            }
        };
        if !self.question.is_empty() {
            // The question is running text; its line breaks are the file's.
            block(&printed(&self.question.split_whitespace().collect::<Vec<_>>().join(" ")));
        }
        for source in &self.sources {
            block(&format!("Source: {}", printed(source)));
        }
        for rules in &self.rules {
            block(&format!("Rules: {rules}"));
        }
        block(&format!("Condition: {}", self.condition));
        block(&self.about);
        out
    }

    fn table(&self, out: &mut String, paint: Paint, columns: usize) {
        let layout = self.layout(columns);
        let mut titles = vec![vec!["step".to_owned()]];
        titles.extend(self.processes.iter().map(|name| vec![name.clone()]));
        titles.extend(self.frames.iter().map(|name| vec![name.clone()]));
        titles.push(vec!["changed".to_owned()]);
        layout.lines(out, paint, Tone::Strong, &titles);
        let mut start = vec![vec!["0".to_owned()]];
        start.extend(self.processes.iter().map(|_| Vec::new()));
        start.extend(self.before.iter().map(|state| vec![state.clone()]));
        layout.lines(out, paint, Tone::Dim, &start);
        for step in &self.steps {
            let tone = if step.hazards.is_empty() { Tone::Plain } else { Tone::Bad };
            layout.lines(out, paint, tone, &self.cells(step, &layout));
        }
    }

    fn cells(&self, step: &StoryStep, layout: &Layout) -> Vec<Vec<String>> {
        let mark = if step.hazards.is_empty() { "" } else { "!" };
        let mut cells = vec![vec![format!("{}{mark}", step.step)]];
        for (process, columns) in layout.processes.iter().enumerate() {
            let mut lines = Vec::new();
            if process == step.process {
                if step.begins {
                    lines.extend(hanging(&step.statement, *columns));
                }
                lines.extend(hanging(&format!("  {}", step.what), *columns));
            }
            cells.push(lines);
        }
        cells.extend(step.frames.iter().map(|state| vec![state.clone()]));
        let hazards = step.hazards.iter().map(|kind| format!("!! {kind}"));
        let changed: Vec<String> = hazards.chain(step.changed.iter().cloned()).collect();
        cells.push(wrap(&changed.join("; "), layout.changed));
        cells
    }

    fn layout(&self, columns: usize) -> Layout {
        let widest = |texts: &mut dyn Iterator<Item = String>| {
            texts.map(|text| width(&text)).max().unwrap_or(0)
        };
        let step = width(&self.steps.len().to_string()).max("step".len()) + 1;
        let frames: Vec<usize> = (0..self.frames.len())
            .map(|at| {
                let states = self.steps.iter().map(|step| step.frames[at].clone());
                let mut all = states.chain([self.frames[at].clone(), self.before[at].clone()]);
                widest(&mut all)
            })
            .collect();
        let natural: Vec<usize> = (0..self.processes.len())
            .map(|process| {
                let own = self.steps.iter().filter(|step| step.process == process);
                let mut texts = own
                    .flat_map(|step| [step.statement.clone(), format!("  {}", step.what)])
                    .chain([self.processes[process].clone()]);
                widest(&mut texts)
            })
            .collect();
        let fixed = step + frames.iter().map(|w| w + GAP.len()).sum::<usize>();
        let changed_max = {
            let texts = self.steps.iter().map(|step| step.changed.join("; "));
            widest(&mut texts.chain(["changed".to_owned()]))
        };
        let changed = changed_max.min(CHANGED_COLUMNS);
        let room = columns.saturating_sub(fixed + changed + GAP.len());
        let mut processes = natural;
        // The widest give way until all fit, or none is wider than it must be.
        while processes.iter().map(|w| w + GAP.len()).sum::<usize>() > room {
            match processes.iter_mut().max() {
                Some(widest) if *widest > PROCESS_COLUMNS_MIN => *widest -= 1,
                _ => break,
            }
        }
        let used: usize = fixed + processes.iter().map(|w| w + GAP.len()).sum::<usize>();
        let changed =
            changed_max.min(columns.saturating_sub(used + GAP.len()).max(CHANGED_COLUMNS));
        Layout { step, processes, frames, changed }
    }
}

/// `text` wrapped, with the lines after the first two columns further in.
fn hanging(text: &str, columns: usize) -> Vec<String> {
    if width(text) <= columns {
        return vec![text.to_owned()];
    }
    let indent = text.len() - text.trim_start().len();
    let lines = wrap(text, columns.saturating_sub(2));
    let deeper = |(index, line): (usize, String)| {
        if index == 0 { line } else { format!("{}  {}", " ".repeat(indent), line.trim_start()) }
    };
    lines.into_iter().enumerate().map(deeper).collect()
}

impl Layout {
    /// One row of cells of several lines each.
    fn lines(&self, out: &mut String, paint: Paint, tone: Tone, cells: &[Vec<String>]) {
        let height = cells.iter().map(Vec::len).max().unwrap_or(0);
        let widths = std::iter::once(self.step)
            .chain(self.processes.iter().copied())
            .chain(self.frames.iter().copied())
            .chain([self.changed]);
        let widths: Vec<usize> = widths.collect();
        for at in 0..height {
            let mut line = String::new();
            for (index, columns) in widths.iter().enumerate() {
                let text =
                    cells.get(index).and_then(|cell| cell.get(at)).map_or("", String::as_str);
                let room = columns.saturating_sub(width(text));
                if index == 0 {
                    // Right-aligned, with room for the mark behind it.
                    let (number, mark) = text.strip_suffix('!').map_or((text, " "), |n| (n, "!"));
                    let digits = columns - 1;
                    line.push_str(&format!("{number:>digits$}{mark}"));
                } else {
                    line.push_str(text);
                    line.push_str(&" ".repeat(room));
                }
                line.push_str(GAP);
            }
            out.push_str(&paint.paint(tone, line.trim_end()));
            out.push('\n');
        }
    }
}
