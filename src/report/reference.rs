//! The rules and the statements of the language, as reference text.

use serde::Serialize;

use super::paint::{Paint, Tone, wrap};
use super::table::{Align, Cell, Column, Table};
use crate::litmus;
use crate::litmus::rules::{BlockKind, ModelRules, RuleSpec, RuleTable, RuleValues};
use crate::litmus::statements::{STATEMENTS, StatementSpec};
use crate::suite;

/// A rule with the block it belongs to.
#[derive(Debug, Clone, Serialize)]
pub struct RuleEntry {
    /// `host`, `exporter` or `importer`.
    pub block: &'static str,
    /// Its name.
    pub rule: &'static str,
    /// `word`, `steps` or `number`.
    kind: &'static str,
    about: String,
    meaning: String,
    source: Option<String>,
    default: String,
    values: Vec<ValueEntry>,
}

#[derive(Debug, Clone, Serialize)]
struct ValueEntry {
    value: String,
    meaning: String,
}

/// A statement, with a line of the bundled suite that uses it.
#[derive(Debug, Clone, Serialize)]
pub struct StatementEntry {
    /// The word it begins with.
    pub statement: &'static str,
    forms: &'static [&'static str],
    meaning: &'static str,
    fails: Vec<FailureEntry>,
    kernel: &'static str,
    example: Option<Example>,
}

#[derive(Debug, Clone, Serialize)]
struct FailureEntry {
    error: &'static str,
    when: &'static str,
}

#[derive(Debug, Clone, Serialize)]
struct Example {
    test: &'static str,
    line: String,
}

/// A comment as text: one line a paragraph, without the marks of rustdoc.
fn paragraphs(comment: &str) -> Vec<String> {
    let text =
        comment.replace("[`", "`").replace("`]", "`").replace("\\[", "[").replace("\\]", "]");
    let lines: Vec<&str> = text.lines().map(str::trim).collect();
    lines
        .split(|line| line.is_empty())
        .filter(|lines| !lines.is_empty())
        .map(|lines| lines.join(" "))
        .collect()
}

impl RuleEntry {
    fn new(block: &'static str, spec: &RuleSpec) -> Self {
        let (sources, meaning): (Vec<String>, Vec<String>) =
            paragraphs(spec.text.kind).into_iter().partition(|line| line.starts_with("Source:"));
        let source = sources.first().map(|line| line["Source:".len()..].trim().to_owned());
        let (kind, default) = match spec.values {
            RuleValues::Words(_) => ("word", spec.text.default.join(" ")),
            RuleValues::Steps(_) => ("steps", format!("[{}]", spec.text.default.join(" "))),
        };
        let value = |(word, meaning): &(&str, &str)| ValueEntry {
            value: (*word).to_owned(),
            meaning: paragraphs(meaning).join(" "),
        };
        let values = spec.text.words.iter().map(value).collect();
        Self {
            block,
            rule: spec.name,
            kind,
            about: paragraphs(spec.text.about).join(" "),
            meaning: meaning.join("\n"),
            source,
            default,
            values,
        }
    }

    fn mentions(&self, word: &str) -> bool {
        // A name of the kernel is written with `_` where a word of the language has `-`.
        let plain = |text: &str| text.to_ascii_lowercase().replace('_', "-");
        let word = plain(word);
        let has = |text: &str| plain(text).contains(&word);
        has(self.rule)
            || has(&self.about)
            || has(&self.meaning)
            || self.source.as_deref().is_some_and(has)
            || self.values.iter().any(|v| has(&v.value) || has(&v.meaning))
    }
}

/// Every rule of the model, block by block.
#[must_use]
pub fn rules() -> Vec<RuleEntry> {
    let blocks = [
        ("host", BlockKind::Host),
        ("exporter", BlockKind::Exporter),
        ("importer", BlockKind::Importer),
    ];
    let of =
        |(block, kind)| ModelRules.rules(kind).iter().map(move |spec| RuleEntry::new(block, spec));
    blocks.into_iter().flat_map(of).collect()
}

