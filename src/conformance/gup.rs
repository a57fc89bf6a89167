//! Rows of get_user_pages through a mapping: what is refused on VM_PFNMAP, and what works because
//! the kernel copies.

use super::kit::*;
use super::{Row, row};
use crate::sys::raw::{call, in_child, peek, peek32, poke, poke32, ptr};

/// Whose page cache is its memory: O_DIRECT there copies and pins nothing (shmem_file_open).
const TMPFS_MAGIC: u64 = 0x0102_1994;

/// A file that O_DIRECT pins pages for, with a page in it: CONFORMANCE_DIRECT, which is
/// overwritten, or an unnamed one in /tmp.
fn direct_file() -> Result<u64, Early> {
    let named = std::env::var("CONFORMANCE_DIRECT").ok();
    let opened = named
        .map_or_else(|| scratch(libc::O_DIRECT), |path| open(&path, libc::O_RDWR | libc::O_DIRECT));
    let fd =
        opened.map_err(|errno| Early(format!("SKIP no file with O_DIRECT: {}", name(errno))))?;
    let mut stat = [0_u64; 15];
    let _ = call(libc::SYS_fstatfs, &[fd as u64, ptr(&mut stat)]);
    // The node of a block device lies on devtmpfs, which says the same of itself.
    if stat[0] == TMPFS_MAGIC && std::env::var_os("CONFORMANCE_DIRECT").is_none() {
        return Err(Early("SKIP /tmp is a tmpfs, where O_DIRECT copies".into()));
    }
    let page = anonymous(1, PROT_RW);
    poke(page, 9);
    call(libc::SYS_pwrite64, &[fd as u64, page, page_size(), 0])
        .map_err(|errno| Early(format!("SKIP O_DIRECT write: {}", name(errno))))?;
    Ok(fd as u64)
}

fn direct(nr: libc::c_long) -> String {
    let (_, addr) = mapped(1);
    poke(addr, 5);
    direct_file().map_or_else(|Early(answer)| answer, |fd| e(call(nr, &[fd, addr, page_size(), 0])))
}

fn pipe() -> [u64; 2] {
    let mut pipe = [0i32; 2];
    let _ = call(libc::SYS_pipe2, &[ptr(&mut pipe), 0]);
    pipe.map(|fd| fd as u64)
}

/// A connected pair of TCP sockets.
fn tcp() -> [u64; 2] {
    let socket = || call(libc::SYS_socket, &[2, 1, 0]).unwrap_or(-1) as u64;
    let (listener, client) = (socket(), socket());
    let mut addr = [2u8, 0, 0, 0, 127, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0];
    let mut len = 16u32;
    let _ = call(libc::SYS_bind, &[listener, ptr(&mut addr), 16]);
    let _ = call(libc::SYS_listen, &[listener, 1]);
    let _ = call(libc::SYS_getsockname, &[listener, ptr(&mut addr), ptr(&mut len)]);
    let _ = call(libc::SYS_connect, &[client, ptr(&mut addr), 16]);
    let server = call(libc::SYS_accept, &[listener, 0, 0]).unwrap_or(-1) as u64;
    [client, server]
}

fn zerocopy() -> String {
    let (_, addr) = mapped(1);
    poke(addr, 5);
    let [client, _server] = tcp();
    let mut one = 1u32;
    let on = call(libc::SYS_setsockopt, &[client, 1, 60, ptr(&mut one), 4]);
    if on.is_err() {
        return "SKIP no SO_ZEROCOPY".into();
    }
    e(call(libc::SYS_sendto, &[client, addr, page_size(), 0x400_0000, 0, 0]))
}

/// io_uring_setup with four entries; the ring and its parameters.
fn ring() -> Result<(u64, [u32; 30]), Early> {
    let mut params = [0u32; 30];
    match call(libc::SYS_io_uring_setup, &[4, ptr(&mut params)]) {
        Ok(fd) => Ok((fd as u64, params)),
        Err(errno) => Err(Early(format!("SKIP no io_uring: {}", name(errno)))),
    }
}

fn register_buffers() -> String {
    let (_, addr) = mapped(1);
    poke(addr, 5);
    let mut iov = [addr, page_size()];
    ring().map_or_else(
        |Early(answer)| answer,
        |(ring, _)| e(call(libc::SYS_io_uring_register, &[ring, 0, ptr(&mut iov), 1])),
    )
}

