//! What differs from one processor architecture to the next, and nothing else.
//!
//! A new architecture is one more file here with the same names in it. The rest of the project
//! mentions none.
//!
//! | what | who asks |
//! |---|---|
//! | loads and stores that may fault, and how the fault handler ends one | [`touch`](super::touch) |
//! | registers of a stopped thread, what a system call discards of them, the instruction that makes one | [`trace`](super::trace), [`inject`](super::inject) |
//! | AUDIT_ARCH, and what is known of 32-bit programs' calls | [`seccomp`](super::seccomp) |
//! | numbers of system calls that not every architecture has | the supervisor |
//! | DWARF's register numbers, call instructions, signed return addresses | stack walks |
//!
//! **Memory order.** x86-64 keeps the order of loads and of stores, arm64 that of nothing which is not said.
//! What two processes or threads share, and what orders it:
//!
//! | shared | ordered by |
//! |---|---|
//! | a request and its reply, between conductor and actor | SeqCst sequence words ([`mailbox`](super::mailbox)) |
//! | a buffer's bytes, between a move and the program's stores | the kernel: write protection is in every page table, and its TLB flush is done, before UFFDIO_WRITEPROTECT returns |
//! | counters of writers in a page | add with acquire and release, one instruction or a loop of `ldaxr` and `stlxr` |
//! | the search's frontier, between its threads | Release of the round, Acquire of the count of who is busy |
//! | that a program may hold an access up, that an access is over, that a device has attached | Release and Acquire |
//! | a flag or an index alone, which stands for no other memory (stop, next item, progress) | nothing: Relaxed |
//! | all else in the supervisor and the exporter | one mutex |
#![allow(unsafe_code, reason = "the instructions that touch shared memory, and signal contexts")]

pub mod a64;
#[cfg(target_arch = "aarch64")]
mod aarch64;
#[cfg(target_arch = "x86_64")]
mod x86_64;

#[cfg(target_arch = "aarch64")]
use aarch64 as this;
#[cfg(target_arch = "x86_64")]
use x86_64 as this;

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
compile_error!("driftheap knows x86-64 and aarch64: add this architecture in src/sys/arch");

pub use this::{
    AUDIT_ARCH, BRANCHES, CALL_INSTRUCTION, DWARF_FRAME, DWARF_RETURN, DWARF_STACK, DWARF_VENDOR,
    ELF_MACHINE, NAME, O_LARGEFILE, RETURN_IS_SAVED, Registers, features, follows_a_call, foreign,
    legacy, return_address,
};
pub(super) use this::{
    Discarded, copy, end_access, fetch_add_u64, load_u8, load_u64, pc_of_context, sites, store_u8,
    store_u64,
};

/// Of the x32 ABI's calls; no other architecture's number is as large.
pub const X32_SYSCALL_BIT: u32 = 0x4000_0000;

/// Numbers of the calls by which a program of another kind would use a device.
#[derive(Clone, Copy, Debug)]
pub struct ForeignCalls {
    /// open(2).
    pub open: u32,
    /// openat(2).
    pub openat: u32,
    /// openat2(2).
    pub openat2: u32,
    /// ioctl(2).
    pub ioctl: u32,
}

/// How code whose instructions are words names the code that it calls. Each is asked with the address of a
/// word.
#[derive(Clone, Copy, Debug)]
pub struct Branches {
    /// What a call calls.
    pub call: fn(u64, u32) -> Option<u64>,
    /// Where a jump goes.
    pub jump: fn(u64, u32) -> Option<u64>,
    /// Where the address lies that a stub of the linkage table jumps to.
    pub slot: fn(u64, &[u32]) -> Option<u64>,
}

/// Bytes before a return address that [`follows_a_call`] looks at.
pub const CALL_BYTES_MAX: usize = 7;

/// Bytes of the instruction that makes a system call.
pub const CALL_BYTES: u64 = CALL_INSTRUCTION.len() as u64;

/// What an access function returns, in the first two return registers.
#[repr(C)]
pub(super) struct AccessResult {
    /// The value, or `si_addr`.
    pub(super) value: u64,
    /// 0, or the signal number in the low half and `si_code` in the high half.
    pub(super) fault: u64,
}

/// A system call's result, from the register that the kernel returns it in.
fn result_of(register: u64) -> Result<u64, rustix::io::Errno> {
    match register.cast_signed() {
        failed @ -4095..0 => {
            let errno = i32::try_from(-failed).unwrap_or(libc::EIO);
            Err(rustix::io::Errno::from_raw_os_error(errno))
        }
        value => Ok(value.cast_unsigned()),
    }
}

/// The register's value for a result.
fn register_of(result: Result<u64, rustix::io::Errno>) -> u64 {
    match result {
        Ok(value) => value,
        Err(errno) => i64::from(-errno.raw_os_error()).cast_unsigned(),
    }
}
