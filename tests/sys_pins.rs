//! What each kernel pin does when the memory under it changes hands.

mod sys_common;

use anyhow::Result;
use driftheap::sys::arena::{Arena, PageKind};
use driftheap::sys::map::{Prot, Sharing, Window};
use driftheap::sys::page::{FrameIndex, Span, page_bytes};
use driftheap::sys::pin::{DirectFile, UringPin, VmsplicePin};
use driftheap::sys::secret::SecretArena;
use driftheap::sys::touch::Touch;
use driftheap::sys::uffd::{Features, Modes, Uffd, Via};
use rustix::io::Errno;
use sys_common::{LONG, available};

/// An arena of two frames, the first mapped in a window of one slot.
fn mapped(sharing: Sharing) -> Result<(Arena, Window)> {
    let arena = Arena::create(2, PageKind::Base)?;
    arena.fill(FrameIndex(0), 0xAA)?;
    let window = Window::reserve(1)?;
    window.map(0, &arena, FrameIndex(0), 1, sharing, Prot::ReadWrite)?;
    Ok((arena, window))
}

/// A registered buffer, or `None` where there is no io_uring. EFAULT is an answer, not an absence.
fn register(span: Span<'_>) -> Option<Result<UringPin, Errno>> {
    match UringPin::register(span) {
        Err(errno @ (Errno::NOSYS | Errno::PERM)) => {
            eprintln!("skipped: no io_uring here: {errno}");
            None
        }
        result => Some(result),
    }
}

fn bytes_of(arena: &Arena, frame: FrameIndex) -> Result<Vec<u8>> {
    let mut bytes = vec![0; page_bytes()];
    arena.read(frame, &mut bytes)?;
    Ok(bytes)
}

#[test]
fn a_stale_pte_and_a_stale_pin_reach_the_next_owner_of_a_carveout_frame() -> Result<()> {
    let (arena, window) = mapped(Sharing::Shared)?;
    let Some(pin) = register(window.span(0, 1)) else { return Ok(()) };
    let mut pin = pin?;
    pin.start_to_memory(0, page_bytes())?;

    // The frame goes to another buffer; neither the PTE nor the pin is told.
    arena.fill(FrameIndex(0), 0xBB)?;
    assert_eq!(window.span(0, 1).load_u8(7), Touch::Value(0xBB), "cross-buffer read");

    assert!(pin.is_in_flight());
    pin.feed(&vec![0xDD; page_bytes()])?;
    assert_eq!(pin.complete(LONG)?, page_bytes());
    assert_eq!(bytes_of(&arena, FrameIndex(0))?, vec![0xDD; page_bytes()], "cross-buffer write");

    arena.fill(FrameIndex(0), 0xBC)?;
    pin.start_from_memory(0, page_bytes())?;
    pin.release()?;
    assert_eq!(pin.complete(LONG)?, page_bytes());
    let mut leaked = vec![0; page_bytes()];
    pin.taken(&mut leaked)?;
    assert_eq!(leaked, vec![0xBC; page_bytes()], "the device reads the other buffer");
    Ok(())
}

#[test]
fn a_transfer_is_in_flight_until_it_is_fed() -> Result<()> {
    let (_arena, window) = mapped(Sharing::Shared)?;
    let Some(pin) = register(window.span(0, 1)) else { return Ok(()) };
    let mut pin = pin?;
    pin.start_to_memory(16, 8)?;
    let soon = std::time::Duration::from_millis(1);
    assert_eq!(pin.complete(soon), Err(Errno::TIME));
    assert_eq!(pin.start_to_memory(0, 8), Err(Errno::BUSY));
    assert_eq!(window.span(0, 1).load_u8(16), Touch::Value(0xAA));
    pin.feed(&[1, 2, 3, 4, 5, 6, 7, 8])?;
    assert_eq!(pin.complete(LONG), Ok(8));
    assert_eq!(window.span(0, 1).load_u64(16), Touch::Value(0x0807_0605_0403_0201));
    assert_eq!(window.span(0, 1).load_u8(15), Touch::Value(0xAA));
    assert_eq!(window.span(0, 1).load_u8(24), Touch::Value(0xAA));
    Ok(pin.unregister()?)
}

