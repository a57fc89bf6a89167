//! The model's rules as the parser wants them.

use std::sync::LazyLock;

use super::ast::Test;
use super::diag::Diagnostic;
use super::rules::{BlockKind, RuleSpec, RuleTable, RuleValues};
use crate::model;

/// The rules that the model knows.
#[derive(Debug, Clone, Copy, Default)]
pub struct ModelRules;

static HOST: LazyLock<Vec<RuleSpec>> = LazyLock::new(|| table(model::HOST_RULES));
static EXPORTER: LazyLock<Vec<RuleSpec>> = LazyLock::new(|| table(model::EXPORTER_RULES));
static IMPORTER: LazyLock<Vec<RuleSpec>> = LazyLock::new(|| table(model::IMPORTER_RULES));

fn table(rules: &[model::RuleSpec]) -> Vec<RuleSpec> {
    let spec = |rule: &model::RuleSpec| RuleSpec {
        name: rule.name,
        values: match rule.values {
            model::RuleValues::Words(words) => RuleValues::Words(words),
            model::RuleValues::Steps(words) => RuleValues::Steps(words),
        },
    };
    rules.iter().map(spec).collect()
}

impl RuleTable for ModelRules {
    fn rules(&self, kind: BlockKind) -> &[RuleSpec] {
        match kind {
            BlockKind::Host => &HOST,
            BlockKind::Exporter => &EXPORTER,
            BlockKind::Importer => &IMPORTER,
        }
    }
}

/// [`super::parse`] with the model's rules.
///
/// # Errors
/// As [`super::parse`].
pub fn read(file_name: &str, text: &str) -> Result<Test, Vec<Diagnostic>> {
    super::parse(file_name, text, &ModelRules)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_rule_of_the_model_parses() {
        for (kind, block) in
            [(BlockKind::Exporter, "exporter e"), (BlockKind::Importer, "importer e")]
        {
            for rule in ModelRules.rules(kind) {
                let (RuleValues::Words(words) | RuleValues::Steps(words)) = rule.values else {
                    panic!("no numbers in the model");
                };
                let value = match rule.values {
                    RuleValues::Steps(_) => format!("[{}]", words.join(" ")),
                    _ => words[0].to_owned(),
                };
                let text = format!(
                    "DMABUF t\nexporter x {{}}\n{block} {{ {} = {value} }}\nbuffer A {{ exporter = x }}\n\
                     P0 application {{\n mmap v = A shared rw\n}}\nexists (warning)\n",
                    rule.name
                );
                let test = read("t.litmus", &text);
                assert!(test.is_ok(), "{}: {:?}", rule.name, test.err());
            }
        }
        let bad = read("t.litmus", "DMABUF t\nexporter e { mmpa = pfnmap }\nexists (warning)\n");
        assert!(bad.is_err_and(|list| list[0].to_string().contains("mmpa")));
    }
}
