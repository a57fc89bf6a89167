//! Arenas, windows, guarded accesses and userfaultfd, within one process.

mod sys_common;

use anyhow::{Context, Result, ensure};
use driftheap::sys::arena::{Arena, ArenaError, PageKind};
use driftheap::sys::map::{MapError, Prot, Sharing, Window};
use driftheap::sys::page::{FrameIndex, Range, page_bytes};
use driftheap::sys::secret::SecretArena;
use driftheap::sys::touch::Touch;
use driftheap::sys::uffd::{
    Features, Fill, FillError, Modes, OpenError, RegisterError, Uffd, UffdEvent, Via,
};
use sys_common::{LONG, available};

const BUS_ADRERR: i32 = 2;
const BUS_MCEERR_AR: i32 = 4;
const SEGV_ACCERR: i32 = 2;

fn arena(frames: u32) -> Result<Arena> {
    Ok(Arena::create(frames, PageKind::Base)?)
}

/// A window of one page that maps frame 0 of `arena`.
fn mapped(arena: &Arena, sharing: Sharing, prot: Prot) -> Result<Window> {
    let window = Window::reserve(1)?;
    window.map(0, arena, FrameIndex(0), 1, sharing, prot)?;
    Ok(window)
}

#[test]
fn accesses_report_value_sigsegv_and_sigbus() -> Result<()> {
    let arena = arena(1)?;
    let window = mapped(&arena, Sharing::Shared, Prot::ReadWrite)?;
    let page = window.span(0, 1);
    assert_eq!(page.store_u64(8, 0x0102_0304_0506_0708), Touch::Value(()));
    assert_eq!(page.load_u64(8), Touch::Value(0x0102_0304_0506_0708));
    assert_eq!(page.load_u8(8), Touch::Value(8));
    assert_eq!(page.store_u8(8, 9), Touch::Value(()));
    assert_eq!(page.fetch_add_u64(8, 1), Touch::Value(0x0102_0304_0506_0709));
    assert_eq!(arena.frame(FrameIndex(0)).load_u8(8), Touch::Value(10), "shared with the alias");

    window.protect(0, 1, Prot::Read)?;
    let (addr, code) = (page.start(), SEGV_ACCERR);
    assert_eq!(page.load_u8(8), Touch::Value(10));
    assert_eq!(page.store_u8(0, 1), Touch::Sigsegv { addr, code });
    assert_eq!(page.store_u64(0, 1), Touch::Sigsegv { addr, code });
    assert_eq!(page.fetch_add_u64(0, 1), Touch::Sigsegv { addr, code });
    assert_eq!(page.write(0, &[1]), Touch::Sigsegv { addr, code });
    window.unmap(0, 1)?;
    assert_eq!(page.load_u8(0), Touch::Sigsegv { addr, code });
    assert_eq!(page.load_u64(0), Touch::Sigsegv { addr, code });
    assert_eq!(page.read(0, &mut [0; 4]), Touch::Sigsegv { addr, code });

    window.map(0, &arena, FrameIndex(0), 1, Sharing::Shared, Prot::ReadWrite)?;
    arena.revoke_all()?;
    assert_eq!(page.load_u8(0), Touch::Sigbus { addr, code: BUS_ADRERR });
    assert_eq!(page.store_u8(0, 1), Touch::Sigbus { addr, code: BUS_ADRERR });
    assert_eq!(arena.fill(FrameIndex(0), 1), Err(ArenaError::Bus(FrameIndex(0))));
    Ok(())
}

#[test]
fn a_fault_inside_a_long_copy_keeps_what_came_before() -> Result<()> {
    let arena = arena(1)?;
    arena.fill(FrameIndex(0), 7)?;
    let window = Window::reserve(2)?;
    window.map(0, &arena, FrameIndex(0), 1, Sharing::Shared, Prot::ReadWrite)?;
    let both = window.span(0, 2);
    let mut bytes = [0; 16];
    let access = both.read(page_bytes() - 8, &mut bytes);
    let second = window.span(1, 1).start();
    assert_eq!(access, Touch::Sigsegv { addr: second, code: SEGV_ACCERR });
    assert_eq!(bytes, [7, 7, 7, 7, 7, 7, 7, 7, 0, 0, 0, 0, 0, 0, 0, 0]);
    Ok(())
}

#[test]
fn accesses_fault_in_many_threads_at_once() -> Result<()> {
    let window = Window::reserve(8)?;
    std::thread::scope(|scope| {
        for slot in 0..8 {
            let page = window.span(slot, 1);
            scope.spawn(move || {
                for _ in 0..1000 {
                    let expected = Touch::Sigsegv { addr: page.start(), code: SEGV_ACCERR };
                    assert_eq!(page.load_u8(0), expected);
                }
            });
        }
    });
    Ok(())
}

