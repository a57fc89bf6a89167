//! The get_user_pages table: which mapping of a buffer can be pinned.
//!
//! Every cell is explored: the pins of the given tests, over every interleaving, sorted by how the
//! exporter maps. Where no variant has the architecture of a column, the first variant of that
//! mapping is explored with the host rule `pte-special` changed, and nothing else.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use super::matrix::{MatrixError, explore};
use super::paint::{Paint, Tone};
use super::table::{Align, Cell, Column, Table};
use crate::explore::{Explorer, Reached};
use crate::litmus::ast::{Name, Op, Rule, RuleValue, Sharing, Test, Variant};
use crate::litmus::span::Span;
use crate::model::{Errno, Huge, MmapKind, Slot, Step};
use crate::question::scenario::{Action, Content, Scenario, result_name};
use crate::question::verdict::Search;

/// How an exporter maps: huge entries first, then the kind, so that the table is in that order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Mapping {
    huge: Huge,
    mmap: MmapKind,
    vm_io: bool,
}

impl Mapping {
    fn name(self) -> String {
        match self.huge {
            Huge::None if self.vm_io => format!("{} + VM_IO", self.mmap),
            Huge::None => self.mmap.word().to_owned(),
            Huge::Plain | Huge::Special | Huge::Devmap if self.vm_io => {
                format!("{} + VM_IO + {} huge PMD", self.mmap, self.huge)
            }
            Huge::Plain | Huge::Special | Huge::Devmap => {
                format!("{} + {} huge PMD", self.mmap, self.huge)
            }
        }
    }

    const fn vma(self) -> &'static str {
        match self.mmap {
            MmapKind::Pfnmap | MmapKind::PfnmapUnmarked => "VM_PFNMAP",
            MmapKind::RemapPfnRange => "VM_IO VM_PFNMAP",
            MmapKind::MixedmapInsertPfn | MmapKind::MixedmapInsertPage if self.vm_io => {
                "VM_IO VM_MIXEDMAP"
            }
            MmapKind::MixedmapInsertPfn | MmapKind::MixedmapInsertPage => "VM_MIXEDMAP",
            MmapKind::Shmem => "ordinary",
        }
    }
}

/// A pin in a test.
struct Pinning<'a> {
    test: &'a Test,
    text: &'a str,
    variant: &'a Variant,
    process: usize,
    /// The statement that pins, and the one that mapped.
    gup: usize,
    mmap: usize,
    special: bool,
}

/// What get_user_pages does.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
struct Found {
    succeeds: bool,
    /// The fast path takes the page in some interleaving.
    fast: bool,
    errnos: BTreeSet<Errno>,
}

impl Found {
    fn merge(&mut self, other: Self) {
        self.succeeds |= other.succeeds;
        self.fast |= other.fast;
        self.errnos.extend(other.errnos);
    }

    fn words(&self) -> String {
        let errnos: Vec<&str> = self.errnos.iter().map(|errno| errno.name()).collect();
        let errnos = errnos.join(" or ");
        match (self.succeeds, self.errnos.is_empty()) {
            (true, true) => "succeeds".to_owned(),
            (true, false) if self.fast => format!("gup_fast succeeds, slow path {errnos}"),
            (true, false) => format!("succeeds or {errnos}"),
            (false, false) => errnos,
            (false, true) => "-".to_owned(),
        }
    }
}

/// The table.
#[derive(Debug, Clone, Serialize)]
pub struct GupTable {
    rows: Vec<GupRow>,
}

#[derive(Debug, Clone, Serialize)]
struct GupRow {
    mapping: String,
    vma: &'static str,
    pte_special: String,
    no_pte_special: String,
    /// The tests whose pins were explored.
    tests: Vec<String>,
    #[serde(skip)]
    succeeds: [bool; 2],
}

