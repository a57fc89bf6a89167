//! Any bytes: the parser and the formatter answer, and formatting changes no meaning.

use driftheap::litmus::rules::{BlockKind, RuleSpec, RuleTable, RuleText, RuleValues};

struct Table;

impl RuleTable for Table {
    fn rules(&self, _kind: BlockKind) -> &[RuleSpec] {
        const RULES: &[RuleSpec] = &[
            RuleSpec {
                name: "mmap",
                values: RuleValues::Words(&["pfnmap", "shmem"]),
                text: RuleText::NONE,
            },
            RuleSpec {
                name: "move",
                values: RuleValues::Steps(&["lock", "zap", "copy"]),
                text: RuleText::NONE,
            },
        ];
        RULES
    }
}

/// Takes one input.
pub(crate) fn run(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let parsed = driftheap::litmus::parse("fuzz", text, &Table);
    if let Err(list) = &parsed {
        assert!(!list.is_empty(), "a failure without a reason");
        for diagnostic in list {
            assert!(!diagnostic.render(false).is_empty());
        }
    }
    if let Ok(formatted) = driftheap::litmus::format("fuzz", text) {
        let again = driftheap::litmus::format("fuzz", &formatted);
        assert_eq!(again.ok().as_deref(), Some(&*formatted), "formatting is not idempotent");
        if let Ok(test) = &parsed {
            let reparsed = driftheap::litmus::parse("fuzz", &formatted, &Table);
            assert_eq!(reparsed.ok().as_ref(), Some(test), "formatting changes the meaning");
        }
    }
    if let Ok(test) = &parsed {
        for variant in &test.variants {
            let printed = driftheap::litmus::parse("fuzz", &variant.to_string(), &Table);
            assert!(printed.is_ok(), "a variant prints to a file that does not parse");
        }
    }
}
