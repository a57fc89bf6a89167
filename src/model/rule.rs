//! What a rule is: a name, its values and what they mean, declared once.
//!
//! The comments of a declaration are its reference: `rule!` and `rules!` keep them as text beside the
//! names, so that what `driftheap rules` prints is what stands above the enum.

use super::rules::ExporterStep;

/// What a rule accepts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RuleValues {
    /// Exactly one of these words.
    Words(&'static [&'static str]),
    /// A list of these words, in the order in which they are to happen.
    Steps(&'static [&'static str]),
}

/// Name, accepted values and meaning of one rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RuleSpec {
    /// The name in a litmus file and in `--heap NAME,rule=value`.
    pub name: &'static str,
    /// What it may be set to.
    pub values: RuleValues,
    /// What it means.
    pub text: RuleText,
}

/// What a rule means: the comments of its declaration.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RuleText {
    /// The rule in a few words.
    pub about: &'static str,
    /// What its values decide, and behind `Source:` where that was read.
    pub kind: &'static str,
    /// Each value with what it does, in the order of [`RuleSpec::values`].
    pub words: &'static [(&'static str, &'static str)],
    /// The value where nothing is said: one word, or the steps.
    pub default: &'static [&'static str],
}

impl RuleText {
    /// For a rule that is made up.
    pub const NONE: Self = Self { about: "", kind: "", words: &[], default: &[] };
}

/// Why a rule could not be set.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RuleError {
    /// No rule of that name belongs to this kind of block.
    #[error("no rule is called `{0}`")]
    Unknown(String),
    /// The rule exists and does not take this value.
    #[error("rule `{rule}` does not take `{value}`; it takes one of: {allowed}")]
    Value {
        /// The rule.
        rule: String,
        /// What it was to be set to.
        value: String,
        /// What it could be set to.
        allowed: String,
    },
}

macro_rules! rule {
    ($(#[doc = $doc:literal])* $name:ident {
        $($(#[doc = $vdoc:literal])* $variant:ident = $word:literal),+ $(,)?
    }) => {
        $(#[doc = $doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[derive(serde::Serialize, serde::Deserialize)]
        pub enum $name { $($(#[doc = $vdoc])* #[serde(rename = $word)] $variant),+ }

        impl $name {
            /// All of them, in declaration order.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];

            /// Every one's word, in the same order.
            pub const WORDS: &'static [&'static str] = &[$($word),+];

            /// What they decide together.
            pub const ABOUT: &'static str = concat!($($doc, "\n"),*);

            /// Every one's word and what it means, in the same order.
            pub const MEANINGS: &'static [(&'static str, &'static str)] =
                &[$(($word, concat!($($vdoc, "\n"),*))),+];

            /// The one that `word` names.
            #[must_use]
            pub fn from_word(word: &str) -> Option<Self> {
                match word { $($word => Some(Self::$variant),)+ _ => None }
            }

            /// How it is spelled in a litmus file.
            #[must_use]
            pub const fn word(self) -> &'static str {
                match self { $(Self::$variant => $word),+ }
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.word())
            }
        }
    };
}

macro_rules! rules {
    ($(#[$doc:meta])* $name:ident, $table:ident {
        words { $($(#[doc = $fdoc:literal])* $field:ident: $ty:ty = $default:ident, $word:literal;)* }
        steps { $($(#[doc = $sdoc:literal])* $sfield:ident = [$($sdefault:ident),*], $sword:literal;)* }
    }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq)]
        pub struct $name {
            $($(#[doc = $fdoc])* pub $field: $ty,)*
            $($(#[doc = $sdoc])* pub $sfield: Vec<ExporterStep>,)*
        }

        impl Default for $name {
            fn default() -> Self {
                Self {
                    $($field: <$ty>::$default,)*
                    $($sfield: vec![$(ExporterStep::$sdefault),*],)*
                }
            }
        }

        /// The rules of this block by name.
        pub const $table: &[RuleSpec] = &[
            $(RuleSpec {
                name: $word,
                values: RuleValues::Words(<$ty>::WORDS),
                text: RuleText {
                    about: concat!($($fdoc, "\n"),*),
                    kind: <$ty>::ABOUT,
                    words: <$ty>::MEANINGS,
                    default: &[<$ty>::$default.word()],
                },
            },)*
            $(RuleSpec {
                name: $sword,
                values: RuleValues::Steps(ExporterStep::WORDS),
                text: RuleText {
                    about: concat!($($sdoc, "\n"),*),
                    kind: ExporterStep::ABOUT,
                    words: ExporterStep::MEANINGS,
                    default: &[$(ExporterStep::$sdefault.word()),*],
                },
            },)*
        ];

        impl $name {
            /// Set rule `name` to `words`: one word, or a list where the rule is a list of steps.
            ///
            /// # Errors
            /// [`Unknown`](crate::model::RuleError::Unknown) when no rule has that name,
            /// [`Value`](crate::model::RuleError::Value) when it does not take the value; nothing is
            /// changed then.
            pub fn set(&mut self, name: &str, words: &[&str]) -> Result<(), $crate::model::RuleError> {
                match name {
                    $($word => self.$field = $crate::model::rule::one(name, words, <$ty>::from_word, <$ty>::WORDS)?,)*
                    $($sword => self.$sfield = $crate::model::rule::steps(name, words)?,)*
                    _ => return Err($crate::model::RuleError::Unknown(name.to_owned())),
                }
                Ok(())
            }

            /// The rules that differ from the default, as `name = value`.
            #[must_use]
            pub fn non_default(&self) -> Vec<(&'static str, String)> {
                let default = Self::default();
                let mut out = Vec::new();
                $(if self.$field != default.$field { out.push(($word, self.$field.to_string())); })*
                $(if self.$sfield != default.$sfield {
                    let words: Vec<_> = self.$sfield.iter().map(|step| step.word()).collect();
                    out.push(($sword, format!("[{}]", words.join(" "))));
                })*
                let _unused = (&default, &mut out);
                out
            }
        }
    };
}

pub(super) fn one<T>(
    rule: &str,
    words: &[&str],
    parse: fn(&str) -> Option<T>,
    allowed: &[&str],
) -> Result<T, RuleError> {
    let value = words.join(" ");
    parse(&value).ok_or_else(|| RuleError::Value {
        rule: rule.to_owned(),
        value,
        allowed: allowed.join(", "),
    })
}

pub(super) fn steps(rule: &str, words: &[&str]) -> Result<Vec<ExporterStep>, RuleError> {
    let one_step = |word: &&str| {
        ExporterStep::from_word(word).ok_or_else(|| RuleError::Value {
            rule: rule.to_owned(),
            value: (*word).to_owned(),
            allowed: ExporterStep::WORDS.join(", "),
        })
    };
    words.iter().map(one_step).collect()
}

pub(super) use {rule, rules};
