//! Random litmus files from a small grammar: every text is valid, few make sense.
//!
//! Include it with `#[path = "common/random_litmus.rs"] mod random_litmus;`.

use std::fmt::Write as _;

use driftheap::model::{
    EXPORTER_RULES, ExporterRules, ExporterStep, HOST_RULES, IMPORTER_RULES, RuleSpec, RuleValues,
};

/// A stream of choices; zeros, that is first alternatives, when it has run out.
#[derive(Debug)]
pub(crate) struct Choices<'a> {
    rest: std::slice::Iter<'a, u16>,
}

impl<'a> Choices<'a> {
    pub(crate) fn new(choices: &'a [u16]) -> Self {
        Self { rest: choices.iter() }
    }

    pub(crate) fn below(&mut self, bound: usize) -> usize {
        usize::from(self.rest.next().copied().unwrap_or(0)) % bound
    }

    pub(crate) fn one_in(&mut self, bound: usize) -> bool {
        self.below(bound) == bound - 1
    }

    pub(crate) fn of<'t, T>(&mut self, all: &'t [T]) -> &'t T {
        &all[self.below(all.len())]
    }
}

/// A list of exporter steps: the default with some faults, or anything at all.
pub(crate) fn steps(choices: &mut Choices<'_>, default: &[ExporterStep]) -> Vec<ExporterStep> {
    let mut steps = default.to_vec();
    for _ in 0..choices.below(4) {
        let (at, other) = (choices.below(steps.len().max(1)), choices.below(steps.len().max(1)));
        match choices.below(3) {
            0 if steps.len() > 1 => drop(steps.remove(at)),
            1 if steps.len() > 1 => steps.swap(at, other),
            _ => {
                let all: Vec<_> =
                    ExporterStep::WORDS.iter().filter_map(|w| ExporterStep::from_word(w)).collect();
                steps.insert(at, *choices.of(&all));
            }
        }
    }
    steps
}

fn words(steps: &[ExporterStep]) -> String {
    steps.iter().map(|step| step.word()).collect::<Vec<_>>().join(" ")
}

/// Some rules of a block, as fields.
fn fields(choices: &mut Choices<'_>, table: &[RuleSpec], broken: usize) -> String {
    let defaults = ExporterRules::default();
    let mut out = String::new();
    for rule in table {
        if !choices.one_in(broken) {
            continue;
        }
        let value = match rule.values {
            RuleValues::Words(allowed) => (*choices.of(allowed)).to_owned(),
            RuleValues::Steps(_) => {
                let default = match rule.name {
                    "move" => &defaults.move_steps,
                    "purge" => &defaults.purge_steps,
                    _ => &defaults.revoke_steps,
                };
                format!("[{}]", words(&steps(choices, default)))
            }
        };
        let _infallible = write!(out, "{} = {value}; ", rule.name);
    }
    out
}

/// Names that statements may use.
#[derive(Debug, Default)]
struct Names {
    next: usize,
    pins: Vec<String>,
    caches: Vec<String>,
    attachments: Vec<String>,
    tables: Vec<String>,
    fences: Vec<String>,
    labels: Vec<String>,
}

impl Names {
    fn fresh(&mut self, letter: char) -> String {
        self.next += 1;
        format!("{letter}{}", self.next)
    }

    /// Something a device can reach memory through.
    fn target(&self, choices: &mut Choices<'_>) -> Option<String> {
        let all = [&self.tables[..], &self.pins, &self.caches].concat();
        (!all.is_empty()).then(|| format!("{}[0]", choices.of(&all)))
    }
}

/// How wild a random test is.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Shape {
    /// One rule in so many differs from the default.
    pub(crate) broken: usize,
    /// The most statements of a process.
    pub(crate) statements: usize,
}

