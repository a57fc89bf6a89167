//! An exporter and its socket, for one test.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use driftheap::client::{Buffer, Connection};
use driftheap::device::live::mover::Mover;
use driftheap::device::live::operation::Patience;
use driftheap::device::live::{Sabotage, findings::Findings};
use driftheap::device::socket::{Config, Exporter};
use driftheap::device::{HeapConfig, Limits};
use driftheap::model::HazardKind;

/// A running exporter.
pub(crate) struct Lab {
    pub(crate) exporter: Arc<Exporter>,
    pub(crate) path: PathBuf,
    _dir: tempfile::TempDir,
}

/// Whether buffers can be moved here; says why not.
pub(crate) fn moves() -> bool {
    match Mover::new(Sabotage::None) {
        Ok(_) => true,
        Err(error) => {
            eprintln!("SKIP: {error}");
            false
        }
    }
}

impl Lab {
    /// An exporter with this heap.
    pub(crate) fn new(heap: &str) -> Self {
        Self::with(heap, false)
    }

    /// The same, which may record.
    pub(crate) fn with(heap: &str, record: bool) -> Self {
        let config = Config {
            heaps: vec![heap.parse::<HeapConfig>().unwrap()],
            limits: Limits::default(),
            vram_pages: 64,
            patience: Patience {
                lock: Duration::from_millis(500),
                fence: Duration::from_millis(500),
            },
            record,
        };
        let exporter = Exporter::new(config).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("heap.sock");
        exporter.serve(&path).unwrap();
        Self { exporter, path, _dir: dir }
    }

    /// A client.
    pub(crate) fn client(&self, name: &str) -> Connection {
        Connection::open(&self.path, name).unwrap()
    }

    /// The kinds of findings so far, each once.
    pub(crate) fn kinds(&self) -> Vec<HazardKind> {
        self.exporter.look(|_, bus| bus.findings.counts().keys().copied().collect())
    }

    /// All reports.
    pub(crate) fn report(&self) -> String {
        self.exporter.look(|_, bus| Findings::text(&bus.findings))
    }
}

/// A buffer with a name.
pub(crate) fn named(heap: &Connection, pages: u64, name: &str) -> Buffer {
    let buffer = heap.alloc("system", pages * 4096).unwrap();
    buffer.set_name(name).unwrap();
    buffer
}
