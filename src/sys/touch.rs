//! CPU loads and stores that report the signal they would have died of.
//!
//! A user-mode access to a [`Span`] ends in one of three ways: it completes, the kernel sends
//! SIGBUS (a page past the end of the file, a page poisoned with UFFDIO_POISON, a full tmpfs), or
//! it sends SIGSEGV (no VMA, or a VMA that forbids the access). [`Access`] is that answer as a
//! value.
//!
//! How: each access is one naked function whose *first* instruction touches the memory. The
//! handler for both signals compares the interrupted instruction pointer with those functions'
//! addresses; on a match it stores the fault in the return registers and resumes at a bare `ret`.
//! This is the kernel's own exception table (`arch/x86/mm/extable.c`, `fixup_exception`) in
//! small. It needs no per-thread state, so it nests (a handler may itself use it), works in any
//! thread and across fork, and the handler calls nothing. A fault anywhere else goes to the
//! handler that was installed before ours: the program still dies of its own bugs.
//!
//! An access that userfaultfd traps sleeps until somebody resolves it. That is not visible here.
//!
//! **Differs from Linux:** nothing is emulated; these are the CPU's own accesses.

#![allow(
    unsafe_code,
    reason = "installs a signal handler and touches memory that other processes change"
)]

use core::arch::naked_asm;
use std::sync::OnceLock;

use super::page::{Addr, PAGE_BYTES, Span};

#[cfg(not(target_arch = "x86_64"))]
compile_error!("the fault recovery reads x86-64 registers: add this architecture to sys::touch");

/// How a load or store ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Access<T> {
    /// The access completed with this value.
    Value(T),
    /// SIGBUS: there is a VMA, but no page could be had for it.
    Sigbus {
        /// `si_addr`.
        addr: Addr,
        /// `si_code`: `BUS_ADRERR` (2), or for a poisoned page `BUS_MCEERR_AR` (4) if the kernel
        /// was built with CONFIG_MEMORY_FAILURE (`do_sigbus` in `arch/x86/mm/fault.c`).
        code: i32,
    },
    /// SIGSEGV: no VMA, or one that forbids the access.
    Sigsegv {
        /// `si_addr`.
        addr: Addr,
        /// `si_code`: `SEGV_MAPERR` (1) no VMA, `SEGV_ACCERR` (2) forbidden.
        code: i32,
    },
}

impl<T> Access<T> {
    /// The value, if the access completed.
    pub fn value(self) -> Option<T> {
        match self {
            Self::Value(value) => Some(value),
            Self::Sigbus { .. } | Self::Sigsegv { .. } => None,
        }
    }

    /// The same ending with another value.
    pub fn map<U>(self, f: impl FnOnce(T) -> U) -> Access<U> {
        match self {
            Self::Value(value) => Access::Value(f(value)),
            Self::Sigbus { addr, code } => Access::Sigbus { addr, code },
            Self::Sigsegv { addr, code } => Access::Sigsegv { addr, code },
        }
    }
}

