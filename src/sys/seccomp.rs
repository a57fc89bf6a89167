//! A seccomp filter that hands chosen system calls to a supervisor.
//!
//! [`Filter`] is data: which calls, and for which arguments. [`Filter::assemble`] turns it into
//! classic BPF, and [`install`] loads it into the calling thread and returns the listener
//! (`SECCOMP_FILTER_FLAG_NEW_LISTENER`, kernel/seccomp.c). A call that no rule names costs the
//! filter's evaluation only, and not even that where the kernel caches "always allowed" by number
//! (`seccomp_cache_prepare`, since 5.11).
//!
//! A 32-bit program, or one of the x32 ABI, does not see the device. Its calls are let through,
//! except those by which it would use one ([`Filter::foreign`]): they are handed over so that the
//! supervisor can say so.
#![allow(unsafe_code, reason = "prctl(2) and seccomp(2) are raw system calls")]

use std::io;
use std::os::fd::{FromRawFd, OwnedFd};

use super::arch::{self, AUDIT_ARCH, ForeignCalls, X32_SYSCALL_BIT};

/// What a rule asks of one argument's low 32 bits: after masking, it is one of the values.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ArgTest {
    /// Which argument, 0 to 5.
    pub arg: u8,
    /// Bits that count.
    pub mask: u32,
    /// Accepted values of those bits.
    pub any_of: Vec<u32>,
}

/// One system call to hand over when all of its argument tests hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// System call number. A filter holds at most one rule for each.
    pub nr: u32,
    /// Tests that must all hold; none means always.
    pub tests: Vec<ArgTest>,
    /// The upper half of an argument whose presence lets the call through: an argument's number,
    /// and the value.
    pub pass: Option<(u8, u32)>,
}

/// The system calls that go to the supervisor.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    rules: Vec<Rule>,
    /// Mask and value of the upper half of an argument that makes any call be handed over.
    pointers: Option<(u32, u32)>,
    /// The calls of which that is not asked.
    without: Vec<u32>,
    /// What an ioctl of a program of another kind is asked, to be handed over with its opens.
    foreign: Option<ArgTest>,
}

const LOAD: u16 = 0x20;
const AND: u16 = 0x54;
const JUMP_EQ: u16 = 0x15;
const JUMP_GE: u16 = 0x35;
const RETURN: u16 = 0x06;
const JUMP: u16 = 0x05;

const RET_ALLOW: u32 = 0x7fff_0000;
const RET_USER_NOTIF: u32 = 0x7fc0_0000;

/// Offsets within `struct seccomp_data`.
const DATA_NR: u32 = 0;
const DATA_ARCH: u32 = 4;
const DATA_ARGS: u32 = 16;
/// Offset of an argument's upper half, on a little-endian machine.
const UPPER_HALF: u32 = 4;
/// Arguments of a system call.
const ARGS: u32 = 6;
const ARGS_U8: u8 = 6;

fn op(code: u16, k: u32) -> libc::sock_filter {
    libc::sock_filter { code, jt: 0, jf: 0, k }
}

fn jump(code: u16, k: u32, jt: u8, jf: u8) -> libc::sock_filter {
    libc::sock_filter { code, jt, jf, k }
}

impl Filter {
    /// Adds a call that is handed over whatever its arguments.
    pub fn always(&mut self, nr: i64) -> &mut Self {
        self.when(nr, Vec::new())
    }

    /// Adds a call that is handed over when all `tests` hold; replaces an earlier rule for it.
    pub fn when(&mut self, nr: i64, tests: Vec<ArgTest>) -> &mut Self {
        let nr = u32::try_from(nr).expect("system call numbers are small and positive");
        self.rules.retain(|rule| rule.nr != nr);
        self.rules.push(Rule { nr, tests, pass: None });
        self
    }

    /// Lets a call through if the upper 32 bits of argument `arg` are `value`, where the kernel
    /// ignores them: how a call that the supervisor itself makes in the program is told.
    ///
    /// # Panics
    /// When no rule names the call.
    pub fn pass(&mut self, nr: i64, arg: u8, value: u32) -> &mut Self {
        let rule = self.rules.iter_mut().find(|rule| i64::from(rule.nr) == nr);
        rule.expect("a call that is handed over").pass = Some((arg, value));
        self
    }