impl GupTable {
    /// Explore the pins through shared buffer mappings in `tests`; none when there are none.
    ///
    /// # Errors
    /// [`MatrixError`] when a variant can't be run or has too many states.
    pub fn new(tests: &[(&Test, &str)], search: &Search) -> Result<Option<Self>, MatrixError> {
        let mut by_mapping: BTreeMap<Mapping, Vec<Pinning<'_>>> = BTreeMap::new();
        for (test, text) in tests {
            for variant in &test.variants {
                for (mapping, pinning) in pinnings(test, text, variant) {
                    by_mapping.entry(mapping).or_default().push(pinning);
                }
            }
        }
        let mut rows = Vec::new();
        for (mapping, pinnings) in &by_mapping {
            let with = column(pinnings, true, search)?;
            let without = column(pinnings, false, search)?;
            let mut tests: Vec<String> = Vec::new();
            for pinning in pinnings {
                let name = pinning.test.row.as_ref().unwrap_or(&pinning.test.name.text);
                if !tests.contains(name) {
                    tests.push(name.clone());
                }
            }
            rows.push(GupRow {
                mapping: mapping.name(),
                vma: mapping.vma(),
                pte_special: with.words(),
                no_pte_special: without.words(),
                tests,
                succeeds: [with.succeeds, without.succeeds],
            });
        }
        Ok((!rows.is_empty()).then_some(Self { rows }))
    }

    /// As text.
    #[must_use]
    pub fn render(&self, paint: Paint) -> String {
        let column = |title: &str, text: &dyn Fn(&GupRow) -> String| {
            let texts: Vec<String> = self.rows.iter().map(text).collect();
            Column::new(title, Align::Left).fit(texts.iter().map(String::as_str))
        };
        let table = Table::new(
            vec![
                column("mapping", &|row| row.mapping.clone()),
                column("VMA", &|row| row.vma.to_owned()),
                column("with pte_special", &|row| row.pte_special.clone()),
                column("without (no gup_fast)", &|row| row.no_pte_special.clone()),
                Column::new("tests", Align::Left),
            ],
            paint,
        );
        let title = "get_user_pages through a shared mapping of a buffer";
        let mut out = format!("{}\n{}", paint.paint(Tone::Strong, title), table.header());
        let cell = |text: &str, succeeds: bool| {
            Cell::toned(text, if succeeds { Tone::Bad } else { Tone::Good })
        };
        for row in &self.rows {
            out.push_str(&table.row(&[
                Cell::new(row.mapping.clone()),
                Cell::new(row.vma),
                cell(&row.pte_special, row.succeeds[0]),
                cell(&row.no_pte_special, row.succeeds[1]),
                Cell::toned(row.tests.join(" "), Tone::Dim),
            ]));
        }
        out
    }
}

/// The pins of a variant that go through a shared mapping of a buffer.
fn pinnings<'a>(
    test: &'a Test,
    text: &'a str,
    variant: &'a Variant,
) -> Vec<(Mapping, Pinning<'a>)> {
    let mut found = Vec::new();
    for process in &variant.processes {
        for (gup, statement) in process.statements.iter().enumerate() {
            let Op::Gup { at, .. } = &statement.op else { continue };
            let maps = process.statements.iter().enumerate().find_map(|(index, statement)| {
                let Op::Mmap { mapping, buffer, sharing: Sharing::Shared, importer: None, .. } =
                    &statement.op
                else {
                    return None;
                };
                (*mapping == at.name).then_some((index, buffer))
            });
            let Some((mmap, buffer)) = maps else { continue };
            let exporter = variant
                .buffers
                .iter()
                .find(|decl| decl.name == *buffer)
                .and_then(|decl| variant.exporters.iter().find(|e| e.name == decl.exporter));
            let Some(exporter) = exporter else { continue };
            let mapping = Mapping {
                mmap: set(&exporter.rules, "mmap", MmapKind::from_word).unwrap_or(MmapKind::Pfnmap),
                huge: set(&exporter.rules, "huge", Huge::from_word).unwrap_or(Huge::None),
                vm_io: set(&exporter.rules, "vm-io", |word| Some(word == "yes")).unwrap_or(false),
            };
            let special = set(&variant.host, "pte-special", |word| Some(word == "yes"));
            let special = special.unwrap_or(true);
            let process = process.index;
            found.push((mapping, Pinning { test, text, variant, process, gup, mmap, special }));
        }
    }
    found
}

