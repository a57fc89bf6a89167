//! Which one rule, set otherwise, would have prevented a hazard.
//!
//! Nothing is looked up: every rule of the variant's host, exporters and importers is set to each
//! of its other values in turn, one at a time, and the variant is explored again. What is
//! answered is a change under which no hazard of any kind happens in any interleaving, so that no
//! bug is swapped for another. A change that merely makes an operation of the test fail is told
//! apart: it refuses.
//!
//! A list of steps (`move`, `purge`, `revoke`) is only set back to its default order.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::notes;
use super::scenario::{Content, Outcome, Scenario, result_name};
use super::verdict::Search;
use crate::explore::{Explorer, Reduction, Until};
use crate::litmus::ast::{Name, Rule, RuleValue, Test, Variant};
use crate::litmus::rules::{BlockKind, ModelRules, RuleTable, RuleValues};
use crate::litmus::span::Span;
use crate::model::{ExporterRules, HostRules, ImporterRules};

/// A candidate's search may visit so many states; what needs more is not proposed.
const STATES_MAX: u32 = 4_000_000;

/// Rules that count costs and change no behaviour.
const COST_RULES: [&str; 2] = ["page-pool", "pat"];

/// Values that are proposed only where the file itself tries them: half measures, the way of an
/// exporter whose buffers never move, or memory of another kind, whose users expect something else. Who
/// waits for less, or takes no lock, is not in a deadlock; what the waiting was for goes wrong instead.
const UNASKED: [(&str, &str); 19] = [
    ("mmap", "pfnmap-unmarked"),
    ("mmap", "remap-pfn-range"),
    ("mmap", "shmem"),
    ("vm-io", "yes"),
    ("zap", "vma-pointer"),
    ("fault-page", "from-start"),
    ("vram-pages", "no"),
    ("alloc", "cached"),
    ("mmap", "keep-file"),
    ("mmap", "wrong-pgoff"),
    ("mmap", "shadow"),
    ("mmap", "bypass"),
    ("fault", "unlocked"),
    ("wait", "kernel"),
    ("wait", "write"),
    ("wait", "read"),
    ("device-tlb", "none"),
    ("peer2peer", "reachable"),
    ("peer2peer", "hand-out"),
];

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

/// A change after which no hazard of any kind happens.
#[derive(Debug, Clone)]
pub struct Prevention {
    /// The change.
    pub change: Change,
    /// What is refused now and was not before.
    pub refused: Option<FailingStatement>,
}

impl Prevention {
    /// Whether the change prevents nothing, but makes the test's operation fail in every
    /// interleaving.
    #[must_use]
    pub fn merely_refuses(&self) -> bool {
        self.refused.as_ref().is_some_and(|refusal| refusal.always)
    }
}

/// A statement that a change makes fail.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FailingStatement {
    /// The statement, as it stands in the file.
    pub statement: String,
    /// Its answer: an errno or a signal.
    pub answer: String,
    /// Whether that is so in every interleaving.
    pub always: bool,
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
        RuleValue::Steps(_) => None,
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
                RuleValues::Steps(_) => {}
            }
        }
    }
    let default = |change: &Change| {
        change.value.is_none_or(|value| is_default(change.kind, change.rule, value))
    };
    changes.retain(|change| {
        change.varied || !UNASKED.contains(&(change.rule, change.value.unwrap_or_default()))
    });
    changes.sort_by_key(|change| (!change.varied, !default(change)));
    changes
}

/// Up to `max` changes under which no hazard of any kind happens in `variant`, and up to `max`
/// more that merely make an operation of the test fail.
#[must_use]
pub fn preventions(
    test: &Test,
    variant: &Variant,
    text: &str,
    search: &Search,
    max: usize,
    goes_on: &(dyn Fn() -> bool + Sync),
) -> Vec<Prevention> {
    let changes = changes(test, variant);
    let next = AtomicUsize::new(0);
    let work = || {
        let mut found = Vec::new();
        while goes_on()
            && let Some((index, change)) = Some(next.fetch_add(1, Ordering::Relaxed))
                .and_then(|at| Some((at, changes.get(at)?)))
        {
            if is_safe_after(change, variant, text, search, goes_on) {
                found.push(index);
            }
        }
        found
    };
    let mut found: Vec<usize> = std::thread::scope(|scope| {
        let workers: Vec<_> = (1..search.threads.max(1))
            // Out of threads: those that there are do the work.
            .map_while(|_| std::thread::Builder::new().spawn_scoped(scope, work).ok())
            .collect();
        let mut found = work();
        found.extend(workers.into_iter().filter_map(|worker| worker.join().ok()).flatten());
        found
    });
    found.sort_unstable();
    let (mut happens, mut fails) = (Vec::new(), Vec::new());
    let before = (!found.is_empty()).then(|| results(variant, text, search)).flatten();
    for index in found {
        if happens.len() == max {
            break;
        }
        let change = changes[index].clone();
        let after = change.apply(variant);
        let (Some(before), Some(after)) = (&before, results(&after, text, search)) else {
            continue;
        };
        let prevention = Prevention { change, refused: refused(variant, text, before, &after) };
        let list = if prevention.merely_refuses() { &mut fails } else { &mut happens };
        if list.len() < max {
            list.push(prevention);
        }
    }
    happens.append(&mut fails);
    happens
}

