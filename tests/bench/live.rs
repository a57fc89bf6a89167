//! What a live move costs: `cargo bench --bench live`.
//!
//! First the move of a buffer that one process has mapped and touched, beside the bare system calls
//! that it can't do without and beside a memcpy of as many bytes, in turn, so that a busy moment of
//! the machine hits all alike. Then how much slower a program that does nothing but store to its
//! buffer gets while the buffer moves.
#![allow(
    clippy::print_stdout,
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_precision_loss,
    dead_code,
    missing_docs,
    reason = "a benchmark prints, and stops when something is missing"
)]

#[path = "../../src/conformance/exporters.rs"]
mod exporters;
#[path = "../../src/conformance/kit.rs"]
mod kit;
#[path = "../../src/conformance/node.rs"]
mod node;
#[path = "../../src/sys/raw.rs"]
mod raw;

/// Where the kit looks for it.
mod sys {
    pub(crate) use super::raw;
    pub(crate) use driftheap::sys::arch;
}

use std::os::fd::{AsFd, OwnedFd};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use driftheap::device::live::mover::FEATURES;
use driftheap::device::live::{Mapping, Mover, Sabotage};
use driftheap::report::chart::{self, Bar};
use driftheap::sys::link::Link;
use driftheap::sys::map::{Prot, Sharing, Window};
use driftheap::sys::page::{Addr, FrameIndex, Range, page_bytes};
use driftheap::sys::process;
use driftheap::sys::store::CHUNK_PAGES;
use driftheap::sys::uffd::{Fill, Modes, Uffd, Via};
use kit::{PROT_RW, RDWR, SHARED, mmap};
use rustix::fs::FallocateFlags;

const LONG: Duration = Duration::from_secs(60);

/// A process that maps the file, sends its userfaultfd and touches every page when told to.
fn client(link: &Link, file: &OwnedFd, pages: usize) -> Option<()> {
    let window = Window::reserve(pages).ok()?;
    window.map(0, file, FrameIndex(0), pages, Sharing::Shared, Prot::ReadWrite).ok()?;
    let uffd = Uffd::open(Via::UserModeOnly, FEATURES).ok()?;
    let span = window.span(0, pages);
    uffd.register(span.range(), Modes::MISSING | Modes::WP).ok()?;
    link.send(&span.start().0.to_ne_bytes(), &[uffd.as_fd()]).ok()?;
    let mut told = [0; 8];
    while link.receive(&mut told, LONG).is_ok() {
        for page in 0..pages {
            span.store_u64(page * page_bytes(), 1).value()?;
        }
        link.send(&[1], &[]).ok()?;
    }
    Some(())
}

/// The bare calls, through an alias of our own for the refill.
fn bare(file: &OwnedFd, alias: (&Uffd, Addr), at: (&Uffd, Addr), pages: usize, copy: &mut [u8]) {
    for first in (0..pages).step_by(CHUNK_PAGES) {
        let count = CHUNK_PAGES.min(pages - first);
        let offset = (first * page_bytes()) as u64;
        let copy = &mut copy[..count * page_bytes()];
        let range = Range::pages(Addr(at.1.0 + offset), count);
        at.0.write_protect(range).unwrap();
        assert_eq!(rustix::io::pread(file, &mut *copy, offset), Ok(copy.len()));
        let mode = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        rustix::fs::fallocate(file, mode, offset, copy.len() as u64).unwrap();
        alias.0.copy(Addr(alias.1.0 + offset), copy, Fill::Plain).unwrap();
        at.0.write_unprotect(range).unwrap();
    }
}

fn median(mut runs: Vec<f64>) -> f64 {
    runs.sort_by(f64::total_cmp);
    runs[runs.len() / 2]
}

