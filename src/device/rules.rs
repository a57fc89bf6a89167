//! Heaps by rule: `--heap NAME[:SIZE][,rule=value...]` and the same as TOML.
//!
//! The rules have the names that a litmus test's `exporter` block uses, so that a program can be
//! run under the rule that a test asks about.

use std::str::FromStr;

use serde::Deserialize;

use crate::model::{self, Cow, ExporterRules, HostRules, MmapKind, RuleError};

/// One heap as the user asked for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeapConfig {
    /// Name under /dev/dma_heap.
    pub name: String,
    /// Most bytes of all its buffers together; `None` is bounded by the device's quota alone.
    pub size_bytes: Option<u64>,
    /// The rules that were asked for; the others are the defaults.
    pub given: Vec<&'static str>,
    /// Its rules, as the model has them.
    pub rules: ExporterRules,
}

/// Why a heap could not be configured.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HeapError {
    /// The name is empty or would leave /dev/dma_heap.
    #[error(
        "`{0}` is not a heap name: use letters, digits, `_`, `-`, `.` and single commas between them"
    )]
    Name(String),
    /// The size is not a number with a unit.
    #[error("`{0}` is not a size: write bytes, or a number followed by K, M, G or T")]
    Size(String),
    /// The size is 0.
    #[error(
        "a heap of 0 bytes has no room for a buffer: leave the size out for one without a limit"
    )]
    NoSpace,
    /// A part is not `rule=value`.
    #[error("`{0}` is not a rule: write rule=value, for example mmap=pfnmap")]
    Syntax(String),
    /// No such rule.
    #[error("a running heap has no rule `{rule}`{}; it has: {}", hint(rule, &RULES), RULES.join(", "))]
    UnknownRule {
        /// What was written.
        rule: String,
    },
    /// The rule does not take this value.
    #[error("rule `{rule}` does not take `{value}`; it takes: {allowed}")]
    UnknownValue {
        /// The rule.
        rule: String,
        /// What was written.
        value: String,
        /// What could be written.
        allowed: String,
    },
    /// Two heaps of one name.
    #[error("heap `{0}` is configured twice")]
    Duplicate(String),
    /// The TOML file does not parse.
    #[error("{0}")]
    Toml(String),
    /// The TOML file has no heap.
    #[error("no heap in it: write a [[heap]] table with a name")]
    None,
}

/// The rules that a running heap has.
const RULES: [&str; 9] = [
    "mmap",
    "cow",
    "on-dma-buf-pin",
    "on-foreign-pin",
    "recycle",
    "wait",
    "move",
    "purge",
    "revoke",
];

/// How a running heap's buffers can be mapped: what a shared file of ours can imitate.
const MMAP_KINDS: [MmapKind; 4] =
    [MmapKind::Pfnmap, MmapKind::MixedmapInsertPfn, MmapKind::MixedmapInsertPage, MmapKind::Shmem];

/// Those that concern buffers that move. The last three take a list of steps: `move=[lock notify
/// wait zap reserve copy rebind free unlock]`.
const LIVE_RULES: &[&str] = RULES.split_at(2).1;

fn hint(word: &str, known: &[&str]) -> String {
    known
        .iter()
        .find(|name| strsim::damerau_levenshtein(word, name) <= 1)
        .map_or_else(String::new, |name| format!(" (did you mean `{name}`?)"))
}

/// Longest heap name; the kernel has no limit but a device node's name has.
const NAME_MAX: usize = 64;

