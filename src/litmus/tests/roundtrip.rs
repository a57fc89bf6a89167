//! Generated trees survive printing, parsing and formatting; nothing panics on any text.

use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use proptest::sample::select;

use super::super::ast::{
    AttachMode, Buffer, BufferState, Count, Exporter, FenceUsage, Frames, GupFlags, Importer,
    LockAccess, Name, Op, PageRef, Placement, Process, ProcessRef, Protection, Role, Rule,
    RuleValue, Sharing, Statement, SyncAccess, SyncPhase, Variant, Verdict,
};
use super::super::cond::{
    Atom, AtomKind, Cond, Condition, Counter, Failure, HazardKind, Quantifier, RegisterValue,
    Relation, StatementResult,
};
use super::super::format;
use super::super::rules::{BlockKind, RuleTable, RuleValues};
use super::super::span::Span;
use super::{FULL, Table, parse};

/// A fixed frame that defines something of every kind, for the generated statements to use.
const BUFFERS: &[&str] = &["A", "B-2"];
const MAPPINGS: &[&str] = &["v", "half"];
const GLOBALS: &[(&str, &str)] = &[
    ("p", "pin"),
    ("q", "cache"),
    ("f", "vector"),
    ("t", "attachment"),
    ("s", "table"),
    ("j", "fence"),
];
const PAGES: u8 = 16;

fn name(text: &str) -> Name {
    Name::new(text)
}

fn place(name_text: &str, page: u8) -> PageRef {
    PageRef { name: name(name_text), page, span: Span::default() }
}

/// The statements that define what the others use, in process 0.
fn preamble() -> Vec<Statement> {
    let op = |op| Statement { label: None, op, span: Span::default() };
    let flags = GupFlags::default();
    let mmap = |mapping: &str| Op::Mmap {
        mapping: name(mapping),
        buffer: name("A"),
        sharing: Sharing::Shared,
        protection: Protection::ReadWrite,
        importer: None,
        node: false,
        pages: None,
        offset: None,
    };
    let mut list = vec![
        op(mmap("v")),
        op(mmap("half")),
        op(Op::Gup { pin: name("p"), at: place("v", 0), flags }),
        op(Op::FollowPfn { cache: name("q"), at: place("v", 0), notifier: false }),
        op(Op::FrameVector { vector: name("f"), at: vec![place("v", 0), place("v", 1)], flags }),
        op(Op::Attach { attachment: name("t"), buffer: name("A"), mode: None }),
        op(Op::Map { table: name("s"), attachment: name("t") }),
        op(Op::Submit { fence: name("j"), table: name("s"), usage: FenceUsage::Write }),
        op(Op::Load { register: name("r0"), from: place("v", 0) }),
        op(Op::Fork { child: ProcessRef { index: 1, span: Span::default() } }),
    ];
    list[0].label = Some(name("first"));
    list
}

fn process() -> ProcessRef {
    ProcessRef { index: 0, span: Span::default() }
}

fn word<T: Copy + std::fmt::Debug + 'static>(all: &'static [T]) -> impl Strategy<Value = T> {
    select(all)
}

fn buffer() -> impl Strategy<Value = Name> {
    select(BUFFERS).prop_map(name)
}

/// Some, in either order.
fn buffers() -> impl Strategy<Value = Vec<Name>> {
    (any::<bool>(), 1..=BUFFERS.len()).prop_map(|(turned, count)| {
        let mut all: Vec<Name> = BUFFERS.iter().map(|text| name(text)).collect();
        if turned {
            all.reverse();
        }
        all.truncate(count);
        all
    })
}

fn mapping() -> impl Strategy<Value = Name> {
    select(MAPPINGS).prop_map(name)
}

fn at() -> impl Strategy<Value = PageRef> {
    (select(MAPPINGS), 0..PAGES).prop_map(|(mapping, page)| place(mapping, page))
}

fn target() -> impl Strategy<Value = PageRef> {
    prop_oneof![
        select(&["p", "q"][..]).prop_map(|target| place(target, 0)),
        (0..2_u8).prop_map(|page| place("f", page)),
        (0..PAGES).prop_map(|page| place("s", page)),
    ]
}