/// The rules that `word` names: a rule, a block, or else every one whose text has the word.
#[must_use]
pub fn rules_about(word: &str) -> Vec<RuleEntry> {
    let word = word.to_ascii_lowercase();
    // `importer mmap`: of that block.
    if let Some((block, rest)) = word.split_once(' ')
        && rules().iter().any(|rule| rule.block == block)
    {
        return rules_about(rest.trim()).into_iter().filter(|rule| rule.block == block).collect();
    }
    let (named, rest): (Vec<RuleEntry>, Vec<RuleEntry>) =
        rules().into_iter().partition(|rule| rule.rule == word || rule.block == word);
    if !named.is_empty() {
        return named;
    }
    let (called, rest): (Vec<RuleEntry>, Vec<RuleEntry>) =
        rest.into_iter().partition(|rule| rule.rule.contains(&word));
    if !called.is_empty() {
        return called;
    }
    rest.into_iter().filter(|rule| rule.mentions(&word)).collect()
}

/// Every statement, in the order of the table.
#[must_use]
pub fn statements() -> Vec<StatementEntry> {
    STATEMENTS.iter().map(StatementEntry::new).collect()
}

/// The statements that `word` names, or else every one whose text has the word.
#[must_use]
pub fn statements_about(word: &str) -> Vec<StatementEntry> {
    let lower = word.to_ascii_lowercase();
    let (named, rest): (Vec<StatementEntry>, Vec<StatementEntry>) =
        statements().into_iter().partition(|entry| entry.statement == lower);
    if !named.is_empty() {
        return named;
    }
    rest.into_iter().filter(|entry| entry.mentions(&lower)).collect()
}

impl StatementEntry {
    fn new(spec: &StatementSpec) -> Self {
        let fails = spec.fails.iter().map(|(error, when)| FailureEntry { error, when }).collect();
        let StatementSpec { word, forms, meaning, kernel, .. } = *spec;
        Self { statement: word, forms, meaning, fails, kernel, example: example(word) }
    }

    fn mentions(&self, word: &str) -> bool {
        let has = |text: &str| text.to_ascii_lowercase().contains(word);
        has(self.statement)
            || has(self.meaning)
            || has(self.kernel)
            || self.forms.iter().any(|form| has(form))
            || self.fails.iter().any(|failure| has(failure.error) || has(failure.when))
    }
}

/// The first statement of the bundled suite that begins with the word, as a variant has it.
fn example(word: &str) -> Option<Example> {
    suite::TESTS.iter().filter(|test| test.text.contains(word)).find_map(|test| {
        let parsed = litmus::parse(test.file, test.text, &ModelRules).ok()?;
        let processes = parsed.variants.iter().flat_map(|variant| &variant.processes);
        let mut lines = processes.flat_map(|process| &process.statements).map(|s| s.op.to_string());
        let line = lines.find(|line| line.split(' ').next() == Some(word))?;
        Some(Example { test: test.name, line })
    })
}

/// A line a rule.
#[must_use]
pub fn rule_list(rules: &[RuleEntry], paint: Paint) -> String {
    let columns = vec![
        Column::new("block", Align::Left).fit(rules.iter().map(|rule| rule.block)),
        Column::new("rule", Align::Left).fit(rules.iter().map(|rule| rule.rule)),
        Column::new("default", Align::Left).at_least(14),
        Column::new("values", Align::Left),
    ];
    let table = Table::new(columns, paint);
    let mut out = table.header();
    for rule in rules {
        let (default, values) = match rule.kind {
            "steps" => ("[...]".to_owned(), format!("{} A list.", rule.about)),
            _ => (rule.default.clone(), words(rule)),
        };
        out.push_str(&table.row(&[
            Cell::toned(rule.block, Tone::Dim),
            Cell::toned(rule.rule, Tone::Strong),
            Cell::new(default),
            Cell::new(values),
        ]));
    }
    out
}

fn words(rule: &RuleEntry) -> String {
    let words: Vec<&str> = rule.values.iter().map(|value| value.value.as_str()).collect();
    words.join(", ")
}

/// Text under a heading, broken at the width.
fn indented(out: &mut String, first: &str, indent: usize, text: &str, columns: usize) {
    for (at, line) in wrap(text, columns.saturating_sub(indent).max(20)).iter().enumerate() {
        let head = if at == 0 { first } else { "" };
        out.push_str(&format!("{head:<indent$}{line}\n"));
    }
}