/// Microseconds of a move by the exporter, of the bare calls and of a memcpy.
fn moves(pages: usize, rounds: usize) -> [f64; 3] {
    let file = driftheap::sys::backing::memfd("dmabuf").unwrap();
    rustix::fs::ftruncate(&file, (pages * page_bytes()) as u64).unwrap();
    let (ours, theirs) = Link::pair().unwrap();
    let child = process::fork(|| u8::from(client(&theirs, &file, pages).is_none())).unwrap();
    let mut address = [0; 8];
    let (_, mut fds) = ours.receive(&mut address, LONG).unwrap();
    let uffd = Arc::new(Uffd::adopt(fds.remove(0)).unwrap());
    let start = Addr(u64::from_ne_bytes(address));
    let mappings = [Mapping { uffd: Arc::clone(&uffd), start, first: 0, pages }];
    let mut mover = Mover::new(Sabotage::None).unwrap();
    let store = mover.adopt(file.try_clone().unwrap(), pages).unwrap();
    let window = Window::reserve(pages).unwrap();
    window.map(0, &file, FrameIndex(0), pages, Sharing::Shared, Prot::ReadWrite).unwrap();
    let own = Uffd::open(Via::UserModeOnly, FEATURES).unwrap();
    own.register(window.span(0, pages).range(), Modes::MISSING).unwrap();
    let alias = window.span(0, pages).start();
    let mut copy = vec![1; CHUNK_PAGES * page_bytes()];
    let from = vec![1u8; pages * page_bytes()];
    let mut to = vec![2u8; pages * page_bytes()];
    let touch = || {
        ours.send(&[1], &[]).unwrap();
        ours.receive(&mut [0; 8], LONG).unwrap();
    };
    let mut runs = [Vec::new(), Vec::new(), Vec::new()];
    for _ in 0..rounds {
        for (which, runs) in runs.iter_mut().enumerate() {
            touch();
            let started = Instant::now();
            match which {
                0 => drop(mover.relocate(1, &store, &mappings, 0, pages).unwrap()),
                1 => bare(&file, (&own, alias), (&uffd, start), pages, &mut copy),
                _ => to.copy_from_slice(std::hint::black_box(&from)),
            }
            runs.push(started.elapsed().as_nanos() as f64 / 1000.0);
        }
    }
    std::hint::black_box(&to);
    drop(ours);
    drop(child);
    runs.map(median)
}

/// Stores to every word of a buffer for a while; prints how many a second, in millions.
fn child_stores() {
    const LEN: u64 = 4 << 20;
    let fd = kit::alloc(LEN, RDWR).unwrap() as u64;
    let map = mmap(fd, LEN, PROT_RW, SHARED, 0).unwrap() as u64;
    let started = Instant::now();
    let mut rounds = 0u32;
    while started.elapsed() < Duration::from_millis(1500) {
        for at in (0..LEN).step_by(4) {
            raw::poke32(map + at, rounds);
        }
        rounds += 1;
    }
    let stores = f64::from(rounds) * (LEN / 4) as f64;
    println!("{}", stores / started.elapsed().as_secs_f64() / 1e6);
}

/// Millions of stores a second, and moves made a second.
fn stores(options: &[&str]) -> (f64, f64) {
    let own = std::env::current_exe().unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_driftheap"));
    command.arg("run").args(options).arg("--").arg(own).arg("child-stores");
    let output = command.output().unwrap();
    let summary = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{summary}");
    let moves = summary.split(" moves of").next().unwrap().rsplit(' ').next();
    let moves = moves.and_then(|moves| moves.parse::<f64>().ok()).unwrap_or(0.0);
    (String::from_utf8(output.stdout).unwrap().trim().parse().unwrap(), moves / 1.5)
}

fn main() {
    if std::env::args().nth(1).as_deref() == Some("child-stores") {
        return child_stores();
    }
    println!("a move of one buffer, mapped and touched by one process, microseconds, median");
    for (name, pages, rounds) in [("4 KiB", 1, 2001), ("2 MiB", 512, 201), ("64 MiB", 16384, 15)] {
        let [live, bare, memcpy] = moves(pages, rounds);
        println!(
            "  {name:>6}: {live:9.1}   {:.2} x the bare calls ({bare:.1}), {:.1} x memcpy ({memcpy:.1})",
            live / bare,
            live / memcpy
        );
    }
    println!("\na program that stores to a 4 MiB buffer, 10^6 stores a second, best of 3 in turn");
    let levels: [(&str, &[&str]); 5] = [
        ("run", &["--heap", "system,mmap=shmem"]),
        ("run --live, no moves", &["--live"]),
        ("--chaos, 100 a second", &["--chaos", "1,rate=100"]),
        ("--chaos, 1,000 a second", &["--chaos", "1,rate=1000"]),
        ("--chaos, 10,000 a second", &["--chaos", "1,rate=10000"]),
    ];
    let mut best = [(0.0f64, 0.0f64); 5];
    for _ in 0..3 {
        for (best, (_, options)) in best.iter_mut().zip(levels) {
            let (rate, moved) = stores(options);
            if rate > best.0 {
                *best = (rate, moved);
            }
        }
    }
    let mut bars = Vec::new();
    for ((rate, moved), (name, _)) in best.iter().zip(levels) {
        let (label, value) = (name.to_owned(), best[0].0 / rate);
        bars.push(Bar { label, value, said: format!("{value:.2} x"), marked: false });
        println!(
            "  {name:<26} {rate:8.1}   {:.2} x as long, {moved:.0} moves a second made",
            best[0].0 / rate
        );
    }
    print!("{}", chart::text(&bars));
}
