//! What the real-memory layer costs, as ratios within one run.
//!
//! `cargo bench --bench sys`. What is compared runs in turn, round by round, and the best round of
//! each is printed, so that a busy machine blurs the ratios little. It forks, so it has one thread
//! until the in-process cases at the end.
//!
//! * *fault*: a load of a page that has no PTE, resolved with UFFDIO_CONTINUE by another thread or
//!   process: our `Uffd` against a loop of bare system calls;
//! * *call*: a request and its reply through a mailbox, against a pipe and a link;
//! * *move*: 64 MiB copied between frames, against memcpy of as much;
//! * *zap*: punching one frame, by the number of processes that map it.

#![allow(unsafe_code, reason = "the bare loops that we are compared with")]
#![allow(clippy::print_stdout, reason = "a bench prints its figures")]

use std::hint::black_box;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use driftheap::sys::arena::{Arena, PageKind};
use driftheap::sys::link::Link;
use driftheap::sys::mailbox::{Mailbox, Pace};
use driftheap::sys::map::{Prot, Sharing, Window};
use driftheap::sys::page::{FrameIndex, Range, page_bytes};
use driftheap::sys::process::{self, Child};
use driftheap::sys::touch::Touch;
use driftheap::sys::uffd::{Features, Fill, Modes, Uffd, UffdEvent, Via};
use driftheap::uapi::userfaultfd as uapi;
use rustix::process::PidfdFlags;

const LONG: Duration = Duration::from_secs(60);
/// Faults in a round.
const FAULTS: u32 = 512;
const ROUNDS: usize = 30;
const CALLS: u32 = 2000;
const MOVE_FRAMES: u32 = 16384;

fn main() -> Result<()> {
    let cpus = std::thread::available_parallelism()?.get();
    let placements: &[(&str, usize)] =
        if cpus > 1 { &[("one core", 0), ("across cores", 1)] } else { &[("one core", 0)] };
    for &(placement, cpu) in placements {
        call(placement, cpu)?;
        print_fault(&format!("cross-process, {placement}"), &fault_cross_process(cpu)?);
    }
    zap()?;
    moves()?;
    for &(placement, cpu) in placements {
        print_fault(&format!("in-process, {placement}"), &fault_in_process(cpu)?);
    }
    Ok(())
}

/// Rounds alternate: ours, bare, ours, bare.
fn print_fault(what: &str, rounds: &[f64]) {
    let every_second = |first: usize| best(rounds.iter().skip(first).step_by(2));
    let (ours, bare) = (every_second(0), every_second(1));
    println!("fault  {what:30} ours {ours:7.2} us  bare {bare:7.2} us  ratio {:5.2}", ours / bare);
}

fn best<'a>(values: impl IntoIterator<Item = &'a f64>) -> f64 {
    values.into_iter().copied().fold(f64::INFINITY, f64::min)
}

fn micros(since: Instant, count: u32) -> f64 {
    since.elapsed().as_secs_f64() * 1e6 / f64::from(count)
}

/// Serves all rounds' faults, ours and bare in turn.
fn serve(uffd: &Uffd) -> Result<()> {
    for round in 0..ROUNDS {
        for _ in 0..FAULTS {
            if round % 2 == 1 {
                bare_service(uffd.as_fd().as_raw_fd());
                continue;
            }
            let event = uffd.wait(LONG)?.context("no fault came")?;
            let UffdEvent::Fault(fault) = event else { anyhow::bail!("{event:?}") };
            uffd.continue_(Range::pages(fault.addr, 1), Fill::Plain)?;
        }
    }
    Ok(())
}

/// poll, read, ioctl: what the shortest pager in C does for a fault.
fn bare_service(fd: i32) {
    let mut poll = libc::pollfd { fd, events: libc::POLLIN, revents: 0 };
    // SAFETY: one pollfd.
    unsafe { libc::poll(&raw mut poll, 1, -1) };
    let mut message = [0_u64; 4];
    // SAFETY: a uffd_msg is 32 bytes.
    unsafe { libc::read(fd, message.as_mut_ptr().cast(), 32) };
    let range = uapi::uffdio_range { start: message[2] & !0xFFF, len: 4096 };
    let mut arg = uapi::uffdio_continue { range, mode: 0, mapped: 0 };
    // SAFETY: UFFDIO_CONTINUE takes a uffdio_continue.
    unsafe { libc::ioctl(fd, libc::Ioctl::from(uapi::UFFDIO_CONTINUE), &raw mut arg) };
}

