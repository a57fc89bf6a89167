//! What the parser must be told about rules: their names and the values they allow.

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

/// A rule that a block may set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RuleSpec {
    /// The word on the left of `=`.
    pub name: &'static str,
    /// What may stand on the right.
    pub values: RuleValues,
}

/// The values that a rule allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RuleValues {
    /// One of these words.
    Words(&'static [&'static str]),
    /// A list of these words, in any order, each any number of times.
    Steps(&'static [&'static str]),
    /// A number, both ends included.
    Number {
        /// The least.
        min: u64,
        /// The greatest.
        max: u64,
    },
}

/// The rules that exist. The model supplies the real table.
pub trait RuleTable {
    /// The rules of a kind of block.
    fn rules(&self, kind: BlockKind) -> &[RuleSpec];
}
