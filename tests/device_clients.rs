//! Real programs, unmodified, on the device: C, Python, the crates dma-heap and dma-buf, eight
//! threads, and the kernel's own selftests.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod device_kit;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use device_kit::{User, available, bounded, install, run, stage, text, users};

const LEVELS: [&[&str]; 2] = [&["-q"], &["-q", "--strict"]];

/// Buffers move meanwhile.
const CHAOS: [&[&str]; 2] = [&["-q", "--chaos", "1"], &["-q", "--strict", "--chaos", "2"]];

/// Runs `program` at every level as every user and demands success and `expect` in its output.
fn check(stage: &Path, levels: &[&[&str]], program: &[&str], expect: &str) {
    for user in users() {
        for level in levels {
            let output = run(stage, user, level, program);
            let text = text(&output);
            assert!(output.status.success(), "{program:?} {level:?} {user:?}: {text}");
            assert!(text.contains(expect), "{program:?} {level:?} {user:?}: {text}");
        }
    }
}

/// Compiles a C file; `None` and a SKIP without a compiler.
fn compile(stage: &Path, flags: &[&str]) -> Option<PathBuf> {
    let out = stage.join(format!("client{}", flags.join("")));
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients/client.c");
    let mut command = Command::new("cc");
    command.args(flags).arg("-o").arg(&out).arg(source);
    if Command::new("cc").arg("--version").stdout(Stdio::null()).status().is_err() {
        eprintln!("SKIP: no C compiler called cc");
        return None;
    }
    let output = bounded(command);
    assert!(output.status.success(), "{}", text(&output));
    Some(out)
}

#[test]
fn c_client() {
    let stage = stage();
    if !available(stage.path()) {
        return;
    }
    for flags in [&[][..], &["-static"]] {
        let Some(client) = compile(stage.path(), flags) else { return };
        check(stage.path(), &LEVELS, &[client.to_str().unwrap()], "child: ok");
    }
}

/// The same program fails or succeeds at O_DIRECT by the heap's rule alone.
#[test]
fn the_rule_decides_direct_io() {
    let stage = stage();
    if !available(stage.path()) {
        return;
    }
    let Some(client) = compile(stage.path(), &["-static"]) else { return };
    let client = client.to_str().unwrap();
    let insert_page = ["-q", "--heap", "system,mmap=mixedmap-insert-page"];
    for user in users() {
        let ok = |options: &[&str], program: &[&str]| {
            run(stage.path(), user, options, program).status.success()
        };
        assert!(ok(&["-q"], &[client]), "pfnmap: EFAULT");
        assert!(ok(&insert_page, &[client, "gup-succeeds"]), "insert_page: success");
        assert!(!ok(&insert_page, &[client]), "the client notices that EFAULT is missing");
    }
}

#[test]
fn python_client() {
    let stage = stage();
    if !available(stage.path()) {
        return;
    }
    let python = ["/usr/bin/python3", "python3"].into_iter().find(|python| {
        Command::new(python).arg("-V").stdout(Stdio::null()).status().is_ok_and(|s| s.success())
    });
    let Some(python) = python else {
        eprintln!("SKIP: no python3");
        return;
    };
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients/client.py");
    let script = install(stage.path(), &source, "client.py");
    let script = script.to_str().unwrap();
    for user in users() {
        for level in LEVELS {
            let probe = run(stage.path(), user, level, &[python, "-c", "import mmap"]);
            if !probe.status.success() {
                eprintln!("SKIP: {python} can't be executed as {user:?}");
                continue;
            }
            let output = run(stage.path(), user, level, &[python, script]);
            assert!(text(&output).contains("python client ok"), "{level:?}: {}", text(&output));
        }
    }
}

/// Runs one ignored test of this file under the device.
fn check_inside(name: &str) {
    let stage = stage();
    if !available(stage.path()) {
        return;
    }
    let own = install(stage.path(), &std::env::current_exe().unwrap(), "clients");
    let program = [own.to_str().unwrap(), "--ignored", "--exact", name, "--nocapture"];
    check(stage.path(), &LEVELS, &program, "1 passed");
    check(stage.path(), &CHAOS, &program, "1 passed");
}