struct Trapped {
    _arena: Arena,
    window: Window,
    uffd: Uffd,
}

fn trapped() -> Result<Trapped> {
    let arena = Arena::create(FAULTS, PageKind::Base)?;
    let pages = FrameIndex(FAULTS).index();
    ensure!(arena.alias().span(0, pages).fill(1) == Touch::Value(()));
    let window = Window::reserve(pages)?;
    window.map(0, &arena, FrameIndex(0), pages, Sharing::Shared, Prot::ReadWrite)?;
    let uffd = Uffd::open(Via::UserModeOnly, Features::MINOR_SHMEM)?;
    uffd.register(window.span(0, pages).range(), Modes::MINOR)?;
    Ok(Trapped { _arena: arena, window, uffd })
}

impl Trapped {
    /// Touches every page once; microseconds a fault.
    fn round(&self) -> Result<f64> {
        let pages = self.window.pages();
        self.window.zap(0, pages)?;
        let whole = self.window.span(0, pages);
        let start = Instant::now();
        for page in 0..pages {
            ensure!(whole.load_u8(page * page_bytes()) == Touch::Value(1));
        }
        Ok(micros(start, FAULTS))
    }
}

fn fault_cross_process(cpu: usize) -> Result<Vec<f64>> {
    process::pin_to_cpu(0)?;
    let (mut child, link) = child(cpu, |link| {
        let trapped = trapped()?;
        link.send(&[0], &[trapped.uffd.as_fd()])?;
        let mut results = Vec::new();
        for _ in 0..ROUNDS {
            results.extend(trapped.round()?.to_le_bytes());
        }
        link.send(&results, &[])?;
        Ok(())
    })?;
    let uffd = Uffd::adopt(link.receive(&mut [0], LONG)?.1.pop().context("an fd")?)?;
    serve(&uffd)?;
    let mut bytes = [0; ROUNDS * 8];
    link.receive(&mut bytes, LONG)?;
    child.wait(LONG)?;
    let (values, _) = bytes.as_chunks::<8>();
    Ok(values.iter().map(|bytes| f64::from_le_bytes(*bytes)).collect())
}

fn fault_in_process(cpu: usize) -> Result<Vec<f64>> {
    let trapped = trapped()?;
    std::thread::scope(|scope| {
        let toucher = scope.spawn(|| {
            process::pin_to_cpu(cpu)?;
            (0..ROUNDS).map(|_| trapped.round()).collect()
        });
        process::pin_to_cpu(0)?;
        serve(&trapped.uffd)?;
        toucher.join().map_err(|_| anyhow::anyhow!("the toucher panicked"))?
    })
}

/// A forked child on `cpu`, with a link.
fn child(cpu: usize, body: impl FnOnce(Link) -> Result<()>) -> Result<(Child, Link)> {
    let (ours, theirs) = Link::pair()?;
    let child = process::fork(move || {
        let result = process::pin_to_cpu(cpu).map_err(Into::into).and_then(|()| body(theirs));
        result.map_or_else(
            |error| {
                eprintln!("child: {error:?}");
                1
            },
            |()| 0,
        )
    })?;
    Ok((child, ours))
}

fn call(placement: &str, cpu: usize) -> Result<()> {
    process::pin_to_cpu(0)?;
    let (to, from) = (rustix::pipe::pipe()?, rustix::pipe::pipe()?);
    let (mut echo, link) = child(cpu, |link| {
        let mut byte = [0; 64];
        for _ in 0..CALLS {
            rustix::io::read(&to.0, &mut byte)?;
            rustix::io::write(&from.1, &byte)?;
        }
        for _ in 0..CALLS {
            link.receive(&mut byte, LONG)?;
            link.send(&byte, &[])?;
        }
        let (_, fds) = link.receive(&mut byte, LONG)?;
        let [mailbox, peer]: [OwnedFd; 2] =
            fds.try_into().map_err(|_| anyhow::anyhow!("two fds"))?;
        let mut server = Mailbox::adopt(mailbox)?.into_server(peer, pace(cpu));
        for _ in 0..CALLS {
            let length = server.next(&mut byte, LONG)?;
            server.answer(&byte[..length]);
        }
        Ok(())
    })?;
    let mut byte = [0; 64];
    let start = Instant::now();
    for _ in 0..CALLS {
        rustix::io::write(&to.1, &byte)?;
        rustix::io::read(&from.0, &mut byte)?;
    }
    let pipe = micros(start, CALLS);
    let start = Instant::now();
    for _ in 0..CALLS {
        link.send(&byte, &[])?;
        link.receive(&mut byte, LONG)?;
    }
    let socket = micros(start, CALLS);
    let mailbox = Mailbox::create()?;
    let me = rustix::process::pidfd_open(rustix::process::getpid(), PidfdFlags::empty())?;
    link.send(&[0], &[mailbox.as_fd(), me.as_fd()])?;
    let mut caller = mailbox.into_caller(echo.pidfd().try_clone_to_owned()?, pace(cpu));
    let start = Instant::now();
    for _ in 0..CALLS {
        caller.call(&[1; 64], &mut byte, LONG)?;
    }
    let shared = micros(start, CALLS);
    echo.wait(LONG)?;
    println!(
        "call   {placement:30} mailbox {shared:6.2} us  pipe {pipe:6.2} us  link {socket:6.2} us  \
         mailbox/pipe {:5.2}",
        shared / pipe
    );
    Ok(())
}

