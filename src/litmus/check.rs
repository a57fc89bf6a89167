//! Names and limits: what the grammar alone can't say of a variant.

use super::ast::{Name, Op, PageRef, Process, ProcessRef, Role, Variant};
use super::cond::{Atom, AtomKind, Cond};
use super::diag::{Problem, Sink};
use super::op::Use;
use super::parse::Parsed;
use super::span::Span;
use super::symbols::{Definition, NameKind, Symbols, position};
use super::{BUFFERS_MAX, DRIVERS_MAX};

/// Reports every name that is used and not defined, defined twice, or of the wrong kind, every
/// page that does not exist, and every limit that is passed.
pub(super) fn check(parsed: &Parsed, sink: &mut Sink) {
    let Parsed { variant, lost } = parsed;
    let symbols = Symbols::of(variant);
    let mut checker = Checker { variant, lost, symbols: &symbols, sink };
    checker.headers();
    checker.defined_once();
    checker.forks();
    for (at, process) in variant.processes.iter().enumerate() {
        checker.role(process);
        for (statement, line) in process.statements.iter().enumerate() {
            let here = Here { process: at, statement };
            checker.attaches(process, &line.op);
            line.op.uses().into_iter().for_each(|used| checker.used(here, used));
        }
    }
    checker.condition(&variant.condition.body);
}

/// The statement that uses a name.
#[derive(Clone, Copy)]
struct Here {
    process: usize,
    statement: usize,
}

/// What a `dma_read`, `dma_write` or `prefetch` can go through.
const TARGETS: &[NameKind] =
    &[NameKind::Pin, NameKind::PfnCache, NameKind::FrameVector, NameKind::SgTable];

/// What has a result under its own name.
const RESULTS: &[NameKind] = &[
    NameKind::Label,
    NameKind::Pin,
    NameKind::PfnCache,
    NameKind::FrameVector,
    NameKind::Attachment,
    NameKind::SgTable,
    NameKind::Fence,
];

struct Checker<'a, 's> {
    variant: &'a Variant,
    lost: &'a [String],
    symbols: &'s Symbols<'a>,
    sink: &'s mut Sink,
}

