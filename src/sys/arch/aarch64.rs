//! arm64, which the kernel and uname(2) call aarch64.

use core::arch::naked_asm;

use rustix::io::Errno;

pub use super::a64::follows_a_call;
use super::{AccessResult, Branches, register_of, result_of};

/// As uname(2) calls it.
pub const NAME: &str = "aarch64";

/// AUDIT_ARCH_AARCH64 (`<linux/audit.h>`).
pub const AUDIT_ARCH: u32 = 0xc000_00b7;

/// `e_machine` of its ELF files.
pub const ELF_MACHINE: u16 = object::elf::EM_AARCH64.0;

/// `svc #0`.
pub const CALL_INSTRUCTION: &[u8] = &[0x01, 0x00, 0x00, 0xd4];

/// What the kernel adds to the flags of a file that a 64-bit program opens (arch/arm64/include/uapi/asm/fcntl.h).
pub const O_LARGEFILE: u32 = 0o400_000;

/// Whose dialect of DWARF it is: one instruction more, which says that the return address is signed.
pub const DWARF_VENDOR: gimli::Vendor = gimli::Vendor::AArch64;
/// DWARF's number of the stack pointer.
pub const DWARF_STACK: gimli::Register = gimli::AArch64::SP;
/// DWARF's number of the frame pointer, x29.
pub const DWARF_FRAME: gimli::Register = gimli::AArch64::X29;
/// DWARF's number of the return address, the link register x30.
pub const DWARF_RETURN: gimli::Register = gimli::AArch64::X30;
/// Whether a call puts the return address on the stack: a function that calls none leaves it in x30.
pub const RETURN_IS_SAVED: bool = false;

/// How code names what it calls: a call leaves the return address in a register, which nobody shows.
pub const BRANCHES: Option<Branches> = Some(super::a64::BRANCHES);

/// The other kinds of program that a kernel of this architecture executes.
pub mod foreign {
    /// AUDIT_ARCH_ARM (`<linux/audit.h>`).
    pub const AUDIT_ARCH: u32 = 0x4000_0028;
    /// open, openat, openat2 and ioctl of 32-bit Arm (arch/arm/tools/syscall.tbl).
    pub const COMPAT: super::super::ForeignCalls =
        super::super::ForeignCalls { open: 5, openat: 322, openat2: 437, ioctl: 54 };
    /// There is no third kind.
    pub const X32: Option<super::super::ForeignCalls> = None;
}

/// Calls that arm64 does not have: negative, which no call is.
pub mod legacy {
    #![allow(missing_docs, non_upper_case_globals, reason = "the kernel's names")]
    pub const SYS_access: libc::c_long = -1;
    pub const SYS_lstat: libc::c_long = -2;
    pub const SYS_open: libc::c_long = -3;
    pub const SYS_poll: libc::c_long = -4;
    pub const SYS_readlink: libc::c_long = -5;
    pub const SYS_stat: libc::c_long = -6;
    pub const SYS_fork: libc::c_long = -7;
}

/// What this processor has that this program takes care of, as the kernel tells programs.
#[must_use]
pub fn features() -> Vec<&'static str> {
    let (first, second) = rustix::param::linux_hwcap();
    // HWCAP_PACA, HWCAP2_BTI and HWCAP_SVE (arch/arm64/include/uapi/asm/hwcap.h).
    let known = [
        (first >> 30, "pointer authentication"),
        (second >> 17, "branch target identification"),
        (first >> 22, "SVE"),
    ];
    known.into_iter().filter(|(bit, _)| bit & 1 == 1).map(|(_, name)| name).collect()
}

/// The address that a word says to return to. Code that is built with `-mbranch-protection` signs it in
/// bits that no address of a program has (pointer authentication). Which those are depends on the size
/// of addresses, which is one for all processes: XPACLRI takes them away, and is a NOP where the
/// processor signs nothing.
#[must_use]
pub fn return_address(word: u64) -> u64 {
    let address;
    // SAFETY: the instruction changes x30 alone, which the compiler is told.
    unsafe {
        core::arch::asm!(
            "mov x30, {word}", "hint #7", "mov {address}, x30",
            word = in(reg) word, address = lateout(reg) address, out("x30") _,
            options(nomem, nostack, preserves_flags, pure)
        );
    };
    address
}

/// NT_ARM_SVE and NT_ARM_SSVE (`<linux/elf.h>`).
const SVE_NOTES: [usize; 2] = [0x405, 0x40b];
/// Room for the largest SVE registers that an architecture may have, 2048 bits, with their header.
const SVE_BYTES_MAX: usize = 16 << 10;
/// Offset of `flags` in `struct user_sve_header`.
const SVE_FLAGS_AT: usize = 12;
/// SVE_PT_REGS_SVE: the registers are in use.
const SVE_IN_USE: u16 = 1;

