//! The mover under writers in several processes: no update is lost, and without the write
//! protection some are.
//!
//! fork needs a process with one thread, so this is its own harness: `main` runs the checks one
//! after the other.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test fails by panicking, and this one is its own harness"
)]

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use driftheap::device::live::mover::FEATURES;
use driftheap::device::live::{Mapping, Mover, Sabotage};
use driftheap::sys::link::Link;
use driftheap::sys::map::{Prot, Sharing, Window};
use driftheap::sys::page::{Addr, FrameIndex, page_bytes};
use driftheap::sys::process::{self, Child, Exit};
use driftheap::sys::store::Store;
use driftheap::sys::uffd::{Modes, Uffd, Via};

const PAGES: usize = 64;
const LONG: Duration = Duration::from_secs(60);

fn main() {
    if let Err(error) = Mover::new(Sabotage::None) {
        eprintln!("SKIP: {error}");
        return;
    }
    check("one writer, single pages", 1, 1, 20_000, Sabotage::None);
    check("three writers, single pages", 3, 1, 20_000, Sabotage::None);
    check("two writers, runs of pages", 2, 16, 5_000, Sabotage::None);
    losses_are_seen_without_protection();
    println!("truncated buffers are SIGBUS");
    truncated_buffers_are_sigbus();
}

/// A process that counts in a buffer's pages: word `slot` of every page, in turn.
struct Writer {
    child: Child,
    link: Link,
    mapping: Mapping,
}

/// Counts until the link says stop, then sends what it counted for each page.
fn count(link: &Link, file: &OwnedFd, slot: usize) -> Option<()> {
    let window = Window::reserve(PAGES).ok()?;
    window.map(0, file, FrameIndex(0), PAGES, Sharing::Shared, Prot::ReadWrite).ok()?;
    let uffd = Uffd::open(Via::UserModeOnly, FEATURES).ok()?;
    let span = window.span(0, PAGES);
    uffd.register(span.range(), Modes::MISSING | Modes::WP).ok()?;
    link.send(&span.start().0.to_ne_bytes(), &[uffd.as_fd()]).ok()?;
    drop(uffd);
    let mut counts = [0u64; PAGES];
    let mut stop = [0; 8];
    while link.receive(&mut stop, Duration::ZERO).is_err() {
        for round in 0..256 {
            let page = (round * 7 + slot) % PAGES;
            // A load and a store, as `counter++` compiles.
            let at = page * page_bytes() + slot * 8;
            let seen = span.load_u64(at).value()?;
            if seen != counts[page] {
                link.send(&[1], &[]).ok()?;
                return None;
            }
            counts[page] += 1;
            span.store_u64(at, counts[page]).value()?;
        }
    }
    let bytes: Vec<u8> = counts.iter().flat_map(|count| count.to_ne_bytes()).collect();
    link.send(&bytes, &[]).ok()
}

fn start(file: &OwnedFd, slot: usize) -> Writer {
    let (ours, theirs) = Link::pair().unwrap();
    let child = process::fork(|| u8::from(count(&theirs, file, slot).is_none())).unwrap();
    let mut address = [0; 8];
    let (_, mut fds) = ours.receive(&mut address, LONG).unwrap();
    let uffd = Arc::new(Uffd::adopt(fds.remove(0)).unwrap());
    let start = Addr(u64::from_ne_bytes(address));
    let mapping = Mapping { uffd, start, first: 0, pages: PAGES };
    Writer { child, link: ours, mapping }
}

/// A buffer and the mover's view of it.
fn buffer(mover: &Mover) -> (Store, OwnedFd) {
    let file = driftheap::sys::backing::memfd("dmabuf").unwrap();
    rustix::fs::ftruncate(&file, (PAGES * page_bytes()) as u64).unwrap();
    let other = file.try_clone().unwrap();
    (mover.adopt(file, PAGES).unwrap(), other)
}

/// Moves pages under `writers`; returns how many updates were lost.
fn lost(writers: usize, run: usize, moves: usize, sabotage: Sabotage) -> u64 {
    let mut mover = Mover::new(sabotage).unwrap();
    let (store, file) = buffer(&mover);
    let mut writers: Vec<Writer> = (0..writers).map(|slot| start(&file, slot)).collect();
    let mappings: Vec<Mapping> = writers.iter().map(|writer| writer.mapping.clone()).collect();
    for number in 0..moves {
        let first = (number * 31) % (PAGES - run + 1);
        let moved = mover.relocate(1, &store, &mappings, first, run).unwrap();
        assert_eq!((moved.pages, moved.conflicts), (run as u64, 0));
    }
    let mut lost = 0;
    let window = Window::reserve(PAGES).unwrap();
    window.map(0, &file, FrameIndex(0), PAGES, Sharing::Shared, Prot::Read).unwrap();
    for (slot, writer) in writers.iter_mut().enumerate() {
        // A writer that has noticed a loss itself is gone already.
        let _ = writer.link.send(&[1], &[]);
        let mut bytes = [0; PAGES * 8];
        let (len, _) = writer.link.receive(&mut bytes, LONG).unwrap();
        let exit = writer.child.wait(LONG).unwrap();
        if len == 1 {
            assert_eq!(exit, Some(Exit::Code(1)));
            lost += 1;
            continue;
        }
        assert_eq!(exit, Some(Exit::Code(0)), "writer {slot}");
        for (page, count) in bytes.chunks_exact(8).enumerate() {
            let wrote = u64::from_ne_bytes(*count.first_chunk().unwrap());
            let found = window.span(page, 1).load_u64(slot * 8).value().unwrap();
            lost += wrote.abs_diff(found);
        }
    }
    lost
}

fn check(name: &str, writers: usize, run: usize, moves: usize, sabotage: Sabotage) {
    let started = Instant::now();
    let lost = lost(writers, run, moves, sabotage);
    println!("{name}: {moves} moves, {:?}, {lost} lost", started.elapsed());
    assert_eq!(lost, 0, "{name}");
}

/// The same writers notice that the first step is missing; how soon is chance, so it is tried until
/// they do.
fn losses_are_seen_without_protection() {
    let started = Instant::now();
    while lost(2, 16, 2_000, Sabotage::NoProtect) == 0 {
        assert!(started.elapsed() < LONG, "no loss without write protection");
    }
    println!("without protection: losses after {:?}", started.elapsed());
}

fn truncated_buffers_are_sigbus() {
    use driftheap::sys::touch::Touch;
    let mover = Mover::new(Sabotage::None).unwrap();
    let (store, file) = buffer(&mover);
    let window = Window::reserve(PAGES).unwrap();
    window.map(0, &file, FrameIndex(0), PAGES, Sharing::Shared, Prot::ReadWrite).unwrap();
    let uffd = Uffd::open(Via::UserModeOnly, FEATURES).unwrap();
    uffd.register(window.span(0, PAGES).range(), Modes::MISSING | Modes::WP).unwrap();
    assert_eq!(window.span(3, 1).store_u64(0, 5), Touch::Value(()));
    store.truncate().unwrap();
    for page in [0, 3] {
        assert!(matches!(window.span(page, 1).load_u64(0), Touch::Sigbus { .. }), "page {page}");
    }
}
