//! Buffers, udmabufs and timelines: none is forgotten while somebody holds it, none is kept after.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod device_kit;

use std::io::BufRead as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use device_kit::{User, available, bounded, run, stage, text, users};

/// Set to a number of rounds to soak for longer: 10000 make 10^6 objects.
const ROUNDS_VARIABLE: &str = "DRIFTHEAP_SOAK_ROUNDS";

fn client(stage: &Path) -> Option<PathBuf> {
    compiled(stage, "lives")
}

/// Compiles tests/clients/NAME.c; `None` and a SKIP without a compiler.
fn compiled(stage: &Path, name: &str) -> Option<PathBuf> {
    if Command::new("cc").arg("--version").stdout(Stdio::null()).status().is_err() {
        eprintln!("SKIP: no C compiler called cc");
        return None;
    }
    let out = stage.join(name);
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients").join(name);
    let mut command = Command::new("cc");
    command.args(["-pthread", "-o"]).arg(&out).arg(source.with_extension("c"));
    let output = bounded(command);
    assert!(output.status.success(), "{}", text(&output));
    Some(out)
}

/// Runs a mode of the client at these levels as every user; it must say "ok".
fn check(levels: &[&[&str]], mode: &[&str]) {
    let stage = stage();
    if !available(stage.path()) {
        return;
    }
    let Some(client) = client(stage.path()) else { return };
    let program: Vec<&str> =
        std::iter::once(client.to_str().unwrap()).chain(mode.iter().copied()).collect();
    for user in users() {
        for level in levels {
            let output = run(stage.path(), user, level, &program);
            let text = text(&output);
            assert!(output.status.success(), "{mode:?} {level:?} {user:?}: {text}");
            assert!(text.contains("ok"), "{mode:?} {level:?} {user:?}: {text}");
        }
    }
}

/// A program outside of the device that takes and drops locks without end.
struct Stranger(Child);

impl Stranger {
    fn new(client: &Path) -> Self {
        let mut child =
            Command::new(client).arg("stranger").stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        let mut output = std::io::BufReader::new(child.stdout.take().unwrap());
        output.read_line(&mut line).unwrap();
        assert_eq!(line, "churning\n");
        Self(child)
    }
}

impl Drop for Stranger {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

#[test]
fn udmabufs_of_one_memfd_and_of_several() {
    check(&[&["-q"], &["-q", "--strict"], &["-q", "--misuse"]], &["udmabufs"]);
    check(&[&["-q", "--chaos", "1"]], &["udmabufs"]);
}

#[test]
fn a_closed_timeline_lets_its_waiters_go() {
    check(&[&["-q"], &["-q", "--strict"]], &["timeline"]);
}

/// A program whose own filter kills for userfaultfd(2) lives on, and its buffers stay where they are.
#[test]
fn a_program_in_its_own_sandbox_is_not_killed() {
    check(&[&["-q"], &["-q", "--live"], &["-q", "--chaos", "1"]], &["sandbox"]);
    let stage = stage();
    let Some(client) = client(stage.path()).filter(|_| available(stage.path())) else { return };
    let command = [client.to_str().unwrap(), "sandbox"];
    let said = text(&run(stage.path(), User::Own, &["--chaos", "1"], &command));
    assert!(said.contains("stays where it is: "), "{said}");
    assert!(said.contains("a seccomp filter of its own"), "{said}");
    assert!(said.contains(", 1 that can't move"), "{said}");
}

/// What a program fills itself, by userfaultfd or as a file system, while other processes of the tree
/// need the device: nobody waits for ever, and each call has its right answer.
#[test]
fn a_program_that_provides_its_own_pages_and_files_holds_nobody_up() {
    let stage = stage();
    if !available(stage.path()) {
        return;
    }
    let Some(client) = compiled(stage.path(), "fills") else { return };
    let mount = stage.path().join("mount");
    std::fs::create_dir(&mount).unwrap();
    for options in [&["-q"][..], &["-q", "--strict"], &["-q", "--misuse"], &["-q", "--chaos", "1"]]
    {
        for arguments in [vec!["pages"], vec!["files", mount.to_str().unwrap()]] {
            let command = [vec![client.to_str().unwrap()], arguments].concat();
            let output = run(stage.path(), User::Own, options, &command);
            let said = text(&output);
            if output.status.code() == Some(77) {
                eprintln!("{said}");
                continue;
            }
            assert!(output.status.success(), "{options:?} {command:?}: {said}");
        }
    }
}

/// The quota is twice what is held at once, so that a leak would meet it at once.
#[test]
fn nothing_is_lost_and_nothing_leaks_beside_a_lock_churner() {
    let stage = stage();
    if !available(stage.path()) {
        return;
    }
    let Some(client) = client(stage.path()) else { return };
    let rounds = std::env::var(ROUNDS_VARIABLE).unwrap_or_else(|_| "60".into());
    let _strangers = [Stranger::new(&client), Stranger::new(&client)];
    let program = [client.to_str().unwrap(), "soak", &rounds];
    for level in [&["-q", "--max-buffers", "120"][..], &["-q", "--misuse"]] {
        let output = run(stage.path(), User::Own, level, &program);
        let text = text(&output);
        assert!(output.status.success() && text.contains("ok"), "{level:?}: {text}");
    }
}

/// The descriptors of the supervisor are as few as the program's.
#[test]
fn few_descriptors_are_enough_for_one_buffer_at_a_time() {
    let stage = stage();
    if !available(stage.path()) {
        return;
    }
    let Some(client) = client(stage.path()) else { return };
    // With buffers that move, which take more: whoever can't be looked into is not left waiting.
    for option in ["--strict", "--misuse", "--live"] {
        let mut command = Command::new("sh");
        let driftheap = stage.path().join("driftheap");
        let line = format!(
            "ulimit -n 128 && exec {} run -q {option} -- {} loop 3000",
            driftheap.display(),
            client.display()
        );
        command.arg("-c").arg(line);
        let output = bounded(command);
        let text = text(&output);
        assert!(output.status.success() && text.contains("ok"), "{option}: {text}");
    }
}

/// `50 good ALLOCs` under a quota are 50 ioctls, none of which failed.
#[test]
fn what_is_asked_twice_counts_once() {
    let stage = stage();
    if !available(stage.path()) {
        return;
    }
    let Some(client) = client(stage.path()) else { return };
    let program = [client.to_str().unwrap(), "loop", "50"];
    let output = run(stage.path(), User::Own, &["--max-buffers", "1"], &program);
    let text = text(&output);
    assert!(text.contains("50 buffers") && text.contains("150 ioctls (0 failed)"), "{text}");
}

/// Beyond locked memory a buffer could be pinned: refused where that is asked for.
#[test]
fn pfnmap_can_be_required() {
    let stage = stage();
    if !available(stage.path()) {
        return;
    }
    let Some(client) = client(stage.path()) else { return };
    if !users().contains(&User::Nobody) {
        return;
    }
    let line = format!(
        "ulimit -l 0 && exec setpriv --reuid 65534 --regid 65534 --clear-groups {} run \
         --require-pfnmap -- {} loop 1",
        stage.path().join("driftheap").display(),
        client.display()
    );
    let mut command = Command::new("sh");
    command.arg("-c").arg(line);
    let output = bounded(command);
    let text = text(&output);
    assert!(!output.status.success(), "{text}");
    assert!(text.contains("ALLOC answers ENOMEM, by --require-pfnmap"), "{text}");
    assert!(text.contains(" 0 buffers, 0 bytes, 1 ioctls (1 failed)"), "{text}");
}
