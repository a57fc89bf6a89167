//! System calls by number, and the memory of this process by address: what the conformance suite
//! is made of, which asks on purpose what no wrapper lets pass.
//!
//! # Safety
//! Nothing here is checked, so nothing here is public: the only callers are the suite's rows, each
//! of which runs in a child process of its own ([`in_child`]) and passes addresses of its own live
//! objects, or addresses that the kernel is to refuse.
#![allow(unsafe_code, reason = "a conformance test makes raw system calls on purpose")]
#![allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "system calls take and return words"
)]

/// A result, or an errno.
pub(crate) type R = Result<i64, i32>;

/// Makes a system call.
pub(crate) fn call(nr: libc::c_long, args: &[u64]) -> R {
    let at = |index: usize| args.get(index).copied().unwrap_or(0);
    // SAFETY: every row passes addresses of live objects of its own, or addresses that are meant
    // to be refused; a row runs in a process of its own.
    let result = unsafe { libc::syscall(nr, at(0), at(1), at(2), at(3), at(4), at(5)) };
    if result == -1 {
        Err(std::io::Error::last_os_error().raw_os_error().unwrap_or(0))
    } else {
        Ok(result)
    }
}

/// Address of an object that the kernel reads or writes.
pub(crate) fn ptr<T: ?Sized>(object: &mut T) -> u64 {
    (&raw mut *object).cast::<u8>() as u64
}

/// One byte at an address.
pub(crate) fn peek(addr: u64) -> u8 {
    // SAFETY: rows pass addresses inside mappings that they hold.
    unsafe { (addr as *const u8).read_volatile() }
}

/// Writes one byte at an address.
pub(crate) fn poke(addr: u64, byte: u8) {
    // SAFETY: rows pass addresses inside writable mappings that they hold.
    unsafe { (addr as *mut u8).write_volatile(byte) }
}

/// A 32-bit word at an address that another agent (the kernel) writes.
pub(crate) fn peek32(addr: u64) -> u32 {
    // SAFETY: rows pass aligned addresses inside mappings that they hold.
    unsafe { (addr as *const u32).read_volatile() }
}

/// Writes a 32-bit word at an address that another agent (the kernel) reads.
pub(crate) fn poke32(addr: u64, word: u32) {
    // SAFETY: rows pass aligned addresses inside writable mappings that they hold.
    unsafe { (addr as *mut u32).write_volatile(word) }
}

/// Runs `body` in a child and returns the text that it produced, or how it died.
pub(crate) fn in_child(seconds_max: u32, body: impl FnOnce() -> String) -> String {
    let mut pipe = [0i32; 2];
    if call(libc::SYS_pipe2, &[ptr(&mut pipe), 0]).is_err() {
        return "no pipe".into();
    }
    let [read, write] = pipe.map(|fd| fd as u64);
    // SAFETY: this program has one thread, so the child's copy of every lock is free.
    let pid = unsafe { libc::fork() };
    if pid == 0 {
        let _ = call(libc::SYS_close, &[read]);
        let mut once = [0, 0, u64::from(seconds_max), 0];
        let _ = call(libc::SYS_setitimer, &[0, ptr(&mut once), 0]);
        let mut text = body().into_bytes();
        let len = text.len() as u64;
        let _ = call(libc::SYS_write, &[write, ptr(text.as_mut_slice()), len]);
        // SAFETY: ends the child without running the parent's exit handlers in it.
        unsafe { libc::_exit(0) }
    }
    let _ = call(libc::SYS_close, &[write]);
    let mut text = Vec::new();
    let mut chunk = [0u8; 4096];
    while let Ok(got @ 1..) = call(libc::SYS_read, &[read, ptr(&mut chunk), 4096]) {
        text.extend_from_slice(&chunk[..got as usize]);
    }
    let _ = call(libc::SYS_close, &[read]);
    let mut status = 0i32;
    let _ = call(libc::SYS_wait4, &[pid as u64, ptr(&mut status), 0, 0]);
    if libc::WIFSIGNALED(status) {
        return format!("killed by signal {}", libc::WTERMSIG(status));
    }
    String::from_utf8_lossy(&text).into_owned()
}

/// Installs a handler for SIGALRM that does nothing and does not restart calls.
pub(crate) fn interrupt_every(ms: i64) {
    extern "C" fn nothing(_: libc::c_int) {}
    // SAFETY: all-zero is a valid sigaction: no flags, empty mask.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = nothing as *const () as usize;
    // SAFETY: `action` is initialised and its handler is async-signal-safe.
    unsafe { libc::sigaction(libc::SIGALRM, &raw const action, std::ptr::null_mut()) };
    let mut timer = [0i64, ms * 1000, 0, ms * 1000];
    let _ = call(libc::SYS_setitimer, &[0, ptr(&mut timer), 0]);
}
