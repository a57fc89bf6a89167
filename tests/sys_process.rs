//! Processes, links and mailboxes, and what one process's mappings show when another changes the
//! memory under them.
//!
//! fork needs a process with one thread, so this is its own harness: `main` runs the tests one
//! after the other. Executed as `__actor FD` it is the program that the tests of `spawn` start.

mod sys_common;

use std::ffi::OsStr;
use std::os::fd::{AsFd, OwnedFd};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use driftheap::sys::arena::{Arena, PageKind};
use driftheap::sys::link::{Link, LinkError};
use driftheap::sys::mailbox::{CallError, Caller, Mailbox, Pace, Server};
use driftheap::sys::map::{Prot, Sharing, Window};
use driftheap::sys::page::{Addr, FrameIndex, Range, page_bytes};
use driftheap::sys::pin::UringPin;
use driftheap::sys::process::{self, Child, EXIT_PANICKED, Exit, SpawnError};
use driftheap::sys::touch::Touch;
use driftheap::sys::uffd::{FaultKind, Features, Fill, Modes, Uffd, UffdEvent, Via};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags};
use sys_common::{LONG, available};

type Test = (&'static str, fn() -> Result<()>);

const TESTS: &[Test] = &[
    ("spawned_actor_answers_over_link_and_mailbox", spawned_actor_answers),
    ("an_fd_is_inherited_once_and_only_if_it_is_a_link", inherits_only_a_link),
    ("fork_with_two_threads_is_refused", fork_with_two_threads_is_refused),
    ("exit_codes_signals_and_panics_are_told_apart", endings_are_told_apart),
    ("a_dropped_child_is_dead_and_reaped", a_dropped_child_is_reaped),
    ("grandchildren_die_with_their_parent", grandchildren_die),
    ("death_and_silence_of_a_peer_end_the_wait", death_and_silence),
    ("a_child_asleep_in_a_fault_can_be_ended", asleep_in_a_fault),
    ("punch_zaps_the_ptes_of_another_process", punch_zaps_another_process),
    ("stale_pte_and_pin_of_two_processes_alias_the_next_buffer", aliasing_between_processes),
    ("fork_copies_on_write", fork_copies_on_write),
    ("a_forked_child_is_not_trapped", a_forked_child_is_not_trapped),
    ("a_window_kept_out_of_a_child_is_empty_there", dont_fork),
    ("messages_keep_their_bounds", messages_keep_their_bounds),
    ("a_mailbox_must_be_sealed", a_mailbox_must_be_sealed),
    ("pinning_to_a_cpu", pinning_to_a_cpu),
    ("running_out_is_an_error_with_a_name", running_out),
];

fn main() -> ExitCode {
    let args: Vec<_> = std::env::args_os().skip(1).collect();
    if let [verb, fd] = args.as_slice()
        && verb == "__actor"
    {
        return match actor(fd) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("actor: {error:#}");
                ExitCode::FAILURE
            }
        };
    }
    let texts: Vec<_> = args.iter().filter_map(|arg| arg.to_str()).collect();
    if texts.contains(&"--list") {
        TESTS.iter().for_each(|(name, _)| eprintln!("{name}: test"));
        return ExitCode::SUCCESS;
    }
    let filters: Vec<_> = texts.iter().filter(|arg| !arg.starts_with('-')).collect();
    let mut failed = 0;
    for (name, test) in TESTS {
        if !filters.is_empty() && !filters.iter().any(|filter| name.contains(**filter)) {
            continue;
        }
        let before = leftovers();
        // An assertion fails its test, not the run.
        let result = std::panic::catch_unwind(test)
            .unwrap_or_else(|_| Err(anyhow::anyhow!("it panicked, see above")));
        let result = result.and_then(|()| {
            let after = leftovers();
            ensure!(before == after, "left behind (fds, children): {before:?}, now {after:?}");
            Ok(())
        });
        match result {
            Ok(()) => eprintln!("test {name} ... ok"),
            Err(error) => {
                failed += 1;
                eprintln!("test {name} ... FAILED\n    {error:?}");
            }
        }
    }
    eprintln!("\ntest result: {failed} failed");
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// How many fds are open, and whether there is a child, dead or alive.
fn leftovers() -> (usize, bool) {
    let fds = std::fs::read_dir("/proc/self/fd").map_or(0, Iterator::count);
    let id = rustix::process::WaitId::All;
    let options = rustix::process::WaitIdOptions::EXITED
        | rustix::process::WaitIdOptions::NOHANG
        | rustix::process::WaitIdOptions::NOWAIT;
    (fds, rustix::process::waitid(id, options).err() != Some(Errno::CHILD))
}

