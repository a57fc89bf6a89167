//! From the syntax tree to a [`Scenario`].

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use held::Held;
use uses::{content_uses, footprints, steps};

use super::names::Names;
use super::program::{Content, Device, Instruction, Program, SlotId, Slots, Statement};
use super::symmetry::Symmetry;
use super::{Scenario, ScenarioState};
use crate::litmus::ast::{self, Op, PageRef, Role, Variant};
use crate::litmus::cond::{AtomKind, Cond};
use crate::litmus::span::{Span, line_column};
use crate::litmus::symbols::NameKind;
use crate::model::{
    self, Coherency, Contents, ExporterPolicy, ExporterRules, ExporterStep, HostRules,
    ImporterRules, Operation, Placement, RuleError, State, Step, TooMany, World,
};
use crate::units::{ActorId, BufId, ExporterId, ImporterId, VmaId};

mod areas;
mod devices;
mod held;
mod statement;
mod uses;

/// Experimental rules by exporter name.
pub type Policies<'a> = &'a [(&'a str, Arc<dyn ExporterPolicy>)];

/// Why a variant that parses can't be run.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct LowerError {
    /// What is wrong.
    pub message: String,
    /// Where.
    pub span: Span,
}

impl LowerError {
    fn new(message: impl Into<String>, span: Span) -> Self {
        Self { message: message.into(), span }
    }

    fn too_many(error: &TooMany, span: Span) -> Self {
        Self::new(error.to_string(), span)
    }
}

/// Everything known so far while a variant is lowered.
struct Lowering<'a> {
    variant: &'a Variant,
    text: &'a str,
    world: World,
    names: Names,
    exporters: BTreeMap<&'a str, ExporterId>,
    importers: BTreeMap<&'a str, ImporterId>,
    default_importer: ImporterId,
    bufs: BTreeMap<&'a str, BufId>,
    vmas: BTreeMap<(usize, &'a str), VmaId>,
    /// First VMA and number of VMAs of each process.
    areas: Vec<(VmaId, u8)>,
    devices: BTreeMap<&'a str, Device>,
    slots: Vec<String>,
}

impl Scenario {
    /// Lower `variant`, which was read from `text` (empty when it comes from no file).
    ///
    /// # Errors
    /// [`LowerError`] when a table limit is exceeded, a rule is refused by the model, or a child
    /// process is forked twice or never.
    pub fn new(variant: &Variant, text: &str) -> Result<Self, LowerError> {
        Self::with_policies(variant, text, &[])
    }

    /// As [`Scenario::new`], with experimental rules for some exporters.
    ///
    /// # Errors
    /// As [`Scenario::new`].
    pub fn with_policies(
        variant: &Variant,
        text: &str,
        policies: Policies<'_>,
    ) -> Result<Self, LowerError> {
        Self::lower(variant, text, policies, &[])
    }

    /// As [`Scenario::new`], with more in each outcome than the condition names: registers
    /// (`P0:r0`) and results, by the name that [`result_name`] gives.
    ///
    /// # Errors
    /// As [`Scenario::new`].
    pub fn observing(
        variant: &Variant,
        text: &str,
        observed: &[String],
    ) -> Result<Self, LowerError> {
        Self::lower(variant, text, &[], observed)
    }

    fn lower(
        variant: &Variant,
        text: &str,
        policies: Policies<'_>,
        observed: &[String],
    ) -> Result<Self, LowerError> {
        let mut lowering = Lowering::begin(variant, text)?;
        lowering.rules(policies)?;
        lowering.buffers()?;
        lowering.frames()?;
        lowering.areas()?;
        lowering.devices()?;
        lowering.collect_slots(observed);
        lowering.finish()
    }
}

impl<'a> Lowering<'a> {
    fn begin(variant: &'a Variant, text: &'a str) -> Result<Self, LowerError> {
        let mut host = HostRules::default();
        for rule in &variant.host {
            set(rule, |name, words| host.set(name, words))?;
        }
        let mut world = World::new(host);
        for process in &variant.processes {
            let added = match &process.role {
                Role::Thread(of) => world.add_thread(ActorId::at(of.index)),
                Role::Application
                | Role::Exporter(_)
                | Role::Device(_)
                | Role::Child
                | Role::Hardware => world.add_actor(),
            };
            added.map_err(|error| LowerError::too_many(&error, process.span))?;
        }
        let locks = |op: &Op| {
            let of_mm = matches!(op, Op::MmapLock { .. } | Op::MmapUnlock { .. });
            of_mm || matches!(op, Op::Lock { .. })
        };
        let mut statements = variant.processes.iter().flat_map(|process| &process.statements);
        if statements.any(|statement| locks(&statement.op)) {
            world.lock_address_spaces();
        }
        let ticket = |op: &Op| matches!(op, Op::Lock { ticket: true, .. });
        let mut statements = variant.processes.iter().flat_map(|process| &process.statements);
        if statements.any(|statement| ticket(&statement.op)) {
            world.draw_tickets();
        }
        let default_importer = world
            .add_importer(ImporterRules::default())
            .map_err(|error| LowerError::too_many(&error, Span::default()))?;
        Ok(Self {
            variant,
            text,
            world,
            names: Names::default(),
            exporters: BTreeMap::new(),
            importers: BTreeMap::new(),
            default_importer,
            bufs: BTreeMap::new(),
            vmas: BTreeMap::new(),
            areas: Vec::new(),
            devices: BTreeMap::new(),
            slots: Vec::new(),
        })
    }

    fn rules(&mut self, policies: Policies<'_>) -> Result<(), LowerError> {
        for exporter in &self.variant.exporters {
            let mut rules = ExporterRules::default();
            for rule in &exporter.rules {
                set(rule, |name, words| rules.set(name, words))?;
            }
            let id = self
                .world
                .add_exporter(rules)
                .map_err(|error| LowerError::too_many(&error, exporter.span))?;
            let name = exporter.name.as_str();
            if let Some((_, policy)) = policies.iter().find(|(of, _)| *of == name) {
                self.world.set_policy(id, Arc::clone(policy));
            }
            self.exporters.insert(name, id);
        }
        for importer in &self.variant.importers {
            let mut rules = ImporterRules::default();
            for rule in &importer.rules {
                set(rule, |name, words| rules.set(name, words))?;
            }
            let id = self
                .world
                .add_importer(rules)
                .map_err(|error| LowerError::too_many(&error, importer.span))?;
            self.importers.insert(importer.name.as_str(), id);
        }
        Ok(())
    }

    fn buffers(&mut self) -> Result<(), LowerError> {
        for buffer in &self.variant.buffers {
            let exporter = self.exporter(&buffer.exporter)?;
            let allocated = buffer.state == ast::BufferState::Allocated;
            let placement = buffer.placement;
            let id = self
                .world
                .add_buf(exporter, buffer.pages, placement, allocated, buffer.fill)
                .map_err(|error| LowerError::too_many(&error, buffer.span))?;
            let closes =
                |op: &Op| matches!(op, Op::Close { buffer: of } if of.text == buffer.name.text);
            let mut statements = self.variant.processes.iter().flat_map(|p| &p.statements);
            if !statements.any(|statement| closes(&statement.op)) {
                self.world.never_closed(id);
            }
            self.bufs.insert(buffer.name.as_str(), id);
            self.names.bufs.push(buffer.name.text.clone());
        }
        Ok(())
    }

    /// Frames: what the file says, else enough for everything that is ever allocated at once.
    fn frames(&mut self) -> Result<(), LowerError> {
        let mut need = [0usize; 3];
        let at = |placement: Placement| match placement {
            Placement::Vram => 0,
            Placement::System => 1,
            Placement::Cma => 2,
        };
        for buffer in &self.variant.buffers {
            need[at(buffer.placement)] += usize::from(buffer.pages);
            // Shadow backing, and a place to migrate to.
            need[1] += usize::from(buffer.pages);
        }
        for statement in self.variant.processes.iter().flat_map(|p| &p.statements) {
            let (placement, frames) = self.frames_taken(&statement.op);
            need[at(placement)] += frames;
        }
        for frames in &self.variant.memory {
            let allocated = |b: &&ast::Buffer| {
                b.placement == frames.placement && b.state == ast::BufferState::Allocated
            };
            let buffers = self.variant.buffers.iter().filter(allocated);
            let taken: usize = buffers.map(|buffer| usize::from(buffer.pages)).sum();
            need[at(frames.placement)] = usize::from(frames.count);
            if taken > usize::from(frames.count) {
                let message = format!(
                    "`{} = {}` is too small: the buffers that are there at the start take {taken}",
                    frames.placement.word(),
                    frames.count
                );
                return Err(LowerError { message, span: frames.span });
            }
        }
        for placement in [Placement::Vram, Placement::System, Placement::Cma] {
            let of = |f: &&ast::Frames| f.placement == placement;
            let span = self.variant.memory.iter().find(of).map(|f| f.span).unwrap_or_default();
            self.world
                .add_frames(placement, need[at(placement)])
                .map_err(|error| LowerError::too_many(&error, span))?;
        }
        Ok(())
    }

    fn pages(&self, buffer: &ast::Name) -> u8 {
        self.bufs.get(buffer.as_str()).map_or(1, |buf| self.world.buf(*buf).pages)
    }

    fn collect_slots(&mut self, observed: &[String]) {
        let mut names: BTreeSet<String> = observed.iter().cloned().collect();
        slots_of(&self.variant.condition.body, &mut names);
        for statement in self.variant.processes.iter().flat_map(|p| &p.statements) {
            if let Op::Await { label } = &statement.op {
                names.insert(self.awaited(label).to_owned());
            }
        }
        self.slots = names.into_iter().collect();
    }

    /// The name under which the result is noted that is awaited: of a statement with a label that makes
    /// something, the label.
    fn awaited<'n>(&'n self, name: &'n ast::Name) -> &'n str {
        let mut statements = self.variant.processes.iter().flat_map(|process| &process.statements);
        let maker = statements.find(|one| made(&one.op).is_some_and(|made| made.text == name.text));
        let label = maker.and_then(|maker| maker.label.as_ref());
        label.map_or(name.as_str(), ast::Name::as_str)
    }

    fn finish(mut self) -> Result<Scenario, LowerError> {
        let mut programs = Vec::new();
        for process in &self.variant.processes {
            programs.push(self.program(process)?);
        }
        let looked_at = self.looked_at()?;
        let initial = ScenarioState {
            model: State::new(&self.world),
            pcs: vec![0; programs.len()],
            started: 0,
            slots: vec![Content::Empty; self.slots.len()],
        };
        let footprints = programs.iter().map(|program| footprints(&self.world, program)).collect();
        let counts = self.variant.counts.iter().map(|count| count.counter).collect();
        let expected = |count: &ast::Count| Some((count.counter, count.expected?.into()));
        let expected_costs = self.variant.counts.iter().filter_map(expected).collect();
        let symmetry = Symmetry::of(&self.world, &programs, self.slots.len());
        let steps = steps(&programs);
        let contents = Contents::new(&self.world, &steps);
        let uses = |program| content_uses(&self.world, &contents, &steps, program);
        let content_uses = programs.iter().map(uses).collect();
        let shown = contents.shown(looked_at.iter().map(|(page, _)| *page));
        Ok(Scenario {
            test: self.variant.test.text.clone(),
            variant: self.variant.name.clone(),
            expected: self.variant.expected,
            bufs: self.bufs.values().copied().collect(),
            names: std::mem::take(&mut self.names),
            world: self.world,
            programs,
            condition: self.variant.condition.clone(),
            counts,
            expected_costs,
            slots: self.slots,
            looked_at,
            footprints,
            contents,
            content_uses,
            shown,
            symmetry,
            initial: Arc::new(initial),
        })
    }

    fn looked_at(&self) -> Result<Vec<(crate::units::PageId, String)>, LowerError> {
        let mut names = BTreeSet::new();
        contents_of(&self.variant.condition.body, &mut names);
        let mut pages = Vec::new();
        for (buffer, index) in names {
            let span = self.variant.condition.span;
            let buf = self.bufs.get(buffer).copied();
            let page = buf.and_then(|buf| self.world.page(buf, index)).ok_or_else(|| {
                LowerError::new(format!("there is no page {buffer}[{index}]"), span)
            })?;
            pages.push((page, format!("{buffer}[{index}]")));
        }
        Ok(pages)
    }

    fn program(&self, process: &'a ast::Process) -> Result<Program, LowerError> {
        let mut program = Program {
            actor: ActorId::at(process.index),
            role: role(&process.role),
            forked: process.role == Role::Child,
            instructions: Vec::new(),
            statements: Vec::new(),
        };
        let mut held = Held::default();
        for statement in &process.statements {
            let first = program.instructions.len();
            let index = program.statements.len();
            let actions = self.actions(process, statement)?;
            held.keep(&actions, statement)?;
            for (action, soft) in actions {
                program.instructions.push(Instruction { action, statement: index, soft });
            }
            let line = if self.text.is_empty() {
                0
            } else {
                line_column(self.text, statement.span.start).0
            };
            program.statements.push(Statement {
                text: statement.to_string(),
                line,
                first,
                end: program.instructions.len(),
                slots: self.slots_of_statement(process.index, index, statement),
            });
        }
        if program.instructions.len() > 250 {
            let message = format!("P{} has more than 250 steps", process.index);
            return Err(LowerError::new(message, process.span));
        }
        Ok(program)
    }

    fn slot(&self, name: &str) -> Option<SlotId> {
        let at = self.slots.iter().position(|slot| slot == name)?;
        Some(SlotId(u8::try_from(at).unwrap_or(u8::MAX)))
    }

    fn slots_of_statement(
        &self,
        process: usize,
        index: usize,
        statement: &ast::Statement,
    ) -> Slots {
        let register = match statement.op.defined() {
            Some((name, NameKind::Register)) => Some(name),
            _ => None,
        };
        let register = register.and_then(|name| self.slot(&format!("P{process}:{}", name.text)));
        let label = statement.label.as_ref().and_then(|label| self.slot(&label.text));
        let made = made(&statement.op).and_then(|name| self.slot(&name.text));
        let place = || self.slot(&format!("P{process}.{index}"));
        let result = label.or(made).or_else(place);
        Slots { register, result, made: made.filter(|made| Some(*made) != result) }
    }

    fn unknown(what: &str, name: &ast::Name) -> LowerError {
        LowerError::new(format!("there is no {what} called `{}`", name.text), name.span)
    }

    fn exporter(&self, name: &ast::Name) -> Result<ExporterId, LowerError> {
        let id = self.exporters.get(name.as_str()).copied();
        id.ok_or_else(|| Self::unknown("exporter", name))
    }

    fn importer(&self, name: &ast::Name) -> Result<ImporterId, LowerError> {
        let id = self.importers.get(name.as_str()).copied();
        id.ok_or_else(|| Self::unknown("importer", name))
    }

    fn importer_of(&self, process: &ast::Process) -> Result<ImporterId, LowerError> {
        match &process.role {
            Role::Device(Some(name)) => self.importer(name),
            Role::Application
            | Role::Exporter(_)
            | Role::Device(None)
            | Role::Child
            | Role::Thread(_)
            | Role::Hardware => Ok(self.default_importer),
        }
    }

    fn buf(&self, name: &ast::Name) -> Result<BufId, LowerError> {
        self.bufs.get(name.as_str()).copied().ok_or_else(|| Self::unknown("buffer", name))
    }

    /// The process in whose address space a process is: its own, or that of which it is a thread.
    fn leader(&self, process: usize) -> usize {
        self.world.mm(ActorId::at(process)).index()
    }

    fn vma(&self, process: usize, name: &ast::Name) -> Result<VmaId, LowerError> {
        let id = self.vmas.get(&(self.leader(process), name.as_str())).copied();
        id.ok_or_else(|| Self::unknown("mapping", name))
    }

    fn attachment(&self, name: &ast::Name) -> Result<crate::units::AttachmentId, LowerError> {
        match self.devices.get(name.as_str()) {
            Some(Device::Attachment(id)) => Ok(*id),
            _ => Err(Self::unknown("attachment", name)),
        }
    }

    /// The steps of a move, purge or revocation of `buf`, as the exporter's rules order them.
    fn exporter_steps(&self, buf: BufId, operation: Operation) -> Vec<Step> {
        let rules = self.world.exporter_of(buf);
        let mut steps = Vec::new();
        for &step in rules.steps(operation) {
            if step == ExporterStep::Flush && rules.coherency == Coherency::Coherent {
                continue;
            }
            let pages = if step == ExporterStep::Copy { self.world.buf(buf).pages } else { 1 };
            steps.extend((0..pages).map(|page| Step::Exporter { buf, step, page, operation }));
        }
        steps
    }

    fn handle(&self, at: &PageRef) -> Result<(model::Handle, u8), LowerError> {
        match self.devices.get(at.name.as_str()) {
            Some(Device::Handle(model::Handle::Pin(first), count)) if at.page < *count => {
                Ok((model::Handle::Pin(crate::units::PinId(first.0 + at.page)), 0))
            }
            Some(Device::Handle(handle @ model::Handle::Sg(_), _)) => Ok((*handle, at.page)),
            Some(Device::Handle(..)) => {
                Err(LowerError::new(format!("`{}` has no page {}", at.name.text, at.page), at.span))
            }
            _ => Err(Self::unknown("pin, pfn cache, frame vector or sg_table", &at.name)),
        }
    }
}

/// What a statement defines that other processes can use, and whose name stands for its result.
fn made(op: &Op) -> Option<&ast::Name> {
    let local = |kind| matches!(kind, NameKind::Mapping | NameKind::Register);
    op.defined().filter(|(_, kind)| !local(*kind)).map(|(name, _)| name)
}

/// The name of the result of statement `index` of a process: its label, else what it defines,
/// else its place (`P0.2`).
#[must_use]
pub fn result_name(process: usize, index: usize, statement: &ast::Statement) -> String {
    let name = statement.label.as_ref().or_else(|| made(&statement.op));
    name.map_or_else(|| format!("P{process}.{index}"), |name| name.text.clone())
}

fn set(
    rule: &ast::Rule,
    mut apply: impl FnMut(&str, &[&str]) -> Result<(), RuleError>,
) -> Result<(), LowerError> {
    let words: Vec<&str> = match &rule.value {
        ast::RuleValue::Word(word) => vec![word.as_str()],
        ast::RuleValue::Steps(steps) => steps.iter().map(ast::Name::as_str).collect(),
    };
    apply(rule.name.as_str(), &words).map_err(|error| LowerError::new(error.to_string(), rule.span))
}

fn role(role: &Role) -> String {
    match role {
        Role::Application => "application".to_owned(),
        Role::Exporter(name) => format!("exporter {}", name.text),
        Role::Device(Some(name)) => format!("device {}", name.text),
        Role::Device(None) => "device".to_owned(),
        Role::Child => "child".to_owned(),
        Role::Thread(of) => format!("thread of P{}", of.index),
        Role::Hardware => "hardware".to_owned(),
    }
}

/// Registers and results that a condition names.
fn slots_of(cond: &Cond, names: &mut BTreeSet<String>) {
    each_atom(cond, &mut |atom| match atom {
        AtomKind::Register { process, register, .. } => {
            names.insert(format!("P{process}:{}", register.text));
        }
        AtomKind::Result { name, .. } => {
            names.insert(name.text.clone());
        }
        AtomKind::AnyHazard
        | AtomKind::Hazard(_)
        | AtomKind::Warning
        | AtomKind::Content { .. } => {}
    });
}

/// Pages whose final content a condition names.
fn contents_of<'c>(cond: &'c Cond, names: &mut BTreeSet<(&'c str, u8)>) {
    each_atom(cond, &mut |atom| {
        if let AtomKind::Content { buffer, page, .. } = atom {
            names.insert((buffer.as_str(), *page));
        }
    });
}

fn each_atom<'c>(cond: &'c Cond, visit: &mut dyn FnMut(&'c AtomKind)) {
    match cond {
        Cond::True | Cond::False => {}
        Cond::Not(inner) => each_atom(inner, visit),
        Cond::And(all) | Cond::Or(all) => {
            for cond in all {
                each_atom(cond, visit);
            }
        }
        Cond::Atom(atom) => visit(&atom.kind),
    }
}