#[test]
fn a_fault_of_the_program_itself_still_kills_it() -> Result<()> {
    // The child reads address 1 with an ordinary load, after the handlers were installed.
    if std::env::var_os("DRIFTHEAP_TEST_CRASH").is_some() {
        let window = Window::reserve(1)?;
        assert_eq!(window.span(0, 1).load_u8(0).value(), None);
        // A null pointer made where the compiler can't see it; safe code can't dereference one,
        // so ask libc to.
        crash();
    }
    let status = std::process::Command::new(std::env::current_exe()?)
        .args(["--exact", "a_fault_of_the_program_itself_still_kills_it", "--nocapture"])
        .env("DRIFTHEAP_TEST_CRASH", "1")
        .stderr(std::process::Stdio::null())
        .stdout(std::process::Stdio::null())
        .status()?;
    let signal = std::os::unix::process::ExitStatusExt::signal(&status);
    assert_eq!(signal, Some(libc::SIGSEGV));
    Ok(())
}

#[allow(unsafe_code, reason = "the test is about a fault that is not ours")]
fn crash() {
    // SAFETY: none: this is meant to crash.
    let byte = unsafe { std::ptr::read_volatile(std::hint::black_box(8) as *const u8) };
    eprintln!("address 8 holds {byte}");
}

#[test]
fn frames_are_allocated_punched_and_copied() -> Result<()> {
    let arena = arena(4)?;
    assert_eq!(arena.allocated_frames()?, 0);
    arena.allocate(FrameIndex(1), 1)?;
    assert_eq!(arena.allocated_frames()?, 1);
    assert!(!arena.has_data(FrameIndex(1))?);
    arena.fill(FrameIndex(1), 0x5A)?;
    assert!(arena.has_data(FrameIndex(1))? && !arena.has_data(FrameIndex(2))?);
    arena.copy(FrameIndex(1), FrameIndex(2))?;
    let mut bytes = vec![0; page_bytes()];
    arena.read(FrameIndex(2), &mut bytes)?;
    assert_eq!(bytes, vec![0x5A; page_bytes()]);
    arena.punch(FrameIndex(1))?;
    assert!(!arena.has_data(FrameIndex(1))?);
    assert_eq!(arena.allocated_frames()?, 1);
    arena.peek(FrameIndex(1), &mut bytes)?;
    assert_eq!(bytes, vec![0; page_bytes()]);
    assert!(!arena.has_data(FrameIndex(1))?, "peek allocates nothing");
    arena.read(FrameIndex(1), &mut bytes)?;
    assert!(arena.has_data(FrameIndex(1))?, "read does, like any load");
    Ok(())
}

#[test]
fn huge_pages_that_do_not_exist_are_an_error_and_not_a_signal() -> Result<()> {
    let free = std::fs::read_to_string("/proc/sys/vm/nr_hugepages").context("nr_hugepages")?;
    if free.trim() != "0" {
        eprintln!("skipped: this machine has huge pages");
        return Ok(());
    }
    let error = Arena::create(512, PageKind::Hugetlb2M).err();
    assert_eq!(error, Some(ArenaError::Map(MapError::NoMemory)));
    Ok(())
}

#[test]
fn a_private_mapping_copies_on_the_first_store() -> Result<()> {
    let arena = arena(1)?;
    arena.fill(FrameIndex(0), 1)?;
    let window = mapped(&arena, Sharing::Private, Prot::ReadWrite)?;
    let page = window.span(0, 1);
    assert_eq!(page.load_u8(0), Touch::Value(1));
    arena.fill(FrameIndex(0), 2)?;
    assert_eq!(page.load_u8(0), Touch::Value(2), "no copy yet");
    assert_eq!(page.store_u8(0, 3), Touch::Value(()));
    arena.fill(FrameIndex(0), 4)?;
    assert_eq!(page.load_u8(0), Touch::Value(3));
    assert_eq!(page.load_u8(1), Touch::Value(2), "the copy is of the whole page");
    window.zap(0, 1)?;
    assert_eq!(page.load_u8(0), Touch::Value(4), "zapping drops the copy");
    Ok(())
}

#[test]
fn mremap_takes_the_page_along_and_leaves_the_slot_empty() -> Result<()> {
    let arena = arena(1)?;
    let window = Window::reserve(3)?;
    window.map(0, &arena, FrameIndex(0), 1, Sharing::Private, Prot::ReadWrite)?;
    assert_eq!(window.span(0, 1).store_u8(5, 0x77), Touch::Value(()));
    window.move_pages(0, 2, 1)?;
    assert_eq!(window.span(2, 1).load_u8(5), Touch::Value(0x77), "the private copy moved");
    assert!(matches!(window.span(0, 1).load_u8(5), Touch::Sigsegv { .. }));
    Ok(())
}

