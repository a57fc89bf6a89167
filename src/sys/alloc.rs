//! Memory that runs out is said, and is exit status 1 or what [`exit_with`] says.
//!
//! Without this the standard library aborts, which looks like a bug and may leave a core file.

#![allow(unsafe_code, reason = "a global allocator is an unsafe trait, and _exit is libc's")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicI32, Ordering};

/// The system's allocator, which ends the process in words where there is no memory.
#[derive(Debug)]
pub struct Bounded;

const MESSAGE: &[u8] = b"error: out of memory: raise the limit (`ulimit -v`, the container's); a \
search needs less with fewer --states and --threads\n";

/// The exit status where memory runs out.
static STATUS: AtomicI32 = AtomicI32::new(1);

/// The exit status where memory runs out, if it is not 1.
pub fn exit_with(status: i32) {
    STATUS.store(status, Ordering::Relaxed);
}

/// Ends the process. Allocates nothing.
fn out_of_memory() -> ! {
    // SAFETY: write only reads the bytes of MESSAGE, which live as long as the program. That nobody
    // reads them at the other end is nobody's fault.
    let _unread =
        unsafe { libc::write(libc::STDERR_FILENO, MESSAGE.as_ptr().cast(), MESSAGE.len()) };
    // SAFETY: _exit takes an integer and runs nothing of ours.
    unsafe { libc::_exit(STATUS.load(Ordering::Relaxed)) }
}

// SAFETY: every call goes to `System` as it came, and what comes back is its answer.
unsafe impl GlobalAlloc for Bounded {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: our caller keeps `System`'s contract, which is that of the trait.
        let address = unsafe { System.alloc(layout) };
        if address.is_null() { out_of_memory() } else { address }
    }

    unsafe fn dealloc(&self, address: *mut u8, layout: Layout) {
        // SAFETY: as for `alloc`; the address is one of `System`'s.
        unsafe { System.dealloc(address, layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: as for `alloc`.
        let address = unsafe { System.alloc_zeroed(layout) };
        if address.is_null() { out_of_memory() } else { address }
    }

    unsafe fn realloc(&self, address: *mut u8, layout: Layout, len_bytes: usize) -> *mut u8 {
        // SAFETY: as for `dealloc`.
        let moved = unsafe { System.realloc(address, layout, len_bytes) };
        if moved.is_null() { out_of_memory() } else { moved }
    }
}
