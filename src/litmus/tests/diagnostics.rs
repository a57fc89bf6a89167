//! What each mistake is answered with: where it is, what it is, which word was meant.

use super::super::diag::{DIAGNOSTICS_MAX, Diagnostic};
use super::super::{FILE_BYTES_MAX, NESTING_MAX, STATEMENTS_MAX, VARIANTS_MAX};
use super::{FULL, parse};

/// One line a diagnostic: `LINE:COLUMN MESSAGE`, and `-> WORD` where a word is suggested.
fn diagnose(text: &str) -> Vec<String> {
    let line = |d: &Diagnostic| {
        let help = d.help().unwrap_or_default();
        let meant = help.strip_prefix("did you mean `").and_then(|rest| rest.split('`').next());
        let meant = meant.map_or_else(String::new, |word| format!(" -> {word}"));
        format!("{}:{} {}{meant}", d.line(), d.column(), d.message())
    };
    parse(text).map_or_else(|list| list.iter().map(line).collect(), |_| Vec::new())
}

#[track_caller]
fn check(text: &str, expected: &[&str]) {
    let shown: String = text.chars().take(1000).collect();
    assert_eq!(diagnose(text), expected, "in\n{shown}");
}

/// Statements of P0, the first of which is on line 6.
#[track_caller]
fn check_statements(statements: &str, expected: &[&str]) {
    let text = format!(
        "DMABUF t\nexporter e {{ mmap = pfnmap }}\nimporter cam {{}}\n\
         buffer A {{ exporter = e; pages = 2 }}\nP0 application {{\n{statements}\n}}\nexists (true)\n"
    );
    check(&text, expected);
}

/// Header blocks from line 2 on.
#[track_caller]
fn check_headers(headers: &str, expected: &[&str]) {
    check(&format!("DMABUF t\n{headers}\nP0 application {{}}\nexists (true)\n"), expected);
}

/// A condition on line 8, over a register, two labels, a mapping and a buffer of one page.
#[track_caller]
fn check_condition(condition: &str, expected: &[&str]) {
    let text = format!(
        "DMABUF t\nexporter e {{}}\nbuffer A {{ exporter = e }}\nP0 application {{\n\
         map_it: mmap v = A shared r\n load r0 = v[0]; gup pin = v[0]\n}}\n{condition}\n"
    );
    check(&text, expected);
}

#[test]
fn a_thread_is_one_of_an_application_and_shares_its_mappings() {
    let text = "DMABUF t
exporter e {}
buffer A { exporter = e }
P0 application { mmap v = A shared rw; store w[0] = 1 }
P1 thread of P0 { store v[0] = 1; mmap w = A shared rw; mmap v = A shared r }
P2 thread { load r = v[0] }
P3 thread of P1 {}
P4 thread of P9 {}
P5 application { load r = v[0] }
exists (P1:r = 1)";
    check(
        text,
        &[
            "5:62 mapping `v` is defined twice",
            "6:11 expected `of` and the process whose thread it is, found `{`",
            "7:1 `P3` stands where `P2` is expected",
            "7:14 `P1` is not an application but `thread of P0`",
            "8:14 `P9`: a test has at most 6 processes",
            "9:1 `P5` stands where `P4` is expected",
            "9:27 `v` is a mapping of `P0`, not a mapping here",
            "10:12 `P1` has no register `r`",
        ],
    );
}

#[test]
fn three_mistakes_are_three_diagnostics_that_show_their_lines() {
    let text = FULL
        .replace("move-notify = handled", "move-notfy = handled")
        .replace("unpin p\n", "unpin pp\n")
        .replace("hazard any)", "hazard all)");
    let list = parse(&text).unwrap_err();
    let shown: Vec<String> = list.iter().map(|diagnostic| diagnostic.render(false)).collect();
    let expected = [
        "error: unknown rule `move-notfy` of an importer
  --> t.litmus:14:34
   |
14 | importer cam { attach = dynamic; move-notfy = handled }
   |                                  ^^^^^^^^^^ did you mean `move-notify`?
   |
   = help: rules of an importer: attach, move-notify",
        "error: pin `pp` is not defined
  --> t.litmus:30:11
   |
30 |     unpin pp
   |           ^^
   |
   = help: pins here: p",
        "error: expected a hazard, found `all`
  --> t.litmus:64:59
   |
64 |     m = EBUSY /\\ A[1] != 0 \\/ p = ok \\/ warning \\/ hazard all)
   |                                                           ^^^",
    ];
    assert_eq!(shown.len(), 3, "{shown:?}");
    for (shown, expected) in shown.iter().zip(expected) {
        assert!(shown.starts_with(expected), "{shown}");
    }
}