/// One read through io_uring into the mapping; the completion's result.
fn ring_read(file: u64, addr: u64) -> Result<String, Early> {
    let (ring, params) = ring()?;
    let map = |offset| mmap(ring, page_size(), PROT_RW, SHARED, offset).unwrap_or(0) as u64;
    // io_sqring_offsets begin at word 10 (head, tail, mask, entries, flags, dropped, array),
    // io_cqring_offsets at word 20 (head, tail, mask, entries, overflow, cqes).
    let (sq, cq, sqes) = (map(0), map(0x800_0000), map(0x1000_0000));
    let word = |index: usize| u64::from(params[index]);
    const IORING_OP_READ: u32 = 22;
    poke32(sqes, IORING_OP_READ);
    poke32(sqes + 4, file as u32);
    poke32(sqes + 16, addr as u32);
    poke32(sqes + 20, (addr >> 32) as u32);
    poke32(sqes + 24, page_size() as u32);
    poke32(sq + word(16), 0);
    poke32(sq + word(11), 1);
    let _ = call(libc::SYS_io_uring_enter, &[ring, 1, 1, 1, 0, 0]);
    if peek32(cq + word(21)) == 0 {
        return Err(Early("no completion".into()));
    }
    let result = peek32(cq + word(25) + 8) as i32;
    Ok(if result < 0 { name(-result) } else { format!("ok {result}") })
}

fn process_vm(nr: libc::c_long) -> String {
    let (_, addr) = mapped(1);
    poke(addr, 5);
    let mut bytes = [0u8; 64];
    let mut local = [ptr(&mut bytes), 64];
    let mut remote = [addr, 64];
    let pid = u64::from(std::process::id());
    e(call(nr, &[pid, ptr(&mut local), 1, ptr(&mut remote), 1, 0]))
}

fn proc_mem(nr: libc::c_long) -> String {
    let (_, addr) = mapped(1);
    poke(addr, 5);
    let Ok(fd) = open("/proc/self/mem", libc::O_RDWR) else {
        return "SKIP no /proc/self/mem".into();
    };
    let mut bytes = [0u8; 64];
    e(call(nr, &[fd as u64, ptr(&mut bytes), 64, addr]))
}

fn ptrace(request: u64) -> String {
    let (_, addr) = mapped(1);
    poke(addr, 5);
    let mut gate = pipe();
    let child = call(libc::SYS_clone, &[libc::SIGCHLD as u64, 0, 0, 0, 0]).unwrap_or(-1);
    if child == 0 {
        let mut byte = [0u8];
        let _ = call(libc::SYS_close, &[gate[1]]);
        let _ = call(libc::SYS_read, &[gate[0], ptr(&mut byte), 1]);
        let _ = call(libc::SYS_exit_group, &[0]);
    }
    let pid = child as u64;
    let mut word = 0u64;
    let answer = match call(libc::SYS_ptrace, &[16, pid, 0, 0]) {
        Ok(_) => {
            let _ = call(libc::SYS_wait4, &[pid, 0, 0x4000_0000, 0]);
            let data = if request == 1 { ptr(&mut word) } else { 7 };
            e(call(libc::SYS_ptrace, &[request, pid, addr, data]))
        }
        Err(errno) => format!("SKIP ptrace: {}", name(errno)),
    };
    let _ = call(libc::SYS_kill, &[pid, 9]);
    let _ = close(std::mem::take(&mut gate[1]));
    let _ = call(libc::SYS_wait4, &[pid, 0, 0, 0]);
    answer
}

fn futex(private: u64) -> String {
    let (_, addr) = mapped(1);
    poke(addr, 5);
    // FUTEX_WAKE of nobody needs the key only.
    v(call(libc::SYS_futex, &[addr, 1 | private, 1]))
}

fn socket_pair(sockets: [u64; 2]) -> String {
    let (_, addr) = mapped(1);
    poke(addr, 5);
    let sent = v(call(libc::SYS_sendto, &[sockets[0], addr, 64, 0, 0, 0]));
    let got = v(call(libc::SYS_recvfrom, &[sockets[1], addr + 1024, 64, 0, 0, 0]));
    format!("{sent} {got} data {}", peek(addr + 1024))
}