#[test]
fn crates() {
    check_inside("inside_crates");
}

#[test]
#[ignore = "run under the device by `crates`"]
fn inside_crates() {
    let heap = dma_heap::Heap::new(dma_heap::HeapKind::System).unwrap();
    let buffer: dma_buf::DmaBuf = heap.allocate(16384).unwrap().into();
    let mut mapped = buffer.memory_map().unwrap();
    let fill = |bytes: &mut [u8], value: Option<u8>| {
        bytes.fill(value.unwrap_or(0));
        Ok(())
    };
    mapped.write(fill, Some(0xa5)).unwrap();
    let count =
        |bytes: &[u8], _: Option<()>| Ok(bytes.iter().filter(|&&byte| byte == 0xa5).count());
    assert_eq!(mapped.read(count, None).unwrap(), 16384);
}

#[test]
fn eight_threads() {
    check_inside("inside_eight_threads");
}

#[test]
#[ignore = "run under the device by `eight_threads`"]
fn inside_eight_threads() {
    use std::os::fd::AsRawFd as _;
    const THREADS: u8 = 8;
    const ROUNDS: usize = 100;
    let heap = dma_heap::Heap::new(dma_heap::HeapKind::System).unwrap();
    let worker = |thread: u8| {
        let heap = &heap;
        move || {
            for round in 0..ROUNDS {
                let pages = 1 + round % 3;
                let fd = heap.allocate(pages * 4096).unwrap();
                assert!(fd.as_raw_fd() > 2);
                let size = rustix::fs::seek(&fd, rustix::fs::SeekFrom::End(0)).unwrap();
                assert_eq!(size, pages as u64 * 4096);
                let mut mapped = dma_buf::DmaBuf::from(fd).memory_map().unwrap();
                let fill = |bytes: &mut [u8], _: Option<()>| {
                    assert!(bytes.iter().all(|&byte| byte == 0), "memory comes zeroed");
                    bytes.fill(thread);
                    Ok(())
                };
                mapped.write(fill, None).unwrap();
                let same =
                    |bytes: &[u8], _: Option<()>| Ok(bytes.iter().all(|&byte| byte == thread));
                assert!(mapped.read(same, None).unwrap(), "nobody else has this memory");
            }
        }
    };
    std::thread::scope(|scope| {
        let threads: Vec<_> = (1..=THREADS).map(|n| scope.spawn(worker(n))).collect();
        threads.into_iter().for_each(|thread| thread.join().unwrap());
    });
}

/// dmabuf-heap, udmabuf and sync from tools/testing/selftests, built by tools/selftests/fetch.
#[test]
fn kernel_selftests() {
    let stage = stage();
    if !available(stage.path()) {
        return;
    }
    let built = std::env::var_os("DRIFTHEAP_SELFTESTS").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("target/selftests"),
        PathBuf::from,
    );
    for (name, expect) in [
        ("dmabuf-heap", "Testing expected error cases:  OK"),
        ("udmabuf", "udmabuf: ok"),
        ("synctest", "fail:0"),
    ] {
        let from = built.join(name);
        if !from.exists() {
            eprintln!("SKIP {name}: not built, run tools/selftests/fetch");
            continue;
        }
        let test = install(stage.path(), &from, name);
        let program = [test.to_str().unwrap()];
        if name == "synctest" {
            // Half a million ioctls: once is enough.
            let output = run(stage.path(), User::Own, &["-q"], &program);
            assert!(text(&output).contains(expect), "{}", text(&output));
            continue;
        }
        check(stage.path(), &LEVELS, &program, expect);
    }
}

