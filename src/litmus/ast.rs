//! The typed syntax tree: one [`Variant`] per combination of `vary` alternatives.
//!
//! Every node carries the [`Span`] it was read from; comparison ignores spans, so that a tree and
//! what its text parses to are equal. Trees can also be built by hand ([`Name::new`]) and printed:
//! `Display` of a [`Variant`] is a complete litmus file, of a [`Statement`] one line of it.

pub use crate::model::Placement;

pub(crate) use super::op::Use;
pub use super::op::{
    AttachMode, FenceUsage, GupFlags, LockAccess, Op, Protection, Sharing, SyncAccess, SyncPhase,
};

use super::cond::{Condition, Counter};
use super::span::Span;
use super::words::words;

/// A name or word, with the place it was read from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Name {
    /// The word itself.
    pub text: String,
    /// Where it stands.
    pub span: Span,
}

impl Name {
    /// A name that comes from no file.
    #[must_use]
    pub fn new(text: impl Into<String>) -> Self {
        Self { text: text.into(), span: Span::default() }
    }

    /// The word itself.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }
}

/// One litmus file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Test {
    /// The word after `DMABUF`.
    pub name: Name,
    /// The header comment up to its first key, lines trimmed.
    pub question: String,
    /// `Row:`, the mechanism that the test shows.
    pub row: Option<String>,
    /// `Source:` lines: the mailing-list thread, commit or CVE that the question comes from.
    pub sources: Vec<String>,
    /// `Result:`, in order; the first pattern that matches a variant decides.
    pub results: Vec<ResultPattern>,
    /// The expansions, in the order of the alternatives (the first `vary` varies slowest).
    pub variants: Vec<Variant>,
}

/// `PATTERN VERDICT` of a `Result:` key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResultPattern {
    /// A variant name in which any segment may be `*`; a single `*` matches every variant.
    pub pattern: String,
    /// What is expected of the variants it matches.
    pub verdict: Verdict,
    /// Where the pattern stands.
    pub span: Span,
}

impl ResultPattern {
    /// Whether the pattern speaks of the variant of this name.
    #[must_use]
    pub fn matches(&self, variant: &str) -> bool {
        if self.pattern == "*" {
            return true;
        }
        let mut segments = variant.split('/');
        self.pattern
            .split('/')
            .all(|want| segments.next().is_some_and(|s| want == "*" || want == s))
            && segments.next().is_none()
    }
}

words! {
    /// How often the condition holds, over all interleavings.
    Verdict {
        /// In every outcome.
        Always = "Always",
        /// In some outcomes, but not in all.
        Sometimes = "Sometimes",
        /// In no outcome.
        Never = "Never",
    }
}

/// A litmus test with every `vary` decided.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Variant {
    /// The name of the test it belongs to.
    pub test: Name,
    /// The labels of the chosen alternatives joined by `/`; `-` in a file without `vary`.
    pub name: String,
    /// What `Result:` says of this variant; `None` if the file has no `Result:`.
    pub expected: Option<Verdict>,
    /// `host { .. }`: rules of the machine.
    pub host: Vec<Rule>,
    /// `exporter NAME { .. }`, in order.
    pub exporters: Vec<Exporter>,
    /// `importer NAME { .. }`, in order.
    pub importers: Vec<Importer>,
    /// `memory { .. }`: frames per placement, where the file gives a number.
    pub memory: Vec<Frames>,
    /// `buffer NAME { .. }`, in order.
    pub buffers: Vec<Buffer>,
    /// `P0`, `P1`, ... in order.
    pub processes: Vec<Process>,
    /// The final condition.
    pub condition: Condition,
    /// `count (..)`: the cost counters that are printed for a run.
    pub counts: Vec<Count>,
}

/// `COUNTER` or `COUNTER = N` of a `count (..)`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Count {
    /// What is counted.
    pub counter: Counter,
    /// What every schedule is to cost, where the file says so.
    pub expected: Option<u8>,
}

/// `RULE = VALUE` in a host, exporter or importer block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// A rule of the rule table.
    pub name: Name,
    /// A value that the rule allows.
    pub value: RuleValue,
    /// The whole field.
    pub span: Span,
}

/// The right-hand side of a rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RuleValue {
    /// One word.
    Word(Name),
    /// `[w w w]`, the steps of a procedure in their order.
    Steps(Vec<Name>),
}

/// `exporter NAME { RULES }`: a driver that owns buffers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exporter {
    /// Its name.
    pub name: Name,
    /// The rules it sets; every other rule has its default.
    pub rules: Vec<Rule>,
    /// The whole block.
    pub span: Span,
}

/// `importer NAME { RULES }`: a driver that uses buffers of another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Importer {
    /// Its name.
    pub name: Name,
    /// The rules it sets; every other rule has its default.
    pub rules: Vec<Rule>,
    /// The whole block.
    pub span: Span,
}

/// `PLACEMENT = N` in the memory block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frames {
    /// Which memory.
    pub placement: Placement,
    /// How many frames of one page it has.
    pub count: u8,
    /// The whole field.
    pub span: Span,
}

/// `buffer NAME { .. }`: a `struct dma_buf`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Buffer {
    /// Its name.
    pub name: Name,
    /// The exporter that owns it.
    pub exporter: Name,
    /// Its size, 1 to 16.
    pub pages: u8,
    /// Where its frames are at the start, or will be when it is allocated.
    pub placement: Placement,
    /// Whether it has frames at the start.
    pub state: BufferState,
    /// The byte that every page holds at first.
    pub fill: u8,
    /// The whole block.
    pub span: Span,
}

words! {
    /// Whether a buffer has frames at the start.
    BufferState {
        /// It has.
        Allocated = "allocated",
        /// Only an `alloc` gives it any.
        Unallocated = "unallocated",
    }
}

/// `Pn ROLE { .. }`: one thread of control.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Process {
    /// The `n` of `Pn`, also its index in [`Variant::processes`].
    pub index: usize,
    /// Who runs the statements.
    pub role: Role,
    /// In program order.
    pub statements: Vec<Statement>,
    /// The header, `Pn ROLE`.
    pub span: Span,
}

/// Who runs the statements of a process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Role {
    /// A user process with its own address space.
    Application,
    /// The driver that owns buffers.
    Exporter(Name),
    /// A device that does DMA, through the importer's driver where one is named.
    Device(Option<Name>),
    /// A user process that starts at some `fork`, with a copy of the forker's address space.
    Child,
    /// Another thread of a user process: the address space, its mappings and its `mmap_lock` are shared,
    /// registers are not, and each thread runs on a CPU of its own, with a TLB of its own.
    Thread(ProcessRef),
    /// Hardware that acts on its own: signals fences, evicts cache lines.
    Hardware,
}

/// One statement.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Statement {
    /// `LABEL:`, the name of the statement's result.
    pub label: Option<Name>,
    /// What it does.
    pub op: Op,
    /// The statement, label included.
    pub span: Span,
}

/// `NAME[PAGE]`: a page of a mapping, buffer, pin, pfn cache, frame vector or sg_table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PageRef {
    /// What is accessed.
    pub name: Name,
    /// Which page of it, 0 to 7.
    pub page: u8,
    /// `NAME[PAGE]`.
    pub span: Span,
}

/// `Pn` where it is used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProcessRef {
    /// The index in [`Variant::processes`].
    pub index: usize,
    /// Where it stands.
    pub span: Span,
}
