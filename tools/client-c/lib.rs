//! The client library for C: see `driftheap.h`.
//!
//! Every function checks its pointers for NULL (EINVAL) and passes on what [`driftheap::client`]
//! says. Unsafe code is confined to this file: the C caller upholds what the header asks for, that
//! a handle is one of ours and not freed yet, and that a buffer has the length it is said to have.
#![allow(unsafe_code, reason = "the C ABI")]
#![allow(missing_docs, clippy::missing_safety_doc, reason = "the header is the contract")]

use std::cell::RefCell;
use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::mem::forget;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::path::Path;
use std::ptr::null_mut;
use std::sync::Arc;

use driftheap::client::{
    Attachment, Buffer, BusAddr, ClientError, Connection, GupPin, Importer, ImporterMapping,
    Mapping, Usage, Work,
};
use driftheap::sys::touch::Touch;
use rustix::io::Errno;

thread_local! {
    static ERROR: RefCell<CString> = RefCell::default();
}

/// Remembers why, for `dh_error`, and what, for the return value.
fn failed(error: &ClientError) -> c_int {
    say(&error.to_string(), error.errno())
}

fn say(text: &str, errno: Errno) -> c_int {
    let text = CString::new(text.replace('\0', " ")).unwrap_or_default();
    ERROR.with_borrow_mut(|last| *last = text);
    -errno.raw_os_error()
}

fn invalid() -> c_int {
    say("a NULL pointer, or an argument out of range (EINVAL)", Errno::INVAL)
}

fn done(result: Result<(), ClientError>) -> c_int {
    result.map_or_else(|error| failed(&error), |()| 0)
}

/// A handle for C; NULL and errno if there is none.
fn handle<T>(result: Result<T, c_int>) -> *mut T {
    match result {
        Ok(value) => Box::into_raw(Box::new(value)),
        Err(errno) => {
            // SAFETY: it has no precondition.
            let own = unsafe { libc::__errno_location() };
            // SAFETY: this thread's errno, which lives as long as the thread.
            unsafe { *own = -errno };
            null_mut()
        }
    }
}

/// What a handle refers to.
///
/// # Safety
/// `handle` is NULL or one of ours that has not been freed.
unsafe fn at<'a, T>(handle: *const T) -> Result<&'a T, c_int> {
    // SAFETY: the caller's promise.
    unsafe { handle.as_ref() }.ok_or_else(invalid)
}

/// Frees a handle.
///
/// # Safety
/// As [`at`]; it is not used afterwards.
unsafe fn free<T>(handle: *mut T) {
    if !handle.is_null() {
        // SAFETY: every handle comes from Box::into_raw in `handle`.
        drop(unsafe { Box::from_raw(handle) });
    }
}

/// # Safety
/// `text` is NULL or a C string.
unsafe fn string<'a>(text: *const c_char) -> Result<&'a str, c_int> {
    if text.is_null() {
        return Err(invalid());
    }
    // SAFETY: the caller's promise.
    unsafe { CStr::from_ptr(text) }.to_str().map_err(|_| invalid())
}

/// # Safety
/// `from` is NULL or readable for `len` bytes, which nobody writes meanwhile.
unsafe fn bytes<'a>(from: *const c_void, len: usize) -> Result<&'a [u8], c_int> {
    if from.is_null() {
        return Err(invalid());
    }
    // SAFETY: the caller's promise.
    Ok(unsafe { std::slice::from_raw_parts(from.cast(), len) })
}

/// # Safety
/// `into` is NULL or writable for `len` bytes, which nobody else accesses meanwhile.
unsafe fn bytes_mut<'a>(into: *mut c_void, len: usize) -> Result<&'a mut [u8], c_int> {
    if into.is_null() {
        return Err(invalid());
    }
    // SAFETY: the caller's promise.
    Ok(unsafe { std::slice::from_raw_parts_mut(into.cast(), len) })
}

fn flat(result: Result<c_int, c_int>) -> c_int {
    result.unwrap_or_else(|errno| errno)
}

/// A buffer and who else keeps it.
pub type DhBuffer = Arc<Buffer>;

/// An attachment with its buffer, whose lock it takes.
#[derive(Debug)]
pub struct DhAttachment {
    attachment: Attachment,
    buffer: DhBuffer,
}

/// `dh_mapping`, with its length.
#[derive(Debug)]
pub struct DhMapping {
    mapping: Mapping,
    len: usize,
}

/// `dh_importer_mapping`, with its length.
#[derive(Debug)]
pub struct DhImporterMapping {
    mapping: ImporterMapping,
    len: usize,
}

