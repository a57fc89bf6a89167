//! What the parser must be told about rules: their names and the values they allow.

use crate::model;
pub use crate::model::{RuleSpec, RuleText, RuleValues};

/// A block that holds rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum BlockKind {
    /// `host { .. }`
    Host,
    /// `exporter NAME { .. }`
    Exporter,
    /// `importer NAME { .. }`
    Importer,
}

impl BlockKind {
    /// As it is said in a diagnostic: "rules of ...".
    pub(super) const fn described(self) -> &'static str {
        match self {
            Self::Host => "the host",
            Self::Exporter => "an exporter",
            Self::Importer => "an importer",
        }
    }
}

/// The rules that exist: [`ModelRules`], or a table made up for a test.
pub trait RuleTable {
    /// The rules of a kind of block.
    fn rules(&self, kind: BlockKind) -> &[RuleSpec];
}

/// The rules of the model.
#[derive(Debug, Clone, Copy, Default)]
pub struct ModelRules;

impl RuleTable for ModelRules {
    fn rules(&self, kind: BlockKind) -> &[RuleSpec] {
        match kind {
            BlockKind::Host => model::HOST_RULES,
            BlockKind::Exporter => model::EXPORTER_RULES,
            BlockKind::Importer => model::IMPORTER_RULES,
        }
    }
}