fn flags() -> impl Strategy<Value = GupFlags> {
    any::<(bool, bool, bool, bool)>().prop_map(|(write, force, longterm, get)| GupFlags {
        write,
        force,
        longterm,
        get: get && !longterm,
    })
}

fn importer() -> impl Strategy<Value = Option<Name>> {
    option::of(Just(name("cam")))
}

fn pages() -> impl Strategy<Value = Option<u8>> {
    option::of(1..=PAGES)
}

/// New names are made unique afterwards, by [`rename`].
fn new() -> impl Strategy<Value = Name> {
    select(&["x", "a-b", "_y9", "exists", "P", "move"][..]).prop_map(name)
}

fn cpu_op() -> impl Strategy<Value = Op> {
    let mmap = (new(), buffer(), word(Sharing::ALL), word(Protection::ALL), importer(), pages());
    prop_oneof![
        (mmap, option::of(0..PAGES)).prop_map(
            |((mapping, buffer, sharing, protection, importer, pages), offset)| Op::Mmap {
                mapping,
                buffer,
                sharing,
                protection,
                node: importer.is_none() && offset == Some(0),
                importer,
                pages,
                offset
            }
        ),
        (new(), select(&[Protection::Read, Protection::ReadWrite][..]), pages())
            .prop_map(|(mapping, protection, pages)| Op::MmapAnon { mapping, protection, pages }),
        mapping().prop_map(|mapping| Op::Munmap { mapping }),
        at().prop_map(|at| Op::MunmapPage { at }),
        (new(), mapping()).prop_map(|(new, old)| Op::Mremap { new, old }),
        (at(), any::<u8>()).prop_map(|(to, value)| Op::Store { to, value }),
        (new(), at()).prop_map(|(register, from)| Op::Load { register, from }),
        (new(), at(), flags()).prop_map(|(pin, at, flags)| Op::Gup { pin, at, flags }),
        Just(Op::Unpin { pin: name("p") }),
        (new(), at(), any::<bool>()).prop_map(|(cache, at, notifier)| Op::FollowPfn {
            cache,
            at,
            notifier
        }),
        (new(), vec(at(), 1..=8), flags()).prop_map(|(vector, at, flags)| Op::FrameVector {
            vector,
            at,
            flags
        }),
        Just(Op::Await { label: name("first") }),
        (buffer(), 0..PAGES)
            .prop_map(|(buffer, page)| Op::EvictCache { at: place(buffer.as_str(), page) }),
        (buffers(), any::<bool>()).prop_map(|(buffers, ticket)| Op::Lock { buffers, ticket }),
        buffers().prop_map(|buffers| Op::Unlock { buffers }),
        word(LockAccess::ALL).prop_map(|access| Op::MmapLock { process: process(), access }),
        Just(Op::MmapUnlock { process: process() }),
        select(vec![Protection::Read, Protection::ReadWrite])
            .prop_map(|protection| Op::Mprotect { mapping: name("v"), protection }),
        Just(Op::FlushTlb { table: name("s") }),
    ]
}

fn device_op() -> impl Strategy<Value = Op> {
    let (t, s) = (|| name("t"), || name("s"));
    prop_oneof![
        (new(), buffer(), option::of(word(AttachMode::ALL)))
            .prop_map(|(attachment, buffer, mode)| Op::Attach { attachment, buffer, mode }),
        (new(), mapping())
            .prop_map(|(attachment, mapping)| Op::AttachDmabufOf { attachment, mapping }),
        Just(Op::Detach { attachment: t() }),
        new().prop_map(move |table| Op::Map { table, attachment: t() }),
        Just(Op::Unmap { table: s() }),
        (new(), word(FenceUsage::ALL)).prop_map(move |(fence, usage)| Op::Submit {
            fence,
            table: s(),
            usage
        }),
        Just(Op::Signal { fence: name("j") }),
        (new(), target()).prop_map(|(register, from)| Op::DmaRead { register, from }),
        (target(), any::<u8>()).prop_map(|(to, value)| Op::DmaWrite { to, value }),
        target().prop_map(|at| Op::Prefetch { at }),
        Just(Op::DmaBufPin { attachment: t() }),
        Just(Op::DmaBufUnpin { attachment: t() }),
        (word(SyncPhase::ALL), buffer(), word(SyncAccess::ALL), importer()).prop_map(
            |(phase, buffer, access, importer)| Op::Sync { phase, buffer, access, importer }
        ),
        (buffer(), word(Placement::ALL)).prop_map(|(buffer, to)| Op::Move { buffer, to }),
        buffer().prop_map(|buffer| Op::Purge { buffer }),
        buffer().prop_map(|buffer| Op::Revoke { buffer }),
        buffer().prop_map(|buffer| Op::Alloc { buffer }),
        buffer().prop_map(|buffer| Op::Close { buffer }),
    ]
}

