//! What an answer does not say by itself: on what a *Never* rests, and what has no effect.
//!
//! A test can answer Never because the order of things forbids a hazard, or because a statement
//! was refused in every schedule and nothing came of it. Both print the same word; the notes tell
//! them apart. Rules that no statement of the test reads are named too.

use std::collections::{BTreeMap, BTreeSet};

use super::scenario::{Content, Scenario, result_name};
use super::verdict::{Judgement, Search};
use crate::explore::{Explorer, Reduction};
use crate::litmus::ast::{AttachMode, Name, Op, Role, Rule, RuleValue, Use, Variant, Verdict};
use crate::litmus::cond::{Atom, AtomKind, Cond};
use crate::litmus::span::{Span, line_column};
use crate::model::{Reply, Signal};

/// A search for a note may visit so many states; of what needs more it is said that it does.
const STATES_MAX: u32 = 4_000_000;

/// Something that the reader of an answer should know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Note {
    /// Line of the file, from 1.
    pub line: u32,
    /// What there is to know.
    pub text: String,
    /// Whether a *Never* rests on it: what the condition asks for was not tried.
    pub vacuous: bool,
}

/// The notes on the answer to one variant, in the order of their lines.
#[must_use]
pub fn notes(
    variant: &Variant,
    text: &str,
    scenario: &Scenario,
    judgement: &Judgement,
    search: &Search,
) -> Vec<Note> {
    let line = |span: Span| line_column(text, span.start).0;
    let mut notes = Vec::new();
    if judgement.exploration.complete {
        failures(variant, text, scenario, judgement, search, &mut notes);
        never_written(scenario, judgement, text, &mut notes);
    }
    if judgement.observation == Some(Verdict::Never) && !judgement.hazards.is_empty() {
        let kinds: Vec<String> = judgement
            .hazards
            .iter()
            .map(|(kind, schedule)| format!("{kind} (after {} steps)", schedule.len()))
            .collect();
        let text = format!("not asked for, but reachable: {}", kinds.join(", "));
        notes.push(Note { line: line(variant.condition.span), text, vacuous: false });
    }
    unread(variant, |rule, text| {
        notes.push(Note { line: line(rule.span), text, vacuous: false });
    });
    idle(variant, |span, text| {
        notes.push(Note { line: line(span), text, vacuous: false });
    });
    notes.sort_by(|a, b| (a.line, &a.text).cmp(&(b.line, &b.text)));
    notes.dedup();
    notes
}

/// Statements and results that stand for themselves in the condition.
fn asked(cond: &Cond, visit: &mut impl FnMut(&Atom)) {
    match cond {
        Cond::True | Cond::False => {}
        Cond::Not(inner) => asked(inner, visit),
        Cond::And(all) | Cond::Or(all) => all.iter().for_each(|cond| asked(cond, visit)),
        Cond::Atom(atom) => visit(atom),
    }
}

/// How each statement ended in the schedules that are at hand: process and statement.
type Endings = BTreeMap<(usize, usize), BTreeSet<Content>>;

fn endings(scenario: &Scenario, judgement: &Judgement) -> Endings {
    let mut endings = Endings::new();
    for stats in judgement.exploration.outcomes.values() {
        let Ok(replay) = scenario.replay(&stats.shortest) else { continue };
        for event in &replay.events {
            let program = &scenario.programs[event.actor];
            let instruction = &program.instructions[event.pc];
            let last = event.pc + 1 == program.statements[instruction.statement].end;
            let content = match event.reply {
                Reply::Again => continue,
                Reply::Errno(_) | Reply::Skipped if instruction.soft && !last => continue,
                Reply::Errno(_) if instruction.soft => Content::Ok,
                Reply::Errno(errno) => Content::Errno(errno),
                Reply::Signal(signal) => Content::Signal(signal),
                Reply::Skipped => Content::Skipped,
                Reply::Done | Reply::Value(_) if last => Content::Ok,
                Reply::Done | Reply::Value(_) => continue,
            };
            endings.entry((event.actor, instruction.statement)).or_default().insert(content);
        }
    }
    endings
}

const fn refused(content: &Content) -> bool {
    matches!(content, Content::Errno(_) | Content::Signal(Signal::Sigbus | Signal::Sigsegv))
}