impl HeapConfig {
    /// A heap with today's rules: `mmap=pfnmap`, `cow=reject`.
    pub fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            size_bytes: None,
            given: Vec::new(),
            rules: ExporterRules {
                mmap: MmapKind::Pfnmap,
                cow: Cow::Reject,
                ..ExporterRules::default()
            },
        }
    }

    /// Sets one rule by name.
    ///
    /// # Errors
    /// The rule or its value is unknown.
    pub fn set(&mut self, rule: &str, value: &str) -> Result<(), HeapError> {
        let Some(known) = RULES.iter().find(|known| **known == rule) else {
            return Err(HeapError::UnknownRule { rule: rule.to_owned() });
        };
        if rule == "mmap" {
            let known = MMAP_KINDS.map(MmapKind::word);
            if !known.contains(&value) {
                let (rule, value) = (rule.to_owned(), value.to_owned());
                return Err(HeapError::UnknownValue { rule, value, allowed: known.join(", ") });
            }
        }
        self.set_rule(rule, value)?;
        self.given.push(known);
        Ok(())
    }

    /// The rules that were asked for and that concern buffers that move.
    pub fn given_of_moves(&self) -> Vec<&'static str> {
        self.given.iter().copied().filter(|rule| LIVE_RULES.contains(rule)).collect()
    }

    /// Whether get_user_pages through a mapping of its buffers fails, as the model has it.
    pub fn refuses_gup(&self) -> bool {
        model::GupQuestion::new(&HostRules::default(), &self.rules).refusal().is_some()
    }

    /// Sets a rule of the model: one word, or a list of steps in brackets.
    fn set_rule(&mut self, rule: &str, value: &str) -> Result<(), HeapError> {
        let list = value.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
        let words: Vec<&str> = list.unwrap_or(value).split_whitespace().collect();
        self.rules.set(rule, &words).map_err(|error| match error {
            RuleError::Unknown(rule) => HeapError::UnknownRule { rule },
            RuleError::Value { rule, value, allowed } => {
                HeapError::UnknownValue { rule, value, allowed }
            }
        })
    }

    fn named(name: &str) -> Result<Self, HeapError> {
        let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.' | ',');
        let dots = name.chars().all(|c| c == '.');
        let has_empty_part = name.split(',').any(str::is_empty);
        if has_empty_part || dots || name.len() > NAME_MAX || !name.chars().all(allowed) {
            return Err(HeapError::Name(name.to_owned()));
        }
        Ok(Self::new(name))
    }
}

impl FromStr for HeapConfig {
    type Err = HeapError;

    fn from_str(text: &str) -> Result<Self, HeapError> {
        // A heap's name may hold commas, as `linux,cma` does; the first part that looks like a
        // rule ends it.
        let looks_like_rule = |part: &str| part.contains('=') || !hint(part, &RULES).is_empty();
        let mut rules_at = text.len();
        for (at, _) in text.match_indices(',') {
            let part = text[at + 1..].split(',').next().unwrap_or_default();
            if looks_like_rule(part) {
                rules_at = at;
                break;
            }
        }
        let parts = text[rules_at..].split(',').skip(1);
        let head = &text[..rules_at];
        let (name, size) = head.split_once(':').map_or((head, None), |(n, s)| (n, Some(s)));
        let mut heap = Self::named(name)?;
        heap.size_bytes = size.map(heap_size).transpose()?;
        for part in parts {
            let (rule, value) =
                part.split_once('=').ok_or_else(|| HeapError::Syntax(part.to_owned()))?;
            heap.set(rule.trim(), value.trim())?;
        }
        Ok(heap)
    }
}

/// A heap that never has a page is a mistake.
fn heap_size(text: &str) -> Result<u64, HeapError> {
    match parse_size(text)? {
        0 => Err(HeapError::NoSpace),
        bytes => Ok(bytes),
    }
}