/// Everything about one rule.
#[must_use]
pub fn rule_text(rule: &RuleEntry, paint: Paint, columns: usize) -> String {
    let mut out = format!(
        "{}  {} = {}\n",
        paint.paint(Tone::Dim, rule.block),
        paint.paint(Tone::Strong, rule.rule),
        rule.default
    );
    indented(&mut out, "", 2, &rule.about, columns);
    for paragraph in rule.meaning.lines().filter(|line| *line != rule.about) {
        indented(&mut out, "", 2, paragraph, columns);
    }
    let widest = rule.values.iter().map(|value| value.value.len()).max().unwrap_or(0);
    for value in &rule.values {
        let head = format!("    {}", value.value);
        indented(&mut out, &head, widest + 6, &value.meaning, columns);
    }
    if let Some(source) = &rule.source {
        indented(&mut out, "  Source:", 10, source, columns);
    }
    out
}

/// A line a statement.
#[must_use]
pub fn statement_list(statements: &[StatementEntry], paint: Paint) -> String {
    let columns = vec![
        Column::new("statement", Align::Left).fit(statements.iter().map(|s| s.statement)),
        Column::new("meaning", Align::Left),
    ];
    let table = Table::new(columns, paint);
    let mut out = table.header();
    for entry in statements {
        let cells = [Cell::toned(entry.statement, Tone::Strong), Cell::new(entry.meaning)];
        out.push_str(&table.row(&cells));
    }
    out
}

/// Everything about one statement.
#[must_use]
pub fn statement_text(entry: &StatementEntry, paint: Paint, columns: usize) -> String {
    let mut out = String::new();
    for form in entry.forms {
        out.push_str(&format!("{}\n", paint.paint(Tone::Strong, form)));
    }
    indented(&mut out, "", 2, entry.meaning, columns);
    for failure in &entry.fails {
        indented(&mut out, &format!("    {}", failure.error), 13, failure.when, columns);
    }
    indented(&mut out, "  In the kernel:", 17, entry.kernel, columns);
    if let Some(example) = &entry.example {
        out.push_str(&format!("  Example: {}  ({})\n", example.line, example.test));
    }
    out
}

/// What the letters of the forms stand for.
pub const LETTERS: &str = "V W mappings, R register, P pin, Q pfn cache, F frame vector, T attachment, \
S sg_table, J fence; X a pin, pfn cache, frame vector or sg_table; [i] a page\n";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_rule_says_what_it_and_its_values_mean_and_where_that_was_read() {
        for rule in rules() {
            let name = format!("{} {}", rule.block, rule.rule);
            assert!(!rule.about.is_empty(), "{name} has no comment");
            assert!(rule.values.iter().all(|v| !v.meaning.is_empty()), "{name}: a value has none");
            let told = rule.kind == "steps" || rule.values.iter().any(|v| v.value == rule.default);
            assert!(told, "{name}: the default {} is not a value", rule.default);
            let read = [Some(&rule.meaning), Some(&rule.about), rule.source.as_ref()];
            let read: String = read.into_iter().flatten().map(String::as_str).collect();
            assert!(rule.source.is_some() || read.contains('(') || rule.block == "host", "{name}");
        }
    }

    #[test]
    fn a_word_names_a_rule_or_searches() {
        let names = |word| -> Vec<String> {
            rules_about(word).iter().map(|r| format!("{}.{}", r.block, r.rule)).collect()
        };
        assert_eq!(names("mmap"), ["exporter.mmap", "importer.mmap"]);
        assert!(names("vm_insert_page").contains(&"exporter.mmap".to_owned()));
        assert_eq!(names("host").len(), ModelRules.rules(BlockKind::Host).len());
        assert!(names("CVE-2024-39497").contains(&"exporter.cow".to_owned()));
        assert!(names("p2p").contains(&"exporter.peer2peer".to_owned()));
        assert!(names("device_tlb").contains(&"importer.device-tlb".to_owned()));
        assert!(names("no such thing").is_empty());
    }

    #[test]
    fn every_form_begins_with_its_word_and_has_an_example() {
        for entry in statements() {
            let name = entry.statement;
            assert!(entry.forms.iter().all(|form| form.split(' ').next() == Some(name)), "{name}");
        }
        for entry in statements() {
            let example = entry.example.as_ref().map(|example| example.line.as_str());
            let whole = example.is_some_and(|line| !line.contains("vary") && !line.contains('('));
            assert!(whole, "{}: {example:?}", entry.statement);
        }
    }
}