/// What a rule is set to.
fn set<T>(rules: &[Rule], name: &str, parse: impl Fn(&str) -> Option<T>) -> Option<T> {
    let rule = rules.iter().find(|rule| rule.name.as_str() == name)?;
    match &rule.value {
        RuleValue::Word(word) => parse(word.as_str()),
        RuleValue::Steps(_) => None,
    }
}

fn column(pinnings: &[Pinning<'_>], special: bool, search: &Search) -> Result<Found, MatrixError> {
    let mut found = Found::default();
    let fitting = || pinnings.iter().filter(|pinning| pinning.special == special);
    for pinning in fitting() {
        found.merge(pinning.ask(pinning.variant, search)?);
    }
    if fitting().next().is_none()
        && let Some(pinning) = pinnings.first()
    {
        let mut variant = pinning.variant.clone();
        variant.host.retain(|rule| rule.name.as_str() != "pte-special");
        let value = RuleValue::Word(Name::new(if special { "yes" } else { "no" }));
        variant.host.push(Rule { name: Name::new("pte-special"), value, span: Span::default() });
        found.merge(pinning.ask(&variant, search)?);
    }
    Ok(found)
}

impl Pinning<'_> {
    fn result(&self, variant: &Variant, index: usize) -> String {
        result_name(self.process, index, &variant.processes[self.process].statements[index])
    }

    /// What the pin comes to, in the interleavings in which there is a mapping.
    fn ask(&self, variant: &Variant, search: &Search) -> Result<Found, MatrixError> {
        let (gup, mmap) = (self.result(variant, self.gup), self.result(variant, self.mmap));
        let observed = BTreeSet::from([gup.clone(), mmap.clone()]);
        let (scenario, exploration) = explore(variant, self.text, &observed, search)?;
        let slot = |name: &str| scenario.slot_names().iter().position(|slot| slot == name);
        let (Some(gup), Some(mmap)) = (slot(&gup), slot(&mmap)) else {
            return Ok(Found::default());
        };
        let mut found = Found::default();
        for outcome in exploration.outcomes.keys() {
            if outcome.slots[mmap] != Content::Ok {
                continue;
            }
            match outcome.slots[gup] {
                Content::Ok => found.succeeds = true,
                Content::Errno(errno) => {
                    found.errnos.insert(errno);
                }
                Content::Empty | Content::Value(_) | Content::Signal(_) | Content::Skipped => {}
            }
        }
        found.fast = self.fast(&scenario, search)?;
        Ok(found)
    }

    /// Whether the fast path succeeds in some interleaving: the page is held when the slow path
    /// is about to begin.
    fn fast(&self, scenario: &Scenario, search: &Search) -> Result<bool, MatrixError> {
        let program = &scenario.programs[self.process];
        let slow = program.instructions.iter().enumerate().find_map(|(pc, instruction)| {
            let Action::Step(Step::GupSlow { pin, .. }) = instruction.action else { return None };
            (instruction.statement == self.gup).then_some((pc, pin))
        });
        let Some((pc, pin)) = slow else { return Ok(false) };
        let explorer = Explorer::new(scenario, search.limits, search.reduction, 1);
        let reached = explorer.shortest_to(|state| {
            usize::from(state.pcs[self.process]) == pc
                && state.model.pins[pin.index()].slot == Slot::Held
        })?;
        Ok(matches!(reached, Reached::By(_)))
    }
}