/// What a system call discards of a thread's registers, but for those that it returns in: of the SVE
/// registers all above 128 bits, the predicates and FFR (Documentation/arch/arm64/sve.rst), and the
/// streaming mode.
#[derive(Debug)]
pub(in super::super) struct Discarded(Option<(usize, Vec<u8>)>);

impl Discarded {
    /// Of a thread that stands still.
    pub(in super::super) fn of(thread: nix::unistd::Pid) -> Self {
        let kept = |note: usize| {
            let mut bytes = vec![0; SVE_BYTES_MAX];
            let len = regset(libc::PTRACE_GETREGSET, thread, note, &mut bytes).ok()?;
            bytes.truncate(len);
            let flags = bytes.get(SVE_FLAGS_AT..)?.first_chunk()?;
            (u16::from_ne_bytes(*flags) & SVE_IN_USE != 0).then_some((note, bytes))
        };
        Self(SVE_NOTES.into_iter().find_map(kept))
    }

    /// Gives it back.
    ///
    /// # Errors
    /// ESRCH: the thread is gone or runs.
    pub(in super::super) fn restore(&mut self, thread: nix::unistd::Pid) -> nix::Result<()> {
        let Some((note, bytes)) = &mut self.0 else { return Ok(()) };
        regset(libc::PTRACE_SETREGSET, thread, *note, bytes).map(drop)
    }
}

/// Gets or sets registers of a thread; how many bytes there are of them.
fn regset(
    request: libc::c_uint,
    thread: nix::unistd::Pid,
    note: usize,
    bytes: &mut [u8],
) -> nix::Result<usize> {
    let mut part = libc::iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: bytes.len() };
    // SAFETY: the kernel reads or writes `part.iov_len` bytes at most, all of them in `bytes`.
    let done = unsafe { libc::ptrace(request, thread.as_raw(), note, &raw mut part) };
    nix::errno::Errno::result(done).map(|_| part.iov_len)
}

/// PSR_BTYPE_MASK (arch/arm64/include/uapi/asm/ptrace.h): that the thread has just branched by a register.
///
/// Any instruction but such a branch sets it to 0 as it ends, and what faults has not ended. A function that is
/// called by a pointer and begins with a store faults with it set, if its page is not guarded (PROT_BTI): a
/// guarded one has to begin with a landing pad. Where a page is guarded, an instruction that is none is SIGILL
/// while it is set (Documentation/arch/arm64/elf_hwcaps.rst, HWCAP2_BTI; "BTI note" in
/// arch/arm64/kernel/syscall.c).
const BTYPE: u64 = 0xc00;

/// Registers of a stopped thread.
#[derive(Clone, Copy, Debug)]
pub struct Registers(libc::user_regs_struct);

impl Registers {
    /// Those of a thread that stands still.
    ///
    /// # Errors
    /// ESRCH: it is gone or runs.
    pub fn of(thread: nix::unistd::Pid) -> nix::Result<Self> {
        nix::sys::ptrace::getregs(thread).map(Self)
    }

    /// Makes them the thread's.
    ///
    /// # Errors
    /// ESRCH: it is gone or runs.
    pub fn set(&self, thread: nix::unistd::Pid) -> nix::Result<()> {
        nix::sys::ptrace::setregs(thread, self.0)
    }

    /// Program counter.
    #[must_use]
    pub fn pc(&self) -> u64 {
        self.0.pc
    }

    /// Stack pointer.
    #[must_use]
    pub fn sp(&self) -> u64 {
        self.0.sp
    }

    /// Frame pointer, where code keeps one.
    #[must_use]
    pub fn frame(&self) -> u64 {
        self.0.regs[29]
    }

    /// The return address, where it is in a register.
    #[must_use]
    pub fn link(&self) -> Option<u64> {
        Some(self.0.regs[30])
    }

    /// What the system call that has just ended returned.
    ///
    /// # Errors
    /// The call's own errno.
    pub fn result(&self) -> Result<u64, Errno> {
        result_of(self.0.regs[0])
    }

    /// Has the thread go on as if its call had returned `result`. Nothing is restarted: a thread
    /// that stops on its way out of a call has forgotten it (`do_signal` in
    /// arch/arm64/kernel/signal.c).
    pub fn set_result(&mut self, result: Result<u64, Errno>) {
        self.0.regs[0] = register_of(result);
    }