/// The spawned program: takes a mailbox and the conductor's pidfd, then echoes.
fn actor(fd: &OsStr) -> Result<()> {
    let link = process::inherited_link(fd)?;
    ensure!(process::inherited_link(fd).err() == Some(LinkError::NotInherited), "taken twice");
    let mut server = server_from(&link)?;
    let mut request = [0; 64];
    loop {
        match server.next(&mut request, LONG) {
            Ok(length) => {
                request[..length].reverse();
                server.answer(&request[..length]);
            }
            Err(CallError::PeerDied) => return Ok(()),
            Err(error) => return Err(error.into()),
        }
    }
}

fn server_from(link: &Link) -> Result<Server> {
    let mut byte = [0];
    let (_, fds) = link.receive(&mut byte, LONG)?;
    let [mailbox, conductor]: [OwnedFd; 2] =
        fds.try_into().map_err(|fds| anyhow::anyhow!("expected two fds: {fds:?}"))?;
    Ok(Mailbox::adopt(mailbox)?.into_server(conductor, Pace::OneCore))
}

/// Gives a child a mailbox over its link.
fn caller_for(child: &Child, link: &Link) -> Result<Caller> {
    let mailbox = Mailbox::create()?;
    let me = rustix::process::pidfd_open(rustix::process::getpid(), PidfdFlags::empty())?;
    link.send(&[0], &[mailbox.as_fd(), me.as_fd()])?;
    Ok(mailbox.into_caller(child.pidfd().try_clone_to_owned()?, Pace::OneCore))
}

/// A forked child with a link; `body`'s error is printed and is exit code 1.
fn child(body: impl FnOnce(Link) -> Result<()>) -> Result<(Child, Link)> {
    let (ours, theirs) = Link::pair()?;
    let child = process::fork(move || match body(theirs) {
        Ok(()) => 0,
        Err(error) => {
            eprintln!("    child: {error:?}");
            1
        }
    })?;
    Ok((child, ours))
}

fn ended_well(child: &mut Child) -> Result<()> {
    let exit = child.wait(LONG)?;
    ensure!(exit == Some(Exit::Code(0)), "the child ended with {exit:?}");
    Ok(())
}

/// Waits for the other end's byte.
fn step(link: &Link) -> Result<Vec<OwnedFd>> {
    Ok(link.receive(&mut [0], LONG)?.1)
}

fn go(link: &Link) -> Result<()> {
    Ok(link.send(&[1], &[])?)
}

fn spawned_actor_answers() -> Result<()> {
    let (mut child, link) = process::spawn(&std::env::current_exe()?, &["__actor".as_ref()])?;
    let mut caller = caller_for(&child, &link)?;
    let mut reply = [0; 64];
    for round in 0..1000_u32 {
        let mut request = round.to_le_bytes().repeat(4);
        let length = caller.call(&request, &mut reply, LONG)?;
        request.reverse();
        ensure!(reply[..length] == request, "round {round}");
    }
    assert_eq!(caller.call(&[7; 64], &mut [0; 8], LONG), Err(CallError::TooLong(64)));
    assert_eq!(child.end()?, Exit::Signal(9));
    let missing = process::spawn("/nonexistent/driftheap".as_ref(), &[]);
    ensure!(matches!(missing, Err(SpawnError::Program { .. })), "{missing:?}");
    Ok(())
}

fn inherits_only_a_link() -> Result<()> {
    let (ours, _theirs) = Link::pair()?;
    let own = std::os::fd::AsRawFd::as_raw_fd(&ours.as_fd()).to_string();
    for arg in ["", "x", "0", "-1", "99999", own.as_str()] {
        let error = process::inherited_link(arg.as_ref()).err();
        assert_eq!(error, Some(LinkError::NotInherited), "{arg:?}");
    }
    Ok(())
}

