//! The names of a variant: who defines what, and how many pages it has.

use super::ast::{Buffer, Name, Op, Process, Role, Variant};
use super::span::Span;

/// What a name stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum NameKind {
    /// A VMA, by `mmap` or `mremap`; a name of its process.
    Mapping,
    /// What a load or DMA read gave; a name of its process.
    Register,
    /// By `gup`.
    Pin,
    /// By `follow_pfn`.
    PfnCache,
    /// By `frame_vector`.
    FrameVector,
    /// By `attach`.
    Attachment,
    /// By `map`.
    SgTable,
    /// By `submit`.
    Fence,
    /// The label of a statement.
    Label,
}

impl NameKind {
    /// With its article, as diagnostics say it.
    #[must_use]
    pub const fn described(self) -> &'static str {
        match self {
            Self::Mapping => "a mapping",
            Self::Register => "a register",
            Self::Pin => "a pin",
            Self::PfnCache => "a pfn cache",
            Self::FrameVector => "a frame vector",
            Self::Attachment => "an attachment",
            Self::SgTable => "an sg_table",
            Self::Fence => "a fence",
            Self::Label => "a label",
        }
    }

    /// Without an article.
    #[must_use]
    pub fn noun(self) -> &'static str {
        self.described().split_once(' ').map_or("", |(_, noun)| noun)
    }

    /// Whether other processes see the name.
    #[must_use]
    pub const fn is_global(self) -> bool {
        !matches!(self, Self::Mapping | Self::Register)
    }
}

/// A name and the statement that defines it.
#[derive(Clone, Copy, Debug)]
pub struct Definition<'a> {
    /// The name, where it is defined.
    pub name: &'a Name,
    /// What it stands for.
    pub kind: NameKind,
    /// The process, by its place in [`Variant::processes`].
    pub process: usize,
    /// The statement, by its place in the process.
    pub statement: usize,
    op: &'a Op,
}

impl Definition<'_> {
    /// Where the name is defined.
    #[must_use]
    pub fn span(&self) -> Span {
        self.name.span
    }
}

/// All names of a variant that statements define.
#[derive(Debug)]
pub struct Symbols<'a> {
    variant: &'a Variant,
    /// In the order of the file.
    definitions: Vec<Definition<'a>>,
    /// Per process: the process and statement that forks it.
    forks: Vec<Option<(usize, usize)>>,
}

/// More lookups than any chain of `mremap`s and `fork`s in a valid variant needs.
const FUEL: usize = 1024;

impl<'a> Symbols<'a> {
    /// Collects the names of the variant.
    #[must_use]
    pub fn of(variant: &'a Variant) -> Self {
        let mut definitions = Vec::new();
        let mut forks = vec![None; variant.processes.len()];
        for (p, process) in variant.processes.iter().enumerate() {
            for (s, statement) in process.statements.iter().enumerate() {
                let op = &statement.op;
                let mut define = |name, kind| {
                    definitions.push(Definition { name, kind, process: p, statement: s, op });
                };
                if let Some(label) = &statement.label {
                    define(label, NameKind::Label);
                }
                if let Some((name, kind)) = op.defined() {
                    define(name, kind);
                }
                if let Op::Fork { child } = op
                    && let Some(at) = position(&variant.processes, child.index)
                {
                    forks[at].get_or_insert((p, s));
                }
            }
        }
        Self { variant, definitions, forks }
    }

    /// Every definition, in the order of the file.
    #[must_use]
    pub fn definitions(&self) -> &[Definition<'a>] {
        &self.definitions
    }

