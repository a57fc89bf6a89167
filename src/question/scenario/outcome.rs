//! How a run ended, as far as the test asks.

use super::{Content, Scenario};
use crate::litmus::cond::{AtomKind, Cond, RegisterValue, Relation, StatementResult as Ending};
use crate::model::HazardKind;

/// How a run ended: hazards, the registers and results that the condition or an `await` names,
/// and the final content of the pages that the condition names.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Outcome {
    /// Bit per [`HazardKind`].
    pub hazards: u16,
    /// Whether a WARN_ON fired.
    pub warned: bool,
    /// Named results and registers; their names are [`Scenario::slot_names`].
    pub slots: Vec<Content>,
    /// Final contents, none for a page without memory; their names are [`Scenario::looked_at`].
    pub contents: Vec<Option<u8>>,
}

impl Outcome {
    /// The hazards, in bit order.
    pub fn hazard_kinds(&self) -> impl Iterator<Item = HazardKind> + use<> {
        let hazards = self.hazards;
        HazardKind::ALL.iter().copied().filter(move |kind| hazards & kind.bit() != 0)
    }

    pub(super) fn satisfies(&self, scenario: &Scenario, cond: &Cond) -> bool {
        match cond {
            Cond::True => true,
            Cond::False => false,
            Cond::Not(inner) => !self.satisfies(scenario, inner),
            Cond::And(all) => all.iter().all(|cond| self.satisfies(scenario, cond)),
            Cond::Or(any) => any.iter().any(|cond| self.satisfies(scenario, cond)),
            Cond::Atom(atom) => self.is(scenario, &atom.kind),
        }
    }

    fn is(&self, scenario: &Scenario, atom: &AtomKind) -> bool {
        let slot = |name: &str| {
            let at = scenario.slots.iter().position(|slot| slot == name);
            at.map_or(Content::Empty, |at| self.slots[at])
        };
        match atom {
            AtomKind::AnyHazard => self.hazards != 0,
            AtomKind::Hazard(kind) => self.hazards & kind.bit() != 0,
            AtomKind::Warning => self.warned,
            AtomKind::Register { process, register, relation, value } => {
                let content = slot(&format!("P{process}:{}", register.text));
                let equal = match value {
                    RegisterValue::Number(number) => content == Content::Value(*number),
                    RegisterValue::Failure(failure) => content.word() == failure.word(),
                };
                equal == (*relation == Relation::Equal)
            }
            AtomKind::Result { name, relation, outcome } => {
                let content = slot(&name.text);
                let equal = match outcome {
                    Ending::Ok => content == Content::Ok,
                    Ending::Failure(failure) => content.word() == failure.word(),
                };
                equal == (*relation == Relation::Equal)
            }
            AtomKind::Content { buffer, page, relation, value } => {
                let name = format!("{}[{page}]", buffer.text);
                let at = scenario.looked_at.iter().position(|(_, looked)| *looked == name);
                let content = at.and_then(|at| self.contents[at]);
                (content == Some(*value)) == (*relation == Relation::Equal)
            }
        }
    }

    /// `hazard cross-buffer-write; P0:r0=7; p=EFAULT; A[0]=7`, or `-` when there is nothing to say.
    #[must_use]
    pub fn describe(&self, scenario: &Scenario) -> String {
        let mut words: Vec<String> = self.hazard_kinds().map(|kind| kind.to_string()).collect();
        if self.warned {
            words.push("warning".to_owned());
        }
        let slots = scenario.slots.iter().zip(&self.slots);
        words.extend(slots.map(|(name, content)| format!("{name}={}", content.word())));
        let contents = scenario.looked_at.iter().zip(&self.contents);
        words.extend(contents.map(|((_, name), content)| {
            content.map_or_else(|| format!("{name}=gone"), |value| format!("{name}={value}"))
        }));
        if words.is_empty() { "-".to_owned() } else { words.join(" ") }
    }
}
