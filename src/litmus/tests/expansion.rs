//! `vary`, the header comment, and what they say together.

use super::super::ast::Verdict;
use super::{FULL, parse};

/// A file around one exporter field and one statement list.
fn file(result: &str, field: &str, statements: &str) -> String {
    format!(
        "DMABUF t\n(* Why?\n   {result} *)\nexporter e {{ {field} }}\nbuffer A {{ exporter = e }}\n\
         P0 application {{\n{statements}\n}}\nexists (true)\n"
    )
}

/// The names of the variants with what is expected of each.
fn variants(text: &str) -> Vec<String> {
    let test = match parse(text) {
        Ok(test) => test,
        Err(list) => panic!("{}", list[0].render(false)),
    };
    let expected = |v: Option<Verdict>| v.map_or("-", Verdict::word);
    test.variants.iter().map(|v| format!("{} {}", v.name, expected(v.expected))).collect()
}

#[test]
fn the_full_example_parses_and_its_header_is_read() {
    let test = parse(FULL).unwrap_or_else(|list| panic!("{}", list[0].render(false)));
    assert_eq!(test.name.as_str(), "full-example");
    assert_eq!(test.question, "Does everything parse?");
    assert_eq!(test.row.as_deref(), Some("A1"));
    assert_eq!(
        test.sources,
        ["[PATCH 1/2] dma-buf: Require VM_PFNMAP vma for mmap, cover letter", "CVE-2024-44068"]
    );
    assert_eq!(
        variants(FULL),
        [
            "pfnmap/early/none Never",
            "pfnmap/early/x Always",
            "pfnmap/late/none Never",
            "pfnmap/late/x Always",
            "mixedmap-insert-page/early/none Sometimes",
            "mixedmap-insert-page/early/x Sometimes",
            "mixedmap-insert-page/late/none Sometimes",
            "mixedmap-insert-page/late/x Sometimes",
        ]
    );
}

#[test]
fn variants_have_the_names_and_results_that_the_file_gives_them() {
    let mmap = "mmap = vary(pfnmap, shmem)";
    let cases: &[(String, &[&str])] = &[
        (file("", "", ""), &["- -"]),
        (file("Result: Never", "", ""), &["- Never"]),
        (file("Result: - Always", "", ""), &["- Always"]),
        (file("", mmap, ""), &["pfnmap -", "shmem -"]),
        (file("Result: Sometimes", mmap, ""), &["pfnmap Sometimes", "shmem Sometimes"]),
        (file("Result: shmem Never, * Always", mmap, ""), &["pfnmap Always", "shmem Never"]),
        (file("", "mmap = vary(a => pfnmap, b => shmem)", ""), &["a -", "b -"]),
        (
            file("", "vary(mmap = shmem; prefault = y, none => )", ""),
            &["mmap-shmem-prefault-y -", "none -"],
        ),
        (file("", "vary(2 => { mmap = shmem\n prefault = y }, {})", ""), &["2 -", "none -"]),
        (
            file(
                "",
                "vary both(x => mmap = shmem, y => {})",
                "vary both({ close A }, { purge A },)",
            ),
            &["x -", "y -"],
        ),
        (
            file("", "prefault = vary(n, y)", "vary({\n\n close A\n }, {})"),
            &["n/close-A -", "n/none -", "y/close-A -", "y/none -"],
        ),
    ];
    for (text, expected) in cases {
        assert_eq!(variants(text), *expected, "{text}");
    }
}

#[test]
fn vary_may_add_a_process_or_change_the_condition() {
    let text = "DMABUF t\nP0 vary(application, hardware) {}\n\
                vary({ P1 device {} }, {})\nvary(some => exists, no => ~exists) (vary(true, false))\n";
    let test = parse(text).unwrap();
    assert_eq!(test.variants.len(), 16);
    assert_eq!(test.variants[0].processes.len(), 2);
    assert_eq!(test.variants[15].processes.len(), 1);
    assert_eq!(test.variants[15].condition.to_string(), "~exists (false)");
}
