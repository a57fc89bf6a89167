//! The repository's own rules: who imports whom, where unsafe code is, how long a file gets.
//!
//! Only the source text is looked at. A path that begins with `crate::` names a layer; what stands
//! in comments and strings does not.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

#[path = "layers/arrows.rs"]
mod arrows;

use arrows::{Files, arrows, circles};

/// What each layer may import. A layer that does not exist yet is allowed for.
const LAYERS: &[(&str, &[&str])] = &[
    ("units", &[]),
    ("terminal", &[]),
    ("random", &[]),
    ("uapi", &["units"]),
    ("model", &["units"]),
    ("explore", &["random"]),
    ("litmus", &["model"]),
    ("question", &["litmus", "explore", "model", "units"]),
    ("suite", &[]),
    ("sys", &["uapi", "units"]),
    ("exec", &["litmus", "question", "model", "random", "sys", "units", "uapi", "explore"]),
    ("device", &["exec", "model", "random", "sys", "terminal", "uapi", "units"]),
    ("client", &["device", "model", "sys", "uapi", "units"]),
    ("conformance", &["uapi", "sys"]),
    ("report", &["explore", "litmus", "question", "model", "suite", "terminal", "units"]),
];

/// The layers inside `src/device`, the lowest first, as files and folders in it: a layer imports
/// those above it in this list. A transport that is added is named in the last one.
const DEVICE: &[(&str, &[&str])] = &[
    (
        "buffers",
        &["id", "maps", "fence", "rules", "stats", "buffer", "tables", "trace", "core", "text"],
    ),
    ("requests", &["request", "calls", "heap", "ioctl", "path", "sync_file", "udmabuf"]),
    ("jobs", &["live"]),
    ("misuse", &["misuse"]),
    ("what transports share", &["transport", "holders", "runtime", "control", "look"]),
    (TRANSPORTS, &["cuse", "fuse", "socket", "supervisor"]),
];

/// The layer whose members don't know each other.
const TRANSPORTS: &str = "transports";

/// Files that may import each other in a circle, by how their names begin, and why.
const CIRCLES: &[(&[&str], &str)] = &[
    (
        &["src/device/supervisor/"],
        "a handler is a method of the `Supervisor`, which dispatches calls to it",
    ),
    (
        &["src/device/live/record"],
        "the recorder keeps its history in windows, and a window holds its events",
    ),
    (&["src/cli/serve"], "a kind of `serve` takes the options that all kinds share"),
    (
        &["src/cli/explain.rs", "src/cli/report.rs"],
        "a page is an explanation, and `--svg` draws one",
    ),
    (&["src/client/"], "a connection hands out buffers and devices, which talk through it"),
    (&["src/conformance/differences.rs", "src/conformance/table.rs"], "a row asks why it differs"),
    (
        &["src/conformance/exporters.rs", "src/conformance/kit.rs", "src/conformance/node.rs"],
        "the kit opens whichever source of buffers there is, and each source uses the kit",
    ),
    (
        &["src/exec/conduct.rs", "src/exec/executor.rs", "src/exec/plan.rs", "src/exec/team.rs"],
        "the executor is the door to the parts that carry a schedule out",
    ),
    (&["src/explore/bfs.rs", "src/explore/parallel.rs"], "one search, by one thread or by several"),
    (&["src/explore/parts.rs", "src/explore/store.rs"], "a stored state is made of stored parts"),
    (
        &["src/litmus/ast.rs", "src/litmus/cond.rs", "src/litmus/op.rs", "src/litmus/symbols.rs"],
        "statements and conditions are branches of one tree, and name what is in it",
    ),
    (
        &[
            "src/model/core.rs",
            "src/model/footprint.rs",
            "src/model/mmap_lock",
            "src/model/operation.rs",
            "src/model/policy.rs",
            "src/model/reach.rs",
            "src/model/state.rs",
            "src/model/world.rs",
        ],
        "a world may hold a policy, which is asked about a state of that world",
    ),
    (
        &[
            "src/model/importer_rules.rs",
            "src/model/rule.rs",
            "src/model/rules.rs",
            "src/model/terms.rs",
        ],
        "the macro that makes a table of rules knows the rule that is a list of steps",
    ),
];

