//! x86-64.

use core::arch::naked_asm;

use rustix::io::Errno;

use super::{AccessResult, register_of, result_of};

/// As uname(2) calls it.
pub const NAME: &str = "x86_64";

/// AUDIT_ARCH_X86_64 (`<linux/audit.h>`).
pub const AUDIT_ARCH: u32 = 0xc000_003e;

/// `e_machine` of its ELF files.
pub const ELF_MACHINE: u16 = object::elf::EM_X86_64.0;

/// `syscall`.
pub const CALL_INSTRUCTION: &[u8] = &[0x0f, 0x05];

/// What the kernel adds to the flags of a file that a 64-bit program opens (include/uapi/asm-generic/fcntl.h).
pub const O_LARGEFILE: u32 = 0o100_000;

/// Whose dialect of DWARF it is.
pub const DWARF_VENDOR: gimli::Vendor = gimli::Vendor::Default;
/// DWARF's number of the stack pointer, rsp.
pub const DWARF_STACK: gimli::Register = gimli::X86_64::RSP;
/// DWARF's number of the frame pointer, rbp.
pub const DWARF_FRAME: gimli::Register = gimli::X86_64::RBP;
/// DWARF's number of the return address.
pub const DWARF_RETURN: gimli::Register = gimli::X86_64::RA;
/// Whether a call puts the return address on the stack, always.
pub const RETURN_IS_SAVED: bool = true;

/// Calls that newer architectures do not have; there they are negative, which no call is.
pub mod legacy {
    pub use libc::{SYS_access, SYS_fork, SYS_lstat, SYS_open, SYS_poll, SYS_readlink, SYS_stat};
}

/// The other kinds of program that a kernel of this architecture executes.
pub mod foreign {
    /// AUDIT_ARCH_I386 (`<linux/audit.h>`).
    pub const AUDIT_ARCH: u32 = 0x4000_0003;
    /// open, openat, openat2 and ioctl of i386 (arch/x86/entry/syscalls/syscall_32.tbl).
    pub const COMPAT: super::super::ForeignCalls =
        super::super::ForeignCalls { open: 5, openat: 295, openat2: 437, ioctl: 54 };
    use super::super::X32_SYSCALL_BIT;
    /// The same of the x32 ABI (arch/x86/entry/syscalls/syscall_64.tbl), whose AUDIT_ARCH is the
    /// 64-bit programs' own.
    pub const X32: Option<super::super::ForeignCalls> = Some(super::super::ForeignCalls {
        open: X32_SYSCALL_BIT + 2,
        openat: X32_SYSCALL_BIT + 257,
        openat2: X32_SYSCALL_BIT + 437,
        ioctl: X32_SYSCALL_BIT + 514,
    });
}

/// Whether the bytes before an address are a call: `e8` with 32 bits, or `ff /2` in one of its
/// lengths.
#[must_use]
pub fn follows_a_call(before: &[u8; super::CALL_BYTES_MAX]) -> bool {
    before[2] == 0xe8
        || [2, 3, 4, 6, 7].iter().any(|&len| {
            let at = 7 - len;
            before[at] == 0xff && (before[at + 1] >> 3) & 7 == 2
        })
}

/// How code names what it calls: nobody asks, for a call puts its return address on the stack.
pub const BRANCHES: Option<super::Branches> = None;

/// What this processor has that this program takes care of: nothing.
#[must_use]
pub fn features() -> Vec<&'static str> {
    Vec::new()
}

/// The address that a word says to return to: itself.
#[must_use]
pub fn return_address(word: u64) -> u64 {
    word
}

/// What a system call discards of a thread's registers, but for those that it returns in: nothing.
pub(in super::super) struct Discarded;

impl Discarded {
    /// Of a thread that stands still.
    pub(in super::super) fn of(_thread: nix::unistd::Pid) -> Self {
        Self
    }