/// Statements that failed in every schedule, unless the condition asks how they ended.
fn failures(
    variant: &Variant,
    text: &str,
    scenario: &Scenario,
    judgement: &Judgement,
    search: &Search,
    notes: &mut Vec<Note>,
) {
    let endings = endings(scenario, judgement);
    let mut named: Vec<String> = Vec::new();
    asked(&scenario.condition.body, &mut |atom| match &atom.kind {
        AtomKind::Result { name, .. } => named.push(name.text.clone()),
        AtomKind::Register { process, register, .. } => {
            named.push(format!("P{process}:{}", register.text));
        }
        AtomKind::AnyHazard | AtomKind::Hazard(_) | AtomKind::Warning => {}
        AtomKind::Content { .. } => {}
    });
    let name =
        |at: &(usize, usize)| result_name(at.0, at.1, &variant.processes[at.0].statements[at.1]);
    let is_asked = |at: &(usize, usize)| {
        let op = &variant.processes[at.0].statements[at.1].op;
        let register = if let Op::Load { register, .. } | Op::DmaRead { register, .. } = op {
            Some(format!("P{}:{}", at.0, register.text))
        } else {
            None
        };
        named.contains(&name(at)) || register.is_some_and(|register| named.contains(&register))
    };
    let candidates: Vec<(usize, usize)> = endings
        .iter()
        .filter(|(at, contents)| contents.iter().all(refused) && !is_asked(at))
        .map(|(at, _)| *at)
        .collect();
    if candidates.is_empty() {
        return;
    }
    // The schedules at hand are one an outcome; whether it is so in every schedule is explored.
    let names: Vec<String> = candidates.iter().map(name).collect();
    let Some(seen) = contents(variant, text, &names, search) else {
        let line = line_column(text, scenario.condition.span.start).0;
        let most = search.limits.states_max.min(STATES_MAX);
        let text = format!(
            "whether a statement failed in every schedule is not known: to tell takes more than {most} \
             states"
        );
        notes.push(Note { line, text, vacuous: false });
        return;
    };
    let idle = endings.iter().filter(|(_, c)| c.iter().all(|c| *c == Content::Skipped));
    let idle: Vec<_> =
        idle.map(|(at, _)| (*at, &variant.processes[at.0].statements[at.1].op)).collect();
    for (at, seen) in candidates.iter().zip(seen) {
        if seen.is_empty() || !seen.iter().all(refused) {
            continue;
        }
        let statement = &scenario.programs[at.0].statements[at.1];
        let answers: Vec<String> = seen.iter().map(|content| content.word()).collect();
        let own = |of: &(usize, usize)| of.0 == at.0;
        let own: Vec<&Op> = idle.iter().filter(|(of, _)| own(of)).map(|(_, op)| *op).collect();
        let all: Vec<&Op> = idle.iter().map(|(_, op)| *op).collect();
        let failed = &variant.processes[at.0].statements[at.1].op;
        // A lock is its process's own.
        let is_needed =
            is_needed(failed, if matches!(failed, Op::Lock { .. }) { &own } else { &all });
        let rest = if is_needed { ", and what needs it does nothing" } else { "" };
        let text =
            format!("`{}` is {} in every schedule{rest}", statement.text, answers.join(" or "));
        let never = judgement.observation == Some(Verdict::Never);
        notes.push(Note { line: statement.line, text, vacuous: never && is_needed });
    }
}

/// Whether a statement that did nothing needs what `failed` would have made, or the lock that it would
/// have taken, itself or through others that did nothing.
fn is_needed(failed: &Op, idle: &[&Op]) -> bool {
    if let Op::Lock { buffers, .. } = failed {
        let taken = |given: &Name| buffers.iter().any(|taken| taken.text == given.text);
        let gives = |op: &&Op| matches!(op, Op::Unlock { buffers } if buffers.iter().any(taken));
        return idle.iter().any(gives);
    }
    let Some((made, _)) = failed.defined() else { return false };
    let is_it = |needed: &Use<'_>| match needed {
        Use::Mapping(name) | Use::Global(name, _) => name.text == made.text,
        Use::MappingPage(at) | Use::Target(at) => at.name.text == made.text,
        Use::Buffer(_)
        | Use::Result(_)
        | Use::BufferPage(_)
        | Use::Importer(_)
        | Use::Child(_)
        | Use::Process(_) => false,
    };
    idle.iter().any(|op| op.uses().iter().any(is_it))
}