fn statement() -> impl Strategy<Value = Statement> {
    (option::of(new()), prop_oneof![cpu_op(), device_op()]).prop_map(|(label, op)| Statement {
        label,
        op,
        span: Span::default(),
    })
}

/// Gives every new name a number, so that each is defined once.
fn rename(statement: &mut Statement, next: &mut usize) {
    let mut unique = |name: &mut Name| {
        *next += 1;
        name.text = format!("{}-{next}", name.text);
    };
    if let Some(label) = &mut statement.label {
        unique(label);
    }
    if let Op::Mmap { mapping: new, .. }
    | Op::MmapAnon { mapping: new, .. }
    | Op::Mremap { new, .. }
    | Op::Load { register: new, .. }
    | Op::Gup { pin: new, .. }
    | Op::FollowPfn { cache: new, .. }
    | Op::FrameVector { vector: new, .. }
    | Op::Attach { attachment: new, .. }
    | Op::AttachDmabufOf { attachment: new, .. }
    | Op::Map { table: new, .. }
    | Op::Submit { fence: new, .. }
    | Op::DmaRead { register: new, .. } = &mut statement.op
    {
        unique(new);
    }
}

fn value(values: RuleValues) -> BoxedStrategy<RuleValue> {
    match values {
        RuleValues::Words(words) => select(words).prop_map(|w| RuleValue::Word(name(w))).boxed(),
        RuleValues::Steps(words) => {
            vec(select(words).prop_map(name), 0..9).prop_map(RuleValue::Steps).boxed()
        }
    }
}

/// Any choice of the rules of a block.
fn rules(kind: BlockKind) -> impl Strategy<Value = Vec<Rule>> {
    let each: Vec<_> = Table
        .rules(kind)
        .iter()
        .map(|spec| {
            let rule = |value| Rule { name: name(spec.name), value, span: Span::default() };
            option::of(value(spec.values).prop_map(rule))
        })
        .collect();
    each.prop_map(|rules| rules.into_iter().flatten().collect())
}

fn relation() -> impl Strategy<Value = Relation> {
    word(Relation::ALL)
}

fn failure() -> impl Strategy<Value = Failure> {
    word(Failure::ALL)
}

fn atom() -> impl Strategy<Value = Cond> {
    let results: Vec<&str> = GLOBALS.iter().map(|(name, _)| *name).chain(["first"]).collect();
    prop_oneof![
        Just(AtomKind::AnyHazard),
        word(HazardKind::ALL).prop_map(AtomKind::Hazard),
        Just(AtomKind::Warning),
        (relation(), any::<u8>()).prop_map(|(relation, value)| AtomKind::Register {
            process: 0,
            register: name("r0"),
            relation,
            value: RegisterValue::Number(value)
        }),
        (relation(), failure()).prop_map(|(relation, failure)| AtomKind::Register {
            process: 0,
            register: name("r0"),
            relation,
            value: RegisterValue::Failure(failure)
        }),
        (select(results), relation(), option::of(failure())).prop_map(|(n, relation, failure)| {
            let outcome = failure.map_or(StatementResult::Ok, StatementResult::Failure);
            AtomKind::Result { name: name(n), relation, outcome }
        }),
        (buffer(), 0..PAGES, relation(), any::<u8>()).prop_map(
            |(buffer, page, relation, value)| {
                AtomKind::Content { buffer, page, relation, value }
            }
        ),
    ]
    .prop_map(|kind| Cond::Atom(Atom { kind, span: Span::default() }))
}

fn cond() -> impl Strategy<Value = Cond> {
    let leaf = prop_oneof![1 => Just(Cond::True), 1 => Just(Cond::False), 6 => atom()];
    leaf.prop_recursive(6, 40, 4, |inner| {
        prop_oneof![
            inner.clone().prop_map(|c| Cond::Not(Box::new(c))),
            vec(inner.clone(), 2..4).prop_map(Cond::And),
            vec(inner, 2..4).prop_map(Cond::Or),
        ]
    })
}

