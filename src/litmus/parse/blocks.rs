//! Header blocks, processes, and the order of a file.

use super::super::ast::{
    Buffer, BufferState, Exporter, Frames, Importer, Name, Placement, Process, ProcessRef, Role,
    Rule, RuleValue, Statement, Variant,
};
use super::super::cond::{Cond, Condition, Quantifier};
use super::super::diag::{Problem, Sink};
use super::super::lex::{Bracket, Kind, Token, is_process};
use super::super::rules::{BlockKind, RuleSpec, RuleTable, RuleValues};
use super::super::span::Span;
use super::super::{BUFFER_PAGES_MAX, FRAMES_MAX, PROCESSES_MAX, STATEMENTS_MAX};
use super::{Parser, Result};

const BLOCKS: &[&str] =
    &["host", "exporter", "importer", "memory", "buffer", "P0", "exists", "forall", "count"];
const ROLES: &[&str] = &["application", "exporter", "device", "child", "thread", "hardware"];
const BUFFER_FIELDS: &[&str] = &["exporter", "pages", "placement", "state", "fill"];

/// A variant as far as it could be read.
#[derive(Debug)]
pub(crate) struct Parsed {
    pub(crate) variant: Variant,
    /// Words of what could not be read; that they are undefined means nothing.
    pub(crate) lost: Vec<String>,
}

/// Reads the tokens behind the `DMABUF` line.
pub(crate) fn variant(
    text: &str,
    tokens: &[Token],
    table: &dyn RuleTable,
    test: &Name,
    sink: &mut Sink,
) -> Parsed {
    let mut file = File { host: None, memory: None, condition: None, variant: empty(test) };
    let mut parser = Parser::new(text, tokens, table, sink);
    while parser.at < parser.end {
        if matches!(parser.peek(), Some(Kind::Newline | Kind::Semicolon)) {
            parser.advance();
            continue;
        }
        let start = parser.at;
        if parser.item(&mut file).is_err() {
            let close = Some(Kind::Open(Bracket::Curly));
            parser.recover(start, |parser, last| {
                parser.peek() == Some(Kind::Newline) || last == close
            });
        }
    }
    let end = parser.here();
    if file.variant.processes.is_empty() && parser.lost.is_empty() {
        let help = "write `P0 application { ... }`";
        parser.sink.report(Problem::new(end, "the test has no process").help(help));
    }
    match file.condition {
        Some(condition) => file.variant.condition = condition,
        None if parser.lost.iter().any(|word| word == "exists" || word == "forall") => {}
        None => {
            let help = "end with `exists (...)`, `~exists (...)` or `forall (...)`";
            parser.sink.report(Problem::new(end, "the test has no condition").help(help));
        }
    }
    Parsed { variant: file.variant, lost: parser.lost }
}

/// What has been read of a file.
struct File {
    host: Option<Span>,
    memory: Option<Span>,
    condition: Option<Condition>,
    variant: Variant,
}

fn empty(test: &Name) -> Variant {
    let condition =
        Condition { quantifier: Quantifier::Exists, body: Cond::True, span: Span::default() };
    Variant {
        test: test.clone(),
        name: String::new(),
        expected: None,
        host: Vec::new(),
        exporters: Vec::new(),
        importers: Vec::new(),
        memory: Vec::new(),
        buffers: Vec::new(),
        processes: Vec::new(),
        condition,
        counts: Vec::new(),
    }
}

