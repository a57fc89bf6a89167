//! The unsafe calls of the CUSE tests.

#![allow(unsafe_code, reason = "ioctl(2) with any command and argument, and memory with a hole")]
#![allow(dead_code, reason = "each test file uses a part")]

use std::ffi::c_void;
use std::fs::File;
use std::num::NonZeroUsize;
use std::os::fd::AsRawFd;
use std::ptr::NonNull;
use std::sync::mpsc;

use nix::errno::Errno;
use nix::sys::mman::{MapFlags, ProtFlags, mmap, mmap_anonymous, mprotect, munmap};
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};

const PAGE: usize = 4096;

/// ioctl(2).
pub(crate) fn ioctl(file: &File, cmd: u32, arg: usize) -> Result<i32, Errno> {
    // SAFETY: the callers pass the address of memory that they own and that is as long as the
    // command says, or one that is not mapped, which the kernel answers with EFAULT.
    Errno::result(unsafe { libc::ioctl(file.as_raw_fd(), cmd.into(), arg) })
}

/// mmap(2) of one page, and what it answers.
pub(crate) fn map(file: &File, prot: ProtFlags, flags: MapFlags) -> Result<(), Errno> {
    let page = NonZeroUsize::new(PAGE).expect("not 0");
    // SAFETY: the kernel chooses the address, and nobody uses the mapping.
    unsafe { mmap(None, page, prot, flags, file, 0) }.map(drop)
}

/// Two pages that can be used, and one that can't.
#[derive(Debug)]
pub(crate) struct PageBeforeAHole(NonNull<c_void>);

impl PageBeforeAHole {
    /// Maps them.
    pub(crate) fn new() -> Self {
        let pages = NonZeroUsize::new(3 * PAGE).expect("not 0");
        let rw = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        // SAFETY: the kernel chooses the address.
        let start =
            unsafe { mmap_anonymous(None, pages, rw, MapFlags::MAP_PRIVATE) }.expect("memory");
        // SAFETY: the third of the three pages just mapped.
        let hole = unsafe { start.byte_add(2 * PAGE) };
        // SAFETY: nothing was stored there yet, and nothing will be.
        unsafe { mprotect(hole, PAGE, ProtFlags::PROT_NONE) }.expect("a page of ours");
        Self(start)
    }

    fn put(&self, text: &[u8], offset: usize) -> usize {
        assert!(offset + text.len() <= 2 * PAGE);
        // SAFETY: within the two pages that can be used, by the assertion.
        let at = unsafe { self.0.cast::<u8>().add(offset) };
        for (index, &byte) in text.iter().enumerate() {
            // SAFETY: as above.
            let cell = unsafe { at.add(index) };
            // SAFETY: as above; no reference to the pages exists.
            unsafe { cell.write_volatile(byte) };
        }
        at.as_ptr() as usize
    }

    /// Puts a text right before the hole and returns its address.
    pub(crate) fn put_at_end(&self, text: &[u8]) -> usize {
        self.put(text, 2 * PAGE - text.len())
    }

    /// Puts a text so that `before` bytes of it are in the first page.
    pub(crate) fn put_across(&self, text: &[u8], before: usize) -> usize {
        self.put(text, PAGE - before)
    }
}

impl Drop for PageBeforeAHole {
    fn drop(&mut self) {
        // SAFETY: the three pages of `new`, of which no address is used after this.
        let _ = unsafe { munmap(self.0, 3 * PAGE) };
    }
}

extern "C" fn nothing(_signal: i32) {}

/// Runs a call and sends its thread signals until it returns: one of them finds it waiting.
pub(crate) fn interrupted<T: Send>(call: impl FnOnce() -> T + Send) -> T {
    let action = SigAction::new(SigHandler::Handler(nothing), SaFlags::empty(), SigSet::empty());
    // SAFETY: the handler does nothing, and no one else in this program uses SIGUSR1.
    unsafe { sigaction(Signal::SIGUSR1, &action) }.expect("a valid signal");
    std::thread::scope(|scope| {
        let (started, thread) = mpsc::channel();
        let caller = scope.spawn(move || {
            // SAFETY: always sound; it names this thread.
            started.send(unsafe { libc::pthread_self() }).expect("a receiver");
            call()
        });
        let thread = thread.recv().expect("a sender");
        while !caller.is_finished() {
            // SAFETY: the thread is joined only below, so its id is still valid if it has ended.
            unsafe { libc::pthread_kill(thread, libc::SIGUSR1) };
            std::thread::yield_now();
        }
        caller.join().expect("no panic")
    })
}