fn pace(cpu: usize) -> Pace {
    if cpu == 0 { Pace::OneCore } else { Pace::Across(20_000) }
}

/// `count` processes that map and have touched the first `frames` frames.
fn mappers(arena: &Arena, frames: u32, count: usize) -> Result<Vec<(Child, Link)>> {
    let pages = FrameIndex(frames).index();
    let mut children = Vec::new();
    for _ in 0..count {
        let (child, link) = child(0, |link| {
            let window = Window::reserve(pages)?;
            window.map(0, arena, FrameIndex(0), pages, Sharing::Shared, Prot::ReadWrite)?;
            window.populate(0, pages, true)?;
            link.send(&[0], &[])?;
            link.receive(&mut [0], LONG)?;
            Ok(())
        })?;
        link.receive(&mut [0], LONG)?;
        children.push((child, link));
    }
    Ok(children)
}

fn zap() -> Result<()> {
    const FRAMES: u32 = 256;
    process::pin_to_cpu(0)?;
    let mut alone = f64::NAN;
    let mut bars = Vec::new();
    for count in [0, 1, 8, 64] {
        let arena = Arena::create(FRAMES, PageKind::Base)?;
        arena.allocate(FrameIndex(0), FRAMES)?;
        let children = mappers(&arena, FRAMES, count)?;
        let mut times = Vec::new();
        for frame in 0..FRAMES {
            let start = Instant::now();
            arena.punch(FrameIndex(frame))?;
            times.push(micros(start, 1));
        }
        drop(children);
        times.sort_by(f64::total_cmp);
        let time = times[times.len() / 2];
        if count == 0 {
            alone = time;
        }
        println!(
            "zap    {count:2} mapping processes           {time:7.2} us a page  ratio to none {:5.2}",
            time / alone
        );
        let (label, said) = (format!("{count} mapping processes"), format!("{time:.2} us a page"));
        bars.push(driftheap::report::chart::Bar { label, value: time, said, marked: false });
    }
    print!("{}", driftheap::report::chart::text(&bars));
    Ok(())
}

fn moves() -> Result<()> {
    process::pin_to_cpu(0)?;
    let pages = FrameIndex(MOVE_FRAMES).index();
    let len = pages * page_bytes();
    let (from, mut to) = (vec![1_u8; len], vec![2_u8; len]);
    for count in [0, 1, 8, 64] {
        let arena = Arena::create(2 * MOVE_FRAMES, PageKind::Base)?;
        ensure!(arena.alias().span(0, 2 * pages).fill(3) == Touch::Value(()));
        let children = mappers(&arena, MOVE_FRAMES, count)?;
        let (mut memcpy, mut copy) = (Vec::new(), Vec::new());
        for _ in 0..9 {
            let start = Instant::now();
            black_box(&mut to).copy_from_slice(black_box(&from));
            memcpy.push(micros(start, 1000));
            let start = Instant::now();
            arena.copy_range(FrameIndex(0), FrameIndex(MOVE_FRAMES), MOVE_FRAMES)?;
            copy.push(micros(start, 1000));
        }
        let start = Instant::now();
        arena.punch_range(FrameIndex(0), MOVE_FRAMES)?;
        let free = micros(start, 1000);
        drop(children);
        let (memcpy, copy) = (best(&memcpy), best(&copy));
        println!(
            "move   64 MiB, {count:2} mapping processes   memcpy {memcpy:6.2} ms  copy {copy:6.2} ms \
             ({:4.2} of its bandwidth)  zap and free {free:7.2} ms",
            memcpy / copy
        );
    }
    Ok(())
}
