//! Final conditions: what a litmus test asks about the outcomes.

use std::fmt;

pub use crate::model::{Cost as Counter, HazardKind};

use super::ast::Name;
use super::span::Span;
use super::words::words;

/// `exists (..)`, `~exists (..)` or `forall (..)`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Condition {
    /// Over which outcomes.
    pub quantifier: Quantifier,
    /// What must hold of an outcome.
    pub body: Cond,
    /// The whole condition.
    pub span: Span,
}

words! {
    /// Over which outcomes a condition speaks.
    Quantifier {
        /// Some outcome satisfies the body.
        Exists = "exists",
        /// No outcome satisfies the body.
        NotExists = "~exists",
        /// Every outcome satisfies the body.
        Forall = "forall",
    }
}

/// A proposition about one outcome.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cond {
    /// `true`
    True,
    /// `false`
    False,
    /// `~ C`
    Not(Box<Self>),
    /// `C /\ C /\ ...`, two or more.
    And(Vec<Self>),
    /// `C \/ C \/ ...`, two or more.
    Or(Vec<Self>),
    /// A fact about the outcome.
    Atom(Atom),
}

/// A fact about one outcome.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Atom {
    /// The fact.
    pub kind: AtomKind,
    /// Where it stands.
    pub span: Span,
}

/// The facts that a condition can name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AtomKind {
    /// `hazard any`: some hazard was reported.
    AnyHazard,
    /// `hazard KIND`: a hazard of this kind was reported.
    Hazard(HazardKind),
    /// `warning`: a `WARN_ON` fired.
    Warning,
    /// `Pn:R = V`, `Pn:R != V`: what a load or a DMA read gave.
    Register {
        /// The process.
        process: usize,
        /// The register.
        register: Name,
        /// `=` or `!=`.
        relation: Relation,
        /// The byte, or the error.
        value: RegisterValue,
    },
    /// `NAME = OUTCOME`: how the statement ended that has this label or defines this name.
    Result {
        /// A label, or a pin, pfn cache, frame vector, attachment, sg_table or fence.
        name: Name,
        /// `=` or `!=`.
        relation: Relation,
        /// The outcome.
        outcome: StatementResult,
    },
    /// `BUF[i] = N`: what the buffer's page holds at the end.
    Content {
        /// The buffer.
        buffer: Name,
        /// The page.
        page: u8,
        /// `=` or `!=`.
        relation: Relation,
        /// The byte.
        value: u8,
    },
}

words! {
    /// How two sides of an atom compare.
    Relation {
        /// Both are the same.
        Equal = "=",
        /// They differ.
        NotEqual = "!=",
    }
}

/// What a register holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RegisterValue {
    /// The byte that was read.
    Number(u8),
    /// The read failed.
    Failure(Failure),
}

/// How a statement ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StatementResult {
    /// `ok`
    Ok,
    /// With an errno or a signal.
    Failure(Failure),
}

words! {
    /// An errno or a signal.
    Failure {
        /// Bad address: what get_user_pages answers on a `VM_PFNMAP` mapping.
        Efault = "EFAULT",
        /// The buffer is pinned or in use.
        Ebusy = "EBUSY",
        /// The arguments are refused.
        Einval = "EINVAL",
        /// No frame is free.
        Enomem = "ENOMEM",
        /// The buffer is revoked.
        Enodev = "ENODEV",
        /// The file's mode forbids it.
        Eacces = "EACCES",
        /// The operation is forbidden.
        Eperm = "EPERM",
        /// An access to a page that is gone.
        Sigbus = "SIGBUS",
        /// An access outside any mapping, or against its protection.
        Sigsegv = "SIGSEGV",
    }
}

impl fmt::Display for Condition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.quantifier, self.body)
    }
}

impl Cond {
    /// How tightly the outermost operator binds.
    fn precedence(&self) -> u8 {
        match self {
            Self::Or(_) => 0,
            Self::And(_) => 1,
            Self::Not(_) => 2,
            Self::True | Self::False | Self::Atom(_) => 3,
        }
    }

    /// Prints with parentheses unless the operator binds tighter than `outer`.
    fn print_in(&self, f: &mut fmt::Formatter<'_>, outer: u8) -> fmt::Result {
        if self.precedence() > outer { write!(f, "{self}") } else { write!(f, "({self})") }
    }
}

impl fmt::Display for Cond {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (operands, operator) = match self {
            Self::True => return f.write_str("true"),
            Self::False => return f.write_str("false"),
            Self::Atom(atom) => return atom.fmt(f),
            Self::Not(inner) => {
                f.write_str("~")?;
                return inner.print_in(f, 1);
            }
            Self::And(operands) => (operands, " /\\ "),
            Self::Or(operands) => (operands, " \\/ "),
        };
        for (i, operand) in operands.iter().enumerate() {
            if i > 0 {
                f.write_str(operator)?;
            }
            operand.print_in(f, self.precedence())?;
        }
        Ok(())
    }
}

impl fmt::Display for Atom {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.kind.fmt(f)
    }
}

impl fmt::Display for AtomKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AnyHazard => f.write_str("hazard any"),
            Self::Hazard(kind) => write!(f, "hazard {kind}"),
            Self::Warning => f.write_str("warning"),
            Self::Register { process, register, relation, value } => {
                write!(f, "P{process}:{} {relation} {value}", register.text)
            }
            Self::Result { name, relation, outcome } => {
                write!(f, "{} {relation} {outcome}", name.text)
            }
            Self::Content { buffer, page, relation, value } => {
                write!(f, "{}[{page}] {relation} {value}", buffer.text)
            }
        }
    }
}

impl fmt::Display for RegisterValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Number(value) => value.fmt(f),
            Self::Failure(failure) => failure.fmt(f),
        }
    }
}

impl fmt::Display for StatementResult {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ok => f.write_str("ok"),
            Self::Failure(failure) => failure.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parentheses_are_printed_where_the_tree_needs_them() {
        let (t, f) = (Cond::True, Cond::False);
        let not = |c: Cond| Cond::Not(Box::new(c));
        let cases = [
            (
                Cond::Or(vec![Cond::And(vec![t.clone(), f.clone()]), t.clone()]),
                r"true /\ false \/ true",
            ),
            (
                Cond::And(vec![Cond::Or(vec![t.clone(), f.clone()]), t.clone()]),
                r"(true \/ false) /\ true",
            ),
            (
                Cond::Or(vec![t.clone(), Cond::Or(vec![t.clone(), f.clone()])]),
                r"true \/ (true \/ false)",
            ),
            (not(Cond::And(vec![t.clone(), f.clone()])), r"~(true /\ false)"),
            (not(not(t)), "~~true"),
        ];
        for (cond, text) in cases {
            assert_eq!(cond.to_string(), text);
        }
    }
}