#[test]
fn a_statement_that_is_not_one() {
    check_statements(
        "stroe v[0] = 1\n: x\n9\ngup v\nclose A now",
        &[
            "6:1 unknown statement `stroe` -> store",
            "7:1 expected a statement, found `:`",
            "8:1 expected a statement, found `9`",
            "9:6 expected `=`, found the end of the line",
            "10:9 unexpected `now`: the line should end before it",
        ],
    );
    check_statements(
        "move A system\nmove A -> vrma\nsync begin A rw\nattach t = A dinamic",
        &[
            "6:8 expected `->`, found `system`",
            "7:11 expected a placement, found `vrma` -> vram",
            "8:6 expected `start` or `end`, found `begin`",
            "9:14 unknown option `dinamic` -> dynamic",
        ],
    );
    check_statements(
        "submit f = s reed\nframe_vector f = v[0],\nmmap true = A shared r",
        &[
            "6:14 expected a fence usage, found `reed` -> read",
            "7:23 expected a page of a mapping, found the end of the line",
            "8:6 `true` is a word of the language and can't be a mapping",
        ],
    );
    let nine = ["v[0]"; 9].join(", ");
    check_statements(
        &format!("mmap v = A shared rw\nframe_vector f = {nine}"),
        &["7:18 a frame vector has at most 8 pages"],
    );
}

#[test]
fn options_and_numbers() {
    check_statements(
        "mmap v = A shared rw page=2\nmmap w = A shared rw pages=2 pages=1",
        &["6:22 unknown option `page` -> pages", "7:30 `pages` is given twice"],
    );
    check_statements(
        "mmap x = anon shared rw\nmmap y = anon private w",
        &[
            "6:15 anonymous memory is mapped `private`",
            "7:23 anonymous memory is mapped `r` or `rw`",
        ],
    );
    check_statements(
        "mmap v = A shared rw\ngup p = v[0] wirte\ngup q = v[0] write write",
        &["7:14 unknown option `wirte` -> write", "8:20 `write` is given twice"],
    );
    check_statements(
        "mmap v = A shared rw\ngup p = v[0] longterm get",
        &["7:23 `longterm` is for a pin: `get` takes a reference alone"],
    );
    check_statements(
        "mmap v = A shared rw\nstore v[0] = 256\nstore v[16] = 0\nload r = v",
        &[
            "7:14 256 is out of range: a byte is 0 to 255",
            "8:9 16 is out of range: a page is 0 to 15",
            "9:11 expected `[` and a page, found the end of the line",
        ],
    );
}

#[test]
fn names_that_are_not_defined() {
    check_statements(
        "mmap half = A shared rw\nload r = hafl[0]\nunpin p\nclose B\nawait m\nfork P1",
        &[
            "7:10 mapping `hafl` is not defined -> half",
            "8:7 pin `p` is not defined",
            "9:7 buffer `B` is not defined",
            "10:7 label `m` is not defined",
            "11:6 there is no process `P1`",
        ],
    );
    check_statements(
        "mmap v = A shared rw importer cma\nsync start A rw importer cat",
        &["6:31 importer `cma` is not defined -> cam", "7:26 importer `cat` is not defined -> cam"],
    );
    check_statements(
        "load r0 = v[0]\nawait m\nmmap v = A shared rw\nm: purge A",
        &["6:11 `v` is not mapped yet", "7:7 `m` is defined only later in this process"],
    );
    check_headers(
        "exporter heap {}\nbuffer A { exporter = haep }\nP0 exporter heat {}\nP1 device importer x {}",
        &[
            "3:23 exporter `haep` is not defined -> heap",
            "4:13 exporter `heat` is not defined -> heap",
            "5:20 importer `x` is not defined",
            "6:1 `P0` stands where `P2` is expected",
        ],
    );
}

