//! The client library: buffers of a `driftheap serve --socket` exporter, which move.
//!
//! A program uses it in place of /dev/dma_heap, and as a driver would: it allocates, maps,
//! brackets its accesses, attaches devices with a `move_notify`, adds fences and does DMA by bus
//! address. What it gets wrong the exporter reports, with the byte and the buffer.
//!
//! ```no_run
//! use std::sync::Arc;
//! use std::sync::atomic::{AtomicBool, Ordering};
//! use driftheap::client::{Connection, Importer, Usage};
//! use driftheap::sys::touch::Touch;
//!
//! let heap = Connection::open("/tmp/heap.sock".as_ref(), "camera")?;
//! let frame = heap.alloc("system", 4096)?;
//! let mapping = frame.map()?;
//! let bracket = frame.begin_cpu_access(driftheap::uapi::dma_buf::SYNC_WRITE)?;
//! assert_eq!(mapping.store_u8(0, 42), Touch::Value(()));
//! drop(bracket);
//!
//! let stale = Arc::new(AtomicBool::new(true));
//! let told = Arc::clone(&stale);
//! let device = frame.attach("isp", Importer::dynamic(move || told.store(true, Ordering::SeqCst)))?;
//! let lock = frame.lock()?;
//! let table = device.map(&lock)?; // again whenever `stale`
//! stale.store(false, Ordering::SeqCst);
//! let fence = device.submit(&lock, Usage::Write)?;
//! drop(lock);
//! device.dma_write(table.addr(0), &[1, 2, 3])?;
//! fence.signal()?;
//! # Ok::<(), driftheap::client::ClientError>(())
//! ```
//!
//! # Memory
//! A buffer is a memfd. [`Buffer::map`] maps it and has the exporter register the mapping with this
//! process's userfaultfd: a store during a move sleeps until the move is done, and no update is
//! lost. Accesses through a [`Mapping`] answer SIGBUS as a value. The mapping is kept out of
//! children (MADV_DONTFORK).
//!
//! When the exporter dies this process keeps its own descriptor of the userfaultfd, so that nothing
//! reads zeros: the library wakes who sleeps, and a page that was absent is SIGBUS.
//!
//! # Bounds
//! A `move_notify` has [`ACK_TIME_MAX`] to return; it must not wait for a reservation lock. A client
//! that is late, stopped or dead is dropped, and its calls fail with [`ClientError::Gone`].
//!
//! **Differs from Linux**: a buffer's pages all exist from the start; bus addresses are the
//! exporter's emulation; there is one reservation lock holder a process.

mod buffer;
mod connection;
mod device;
mod mapping;

pub use crate::device::live::frames::BusAddr;
pub use crate::device::socket::exporter::ACK_TIME_MAX;
pub use crate::device::socket::protocol::Work;
pub use crate::model::Usage;
pub use buffer::{Buffer, CpuAccess, ResvLock};
pub use connection::{ClientError, Connection};
pub use device::{Attachment, Fence, GupPin, Importer, SgTable};
pub use mapping::{ImporterMapping, Mapping};
