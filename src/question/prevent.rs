//! Which one rule, set otherwise, would have prevented a hazard.
//!
//! Nothing is looked up: every rule of the variant's host, exporters and importers is set to each
//! of its other values in turn, one at a time, and the variant is explored again. What is
//! answered is a change under which the hazard happens in no interleaving.
//!
//! A list of steps (`move`, `purge`, `revoke`) is only set back to its default order.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::scenario::{Content, Scenario, result_name};
use super::verdict::Search;
use crate::explore::{Explorer, Reduction};
use crate::litmus::ast::{Name, Rule, RuleValue, Test, Variant};
use crate::litmus::rules::{BlockKind, ModelRules, RuleTable, RuleValues};
use crate::litmus::span::Span;
use crate::model::{ExporterRules, HazardKind, HostRules, ImporterRules, Reply};

/// A candidate's search may visit so many states; what needs more is not proposed.
const STATES_MAX: u32 = 4_000_000;

/// Rules that count costs and change no behaviour.
const COST_RULES: [&str; 2] = ["page-pool", "pat"];

/// One rule set otherwise.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// `host`, `exporter heap`, `importer cam`.
    pub block: String,
    /// The rule.
    pub rule: &'static str,
    /// Its new value; none for a list of steps that goes back to its default.
    pub value: Option<&'static str>,
    /// Whether the file itself varies this rule and tries this value.
    pub varied: bool,
    kind: BlockKind,
    /// Which block of its kind.
    index: usize,
}

impl Change {
    /// `exporter heap { mmap = pfnmap }`, as in a litmus file.
    #[must_use]
    pub fn describe(&self) -> String {
        match self.value {
            Some(value) => format!("{} {{ {} = {value} }}", self.block, self.rule),
            None => format!("{} with the default order of `{}`", self.block, self.rule),
        }
    }

    /// The variant with this change.
    #[must_use]
    pub fn apply(&self, variant: &Variant) -> Variant {
        let mut variant = variant.clone();
        let rules = match self.kind {
            BlockKind::Host => Some(&mut variant.host),
            BlockKind::Exporter => variant.exporters.get_mut(self.index).map(|e| &mut e.rules),
            BlockKind::Importer => variant.importers.get_mut(self.index).map(|i| &mut i.rules),
        };
        if let Some(rules) = rules {
            rules.retain(|rule| rule.name.as_str() != self.rule);
            if let Some(value) = self.value {
                let value = RuleValue::Word(Name::new(value));
                rules.push(Rule { name: Name::new(self.rule), value, span: Span::default() });
            }
        }
        variant
    }
}

/// A change that prevents a hazard.
#[derive(Debug, Clone)]
pub struct Prevention {
    /// The change.
    pub change: Change,
    /// Whether no other hazard happens either.
    pub clean: bool,
    /// What is refused now and was not before: a statement, its answer, and whether that is so in
    /// every interleaving.
    pub refused: Option<(String, String, bool)>,
}

fn blocks(variant: &Variant) -> Vec<(BlockKind, usize, String, &[Rule])> {
    let mut blocks: Vec<(BlockKind, usize, String, &[Rule])> = Vec::new();
    for (index, exporter) in variant.exporters.iter().enumerate() {
        let name = format!("exporter {}", exporter.name.text);
        blocks.push((BlockKind::Exporter, index, name, &exporter.rules));
    }
    for (index, importer) in variant.importers.iter().enumerate() {
        let name = format!("importer {}", importer.name.text);
        blocks.push((BlockKind::Importer, index, name, &importer.rules));
    }
    blocks.push((BlockKind::Host, 0, "host".to_owned(), &variant.host));
    blocks
}

fn rules_of(variant: &Variant, kind: BlockKind, index: usize) -> &[Rule] {
    match kind {
        BlockKind::Host => &variant.host,
        BlockKind::Exporter => variant.exporters.get(index).map_or(&[], |e| &e.rules),
        BlockKind::Importer => variant.importers.get(index).map_or(&[], |i| &i.rules),
    }
}