    /// Hands over every call that has an argument whose upper 32 bits, after masking, are `value`:
    /// a pointer into a part of the address space. Those in `without` take none, whatever is left in the
    /// registers.
    pub fn pointers(&mut self, mask: u32, value: u32, without: &[i64]) -> &mut Self {
        self.pointers = Some((mask, value));
        self.without = without.iter().filter_map(|&nr| u32::try_from(nr).ok()).collect();
        self
    }

    /// Hands over the opens of 32-bit programs and of the x32 ABI's, and their ioctls whose argument
    /// is as `ioctl` says.
    pub fn foreign(&mut self, ioctl: ArgTest) -> &mut Self {
        self.foreign = Some(ioctl);
        self
    }

    /// The rules, in the order in which the program tests them.
    pub fn rules(&self) -> &[Rule] {
        &self.rules
    }

    /// The BPF program.
    ///
    /// A jump reaches 255 instructions, so a rule's tests must fit in that; each rule's block
    /// asserts it.
    pub fn assemble(&self) -> Vec<libc::sock_filter> {
        let compat = self.foreign_blocks(Some(&arch::foreign::COMPAT));
        let to_native = u8::try_from(compat.len() + 4).expect("few calls of another kind");
        let mut program = vec![
            op(LOAD, DATA_ARCH),
            jump(JUMP_EQ, AUDIT_ARCH, to_native, 0),
            jump(JUMP_EQ, arch::foreign::AUDIT_ARCH, 1, 0),
            op(RETURN, RET_ALLOW),
            op(LOAD, DATA_NR),
        ];
        program.extend(compat);
        program.push(op(RETURN, RET_ALLOW));
        program.push(op(LOAD, DATA_NR));
        program.extend(self.foreign_blocks(arch::foreign::X32.as_ref()));
        program.extend([jump(JUMP_GE, X32_SYSCALL_BIT, 0, 1), op(RETURN, RET_ALLOW)]);
        for rule in &self.rules {
            program.extend(Self::guarded(rule));
        }
        let tail = program.len();
        for (index, insn) in program.iter_mut().enumerate() {
            if insn.code == JUMP {
                insn.k = u32::try_from(tail - index - 1).expect("a short program");
            }
        }
        program.extend(self.tail());
        program
    }

    /// The blocks of the calls that a program of another kind hands over.
    fn foreign_blocks(&self, calls: Option<&ForeignCalls>) -> Vec<libc::sock_filter> {
        let Some((calls, ioctl)) = calls.zip(self.foreign.as_ref()) else { return Vec::new() };
        let rule = |nr, tests| Rule { nr, tests, pass: None };
        let opens = [calls.open, calls.openat, calls.openat2].map(|nr| rule(nr, Vec::new()));
        let ioctl = rule(calls.ioctl, vec![ioctl.clone()]);
        opens.iter().chain([&ioctl]).flat_map(Self::guarded).collect()
    }

    /// A rule's block, behind the question whether the call is its own.
    fn guarded(rule: &Rule) -> Vec<libc::sock_filter> {
        let block = Self::block(rule);
        let skip = u8::try_from(block.len()).expect("a rule's block fits one jump");
        [vec![jump(JUMP_EQ, rule.nr, 0, skip)], block].concat()
    }

    /// What is asked of a call that no rule hands over.
    fn tail(&self) -> Vec<libc::sock_filter> {
        let mut tail = Vec::new();
        if let Some((mask, value)) = self.pointers {
            let left = (0..u8::try_from(self.without.len()).expect("few calls")).rev();
            tail.extend((!self.without.is_empty()).then(|| op(LOAD, DATA_NR)));
            // Over the calls that are left to the verdict behind them, or over that verdict.
            let without = self.without.iter().zip(left);
            tail.extend(without.map(|(&nr, left)| jump(JUMP_EQ, nr, left, u8::from(left == 0))));
            tail.extend((!self.without.is_empty()).then(|| op(RETURN, RET_ALLOW)));
            for (arg, left) in (0..ARGS).zip((0..ARGS_U8).rev()) {
                tail.push(op(LOAD, DATA_ARGS + 8 * arg + UPPER_HALF));
                tail.push(op(AND, mask));
                // Over the arguments that are left and the first verdict.
                tail.push(jump(JUMP_EQ, value, left * 3 + 1, 0));
            }
        }
        tail.extend([op(RETURN, RET_ALLOW), op(RETURN, RET_USER_NOTIF)]);
        tail
    }