/// The text of a random litmus test.
pub(crate) fn text(choices: &mut Choices<'_>, shape: Shape) -> String {
    let mut out = String::from("DMABUF random\n");
    let mut add = |line: String| out.push_str(&(line + "\n"));
    add(format!("host {{ {}}}", fields(choices, HOST_RULES, shape.broken)));
    add(format!("exporter e {{ {}}}", fields(choices, EXPORTER_RULES, shape.broken)));
    add(format!("exporter f {{ {}}}", fields(choices, EXPORTER_RULES, shape.broken)));
    add(format!("importer i {{ {}}}", fields(choices, IMPORTER_RULES, shape.broken)));
    let scarce = choices.one_in(3).then(|| [choices.below(4), choices.below(4), choices.below(4)]);
    // What the buffers take that are there at the start: less is not a test.
    let mut taken = [0; 3];
    let pages = 1 + usize::from(choices.one_in(3));
    let state = *choices.of(&["unallocated", "unallocated", "allocated"]);
    for (buf, exporter, state) in [("A", "e", "allocated"), ("B", *choices.of(&["e", "f"]), state)]
    {
        let at = choices.below(3);
        taken[at] += if state == "allocated" { pages } else { 0 };
        let at = ["vram", "system", "cma"][at];
        let fill = choices.below(3);
        add(format!(
            "buffer {buf} {{ exporter = {exporter}; pages = {pages}; placement = {at}; state = {state}; \
             fill = {fill} }}"
        ));
    }
    if let Some(frames) = scarce {
        let [vram, system, cma] = [0, 1, 2].map(|at| frames[at].max(taken[at]));
        add(format!("memory {{ vram = {vram}; system = {system}; cma = {cma} }}"));
    }
    let mut names = Names::default();
    let forks = choices.one_in(3);
    let mut mappings = Vec::new();
    let mut bodies = vec![application(choices, shape, pages, &mut names, &mut mappings)];
    if forks {
        let middle = bodies[0].len() / 2 + 1;
        bodies[0].insert(middle, "fork P1".to_owned());
        let child = (0..2).filter_map(|_| child(choices, &mappings)).collect();
        bodies.push(child);
    }
    let mut roles = vec!["application"];
    roles.extend(forks.then_some("child"));
    for _ in 0..1 + choices.below(2) {
        let role = *choices.of(&[
            "exporter e",
            "device importer i",
            "exporter e",
            "application",
            "device importer i",
            "hardware",
            "thread of P0",
        ]);
        roles.push(role);
        bodies.push(match role {
            "exporter e" => exporter(choices, &mut names),
            "device importer i" => device(choices, shape, &mut names),
            "hardware" => vec!["evict_cache A[0]".to_owned()],
            "thread of P0" => thread(choices, shape, pages, &mut names, &mappings),
            _ => application(choices, shape, pages, &mut names, &mut Vec::new()),
        });
    }
    if choices.one_in(5) {
        lock(choices, &mut bodies);
    }
    for (index, (role, body)) in roles.iter().zip(&bodies).enumerate() {
        add(format!("P{index} {role} {{\n    {}\n}}", body.join("\n    ")));
    }
    add("exists (hazard any \\/ A[0] = 1)".to_owned());
    out
}

/// Locks around some statements: the buffers', and that of the first process's memory.
fn lock(choices: &mut Choices<'_>, bodies: &mut [Vec<String>]) {
    let access = *choices.of(&["read", "write"]);
    let first = *choices.of(&["A", "A, B", "B, A", "A, B ticket", "B, A ticket"]);
    let second = *choices.of(&["", "A, B ticket", "B, A ticket", "B ticket", "B, A"]);
    let (one, both) = (choices.below(bodies.len()), choices.below(bodies.len()));
    let resv = |names: &str| {
        (format!("lock {names}"), format!("unlock {}", names.trim_end_matches(" ticket")))
    };
    let mut locks = vec![
        (one, resv(first)),
        (both, (format!("mmap_lock P0 {access}"), "mmap_unlock P0".to_owned())),
    ];
    // Of two processes: nobody takes a reservation beside those that he has under a ticket.
    if bodies.len() > 1 && !second.is_empty() {
        locks.push(((one + 1) % bodies.len(), resv(second)));
    }
    for (at, (take, give)) in locks {
        let body = &mut bodies[at];
        let first = choices.below(body.len() + 1);
        let last = first + choices.below(body.len() + 1 - first);
        body.insert(last, give);
        body.insert(first, take);
    }
}

fn application(
    choices: &mut Choices<'_>,
    shape: Shape,
    pages: usize,
    names: &mut Names,
    mappings: &mut Vec<String>,
) -> Vec<String> {
    let mut body = Vec::new();
    let v = names.fresh('v');
    let via = *choices.of(&["", "", "", " importer i", " node"]);
    let sharing = choices.of(&["shared", "shared", "private"]);
    let protection = choices.of(&["rw", "rw", "r"]);
    body.push(if choices.one_in(6) {
        format!("mmap {v} = anon private rw pages={pages}")
    } else {
        let buf = choices.of(&["A", "A", "A", "B"]);
        format!("mmap {v} = {buf} {sharing} {protection}{via}")
    });
    mappings.push(v);
    for _ in 0..1 + choices.below(shape.statements) {
        let v = choices.of(mappings).clone();
        let page = choices.below(pages);
        let at = format!("{v}[{page}]");
        let flags = choices.of(&["write longterm", "write", "", "longterm", "write force", "get"]);
        let statement = match choices.below(14) {
            13 => format!("mprotect {v} {}", choices.of(&["r", "rw"])),
            0 | 1 => format!("store {at} = {}", 1 + choices.below(4)),
            2 | 3 => format!("load {} = {at}", names.fresh('r')),
            4 | 5 => {
                let pin = names.fresh('p');
                names.pins.push(pin.clone());
                format!("gup {pin} = {at} {flags}")
            }
            6 => {
                let cache = names.fresh('q');
                names.caches.push(cache.clone());
                format!("follow_pfn {cache} = {at}{}", choices.of(&["", "", " notifier"]))
            }
            7 => {
                let vector = names.fresh('f');
                names.caches.push(vector.clone());
                format!("frame_vector {vector} = {at}, {v}[0] {flags}")
            }
            8 if pages > 1 => format!("munmap {at}"),
            8 => format!("munmap {v}"),
            9 => {
                let to = names.fresh('w');
                mappings.push(to.clone());
                format!("mremap {to} = {v}")
            }
            10 if !names.pins.is_empty() => format!("unpin {}", choices.of(&names.pins)),
            11 => {
                let via = choices.of(&["", " importer i"]);
                let phase = choices.of(&["start", "end"]);
                format!("sync {phase} A {}{via}", choices.of(&["read", "write", "rw"]))
            }
            _ => {
                let label = names.fresh('l');
                names.labels.push(label.clone());
                format!("{label}: close {}", choices.of(&["A", "B"]))
            }
        };
        body.push(statement);
    }
    body
}