    /// Gives it back.
    pub(in super::super) fn restore(&mut self, _thread: nix::unistd::Pid) -> nix::Result<()> {
        Ok(())
    }
}

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
        self.0.rip
    }

    /// Stack pointer.
    #[must_use]
    pub fn sp(&self) -> u64 {
        self.0.rsp
    }

    /// Frame pointer, where code keeps one.
    #[must_use]
    pub fn frame(&self) -> u64 {
        self.0.rbp
    }

    /// The return address, where it is in a register.
    #[must_use]
    pub fn link(&self) -> Option<u64> {
        None
    }

    /// What the system call that has just ended returned.
    ///
    /// # Errors
    /// The call's own errno.
    pub fn result(&self) -> Result<u64, Errno> {
        result_of(self.0.rax)
    }

    /// Has the thread go on as if its call had returned `result`.
    pub fn set_result(&mut self, result: Result<u64, Errno>) {
        self.0.rax = register_of(result);
        // Not in a call any more, so that nothing is restarted.
        self.0.orig_rax = u64::MAX;
    }

    /// Has the thread make a system call, by the instruction at `gate`.
    pub fn enter(&mut self, gate: u64, nr: i64, args: [u64; 6]) {
        let of = &mut self.0;
        of.rip = gate;
        of.rax = nr.cast_unsigned();
        of.orig_rax = u64::MAX;
        [of.rdi, of.rsi, of.rdx, of.r10, of.r8, of.r9] = args;
    }

    /// Has the thread make call `nr` once more, whose instruction ends at `ip`: the arguments are
    /// in their registers still.
    pub fn rewind(&mut self, ip: u64, nr: i64, _first: u64) {
        self.0.rip = ip.wrapping_sub(super::CALL_BYTES);
        self.0.rax = nr.cast_unsigned();
        // Not in a call any more, so that nothing is restarted twice.
        self.0.orig_rax = u64::MAX;
    }
}

/// Declares access functions. The first instruction is the one that may fault.
macro_rules! accesses {
    ($($(#[$doc:meta])* $name:ident($($arg:ident),*) = $($line:literal),*;)*) => {
        $(
            $(#[$doc])*
            ///
            /// # Safety
            /// The addresses must be of memory that no Rust object lies in, or of a live slice.
            #[unsafe(naked)]
            pub(in super::super) unsafe extern "C" fn $name($($arg: u64),*) -> AccessResult {
                naked_asm!($($line,)* "xor edx, edx", "ret")
            }
        )*
        /// The addresses of the instructions that may fault: the handler's exception table.
        pub(in super::super) fn sites() -> impl Iterator<Item = u64> {
            [$($name as *const () as u64),*].into_iter()
        }
    };
}

accesses! {
    /// Loads one byte.
    load_u8(at) = "movzx eax, byte ptr [rdi]";
    /// Loads eight bytes.
    load_u64(at) = "mov rax, [rdi]";
    /// Stores one byte.
    store_u8(at, value) = "mov byte ptr [rdi], sil";
    /// Stores eight bytes.
    store_u64(at, value) = "mov [rdi], rsi";
    /// Adds to eight bytes; returns what was there before.
    fetch_add_u64(at, value) = "lock xadd [rdi], rsi", "mov rax, rsi";
    /// Copies bytes. The count is the fourth argument because `rep` counts in rcx: the instruction
    /// can be restarted where it stopped.
    copy(to, from, unused, len_bytes) = "rep movsb";
}

/// Where a faulting access resumes: rax and rdx already hold the [`AccessResult`].
#[unsafe(naked)]
unsafe extern "C" fn resume() {
    naked_asm!("ret")
}

/// The interrupted program counter.
pub(in super::super) fn pc_of_context(context: &libc::ucontext_t) -> u64 {
    context.uc_mcontext.gregs[REG_RIP].cast_unsigned()
}

/// Has the interrupted access function return `outcome`.
pub(in super::super) fn end_access(context: &mut libc::ucontext_t, outcome: &AccessResult) {
    let registers = &mut context.uc_mcontext.gregs;
    registers[REG_RAX] = outcome.value.cast_signed();
    registers[REG_RDX] = outcome.fault.cast_signed();
    registers[REG_RIP] = (resume as *const () as u64).cast_signed();
}

const REG_RAX: usize = libc::REG_RAX.unsigned_abs() as usize;
const REG_RDX: usize = libc::REG_RDX.unsigned_abs() as usize;
const REG_RIP: usize = libc::REG_RIP.unsigned_abs() as usize;
