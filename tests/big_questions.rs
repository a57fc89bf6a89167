//! Questions too big for the time or the memory there is: what was seen is said.

#[path = "common/lab.rs"]
mod lab;

use std::io::Write;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use driftheap::litmus::ast::Verdict;
use driftheap::question::verdict::{First, Search, judge};

/// Two writers of eight pages, a device and a move. Whoever asks what pages hold in the end makes it
/// millions of states.
fn question(order: &str, asked: &str) -> String {
    let stores = |first: usize| -> String {
        (0..8).map(|page| format!("    store v[{page}] = {}\n", first + page)).collect()
    };
    let writes: String = (0..8).map(|page| format!("    dma_write s[{page}] = 7\n")).collect();
    format!(
        "DMABUF big\nexporter heap {{ mmap = mixedmap-insert-page{order} }}\nimporter gpu {{}}\n\
         buffer A {{ exporter = heap; pages = 8 }}\n\
         P0 application {{\n    mmap v = A shared rw\n{}}}\n\
         P1 application {{\n    mmap v = A shared rw\n{}}}\n\
         P2 device importer gpu {{\n    attach t = A dynamic\n    map s = t\n    submit f = s write\n\
         {writes}    signal f\n}}\n\
         P3 exporter heap {{\n    move A -> system\n}}\n\
         exists ({asked})\n",
        stores(1),
        stores(11),
    )
}

/// The question that is too big, whatever is done about it.
fn too_big() -> String {
    let asked: Vec<String> = (0..8).map(|page| format!("A[{page}] = 7")).collect();
    question("", &asked.join(" /\\ "))
}

fn check(question: &str, args: &[&str]) -> Child {
    let all = ["check", "--replay", "off", "-"].iter().chain(args);
    ask(question, &all.copied().collect::<Vec<_>>())
}

fn ask(question: &str, args: &[&str]) -> Child {
    let mut child = Command::new(env!("CARGO_BIN_EXE_driftheap"))
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("driftheap starts");
    let mut stdin = child.stdin.take().expect("a pipe");
    // One that objects to an option ends before it reads.
    let _told = stdin.write_all(question.as_bytes());
    child
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

/// Whether SIGINT is held back in a process.
fn holds_interrupts_back(pid: u32) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let blocked = status.lines().find_map(|line| line.strip_prefix("SigBlk:"));
    let blocked = blocked.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    blocked.is_some_and(|mask| mask & 1 << 1 != 0)
}

const LATE: &str = "; move = [lock notify zap check-pins reserve copy rebind wait free unlock]";

/// What a process looks at no more is not kept apart: these had fifteen million states and more than
/// fit the memory there was.
#[test]
fn eight_pages_two_writers_a_device_and_a_move_are_answered() {
    for (order, answer) in [("", "Never"), (LATE, "Sometimes")] {
        let question = question(order, "hazard lost-write");
        let output = check(&question, &["--memory", "100M"]).wait_with_output().expect("it ends");
        let said = text(&output);
        assert_eq!(output.status.code(), Some(0), "{said}");
        assert!(said.contains(answer), "{said}");
    }
}

/// A shortest schedule is told without a look at what is longer, and a small question is answered whole.
#[test]
fn a_schedule_is_told_before_everything_was_seen() {
    let whole = "it holds after";
    let told = |question: &str, args: &[&str]| {
        let all = ["explain", "-"].iter().chain(args);
        let child = ask(question, &all.copied().collect::<Vec<_>>());
        let output = child.wait_with_output().expect("it ends");
        assert_eq!(output.status.code(), Some(0), "{}", text(&output));
        text(&output)
    };
    let late = question(LATE, "hazard lost-write");
    let states = |said: &str| -> u64 {
        let words: Vec<&str> = said.split([' ', '\n']).collect();
        let at = words.iter().position(|word| *word == "states").expect("a number of states");
        words[at - 1].parse().unwrap_or_else(|_| panic!("{said}"))
    };
    for args in [&[][..], &["--hazard", "lost-write"]] {
        let said = told(&late, args);
        assert!(said.contains("Answer: it can happen; ") && !said.contains(whole), "{said}");
        assert!((100_000..300_000).contains(&states(&said)), "{said}");
    }
    let small = text(&driftheap(std::path::Path::new("."), &["explain", "ttm-direct-io"]));
    assert!(small.contains(whole), "{small}");
}

#[test]
fn the_memory_limit_is_said() {
    let output = check(&too_big(), &["--memory", "32M"]).wait_with_output().expect("it ends");
    let said = text(&output);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("over the limit of 32 MiB"), "{said}");
    assert!(said.contains("every schedule of up to "), "{said}");
    let output = check(&too_big(), &["--memory", "much"]).wait_with_output().expect("it ends");
    assert_eq!(output.status.code(), Some(2), "{}", text(&output));
}

/// A hazard that makes the condition hold whatever comes after it needs no whole schedule.
#[test]
fn a_hazard_that_is_enough_is_shown_without_the_end() {
    let late = question(LATE, "A[0] = 7 \\/ hazard lost-write");
    for args in [&["--memory", "40M"][..], &["--first"]] {
        let output = check(&late, args).wait_with_output().expect("it ends");
        let said = text(&output);
        assert!(said.contains("shown"), "{said}");
    }
}