#[test]
fn names_of_the_wrong_kind_and_pages_that_do_not_exist() {
    check_statements(
        "attach t = A\ndma_write t[0] = 1\nmap s = t\ndma_write s[2] = 1\ndetach s\nload r = t[0]",
        &[
            "7:11 `t` is an attachment, not a DMA target",
            "9:11 `s` has no page 2",
            "10:8 `s` is an sg_table, not an attachment",
            "11:10 `t` is an attachment, not a mapping",
        ],
    );
    check_statements(
        "mmap v = A shared rw offset=1\nmremap w = v\nload r = w[1]\ngup p = w[0]\nprefetch p[1]",
        &["8:10 `w` has no page 1", "10:10 `p` has no page 1"],
    );
    check_statements(
        "mmap v = anon private rw\nload r = v[1]\nevict_cache A[2]",
        &["7:10 `v` has no page 1", "8:13 `A` has no page 2"],
    );
}

#[test]
fn names_are_defined_once() {
    check_statements(
        "m: purge A\nm: purge A\nattach m = A\nP0: purge A",
        &[
            "7:1 label `m` is defined twice",
            "8:8 label `m` is defined twice",
            "9:1 `P0` names a process and can't be a label",
        ],
    );
    check_statements(
        "mmap v = A shared r\nmmap v = A shared r\nload r = v[0]\nload r = v[0]",
        &["7:6 mapping `v` is defined twice"],
    );
    check_headers(
        "exporter e {}\nexporter e {}\nimporter e {}\nbuffer e { exporter = e }\nbuffer e { exporter = e }",
        &["3:10 exporter `e` is defined twice", "6:8 buffer `e` is defined twice"],
    );
}

#[test]
fn children_see_the_mappings_of_their_forker_up_to_the_fork() {
    let text = "DMABUF t\nexporter e {}\nbuffer A { exporter = e }\n\
        P0 application { mmap v = A shared rw; fork P1; mmap w = A shared r }\n\
        P1 child { load r = v[0]; load s = w[0]; fork P2 }\n\
        P2 child { load r = v[0]; load r = vw[0]; mmap v = A shared r }\n\
        P3 application { load r = v[0] }\nexists (true)\n";
    check(
        text,
        &[
            "5:36 `w` is not mapped yet",
            "6:21 `v` is not mapped yet",
            "6:36 mapping `vw` is not defined",
            "6:48 mapping `v` is defined twice",
            "7:27 `v` is a mapping of `P0`, not a mapping here",
        ],
    );
}

#[test]
fn forks_make_a_tree() {
    let text = "DMABUF t\nP0 application { fork P1; fork P0 }\nP1 child { fork P2 }\nP2 child {}\n\
        P3 child { fork P4 }\nP4 child { fork P3; fork P1 }\nP5 child {}\nexists (true)\n";
    check(
        text,
        &[
            "2:32 `P0` is not a child but `application`",
            "5:1 `P3` is forked by its own child",
            "6:1 `P4` is forked by its own child",
            "6:26 `P1` is forked twice",
            "7:1 `P5` is never forked",
        ],
    );
}

#[test]
fn rules_and_their_values() {
    check_headers(
        "host { pte-specail = yes }\nhost {}",
        &["2:8 unknown rule `pte-specail` of the host -> pte-special", "3:1 a second `host` block"],
    );
    check_headers(
        "exporter e { mmap = pfnmp; recycle = 3; move = lock; move = [lock zapp]; prefault 3 }",
        &[
            "2:21 `pfnmp` is not a value of `mmap` -> pfnmap",
            "2:38 expected a value of `recycle` (pool, allocator), found `3`",
            "2:48 expected a list of steps such as `[lock notify]`, found `lock`",
            "2:67 `zapp` is not a step of `move` -> zap",
            "2:83 expected `=`, found `3`",
        ],
    );
    check_headers("exporter e { mmap = shmem; mmap = pfnmap }", &["2:28 rule `mmap` is set twice"]);
}