impl Span<'_> {
    /// Loads one byte.
    ///
    /// # Panics
    /// This and the other accesses panic when the bytes are not inside the span.
    pub fn load_u8(&self, offset_bytes: usize) -> Access<u8> {
        finish(load_u8(self.at(offset_bytes, 1)), |v| v.to_le_bytes()[0])
    }

    /// Loads eight bytes with one instruction.
    pub fn load_u64(&self, offset_bytes: usize) -> Access<u64> {
        finish(load_u64(self.at(offset_bytes, 8)), |v| v)
    }

    /// Stores one byte.
    pub fn store_u8(&self, offset_bytes: usize, value: u8) -> Access<()> {
        finish(store_u8(self.at(offset_bytes, 1), u64::from(value)), |_| ())
    }

    /// Stores eight bytes with one instruction.
    pub fn store_u64(&self, offset_bytes: usize, value: u64) -> Access<()> {
        finish(store_u64(self.at(offset_bytes, 8), value), |_| ())
    }

    /// Adds to eight bytes with one locked instruction and returns what was there before.
    pub fn fetch_add_u64(&self, offset_bytes: usize, value: u64) -> Access<u64> {
        finish(fetch_add_u64(self.at(offset_bytes, 8), value), |v| v)
    }

    /// Loads `into.len()` bytes. On a fault the bytes before it have been loaded.
    pub fn read(&self, offset_bytes: usize, into: &mut [u8]) -> Access<()> {
        let from = self.at(offset_bytes, into.len());
        finish(copy(into.as_mut_ptr() as usize, from, 0_usize, into.len()), |_| ())
    }

    /// Stores `bytes`. On a fault the bytes before it have been stored.
    pub fn write(&self, offset_bytes: usize, bytes: &[u8]) -> Access<()> {
        let to = self.at(offset_bytes, bytes.len());
        finish(copy(to, bytes.as_ptr() as usize, 0_usize, bytes.len()), |_| ())
    }

    /// Copies the whole of `from` to the start of this span, memory to memory.
    pub fn copy_from(&self, from: Span<'_>) -> Access<()> {
        let len = from.len_bytes();
        finish(copy(self.at(0, len), from.at(0, len), 0_usize, len), |_| ())
    }

    /// Stores `byte` to the whole span.
    pub fn fill(&self, byte: u8) -> Access<()> {
        let pattern = [byte; PAGE_BYTES];
        let mut done = 0;
        while done < self.len_bytes() {
            let len = PAGE_BYTES.min(self.len_bytes() - done);
            match self.write(done, &pattern[..len]) {
                Access::Value(()) => done += len,
                fault @ (Access::Sigbus { .. } | Access::Sigsegv { .. }) => return fault,
            }
        }
        Access::Value(())
    }
}

/// What an access function returns in rax and rdx.
#[repr(C)]
struct Outcome {
    /// The value, or `si_addr`.
    value: u64,
    /// 0, or the signal number in the low half and `si_code` in the high half.
    fault: u64,
}

/// An access function's answer as an [`Access`].
fn finish<T>(outcome: Outcome, convert: impl FnOnce(u64) -> T) -> Access<T> {
    if outcome.fault == 0 {
        return Access::Value(convert(outcome.value));
    }
    let addr = Addr(outcome.value);
    let [s0, s1, s2, s3, c0, c1, c2, c3] = outcome.fault.to_le_bytes();
    let code = i32::from_le_bytes([c0, c1, c2, c3]);
    if i32::from_le_bytes([s0, s1, s2, s3]) == libc::SIGBUS {
        Access::Sigbus { addr, code }
    } else {
        Access::Sigsegv { addr, code }
    }
}

/// The addresses of the instructions that may fault: the handler's exception table.
fn sites() -> [usize; 6] {
    [
        insn_load_u8 as *const () as usize,
        insn_load_u64 as *const () as usize,
        insn_store_u8 as *const () as usize,
        insn_store_u64 as *const () as usize,
        insn_fetch_add_u64 as *const () as usize,
        insn_copy as *const () as usize,
    ]
}

/// Declares `$name`, which installs the handlers and then calls the naked `$insn`.
macro_rules! access_fn {
    ($name:ident, $insn:ident, ($($arg:ident),*), $first:literal $(, $rest:literal)*) => {
        fn $name($($arg: impl Into<Register>),*) -> Outcome {
            armed();
            // SAFETY: every address comes from `Span::at`, which a `Window` vouches for (or from
            // a live slice of the given length), so no Rust object is touched behind the
            // compiler's back; a fault in the first instruction is caught by `on_fault`.
            unsafe { $insn($($arg.into().0),*) }
        }

        #[unsafe(naked)]
        unsafe extern "C" fn $insn($($arg: u64),*) -> Outcome {
            naked_asm!($first, $($rest,)* "xor edx, edx", "ret")
        }
    };
}

/// An argument register, so that addresses and values can be passed without casts at each call.
struct Register(u64);

impl From<usize> for Register {
    fn from(value: usize) -> Self {
        Self(value as u64)
    }
}

