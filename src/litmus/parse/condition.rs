//! The final condition and the counters behind it.

use super::super::NESTING_MAX;
use super::super::ast::Count;
use super::super::cond::{
    Atom, AtomKind, Cond, Condition, Counter, Failure, HazardKind, Quantifier, RegisterValue,
    Relation, StatementResult,
};
use super::super::diag::Problem;
use super::super::lex::{Bracket, Kind, is_process};
use super::{Parser, Result};

impl Parser<'_> {
    /// `exists (..)`, `~exists (..)`, `forall (..)`
    pub(super) fn condition(&mut self) -> Result<Condition> {
        let start = self.at;
        let quantifier = if self.accept(Kind::Not) {
            if !self.eat_word("exists") {
                return self.expected("`exists` behind `~`");
            }
            Quantifier::NotExists
        } else if self.eat_word("forall") {
            Quantifier::Forall
        } else {
            self.advance();
            Quantifier::Exists
        };
        self.expect(Kind::Open(Bracket::Round), "`(`")?;
        let body = self.either(1)?;
        self.expect(Kind::Close(Bracket::Round), "`/\\`, `\\/` or `)`")?;
        Ok(Condition { quantifier, body, span: self.since(start) })
    }

    /// `C \/ C ...`
    fn either(&mut self, depth: usize) -> Result<Cond> {
        let first = self.both(depth)?;
        if self.peek() != Some(Kind::Or) {
            return Ok(first);
        }
        let mut operands = vec![first];
        while self.accept(Kind::Or) {
            operands.push(self.both(depth)?);
        }
        Ok(Cond::Or(operands))
    }

    /// `C /\ C ...`
    fn both(&mut self, depth: usize) -> Result<Cond> {
        let first = self.one(depth)?;
        if self.peek() != Some(Kind::And) {
            return Ok(first);
        }
        let mut operands = vec![first];
        while self.accept(Kind::And) {
            operands.push(self.one(depth)?);
        }
        Ok(Cond::And(operands))
    }

    /// `~ C`, `( C )` or an atom.
    fn one(&mut self, depth: usize) -> Result<Cond> {
        if depth > NESTING_MAX {
            let message = format!("the condition is nested deeper than {NESTING_MAX}");
            return self.fail(Problem::new(self.here(), message));
        }
        if self.accept(Kind::Not) {
            return Ok(Cond::Not(Box::new(self.one(depth + 1)?)));
        }
        if self.accept(Kind::Open(Bracket::Round)) {
            let inner = self.either(depth + 1)?;
            self.expect(Kind::Close(Bracket::Round), "`/\\`, `\\/` or `)`")?;
            return Ok(inner);
        }
        if self.eat_word("true") {
            return Ok(Cond::True);
        }
        if self.eat_word("false") {
            return Ok(Cond::False);
        }
        let start = self.at;
        let kind = self.atom()?;
        Ok(Cond::Atom(Atom { kind, span: self.since(start) }))
    }

    fn atom(&mut self) -> Result<AtomKind> {
        if self.eat_word("warning") {
            return Ok(AtomKind::Warning);
        }
        if self.eat_word("hazard") {
            if self.eat_word("any") {
                return Ok(AtomKind::AnyHazard);
            }
            let words = [&["any"], HazardKind::WORDS].concat();
            return Ok(AtomKind::Hazard(self.choice("a hazard", &words, HazardKind::from_word)?));
        }
        if is_process(self.word()) {
            let (process, _) = self.process_number()?;
            self.expect(Kind::Colon, "`:` and a register")?;
            let register = self.name("a register")?;
            let relation = self.relation()?;
            let value = self.register_value()?;
            return Ok(AtomKind::Register { process, register, relation, value });
        }
        let name = self.name(
            "a condition: `hazard KIND`, `warning`, `P0:r = N`, `NAME = ERRNO`, `BUF[i] = N`",
        )?;
        if self.accept(Kind::Open(Bracket::Square)) {
            let page = self.page()?;
            let relation = self.relation()?;
            let value = self.small("a byte", 0, u8::MAX)?;
            return Ok(AtomKind::Content { buffer: name, page, relation, value });
        }
        if !matches!(self.peek(), Some(Kind::Equal | Kind::NotEqual)) {
            let word = name.as_str();
            let words = [&["hazard", "warning", "true", "false"], HazardKind::WORDS].concat();
            let message = format!("`{word}` is not a condition");
            let problem = Problem::new(name.span, message);
            return self.fail(if HazardKind::from_word(word).is_some() {
                problem.label(format!("write `hazard {word}`"))
            } else {
                problem.suggest(word, &words, "conditions begin with")
            });
        }
        let relation = self.relation()?;
        let outcome = self.outcome()?;
        Ok(AtomKind::Result { name, relation, outcome })
    }

    fn relation(&mut self) -> Result<Relation> {
        if self.accept(Kind::NotEqual) {
            return Ok(Relation::NotEqual);
        }
        self.expect(Kind::Equal, "`=` or `!=`")?;
        Ok(Relation::Equal)
    }

    fn register_value(&mut self) -> Result<RegisterValue> {
        if self.peek() == Some(Kind::Number) {
            return Ok(RegisterValue::Number(self.small("a byte", 0, u8::MAX)?));
        }
        let what = "a byte, an errno or a signal";
        Ok(RegisterValue::Failure(self.choice(what, Failure::WORDS, Failure::from_word)?))
    }

    fn outcome(&mut self) -> Result<StatementResult> {
        if self.eat_word("ok") {
            return Ok(StatementResult::Ok);
        }
        if self.peek() == Some(Kind::Number) {
            let problem =
                Problem::new(self.here(), "a statement ends `ok`, with an errno or a signal");
            return self
                .fail(problem.help("a register is written `P0:r0`, a buffer's page `A[0]`"));
        }
        let words = [&["ok"], Failure::WORDS].concat();
        let what = "`ok`, an errno or a signal";
        Ok(StatementResult::Failure(self.choice(what, &words, Failure::from_word)?))
    }

    /// `count (COUNTER [= N], ...)`
    pub(super) fn count(&mut self) -> Result<Vec<Count>> {
        self.advance();
        self.expect(Kind::Open(Bracket::Round), "`(`")?;
        let mut counters = Vec::new();
        loop {
            let counter = self.choice("a counter", Counter::WORDS, Counter::from_word)?;
            let expected = if self.accept(Kind::Equal) {
                Some(self.small("a number", 0, u8::MAX)?)
            } else {
                None
            };
            counters.push(Count { counter, expected });
            if !self.accept(Kind::Comma) {
                break;
            }
        }
        self.expect(Kind::Close(Bracket::Round), "`,` or `)`")?;
        Ok(counters)
    }
}