#[unsafe(no_mangle)]
pub extern "C" fn dh_error() -> *const c_char {
    ERROR.with_borrow(|last| last.as_ptr())
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn dh_open(path: *const c_char, name: *const c_char) -> *mut Connection {
    // SAFETY: C strings, by the header.
    let path = unsafe { string(path) };
    // SAFETY: the same.
    let name = unsafe { string(name) };
    handle(
        path.and_then(|path| {
            Connection::open(Path::new(path), name?).map_err(|error| failed(&error))
        }),
    )
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn dh_close(heap: *mut Connection) {
    // SAFETY: a handle, by the header.
    unsafe { free(heap) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn dh_findings(heap: *mut Connection) -> *mut c_char {
    // SAFETY: a handle, by the header.
    let heap = unsafe { at(heap) };
    let text = heap.and_then(|heap| heap.findings().map_err(|error| failed(&error)));
    match text.map(CString::new) {
        Ok(Ok(text)) => text.into_raw(),
        Ok(Err(_)) | Err(_) => null_mut(),
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn dh_text_free(text: *mut c_char) {
    if !text.is_null() {
        // SAFETY: it comes from CString::into_raw in `dh_findings`.
        drop(unsafe { CString::from_raw(text) });
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn dh_alloc(
    heap: *mut Connection,
    name: *const c_char,
    len: usize,
) -> *mut DhBuffer {
    // SAFETY: a handle, by the header.
    let heap = unsafe { at(heap) };
    // SAFETY: a C string, by the header.
    let name = unsafe { string(name) };
    handle(heap.and_then(|heap| {
        heap.alloc(name?, len as u64).map(Arc::new).map_err(|error| failed(&error))
    }))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn dh_import(heap: *mut Connection, fd: c_int) -> *mut DhBuffer {
    // SAFETY: a handle, by the header.
    let heap = unsafe { at(heap) };
    handle(heap.and_then(|heap| {
        if fd < 0 {
            return Err(invalid());
        }
        // SAFETY: the caller's descriptor, open for the length of this call.
        let fd = unsafe { BorrowedFd::borrow_raw(fd) };
        let own = fd.try_clone_to_owned().map_err(|_| say("not an open file (EBADF)", Errno::BADF));
        heap.import(own?).map(Arc::new).map_err(|error| failed(&error))
    }))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn dh_buffer_free(buffer: *mut DhBuffer) {
    // SAFETY: a handle, by the header.
    unsafe { free(buffer) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn dh_buffer_fd(buffer: *const DhBuffer) -> c_int {
    // SAFETY: a handle, by the header.
    flat(unsafe { at(buffer) }.map(|buffer| buffer.as_fd().as_raw_fd()))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn dh_buffer_pages(buffer: *const DhBuffer) -> usize {
    // SAFETY: a handle, by the header.
    unsafe { at(buffer) }.map_or(0, |buffer| buffer.pages())
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn dh_set_name(buffer: *mut DhBuffer, name: *const c_char) -> c_int {
    // SAFETY: a handle, by the header.
    let buffer = unsafe { at(buffer) };
    // SAFETY: a C string, by the header.
    let name = unsafe { string(name) };
    flat(buffer.and_then(|buffer| Ok(done(buffer.set_name(name?)))))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn dh_sync(buffer: *mut DhBuffer, flags: u64) -> c_int {
    // SAFETY: a handle, by the header.
    flat(unsafe { at(buffer) }.map(|buffer| done(buffer.sync(flags))))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn dh_make(buffer: *mut DhBuffer, work: c_int) -> c_int {
    let work = match work {
        0 => Work::MoveToVram,
        1 => Work::MoveToSystem,
        2 => Work::Evict,
        3 => Work::Purge,
        4 => Work::Revoke,
        _ => return invalid(),
    };
    // SAFETY: a handle, by the header.
    flat(unsafe { at(buffer) }.map(|buffer| done(buffer.work(work))))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn dh_map(buffer: *mut DhBuffer) -> *mut DhMapping {
    // SAFETY: a handle, by the header.
    let buffer = unsafe { at(buffer) };
    handle(buffer.and_then(|buffer| {
        let mapping = buffer.map().map_err(|error| failed(&error))?;
        Ok(DhMapping { mapping, len: buffer.pages() * driftheap::sys::page::page_bytes() })
    }))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn dh_unmap(mapping: *mut DhMapping) {
    // SAFETY: a handle, by the header.
    unsafe { free(mapping) }
}

fn inside(offset: usize, len: usize, of: usize) -> Result<(), c_int> {
    let end = offset.checked_add(len);
    if end.is_some_and(|end| end <= of) { Ok(()) } else { Err(invalid()) }
}

fn accessed(access: Touch<()>) -> c_int {
    match access {
        Touch::Value(()) => 0,
        Touch::Sigbus { .. } | Touch::Sigsegv { .. } => {
            say("SIGBUS: the buffer has no memory: it was purged or revoked", Errno::FAULT)
        }
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn dh_load(
    mapping: *mut DhMapping,
    offset: usize,
    into: *mut c_void,
    len: usize,
) -> c_int {
    // SAFETY: a handle, by the header.
    let mapping = unsafe { at(mapping) };
    // SAFETY: `len` bytes, by the header.
    let into = unsafe { bytes_mut(into, len) };
    flat(mapping.and_then(|of| {
        inside(offset, len, of.len)?;
        Ok(accessed(of.mapping.read(offset, into?)))
    }))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn dh_store(
    mapping: *mut DhMapping,
    offset: usize,
    from: *const c_void,
    len: usize,
) -> c_int {
    // SAFETY: a handle, by the header.
    let mapping = unsafe { at(mapping) };
    // SAFETY: `len` bytes, by the header.
    let from = unsafe { bytes(from, len) };
    flat(mapping.and_then(|of| {
        inside(offset, len, of.len)?;
        Ok(accessed(of.mapping.write(offset, from?)))
    }))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn dh_map_through_importer(buffer: *mut DhBuffer) -> *mut DhImporterMapping {
    // SAFETY: a handle, by the header.
    let buffer = unsafe { at(buffer) };
    handle(buffer.and_then(|buffer| {
        let mapping = buffer.map_through_importer().map_err(|error| failed(&error))?;
        Ok(DhImporterMapping { mapping, len: buffer.pages() * driftheap::sys::page::page_bytes() })
    }))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn dh_importer_unmap(mapping: *mut DhImporterMapping) {
    // SAFETY: a handle, by the header.
    unsafe { free(mapping) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn dh_importer_load(
    mapping: *mut DhImporterMapping,
    offset: usize,
    into: *mut u8,
) -> c_int {
    // SAFETY: a handle, by the header.
    let mapping = unsafe { at(mapping) };
    // SAFETY: one byte, by the header.
    let into = unsafe { bytes_mut(into.cast(), 1) };
    flat(mapping.and_then(|of| {
        inside(offset, 1, of.len)?;
        let into = into?;
        let access = of.mapping.load_u8(offset).map_err(|error| failed(&error))?;
        Ok(accessed(access.map(|value| into[0] = value)))
    }))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn dh_importer_store(
    mapping: *mut DhImporterMapping,
    offset: usize,
    value: u8,
) -> c_int {
    // SAFETY: a handle, by the header.
    flat(unsafe { at(mapping) }.and_then(|of| {
        inside(offset, 1, of.len)?;
        Ok(accessed(of.mapping.store_u8(offset, value).map_err(|error| failed(&error))?))
    }))
}

/// The callback's argument, which C promises can be used on the library's thread.
struct Data(*mut c_void);

// SAFETY: the header says that the callback runs on the library's thread.
unsafe impl Send for Data {}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn dh_attach(
    buffer: *mut DhBuffer,
    device: *const c_char,
    move_notify: Option<unsafe extern "C" fn(*mut c_void)>,
    data: *mut c_void,
) -> *mut DhAttachment {
    // SAFETY: a handle, by the header.
    let buffer = unsafe { at(buffer) };
    // SAFETY: a C string, by the header.
    let device = unsafe { string(device) };
    let data = Data(data);
    let importer = match move_notify {
        None => Importer::pinning(),
        Some(callback) => Importer::dynamic(move || {
            let Data(data) = &data;
            // SAFETY: the header's contract: callable until the attachment is gone.
            unsafe { callback(*data) }
        }),
    };
    handle(buffer.and_then(|buffer| {
        let attachment = buffer.attach(device?, importer).map_err(|error| failed(&error))?;
        Ok(DhAttachment { attachment, buffer: Arc::clone(buffer) })
    }))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn dh_detach(attachment: *mut DhAttachment) {
    // SAFETY: a handle, by the header.
    unsafe { free(attachment) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn dh_lock(attachment: *mut DhAttachment) -> c_int {
    // SAFETY: a handle, by the header. The guard is forgotten: `dh_unlock` is its end.
    flat(unsafe { at(attachment) }.map(|of| done(of.buffer.lock().map(forget))))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn dh_unlock(attachment: *mut DhAttachment) -> c_int {
    // SAFETY: a handle, by the header.
    flat(unsafe { at(attachment) }.map(|of| {
        drop(of.buffer.resume_lock());
        0
    }))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn dh_map_attachment(
    attachment: *mut DhAttachment,
    addrs: *mut u64,
    pages: usize,
) -> c_int {
    // SAFETY: a handle, by the header.
    let attachment = unsafe { at(attachment) };
    flat(attachment.and_then(|of| {
        if addrs.is_null() || pages != of.buffer.pages() {
            return Err(invalid());
        }
        let lock = of.buffer.resume_lock();
        let table = of.attachment.map(&lock);
        // The caller goes on holding it.
        forget(lock);
        let table = table.map_err(|error| failed(&error))?;
        // SAFETY: room for `pages` addresses, by the header.
        let into = unsafe { std::slice::from_raw_parts_mut(addrs, pages) };
        into.iter_mut().zip(table.addrs()).for_each(|(into, addr)| *into = addr.0);
        Ok(0)
    }))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn dh_unmap_attachment(attachment: *mut DhAttachment) -> c_int {
    // SAFETY: a handle, by the header.
    flat(unsafe { at(attachment) }.map(|of| done(of.attachment.unmap())))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn dh_dma_buf_pin(attachment: *mut DhAttachment) -> c_int {
    // SAFETY: a handle, by the header.
    flat(unsafe { at(attachment) }.map(|of| done(of.attachment.pin())))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn dh_dma_buf_unpin(attachment: *mut DhAttachment) -> c_int {
    // SAFETY: a handle, by the header.
    flat(unsafe { at(attachment) }.map(|of| done(of.attachment.unpin())))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn dh_submit(
    attachment: *mut DhAttachment,
    usage: c_int,
    fence: *mut u64,
) -> c_int {
    let usage = match usage {
        0 => Usage::Kernel,
        1 => Usage::Write,
        2 => Usage::Read,
        3 => Usage::Bookkeep,
        _ => return invalid(),
    };
    // SAFETY: a handle, by the header.
    let attachment = unsafe { at(attachment) };
    flat(attachment.and_then(|of| {
        if fence.is_null() {
            return Err(invalid());
        }
        let lock = of.buffer.resume_lock();
        let submitted = of.attachment.submit(&lock, usage);
        // The caller goes on holding it.
        forget(lock);
        let id = submitted.map_err(|error| failed(&error))?.into_id();
        // SAFETY: room for one number, by the header.
        unsafe { *fence = id };
        Ok(0)
    }))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn dh_signal(attachment: *mut DhAttachment, fence: u64) -> c_int {
    // SAFETY: a handle, by the header.
    flat(unsafe { at(attachment) }.map(|of| done(of.attachment.fence(fence).signal())))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn dh_dma_write(
    attachment: *mut DhAttachment,
    addr: u64,
    from: *const c_void,
    len: usize,
) -> c_int {
    // SAFETY: a handle, by the header.
    let attachment = unsafe { at(attachment) };
    // SAFETY: `len` bytes, by the header.
    let from = unsafe { bytes(from, len) };
    flat(attachment.and_then(|of| Ok(done(of.attachment.dma_write(BusAddr(addr), from?)))))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn dh_dma_read(
    attachment: *mut DhAttachment,
    addr: u64,
    into: *mut c_void,
    len: usize,
) -> c_int {
    // SAFETY: a handle, by the header.
    let attachment = unsafe { at(attachment) };
    // SAFETY: `len` bytes, by the header.
    let into = unsafe { bytes_mut(into, len) };
    flat(attachment.and_then(|of| Ok(done(of.attachment.dma_read(BusAddr(addr), into?)))))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn dh_get_user_page(mapping: *mut DhMapping, page: usize) -> *mut GupPin {
    // SAFETY: a handle, by the header.
    let mapping = unsafe { at(mapping) };
    handle(mapping.and_then(|of| of.mapping.get_user_pages(page).map_err(|error| failed(&error))))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn dh_unpin(pin: *mut GupPin) {
    // SAFETY: a handle, by the header.
    unsafe { free(pin) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn dh_pin_write(
    pin: *mut GupPin,
    offset: usize,
    from: *const c_void,
    len: usize,
) -> c_int {
    // SAFETY: a handle, by the header.
    let pin = unsafe { at(pin) };
    // SAFETY: `len` bytes, by the header.
    let from = unsafe { bytes(from, len) };
    flat(pin.and_then(|pin| Ok(done(pin.dma_write(offset as u64, from?)))))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn dh_pin_read(
    pin: *mut GupPin,
    offset: usize,
    into: *mut c_void,
    len: usize,
) -> c_int {
    // SAFETY: a handle, by the header.
    let pin = unsafe { at(pin) };
    // SAFETY: `len` bytes, by the header.
    let into = unsafe { bytes_mut(into, len) };
    flat(pin.and_then(|pin| Ok(done(pin.dma_read(offset as u64, into?)))))
}