/// A schedule that was found before a limit is enough for Sometimes, and too much for Never.
#[test]
fn what_a_limit_leaves_is_an_answer_where_a_schedule_was_found() {
    let late = question(LATE, "hazard lost-write");
    for (expected, code, mark) in [("Sometimes", 0, "shown"), ("Never", 1, "DIFFERS")] {
        let headed = format!("DMABUF big\n(* Result: {expected} *)\n");
        let asked = late.replacen("DMABUF big\n", &headed, 1);
        let output = check(&asked, &["--memory", "16M"]).wait_with_output().expect("it ends");
        let said = text(&output);
        assert_eq!(output.status.code(), Some(code), "{said}");
        assert!(said.contains("over the limit of 16 MiB") && said.contains(mark), "{said}");
    }
}

/// What a command prints that is interrupted as soon as it holds SIGINT back.
fn interrupted(child: Child) -> Output {
    let since = Instant::now();
    while !holds_interrupts_back(child.id()) {
        assert!(since.elapsed() < Duration::from_secs(60), "it never held SIGINT back");
        std::thread::sleep(Duration::from_millis(5));
    }
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, rustix::process::Signal::INT).expect("it runs");
    child.wait_with_output().expect("it ends")
}

#[test]
fn an_interrupt_prints_what_was_seen() {
    let output = interrupted(check(&too_big(), &["-v"]));
    let said = text(&output);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("interrupted with more to visit"), "{said}");
}

#[test]
fn an_interrupted_story_says_why_there_is_none() {
    let output = interrupted(ask(&too_big(), &["explain", "-"]));
    let said = text(&output);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("no schedule was found: interrupted with more to visit"), "{said}");
}

#[test]
fn the_first_schedule_that_shows_it_is_as_short_as_any() {
    let first = Search { first: Some(First::default()), ..Search::default() };
    let (mut all, mut some) = (0, 0);
    for scenario in lab::bundled() {
        let title = lab::title(&scenario);
        let judged = judge(&scenario, &Search::default(), &mut |_| ()).expect("it is judged");
        let found = judge(&scenario, &first, &mut |_| ()).expect("it is judged");
        let length = |schedule: Option<Vec<u8>>| schedule.map(|schedule| schedule.len());
        assert_eq!(length(judged.shortest), length(found.shortest.clone()), "{title}");
        let never = judged.observation == Some(Verdict::Never);
        assert_eq!(found.shortest.is_none(), never, "{title}");
        assert!(found.observation.is_none() || found.observation == judged.observation, "{title}");
        assert!(!found.refutes(&scenario), "{title}: all are as their files expect");
        all += judged.exploration.states;
        some += found.exploration.states;
    }
    assert!(some < all, "{some} of {all} states");
}

fn driftheap(directory: &std::path::Path, args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_driftheap"));
    command.args(args).current_dir(directory).output().expect("driftheap starts")
}

#[test]
fn what_stops_at_the_first_schedule_says_so() {
    let here = std::path::Path::new(".");
    let output = driftheap(here, &["check", "--replay", "off", "--first", "revoke-steps"]);
    let said = text(&output);
    assert_eq!(output.status.code(), Some(0), "{said}");
    assert!(said.contains("stopped at the first schedule that shows it"), "{said}");
    assert!(
        said.contains("6 shown to happen, as expected, 1 as expected")
            || said.contains("1 as expected, 6 shown to happen, as expected"),
        "{said}"
    );
    // And a Never that it refutes.
    let question = question(
        "; move = [lock notify zap check-pins reserve copy rebind wait free unlock]",
        "hazard lost-write",
    );
    let question = question.replacen("DMABUF big\n", "DMABUF big\n(* Result: Never *)\n", 1);
    let output = check(&question, &["--first"]).wait_with_output().expect("it ends");
    let said = text(&output);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("DIFFERS"), "{said}");
}

/// Two processes, and what they printed put together, is what one would have printed.
#[test]
fn shards_are_merged_to_the_report_of_one_run() {
    let directory = tempfile::tempdir().expect("a directory");
    let run = |args: &[&str]| driftheap(directory.path(), args);
    let shard = |number: u8, more: &[&str]| {
        let shard = format!("{number}/2");
        let file = directory.path().join(format!("{number}.json"));
        let file = std::fs::File::create(file).expect("a file");
        Command::new(env!("CARGO_BIN_EXE_driftheap"))
            .args(["check", "--json", "--replay", "off", "--shard", &shard])
            .args(more)
            .stdout(file)
            .spawn()
            .expect("driftheap starts")
    };
    let read = |name: &str| std::fs::read_to_string(directory.path().join(name)).expect("a file");
    for more in [&["--first"][..], &[]] {
        for mut child in [shard(1, more), shard(2, more)] {
            assert!(child.wait().expect("it ends").success());
        }
        let merged = run(&["merge", "2.json", "1.json", "--junit", "merged.xml"]);
        let mut whole = vec!["check", "--replay", "off", "--junit", "whole.xml"];
        whole.extend(more);
        let whole = run(&whole);
        let (merged_text, whole_text) = (text(&merged), text(&whole));
        assert!(merged_text == whole_text, "merged:\n{merged_text}\nwhole:\n{whole_text}");
        assert_eq!(merged.status.code(), Some(0));
        if more.is_empty() {
            assert_eq!(read("merged.xml"), read("whole.xml"));
        }
    }

    let half = run(&["merge", "1.json"]);
    assert_eq!(half.status.code(), Some(2), "{}", text(&half));
    assert!(text(&half).contains("answers are missing: of shard 2/2"), "{}", text(&half));
    let twice = run(&["merge", "1.json", "2.json", "1.json"]);
    assert!(text(&twice).contains("is answered twice"), "{}", text(&twice));
    let none = run(&["check", "--shard", "3/2"]);
    assert_eq!(none.status.code(), Some(2), "{}", text(&none));
}