    /// Has the thread make a system call, by the instruction at `gate`. It may lie in a guarded page, is no
    /// landing pad, and the thread may stand at an access behind a branch: see [`BTYPE`].
    pub fn enter(&mut self, gate: u64, nr: i64, args: [u64; 6]) {
        self.0.pc = gate;
        self.0.pstate &= !BTYPE;
        self.0.regs[8] = nr.cast_unsigned();
        self.0.regs[..6].copy_from_slice(&args);
    }

    /// Has the thread make call `nr` once more, whose instruction ends at `ip`. Its first argument
    /// was in the register of the result, the others are in theirs still. The thread has executed that very
    /// instruction with the [`BTYPE`] that it has, which a system call leaves as it was.
    pub fn rewind(&mut self, ip: u64, nr: i64, first: u64) {
        self.0.pc = ip.wrapping_sub(super::CALL_BYTES);
        self.0.regs[8] = nr.cast_unsigned();
        self.0.regs[0] = first;
    }
}

/// Declares access functions, with the numbers of the instructions that may fault.
macro_rules! accesses {
    ($($(#[$doc:meta])* $name:ident($($arg:ident),*) [$($site:literal),*] = $($line:literal),*;)*) => {
        $(
            $(#[$doc])*
            ///
            /// # Safety
            /// The addresses must be of memory that no Rust object lies in, or of a live slice.
            #[unsafe(naked)]
            pub(in super::super) unsafe extern "C" fn $name($($arg: u64),*) -> AccessResult {
                naked_asm!($($line,)* "mov x1, xzr", "ret")
            }
        )*
        /// The addresses of the instructions that may fault: the handler's exception table.
        pub(in super::super) fn sites() -> impl Iterator<Item = u64> {
            [$($($name as *const () as u64 + 4 * $site),*),*].into_iter()
        }
    };
}

accesses! {
    /// Loads one byte.
    load_u8(at) [0] = "ldrb w0, [x0]";
    /// Loads eight bytes.
    load_u64(at) [0] = "ldr x0, [x0]";
    /// Stores one byte.
    store_u8(at, value) [0] = "strb w1, [x0]";
    /// Stores eight bytes.
    store_u64(at, value) [0] = "str x1, [x0]";
    /// Adds to eight bytes by one instruction, of ARMv8.1.
    fetch_add_at_once(at, value) [0] =
        ".arch_extension lse",
        "ldaddal x1, x0, [x0]",
        ".arch_extension nolse";
    /// Adds to eight bytes by a loop.
    fetch_add_in_a_loop(at, value) [0, 2] =
        "2: ldaxr x2, [x0]",
        "add x3, x2, x1",
        "stlxr w4, x3, [x0]",
        "cbnz w4, 2b",
        "mov x0, x2";
    /// Copies bytes, eight at a time where both ends allow it. Post-indexed accesses write no
    /// address back when they fault, so every one can be restarted.
    copy(to, from, unused, len_bytes) [5, 6, 10, 11] =
        "orr x4, x0, x1",
        "tst x4, #7",
        "b.ne 3f",
        "2: cmp x3, #8",
        "b.lo 3f",
        "ldr x4, [x1], #8",
        "str x4, [x0], #8",
        "sub x3, x3, #8",
        "b 2b",
        "3: cbz x3, 4f",
        "ldrb w4, [x1], #1",
        "strb w4, [x0], #1",
        "sub x3, x3, #1",
        "b 3b",
        "4:";
}

/// Adds to eight bytes, with acquire and release; returns what was there before. Where the processor
/// has no instruction for it (before ARMv8.1), the first fault is one for reading.
///
/// # Safety
/// As the other accesses.
pub(in super::super) unsafe fn fetch_add_u64(at: u64, value: u64) -> AccessResult {
    if std::arch::is_aarch64_feature_detected!("lse") {
        // SAFETY: the caller's.
        unsafe { fetch_add_at_once(at, value) }
    } else {
        // SAFETY: the caller's.
        unsafe { fetch_add_in_a_loop(at, value) }
    }
}

/// Where a faulting access resumes: x0 and x1 already hold the [`AccessResult`].
#[unsafe(naked)]
unsafe extern "C" fn resume() {
    naked_asm!("ret")
}

/// The interrupted program counter.
pub(in super::super) fn pc_of_context(context: &libc::ucontext_t) -> u64 {
    context.uc_mcontext.pc
}

/// Has the interrupted access function return `outcome`.
pub(in super::super) fn end_access(context: &mut libc::ucontext_t, outcome: &AccessResult) {
    let registers = &mut context.uc_mcontext;
    registers.regs[0] = outcome.value;
    registers.regs[1] = outcome.fault;
    registers.pc = resume as *const () as u64;
}