/// What a rule is set to: its word, or none where it is not set or is a list.
fn word<'r>(rules: &'r [Rule], name: &str) -> Option<&'r str> {
    rules.iter().find(|rule| rule.name.as_str() == name).and_then(|rule| match &rule.value {
        RuleValue::Word(word) => Some(word.as_str()),
        RuleValue::Number(_) | RuleValue::Steps(_) => None,
    })
}

/// Whether `value` is what a rule is when nobody sets it.
fn is_default(kind: BlockKind, name: &str, value: &str) -> bool {
    match kind {
        BlockKind::Host => {
            let mut rules = HostRules::default();
            rules.set(name, &[value]).is_ok() && rules == HostRules::default()
        }
        BlockKind::Exporter => {
            let mut rules = ExporterRules::default();
            rules.set(name, &[value]).is_ok() && rules == ExporterRules::default()
        }
        BlockKind::Importer => {
            let mut rules = ImporterRules::default();
            rules.set(name, &[value]).is_ok() && rules == ImporterRules::default()
        }
    }
}

/// Every single change of a rule of `variant`: first those that the file's own `vary` makes, then
/// those back to a rule's default, then exporters, importers and host in the order of their tables.
#[must_use]
pub fn changes(test: &Test, variant: &Variant) -> Vec<Change> {
    let mut changes = Vec::new();
    for (kind, index, block, rules) in blocks(variant) {
        for spec in ModelRules.rules(kind) {
            if COST_RULES.contains(&spec.name) {
                continue;
            }
            let set = rules.iter().any(|rule| rule.name.as_str() == spec.name);
            let change = |value: Option<&'static str>, varied: bool| Change {
                block: block.clone(),
                rule: spec.name,
                value,
                varied,
                kind,
                index,
            };
            match spec.values {
                RuleValues::Words(words) => {
                    let now = word(rules, spec.name);
                    let other = |value: &&&'static str| {
                        now.map_or_else(
                            || !is_default(kind, spec.name, value),
                            |now| now != **value,
                        )
                    };
                    let varied = |value: &str| {
                        let elsewhere = |other: &Variant| {
                            let rules = rules_of(other, kind, index);
                            match word(rules, spec.name) {
                                Some(word) => word == value,
                                None => is_default(kind, spec.name, value),
                            }
                        };
                        test.variants.iter().any(elsewhere)
                    };
                    changes.extend(
                        words.iter().filter(other).map(|value| change(Some(value), varied(value))),
                    );
                }
                RuleValues::Steps(_) if set => changes.push(change(None, false)),
                RuleValues::Steps(_) | RuleValues::Number { .. } => {}
            }
        }
    }
    let default = |change: &Change| {
        change.value.is_none_or(|value| is_default(change.kind, change.rule, value))
    };
    changes.sort_by_key(|change| (!change.varied, !default(change)));
    changes
}

/// Up to `max` changes under which `kind` never happens in `variant`: those after which no other
/// hazard happens either, or, if there are none, those that leave others.
#[must_use]
pub fn preventions(
    test: &Test,
    variant: &Variant,
    text: &str,
    kind: HazardKind,
    search: &Search,
    max: usize,
) -> Vec<Prevention> {
    let changes = changes(test, variant);
    let next = AtomicUsize::new(0);
    let work = || {
        let mut found = Vec::new();
        while let Some((index, change)) =
            Some(next.fetch_add(1, Ordering::Relaxed)).and_then(|at| Some((at, changes.get(at)?)))
        {
            if let Some(hazards) = hazards_after(change, variant, text, search)
                && hazards & kind.bit() == 0
            {
                found.push((hazards != 0, index));
            }
        }
        found
    };
    let mut found: Vec<(bool, usize)> = std::thread::scope(|scope| {
        let workers: Vec<_> = (1..search.threads.max(1)).map(|_| scope.spawn(work)).collect();
        let mut found = work();
        found.extend(workers.into_iter().filter_map(|worker| worker.join().ok()).flatten());
        found
    });
    found.sort_unstable();
    // To swap one hazard for another is a last resort.
    if found.iter().any(|(dirty, _)| !dirty) {
        found.retain(|(dirty, _)| !dirty);
    }
    let prevention = |(dirty, index): (bool, usize)| {
        let change = changes[index].clone();
        let refused = refused(&change, variant, text, search);
        Prevention { change, clean: !dirty, refused }
    };
    found.into_iter().take(max).map(prevention).collect()
}

