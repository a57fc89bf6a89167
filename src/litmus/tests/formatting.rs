//! The formatter on text as people write it.

use super::super::format;
use super::{FULL, parse};

#[track_caller]
fn check(input: &str, expected: &str) {
    let formatted = format("t.litmus", input).unwrap();
    assert_eq!(formatted, expected, "\n--- got ---\n{formatted}");
    assert_eq!(format("t.litmus", &formatted).unwrap(), formatted, "not idempotent");
}

#[test]
fn statements_stand_on_lines_of_their_own() {
    check(
        "DMABUF  t\nP0 application { mmap  v=A shared rw pages = 1 ;store v [0]=1;; m : move A->system }",
        "DMABUF t\nP0 application {\n    mmap v = A shared rw pages=1\n    store v[0] = 1\n    \
         m: move A -> system\n}\n",
    );
}

#[test]
fn header_blocks_stay_on_one_line_while_they_fit() {
    check(
        "host {pte-special=yes;pages=1;}exporter e{}\nexporter f {\n\n  a = [ x,y  z ]\n\n\n  b = 1 }\n",
        "host { pte-special = yes; pages = 1 }\nexporter e {}\nexporter f {\n    a = [x, y z]\n\n    b = 1\n}\n",
    );
    let long = "a-rule-with-a-long-name = a-value-with-a-long-name";
    check(
        &format!("exporter e {{ {long}; {long} }}"),
        &format!("exporter e {{\n    {long}\n    {long}\n}}\n"),
    );
}

#[test]
fn comments_stay_where_they_stand() {
    check(
        "# first\nDMABUF t   # name\n(* What?   \n   Row: A1 *)\n\n\n\nP0 application {   # who\n\
         close A;# why\n   # own line\n\n\n (* a *) close (* b *) B   (* c *)\n\n}# end\n",
        "# first\nDMABUF t  # name\n(* What?\n   Row: A1 *)\n\nP0 application {  # who\n    \
         close A  # why\n    # own line\n\n    (* a *) close (* b *) B (* c *)\n}  # end\n",
    );
}

#[test]
fn vary_keeps_its_breaks() {
    check(
        "P0 application {\nvary order (early=>{close A;close B},late=>{})\nvary(\n a =>{ close A\n },\n\
         b=> # nothing\n {},\n)\nvary(a=>{\nclose A\n},b=>{})\n}",
        "P0 application {\n    vary order(early => { close A; close B }, late => {})\n    vary(\n        \
         a => {\n            close A\n        },\n        b =>  # nothing\n        {},\n    )\n    \
         vary(a => {\n        close A\n    }, b => {})\n}\n",
    );
}

#[test]
fn conditions_keep_their_breaks() {
    check(
        "~ exists( ~ hazard any/\\P0 : r0=1\n\\/ ( warning ) \n\n\\/ ~~ true )count(a,b)",
        "~exists (~hazard any /\\ P0:r0 = 1\n    \\/ (warning)\n    \\/ ~~true) count (a, b)\n",
    );
}

#[test]
fn the_empty_file_and_an_open_bracket() {
    check("", "");
    check(" \n\n ", "");
    let list = format("t.litmus", "P0 x {\n").unwrap_err();
    assert_eq!(list[0].to_string(), "t.litmus:1:6: this `{` is never closed");
}

#[test]
fn formatting_the_full_example_keeps_its_tree() {
    let formatted = format("t.litmus", FULL).unwrap();
    assert_eq!(format("t.litmus", &formatted).unwrap(), formatted);
    assert_eq!(parse(&formatted).unwrap(), parse(FULL).unwrap());
    assert_eq!(formatted.matches('#').count(), FULL.matches('#').count());
}