/// A program of another kind is refused by name; one that a program of our own kind starts is told
/// of, and counted.
#[test]
fn foreign_programs() {
    let stage = stage();
    if !available(stage.path()) {
        return;
    }
    let arm = stage.path().join("for-arm64");
    let mut head = [0; 64];
    head[..7].copy_from_slice(b"\x7fELF\x02\x01\x01");
    let other: u16 = if cfg!(target_arch = "aarch64") { 62 } else { 183 };
    head[18..20].copy_from_slice(&other.to_le_bytes());
    std::fs::write(&arm, head).unwrap();
    std::fs::set_permissions(&arm, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let output = run(stage.path(), User::Own, &[], &[arm.to_str().unwrap()]);
    let told = text(&output);
    assert_eq!(output.status.code(), Some(126), "{told}");
    assert!(told.contains("for-arm64`: it is a 64-bit program for "), "{told}");

    let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients");
    let mut cc = Command::new("cc");
    let small = stage.path().join("small");
    cc.args(["-m32", "-nostdlib", "-static", "-fno-pie", "-no-pie", "-fno-stack-protector"]);
    cc.arg("-o").arg(&small).arg(sources.join("foreign.c"));
    if !cc.output().is_ok_and(|output| output.status.success()) {
        eprintln!("SKIP: this cc makes no 32-bit programs");
        return;
    }
    let small = small.to_str().unwrap();
    let output = run(stage.path(), User::Own, &[], &[small]);
    let told = text(&output);
    assert_eq!(output.status.code(), Some(126), "{told}");
    assert!(told.contains("small`: it is a 32-bit program for i386, "), "{told}");
    // ENOENT on a kernel that executes it; a kernel without 32-bit programs answers ENOEXEC.
    let alone = Command::new(small).status();
    if !alone.is_ok_and(|status| status.code().is_some()) {
        eprintln!("SKIP: this kernel executes no 32-bit programs");
        return;
    }
    let script = format!("{small}; {small}; true");
    let output = run(stage.path(), User::Own, &[], &["sh", "-c", &script]);
    let told = text(&output);
    assert_eq!(told.matches("small (process ").count(), 1, "{told}");
    assert!(told.contains("is a 32-bit program: it is not watched; build it for"), "{told}");
    assert!(told.contains(", 1 program not watched"), "{told}");
}

/// A program under qemu-user opens the heap and can do nothing with it.
#[test]
fn programs_under_qemu_user() {
    let stage = stage();
    if !available(stage.path()) {
        return;
    }
    // What counts is the name of the program that makes the calls.
    let cat = install(stage.path(), Path::new("/bin/cat"), "qemu-arm");
    let program = [cat.to_str().unwrap(), "/dev/dma_heap/system"];
    let output = run(stage.path(), User::Own, &[], &program);
    let told = text(&output);
    assert!(told.contains("qemu-arm (process ") && told.contains("under qemu-user"), "{told}");
    assert!(told.contains(", 1 program not watched"), "{told}");
}

/// A /proc of another pid namespace names other processes: nothing that it says may be believed.
#[test]
fn a_proc_of_another_namespace_is_refused() {
    let stage = stage();
    if !available(stage.path()) {
        return;
    }
    let mut command = Command::new("unshare");
    command.args(["-pfUr"]).arg(stage.path().join("driftheap")).args(["run", "--", "true"]);
    let output = bounded(command);
    let told = text(&output);
    if told.starts_with("unshare: ") {
        eprintln!("SKIP: {told}");
        return;
    }
    assert_eq!(output.status.code(), Some(125), "{told}");
    assert!(told.contains("/proc is not this pid namespace's"), "{told}");
}

/// A program's limit for files does not bound its buffers, and ends nobody.
#[test]
fn a_file_limit_is_no_limit_of_buffers() {
    let stage = stage();
    if !available(stage.path()) {
        return;
    }
    let Some(client) = compile(stage.path(), &["-O1"]) else { return };
    let mut command = Command::new("sh");
    let line = format!(
        "ulimit -S -f 1 && exec {} run -q -- {}",
        stage.path().join("driftheap").display(),
        client.display()
    );
    command.arg("-c").arg(line);
    let output = bounded(command);
    assert!(output.status.success(), "{}", text(&output));
}