/// Parses bytes, or a number followed by K, M, G or T (powers of 1024).
///
/// # Errors
/// The text is not a number, has another unit, or does not fit 64 bits.
pub fn parse_size(text: &str) -> Result<u64, HeapError> {
    let error = || HeapError::Size(text.to_owned());
    let digits = text.trim_end_matches(['K', 'M', 'G', 'T', 'k', 'm', 'g', 't', 'i', 'B']);
    let shift = match text[digits.len()..].trim_end_matches('B').trim_end_matches('i') {
        "" if digits.len() == text.len() => 0,
        "K" | "k" => 10,
        "M" | "m" => 20,
        "G" | "g" => 30,
        "T" | "t" => 40,
        _ => return Err(error()),
    };
    let number: u64 = digits.parse().map_err(|_| error())?;
    number.checked_mul(1_u64 << shift).ok_or_else(error)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TomlFile {
    heap: Vec<TomlHeap>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct TomlHeap {
    name: String,
    size: Option<String>,
    mmap: Option<String>,
    cow: Option<String>,
    on_dma_buf_pin: Option<String>,
    on_foreign_pin: Option<String>,
    recycle: Option<String>,
    wait: Option<String>,
    #[serde(rename = "move")]
    move_steps: Option<String>,
    purge: Option<String>,
    revoke: Option<String>,
}

/// Reads heaps from TOML: `[[heap]]` tables with `name` and, optionally, `size` and the
/// rules by name.
///
/// # Errors
/// The text is no TOML, or a heap in it is not valid.
pub fn heaps_from_toml(text: &str) -> Result<Vec<HeapConfig>, HeapError> {
    let file: TomlFile =
        toml::from_str(text).map_err(|error| HeapError::Toml(error.to_string()))?;
    let heaps = file.heap.into_iter().map(|entry| {
        let mut heap = HeapConfig::named(&entry.name)?;
        heap.size_bytes = entry.size.as_deref().map(heap_size).transpose()?;
        let values = [
            entry.mmap,
            entry.cow,
            entry.on_dma_buf_pin,
            entry.on_foreign_pin,
            entry.recycle,
            entry.wait,
            entry.move_steps,
            entry.purge,
            entry.revoke,
        ];
        for (rule, value) in RULES.iter().zip(values) {
            value.map_or(Ok(()), |value| heap.set(rule, &value))?;
        }
        Ok(heap)
    });
    let heaps: Vec<HeapConfig> = heaps.collect::<Result<_, _>>()?;
    if heaps.is_empty() { Err(HeapError::None) } else { distinct(heaps) }
}

/// Checks that no two heaps have one name.
///
/// # Errors
/// Two do.
pub fn distinct(heaps: Vec<HeapConfig>) -> Result<Vec<HeapConfig>, HeapError> {
    for (index, heap) in heaps.iter().enumerate() {
        if heaps[..index].iter().any(|other| other.name == heap.name) {
            return Err(HeapError::Duplicate(heap.name.clone()));
        }
    }
    Ok(heaps)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expect: &str) {
        let got = match text.parse::<HeapConfig>() {
            Ok(heap) => {
                format!(
                    "{} {:?} {} {}",
                    heap.name, heap.size_bytes, heap.rules.mmap, heap.rules.cow
                )
            }
            Err(error) => error.to_string(),
        };
        assert_eq!(got, expect, "{text}");
    }

    #[test]
    fn heap_specs() {
        check("system", "system None pfnmap reject");
        check("linux,cma", "linux,cma None pfnmap reject");
        check("linux,cma:1M,cow=allow", "linux,cma Some(1048576) pfnmap allow");
        check("cma:64M", "cma Some(67108864) pfnmap reject");
        check("x:4KiB,mmap=mixedmap-insert-page", "x Some(4096) mixedmap-insert-page reject");
        check("x,cow=allow,mmap=shmem", "x None shmem allow");
        check("x:4T", "x Some(4398046511104) pfnmap reject");
        let error = |size| {
            format!("`{size}` is not a size: write bytes, or a number followed by K, M, G or T")
        };
        check("x:4P", &error("4P"));
        check("x:99999999999G", &error("99999999999G"));
        check(
            "x:0",
            "a heap of 0 bytes has no room for a buffer: leave the size out for one without a limit",
        );
        let error = |name| {
            format!(
                "`{name}` is not a heap name: use letters, digits, `_`, `-`, `.` and single commas between them"
            )
        };
        for name in ["system,", ",,", ",", "a,,b", "..", "a/b"] {
            check(name, &error(name));
        }
        check(
            "x,mmpa=pfnmap",
            "a running heap has no rule `mmpa` (did you mean `mmap`?); it has: mmap, cow, \
             on-dma-buf-pin, on-foreign-pin, recycle, wait, move, purge, revoke",
        );
        check("x,wait=write,move=[lock copy rebind free unlock],cow=allow", "x None pfnmap allow");
        check(
            "x,move=[lock zip]",
            "rule `move` does not take `zip`; it takes: lock, notify, zap, wait, check-pins, \
             flush, reserve, fence, copy, signal, rebind, free, mark, wait-unmap, unlock",
        );
        check(
            "x,mmap=foo",
            "rule `mmap` does not take `foo`; it takes: pfnmap, mixedmap-insert-pfn, mixedmap-insert-page, shmem",
        );
        check("x,mmap", "`mmap` is not a rule: write rule=value, for example mmap=pfnmap");
    }

    #[test]
    fn toml_heaps() {
        let text = "[[heap]]\nname = 'system'\nsize = '1M'\n[[heap]]\nname = 'b'\nmmap = 'shmem'\n";
        let heaps = heaps_from_toml(text).unwrap();
        assert_eq!(heaps[0].size_bytes, Some(1 << 20));
        assert_eq!(heaps[1].rules.mmap, MmapKind::Shmem);
        assert!(heaps_from_toml("[[heap]]\nname='a'\n[[heap]]\nname='a'").is_err());
        assert_eq!(heaps_from_toml("heap = []"), Err(HeapError::None));
        assert!(heaps_from_toml("[[heap]]\nname='a'\nmmmap='shmem'").is_err());
        let text =
            "[[heap]]\nname='a'\non-dma-buf-pin='ignore'\nmove='[lock copy rebind free unlock]'";
        let rules = &heaps_from_toml(text).unwrap()[0].rules;
        assert_eq!(rules.on_dma_buf_pin, model::OnDmaBufPin::Ignore);
        assert_eq!(rules.move_steps.len(), 5);
    }
}