fn fork_with_two_threads_is_refused() -> Result<()> {
    let (stop, stopped) = std::sync::mpsc::channel::<()>();
    std::thread::scope(|scope| {
        scope.spawn(move || stopped.recv());
        let result = process::fork(|| 0);
        drop(stop);
        ensure!(matches!(result, Err(SpawnError::ManyThreads(2))), "{result:?}");
        Ok(())
    })?;
    // The thread is joined, but the kernel may list it for a moment longer.
    for _ in 0..1000 {
        if std::fs::read_dir("/proc/self/task")?.count() == 1 {
            return Ok(());
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    bail!("the thread stayed")
}

fn endings_are_told_apart() -> Result<()> {
    assert_eq!(process::fork(|| 7)?.wait(LONG)?, Some(Exit::Code(7)));
    let panicked = process::fork(|| {
        std::panic::set_hook(Box::new(|_| {}));
        panic!("on purpose")
    });
    assert_eq!(panicked?.wait(LONG)?, Some(Exit::Code(i32::from(EXIT_PANICKED))));
    let mut killed = process::fork(|| {
        loop {
            std::thread::park();
        }
    })?;
    assert_eq!(killed.wait(Duration::from_millis(1))?, None);
    killed.kill()?;
    assert_eq!(killed.wait(LONG)?, Some(Exit::Signal(9)));
    assert_eq!(killed.end()?, Exit::Signal(9), "ending twice is fine");
    Ok(())
}

fn a_dropped_child_is_reaped() -> Result<()> {
    let child = process::fork(|| {
        loop {
            std::thread::park();
        }
    })?;
    let pid = i32::try_from(child.pid()).ok().and_then(Pid::from_raw).context("pid")?;
    rustix::process::test_kill_process(pid)?;
    drop(child);
    assert_eq!(rustix::process::test_kill_process(pid), Err(Errno::SRCH));
    Ok(())
}

fn grandchildren_die() -> Result<()> {
    process::become_subreaper()?;
    let (mut parent, link) = child(|link| {
        let grandchild = process::fork(|| {
            loop {
                std::thread::park();
            }
        })?;
        link.send(&[0], &[grandchild.pidfd()])?;
        step(&link)?;
        bail!("was to be killed")
    })?;
    let pidfd = step(&link)?.pop().context("a pidfd")?;
    let grandchild = || {
        let mut fds = [rustix::event::PollFd::new(&pidfd, rustix::event::PollFlags::IN)];
        let timeout = rustix::event::Timespec { tv_sec: 20, tv_nsec: 0 };
        rustix::event::poll(&mut fds, Some(&timeout))
    };
    parent.end()?;
    assert_eq!(grandchild()?, 1, "the grandchild is still alive");
    assert_eq!(process::reap_orphans()?, 1);
    Ok(())
}

fn death_and_silence() -> Result<()> {
    let (mut dying, link) = child(|link| {
        let mut server = server_from(&link)?;
        server.next(&mut [0; 8], LONG)?;
        Ok(())
    })?;
    let mut caller = caller_for(&dying, &link)?;
    assert_eq!(caller.call(&[1], &mut [0; 8], LONG), Err(CallError::PeerDied));
    ended_well(&mut dying)?;
    assert_eq!(link.receive(&mut [0], LONG).err(), Some(LinkError::PeerDied));
    assert_eq!(link.send(&[0], &[]), Err(LinkError::PeerDied));

    let (mut silent, link) = child(|link| {
        let mut server = server_from(&link)?;
        server.next(&mut [0; 8], LONG)?;
        step(&link)?;
        server.answer(&[9]);
        step(&link)?;
        Ok(())
    })?;
    let mut caller = caller_for(&silent, &link)?;
    let soon = Duration::from_millis(5);
    assert_eq!(caller.call(&[1], &mut [0; 8], soon), Err(CallError::TimedOut));
    assert_eq!(link.receive(&mut [0], soon).err(), Some(LinkError::TimedOut));
    assert!(caller.is_outstanding());
    go(&link)?;
    let mut reply = [0; 8];
    assert_eq!(caller.collect(&mut reply, LONG), Ok(1), "late answers can be collected");
    assert_eq!(reply[0], 9);
    go(&link)?;
    ended_well(&mut silent)
}

/// A userfaultfd of this process on `window`'s first page.
fn trap(window: &Window) -> Result<Uffd> {
    let features = Features::MISSING_SHMEM | Features::MINOR_SHMEM;
    let uffd = Uffd::open(Via::UserModeOnly, features)?;
    uffd.register(window.span(0, 1).range(), Modes::MISSING)?;
    Ok(uffd)
}

fn window_on(arena: &Arena, sharing: Sharing) -> Result<Window> {
    let window = Window::reserve(1)?;
    window.map(0, arena, FrameIndex(0), 1, sharing, Prot::ReadWrite)?;
    Ok(window)
}

fn uffd_missing() -> bool {
    available("userfaultfd", Uffd::supported(Via::UserModeOnly)).is_none()
}

fn fault_of(uffd: &Uffd) -> Result<(FaultKind, Addr)> {
    let event = uffd.wait(LONG)?.context("no fault came")?;
    let UffdEvent::Fault(fault) = event else { bail!("not a fault: {event:?}") };
    Ok((fault.kind, fault.addr))
}

fn asleep_in_a_fault() -> Result<()> {
    if uffd_missing() {
        return Ok(());
    }
    let arena = Arena::create(1, PageKind::Base)?;
    let (mut child, link) = child(|link| {
        let window = window_on(&arena, Sharing::Shared)?;
        link.send(&[0], &[trap(&window)?.as_fd()])?;
        bail!("the load ended: {:?}", window.span(0, 1).load_u8(0))
    })?;
    let uffd = Uffd::adopt(step(&link)?.pop().context("an fd")?)?;
    fault_of(&uffd)?;
    assert_eq!(child.end()?, Exit::Signal(9));
    Ok(())
}

fn punch_zaps_another_process() -> Result<()> {
    if uffd_missing() {
        return Ok(());
    }
    let arena = Arena::create(1, PageKind::Base)?;
    arena.fill(FrameIndex(0), 1)?;
    let (mut child, link) = child(|link| {
        let window = window_on(&arena, Sharing::Shared)?;
        let uffd = trap(&window)?;
        assert_eq!(window.span(0, 1).load_u8(0), Touch::Value(1), "present: no trap");
        link.send(&[0], &[uffd.as_fd()])?;
        drop(uffd);
        step(&link)?;
        assert_eq!(window.span(0, 1).load_u8(0), Touch::Value(2), "trapped and refilled");
        Ok(())
    })?;
    let uffd = Uffd::adopt(step(&link)?.pop().context("an fd")?)?;
    assert!(uffd.poll_event()?.is_none());
    arena.punch(FrameIndex(0))?;
    go(&link)?;
    let (kind, addr) = fault_of(&uffd)?;
    assert_eq!(kind, FaultKind::Missing);
    uffd.copy(addr, &vec![2; page_bytes()], Fill::Plain)?;
    ended_well(&mut child)?;
    let range = Range::pages(addr, 1);
    assert_eq!(uffd.zeropage(range, Fill::Plain), Err(driftheap::sys::uffd::FillError::Gone));
    Ok(())
}

fn aliasing_between_processes() -> Result<()> {
    let arena = Arena::create(1, PageKind::Base)?;
    arena.fill(FrameIndex(0), 0xAA)?;
    // The device: registers buffer A, then writes when told.
    let (mut device, device_link) = child(|link| {
        let window = window_on(&arena, Sharing::Shared)?;
        let mut pin = UringPin::register(window.span(0, 1))?;
        go(&link)?;
        step(&link)?;
        pin.start_to_memory(0, page_bytes())?;
        pin.feed(&vec![0xDD; page_bytes()])?;
        ensure!(pin.complete(LONG)? == page_bytes());
        go(&link)
    })?;
    // The victim: maps buffer B, which now owns the frame.
    step(&device_link)?;
    let (mut victim, victim_link) = child(|link| {
        let window = window_on(&arena, Sharing::Shared)?;
        assert_eq!(window.span(0, 1).fill(0xBB), Touch::Value(()));
        go(&link)?;
        step(&link)?;
        let mut bytes = vec![0; page_bytes()];
        assert_eq!(window.span(0, 1).read(0, &mut bytes), Touch::Value(()));
        ensure!(bytes == vec![0xDD; page_bytes()], "the device's bytes in another's buffer");
        Ok(())
    })?;
    step(&victim_link)?;
    go(&device_link)?;
    step(&device_link)?;
    go(&victim_link)?;
    ended_well(&mut victim)?;
    ended_well(&mut device)
}

fn fork_copies_on_write() -> Result<()> {
    let arena = Arena::create(1, PageKind::Base)?;
    arena.fill(FrameIndex(0), 1)?;
    let window = window_on(&arena, Sharing::Private)?;
    let page = window.span(0, 1);
    assert_eq!(page.store_u8(0, 2), Touch::Value(()));
    let (mut child, link) = child(|link| {
        assert_eq!(page.load_u8(0), Touch::Value(2));
        assert_eq!(page.store_u8(0, 3), Touch::Value(()));
        go(&link)?;
        step(&link)?;
        assert_eq!(page.load_u8(0), Touch::Value(3), "the parent's store is not seen");
        Ok(())
    })?;
    step(&link)?;
    assert_eq!(page.load_u8(0), Touch::Value(2), "the child's store is not seen");
    assert_eq!(page.store_u8(0, 4), Touch::Value(()));
    go(&link)?;
    ended_well(&mut child)?;
    assert_eq!(arena.frame(FrameIndex(0)).load_u8(0), Touch::Value(1));
    Ok(())
}

fn a_forked_child_is_not_trapped() -> Result<()> {
    if uffd_missing() {
        return Ok(());
    }
    let arena = Arena::create(1, PageKind::Base)?;
    let window = window_on(&arena, Sharing::Shared)?;
    let uffd = trap(&window)?;
    let page = window.span(0, 1);
    let (mut child, _link) = child(|_| {
        assert_eq!(page.load_u8(0), Touch::Value(0), "a zero page, made without asking");
        Ok(())
    })?;
    ended_well(&mut child)?;
    assert!(uffd.poll_event()?.is_none(), "nobody was asked");
    assert_eq!(page.load_u8(0), Touch::Value(0), "and the parent's trap is bypassed too");
    Ok(())
}

fn dont_fork() -> Result<()> {
    let window = Window::reserve(3)?;
    window.map_anonymous(0, 3, Prot::ReadWrite)?;
    assert_eq!(window.span(0, 3).fill(5), Touch::Value(()));
    window.set_dont_fork(1, 1, true)?;
    let (mut child, _link) = child(|_| {
        assert_eq!(window.span(0, 1).load_u8(0), Touch::Value(5));
        assert_eq!(window.span(2, 1).load_u8(0), Touch::Value(5));
        let hole = window.span(1, 1).load_u8(0);
        // SEGV_ACCERR: reserved again. SEGV_MAPERR would be a hole that anything may fill.
        ensure!(matches!(hole, Touch::Sigsegv { code: 2, .. }), "{hole:?}");
        Ok(())
    })?;
    assert_eq!(window.span(1, 1).load_u8(0), Touch::Value(5));
    ended_well(&mut child)
}

fn messages_keep_their_bounds() -> Result<()> {
    let (a, b) = Link::pair()?;
    a.send(&[1, 2, 3], &[])?;
    a.send(&[4], &[a.as_fd(), b.as_fd()])?;
    a.send(&[5; 10], &[])?;
    let mut bytes = [0; 4];
    assert_eq!(b.receive(&mut bytes, LONG)?.0, 3);
    let (length, fds) = b.receive(&mut bytes, LONG)?;
    assert_eq!((length, fds.len()), (1, 2));
    assert_eq!(b.receive(&mut bytes, LONG).err(), Some(LinkError::TooLong));
    let mut sent = 0;
    let full = loop {
        match a.send(&[0; 1024], &[]) {
            Ok(()) => sent += 1,
            Err(error) => break error,
        }
    };
    assert_eq!(full, LinkError::Full, "after {sent} messages");
    Ok(())
}

fn a_mailbox_must_be_sealed() -> Result<()> {
    let plain = rustix::fs::memfd_create("plain", rustix::fs::MemfdFlags::CLOEXEC)?;
    rustix::fs::ftruncate(&plain, page_bytes() as u64)?;
    let error = Mailbox::adopt(plain).err();
    assert_eq!(error, Some(driftheap::sys::mailbox::MailboxError::NotMailbox));
    Ok(())
}

fn pinning_to_a_cpu() -> Result<()> {
    let mut pinned = process::fork(|| {
        let allowed = rustix::thread::sched_getaffinity(None);
        let Ok(allowed) = allowed else { return 2 };
        let cpus = (0..rustix::thread::CpuSet::MAX_CPU).filter(|&cpu| allowed.is_set(cpu));
        for cpu in cpus {
            if process::pin_to_cpu(cpu) != Ok(()) || rustix::thread::sched_getcpu() != cpu {
                return 1;
            }
        }
        u8::from(process::pin_to_cpu(100_000) != Err(Errno::INVAL))
    })?;
    assert_eq!(pinned.wait(LONG)?, Some(Exit::Code(0)));
    Ok(())
}

/// Every resource that can run out, in a child that takes it from itself.
fn running_out() -> Result<()> {
    use driftheap::sys::arena::ArenaError;
    use driftheap::sys::map::MapError;
    use driftheap::sys::secret::{SecretArena, SecretError};
    use driftheap::sys::uffd::OpenError;
    use rustix::process::Resource;
    let limit = |resource, current| -> Result<()> {
        let limits = rustix::process::Rlimit { current: Some(current), maximum: Some(current) };
        Ok(rustix::process::setrlimit(resource, limits)?)
    };
    let unprivileged = !rustix::process::geteuid().is_root();
    let (mut fds, _link) = child(|_| {
        let window = Window::reserve(1)?;
        window.map_anonymous(0, 1, Prot::ReadWrite)?;
        limit(Resource::Nofile, 0)?;
        assert_eq!(Arena::create(1, PageKind::Base).err(), Some(ArenaError::NoFd));
        assert_eq!(Uffd::supported(Via::UserModeOnly).err(), Some(OpenError::NoFd));
        assert_eq!(Link::pair().err(), Some(LinkError::NoFd));
        assert_eq!(UringPin::register(window.span(0, 1)).err(), Some(Errno::MFILE));
        assert!(matches!(process::fork(|| 0), Err(SpawnError::NoFd)));
        if SecretArena::create(1).err() != Some(SecretError::Unavailable) {
            assert_eq!(SecretArena::create(1).err(), Some(SecretError::NoFd));
        }
        Ok(())
    })?;
    ended_well(&mut fds)?;
    let (mut memory, _link) = child(|_| {
        limit(Resource::As, 0)?;
        assert_eq!(Window::reserve(1 << 20).err(), Some(MapError::NoMemory));
        Ok(())
    })?;
    ended_well(&mut memory)?;
    if !unprivileged {
        eprintln!("    skipped: RLIMIT_MEMLOCK and RLIMIT_NPROC do not bind root");
        return Ok(());
    }
    let (mut limits, _link) = child(|_| {
        limit(Resource::Memlock, 2 * page_bytes() as u64)?;
        if available("memfd_secret", SecretArena::create(1)).is_some() {
            assert_eq!(SecretArena::create(8).err(), Some(SecretError::LockedMemory(8)));
        }
        let window = Window::reserve(8)?;
        window.map_anonymous(0, 8, Prot::ReadWrite)?;
        assert_eq!(UringPin::register(window.span(0, 8)).err(), Some(Errno::NOMEM));
        limit(Resource::Nproc, 0)?;
        assert!(matches!(process::fork(|| 0), Err(SpawnError::TooMany)));
        Ok(())
    })?;
    ended_well(&mut limits)
}