/// Every content that each of these results has in some outcome; none when that can't be told.
/// A statement that was not reached counts for nothing.
pub(super) fn contents(
    variant: &Variant,
    text: &str,
    names: &[String],
    search: &Search,
) -> Option<Vec<BTreeSet<Content>>> {
    let scenario = Scenario::observing(variant, text, names).ok()?;
    let mut limits = search.limits;
    limits.states_max = limits.states_max.min(STATES_MAX);
    let explorer = Explorer::new(&scenario, limits, Reduction::Persistent, 1);
    let exploration = explorer.explore().ok().filter(|exploration| exploration.complete)?;
    let slots = scenario.slot_names();
    let of = |name: &String| {
        let at = slots.iter().position(|slot| slot == name)?;
        let all = exploration.outcomes.keys().map(|outcome| outcome.slots[at]);
        Some(all.filter(|content| *content != Content::Empty).collect())
    };
    names.iter().map(of).collect()
}

/// Registers of the condition that no schedule writes.
fn never_written(scenario: &Scenario, judgement: &Judgement, text: &str, notes: &mut Vec<Note>) {
    asked(&scenario.condition.body, &mut |atom| {
        let AtomKind::Register { process, register, .. } = &atom.kind else { return };
        let name = format!("P{process}:{}", register.text);
        let Some(at) = scenario.slot_names().iter().position(|slot| *slot == name) else { return };
        let mut outcomes = judgement.exploration.outcomes.keys();
        if outcomes.all(|outcome| outcome.slots[at] == Content::Empty) {
            let text_of = format!("the condition names `{name}`, which no schedule writes");
            let line = line_column(text, atom.span.start).0;
            let vacuous = judgement.observation == Some(Verdict::Never);
            notes.push(Note { line, text: text_of, vacuous });
        }
    });
}

/// Rules that are set and that no statement of the variant reads, and steps that come too late.
fn unread(variant: &Variant, mut note: impl FnMut(&Rule, String)) {
    let ops =
        || variant.processes.iter().flat_map(|p| p.statements.iter().map(move |s| (p, &s.op)));
    let any = |wanted: fn(&Op) -> bool| ops().any(|(_, op)| wanted(op));
    for exporter in &variant.exporters {
        let used = variant.buffers.iter().any(|b| b.exporter == exporter.name)
            || variant.buffers.iter().any(|b| b.exporter.text.is_empty());
        for rule in &exporter.rules {
            let name = rule.name.as_str();
            if !used {
                note(
                    rule,
                    format!("`{name}` has no effect: `{}` has no buffer", exporter.name.text),
                );
                continue;
            }
            if let RuleValue::Steps(steps) = &rule.value {
                let at = |word: &str| steps.iter().position(|step| step.as_str() == word);
                if let (Some(copy), Some(rebind), Some(free)) =
                    (at("copy"), at("rebind"), at("free"))
                    && copy > rebind
                    && copy > free
                {
                    let why = "finds no old frames";
                    note(rule, format!("`copy` after `free` in `{name}` {why}: it has no effect"));
                }
            }
            let unread = match name {
                "move" => !any(|op| matches!(op, Op::Move { .. })),
                "purge" => !any(|op| matches!(op, Op::Purge { .. })),
                "revoke" => !any(|op| matches!(op, Op::Revoke { .. })),
                "on-dma-buf-pin" => !any(|op| matches!(op, Op::DmaBufPin { .. })),
                _ => false,
            };
            if unread {
                note(rule, format!("`{name}` has no effect: no statement of the test reads it"));
            }
        }
    }
    for importer in &variant.importers {
        let here = |role: &Role| matches!(role, Role::Device(Some(name)) if *name == importer.name);
        let of = |wanted: fn(&Op) -> bool| ops().any(|(p, op)| here(&p.role) && wanted(op));
        let Some(rule) = importer.rules.iter().find(|r| r.name.as_str() == "move-notify") else {
            continue;
        };
        let dynamic = of(|op| matches!(op, Op::Attach { mode: Some(AttachMode::Dynamic), .. }));
        if !dynamic {
            let why = "only a dynamic attachment is notified of moves, and there is none";
            note(
                rule,
                format!("`move-notify` has no effect: {why} (`attach` is static by default)"),
            );
        }
    }
}

/// Why giving a lock back has no effect, by what was said of it last.
fn idle_unlock(said: Option<bool>, process: usize, lock: &str, taken: &str) -> Option<String> {
    match said {
        Some(true) => None,
        Some(false) => Some(format!("P{process} has given {lock} back before")),
        None => Some(format!("P{process} has not {taken} {lock}")),
    }
}