impl<'a> Checker<'a, '_> {
    /// Header blocks: each name once, exporters of buffers known.
    fn headers(&mut self) {
        let variant = self.variant;
        let exporters: Vec<&Name> = variant.exporters.iter().map(|e| &e.name).collect();
        let importers: Vec<&Name> = variant.importers.iter().map(|i| &i.name).collect();
        let buffers: Vec<&Name> = variant.buffers.iter().map(|b| &b.name).collect();
        self.unique("exporter", &exporters, DRIVERS_MAX);
        self.unique("importer", &importers, DRIVERS_MAX);
        self.unique("buffer", &buffers, BUFFERS_MAX);
        for buffer in &variant.buffers {
            if !buffer.exporter.text.is_empty() {
                self.known("exporter", &buffer.exporter, &exporters);
            }
        }
    }

    fn unique(&mut self, what: &str, names: &[&Name], max: usize) {
        for (i, name) in names.iter().enumerate() {
            if let Some(first) = names[..i].iter().find(|first| first == &name) {
                self.twice(what, name, first.span);
            }
        }
        if let Some(name) = names.get(max) {
            let message = format!("a test has at most {max} {what}s");
            self.sink.report(Problem::new(name.span, message));
        }
    }

    fn twice(&mut self, what: &str, name: &Name, first: Span) {
        let problem = Problem::new(name.span, format!("{what} `{name}` is defined twice"));
        self.sink.report(problem.related(first, "first here"));
    }

    /// A name of a header block.
    fn known(&mut self, what: &str, name: &Name, names: &[&Name]) {
        if names.contains(&name) || self.is_lost(name) {
            return;
        }
        let message = format!("{what} `{name}` is not defined");
        let mut words: Vec<&str> = names.iter().map(|name| name.as_str()).collect();
        words.dedup();
        let problem = Problem::new(name.span, message);
        self.sink.report(if words.is_empty() {
            problem.help(format!("there is no {what}; write `{what} {name} {{ ... }}`"))
        } else {
            problem.suggest(name.as_str(), &words, &format!("{what}s"))
        });
    }

    fn is_lost(&self, name: &Name) -> bool {
        self.lost.contains(&name.text)
    }

    /// Mappings are defined once per process (with those it has from its forker), all names that
    /// other processes see once per variant; a register may be loaded again.
    fn defined_once(&mut self) {
        let definitions = self.symbols.definitions();
        for (i, later) in definitions.iter().enumerate() {
            let same = |first: &&Definition<'_>| {
                first.name == later.name
                    && first.kind.is_global() == later.kind.is_global()
                    && (first.kind.is_global()
                        || first.process == later.process
                        || self.symbols.are_threads(first.process, later.process)
                            && later.kind == NameKind::Mapping)
                    && first.kind != NameKind::Register
            };
            if later.kind == NameKind::Register {
                continue;
            }
            let inherited = || {
                let mapping = later.kind == NameKind::Mapping;
                let forker = self.symbols.forker(later.process).filter(|_| mapping)?;
                self.symbols.mapping(forker.0, later.name.as_str())
            };
            if let Some(first) = definitions[..i].iter().find(same).or_else(inherited) {
                let (what, first) = (first.kind.noun(), first.span());
                self.twice(what, later.name, first);
            }
        }
    }

    /// Every child is forked, once, and not by itself or its own children.
    fn forks(&mut self) {
        let processes = &self.variant.processes;
        let mut seen: Vec<(usize, Span)> = Vec::new();
        let ops = processes.iter().flat_map(|p| &p.statements).map(|s| &s.op);
        for op in ops {
            let Op::Fork { child } = op else { continue };
            if let Some((_, first)) = seen.iter().find(|(index, _)| *index == child.index) {
                let problem = Problem::new(child.span, format!("`{child}` is forked twice"));
                self.sink.report(problem.related(*first, "first here"));
            }
            seen.push((child.index, child.span));
        }
        for (at, process) in processes.iter().enumerate() {
            let index = process.index;
            if process.role != Role::Child {
                continue;
            }
            if !seen.iter().any(|(child, _)| *child == index) {
                if !self.lost.iter().any(|word| *word == format!("P{index}")) {
                    let problem = Problem::new(process.span, format!("`P{index}` is never forked"));
                    self.sink
                        .report(problem.help(format!("a child runs after some `fork P{index}`")));
                }
                continue;
            }
            let mut ancestor = at;
            for _ in 0..processes.len() {
                let Some((forker, _)) = self.symbols.forker(ancestor) else { break };
                ancestor = forker;
            }
            if self.symbols.forker(ancestor).is_some() {
                let problem =
                    Problem::new(process.span, format!("`P{index}` is forked by its own child"));
                self.sink.report(problem.help("the first `fork` must be in an application"));
            }
        }
    }

    fn fork(&mut self, child: &ProcessRef) {
        let Some(at) = self.process(child.index, child.span) else { return };
        let role = &self.variant.processes[at].role;
        if *role != Role::Child {
            let problem =
                Problem::new(child.span, format!("`{child}` is not a child but `{role}`"));
            self.sink.report(problem.help(format!("write `{child} child {{ ... }}`")));
        }
    }

    /// The place of `Pn`, which must exist.
    fn process(&mut self, index: usize, span: Span) -> Option<usize> {
        let found = position(&self.variant.processes, index);
        let name = Name { text: format!("P{index}"), span };
        if found.is_none() && !self.is_lost(&name) {
            let list = self.variant.processes.iter().map(|p| format!("P{}", p.index));
            let list = list.collect::<Vec<_>>().join(", ");
            let problem = Problem::new(span, format!("there is no process `{name}`"));
            self.sink.report(problem.help(format!("processes: {list}")));
        }
        found
    }

    fn role(&mut self, process: &Process) {
        match &process.role {
            Role::Exporter(name) => self.exporter(name),
            Role::Device(Some(name)) => self.importer(name),
            Role::Thread(of) => self.thread(of),
            Role::Device(None) | Role::Application | Role::Child | Role::Hardware => {}
        }
    }

    /// A thread is one of an application.
    fn thread(&mut self, of: &ProcessRef) {
        let Some(at) = self.process(of.index, of.span) else { return };
        let role = &self.variant.processes[at].role;
        if *role != Role::Application {
            let message = format!("`{of}` is not an application but `{role}`");
            let help = "a thread shares the address space of an application";
            self.sink.report(Problem::new(of.span, message).help(help));
        }
    }

    /// A device attaches through the driver that its block names.
    fn attaches(&mut self, process: &Process, op: &Op) {
        let (Op::Attach { attachment, .. } | Op::AttachDmabufOf { attachment, .. }) = op else {
            return;
        };
        if process.role == Role::Device(None) {
            let index = process.index;
            let message = format!("`P{index}` is a device without an importer, which can't attach");
            let help =
                format!("write `importer NAME {{}}` above and `P{index} device importer NAME`");
            self.sink.report(Problem::new(attachment.span, message).help(help));
        }
    }

    fn exporter(&mut self, name: &Name) {
        let names: Vec<&Name> = self.variant.exporters.iter().map(|e| &e.name).collect();
        self.known("exporter", name, &names);
    }

    fn importer(&mut self, name: &Name) {
        let names: Vec<&Name> = self.variant.importers.iter().map(|i| &i.name).collect();
        self.known("importer", name, &names);
    }

    fn buffer(&mut self, name: &Name) {
        let names: Vec<&Name> = self.variant.buffers.iter().map(|b| &b.name).collect();
        self.known("buffer", name, &names);
    }

    /// The page of a buffer.
    fn buffer_page(&mut self, name: &Name, page: u8, span: Span) {
        self.buffer(name);
        let buffer = self.variant.buffers.iter().find(|b| b.name == *name);
        self.page(name, page, buffer.map(|b| b.pages), span);
    }

    fn page(&mut self, name: &Name, page: u8, pages: Option<u8>, span: Span) {
        let Some(pages) = pages.filter(|pages| page >= *pages) else { return };
        let problem = Problem::new(span, format!("`{name}` has no page {page}"));
        let (noun, verb) =
            if pages == 1 { ("page", "is `[0]`") } else { ("pages", "begin at `[0]`") };
        self.sink.report(problem.help(format!("it has {pages} {noun}, which {verb}")));
    }

    fn used(&mut self, here: Here, used: Use<'_>) {
        match used {
            Use::Buffer(name) => self.buffer(name),
            Use::BufferPage(at) => self.buffer_page(&at.name, at.page, at.span),
            Use::Importer(name) => self.importer(name),
            Use::Mapping(name) => drop(self.mapping(here, name)),
            Use::MappingPage(at) => self.mapping_page(here, at),
            Use::Target(at) => {
                if let Some(target) = self.global(Some(here), &at.name, "DMA target", TARGETS) {
                    self.page(&at.name, at.page, self.symbols.pages(&target), at.span);
                }
            }
            Use::Global(name, kind) => drop(self.global(Some(here), name, kind.noun(), &[kind])),
            Use::Result(name) => drop(self.global(Some(here), name, "label", RESULTS)),
            Use::Child(child) => self.fork(child),
            Use::Process(of) => drop(self.process(of.index, of.span)),
        }
    }

    fn mapping_page(&mut self, here: Here, place: &PageRef) {
        if let Some(mapping) = self.mapping(here, &place.name) {
            let pages = self.symbols.pages(&mapping);
            self.page(&place.name, place.page, pages, place.span);
        }
    }

    /// A mapping of this process, made before this statement.
    fn mapping(&mut self, here: Here, name: &Name) -> Option<Definition<'a>> {
        let found = self.symbols.mapping(here.process, name.as_str()).copied();
        if let Some(mapping) = found {
            let mut user = (here.process, here.statement);
            // What another thread maps may be there at any time.
            while !self.symbols.are_threads(user.0, mapping.process) {
                user = self.symbols.forker(user.0)?;
            }
            if mapping.process == user.0 && mapping.statement >= user.1 {
                let problem = Problem::new(name.span, format!("`{name}` is not mapped yet"));
                self.sink.report(problem.related(mapping.span(), "it is mapped only here"));
            }
            return found;
        }
        let others = self.symbols.definitions().iter();
        let elsewhere: Option<Definition<'a>> = others.clone().find(|d| d.name == name).copied();
        let mut known: Vec<&str> = others
            .filter(|d| d.kind == NameKind::Mapping)
            .filter(|d| self.symbols.mapping(here.process, d.name.as_str()).is_some())
            .map(|d| d.name.as_str())
            .collect();
        known.sort_unstable();
        known.dedup();
        self.undefined(name, "mapping", elsewhere, &known);
        None
    }

    /// Reports a name that is not defined, or is something else.
    fn undefined(
        &mut self,
        name: &Name,
        what: &str,
        elsewhere: Option<Definition<'a>>,
        known: &[&str],
    ) {
        if self.is_lost(name) {
            return;
        }
        if let Some(other) = elsewhere {
            let (kind, process) = (other.kind.described(), self.index(other.process));
            let message = if other.kind.is_global() {
                format!("`{name}` is {kind}, not {}", article(what))
            } else {
                format!("`{name}` is {kind} of `P{process}`, not {} here", article(what))
            };
            let problem = Problem::new(name.span, message).related(other.span(), "defined here");
            self.sink.report(problem.suggest("", known, &format!("{what}s here")));
            return;
        }
        let problem = Problem::new(name.span, format!("{what} `{name}` is not defined"));
        self.sink.report(problem.suggest(name.as_str(), known, &format!("{what}s here")));
    }

    fn index(&self, process: usize) -> usize {
        self.variant.processes.get(process).map_or(process, |process| process.index)
    }

    /// A name of one of these kinds; in its own process not before its definition.
    fn global(
        &mut self,
        here: Option<Here>,
        name: &Name,
        what: &str,
        kinds: &[NameKind],
    ) -> Option<Definition<'a>> {
        let found = self.symbols.global(name.as_str()).copied();
        if let Some(found) = found.filter(|found| kinds.contains(&found.kind)) {
            if let Some(here) = here
                && found.process == here.process
                && found.statement >= here.statement
            {
                let message = format!("`{name}` is defined only later in this process");
                let problem = Problem::new(name.span, message);
                self.sink.report(problem.related(found.span(), "here"));
            }
            return Some(found);
        }
        let definitions = self.symbols.definitions();
        let elsewhere = found.or_else(|| definitions.iter().find(|d| d.name == name).copied());
        let known: Vec<&str> = definitions
            .iter()
            .filter(|d| kinds.contains(&d.kind))
            .map(|d| d.name.as_str())
            .collect();
        self.undefined(name, what, elsewhere, &known);
        None
    }

    /// A name that stands for the result of a statement.
    fn result(&mut self, name: &Name) {
        let definitions = self.symbols.definitions().iter();
        let local = definitions.clone().find(|d| !d.kind.is_global() && d.name == name).copied();
        let Some(local) = local.filter(|_| self.symbols.global(name.as_str()).is_none()) else {
            self.global(None, name, "label", RESULTS);
            return;
        };
        let (kind, process) = (local.kind.described(), self.index(local.process));
        let message = format!("`{name}` is {kind} of `P{process}` and has no result");
        let problem = Problem::new(name.span, message).related(local.span(), "defined here");
        self.sink.report(if local.kind == NameKind::Register {
            problem.label(format!("write `P{process}:{name}`"))
        } else {
            problem.help("label the statement, `m: mmap ...`, and ask about the label")
        });
    }

    fn condition(&mut self, cond: &Cond) {
        match cond {
            Cond::True | Cond::False => {}
            Cond::Not(inner) => self.condition(inner),
            Cond::And(operands) | Cond::Or(operands) => {
                operands.iter().for_each(|operand| self.condition(operand));
            }
            Cond::Atom(atom) => self.atom(atom),
        }
    }

    fn atom(&mut self, atom: &Atom) {
        match &atom.kind {
            AtomKind::AnyHazard | AtomKind::Hazard(_) | AtomKind::Warning => {}
            AtomKind::Register { process, register, .. } => {
                let Some(at) = self.process(*process, atom.span) else { return };
                if self.symbols.register(at, register.as_str()).is_some() {
                    return;
                }
                let registers: Vec<&str> = self
                    .symbols
                    .definitions()
                    .iter()
                    .filter(|d| d.kind == NameKind::Register && d.process == at)
                    .map(|d| d.name.as_str())
                    .collect();
                if !self.is_lost(register) {
                    let message = format!("`P{process}` has no register `{register}`");
                    let what = format!("registers of `P{process}`");
                    let problem = Problem::new(register.span, message);
                    self.sink.report(problem.suggest(register.as_str(), &registers, &what));
                }
            }
            AtomKind::Result { name, .. } => self.result(name),
            AtomKind::Content { buffer, page, .. } => self.buffer_page(buffer, *page, atom.span),
        }
    }
}

/// The noun with its article.
fn article(noun: &str) -> String {
    let vowel = noun.starts_with(['a', 'e', 'i', 'o']) || noun.starts_with("sg_");
    format!("{} {noun}", if vowel { "an" } else { "a" })
}