#[test]
fn buffers_and_memory() {
    check_headers(
        "exporter e {}\nbuffer A { exporter = e; pages = 17; placement = varm; stat = x; fill = 256 }\nbuffer B {}",
        &[
            "3:34 17 is out of range: the size in pages is 1 to 16",
            "3:50 expected a placement, found `varm` -> vram",
            "3:56 unknown field `stat` of a buffer -> state",
            "3:73 256 is out of range: a byte is 0 to 255",
            "4:8 buffer `B` has no exporter",
        ],
    );
    check_headers(
        "memory { vram = 65; cma = 1; cma = 2; ram = 1 }\nbufer D {}",
        &[
            "2:17 65 is out of range: the number of frames is 0 to 64",
            "2:30 placement `cma` is set twice",
            "2:39 expected a placement, found `ram` -> vram",
            "3:1 expected a block, found `bufer` -> buffer",
        ],
    );
}

#[test]
fn processes() {
    let text = "DMABUF t\nP0 aplication { x }\nP1 hardware {}\nP3 hardware {}\nP7 device {}\nexists (true)";
    check(
        text,
        &[
            "2:4 expected a role, found `aplication` -> application",
            "2:17 unknown statement `x`",
            "3:1 `P1` stands where `P0` is expected",
            "4:1 `P3` stands where `P2` is expected",
            "5:1 `P7`: a test has at most 6 processes",
        ],
    );
    check("DMABUF t\nexists (true)", &["2:14 the test has no process"]);
    check("DMABUF t\nP0 hardware {}", &["2:15 the test has no condition"]);
    let many = "purge A\n".repeat(STATEMENTS_MAX + 1);
    let line = STATEMENTS_MAX + 6;
    check_statements(&many, &[&format!("{line}:1 `P0` has more than 64 statements")]);
}

#[test]
fn conditions() {
    check_condition("exists (hazzard any)", &["8:9 `hazzard` is not a condition -> hazard"]);
    check_condition(
        "exists (hazard stale-raed)",
        &["8:16 expected a hazard, found `stale-raed` -> stale-read"],
    );
    check_condition("exists (stale-read)", &["8:9 `stale-read` is not a condition"]);
    check_condition("exists (true && false)", &["8:14 unexpected `&&`"]);
    check_condition("exists (true false)", &["8:14 expected `/\\`, `\\/` or `)`, found `false`"]);
    check_condition("exists true", &["8:8 expected `(`, found `true`"]);
    check_condition("exists (true)\nforall (true)", &["9:1 a second condition"]);
    check_condition(
        "exists (P0:r0 = ok)",
        &["8:17 expected a byte, an errno or a signal, found `ok`"],
    );
    check_condition("exists (pin = 1)", &["8:15 a statement ends `ok`, with an errno or a signal"]);
    check_condition(
        "exists (pin = EFALT)",
        &["8:15 expected `ok`, an errno or a signal, found `EFALT` -> EFAULT"],
    );
    check_condition(
        "exists (P0:r1 = 1 \\/ P1:r0 = 1 \\/ v = ok \\/ r0 = ok \\/ B[0] = 1 \\/ A[1] = 0 \\/ map_ti = ok)",
        &[
            "8:12 `P0` has no register `r1`",
            "8:22 there is no process `P1`",
            "8:35 `v` is a mapping of `P0` and has no result",
            "8:45 `r0` is a register of `P0` and has no result",
            "8:56 buffer `B` is not defined",
            "8:68 `A` has no page 1",
            "8:80 label `map_ti` is not defined -> map_it",
        ],
    );
    check_condition(
        "exists (true)\ncount (tlb-flush)",
        &["9:8 expected a counter, found `tlb-flush` -> tlb-flushes"],
    );
}

#[test]
fn the_first_line() {
    check(
        "DMABUG t\nP0 hardware {}\nexists (true)",
        &["1:1 a litmus file starts with `DMABUF NAME` -> DMABUF"],
    );
    check("DMABUF\nP0 hardware {}\nexists (true)", &["1:7 the test has no name"]);
    check(
        "DMABUF my test\nP0 hardware {}\nexists (true)",
        &["1:11 unexpected `test` behind the name"],
    );
    assert_eq!(diagnose("")[0], "1:1 a litmus file starts with `DMABUF NAME`");
}

