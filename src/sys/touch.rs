//! CPU loads and stores that report the signal they would have died of.
//!
//! A user-mode access to a [`Span`] ends in one of three ways: it completes, the kernel sends
//! SIGBUS (a page past the end of the file, a page poisoned with UFFDIO_POISON, a full tmpfs), or
//! it sends SIGSEGV (no VMA, or a VMA that forbids the access). [`Touch`] is that answer as a
//! value.
//!
//! How: each access is one naked function of [`arch`], in which only the instructions of a
//! list touch the memory. The handler for both signals compares the interrupted program counter with
//! that list; on a match it stores the fault in the return registers and resumes at a bare `ret`.
//! This is the kernel's own exception table (`fixup_exception` in `arch/*/mm/extable.c`) in
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

use std::sync::OnceLock;

use super::arch::{self, AccessResult};
use super::page::{Addr, Span, page_bytes};

/// How a load or store ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Touch<T> {
    /// The access completed with this value.
    Value(T),
    /// SIGBUS: there is a VMA, but no page could be had for it.
    Sigbus {
        /// `si_addr`.
        addr: Addr,
        /// `si_code`: `BUS_ADRERR` (2), or for a poisoned page `BUS_MCEERR_AR` (4) if the kernel
        /// was built with CONFIG_MEMORY_FAILURE (`do_sigbus` in `arch/x86/mm/fault.c`, `do_page_fault` in `arch/arm64/mm/fault.c`).
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

impl<T> Touch<T> {
    /// The value, if the access completed.
    pub fn value(self) -> Option<T> {
        match self {
            Self::Value(value) => Some(value),
            Self::Sigbus { .. } | Self::Sigsegv { .. } => None,
        }
    }

    /// The same ending with another value.
    pub fn map<U>(self, f: impl FnOnce(T) -> U) -> Touch<U> {
        match self {
            Self::Value(value) => Touch::Value(f(value)),
            Self::Sigbus { addr, code } => Touch::Sigbus { addr, code },
            Self::Sigsegv { addr, code } => Touch::Sigsegv { addr, code },
        }
    }
}

impl Span<'_> {
    /// Loads one byte.
    ///
    /// # Panics
    /// This and the other accesses panic when the bytes are not inside the span.
    pub fn load_u8(&self, offset_bytes: usize) -> Touch<u8> {
        finish(load_u8(self.at(offset_bytes, 1)), |v| v.to_le_bytes()[0])
    }

    /// Loads eight bytes with one instruction.
    pub fn load_u64(&self, offset_bytes: usize) -> Touch<u64> {
        finish(load_u64(self.at(offset_bytes, 8)), |v| v)
    }

    /// Stores one byte.
    pub fn store_u8(&self, offset_bytes: usize, value: u8) -> Touch<()> {
        finish(store_u8(self.at(offset_bytes, 1), u64::from(value)), |_| ())
    }

    /// Stores eight bytes with one instruction.
    pub fn store_u64(&self, offset_bytes: usize, value: u64) -> Touch<()> {
        finish(store_u64(self.at(offset_bytes, 8), value), |_| ())
    }

    /// Adds to eight bytes with one locked instruction and returns what was there before.
    pub fn fetch_add_u64(&self, offset_bytes: usize, value: u64) -> Touch<u64> {
        finish(fetch_add_u64(self.at(offset_bytes, 8), value), |v| v)
    }

    /// Loads `into.len()` bytes. On a fault the bytes before it have been loaded.
    pub fn read(&self, offset_bytes: usize, into: &mut [u8]) -> Touch<()> {
        let from = self.at(offset_bytes, into.len());
        finish(copy(into.as_mut_ptr() as usize, from, 0_usize, into.len()), |_| ())
    }

    /// Stores `bytes`. On a fault the bytes before it have been stored.
    pub fn write(&self, offset_bytes: usize, bytes: &[u8]) -> Touch<()> {
        let to = self.at(offset_bytes, bytes.len());
        finish(copy(to, bytes.as_ptr() as usize, 0_usize, bytes.len()), |_| ())
    }

    /// Copies the whole of `from` to the start of this span, memory to memory.
    pub fn copy_from(&self, from: Span<'_>) -> Touch<()> {
        let len = from.len_bytes();
        finish(copy(self.at(0, len), from.at(0, len), 0_usize, len), |_| ())
    }

    /// Stores `byte` to the whole span.
    pub fn fill(&self, byte: u8) -> Touch<()> {
        let pattern = vec![byte; page_bytes()];
        let mut done = 0;
        while done < self.len_bytes() {
            let len = page_bytes().min(self.len_bytes() - done);
            match self.write(done, &pattern[..len]) {
                Touch::Value(()) => done += len,
                fault @ (Touch::Sigbus { .. } | Touch::Sigsegv { .. }) => return fault,
            }
        }
        Touch::Value(())
    }
}

/// An access function's answer as an [`Touch`].
fn finish<T>(outcome: AccessResult, convert: impl FnOnce(u64) -> T) -> Touch<T> {
    if outcome.fault == 0 {
        return Touch::Value(convert(outcome.value));
    }
    let addr = Addr(outcome.value);
    let [s0, s1, s2, s3, c0, c1, c2, c3] = outcome.fault.to_le_bytes();
    let code = i32::from_le_bytes([c0, c1, c2, c3]);
    if i32::from_le_bytes([s0, s1, s2, s3]) == libc::SIGBUS {
        Touch::Sigbus { addr, code }
    } else {
        Touch::Sigsegv { addr, code }
    }
}

/// Declares `$name`, which installs the handlers and then calls [`arch`]'s function of that name.
macro_rules! access_fn {
    ($name:ident($($arg:ident),*)) => {
        fn $name($($arg: impl Into<Register>),*) -> AccessResult {
            armed();
            // SAFETY: every address comes from `Span::at`, which a `Window` vouches for (or from
            // a live slice of the given length), so no Rust object is touched behind the
            // compiler's back; a fault in a listed instruction is caught by `on_fault`.
            unsafe { arch::$name($($arg.into().0),*) }
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

access_fn!(load_u8(at));
access_fn!(load_u64(at));
access_fn!(store_u8(at, value));
access_fn!(store_u64(at, value));
access_fn!(fetch_add_u64(at, value));
access_fn!(copy(to, from, unused, len_bytes));

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
    // SAFETY: with SA_SIGINFO the kernel passes a valid ucontext_t that only we use until return.
    let context = unsafe { &mut *context.cast::<libc::ucontext_t>() };
    let pc = arch::pc_of_context(context);
    if arch::sites().any(|site| site == pc) {
        // SAFETY: with SA_SIGINFO the kernel passes a valid siginfo_t.
        let info = unsafe { &*info };
        // SAFETY: SIGBUS and SIGSEGV both fill si_addr.
        let addr = unsafe { info.si_addr() };
        let fault =
            u64::from(signal.unsigned_abs()) | (u64::from(info.si_code.cast_unsigned()) << 32);
        arch::end_access(context, &AccessResult { value: addr as u64, fault });
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
