//! Which file of a folder imports which, from the source text.

use std::collections::{BTreeMap, BTreeSet};

use super::{code, is_word};

/// The files of a crate's folder by name, with their text.
pub(crate) type Files = Vec<(String, String)>;

/// An import: from a file, to a file.
pub(crate) type Arrow = (String, String);

/// The module path of a file: `src/device/live/mod.rs` is `device::live`.
fn module(file: &str) -> Vec<String> {
    let path = file.trim_start_matches("src/").trim_end_matches(".rs");
    path.split('/').filter(|part| *part != "mod").map(str::to_owned).collect()
}

/// The source without comments, strings and tests.
fn shipped(text: &str) -> String {
    let code = code(text);
    let end = code.match_indices("#[cfg(test)]").map(|(at, _)| at).find(|at| {
        let next = code[*at..].lines().map(str::trim_start).find(|line| !line.starts_with('#'));
        next.is_some_and(|line| line.starts_with("mod "))
    });
    code[..end.unwrap_or(code.len())].to_owned()
}

/// The paths of a use tree: `a::{b, c::d}` is `a::b` and `a::c::d`.
fn expand(prefix: &str, tree: &str, out: &mut Vec<String>) {
    let mut depth = 0usize;
    let mut parts = vec![String::new()];
    for c in tree.chars() {
        match c {
            '{' => depth += 1,
            '}' => depth = depth.saturating_sub(1),
            _ => {}
        }
        match parts.last_mut() {
            _ if c == ',' && depth == 0 => parts.push(String::new()),
            Some(last) => last.push(c),
            None => {}
        }
    }
    for part in parts.iter().map(|part| part.trim()).filter(|part| !part.is_empty()) {
        match (part.find('{'), part.rfind('}')) {
            (Some(open), Some(close)) => {
                expand(&format!("{prefix}{}", part[..open].trim()), &part[open + 1..close], out);
            }
            _ => {
                let name = part.split(" as ").next().unwrap_or(part).trim();
                let path = format!("{prefix}{name}");
                out.push(path.trim_end_matches("::self").to_owned());
            }
        }
    }
}

/// The statements that begin with `use`, without it, and whether they are `pub`.
fn uses(code: &str) -> Vec<(bool, String)> {
    let mut found = Vec::new();
    for (at, _) in code.match_indices("use ") {
        let before = code[..at].trim_end_matches([' ', '\t']);
        let line = before.rsplit('\n').next().unwrap_or_default().trim();
        let is_public = line.starts_with("pub");
        if !(line.is_empty() || is_public) {
            continue;
        }
        let tree = code[at + 4..].split(';').next().unwrap_or_default();
        found.push((is_public, tree.to_owned()));
    }
    found
}

/// Paths in the code itself that begin with `crate::`, `super::` or `self::`.
fn paths_in(code: &str) -> Vec<String> {
    let mut found = Vec::new();
    for root in ["crate::", "super::", "self::"] {
        for (at, _) in code.match_indices(root) {
            let before = code[..at].chars().next_back();
            if before.is_some_and(|c| is_word(c) || c == ':' || c == '$') {
                continue;
            }
            let path = code[at..].split(|c: char| !is_word(c) && c != ':').next();
            // A group, or all of a module, is a use tree's.
            found.extend(path.filter(|path| !path.ends_with(':')).map(str::to_owned));
        }
    }
    found
}

/// A path from the crate's root on; none for one of another crate.
fn absolute(from: &[String], path: &str, modules: &BTreeMap<Vec<String>, &str>) -> Vec<String> {
    let mut parts: Vec<String> = path.split("::").map(|part| part.trim().to_owned()).collect();
    let mut base = from.to_vec();
    match parts.first().map(String::as_str) {
        Some("crate") => base.clear(),
        Some("self") => {}
        Some("super") => {
            while parts.first().is_some_and(|part| part == "super") {
                parts.remove(0);
                base.pop();
            }
            base.extend(parts);
            return base;
        }
        Some(first) => {
            base.push(first.to_owned());
            if !modules.contains_key(&base) {
                return Vec::new();
            }
            base.pop();
            base.extend(parts);
            return base;
        }
        None => return Vec::new(),
    }
    base.extend(parts.into_iter().skip(1));
    base
}

/// Every arrow between two of the files. What a `mod.rs` re-exports leads to where it is defined;
/// a `mod.rs` that has no function but only re-exports has no arrows of its own.
pub(crate) fn arrows(files: &Files) -> BTreeSet<Arrow> {
    let modules: BTreeMap<Vec<String>, &str> =
        files.iter().map(|(file, _)| (module(file), file.as_str())).collect();
    let mut exported: BTreeMap<Vec<String>, Vec<String>> = BTreeMap::new();
    for (file, text) in files.iter().filter(|(file, _)| file.ends_with("/mod.rs")) {
        let here = module(file);
        for (_, tree) in uses(&shipped(text)).into_iter().filter(|(is_public, _)| *is_public) {
            let mut paths = Vec::new();
            expand("", &tree, &mut paths);
            for path in paths {
                let target = absolute(&here, &path, &modules);
                if let Some(last) = target.last() {
                    exported.insert([here.as_slice(), std::slice::from_ref(last)].concat(), target);
                }
            }
        }
    }
    let mut found = BTreeSet::new();
    for (file, text) in files {
        let here = module(file);
        let text = shipped(text);
        if file.ends_with("/mod.rs") && !text.contains("fn ") {
            continue;
        }
        let mut paths = paths_in(&text);
        for (_, tree) in uses(&text) {
            expand("", &tree, &mut paths);
        }
        for path in paths {
            let mut target = absolute(&here, &path, &modules);
            // A re-export of a re-export, and no further.
            for _ in 0..2 {
                let through = (1..=target.len()).rev().find_map(|end| {
                    let whole = exported.get(&target[..end])?;
                    Some([whole.as_slice(), &target[end..]].concat())
                });
                target = through.unwrap_or(target);
            }
            let to = (1..=target.len()).rev().find_map(|end| modules.get(&target[..end]));
            if let Some(to) = to.filter(|to| **to != file) {
                found.insert((file.clone(), (*to).to_owned()));
            }
        }
    }
    found
}

/// The circles: files each of which leads to every other, at least two together.
pub(crate) fn circles(arrows: &BTreeSet<Arrow>) -> Vec<BTreeSet<String>> {
    let mut next: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for (from, to) in arrows {
        next.entry(from).or_default().push(to);
    }
    let reached = |from: &str| {
        let mut seen: BTreeSet<&str> = BTreeSet::new();
        let mut open = next.get(from).cloned().unwrap_or_default();
        while let Some(at) = open.pop() {
            if seen.insert(at) {
                open.extend(next.get(at).into_iter().flatten());
            }
        }
        seen
    };
    let all: BTreeMap<&str, BTreeSet<&str>> = next.keys().map(|at| (*at, reached(at))).collect();
    let mut found: Vec<BTreeSet<String>> = Vec::new();
    for (at, seen) in all.iter().filter(|(at, seen)| seen.contains(*at)) {
        if found.iter().any(|circle| circle.contains(*at)) {
            continue;
        }
        let back = |other: &&&str| all.get(**other).is_some_and(|seen| seen.contains(at));
        found.push(seen.iter().filter(back).map(|name| (*name).to_owned()).collect());
    }
    found
}