impl From<u64> for Register {
    fn from(value: u64) -> Self {
        Self(value)
    }
}

access_fn!(load_u8, insn_load_u8, (at), "movzx eax, byte ptr [rdi]");
access_fn!(load_u64, insn_load_u64, (at), "mov rax, [rdi]");
access_fn!(store_u8, insn_store_u8, (at, value), "mov byte ptr [rdi], sil");
access_fn!(store_u64, insn_store_u64, (at, value), "mov [rdi], rsi");
access_fn!(fetch_add_u64, insn_fetch_add_u64, (at, value), "lock xadd [rdi], rsi", "mov rax, rsi");
// The count is the fourth argument because `rep` counts in rcx: the first instruction is the one
// that faults, and it can be restarted where it stopped.
access_fn!(copy, insn_copy, (to, from, unused, len_bytes), "rep movsb");

/// Where a faulting access resumes: rax and rdx already hold the [`Outcome`].
#[unsafe(naked)]
unsafe extern "C" fn resume() {
    naked_asm!("ret")
}

/// The dispositions that were in force before ours, `[SIGBUS, SIGSEGV]`.
static PREVIOUS: OnceLock<[libc::sigaction; 2]> = OnceLock::new();

/// Installs the handlers once per process; inherited over fork.
fn armed() {
    PREVIOUS.get_or_init(|| [install(libc::SIGBUS), install(libc::SIGSEGV)]);
}

fn install(signal: i32) -> libc::sigaction {
    // SAFETY: all-zero is a valid sigaction (SIG_DFL, no flags, empty mask).
    let mut action: libc::sigaction = unsafe { core::mem::zeroed() };
    // SAFETY: as above.
    let mut previous: libc::sigaction = unsafe { core::mem::zeroed() };
    action.sa_sigaction = on_fault as *const () as usize;
    // SA_NODEFER: an access inside another signal's handler may fault too. SA_ONSTACK: a stack
    // overflow must still reach the handler that std installed for it.
    action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK | libc::SA_NODEFER;
    // SAFETY: both point to live sigaction structures; on_fault is async-signal-safe.
    let result = unsafe { libc::sigaction(signal, &raw const action, &raw mut previous) };
    assert_eq!(result, 0, "sigaction({signal}) fails only for a signal that does not exist");
    previous
}

/// The handler: touches only its arguments, a lock-free static and constants.
unsafe extern "C" fn on_fault(signal: i32, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    let context = context.cast::<libc::ucontext_t>();
    // SAFETY: with SA_SIGINFO the kernel passes a valid ucontext_t that only we use until return.
    let registers = unsafe { &mut (*context).uc_mcontext.gregs };
    let rip = registers[REG_RIP].cast_unsigned();
    if sites().iter().any(|&site| site as u64 == rip) {
        // SAFETY: with SA_SIGINFO the kernel passes a valid siginfo_t.
        let info = unsafe { &*info };
        // SAFETY: SIGBUS and SIGSEGV both fill si_addr.
        let addr = unsafe { info.si_addr() };
        let fault =
            u64::from(signal.unsigned_abs()) | (u64::from(info.si_code.cast_unsigned()) << 32);
        registers[REG_RAX] = (addr as u64).cast_signed();
        registers[REG_RDX] = fault.cast_signed();
        registers[REG_RIP] = (resume as *const () as u64).cast_signed();
        return;
    }
    // Not ours: put back whoever was here before and let the instruction fault again.
    if let Some(previous) = PREVIOUS.get() {
        let previous = &previous[usize::from(signal == libc::SIGSEGV)];
        // SAFETY: the structure is what sigaction returned for this signal.
        unsafe { libc::sigaction(signal, &raw const *previous, core::ptr::null_mut()) };
    } else {
        // SAFETY: always allowed; reached only if another thread is inside `armed`.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
    }
}

const REG_RAX: usize = libc::REG_RAX.unsigned_abs() as usize;
const REG_RDX: usize = libc::REG_RDX.unsigned_abs() as usize;
const REG_RIP: usize = libc::REG_RIP.unsigned_abs() as usize;