#[test]
fn a_secret_arena_holds_bytes_and_refuses_private_mappings() -> Result<()> {
    let Some(secret) = available("memfd_secret", SecretArena::create(2)) else { return Ok(()) };
    secret.fill(FrameIndex(0), 0x11)?;
    secret.copy(FrameIndex(0), FrameIndex(1))?;
    let window = Window::reserve(1)?;
    window.map(0, &secret, FrameIndex(1), 1, Sharing::Shared, Prot::ReadWrite)?;
    assert_eq!(window.span(0, 1).load_u8(9), Touch::Value(0x11));
    let private = window.map(0, &secret, FrameIndex(1), 1, Sharing::Private, Prot::ReadWrite);
    assert_eq!(private, Err(MapError::Unmappable));
    Ok(())
}

/// A userfaultfd with the features that shmem needs, or `None` with the reason printed.
fn uffd(extra: Features) -> Option<Uffd> {
    let features = Features::MISSING_SHMEM | Features::MINOR_SHMEM | extra;
    available("userfaultfd", Uffd::open(Via::UserModeOnly, features))
}

/// Touches `page` in a thread and resolves what it sleeps in with `resolve`.
fn touch_and_resolve<T: Send>(
    uffd: &Uffd,
    touch: impl FnOnce() -> Touch<T> + Send,
    resolve: impl FnOnce(driftheap::sys::uffd::Fault) -> Result<()>,
) -> Result<Touch<T>> {
    std::thread::scope(|scope| {
        let toucher = scope.spawn(touch);
        let event = uffd.wait(LONG)?.context("no fault came")?;
        let UffdEvent::Fault(fault) = event else { anyhow::bail!("not a fault: {event:?}") };
        // An error must not leave the thread asleep: the scope would never end.
        let resolved = resolve(fault);
        if resolved.is_err() {
            uffd.unregister(Range::pages(fault.addr, 1))?;
        }
        let access = toucher.join().map_err(|_| anyhow::anyhow!("the toucher panicked"))?;
        resolved.map(|()| access)
    })
}

#[test]
fn the_three_faults_of_a_trapped_shmem_page() -> Result<()> {
    use driftheap::sys::uffd::FaultKind::{Minor, Missing, WriteProtect};
    let Some(uffd) = uffd(Features::WP_HUGETLBFS_SHMEM) else { return Ok(()) };
    let arena = arena(1)?;
    let window = mapped(&arena, Sharing::Shared, Prot::ReadWrite)?;
    let page = window.span(0, 1);
    uffd.register(page.range(), Modes::MISSING | Modes::MINOR | Modes::WP)?;

    let access = touch_and_resolve(
        &uffd,
        || page.load_u8(3),
        |fault| {
            ensure!(fault.kind == Missing && !fault.write && fault.addr == page.start());
            Ok(uffd.copy(fault.addr, &vec![0xC0; page_bytes()], Fill::Plain)?)
        },
    )?;
    assert_eq!(access, Touch::Value(0xC0));

    window.zap(0, 1)?;
    let access = touch_and_resolve(
        &uffd,
        || page.load_u8(3),
        |fault| {
            ensure!(fault.kind == Minor, "{fault:?}");
            Ok(uffd.continue_(page.range(), Fill::WriteProtected)?)
        },
    )?;
    assert_eq!(access, Touch::Value(0xC0));

    let access = touch_and_resolve(
        &uffd,
        || page.store_u8(3, 0xC1),
        |fault| {
            ensure!(fault.kind == WriteProtect && fault.write, "{fault:?}");
            arena.frame(FrameIndex(0)).store_u8(4, 0xC2).value().context("alias")?;
            Ok(uffd.write_unprotect(page.range())?)
        },
    )?;
    assert_eq!(access, Touch::Value(()));
    assert_eq!(page.load_u8(3), Touch::Value(0xC1));
    assert_eq!(page.load_u8(4), Touch::Value(0xC2));

    uffd.write_protect(page.range())?;
    let access = touch_and_resolve(
        &uffd,
        || page.store_u8(3, 0xC3),
        |fault| {
            ensure!(fault.kind == WriteProtect, "{fault:?}");
            Ok(uffd.write_unprotect(page.range())?)
        },
    )?;
    assert_eq!(access, Touch::Value(()));

    arena.punch(FrameIndex(0))?;
    let access = touch_and_resolve(
        &uffd,
        || page.load_u8(3),
        |fault| {
            ensure!(fault.kind == Missing, "{fault:?}");
            Ok(uffd.zeropage(page.range(), Fill::Plain)?)
        },
    )?;
    assert_eq!(access, Touch::Value(0));
    Ok(())
}

