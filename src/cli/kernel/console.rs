//! What the guest's kernel printed, and about which variant.

/// At most so many lines of it are shown.
const LINES_MAX: usize = 30;

/// What the guest writes to its kernel's log as a variant begins.
pub(super) fn mark(name: &str) -> String {
    format!("driftheap: asks {name}")
}

/// What was printed during a variant.
pub(super) fn during(console: &str, name: &str) -> String {
    let mark = mark(name);
    let lines = console.lines().skip_while(|line| !line.trim_end().ends_with(&mark)).skip(1);
    let until = lines.take_while(|line| !line.contains("driftheap: asks "));
    let lines: Vec<&str> = until.take(LINES_MAX).collect();
    lines.join("\n")
}

/// What was printed during a variant before the guest died; the end of it all, if that is not known.
pub(super) fn last_words(console: &str, name: &str) -> String {
    let words = during(console, name);
    if !words.is_empty() {
        return words;
    }
    let lines: Vec<&str> = console.lines().collect();
    let from = lines.len().saturating_sub(LINES_MAX);
    lines[from..].join("\n")
}

/// The kernel's own report of its end, without the lines that only a machine reads.
pub(super) fn splat(console: &str) -> Option<String> {
    let lines: Vec<&str> = console.lines().collect();
    let from = lines.iter().position(|line| line.contains("kernel BUG at"))?;
    let wanted = |line: &&&str| {
        ["kernel BUG at", "Oops:", "CPU:", "RIP:", "Call Trace", "Kernel panic"]
            .iter()
            .any(|word| line.contains(word))
            || line.contains("+0x")
    };
    let picked: Vec<&str> = lines[from..].iter().filter(wanted).take(24).copied().collect();
    Some(picked.join("\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONSOLE: &str = "[ 1.0] booted\n[ 2.0] driftheap: asks a/x\n[ 2.1] WARNING: one\n\
        [ 3.0] driftheap: asks a/xy\n[ 3.1] kernel BUG at mm/memory.c:2470!\n[ 3.2] Code: 00\n\
        [ 3.3]  do_fault+0x3d5/0x600\n";

    #[test]
    fn a_variant_has_its_own_lines() {
        assert_eq!(during(CONSOLE, "a/x"), "[ 2.1] WARNING: one");
        assert_eq!(during(CONSOLE, "b"), "");
        assert!(last_words(CONSOLE, "a/xy").starts_with("[ 3.1]"));
        assert!(last_words(CONSOLE, "b").starts_with("[ 1.0]"));
    }

    #[test]
    fn a_splat_has_what_a_human_reads() {
        let splat = splat(CONSOLE).unwrap_or_default();
        assert_eq!(splat, "[ 3.1] kernel BUG at mm/memory.c:2470!\n[ 3.3]  do_fault+0x3d5/0x600");
    }
}