/// Another thread of the first process: what that maps is its own, too.
fn thread(
    choices: &mut Choices<'_>,
    shape: Shape,
    pages: usize,
    names: &mut Names,
    mappings: &[String],
) -> Vec<String> {
    let mut body = Vec::new();
    for _ in 0..1 + choices.below(shape.statements) {
        let v = choices.of(mappings).clone();
        let at = format!("{v}[{}]", choices.below(pages));
        body.push(match choices.below(8) {
            7 => format!("mprotect {v} r"),
            0 | 1 => format!("store {at} = {}", 1 + choices.below(4)),
            2..=4 => format!("load {} = {at}", names.fresh('r')),
            5 => format!("munmap {v}"),
            _ => format!("munmap {at}"),
        });
    }
    body
}

fn child(choices: &mut Choices<'_>, mappings: &[String]) -> Option<String> {
    // Only the first is mapped for sure before the fork.
    let v = mappings.first()?;
    Some(match choices.below(3) {
        0 => format!("store {v}[0] = 5"),
        1 => format!("load r{} = {v}[0]", 900 + choices.below(9)),
        _ => format!("munmap {v}"),
    })
}

fn exporter(choices: &mut Choices<'_>, names: &mut Names) -> Vec<String> {
    let mut body = Vec::new();
    for _ in 0..1 + choices.below(3) {
        let buf = choices.of(&["A", "A", "B"]);
        let label = names.fresh('l');
        let op = match choices.below(6) {
            0 | 1 => format!("move {buf} -> {}", choices.of(&["system", "vram", "cma"])),
            2 => format!("purge {buf}"),
            3 => format!("revoke {buf}"),
            4 => format!("alloc {buf}"),
            _ => "alloc B".to_owned(),
        };
        body.push(format!("{label}: {op}"));
        names.labels.push(label);
    }
    body
}

fn device(choices: &mut Choices<'_>, shape: Shape, names: &mut Names) -> Vec<String> {
    let mut body = Vec::new();
    if choices.below(4) > 0 {
        let (t, s) = (names.fresh('t'), names.fresh('s'));
        let buf = choices.of(&["A", "A", "A", "B"]);
        body.push(format!("attach {t} = {buf} {}", choices.of(&["dynamic", "static"])));
        body.push(format!("map {s} = {t}"));
        names.attachments.push(t);
        names.tables.push(s);
    }
    for _ in 0..1 + choices.below(shape.statements) {
        let kind = choices.below(11);
        let statement = match (kind, names.target(choices)) {
            (0 | 1, Some(at)) => format!("dma_write {at} = {}", 5 + choices.below(3)),
            (2 | 3, Some(at)) => format!("dma_read {} = {at}", names.fresh('r')),
            (4, Some(at)) => format!("prefetch {at}"),
            (5 | 6, _) if !names.tables.is_empty() => {
                let f = names.fresh('g');
                let usage = choices.of(&["write", "read", "kernel", "bookkeep"]);
                let submit = format!("submit {f} = {} {usage}", choices.of(&names.tables));
                names.fences.push(f);
                submit
            }
            (7, _) if !names.fences.is_empty() => format!("signal {}", choices.of(&names.fences)),
            (8, _) if !names.tables.is_empty() => {
                let verb = choices.of(&["unmap", "unmap", "flush_tlb"]);
                format!("{verb} {}", choices.of(&names.tables))
            }
            (9, _) if !names.attachments.is_empty() => {
                let verb = choices.of(&["dma_buf_pin", "dma_buf_unpin", "detach"]);
                format!("{verb} {}", choices.of(&names.attachments))
            }
            (10, _) if !names.labels.is_empty() => format!("await {}", choices.of(&names.labels)),
            _ => "sync start A rw".to_owned(),
        };
        body.push(statement);
    }
    body
}
