//! An importer that ignores move_notify, and the same importer right.
//!
//! ```text
//! driftheap serve --socket /tmp/heap.sock &
//! importer /tmp/heap.sock wrong    writes into a buffer that is not its own
//! importer /tmp/heap.sock right    does not
//! ```
//!
//! Exit status: 0 clean, 1 corrupted, 2 could not try.
#![allow(clippy::print_stdout, reason = "a program that shows something")]

use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use driftheap::client::{
    Attachment, Buffer, ClientError, Connection, Importer, SgTable, Usage, Work,
};

/// A camera's driver: one attachment, and whether its addresses are still good.
struct Camera {
    attachment: Attachment,
    table: SgTable,
    stale: Arc<AtomicBool>,
}

impl Camera {
    fn attach(buffer: &Buffer) -> Result<Self, ClientError> {
        let stale = Arc::new(AtomicBool::new(false));
        let told = Arc::clone(&stale);
        let importer = Importer::dynamic(move || told.store(true, Ordering::SeqCst));
        let attachment = buffer.attach("camera", importer)?;
        let table = attachment.map(&buffer.lock()?)?;
        Ok(Self { attachment, table, stale })
    }

    fn capture(&mut self, buffer: &Buffer, right: bool) -> Result<(), ClientError> {
        let lock = buffer.lock()?;
        if right && self.stale.swap(false, Ordering::SeqCst) {
            // The buffer has moved: the old addresses are somebody else's by now.
            self.attachment.unmap()?;
            self.table = self.attachment.map(&lock)?;
        }
        let fence = self.attachment.submit(&lock, Usage::Write)?;
        drop(lock);
        let mut at = self.table.addr(0);
        at.0 += 16;
        self.attachment.dma_write(at, &[0xcc; 64])?;
        fence.signal()
    }
}

/// Whether B was corrupted.
fn show(socket: &Path, right: bool) -> Result<bool, ClientError> {
    const BEFORE: u8 = 0x42;
    let heap = Connection::open(socket, "importer")?;
    let a = heap.alloc("system", 4096)?;
    a.set_name("A")?;
    let mut camera = Camera::attach(&a)?;

    // The exporter needs room: A moves, and B gets the frame that it leaves.
    a.work(Work::MoveToSystem)?;
    let b = heap.alloc("system", 4096)?;
    b.set_name("B")?;
    let of_b = b.map()?;
    let stored = of_b.store_u8(16, BEFORE);
    assert!(stored.value().is_some(), "B is live");

    camera.capture(&a, right)?;

    let after = of_b.load_u8(16).value().unwrap_or(0);
    let report = heap.findings()?;
    if after == BEFORE {
        print!("B is as it was\n{report}");
    } else {
        print!("byte 16 of B was {BEFORE:#04x} and is {after:#04x}\n{report}");
    }
    Ok(after != BEFORE)
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [socket, how] = arguments.as_slice() else {
        eprintln!("usage: importer SOCKET right|wrong");
        return ExitCode::from(2);
    };
    match show(socket.as_ref(), how == "right") {
        Ok(corrupted) => ExitCode::from(u8::from(corrupted)),
        Err(error) => {
            eprintln!("importer: {error}");
            ExitCode::from(2)
        }
    }
}