fn bounded(search: &Search) -> Search {
    let mut limits = search.limits;
    limits.states_max = limits.states_max.min(STATES_MAX);
    Search { limits, reduction: Reduction::Persistent, threads: 1 }
}

/// The hazards of all outcomes after a change; none when that can't be told.
fn hazards_after(change: &Change, variant: &Variant, text: &str, search: &Search) -> Option<u16> {
    let scenario = Scenario::new(&change.apply(variant), text).ok()?;
    let search = bounded(search);
    let explorer = Explorer::new(&scenario, search.limits, search.reduction, 1);
    let exploration = explorer.explore().ok().filter(|exploration| exploration.complete)?;
    Some(exploration.outcomes.keys().fold(0, |all, outcome| all | outcome.hazards))
}

/// A statement that is refused in some schedule: process, statement, answer.
type Refusal = (usize, usize, String);

fn refusals(scenario: &Scenario, search: &Search) -> BTreeSet<Refusal> {
    let explorer = Explorer::new(scenario, search.limits, search.reduction, 1);
    let Ok(exploration) = explorer.explore() else { return BTreeSet::new() };
    let mut refusals = BTreeSet::new();
    for stats in exploration.outcomes.values() {
        let Ok(replay) = scenario.replay(&stats.shortest) else { continue };
        for event in &replay.events {
            let answer = match event.reply {
                Reply::Errno(errno) => errno.name(),
                Reply::Signal(signal) => signal.name(),
                Reply::Done | Reply::Value(_) | Reply::Again | Reply::Skipped => continue,
            };
            let instruction = &scenario.programs[event.actor].instructions[event.pc];
            if !instruction.soft {
                refusals.insert((event.actor, instruction.statement, answer.to_owned()));
            }
        }
    }
    refusals
}