fn bounded(search: &Search) -> Search {
    let mut limits = search.limits;
    limits.states_max = limits.states_max.min(STATES_MAX);
    Search { limits, reduction: Reduction::Persistent, threads: 1, first: None }
}

/// Whether no hazard of any kind can happen after a change; no where that can't be told. The first
/// hazard ends the search.
fn is_safe_after(
    change: &Change,
    variant: &Variant,
    text: &str,
    search: &Search,
    goes_on: &dyn Fn() -> bool,
) -> bool {
    let Ok(scenario) = Scenario::new(&change.apply(variant), text) else { return false };
    let search = bounded(search);
    let explorer = Explorer::new(&scenario, search.limits, search.reduction, 1);
    let any = |outcome: &Outcome| outcome.hazards != 0;
    let until = Until { bits: u16::MAX.into(), wanted: &any, after: 0 };
    let go_on = &mut |_| if goes_on() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) };
    explorer.explore_until(until, 1 << 14, go_on).is_ok_and(|exploration| {
        // A search that has seen everything may have seen a hazard last.
        exploration.complete && !exploration.outcomes.keys().any(any)
    })
}

/// How each statement can end, over all interleavings: process and statement.
type Results = BTreeMap<(usize, usize), BTreeSet<Content>>;

fn results(variant: &Variant, text: &str, search: &Search) -> Option<Results> {
    let mut at = Vec::new();
    let mut names = Vec::new();
    for (process, of) in variant.processes.iter().enumerate() {
        for (statement, line) in of.statements.iter().enumerate() {
            at.push((process, statement));
            names.push(result_name(process, statement, line));
        }
    }
    let contents = notes::contents(variant, text, &names, search)?;
    Some(at.into_iter().zip(contents).collect())
}

/// A statement that fails after a change, and never did before: one that always does, else the
/// first.
fn refused(
    variant: &Variant,
    text: &str,
    before: &Results,
    after: &Results,
) -> Option<FailingStatement> {
    let fails = |content: &Content| matches!(content, Content::Errno(_) | Content::Signal(_));
    let scenario = Scenario::new(variant, text).ok()?;
    let mut first = None;
    for (at, contents) in after {
        let known = before.get(at).is_some_and(|contents| contents.iter().any(fails));
        let Some(answer) = contents.iter().find(|content| fails(content)).filter(|_| !known) else {
            continue;
        };
        let statement = scenario.programs.get(at.0)?.statements.get(at.1)?.text.clone();
        let always = contents.iter().all(fails);
        let refusal = FailingStatement { statement, answer: answer.word(), always };
        if always {
            return Some(refusal);
        }
        first.get_or_insert(refusal);
    }
    first
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

    fn found(text: &str, variant: usize, max: usize) -> Vec<(String, Option<FailingStatement>)> {
        let test = parse("t.litmus", text, &ModelRules).unwrap_or_else(|e| panic!("{}", e[0]));
        let search = Search { threads: 2, ..Search::default() };
        let found = preventions(&test, &test.variants[variant], text, &search, max, &|| true);
        found.into_iter().map(|p| (p.change.describe(), p.refused)).collect()
    }

    fn refusal(statement: &str, answer: &str) -> Option<FailingStatement> {
        let (statement, answer) = (statement.to_owned(), answer.to_owned());
        Some(FailingStatement { statement, answer, always: true })
    }

    #[test]
    fn what_prevents_is_found_by_exploring_and_leaves_no_hazard_of_any_kind() {
        // The move forgets to copy: what was stored before it is lost, pin or no pin.
        let check = "host { dma-buf-mmap-check = refuse }".to_owned();
        assert_eq!(found(TEXT, 0, 9), [(check, refusal("mmap v = A shared rw", "EINVAL"))]);
    }

    #[test]
    fn a_change_that_makes_an_operation_fail_comes_last_and_is_not_a_prevention() {
        let text = TEXT.replace("lock zap reserve rebind", "lock zap reserve copy rebind");
        let found = found(&text, 0, 9);
        let merely =
            |refused: &Option<FailingStatement>| refused.as_ref().is_some_and(|r| r.always);
        let first = found.iter().position(|(_, refused)| merely(refused)).unwrap();
        assert!(found[first..].iter().all(|(_, refused)| merely(refused)), "{found:?}");
        let pfnmap = "exporter heap { mmap = pfnmap }".to_owned();
        let pin = refusal("gup p = v[0] write longterm", "EFAULT");
        assert!(found[first..].contains(&(pfnmap, pin)), "{found:?}");
        assert!(found.iter().all(|(_, r)| r.as_ref().is_none_or(|r| r.answer != "BUG")));
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
        let found = found(text, 0, 9);
        assert!(found.is_empty(), "{found:?}");
    }
}