    /// Straight-line code: hand over if all tests hold, else go on to the tail.
    fn block(rule: &Rule) -> Vec<libc::sock_filter> {
        let mut block = Vec::new();
        if let Some((arg, value)) = rule.pass {
            block.push(op(LOAD, DATA_ARGS + 8 * u32::from(arg) + UPPER_HALF));
            block.push(jump(JUMP_EQ, value, 0, 1));
            block.push(op(RETURN, RET_ALLOW));
        }
        for test in &rule.tests {
            block.push(op(LOAD, DATA_ARGS + 8 * u32::from(test.arg)));
            block.push(op(AND, test.mask));
            let values = u8::try_from(test.any_of.len()).expect("few values a test");
            for (index, &value) in (0u8..).zip(&test.any_of) {
                // On a match, over the remaining values and the verdict behind them.
                block.push(jump(JUMP_EQ, value, values - index, 0));
            }
            // To the tail; how far is known when the program is complete.
            block.push(op(JUMP, 0));
        }
        block.push(op(RETURN, RET_USER_NOTIF));
        block
    }
}

/// Loads `program` into the calling thread and returns the listener, which is close-on-exec.
///
/// Sets no_new_privs first: without CAP_SYS_ADMIN the kernel asks for it, and it means that
/// setuid programs started from here gain nothing. Safe to call between fork and exec: no
/// allocation, no lock.
///
/// # Errors
/// EBUSY: a filter with a listener is already in place (a supervisor in a supervisor). EINVAL or
/// ENOSYS: the kernel is older than 5.9 or built without CONFIG_SECCOMP_FILTER. EACCES is not
/// possible after no_new_privs.
pub fn install(program: &[libc::sock_filter]) -> io::Result<OwnedFd> {
    // SAFETY: PR_SET_NO_NEW_PRIVS takes scalars only and affects this thread alone.
    if unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) } != 0 {
        return Err(io::Error::last_os_error());
    }
    let len = libc::c_ushort::try_from(program.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
    let fprog = libc::sock_fprog { len, filter: program.as_ptr().cast_mut() };
    let flags =
        libc::SECCOMP_FILTER_FLAG_NEW_LISTENER | libc::SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV;
    // WAIT_KILLABLE_RECV (5.19) keeps a signal from restarting a call whose fd is installed.
    load(flags, &fprog).or_else(|_| load(libc::SECCOMP_FILTER_FLAG_NEW_LISTENER, &fprog))
}

