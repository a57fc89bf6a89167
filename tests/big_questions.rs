//! Questions too big for the time or the memory there is: what was seen is said.

use std::io::Write;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

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
    let mut child = Command::new(env!("CARGO_BIN_EXE_driftheap"))
        .args(["check", "--replay", "off", "-"])
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

/// What a process looks at no more is not kept apart: these had fifteen million states and more than
/// fit the memory there was.
#[test]
fn eight_pages_two_writers_a_device_and_a_move_are_answered() {
    let late = "; move = [lock notify zap check-pins reserve copy rebind wait free unlock]";
    for (order, answer) in [("", "Never"), (late, "Sometimes")] {
        let question = question(order, "hazard lost-write");
        let output = check(&question, &["--memory", "100M"]).wait_with_output().expect("it ends");
        let said = text(&output);
        assert_eq!(output.status.code(), Some(0), "{said}");
        assert!(said.contains(answer), "{said}");
    }
}

#[test]
fn the_memory_limit_is_said() {
    let output = check(&too_big(), &["--memory", "32M"]).wait_with_output().expect("it ends");
    let said = text(&output);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("over the limit of 32 MiB"), "{said}");
    let output = check(&too_big(), &["--memory", "much"]).wait_with_output().expect("it ends");
    assert_eq!(output.status.code(), Some(2), "{}", text(&output));
}

#[test]
fn an_interrupt_prints_what_was_seen() {
    let child = check(&too_big(), &["-v"]);
    let since = Instant::now();
    while !holds_interrupts_back(child.id()) {
        assert!(since.elapsed() < Duration::from_secs(60), "it never held SIGINT back");
        std::thread::sleep(Duration::from_millis(5));
    }
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, rustix::process::Signal::INT).expect("it runs");
    let output = child.wait_with_output().expect("it ends");
    let said = text(&output);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("interrupted with more to visit"), "{said}");
}