impl Parser<'_> {
    /// One block, the condition, or a `count` line.
    fn item(&mut self, file: &mut File) -> Result<()> {
        let start = self.at;
        let word = self.word();
        match word {
            "host" => {
                self.only_once(file.host, "host")?;
                file.host = Some(self.advance());
                let rules = self.rules(BlockKind::Host)?;
                file.variant.host.extend(rules);
            }
            "exporter" => {
                self.advance();
                let name = self.new_name("the name of an exporter")?;
                let rules = self.rules(BlockKind::Exporter)?;
                file.variant.exporters.push(Exporter { name, rules, span: self.since(start) });
            }
            "importer" => {
                self.advance();
                let name = self.new_name("the name of an importer")?;
                let rules = self.rules(BlockKind::Importer)?;
                file.variant.importers.push(Importer { name, rules, span: self.since(start) });
            }
            "memory" => {
                self.only_once(file.memory, "memory")?;
                file.memory = Some(self.advance());
                let frames = self.memory()?;
                file.variant.memory.extend(frames);
            }
            "buffer" => {
                let buffer = self.buffer()?;
                file.variant.buffers.push(buffer);
            }
            "count" => {
                let counters = self.count()?;
                file.variant.counts.extend(counters);
            }
            "exists" | "forall" => self.the_condition(file)?,
            "" if self.peek() == Some(Kind::Not) => self.the_condition(file)?,
            process if is_process(process) => self.process(&mut file.variant.processes)?,
            word => {
                let message = format!("expected a block, found {}", self.found());
                let problem = Problem::new(self.here(), message);
                return self.fail(problem.suggest(word, BLOCKS, "blocks"));
            }
        }
        Ok(())
    }

    fn only_once(&mut self, first: Option<Span>, block: &str) -> Result<()> {
        let Some(first) = first else { return Ok(()) };
        let problem = Problem::new(self.here(), format!("a second `{block}` block"));
        self.fail(problem.related(first, "the first one"))
    }

    fn the_condition(&mut self, file: &mut File) -> Result<()> {
        let start = self.here();
        let condition = self.condition()?;
        if let Some(first) = &file.condition {
            let problem = Problem::new(start, "a second condition");
            let help = "join the two with `/\\` or `\\/`";
            let first = first.span;
            return self.fail(problem.related(first, "the first one").help(help));
        }
        file.condition = Some(condition);
        Ok(())
    }

    /// `{ RULE = VALUE; ... }`
    fn rules(&mut self, kind: BlockKind) -> Result<Vec<Rule>> {
        let mut rules: Vec<Rule> = Vec::new();
        self.block(|parser| {
            let rule = parser.rule(kind)?;
            let first = rules.iter().find(|first| first.name == rule.name).map(|first| first.span);
            parser.twice("rule", &rule.name, first)?;
            rules.push(rule);
            Ok(())
        })?;
        Ok(rules)
    }

    fn twice(&mut self, what: &str, name: &Name, first: Option<Span>) -> Result<()> {
        let Some(first) = first else { return Ok(()) };
        let problem = Problem::new(name.span, format!("{what} `{name}` is set twice"));
        self.fail(problem.related(first, "first here"))
    }

    fn rule(&mut self, kind: BlockKind) -> Result<Rule> {
        let start = self.at;
        let name = self.name("the name of a rule")?;
        let table = self.table;
        let specs = table.rules(kind);
        let Some(spec) = specs.iter().find(|spec| spec.name == name.as_str()) else {
            let message = format!("unknown rule `{name}` of {}", kind.described());
            let names: Vec<&str> = specs.iter().map(|spec| spec.name).collect();
            let what = format!("rules of {}", kind.described());
            return self.fail(Problem::new(name.span, message).suggest(
                name.as_str(),
                &names,
                &what,
            ));
        };
        self.expect(Kind::Equal, "`=`")?;
        let value = self.rule_value(spec)?;
        Ok(Rule { name, value, span: self.since(start) })
    }

    fn rule_value(&mut self, spec: &RuleSpec) -> Result<RuleValue> {
        let rule = spec.name;
        match spec.values {
            RuleValues::Words(words) => {
                let name = self.name(&format!("a value of `{rule}` ({})", words.join(", ")))?;
                self.one_of(&name, words, &format!("a value of `{rule}`"))?;
                Ok(RuleValue::Word(name))
            }
            RuleValues::Steps(words) => {
                let example = words.iter().take(2).copied().collect::<Vec<_>>().join(" ");
                let square = Kind::Open(Bracket::Square);
                self.expect(square, &format!("a list of steps such as `[{example}]`"))?;
                let mut steps = Vec::new();
                while !self.accept(Kind::Close(Bracket::Square)) {
                    let step = self.name(&format!("a step of `{rule}` or `]`"))?;
                    self.one_of(&step, words, &format!("a step of `{rule}`"))?;
                    steps.push(step);
                    self.accept(Kind::Comma);
                }
                Ok(RuleValue::Steps(steps))
            }
        }
    }

    fn one_of(&mut self, name: &Name, words: &[&str], what: &str) -> Result<()> {
        if words.contains(&name.as_str()) {
            return Ok(());
        }
        let problem = Problem::new(name.span, format!("`{name}` is not {what}"));
        self.fail(problem.suggest(name.as_str(), words, "possible here"))
    }

    /// `{ PLACEMENT = N; ... }`
    fn memory(&mut self) -> Result<Vec<Frames>> {
        let mut memory: Vec<Frames> = Vec::new();
        self.block(|parser| {
            let start = parser.at;
            let span = parser.here();
            let placement = parser.placement()?;
            parser.expect(Kind::Equal, "`=`")?;
            let count = parser.small("the number of frames", 0, FRAMES_MAX)?;
            let name = Name { text: placement.to_string(), span };
            let first = memory.iter().find(|first| first.placement == placement);
            parser.twice("placement", &name, first.map(|first| first.span))?;
            memory.push(Frames { placement, count, span: parser.since(start) });
            Ok(())
        })?;
        Ok(memory)
    }

    pub(super) fn placement(&mut self) -> Result<Placement> {
        self.choice("a placement", Placement::WORDS, Placement::from_word)
    }

    /// `buffer NAME { FIELD = VALUE; ... }`
    fn buffer(&mut self) -> Result<Buffer> {
        let start = self.at;
        self.advance();
        let name = self.new_name("the name of a buffer")?;
        let mut exporter = None;
        let mut buffer = Buffer {
            name,
            exporter: Name::new(""),
            pages: 1,
            placement: Placement::Vram,
            state: BufferState::Allocated,
            fill: 0,
            span: Span::default(),
        };
        let mut seen: Vec<Name> = Vec::new();
        let lost = self.lost.len();
        self.block(|parser| {
            let field = parser.name("a field of a buffer")?;
            let first = seen.iter().find(|first| **first == field).map(|first| first.span);
            parser.twice("field", &field, first)?;
            if !BUFFER_FIELDS.contains(&field.as_str()) {
                let problem =
                    Problem::new(field.span, format!("unknown field `{field}` of a buffer"));
                return parser.fail(problem.suggest(
                    field.as_str(),
                    BUFFER_FIELDS,
                    "fields of a buffer",
                ));
            }
            parser.expect(Kind::Equal, "`=`")?;
            match field.as_str() {
                "exporter" => exporter = Some(parser.name("the name of an exporter")?),
                "pages" => buffer.pages = parser.small("the size in pages", 1, BUFFER_PAGES_MAX)?,
                "placement" => buffer.placement = parser.placement()?,
                "fill" => buffer.fill = parser.small("a byte", 0, u8::MAX)?,
                _ => {
                    let from_word = BufferState::from_word;
                    buffer.state = parser.choice("a state", BufferState::WORDS, from_word)?;
                }
            }
            seen.push(field);
            Ok(())
        })?;
        buffer.span = self.since(start);
        match exporter {
            Some(exporter) => buffer.exporter = exporter,
            None if self.lost.len() > lost => {}
            None => {
                let problem = Problem::new(
                    buffer.name.span,
                    format!("buffer `{}` has no exporter", buffer.name),
                );
                self.sink.report(problem.help("add `exporter = NAME`"));
            }
        }
        Ok(buffer)
    }

    /// `Pn ROLE [NAME] { STATEMENTS }`
    fn process(&mut self, processes: &mut Vec<Process>) -> Result<()> {
        let start = self.at;
        let (index, span) = self.process_number()?;
        let expected = processes.last().map_or(0, |last| last.index + 1);
        if index != expected {
            let message = format!("`P{index}` stands where `P{expected}` is expected");
            let help = "processes are numbered from P0 in the order they stand";
            self.sink.report(Problem::new(span, message).help(help));
        }
        let Ok(role) = self.role() else {
            // The statements are worth reading all the same.
            while !matches!(self.peek(), None | Some(Kind::Newline | Kind::Open(Bracket::Curly))) {
                self.advance();
            }
            return self.statements(index).map(drop);
        };
        let head = self.since(start);
        let statements = self.statements(index)?;
        if processes.len() < PROCESSES_MAX {
            processes.push(Process { index, role, statements, span: head });
        }
        Ok(())
    }

    /// `{ STATEMENTS }` of a process
    fn statements(&mut self, index: usize) -> Result<Vec<Statement>> {
        let mut statements = Vec::new();
        self.block(|parser| {
            let statement = parser.statement()?;
            if statements.len() == STATEMENTS_MAX {
                let message = format!("`P{index}` has more than {STATEMENTS_MAX} statements");
                parser.sink.report(Problem::new(statement.span, message));
            }
            if statements.len() <= STATEMENTS_MAX {
                statements.push(statement);
            }
            Ok(())
        })?;
        Ok(statements)
    }

    /// `Pn`
    pub(super) fn process_number(&mut self) -> Result<(usize, Span)> {
        let span = self.here();
        let word = self.word();
        if !is_process(word) {
            return self.expected("a process such as `P0`");
        }
        self.advance();
        match word[1..].parse() {
            Ok(index) if index < PROCESSES_MAX => Ok((index, span)),
            _ => {
                let last = PROCESSES_MAX - 1;
                let message = format!("`{word}`: a test has at most {PROCESSES_MAX} processes");
                self.fail(
                    Problem::new(span, message).help(format!("the last possible one is `P{last}`")),
                )
            }
        }
    }

    fn role(&mut self) -> Result<Role> {
        let role =
            match self.choice("a role", ROLES, |word| ROLES.iter().position(|r| *r == word))? {
                0 => Role::Application,
                1 => Role::Exporter(self.name("the name of the exporter")?),
                2 if self.eat_word("importer") => {
                    Role::Device(Some(self.name("the name of the importer")?))
                }
                2 => Role::Device(None),
                3 => Role::Child,
                4 => Role::Thread(self.thread_of()?),
                _ => Role::Hardware,
            };
        Ok(role)
    }

    /// `of Pn`, behind `thread`
    fn thread_of(&mut self) -> Result<ProcessRef> {
        if !self.eat_word("of") {
            return self.expected("`of` and the process whose thread it is");
        }
        self.process_ref()
    }
}