fn a_buffer(text: &'static str) -> impl Strategy<Value = Buffer> {
    (word(Placement::ALL), word(BufferState::ALL), any::<u8>()).prop_map(
        move |(placement, state, fill)| Buffer {
            name: name(text),
            exporter: name("heap"),
            pages: PAGES,
            placement,
            state,
            fill,
            span: Span::default(),
        },
    )
}

fn variant() -> impl Strategy<Value = Variant> {
    let drivers = (rules(BlockKind::Host), rules(BlockKind::Exporter), rules(BlockKind::Importer));
    let memory = option::of(0..=64_u8);
    let buffers = (a_buffer("A"), a_buffer("B-2"));
    let roles = select(vec![
        Role::Application,
        Role::Exporter(name("heap")),
        Role::Device(Some(name("cam"))),
        Role::Device(None),
        Role::Thread(ProcessRef { index: 0, span: Span::default() }),
        Role::Hardware,
    ]);
    let processes = (vec(statement(), 0..20), roles, vec(device_op(), 0..4));
    let end =
        (word(Quantifier::ALL), cond(), vec((word(Counter::ALL), option::of(any::<u8>())), 0..3));
    let expected = option::of(word(Verdict::ALL));
    (drivers, memory, buffers, processes, end, expected).prop_map(
        |(
            (host, exporter, importer),
            memory,
            (a, b),
            (statements, role, device),
            end,
            expected,
        )| {
            let span = Span::default();
            let device: Vec<Statement> =
                device.into_iter().map(|op| Statement { label: None, op, span }).collect();
            // The device sees no mappings, and without a driver it attaches to nothing.
            let attaches = role != Role::Device(None);
            let device = device.into_iter().filter(|s| {
                let sees = matches!(s.op, Op::AttachDmabufOf { .. });
                !sees && (attaches || !matches!(s.op, Op::Attach { .. }))
            });
            let mut lists = [statements, device.collect()];
            let mut next = 0;
            lists.iter_mut().flatten().for_each(|statement| rename(statement, &mut next));
            let [statements, device] = lists;
            let statements = preamble().into_iter().chain(statements).collect();
            let process = |index, role, statements| Process { index, role, statements, span };
            let (quantifier, body, counts) = end;
            Variant {
                test: name("generated"),
                name: "-".to_owned(),
                expected,
                host,
                exporters: vec![Exporter { name: name("heap"), rules: exporter, span }],
                importers: vec![Importer { name: name("cam"), rules: importer, span }],
                memory: memory
                    .map(|count| Frames { placement: Placement::Cma, count, span })
                    .into_iter()
                    .collect(),
                buffers: vec![a, b],
                processes: vec![
                    process(0, Role::Application, statements),
                    process(1, Role::Child, Vec::new()),
                    process(2, role, device),
                ],
                condition: Condition { quantifier, body, span },
                counts: counts
                    .into_iter()
                    .map(|(counter, expected)| Count { counter, expected })
                    .collect(),
            }
        },
    )
}

/// Wraps statements in `vary`s: alternately the whole statement and its last word.
fn with_vary(text: &str) -> String {
    let mut out = String::new();
    let mut count = 0;
    for line in text.lines() {
        let indented = line.starts_with("    ") && !line.contains('=');
        if indented && count < 8 {
            let statement = line.trim();
            let (head, last) = statement.rsplit_once(' ').unwrap_or(("", statement));
            out.push_str(&match count % 4 {
                0 => format!(
                    "    vary(yes => {{ {statement} }}, no => {{ {statement} # same\n }})\n"
                ),
                1 => format!("    {head} vary (\n a=>{last}\n)\n"),
                2 => format!("    vary pair(x => {{ {statement} }}, y => {{\n{statement}; }})\n"),
                _ => format!("    {head} vary pair ({last}, {last})  # again\n"),
            });
            count += 1;
        } else {
            out.push_str(line);
            out.push('\n');
        }
    }
    out
}

fn without_name(mut variant: Variant) -> Variant {
    "-".clone_into(&mut variant.name);
    variant
}