/// The first statement that is refused after a change and never was before.
fn refused(
    change: &Change,
    variant: &Variant,
    text: &str,
    search: &Search,
) -> Option<(String, String, bool)> {
    let search = bounded(search);
    let changed = change.apply(variant);
    let before = Scenario::new(variant, text).ok()?;
    let after = Scenario::new(&changed, text).ok()?;
    let known = refusals(&before, &search);
    let new: Vec<Refusal> =
        refusals(&after, &search).into_iter().filter(|refusal| !known.contains(refusal)).collect();
    let (process, statement, answer) = new.first()?.clone();
    let name = result_name(process, statement, &changed.processes[process].statements[statement]);
    let observing = Scenario::observing(&changed, text, std::slice::from_ref(&name)).ok()?;
    let explorer = Explorer::new(&observing, search.limits, search.reduction, 1);
    let exploration = explorer.explore().ok()?;
    let at = observing.slot_names().iter().position(|slot| *slot == name)?;
    let refused = |content: Content| matches!(content, Content::Errno(_) | Content::Signal(_));
    let always = exploration.complete && exploration.outcomes.keys().all(|o| refused(o.slots[at]));
    let text = after.programs[process].statements[statement].text.clone();
    Some((text, answer, always))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::litmus::parse;

    const TEXT: &str = "DMABUF t
exporter heap { mmap = vary(mixedmap-insert-page, pfnmap); move = [lock zap reserve rebind free unlock] }
buffer A { exporter = heap }
P0 application {
    mmap v = A shared rw
    store v[0] = 1
    gup p = v[0] write longterm
}
P1 device { dma_write p[0] = 7 }
P2 exporter heap { move A -> system }
exists (hazard any)
";

    fn test() -> Test {
        parse("t.litmus", TEXT, &ModelRules).unwrap_or_else(|e| panic!("{}", e[0]))
    }

    #[test]
    fn the_files_own_alternatives_come_first_and_nothing_is_proposed_that_is_so_already() {
        let test = test();
        let changes = changes(&test, &test.variants[0]);
        assert_eq!(changes[0].describe(), "exporter heap { mmap = pfnmap }");
        assert!(changes[0].varied && !changes[1].varied);
        let described: Vec<String> = changes.iter().map(Change::describe).collect();
        for so_already in ["{ mmap = mixedmap-insert-page }", "{ recycle = pool }"] {
            assert!(!described.iter().any(|d| d.contains(so_already)), "{described:?}");
        }
        assert!(described.iter().any(|d| d.contains("default order of `move`")));
        assert!(!described.iter().any(|d| d.contains("page-pool")), "costs change no behaviour");
    }

    #[test]
    fn a_change_changes_one_rule() {
        let test = test();
        let variant = &test.variants[0];
        for change in changes(&test, variant) {
            let changed = change.apply(variant);
            assert_ne!(&changed, variant, "{}", change.describe());
            let others = |variant: &Variant| {
                let of = |rules: &[Rule]| -> Vec<Rule> {
                    rules.iter().filter(|r| r.name.as_str() != change.rule).cloned().collect()
                };
                (of(&variant.host), of(&variant.exporters[0].rules), variant.processes.clone())
            };
            assert_eq!(others(&changed), others(variant), "{}", change.describe());
        }
    }

    #[test]
    fn what_prevents_is_found_by_exploring() {
        let test = test();
        let search = Search { threads: 2, ..Search::default() };
        let found = |kind| {
            let found = preventions(&test, &test.variants[0], TEXT, kind, &search, 9);
            found.iter().map(|p| (p.change.describe(), p.clean)).collect::<Vec<_>>()
        };
        // The move forgets to copy: what was stored before it is lost, pin or no pin.
        let lost = found(HazardKind::LostWrite);
        assert_eq!(lost, [("host { dma-buf-mmap-check = refuse }".to_owned(), true)]);
        let freed = found(HazardKind::UseAfterFree);
        assert_eq!(freed, lost, "what is not clean is not proposed where something is");
    }

    #[test]
    fn a_refusal_is_named_with_its_answer() {
        let text = TEXT.replace("lock zap reserve rebind", "lock zap reserve copy rebind");
        let test = parse("t.litmus", &text, &ModelRules).unwrap_or_else(|e| panic!("{}", e[0]));
        let search = Search::default();
        let found =
            preventions(&test, &test.variants[0], &text, HazardKind::UseAfterFree, &search, 1);
        assert_eq!(found[0].change.describe(), "exporter heap { mmap = pfnmap }");
        assert!(found[0].clean);
        let refused = found[0].refused.clone();
        let statement = "gup p = v[0] write longterm".to_owned();
        assert_eq!(refused, Some((statement, "EFAULT".to_owned(), true)));
        // And where nothing happens, there is nothing to prevent.
        let pfnmap = &test.variants[1];
        let scenario = Scenario::new(pfnmap, &text).unwrap();
        let none = Explorer::new(&scenario, search.limits, search.reduction, 1).explore().unwrap();
        assert!(none.outcomes.keys().all(|outcome| outcome.hazards == 0));
    }

    #[test]
    fn what_no_rule_prevents_is_not_said_to_be_prevented() {
        let text = "DMABUF t
exporter gpu {}
importer codec {}
buffer A { exporter = gpu }
P0 device importer codec {
    attach t = A dynamic
    map s = t
    dma_write s[0] = 7
}
exists (hazard unfenced-access)
";
        let test = parse("t.litmus", text, &ModelRules).unwrap_or_else(|e| panic!("{}", e[0]));
        let kind = HazardKind::UnfencedAccess;
        let found = preventions(&test, &test.variants[0], text, kind, &Search::default(), 9);
        assert!(found.is_empty(), "{found:?}");
    }
}