#[test]
fn a_held_read_takes_the_bytes_when_it_is_let_go() -> Result<()> {
    let arena = Arena::create(2, PageKind::Base)?;
    arena.fill(FrameIndex(0), 1)?;
    arena.fill(FrameIndex(1), 2)?;
    let window = Window::reserve(2)?;
    window.map(0, &arena, FrameIndex(0), 2, Sharing::Shared, Prot::ReadWrite)?;
    let Some(pin) = register(window.span(0, 2)) else { return Ok(()) };
    let mut pin = pin?;
    pin.start_from_memory(0, 2 * page_bytes())?;
    arena.fill(FrameIndex(1), 3)?;
    pin.release()?;
    assert_eq!(pin.complete(LONG)?, 2 * page_bytes());
    let mut taken = vec![0; 2 * page_bytes()];
    pin.taken(&mut taken)?;
    assert_eq!(taken[..page_bytes()], vec![1; page_bytes()]);
    assert_eq!(taken[page_bytes()..], vec![3; page_bytes()]);
    Ok(())
}

#[test]
fn a_pin_keeps_a_punched_page_as_an_orphan() -> Result<()> {
    let (arena, window) = mapped(Sharing::Shared)?;
    let Some(pin) = register(window.span(0, 1)) else { return Ok(()) };
    let mut pin = pin?;
    arena.punch(FrameIndex(0))?;
    arena.fill(FrameIndex(0), 0xEE)?;
    pin.start_to_memory(0, page_bytes())?;
    pin.feed(&vec![0xDD; page_bytes()])?;
    assert_eq!(pin.complete(LONG)?, page_bytes(), "the transfer succeeds");
    assert_eq!(bytes_of(&arena, FrameIndex(0))?, vec![0xEE; page_bytes()], "and nobody sees it");
    assert_eq!(window.span(0, 1).load_u8(0), Touch::Value(0xEE));
    pin.start_from_memory(0, page_bytes())?;
    pin.release()?;
    pin.complete(LONG)?;
    let mut taken = vec![0; page_bytes()];
    pin.taken(&mut taken)?;
    assert_eq!(taken, vec![0xDD; page_bytes()], "the device goes on with its orphan");
    Ok(())
}

#[test]
fn get_user_pages_refuses_a_secret_arena() -> Result<()> {
    let Some(secret) = available("memfd_secret", SecretArena::create(1)) else { return Ok(()) };
    secret.fill(FrameIndex(0), 5)?;
    let page = secret.frame(FrameIndex(0));
    if let Some(pin) = register(page) {
        assert_eq!(pin.err(), Some(Errno::FAULT), "io_uring");
    }
    assert_eq!(VmsplicePin::take(page).err(), Some(Errno::FAULT), "vmsplice");
    if let Some(file) = direct_file() {
        assert_eq!(file.write_from(page), Err(Errno::FAULT), "O_DIRECT write");
        let window = Window::reserve(1)?;
        window.map_anonymous(0, 1, Prot::ReadWrite)?;
        file.write_from(window.span(0, 1))?;
        assert_eq!(file.read_into(page), Err(Errno::FAULT), "O_DIRECT read");
    }
    assert_eq!(page.load_u8(0), Touch::Value(5));
    Ok(())
}

#[test]
fn a_trapped_page_cannot_be_pinned_until_it_is_touched() -> Result<()> {
    let features = Features::MISSING_SHMEM | Features::MINOR_SHMEM;
    let uffd = Uffd::open(Via::UserModeOnly, features);
    let Some(uffd) = available("userfaultfd", uffd) else { return Ok(()) };
    let (_arena, window) = mapped(Sharing::Shared)?;
    let page = window.span(0, 1);
    uffd.register(page.range(), Modes::MISSING | Modes::MINOR)?;
    if let Some(pin) = register(page) {
        assert_eq!(pin.err(), Some(Errno::FAULT), "io_uring");
    }
    assert_eq!(VmsplicePin::take(page).err(), Some(Errno::FAULT));
    uffd.continue_(page.range(), driftheap::sys::uffd::Fill::Plain)?;
    if let Some(pin) = register(page) {
        pin?.unregister()?;
    }
    let mut byte = [0];
    VmsplicePin::take(page)?.read(&mut byte)?;
    assert_eq!(byte, [0xAA]);
    Ok(())
}

