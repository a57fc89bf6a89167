//! What was found by attacks, and what attacks it now: a row of the table, or a test by its file and name.

use std::path::Path;

use super::attacks::ATTACKS;

/// A finding, and its rows and tests.
type Found = (&'static str, &'static [&'static str]);

/// All findings, the gravest first.
pub(crate) const FOUND: &[Found] = &[
    (
        "after a failed exec, clone3, unshare, setns, fork a process is not followed",
        &["failed exec, clone3, unshare, setns, fork", "failed exec and fork, checked"],
    ),
    (
        "of two processes of one address space one executes: the other's children are not followed",
        &["two processes of one address space", "two processes of one address space, checked"],
    ),
    (
        "a shortage of descriptors is read as nothing there; an mmap without an answer; ALLOC fails in a loop",
        &[
            "many buffers and few descriptors, then fork",
            "few descriptors",
            "a full descriptor table",
        ],
    ),
    (
        "a threaded program that executes while it maps is killed",
        &["exec of a process whose threads map"],
    ),
    ("ptrace_attach against exec, under --chaos and --misuse", &["exec beside ptrace"]),
    (
        "--check-access kills: two threads, mremap, a first thread that has ended, a fork that fails",
        &[
            "threads, mremap and a first thread that ends, checked",
            "a busy program, checked",
            "no process more: fork and threads fail",
        ],
    ),
    (
        "direct I/O and process_vm_writev beside moves",
        &[
            "direct I/O and process_vm_writev",
            "every kernel access, while pages move",
            "calls that copy, while pages move",
        ],
    ),
    (
        "process 1, and children of whoever executed driftheap",
        &["driftheap as process 1", "tests/live_run.rs only_the_program_is_waited_for"],
    ),
    (
        "userfaultfd and file systems of the program's own, dead mounts of strangers",
        &[
            "its own userfaultfd fills its pages",
            "its own file system serves its files",
            "tests/device_serve.rs a_killed_server_leaves_no_mount_and_no_hanging_client",
        ],
    ),
    ("a program with a seccomp filter of its own is killed", &["a seccomp filter of its own"]),
    ("stderr on a full disk", &["stderr on a full disk"]),
    ("RLIMIT_FSIZE", &["files of few bytes", "files of few bytes, and no way to more"]),
    ("an ELF file with p_vaddr near 2^64", &["code in files that lie"]),
    ("RLIMIT_NPROC", &["no process more: fork and threads fail"]),
    ("a socket message with an offset of 2^64-1", &["socket: broken messages"]),
    ("another kind of file as the userfaultfd of a client", &["socket: wrong descriptors"]),
    (
        "/dev/stdin that is a buffer waits 45 s for its lease",
        &["open of /dev/stdin that is a buffer"],
    ),
    ("what is kept for short children in epolls leaks", &["short children that watch a buffer"]),
    (
        "who waits makes every call slow; failed forks; 25 polls of 1000 descriptors",
        &["many that wait in SYNC and poll", "failed exec, clone3, unshare, setns, fork"],
    ),
    (
        "file locks of others disturb quotas",
        &["tests/device_lives.rs nothing_is_lost_and_nothing_leaks_beside_a_lock_churner"],
    ),
    ("signals kill driftheap alone", &["signals to driftheap", "real-time signals in every call"]),
    (
        "a control directory, a server or a socket of another user",
        &["socket: another user", "tests/leftovers.rs a_directory_that_is_not_ours_alone_is_said"],
    ),
    (
        "names in /tmp that can be told before; a stale socket",
        &[
            "a control socket that one left",
            "tests/leftovers.rs a_socket_that_a_killed_one_left_is_replaced_and_said",
        ],
    ),
    ("chaos that is barred says nothing", &["tests/live_run.rs what_stays_where_it_is_is_told"]),
    (
        "recordings of names that are no words, and of attachments without a mapping",
        &["a recording of what has no words", "socket: views and attachments without end"],
    ),
    ("openat2's flags, and paths behind a device", &["paths behind a device, and openat2"]),
    (
        "limits of clients, views and attachments",
        &["socket: a thousand connections", "socket: views and attachments without end"],
    ),
    (
        "a lexer that is quadratic in mistakes",
        &["src/litmus/tests/diagnostics.rs a_file_full_of_mistakes_is_read_to_its_end"],
    ),
    ("what a program names is shown by a terminal", &["names with terminal escapes"]),
    (
        "memory short, /dev/shm full",
        &[
            "memory short: a control group, ulimit -v",
            "no space in /dev/shm and for temporary files",
        ],
    ),
    (
        "SIGSTOP and SIGKILL at every step",
        &[
            "SIGSTOP of driftheap",
            "SIGKILL of driftheap",
            "SIGKILL at each step of a move",
            "SIGKILL of the guardian",
            "SIGKILL of driftheap and of the guardian",
        ],
    ),
    (
        "clients of the socket that do not read, or do not answer move_notify",
        &["socket: clients that do not read", "socket: move_notify never answered"],
    ),
];

/// Each of the rows and tests exists.
pub(crate) fn check() -> Result<(), String> {
    for (finding, attacked_by) in FOUND {
        for name in *attacked_by {
            let exists = match name.split_once(".rs ") {
                None => ATTACKS.iter().any(|attack| attack.kind == *name),
                Some((file, test)) => {
                    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("{file}.rs"));
                    let text = std::fs::read_to_string(path).unwrap_or_default();
                    text.contains(&format!("fn {test}()"))
                }
            };
            if !exists {
                return Err(format!("`{finding}` is attacked by `{name}`, which is not there"));
            }
        }
    }
    println!("{} findings, each attacked by a row of the table or by a test", FOUND.len());
    Ok(())
}