/// Statements that give back what nobody has, or flush what is not there.
#[expect(clippy::wildcard_enum_match_arm, reason = "of all statements these take that lock")]
fn idle(variant: &Variant, mut note: impl FnMut(Span, String)) {
    for process in &variant.processes {
        // What was said last: that it is taken, or given back; nothing of others.
        let before = |at: usize, takes: &dyn Fn(&Op) -> Option<bool>| {
            let mut said = process.statements[..at].iter().rev().filter_map(|one| takes(&one.op));
            let last = said.next()?;
            (last || said.any(|taken| taken)).then_some(last)
        };
        let cached = |rule: &Rule| {
            let word = if let RuleValue::Word(word) = &rule.value { word.as_str() } else { "" };
            rule.name.as_str() == "device-tlb" && word != "none"
        };
        for (at, statement) in process.statements.iter().enumerate() {
            let why = if let Op::Unlock { buffers } = &statement.op {
                buffers.iter().find_map(|buffer| {
                    let names = |all: &[Name]| all.iter().any(|name| name.text == buffer.text);
                    let said = before(at, &|op| match op {
                        Op::Lock { buffers, .. } if names(buffers) => Some(true),
                        Op::Unlock { buffers } if names(buffers) => Some(false),
                        _ => None,
                    });
                    idle_unlock(said, process.index, &format!("`{}`", buffer.text), "locked")
                })
            } else if let Op::MmapUnlock { process: of } = &statement.op {
                let said = before(at, &|op| match op {
                    Op::MmapLock { process, .. } if process.index == of.index => Some(true),
                    Op::MmapUnlock { process } if process.index == of.index => Some(false),
                    _ => None,
                });
                let lock = format!("P{}'s mmap_lock", of.index);
                idle_unlock(said, process.index, &lock, "taken")
            } else if matches!(&statement.op, Op::FlushTlb { .. })
                && !variant.importers.iter().flat_map(|importer| &importer.rules).any(cached)
            {
                Some("no importer's device has a TLB (`device-tlb`)".to_owned())
            } else {
                None
            };
            if let Some(why) = why {
                note(statement.span, format!("`{}` has no effect: {why}", statement.op));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_gives_back_nothing_is_named_with_its_line() {
        let text = "DMABUF t
exporter heap {}
importer gpu {}
buffer A { exporter = heap }
buffer B { exporter = heap }
P0 application {
    lock A
    unlock B
    unlock A
    unlock A
    mmap_unlock P0
}
P1 device importer gpu { attach t = A dynamic; map s = t
    flush_tlb s
}
exists (hazard any)
";
        let says = |line: u32, what: &str| (line, what.to_owned(), false);
        let all = [
            says(8, "`unlock B` has no effect: P0 has not locked `B`"),
            says(10, "`unlock A` has no effect: P0 has given `A` back before"),
            says(11, "`mmap_unlock P0` has no effect: P0 has not taken P0's mmap_lock"),
            says(14, "`flush_tlb s` has no effect: no importer's device has a TLB (`device-tlb`)"),
        ];
        assert_eq!(of(text), all);
    }

    #[test]
    fn no_process_needs_the_lock_of_another() {
        for (one, other) in [("alloc B", "unlock B"), ("unlock B", "alloc B")] {
            let text = format!(
                "DMABUF t
exporter heap {{}}
buffer B {{ exporter = heap; state = unallocated }}
P0 exporter heap {{ lock B; {one} }}
P1 exporter heap {{ lock B; {other} }}
exists (hazard any)
"
            );
            let vacuous = of(&text).into_iter().filter(|(line, _, vacuous)| {
                *vacuous
                    && text.lines().nth(*line as usize - 1).is_some_and(|l| l.contains("alloc"))
            });
            assert_eq!(vacuous.count(), 0, "{one}");
        }
    }

    #[test]
    fn a_search_for_a_note_that_takes_too_long_is_said() {
        let text = "DMABUF t
exporter heap {}
buffer A { exporter = heap }
P0 application { mmap v = A shared r; store v[0] = 1; store v[0] = 2 }
P1 application { mmap w = A shared r; load b = w[0] }
exists (hazard any)
";
        let test = parse("t.litmus", text, &ModelRules).expect("it is right");
        let scenario = Scenario::new(&test.variants[0], text).expect("it fits");
        let mut search = Search::default();
        let judgement = judge(&scenario, &search, &mut |_| ()).expect("it is small");
        search.limits.states_max = 2;
        let found = notes(&test.variants[0], text, &scenario, &judgement, &search);
        assert!(
            found.iter().any(|note| note.text.ends_with("takes more than 2 states")),
            "{found:?}"
        );
    }

    use crate::litmus::parse;
    use crate::litmus::rules::ModelRules;
    use crate::question::verdict::judge;

    fn of(text: &str) -> Vec<(u32, String, bool)> {
        let test = parse("t.litmus", text, &ModelRules).unwrap_or_else(|e| panic!("{}", e[0]));
        let variant = &test.variants[0];
        let scenario = Scenario::new(variant, text).unwrap();
        let search = Search::default();
        let judgement = judge(&scenario, &search, &mut |_| ()).unwrap();
        let notes = notes(variant, text, &scenario, &judgement, &search);
        notes.into_iter().map(|note| (note.line, note.text, note.vacuous)).collect()
    }

    #[test]
    fn a_never_that_rests_on_a_refused_statement_is_vacuous() {
        let text = "DMABUF t
importer gpu { notifier = no-wait }
P0 application {
    mmap v = anon private rw
    follow_pfn q = v[0]
    munmap v
}
P1 device importer gpu { dma_write q[0] = 7 }
exists (hazard any)
";
        let why =
            "`follow_pfn q = v[0]` is EINVAL in every schedule, and what needs it does nothing";
        assert_eq!(of(text), [(5, why.to_owned(), true)]);
        // Who asks for the refusal knows of it.
        assert_eq!(of(&text.replace("hazard any", "q = ok")), []);
        // And what happens is not vacuous.
        assert_eq!(of(&text.replace("follow_pfn q = v[0]", "gup q = v[0] write")), []);
    }

    #[test]
    fn what_did_nothing_for_another_reason_makes_nothing_vacuous() {
        let text = "DMABUF t
exporter heap { mmap = mixedmap-insert-page }
buffer A { exporter = heap }
buffer B { exporter = heap; state = unallocated }
P0 application { purge B }
P1 application {
    mmap v = A shared rw
    gup p = v[0]
    unpin p
}
P2 exporter heap { revoke A }
exists (hazard cross-buffer-write)
";
        let notes = of(text);
        let refused = notes.iter().find(|note| note.0 == 5).expect("purge is refused");
        assert_eq!(refused.1, "`purge B` is EINVAL in every schedule");
        assert!(notes.iter().all(|note| !note.2), "{notes:?}");
    }

    #[test]
    fn what_was_not_asked_for_is_told() {
        let text = "DMABUF t
exporter heap { move = [lock reserve free unlock] }
buffer A { exporter = heap }
P0 exporter heap {
    move A -> system
    close A
}
exists (hazard stale-read)
";
        let notes = of(text);
        assert_eq!(notes.len(), 1, "{notes:?}");
        assert_eq!(notes[0].0, 8);
        assert!(notes[0].1.contains("reachable: kernel-bug"), "{notes:?}");
        assert!(!notes[0].2);
    }

    #[test]
    fn what_has_no_effect_is_named_with_its_line() {
        let text = "DMABUF t
exporter heap {
    move = [lock zap reserve rebind free copy unlock]
    purge = [mark]
}
importer cam { move-notify = handled }
buffer A { exporter = heap }
P0 exporter heap { move A -> system }
P1 device importer cam { attach t = A }
exists (P1:r9 = 7)
";
        let notes =
            of(&text.replace("attach t = A", "attach t = A; map s = t; dma_read r9 = s[0]"));
        let has = |line: u32, what: &str| notes.iter().any(|n| n.0 == line && n.1.contains(what));
        assert!(has(3, "`copy` after `free`"), "{notes:?}");
        assert!(has(4, "`purge` has no effect"), "{notes:?}");
        assert!(has(6, "`move-notify` has no effect"), "{notes:?}");
    }

    #[test]
    fn a_register_that_is_never_written_is_named() {
        let text = "DMABUF t
P0 application {
    mmap v = anon private rw
    follow_pfn q = v[0]
}
P1 device { dma_read r1 = q[0] }
exists (P1:r1 = 7)
";
        let notes = of(text);
        let register = "the condition names `P1:r1`, which no schedule writes";
        assert!(notes.contains(&(7, register.to_owned(), true)), "{notes:?}");
    }
}