fn load(flags: libc::c_ulong, fprog: &libc::sock_fprog) -> io::Result<OwnedFd> {
    // SAFETY: `fprog` points to `len` instructions that outlive the call; the kernel copies them
    // and never writes through the pointer.
    let fd = unsafe {
        libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, flags, &raw const *fprog)
    };
    let fd = i32::try_from(fd).map_err(|_| io::ErrorKind::InvalidData)?;
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just created this listener and nobody else knows its number.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Interprets the subset of classic BPF that [`Filter::assemble`] emits.
    fn verdict(program: &[libc::sock_filter], arch: u32, nr: u32, args: [u64; 6]) -> u32 {
        let mut pc = 0;
        let mut acc = 0u32;
        loop {
            let insn = program[pc];
            pc += 1;
            match insn.code {
                LOAD if insn.k == DATA_NR => acc = nr,
                LOAD if insn.k == DATA_ARCH => acc = arch,
                LOAD if insn.k % 8 == UPPER_HALF => {
                    acc = u32::try_from(args[(insn.k as usize - 16) / 8] >> 32).unwrap()
                }
                LOAD => {
                    acc = u32::try_from(args[(insn.k as usize - 16) / 8] & 0xffff_ffff).unwrap()
                }
                JUMP => pc += insn.k as usize,
                AND => acc &= insn.k,
                JUMP_EQ => pc += usize::from(if acc == insn.k { insn.jt } else { insn.jf }),
                JUMP_GE => pc += usize::from(if acc >= insn.k { insn.jt } else { insn.jf }),
                RETURN => return insn.k,
                code => panic!("unexpected instruction {code:#x}"),
            }
        }
    }

    #[test]
    fn pointers_into_a_region() {
        let arch = AUDIT_ARCH;
        let mut filter = Filter::default();
        filter.when(9, vec![ArgTest { arg: 3, mask: 0xf, any_of: vec![1] }]).pass(9, 4, 7);
        filter.pointers(!0x1f, 0x7ea0, &[39, 15]);
        let program = filter.assemble();
        for (nr, args, trapped) in [
            (3, [0; 6], false),
            (39, [0x7ea0 << 32, 0, 0, 0, 0, 0], false),
            (15, [0, 0, 0x7ea0 << 32, 0, 0, 0], false),
            (16, [0, 0, 0x7ea0 << 32, 0, 0, 0], true),
            (3, [0x7ea0 << 32, 0, 0, 0, 0, 0], true),
            (3, [0, 0, 0, 0, 0, 0x7ebf << 32 | 5], true),
            (3, [0, 0, 0, 0x7ec0 << 32, 0, 0], false),
            (9, [0, 0, 0, 1, 0, 0], true),
            (9, [0, 0, 0, 2, 0, 0], false),
            (9, [0x7ea1 << 32, 0, 0, 2, 0, 0], true),
            (9, [0x7ea1 << 32, 0, 0, 1, 7 << 32, 0], false),
        ] {
            let expect = if trapped { RET_USER_NOTIF } else { RET_ALLOW };
            assert_eq!(verdict(&program, arch, nr, args), expect, "{nr} {args:x?}");
        }
    }

    #[test]
    fn verdicts() {
        let native = AUDIT_ARCH;
        let mut filter = Filter::default();
        filter.always(2).when(16, vec![ArgTest { arg: 1, mask: u32::MAX, any_of: vec![7, 9, 11] }]);
        filter.when(
            9,
            vec![
                ArgTest { arg: 3, mask: 0xf, any_of: vec![1, 3] },
                ArgTest { arg: 4, mask: 1 << 31, any_of: vec![0] },
            ],
        );
        filter.always(25).pass(25, 5, 0xdead_beef);
        filter.foreign(ArgTest { arg: 1, mask: u32::MAX, any_of: vec![7] });
        let compat = arch::foreign::AUDIT_ARCH;
        let calls = arch::foreign::COMPAT;
        let program = filter.assemble();
        let fd_none = u64::MAX;
        for (arch, nr, args, trapped) in [
            (native, 2, [0; 6], true),
            (native, 3, [0; 6], false),
            (native, 25, [0; 6], true),
            (native, 25, [0, 0, 0, 0, 0, 0xdead_beef << 32 | 7], false),
            (native, 25, [0, 0, 0, 0, 0xdead_beef << 32, 0xdead_beef], true),
            (compat, 2, [0; 6], false),
            (compat, calls.open, [0; 6], true),
            (compat, calls.openat, [0; 6], true),
            (compat, calls.ioctl, [0, 7, 0, 0, 0, 0], true),
            (compat, calls.ioctl, [0, 8, 0, 0, 0, 0], false),
            (0xc000_003e ^ AUDIT_ARCH ^ 0xc000_00b7, calls.open, [0; 6], false),
            (native, 2 | X32_SYSCALL_BIT, [0; 6], arch::foreign::X32.is_some()),
            (native, 514 | X32_SYSCALL_BIT, [0, 8, 0, 0, 0, 0], false),
            (native, 3 | X32_SYSCALL_BIT, [0; 6], false),
            (native, 16, [0, 7, 0, 0, 0, 0], true),
            (native, 16, [0, 9, 0, 0, 0, 0], true),
            (native, 16, [0, 11 | 1 << 32, 0, 0, 0, 0], true),
            (native, 16, [0, 8, 0, 0, 0, 0], false),
            (native, 9, [0, 0, 0, 0x11, 3, 0], true),
            (native, 9, [0, 0, 0, 0x23, 3, 0], true),
            (native, 9, [0, 0, 0, 0x02, 3, 0], false),
            (native, 9, [0, 0, 0, 0x21, fd_none, 0], false),
        ] {
            let expect = if trapped { RET_USER_NOTIF } else { RET_ALLOW };
            assert_eq!(verdict(&program, arch, nr, args), expect, "{arch:#x} {nr} {args:x?}");
        }
    }
}