proptest! {
    #[test]
    fn a_tree_survives_its_text(variant in variant()) {
        let text = variant.to_string();
        let test = parse(&text).map_err(|list| TestCaseError::fail(list[0].render(false)))?;
        prop_assert_eq!(&test.variants[..], &[variant][..], "{}", text);
        let formatted = format("t", &text).map_err(|l| TestCaseError::fail(l[0].to_string()))?;
        prop_assert_eq!(formatted, text, "trees are printed in the formatter's layout");
    }

    #[test]
    fn formatting_keeps_the_tree_and_is_idempotent(variant in variant()) {
        let text = with_vary(&variant.to_string());
        let test = parse(&text).map_err(|list| TestCaseError::fail(list[0].render(false)))?;
        let formatted = format("t", &text).map_err(|l| TestCaseError::fail(l[0].to_string()))?;
        let again = format("t", &formatted).map_err(|l| TestCaseError::fail(l[0].to_string()))?;
        prop_assert_eq!(&again, &formatted);
        let reparsed =
            parse(&formatted).map_err(|list| TestCaseError::fail(list[0].render(false)))?;
        prop_assert_eq!(&reparsed, &test, "{}", formatted);
        for found in test.variants {
            prop_assert_eq!(&without_name(found), &variant, "{}", text);
        }
    }

    #[test]
    fn no_text_panics(text in any::<String>()) {
        survive(&text);
    }

    #[test]
    fn no_sequence_of_words_panics(words in vec(select(words()), 0..60)) {
        survive(&format!("DMABUF t\n{}", words.join(" ")));
        survive(&words.concat());
    }

    #[test]
    fn no_mutation_panics(edits in vec((any::<prop::sample::Index>(), 0..4_u8, select(words())), 1..6)) {
        let mut text = FULL.to_owned();
        for (place, kind, word) in edits {
            let at = text.char_indices().nth(place.index(text.chars().count())).map_or(0, |(i, _)| i);
            match kind {
                0 => text.insert_str(at, word),
                1 => drop(text.remove(at)),
                2 => text.truncate(at + text[at..].chars().next().map_or(0, char::len_utf8)),
                _ => {
                    let tail = text.split_off(at);
                    let line = tail.lines().next().unwrap_or_default().to_owned();
                    text.push_str(&line);
                    text.push_str(&tail);
                }
            }
            if text.is_empty() {
                text.push('x');
            }
        }
        survive(&text);
    }
}

/// Everything that is ever done with a text; whatever formats stays as it is, and keeps its tree.
fn survive(text: &str) {
    let parsed = parse(text);
    if let Err(list) = &parsed {
        assert!(!list.is_empty(), "a failure without a reason");
        for diagnostic in list {
            assert!(diagnostic.line() >= 1 && diagnostic.column() >= 1);
            assert!(diagnostic.render(false).starts_with("error: "));
            assert!(diagnostic.render(true).contains("error"));
        }
    }
    if let Ok(formatted) = format("t", text) {
        let again = format("t", &formatted);
        assert_eq!(again.as_deref().ok(), Some(&*formatted), "from {text:?}");
        if let Ok(test) = parsed {
            assert_eq!(parse(&formatted).ok(), Some(test), "from {text:?}");
        }
    }
}

/// Pieces to make bad files of.
fn words() -> Vec<&'static str> {
    vec![
        "DMABUF",
        "t",
        "(*",
        "*)",
        "(",
        ")",
        "[",
        "]",
        "{",
        "}",
        ",",
        ";",
        ":",
        "=",
        "->",
        "=>",
        "/\\",
        "\\/",
        "~",
        "*",
        "!=",
        "\n",
        "#",
        "vary",
        "vary(",
        "vary x(",
        "P0",
        "P1 device",
        "application",
        "child {",
        "exporter heap",
        "buffer A {",
        "host {",
        "exists (",
        "hazard",
        "any",
        "gup",
        "v",
        "v[0]",
        "0",
        "0x",
        "256",
        "7",
        "write",
        "mmap",
        "pages",
        "pages=",
        "fork",
        "r0",
        "-",
        "a-b",
        "ç",
        "\r",
        "\t",
        "Result: Never",
        "Row: ",
        "count (",
        "A",
        "é*)",
    ]
}