#[test]
fn vmsplice_of_a_private_page_keeps_the_bytes_from_before_the_copy() -> Result<()> {
    let (arena, window) = mapped(Sharing::Private)?;
    let page = window.span(0, 1);
    let mut pin = VmsplicePin::take(page)?;
    assert_eq!(page.store_u8(0, 0x33), Touch::Value(()));
    let mut seen = [0; 2];
    pin.read(&mut seen)?;
    assert_eq!(seen, [0xAA, 0xAA], "the pipe holds the file's page");
    assert_eq!(page.load_u8(0), Touch::Value(0x33), "the mapping has its own");
    assert_eq!(arena.frame(FrameIndex(0)).load_u8(0), Touch::Value(0xAA));
    Ok(())
}

#[test]
fn vmsplice_of_a_shared_page_shows_later_stores_until_the_page_is_punched() -> Result<()> {
    let (arena, window) = mapped(Sharing::Shared)?;
    let mut pin = VmsplicePin::take(window.span(0, 1))?;
    assert_eq!(window.span(0, 1).store_u8(0, 0x33), Touch::Value(()));
    let mut seen = [0; 2];
    pin.read(&mut seen)?;
    assert_eq!(seen, [0x33, 0xAA]);
    arena.punch(FrameIndex(0))?;
    arena.fill(FrameIndex(0), 0x44)?;
    pin.read(&mut seen)?;
    assert_eq!(seen, [0xAA, 0xAA], "the old page");
    assert_eq!(pin.read(&mut vec![0; page_bytes()]), Err(Errno::INVAL), "less is left");
    Ok(())
}

#[test]
fn io_uring_registration_breaks_cow_first_so_it_stays_coherent() -> Result<()> {
    let (arena, window) = mapped(Sharing::Private)?;
    let page = window.span(0, 1);
    let Some(pin) = register(page) else { return Ok(()) };
    let mut pin = pin?;
    assert_eq!(page.store_u8(0, 0x33), Touch::Value(()));
    pin.start_from_memory(0, 1)?;
    pin.release()?;
    pin.complete(LONG)?;
    let mut seen = [0];
    pin.taken(&mut seen)?;
    assert_eq!(seen, [0x33], "the pin is of the private copy");
    assert_eq!(arena.frame(FrameIndex(0)).load_u8(0), Touch::Value(0xAA));
    Ok(())
}

#[test]
fn o_direct_transfers_go_to_the_mapped_page() -> Result<()> {
    let Some(file) = direct_file() else { return Ok(()) };
    let (arena, window) = mapped(Sharing::Shared)?;
    file.write_from(window.span(0, 1))?;
    arena.fill(FrameIndex(0), 0)?;
    file.read_into(window.span(0, 1))?;
    assert_eq!(bytes_of(&arena, FrameIndex(0))?, vec![0xAA; page_bytes()]);
    window.unmap(0, 1)?;
    assert_eq!(file.read_into(window.span(0, 1)), Err(Errno::FAULT));
    Ok(())
}

#[test]
fn tmpfs_is_not_taken_for_a_direct_file_system() {
    if let Err(errno) = DirectFile::create("/dev/shm".as_ref()) {
        assert!([Errno::OPNOTSUPP, Errno::NOENT, Errno::ACCESS].contains(&errno), "{errno}");
    } else {
        let magic = rustix::fs::statfs("/dev/shm").map(|stat| stat.f_type);
        assert_ne!(magic, Ok(0x0102_1994), "tmpfs copies through the page cache");
    }
}

fn direct_file() -> Option<DirectFile> {
    available("O_DIRECT in the temporary directory", DirectFile::create(&std::env::temp_dir()))
}
