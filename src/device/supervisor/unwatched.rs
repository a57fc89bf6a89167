//! Programs that the device can't serve, and how the user is told.
//!
//! - A 32-bit program, or one of the x32 ABI: the filter hands over the calls by which it would use
//!   the device, so that it can be named here; they are let through.
//! - A program under qemu-user: its opens arrive, but qemu passes on only the ioctls that it knows
//!   (linux-user/ioctls.h), and those of dma-heap, udmabuf and dma-buf are not among them.
//! - A file for another machine, given to `run` itself, does not start at all ([`foreign_file`]).

use std::collections::BTreeSet;
use std::ffi::{CStr, OsStr};
use std::fs::File;
use std::io::Read as _;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use super::{Decision, Supervisor, int, lock, say};
use crate::sys::arch;
use crate::sys::notify::Call;
use crate::terminal::printed;

/// Most programs that are named; later ones are counted.
const NAMED_MAX: usize = 16;

/// The programs that were told of.
#[derive(Debug, Default)]
pub(super) struct Unwatched(BTreeSet<PathBuf>);

/// Why a call is not one that the device answers; `None` if it is.
fn foreign(call: &Call) -> Option<&'static str> {
    let is_x32 = arch::foreign::X32.is_some() && call.nr >= i64::from(arch::X32_SYSCALL_BIT);
    match call.arch {
        arch::AUDIT_ARCH if is_x32 => Some("an x32 program"),
        arch::AUDIT_ARCH => None,
        _ => Some("a 32-bit program"),
    }
}

impl Supervisor {
    /// The answer to a call of a program of another kind; `None` to one of our own kind.
    pub(super) fn foreign_call(&mut self, call: &Call) -> Option<Decision> {
        let kind = foreign(call)?;
        let calls = match call.arch {
            arch::AUDIT_ARCH => arch::foreign::X32?,
            _ => arch::foreign::COMPAT,
        };
        let [a0, a1, ..] = call.args;
        let uses_us = match u32::try_from(call.nr).ok()? {
            nr if nr == calls.open => self.node(call, libc::AT_FDCWD, a0).is_some(),
            nr if nr == calls.ioctl => self.object(call.tid, int(a0)).is_some(),
            _ => self.node(call, int(a0), a1).is_some(),
        };
        if uses_us {
            let exe = exe(call.tid).unwrap_or_default();
            self.not_watched(
                exe,
                call.tid,
                kind,
                "build it for this machine's own 64-bit programs",
            );
        }
        Some(Decision::Native)
    }

    /// Says so if the program that opens the device runs under qemu-user.
    pub(super) fn tell_emulated(&mut self, tid: i32) {
        let Ok(exe) = exe(tid) else { return };
        if is_qemu_user(&exe) {
            let remedy = "qemu passes on only the ioctls that it knows, and none of dma-heap's: \
                          run driftheap in a machine of that architecture, or build the program \
                          for this one";
            self.not_watched(exe, tid, "a program under qemu-user", remedy);
        }
    }

    fn not_watched(&mut self, exe: PathBuf, tid: i32, kind: &str, remedy: &str) {
        let name = printed(&exe.to_string_lossy());
        let known = &mut self.unwatched.0;
        if !known.insert(exe) {
            return;
        }
        lock(&self.shared).device.stats.unwatched += 1;
        if known.len() <= NAMED_MAX && !self.quiet {
            say!("driftheap: {name} (process {tid}) is {kind}: it is not watched; {remedy}");
        }
    }
}

/// The program that a thread executes.
fn exe(tid: i32) -> std::io::Result<PathBuf> {
    std::fs::read_link(format!("/proc/{tid}/exe"))
}

/// `qemu-arm`, `qemu-aarch64-static` and the like; not `qemu-system-arm`, which is a machine.
fn is_qemu_user(exe: &Path) -> bool {
    let name = exe.file_name().and_then(OsStr::to_str).unwrap_or_default();
    let rest = name.strip_prefix("qemu-").unwrap_or_default();
    let arch = rest.strip_suffix("-static").unwrap_or(rest);
    let machines = [
        "aarch64",
        "aarch64_be",
        "arm",
        "armeb",
        "i386",
        "x86_64",
        "riscv64",
        "riscv32",
        "ppc",
        "ppc64",
        "ppc64le",
        "s390x",
        "mips",
        "mipsel",
        "mips64",
        "mips64el",
        "loongarch64",
        "sparc64",
        "alpha",
        "hppa",
        "m68k",
        "sh4",
    ];
    machines.contains(&arch)
}