#[test]
fn brackets_and_comments() {
    check(
        "DMABUF t\nP0 application {\n close A\nP1 hardware {}\nexists (true)",
        &["2:16 this `{` is never closed", "3:8 buffer `A` is not defined"],
    );
    check(
        "DMABUF t\nP0 hardware { }}\nexists (true",
        &["2:16 this `}` closes nothing", "3:8 this `(` is never closed"],
    );
    check(
        "DMABUF t\nP0 hardware {}\n (* no end\nexists (true)",
        &["3:2 this comment is never closed"],
    );
    check_headers(
        "exporter e { prefault = vary(y, n }\nbuffer A { exporter = f }",
        &["2:29 this `(` is never closed", "3:23 exporter `f` is not defined"],
    );
}

#[test]
fn characters_and_numbers_that_are_none() {
    check_headers(
        "exporter e { mmap = 12ab; recycle = 0xg; mmpa = x }\n\
         buffer A { exporter = e; pages = 99999999999999999999 }",
        &[
            "2:21 `12ab` is not a number",
            "2:37 `0xg` is not a number",
            "2:42 unknown rule `mmpa` of an exporter -> mmap",
            "3:34 `99999999999999999999` is not a number",
        ],
    );
    check_statements(
        "@@ $ close A\nclose \"A\" \u{7}\nstroe x",
        &[
            "6:1 unexpected `@@`",
            "6:4 unexpected `$`",
            "7:7 unexpected `\"`",
            "7:9 unexpected `\"`",
            "7:11 unexpected `\\u{7}`",
            "8:1 unknown statement `stroe` -> store",
        ],
    );
}

#[test]
fn vary() {
    check_headers(
        "exporter e { prefault = vary(y, y); mmap = vary; mmap = vary(); recycle = vary(a => vary(pool, allocator)) }",
        &[
            "2:33 two alternatives are called `y`",
            "2:44 `vary` without alternatives",
            "2:57 `vary` without alternatives",
            "2:85 `vary` inside `vary` is not supported",
        ],
    );
    check_headers(
        "exporter e { prefault = vary x(y, n); recycle = vary x(pool, allocator, pool); mmap = vary x(y => shmem, q => pfnmap) }",
        &[
            "2:49 `vary x` has 3 alternatives here and 2 before",
            "2:106 this alternative of `vary x` is called `n` before",
        ],
    );
    check_headers(
        "exporter e { vary(a => b => c, , {}) }",
        &["2:26 unexpected `=>`", "2:32 nothing before this comma"],
    );
    let long = "a".repeat(90);
    check_headers(
        &format!("exporter e {{ prefault = vary({{ {long} }}, y) }}"),
        &[
            "2:30 the label of this alternative is over 80 bytes",
            "2:32 `aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa` is not a value of `prefault`",
        ],
    );
}

#[test]
fn a_mistake_of_some_variants_says_which() {
    let text = "DMABUF t\nexporter e { prefault = vary(y, q); mmap = vary(a => pfnmap, shmem) }\n\
        P0 hardware { await m }\nexists (true)";
    let list = parse(text).unwrap_err();
    assert_eq!(
        diagnose(text),
        ["2:33 `q` is not a value of `prefault`", "3:21 label `m` is not defined",]
    );
    assert_eq!(list[0].help().as_deref(), Some("possible here: y, n; in variant `q/a` (2 of 4)"));
    assert_eq!(list[1].help(), None, "a mistake of every variant names none");
}