pub(crate) const ROWS: &[Row] = &[
    row("gup.direct-read", "EFAULT", || direct(libc::SYS_pread64)),
    row("gup.direct-write", "EFAULT", || direct(libc::SYS_pwrite64)),
    row("gup.vmsplice", "EFAULT", || {
        let (_, addr) = mapped(1);
        poke(addr, 5);
        let mut iov = [addr, page_size()];
        e(call(libc::SYS_vmsplice, &[pipe()[1], ptr(&mut iov), 1, 0]))
    }),
    row("gup.zerocopy", "EFAULT", zerocopy),
    row("gup.io-uring-register", "EFAULT", register_buffers),
    row("gup.io-uring-direct", "EFAULT", || {
        let (_, addr) = mapped(1);
        poke(addr, 5);
        direct_file().and_then(|fd| ring_read(fd, addr)).unwrap_or_else(|Early(answer)| answer)
    }),
    row("gup.process-vm-readv", "EFAULT", || process_vm(libc::SYS_process_vm_readv)),
    row("gup.process-vm-writev", "EFAULT", || process_vm(libc::SYS_process_vm_writev)),
    row("gup.shared-futex", "EFAULT", || futex(0)),
    row("gup.proc-mem-read", "EIO", || proc_mem(libc::SYS_pread64)),
    row("gup.proc-mem-write", "EIO", || proc_mem(libc::SYS_pwrite64)),
    row("gup.ptrace-peek", "EIO", || ptrace(1)),
    row("gup.ptrace-poke", "EIO", || ptrace(4)),
    row("copy.file-write", "64", || {
        let (_, addr) = mapped(1);
        poke(addr, 5);
        scratch(0)
            .map_or("SKIP no file".into(), |fd| v(call(libc::SYS_write, &[fd as u64, addr, 64])))
    }),
    row("copy.file-read", "64 data 9", || {
        let (_, addr) = mapped(1);
        let Ok(fd) = scratch(0) else { return "SKIP no file".into() };
        let mut bytes = [9u8; 64];
        let _ = call(libc::SYS_write, &[fd as u64, ptr(&mut bytes), 64]);
        let got = v(call(libc::SYS_pread64, &[fd as u64, addr, 64, 0]));
        format!("{got} data {}", peek(addr))
    }),
    row("copy.pipe", "64 64 data 5", || {
        let (_, addr) = mapped(1);
        poke(addr, 5);
        let [read, write] = pipe();
        let wrote = v(call(libc::SYS_write, &[write, addr, 64]));
        let got = v(call(libc::SYS_read, &[read, addr + 1024, 64]));
        format!("{wrote} {got} data {}", peek(addr + 1024))
    }),
    row("copy.unix-socket", "64 64 data 5", || {
        let mut pair = [0i32; 2];
        let _ = call(libc::SYS_socketpair, &[1, 1, 0, ptr(&mut pair)]);
        socket_pair(pair.map(|fd| fd as u64))
    }),
    row("copy.tcp", "64 64 data 5", || socket_pair(tcp())),
    row("copy.io-uring", "ok 4096 data 9", || {
        let (_, addr) = mapped(1);
        let Ok(fd) = scratch(0) else { return "SKIP no file".into() };
        let mut bytes = [9u8; 4096];
        let _ = call(libc::SYS_write, &[fd as u64, ptr(&mut bytes), 4096]);
        match ring_read(fd as u64, addr) {
            Ok(text) => format!("{text} data {}", peek(addr)),
            Err(Early(answer)) => answer,
        }
    }),
    row("copy.private-futex", "0", || futex(128)),
    row("copy.getrandom", "64", || {
        let (_, addr) = mapped(1);
        v(call(libc::SYS_getrandom, &[addr, 64, 0]))
    }),
    row("copy.stat", "ok", || {
        let (_, addr) = mapped(1);
        let mut path = *b"/\0";
        e(call(libc::SYS_newfstatat, &[libc::AT_FDCWD as u64, ptr(&mut path), addr, 0]))
    }),
    row("copy.path", "ok", || {
        let (_, addr) = mapped(1);
        poke(addr, b'/');
        e(call(libc::SYS_openat, &[libc::AT_FDCWD as u64, addr, 0, 0]))
    }),
    row("gup.child", "EFAULT", || {
        let (_, addr) = mapped(1);
        poke(addr, 5);
        in_child(5, || {
            let mut iov = [addr, page_size()];
            e(call(libc::SYS_vmsplice, &[pipe()[1], ptr(&mut iov), 1, 0]))
        })
    }),
];