    /// The definition of a name that all processes see.
    #[must_use]
    pub fn global(&self, name: &str) -> Option<&Definition<'a>> {
        self.definitions.iter().find(|d| d.kind.is_global() && d.name.as_str() == name)
    }

    /// The definition of a register of the process.
    #[must_use]
    pub fn register(&self, process: usize, name: &str) -> Option<&Definition<'a>> {
        self.local(process, NameKind::Register, name)
    }

    /// The definition of a mapping that the process made, or has from the process that forked it.
    #[must_use]
    pub fn mapping(&self, process: usize, name: &str) -> Option<&Definition<'a>> {
        let mut process = process;
        for _ in 0..FUEL {
            if let Some(found) = self.local(process, NameKind::Mapping, name) {
                return Some(found);
            }
            process = self.forker(process)?.0;
        }
        None
    }

    /// The process and statement that fork this process.
    #[must_use]
    pub fn forker(&self, process: usize) -> Option<(usize, usize)> {
        let is_child = self.variant.processes.get(process)?.role == Role::Child;
        self.forks.get(process).copied().flatten().filter(|_| is_child)
    }

    /// The process whose thread this is, or the process itself.
    #[must_use]
    pub fn leader(&self, process: usize) -> usize {
        let Some(Role::Thread(of)) = self.variant.processes.get(process).map(|p| &p.role) else {
            return process;
        };
        position(&self.variant.processes, of.index).unwrap_or(process)
    }

    /// Whether both are in one address space.
    #[must_use]
    pub fn are_threads(&self, one: usize, other: usize) -> bool {
        self.leader(one) == self.leader(other)
    }

    fn local(&self, process: usize, kind: NameKind, name: &str) -> Option<&Definition<'a>> {
        let is_own = |d: &&Definition<'_>| {
            let shared = kind == NameKind::Mapping && self.are_threads(d.process, process);
            d.process == process || shared
        };
        self.definitions.iter().filter(|d| d.kind == kind && d.name.as_str() == name).find(is_own)
    }

    /// The buffer behind a mapping, attachment or sg_table; none for anonymous memory.
    #[must_use]
    pub fn buffer(&self, definition: &Definition<'a>) -> Option<&'a Buffer> {
        let source = self.source(*definition)?;
        let (Op::Mmap { buffer, .. } | Op::Attach { buffer, .. }) = source.op else { return None };
        self.variant.buffers.iter().find(|b| b.name == *buffer)
    }

    /// How many pages can be named behind the definition; none if that is not known.
    ///
    /// A page of an attachment or sg_table is one of its buffer.
    #[must_use]
    pub fn pages(&self, definition: &Definition<'a>) -> Option<u8> {
        if let Op::FrameVector { at, .. } = definition.op {
            return u8::try_from(at.len()).ok();
        }
        if let NameKind::Pin | NameKind::PfnCache = definition.kind {
            return Some(1);
        }
        let source = self.source(*definition)?;
        if let Op::MmapAnon { pages, .. } = source.op {
            return Some(pages.unwrap_or(1));
        }
        let size = self.buffer(&source)?.pages;
        match (definition.kind, source.op) {
            (NameKind::Mapping, Op::Mmap { pages: Some(pages), .. }) => Some(*pages),
            (NameKind::Mapping, Op::Mmap { offset, .. }) => {
                Some(size.saturating_sub(offset.unwrap_or(0)).max(1))
            }
            _ => Some(size),
        }
    }

    /// Follows `mremap`, `map` and `dmabuf_of` to the `mmap` or `attach` they come from.
    fn source(&self, mut definition: Definition<'a>) -> Option<Definition<'a>> {
        for _ in 0..FUEL {
            let (Op::Mremap { old: name, .. }
            | Op::AttachDmabufOf { mapping: name, .. }
            | Op::Map { attachment: name, .. }) = definition.op
            else {
                return Some(definition);
            };
            let next = if definition.kind == NameKind::SgTable {
                self.global(name.as_str())
            } else {
                self.mapping(definition.process, name.as_str())
            };
            definition = *next?;
        }
        None
    }
}

/// The place of the process `Pn` in the list.
pub(super) fn position(processes: &[Process], index: usize) -> Option<usize> {
    processes.iter().position(|process| process.index == index)
}