#[test]
fn the_header_comment() {
    let file = |header: &str| {
        format!(
            "DMABUF t\n(* {header} *)\nexporter e {{ mmap = vary(pfnmap, shmem) }}\nP0 hardware {{}}\nexists (true)"
        )
    };
    check(
        &file("Result: pfnmap Nevr, x y Never, , * Never"),
        &[
            "2:19 `Nevr` is not a verdict -> Never",
            "2:25 these words are not a result",
            "2:36 a result is missing",
        ],
    );
    check(
        &file("Q\nRow: 1\nRow: 2\nReslut: x\nSource: a\n\ntext\nResult: Never\nResult: Never"),
        &[
            "4:1 a second `Row:`",
            "5:1 unknown key `Reslut:` -> Result:",
            "8:1 text behind the keys",
            "10:1 a second `Result:`",
        ],
    );
    check(
        &file("Result: pfnmap Never, pfnmp Always, * Never, pfnmap Always"),
        &[
            "2:26 `pfnmp` matches no variant -> pfnmap",
            "2:49 `pfnmap` decides nothing: earlier patterns match first",
        ],
    );
    // Of a mistake that takes the variants away, that one is told and not what follows from it.
    check(
        &file("Result: pfnmap Never, * Never").replace("vary(", "vayr("),
        &["3:21 `vayr` is not a value of `mmap`"],
    );
    check(&file("Result: pfnmap Never"), &["2:18 no result for variant `shmem`"]);
}

#[test]
fn sizes() {
    let long = format!("DMABUF t{}", " ".repeat(FILE_BYTES_MAX));
    check(&long, &["1:1 the file has 1048584 bytes; at most 1048576 are read"]);
    let fits = format!("DMABUF t\nP0 hardware {{}}\nexists (true){}", " ".repeat(FILE_BYTES_MAX));
    check(&fits[..FILE_BYTES_MAX], &[]);

    let nested = |depth: usize, open: &str, close: &str| {
        let (open, close) = (open.repeat(depth), close.repeat(depth));
        format!("DMABUF t\nP0 hardware {{}}\nexists ({open}true{close})")
    };
    check(&nested(NESTING_MAX - 1, "(", ")"), &[]);
    check(&nested(NESTING_MAX, "(", ")"), &["3:72 brackets are nested deeper than 64: `(`"]);
    check(&nested(NESTING_MAX - 1, "~", ""), &[]);
    check(&nested(NESTING_MAX, "~", ""), &["3:73 the condition is nested deeper than 64"]);
    check(&nested(100_000, "[{(~", ")}]"), &["3:93 brackets are nested deeper than 64: `[`"]);

    let vary = "vary(a => {}, b => {})".repeat(9);
    assert_eq!(
        parse(&format!("DMABUF t\nP0 hardware {{ {vary} }}\nexists (true)"))
            .unwrap()
            .variants
            .len(),
        VARIANTS_MAX
    );
    check(
        &format!("DMABUF t\nP0 hardware {{ {vary}\nvary(a, b) }}\nexists (true)"),
        &["3:1 1024 variants; a file has at most 512", "3:6 unknown statement `a`"],
    );
    let wide = "true /\\ ".repeat(5000);
    check(
        &format!("DMABUF t\nP0 hardware {{ {vary} }}\nexists ({wide} true)"),
        &["2:191 512 variants of 10118 words are too much"],
    );

    let many = parse(&format!("DMABUF t\nP0 hardware {{\n{}}}", "x\n".repeat(1000))).unwrap_err();
    assert_eq!(many.len(), DIAGNOSTICS_MAX);
    assert!(
        many[DIAGNOSTICS_MAX - 1].help().unwrap().ends_with("the file was not read any further")
    );
}

#[test]
fn a_device_attaches_through_an_importer() {
    let with = |role: &str| {
        format!(
            "DMABUF t\nexporter e {{}}\nimporter cam {{}}\nbuffer A {{ exporter = e }}\n\
             P0 {role} {{ attach t = A }}\nexists (true)\n"
        )
    };
    check(&with("device"), &["5:20 `P0` is a device without an importer, which can't attach"]);
    check(&with("device importer cam"), &[]);
}

/// In time that grows with the file, not with its square, which would be hours.
#[test]
fn a_file_full_of_mistakes_is_read_to_its_end() {
    for mistake in ["$ ", "1x ", ") "] {
        let text = mistake.repeat(FILE_BYTES_MAX / mistake.len());
        assert_eq!(diagnose(&text).len(), DIAGNOSTICS_MAX, "{mistake}");
    }
}
