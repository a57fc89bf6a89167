//! Syntax trees as text, in the formatter's own layout.

use std::fmt;

use super::ast::{
    Buffer, BufferState, Count, Exporter, Frames, GupFlags, Importer, Name, Op, PageRef, Process,
    ProcessRef, Role, Rule, RuleValue, Statement, Variant,
};

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

impl fmt::Display for GupFlags {
    /// The flags that are set, each with a blank in front.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let words = [
            (self.write, " write"),
            (self.force, " force"),
            (self.longterm, " longterm"),
            (self.get, " get"),
        ];
        words.iter().filter(|(set, _)| *set).try_for_each(|(_, word)| f.write_str(word))
    }
}

impl fmt::Display for RuleValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Word(word) => word.fmt(f),
            Self::Number(number) => number.fmt(f),
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

/// ` WORD VALUE` of an option, or nothing.
fn option<T: fmt::Display>(word: &str, value: Option<&T>) -> String {
    value.map_or_else(String::new, |value| format!(" {word}{value}"))
}

impl fmt::Display for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Mmap { mapping, buffer, sharing, protection, importer, node, pages, offset } => {
                let node = if *node { " node" } else { "" };
                let importer = option("importer ", importer.as_ref());
                let (pages, offset) =
                    (option("pages=", pages.as_ref()), option("offset=", offset.as_ref()));
                write!(
                    f,
                    "mmap {mapping} = {buffer} {sharing} {protection}{importer}{node}{pages}{offset}"
                )
            }
            Self::MmapAnon { mapping, protection, pages } => {
                let pages = option("pages=", pages.as_ref());
                write!(f, "mmap {mapping} = anon private {protection}{pages}")
            }
            Self::Munmap { mapping } => write!(f, "munmap {mapping}"),
            Self::MunmapPage { at } => write!(f, "munmap {at}"),
            Self::Mremap { new, old } => write!(f, "mremap {new} = {old}"),
            Self::Store { to, value } => write!(f, "store {to} = {value}"),
            Self::Load { register, from } => write!(f, "load {register} = {from}"),
            Self::Gup { pin, at, flags } => write!(f, "gup {pin} = {at}{flags}"),
            Self::Unpin { pin } => write!(f, "unpin {pin}"),
            Self::FollowPfn { cache, at, notifier } => {
                write!(f, "follow_pfn {cache} = {at}{}", if *notifier { " notifier" } else { "" })
            }
            Self::FrameVector { vector, at, flags } => {
                let at: Vec<String> = at.iter().map(PageRef::to_string).collect();
                write!(f, "frame_vector {vector} = {}{flags}", at.join(", "))
            }
            Self::EvictCache { at } => write!(f, "evict_cache {at}"),
            Self::Fork { child } => write!(f, "fork {child}"),
            Self::Await { label } => write!(f, "await {label}"),
            Self::Attach { attachment, buffer, mode } => {
                write!(f, "attach {attachment} = {buffer}{}", option("", mode.as_ref()))
            }
            Self::AttachDmabufOf { attachment, mapping } => {
                write!(f, "attach {attachment} = dmabuf_of {mapping}")
            }
            Self::Detach { attachment } => write!(f, "detach {attachment}"),
            Self::Map { table, attachment } => write!(f, "map {table} = {attachment}"),
            Self::Unmap { table } => write!(f, "unmap {table}"),
            Self::Submit { fence, table, usage } => write!(f, "submit {fence} = {table} {usage}"),
            Self::Signal { fence } => write!(f, "signal {fence}"),
            Self::DmaRead { register, from } => write!(f, "dma_read {register} = {from}"),
            Self::DmaWrite { to, value } => write!(f, "dma_write {to} = {value}"),
            Self::Prefetch { at } => write!(f, "prefetch {at}"),
            Self::DmaBufPin { attachment } => write!(f, "dma_buf_pin {attachment}"),
            Self::DmaBufUnpin { attachment } => write!(f, "dma_buf_unpin {attachment}"),
            Self::Sync { phase, buffer, access, importer } => {
                let importer = option("importer ", importer.as_ref());
                write!(f, "sync {phase} {buffer} {access}{importer}")
            }
            Self::Move { buffer, to } => write!(f, "move {buffer} -> {to}"),
            Self::Purge { buffer } => write!(f, "purge {buffer}"),
            Self::Revoke { buffer } => write!(f, "revoke {buffer}"),
            Self::Alloc { buffer } => write!(f, "alloc {buffer}"),
            Self::Close { buffer } => write!(f, "close {buffer}"),
        }
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