/// What the file is that would be executed as `program`, if it is an ELF file of another kind than
/// this program itself: `a 32-bit program for i386`.
pub(super) fn foreign_file(program: &CStr) -> Option<String> {
    let mut head = [0; HEAD_BYTES];
    File::open(resolve(program)?).ok()?.read_exact(&mut head).ok()?;
    kind_of(&head).filter(|kind| *kind != (64, arch::ELF_MACHINE)).map(|(bits, machine)| {
        let name = MACHINES.iter().find(|(number, _)| *number == machine);
        let name =
            name.map_or_else(|| format!("machine {machine}"), |(_, name)| (*name).to_owned());
        format!("a {bits}-bit program for {name}")
    })
}

/// Bytes of an ELF file's header up to and with `e_machine`.
const HEAD_BYTES: usize = 20;

/// Those that a developer is likely to meet, by `e_machine`.
const MACHINES: [(u16, &str); 8] = [
    (object::elf::EM_386.0, "i386"),
    (object::elf::EM_X86_64.0, "x86-64"),
    (object::elf::EM_ARM.0, "Arm"),
    (object::elf::EM_AARCH64.0, "arm64"),
    (object::elf::EM_RISCV.0, "RISC-V"),
    (object::elf::EM_PPC64.0, "PowerPC"),
    (object::elf::EM_S390.0, "s390"),
    (object::elf::EM_MIPS.0, "MIPS"),
];

/// Class, as bits, and machine; `None` of what is no ELF file.
fn kind_of(head: &[u8; HEAD_BYTES]) -> Option<(u8, u16)> {
    let (magic, rest) = head.split_first_chunk()?;
    if *magic != object::elf::ELFMAG {
        return None;
    }
    let bits = if rest[0] == object::elf::ELFCLASS64.0 { 64 } else { 32 };
    let machine = [head[18], head[19]];
    let little = rest[1] == object::elf::ELFDATA2LSB.0;
    Some((bits, if little { u16::from_le_bytes(machine) } else { u16::from_be_bytes(machine) }))
}

/// The file that execvp(3) would execute.
fn resolve(program: &CStr) -> Option<PathBuf> {
    let name = OsStr::from_bytes(program.to_bytes());
    if program.to_bytes().contains(&b'/') {
        return Some(name.into());
    }
    let path = std::env::var_os("PATH").unwrap_or_else(|| "/bin:/usr/bin".into());
    let is_program = |file: &PathBuf| {
        rustix::fs::access(file, rustix::fs::Access::EXEC_OK).is_ok() && file.is_file()
    };
    std::env::split_paths(&path).map(|dir| dir.join(name)).find(is_program)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(class: u8, data: u8, machine: [u8; 2]) -> [u8; HEAD_BYTES] {
        let mut head = [0; HEAD_BYTES];
        head[..4].copy_from_slice(b"\x7fELF");
        (head[4], head[5]) = (class, data);
        head[18..].copy_from_slice(&machine);
        head
    }

    #[test]
    fn kinds_of_files() {
        assert_eq!(kind_of(&head(1, 1, [3, 0])), Some((32, 3)));
        assert_eq!(kind_of(&head(2, 1, [62, 0])), Some((64, 62)));
        assert_eq!(kind_of(&head(2, 2, [0, 22])), Some((64, 22)));
        assert_eq!(kind_of(b"#!/bin/sh\n# a script"), None);
    }

    #[test]
    fn qemu_user_is_told_from_qemu_system() {
        for (name, expect) in [
            ("/usr/bin/qemu-arm", true),
            ("/usr/bin/qemu-aarch64-static", true),
            ("/usr/bin/qemu-system-aarch64", false),
            ("/usr/bin/qemu-img", false),
            ("/usr/bin/arm", false),
        ] {
            assert_eq!(is_qemu_user(Path::new(name)), expect, "{name}");
        }
    }

    #[test]
    fn this_program_is_native() {
        let own = std::env::current_exe().unwrap();
        let own = std::ffi::CString::new(own.into_os_string().into_encoded_bytes()).unwrap();
        assert_eq!(foreign_file(&own), None);
        assert_eq!(foreign_file(c"sh"), None);
        assert_eq!(foreign_file(c"/no/such/file"), None);
    }
}
