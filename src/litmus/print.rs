//! Syntax trees as text, in the formatter's own layout.

use std::fmt;

use super::ast::{
    Buffer, BufferState, Count, Exporter, Frames, Importer, Name, PageRef, Process, ProcessRef,
    Role, Rule, RuleValue, Statement, Variant,
};
use super::op::option;

/// A block that stood on one line stays there up to this width.
pub(super) const LINE_COLUMNS_MAX: usize = 100;

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Display for PageRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}[{}]", self.name, self.page)
    }
}

impl fmt::Display for ProcessRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "P{}", self.index)
    }
}

impl fmt::Display for RuleValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Word(word) => word.fmt(f),
            Self::Steps(steps) => {
                f.write_str("[")?;
                for (i, step) in steps.iter().enumerate() {
                    write!(f, "{}{step}", if i > 0 { " " } else { "" })?;
                }
                f.write_str("]")
            }
        }
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} = {}", self.name, self.value)
    }
}

impl fmt::Display for Statement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(label) = &self.label {
            write!(f, "{label}: ")?;
        }
        self.op.fmt(f)
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Application => f.write_str("application"),
            Self::Exporter(name) => write!(f, "exporter {name}"),
            Self::Device(importer) => {
                write!(f, "device{}", option("importer ", importer.as_ref()))
            }
            Self::Child => f.write_str("child"),
            Self::Thread(of) => write!(f, "thread of {of}"),
            Self::Hardware => f.write_str("hardware"),
        }
    }
}

impl fmt::Display for Process {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.statements.is_empty() {
            return write!(f, "P{} {} {{}}", self.index, self.role);
        }
        writeln!(f, "P{} {} {{", self.index, self.role)?;
        for statement in &self.statements {
            writeln!(f, "    {statement}")?;
        }
        f.write_str("}")
    }
}

/// A header block: on one line if it fits, else a field a line.
fn block<T: fmt::Display>(f: &mut fmt::Formatter<'_>, head: &str, fields: &[T]) -> fmt::Result {
    let fields: Vec<String> = fields.iter().map(T::to_string).collect();
    if fields.is_empty() {
        return writeln!(f, "{head} {{}}");
    }
    let line = format!("{head} {{ {} }}", fields.join("; "));
    if line.chars().count() <= LINE_COLUMNS_MAX {
        return writeln!(f, "{line}");
    }
    writeln!(f, "{head} {{")?;
    fields.iter().try_for_each(|field| writeln!(f, "    {field}"))?;
    writeln!(f, "}}")
}

impl fmt::Display for Frames {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} = {}", self.placement, self.count)
    }
}

impl fmt::Display for Exporter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        block(f, &format!("exporter {}", self.name), &self.rules)
    }
}

impl fmt::Display for Importer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        block(f, &format!("importer {}", self.name), &self.rules)
    }
}

impl fmt::Display for Buffer {
    /// Leaves out the state and fill that a buffer has anyway.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut fields = vec![
            format!("exporter = {}", self.exporter),
            format!("pages = {}", self.pages),
            format!("placement = {}", self.placement),
        ];
        if self.state != BufferState::Allocated {
            fields.push(format!("state = {}", self.state));
        }
        if self.fill != 0 {
            fields.push(format!("fill = {}", self.fill));
        }
        block(f, &format!("buffer {}", self.name), &fields)
    }
}

impl fmt::Display for Variant {
    /// A complete litmus file of this variant alone.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "DMABUF {}", self.test)?;
        if let Some(verdict) = self.expected {
            writeln!(f, "(* Result: {verdict} *)")?;
        }
        writeln!(f)?;
        if !self.host.is_empty() {
            block(f, "host", &self.host)?;
        }
        self.exporters.iter().try_for_each(|exporter| exporter.fmt(f))?;
        self.importers.iter().try_for_each(|importer| importer.fmt(f))?;
        if !self.memory.is_empty() {
            block(f, "memory", &self.memory)?;
        }
        self.buffers.iter().try_for_each(|buffer| buffer.fmt(f))?;
        writeln!(f)?;
        self.processes.iter().try_for_each(|process| writeln!(f, "{process}"))?;
        writeln!(f, "{}", self.condition)?;
        if !self.counts.is_empty() {
            let count = |count: &Count| {
                let expected = count.expected.map(|n| format!(" = {n}")).unwrap_or_default();
                format!("{}{expected}", count.counter.word())
            };
            let counts: Vec<String> = self.counts.iter().map(count).collect();
            writeln!(f, "count ({})", counts.join(", "))?;
        }
        Ok(())
    }
}