/// Whether a circle is one of those.
fn has_a_reason(circle: &BTreeSet<String>) -> bool {
    let named = |file: &String, names: &[&str]| names.iter().any(|name| file.starts_with(name));
    CIRCLES.iter().any(|(names, _)| circle.iter().all(|file| named(file, names)))
}

const LINES_MAX: usize = 600;

fn files(dir: &Path, extension: &str, out: &mut Vec<PathBuf>) {
    let Ok(entries) = std::fs::read_dir(dir) else { return };
    for entry in entries.flatten() {
        let path = entry.path();
        let name = entry.file_name();
        if path.is_dir() {
            // Build products, wherever somebody has built.
            if name != "target" && !name.to_string_lossy().starts_with('.') {
                files(&path, extension, out);
            }
        } else if path.extension().is_some_and(|ext| ext == extension) {
            out.push(path);
        }
    }
}

fn under(parts: &[&str], extension: &str) -> Vec<(String, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut found = Vec::new();
    for part in parts {
        files(&root.join(part), extension, &mut found);
    }
    found.sort();
    let read = |path: PathBuf| {
        let text = std::fs::read_to_string(&path).expect("a text file");
        let name = path.strip_prefix(root).expect("below the root").display().to_string();
        (name, text)
    };
    found.into_iter().map(read).collect()
}

/// Rust source without comments, strings and character literals.
fn code(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let skip = if rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if rest.starts_with("/*") {
            rest.find("*/").map_or(rest.len(), |at| at + 2)
        } else if let Some(end) = raw_string(rest, out.chars().next_back()) {
            end
        } else if first == '"' {
            string(rest)
        } else if first == '\'' {
            character(rest).unwrap_or(0)
        } else {
            0
        };
        if skip > 0 {
            out.push(' ');
            rest = &rest[skip..];
        } else {
            out.push(first);
            rest = &rest[first.len_utf8()..];
        }
    }
    out
}

/// The length of a raw string that begins here.
fn raw_string(text: &str, before: Option<char>) -> Option<usize> {
    if before.is_some_and(|c| c.is_alphanumeric() || c == '_') {
        return None;
    }
    let body = text.strip_prefix("br").or_else(|| text.strip_prefix('r'))?;
    let hashes = body.len() - body.trim_start_matches('#').len();
    let inner = body[hashes..].strip_prefix('"')?;
    let close = format!("\"{}", "#".repeat(hashes));
    let end = inner.find(&close).map_or(inner.len(), |at| at + close.len());
    Some(text.len() - inner.len() + end)
}

fn string(text: &str) -> usize {
    let mut escaped = false;
    for (at, c) in text.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => return at + 1,
            _ => {}
        }
    }
    text.len()
}