#[test]
fn a_poisoned_page_is_sigbus_as_a_value() -> Result<()> {
    let Some(uffd) = uffd(Features::POISON) else { return Ok(()) };
    let arena = arena(1)?;
    arena.fill(FrameIndex(0), 6)?;
    let window = mapped(&arena, Sharing::Shared, Prot::ReadWrite)?;
    let page = window.span(0, 1);
    uffd.register(page.range(), Modes::MISSING | Modes::MINOR)?;
    uffd.continue_(page.range(), Fill::Plain)?;
    assert_eq!(page.load_u8(0), Touch::Value(6));
    assert_eq!(uffd.poison(page.range()), Err(FillError::Present));
    window.zap(0, 1)?;
    uffd.poison(page.range())?;
    // Which of the two codes depends on CONFIG_MEMORY_FAILURE.
    for access in [page.load_u8(0).map(drop), page.store_u8(0, 1)] {
        let Touch::Sigbus { addr, code } = access else { panic!("{access:?}") };
        assert_eq!(addr, page.start());
        assert!([BUS_ADRERR, BUS_MCEERR_AR].contains(&code), "si_code {code}");
    }
    assert_eq!(arena.frame(FrameIndex(0)).load_u8(0), Touch::Value(6), "the frame is untouched");
    // A poisoned page stays so until its PTE marker goes with the mapping's PTEs.
    window.zap(0, 1)?;
    uffd.continue_(page.range(), Fill::Plain)?;
    assert_eq!(page.load_u8(0), Touch::Value(6));
    Ok(())
}

#[test]
fn each_errno_has_its_meaning() -> Result<()> {
    let Some(uffd) = uffd(Features::empty()) else { return Ok(()) };
    let arena = arena(2)?;
    let window = Window::reserve(2)?;
    window.map(0, &arena, FrameIndex(0), 2, Sharing::Shared, Prot::ReadWrite)?;
    let (page, other) = (window.span(0, 1).range(), window.span(1, 1).range());
    assert_eq!(uffd.zeropage(page, Fill::Plain), Err(FillError::NotRegistered));
    uffd.register(page, Modes::MISSING | Modes::MINOR)?;
    assert_eq!(uffd.continue_(page, Fill::Plain), Err(FillError::NoPage), "a hole");
    uffd.zeropage(page, Fill::Plain)?;
    assert_eq!(uffd.zeropage(page, Fill::Plain), Err(FillError::Present));
    assert_eq!(uffd.zeropage(other, Fill::Plain), Err(FillError::NotRegistered));
    let odd = Range { len_bytes: 100, ..page };
    assert_eq!(uffd.zeropage(odd, Fill::Plain), Err(FillError::Invalid));
    assert_eq!(uffd.register(odd, Modes::MISSING), Err(RegisterError::Untrappable));

    let second = self::uffd(Features::empty()).context("a second userfaultfd")?;
    assert_eq!(second.register(page, Modes::MISSING), Err(RegisterError::Taken));
    if let Some(secret) = available("memfd_secret", SecretArena::create(1)) {
        let range = secret.frame(FrameIndex(0)).range();
        assert_eq!(second.register(range, Modes::MISSING), Err(RegisterError::Untrappable));
    }
    let unknown = Features::from_bits_retain(1 << 60);
    let error = Uffd::open(Via::UserModeOnly, unknown).err();
    assert_eq!(error, Some(OpenError::MissingFeatures { missing: unknown }));
    Ok(())
}

#[test]
fn remove_is_reported_when_asked_for() -> Result<()> {
    let Some(uffd) = uffd(Features::EVENT_REMOVE) else { return Ok(()) };
    let arena = arena(1)?;
    let window = mapped(&arena, Sharing::Shared, Prot::ReadWrite)?;
    let range = window.span(0, 1).range();
    uffd.register(range, Modes::MISSING)?;
    std::thread::scope(|scope| {
        // The caller sleeps until the event is read.
        let zapper = scope.spawn(|| window.zap(0, 1));
        let event = uffd.wait(LONG)?.context("no event came")?;
        ensure!(matches!(event, UffdEvent::Remove(removed) if removed == range), "{event:?}");
        zapper.join().map_err(|_| anyhow::anyhow!("the zapper panicked"))??;
        Ok(())
    })
}

/// What a client sends as its userfaultfd is looked at: the ioctls of another kind of file may do
/// anything, and a read of it may never end.
#[test]
fn only_a_userfaultfd_is_taken_for_one() {
    use driftheap::sys::uffd::Uffd;
    let file = driftheap::sys::backing::memfd("other").unwrap();
    assert_eq!(Uffd::adopt(file).unwrap_err(), rustix::io::Errno::BADF);
    let (read, _write) = rustix::pipe::pipe().unwrap();
    assert_eq!(Uffd::adopt(read).unwrap_err(), rustix::io::Errno::BADF);
}