/// The length of a character literal; none for a lifetime.
fn character(text: &str) -> Option<usize> {
    let mut chars = text.char_indices().skip(1);
    let (_, first) = chars.next()?;
    if first == '\\' {
        return text[2..].char_indices().skip(1).find(|(_, c)| *c == '\'').map(|(at, _)| at + 3);
    }
    let (at, second) = chars.next()?;
    (second == '\'').then_some(at + 1)
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// The first segments of all paths that begin with `crate::`, those of `crate::{a, b}` included.
fn imports(code: &str) -> BTreeSet<String> {
    let word = |text: &str| text.chars().take_while(|c| is_word(*c)).collect::<String>();
    let mut found = BTreeSet::new();
    for (at, _) in code.match_indices("crate::") {
        if code[..at].chars().next_back().is_some_and(|c| is_word(c) || c == '$') {
            continue;
        }
        let rest = code[at + "crate::".len()..].trim_start();
        let Some(group) = rest.strip_prefix('{') else {
            found.insert(word(rest));
            continue;
        };
        let mut depth = 0usize;
        let mut begins = true;
        for (at, c) in group.char_indices() {
            match c {
                '{' => depth += 1,
                '}' if depth == 0 => break,
                '}' => depth -= 1,
                ',' if depth == 0 => begins = true,
                c if begins && depth == 0 && is_word(c) => {
                    found.insert(word(&group[at..]));
                    begins = false;
                }
                _ => {}
            }
        }
    }
    found
}

/// Whether `word` stands in `code` as a word of its own.
fn has_word(code: &str, word: &str) -> bool {
    code.match_indices(word).any(|(at, _)| {
        let before = code[..at].chars().next_back();
        let after = code[at + word.len()..].chars().next();
        !before.is_some_and(is_word) && !after.is_some_and(is_word)
    })
}

fn layer_of(file: &str) -> &str {
    let file = file.strip_prefix("src/").unwrap_or(file);
    file.split('/').next().unwrap_or(file).trim_end_matches(".rs")
}

/// What is wrong with the imports of a file.
fn bad_imports(file: &str, text: &str) -> Vec<String> {
    let layer = layer_of(file);
    let Some((_, allowed)) = LAYERS.iter().find(|(name, _)| *name == layer) else {
        return Vec::new();
    };
    let layers: Vec<&str> = LAYERS.iter().map(|(name, _)| *name).collect();
    imports(&code(text))
        .into_iter()
        .filter(|name| layers.contains(&name.as_str()) || name == "cli")
        .filter(|name| name != layer && !allowed.contains(&name.as_str()))
        .map(|name| format!("{file}: `{layer}` must not import `{name}`"))
        .collect()
}

#[test]
fn imports_point_downward() {
    let bad: Vec<String> =
        under(&["src"], "rs").iter().flat_map(|(file, text)| bad_imports(file, text)).collect();
    assert!(bad.is_empty(), "{}", bad.join("\n"));
}

/// A file of `src/device` as [`DEVICE`] names it, and its layer.
fn part_of_device(file: &str) -> Option<(&str, usize)> {
    let name = file.strip_prefix("src/device/")?;
    let part = name.split('/').next()?.trim_end_matches(".rs");
    let layer = DEVICE.iter().position(|(_, parts)| parts.contains(&part))?;
    Some((part, layer))
}

/// What is wrong with the imports inside `src/device`.
fn bad_arrows(files: &Files) -> Vec<String> {
    let arrows = arrows(files);
    let mut bad = Vec::new();
    for (from, to) in &arrows {
        let (Some((part, layer)), Some((other, below))) =
            (part_of_device(from), part_of_device(to))
        else {
            bad.push(format!("{from} -> {to}: a file that is in no layer of DEVICE"));
            continue;
        };
        let siblings = layer == below && part != other && DEVICE[layer].0 == TRANSPORTS;
        if below > layer || siblings {
            let (layer, below) = (DEVICE[layer].0, DEVICE[below].0);
            bad.push(format!("{from} -> {to}: `{layer}` must not import `{below}`"));
        }
    }
    for circle in circles(&arrows).into_iter().filter(|circle| !has_a_reason(circle)) {
        bad.push(format!("a circle: {}", circle.into_iter().collect::<Vec<_>>().join(", ")));
    }
    bad
}

#[test]
fn inside_the_device_imports_point_downward() {
    let files = under(&["src/device"], "rs");
    let files: Files = files.into_iter().filter(|(file, _)| !file.ends_with("/tests.rs")).collect();
    let (modules, facade): (Files, Files) =
        files.iter().cloned().partition(|(file, _)| file != "src/device/mod.rs");
    for (file, _) in &modules {
        assert!(part_of_device(file).is_some(), "{file} is in no layer of DEVICE");
    }
    assert!(!code(&facade[0].1).contains("fn "), "src/device/mod.rs re-exports, no more");
    let bad = bad_arrows(&files);
    assert!(bad.is_empty(), "{}", bad.join("\n"));
}

/// Whether a file is a part of the module that another one is.
fn is_part(part: &str, whole: &str) -> bool {
    let folder = whole.strip_suffix("/mod.rs").unwrap_or(whole.trim_end_matches(".rs"));
    part.strip_prefix(folder).is_some_and(|rest| rest.starts_with('/'))
}

/// The circles between files of `src`, those of [`CIRCLES`] left out.
fn bad_circles(files: &Files) -> Vec<String> {
    // A module and its own parts are read as one: a part sees what its parent keeps private.
    let arrows =
        arrows(files).into_iter().filter(|(from, to)| !is_part(from, to) && !is_part(to, from));
    let circles = circles(&arrows.collect()).into_iter().filter(|circle| !has_a_reason(circle));
    circles.map(|circle| circle.into_iter().collect::<Vec<_>>().join(", ")).collect()
}

#[test]
fn a_circle_of_files_has_a_reason() {
    let files = under(&["src"], "rs");
    let is_test = |file: &str| file.ends_with("/tests.rs") || file.contains("/tests/");
    let files: Files = files.into_iter().filter(|(file, _)| !is_test(file)).collect();
    let bad = bad_circles(&files);
    assert!(bad.is_empty(), "{}", bad.join("\n"));
    let named = |(file, text): (&str, &str)| (file.to_owned(), text.to_owned());
    let pair = [("src/uapi/a.rs", "use super::b::B;"), ("src/uapi/b.rs", "use crate::uapi::a::A;")];
    assert_eq!(bad_circles(&pair.map(named).to_vec()), ["src/uapi/a.rs, src/uapi/b.rs"]);
    let part =
        [("src/uapi/mod.rs", "fn f() { b::g() }\nuse b::B;"), ("src/uapi/b.rs", "use super::f;")];
    assert_eq!(bad_circles(&part.map(named).to_vec()), [""; 0]);
}

#[test]
fn an_upward_arrow_inside_the_device_is_found() {
    let check = |files: &[(&str, &str)]| {
        let facade = ("mod.rs", "pub use fence::Fence;\npub use live::Engine;");
        let files = files.iter().chain([&facade]);
        let named = files.map(|(file, text)| (format!("src/device/{file}"), (*text).to_owned()));
        bad_arrows(&named.collect())
    };
    let engine = ("live/engine.rs", "use crate::device::Fence;");
    let live = ("live/mod.rs", "pub mod engine;\npub use engine::Engine;");
    assert_eq!(check(&[("fence.rs", "struct Fence;"), engine, live]), [""; 0]);
    // Upward, by each way to write it; the circle that comes of it is another fault.
    for text in [
        "use super::live::Engine;",
        "use super::Engine;",
        "use crate::device::{live::{self, engine::Engine}};",
        "fn f() { super::live::engine::g() }",
    ] {
        let bad = check(&[("fence.rs", text), engine, live]);
        assert!(bad[0].contains("`buffers` must not import `jobs`"), "{bad:?}");
    }
    let upward = check(&[("fence.rs", "use super::control::Verb;"), ("control.rs", "")]);
    assert_eq!(upward.len(), 1, "{upward:?}");
    let fuse = ("fuse/mod.rs", "use super::cuse::lock;\nfn f() {}");
    assert_eq!(check(&[fuse, ("cuse/mod.rs", "fn lock() {}")]).len(), 1);
    let test = "struct Fence;\n#[cfg(test)]\nmod tests {\n use super::live::Engine;\n}";
    assert_eq!(check(&[("fence.rs", test), engine, live]), [""; 0]);
    let pair = [("live/a.rs", "use super::b::B;"), ("live/b.rs", "use super::a::A;")];
    assert!(check(&pair)[0].starts_with("a circle: src/device/live/a.rs"));
    let pair = [("supervisor/a.rs", "use super::b::B;"), ("supervisor/b.rs", "use super::a::A;")];
    assert_eq!(check(&pair), [""; 0]);
    assert_eq!(check(&[("new.rs", "use super::fence::F;"), ("fence.rs", "")]).len(), 1);
}

#[test]
fn every_module_of_the_library_is_a_layer() {
    let text = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/src/lib.rs"));
    let text = text.expect("src/lib.rs");
    for line in code(&text).lines() {
        let Some(name) = line.trim().strip_prefix("pub mod ") else { continue };
        let name = name.trim_end_matches(';');
        assert!(LAYERS.iter().any(|(layer, _)| *layer == name), "`{name}` is in no layer");
    }
}

#[test]
fn unsafe_code_is_in_sys_alone() {
    for (file, text) in under(&["src"], "rs") {
        let code = code(&text);
        let allowed = layer_of(&file) == "sys";
        assert!(allowed || !has_word(&code, "unsafe"), "{file}: unsafe code outside src/sys");
    }
    for root in ["src/model/mod.rs", "src/explore/mod.rs", "src/report/mod.rs"] {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(root);
        let text = std::fs::read_to_string(path).expect("a module");
        assert!(code(&text).contains("#![forbid(unsafe_code)]"), "{root}: no forbid(unsafe_code)");
    }
}

#[test]
fn the_pure_layers_see_no_clock_no_thread_and_no_file() {
    for (file, text) in under(&["src/model", "src/report"], "rs") {
        let code = code(&text);
        for module in ["fs", "io", "net", "process", "thread", "time", "env", "os"] {
            assert!(!code.contains(&format!("std::{module}")), "{file}: std::{module}");
        }
    }
}

#[test]
fn files_stay_readable() {
    let mut long = Vec::new();
    for (file, text) in under(&["src", "tests", "tools"], "rs") {
        let lines = text.lines().count();
        if lines > LINES_MAX {
            long.push(format!("{file}: {lines} lines"));
        }
        assert!(!text.contains('\r'), "{file}: a carriage return");
        assert!(text.ends_with('\n') && !text.ends_with("\n\n"), "{file}: one newline at the end");
        let loose = text.lines().position(|line| line != line.trim_end());
        // Where a snapshot or a test text wants a blank there, it can be written as an escape.
        assert_eq!(loose, None, "{file}: a line (from 0) ends with a blank");
    }
    assert!(long.is_empty(), "more than {LINES_MAX} lines:\n{}", long.join("\n"));
}

#[test]
fn nothing_is_left_for_later_and_nothing_names_a_workplace() {
    // Written so that this file does not find itself.
    let unwanted =
        [concat!("TO", "DO"), concat!("FIX", "ME"), concat!("XX", "X:"), concat!("/wo", "rk/")];
    let homes = [concat!("/ho", "me/"), concat!("/ro", "ot/")];
    for extension in ["rs", "md", "toml", "litmus", "sh"] {
        for (file, text) in under(&["src", "tests", "tools", ".ci", "README.md"], extension) {
            for word in unwanted.iter().chain(&homes) {
                assert!(!text.contains(word), "{file}: `{word}`");
            }
        }
    }
}

#[test]
fn the_checks_can_fail() {
    let check = |file: &str, text: &str| bad_imports(file, text).len();
    assert_eq!(check("src/model/x.rs", "use crate::units::BufId;"), 0);
    assert_eq!(check("src/model/x.rs", "use crate::litmus::ast;"), 1);
    assert_eq!(check("src/explore/x.rs", "fn f(_: crate::model::State) {}"), 1);
    assert_eq!(check("src/report/x.rs", "use crate::{exec, litmus::{ast, cond}, sys::fd};"), 2);
    assert_eq!(check("src/sys/x.rs", "use crate::model::World;"), 1);
    assert_eq!(check("src/units.rs", "// use crate::model;\nconst S: &str = \"crate::model\";"), 0);
    assert_eq!(
        check("src/units.rs", "const S: &str = r#\"\"crate::model\"#; use crate::model;"),
        1
    );
    assert_eq!(check("src/units.rs", "const C: char = '\"'; use crate::model; // \""), 1);
    assert_eq!(check("src/units.rs", "fn f<'a>(x: &'a u8) { crate::model::f('\\'', x) }"), 1);
    assert!(has_word(&code("unsafe { x }"), "unsafe"));
    assert!(!has_word(&code("deny(unsafe_code) // unsafe"), "unsafe"));
}
