//! What happened to each buffer, as far as a report needs it.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use super::site::Site;
use crate::device::BufferId;
use crate::uapi::dma_buf;

/// What a program or an exporter did to a buffer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BufferEvent {
    /// ALLOC, or the creation of a udmabuf.
    Allocated,
    /// mmap, with the mapping's address and length.
    Mapped {
        /// Where; 0 where the answer is not known.
        addr: u64,
        /// Bytes.
        len: u64,
        /// Offset in the buffer, bytes.
        offset: u64,
    },
    /// DMA_BUF_IOCTL_SYNC with these flags.
    Synced {
        /// `DMA_BUF_SYNC_*`.
        flags: u64,
    },
    /// get_user_pages through a mapping.
    Pinned {
        /// The system call.
        by: &'static str,
    },
    /// The exporter moved it, so many times.
    Moved {
        /// Times so far.
        times: u64,
    },
    /// The exporter purged it.
    Purged,
    /// The exporter revoked it.
    Revoked,
}

/// The SYNC flags by their names.
pub fn sync_words(flags: u64) -> String {
    let end = if flags & dma_buf::SYNC_END == 0 { "START" } else { "END" };
    let kind = match flags & dma_buf::SYNC_RW {
        dma_buf::SYNC_READ => "READ",
        dma_buf::SYNC_WRITE => "WRITE",
        _ => "RW",
    };
    format!("{end}|{kind}")
}

impl BufferEvent {
    fn words(&self) -> String {
        match self {
            Self::Allocated => "allocated".into(),
            Self::Mapped { addr, len, offset } => {
                let at = if *addr == 0 { String::new() } else { format!(" at {addr:#x}") };
                format!("mapped{at}, {len} bytes from offset {offset:#x}")
            }
            Self::Synced { flags } => format!("last SYNC {}", sync_words(*flags)),
            Self::Pinned { by } => format!("pinned by {by}"),
            Self::Moved { times: 1 } => "moved".into(),
            Self::Moved { times } => format!("moved, {times} times so far"),
            Self::Purged => "purged".into(),
            Self::Revoked => "revoked".into(),
        }
    }

    /// Whether a later deed takes this one's place in the history.
    fn same_slot(&self, other: &Self) -> bool {
        std::mem::discriminant(self) == std::mem::discriminant(other)
    }
}

/// A deed and who did it. The exporter's own deeds have no thread.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Moment {
    /// What.
    pub deed: BufferEvent,
    /// By whom and where.
    pub site: Option<Site>,
    /// Nanoseconds since the device was started.
    pub at_ns: u64,
}

impl Moment {
    /// One line.
    pub fn words(&self) -> String {
        let by = self.site.as_ref().map_or_else(|| "by the exporter".into(), Site::words);
        let (ms, us) = (self.at_ns / 1_000_000, self.at_ns / 1000 % 1000);
        format!("[{ms:>6}.{us:03} ms] {}: {by}", self.deed.words())
    }

    fn json(&self) -> Value {
        json!({
            "what": self.deed.words(),
            "at_ns": self.at_ns,
            "by": self.site.as_ref().map(Site::json),
        })
    }
}

/// The last deed of each kind, oldest first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct History {
    moments: Vec<Moment>,
}

impl History {
    /// Adds a deed in place of the last one of its kind.
    pub fn push(&mut self, moment: Moment) {
        self.moments.retain(|old| !old.deed.same_slot(&moment.deed));
        self.moments.push(moment);
    }

    /// The deeds.
    pub fn moments(&self) -> &[Moment] {
        &self.moments
    }

    /// As a JSON array.
    pub fn json(&self) -> Value {
        self.moments.iter().map(Moment::json).collect()
    }
}

/// The histories of all buffers that exist.
#[derive(Debug, Default)]
pub struct Histories {
    table: BTreeMap<BufferId, History>,
    users: BTreeMap<BufferId, Users>,
}

/// Who is to blame for a buffer that nobody gives back.
#[derive(Debug, Default)]
struct Users {
    /// Processes that did something with it, at most [`USERS_MAX`].
    pids: BTreeSet<i32>,
    /// One of them ended while it held the buffer.
    left: bool,
}

/// Processes that are told apart as users of one buffer; of more, each counts as one.
const USERS_MAX: usize = 1024;

impl Histories {
    /// Notes a deed.
    pub fn push(&mut self, buffer: BufferId, moment: Moment) {
        if let Some(site) = &moment.site {
            let pids = &mut self.users.entry(buffer).or_default().pids;
            if pids.len() < USERS_MAX {
                pids.insert(site.pid);
            }
        }
        self.table.entry(buffer).or_default().push(moment);
    }

    /// A process ends that holds a buffer; `last`: nobody else does. Whether that is a leak: this
    /// process, or one that ended before it, used the buffer and did not give it back. A child that
    /// only inherited the descriptor has nothing to give back.
    pub fn ends_holding(&mut self, buffer: BufferId, pid: i32, last: bool) -> bool {
        let Some(users) = self.users.get_mut(&buffer) else { return last };
        users.left |= users.pids.contains(&pid) || users.pids.len() >= USERS_MAX;
        last && users.left
    }

    /// The last mapping of a buffer turned out to be at this address.
    pub fn mapped_at(&mut self, buffer: BufferId, address: u64) {
        let moments = self.table.get_mut(&buffer).map(|history| &mut history.moments);
        for moment in moments.into_iter().flatten() {
            if let BufferEvent::Mapped { addr, .. } = &mut moment.deed {
                *addr = address;
            }
        }
    }

    /// How often a buffer has moved.
    pub fn moves(&self, buffer: BufferId) -> u64 {
        let moments = self.table.get(&buffer).map_or(&[][..], History::moments);
        let times = moments
            .iter()
            .map(|moment| if let BufferEvent::Moved { times } = moment.deed { times } else { 0 });
        times.max().unwrap_or(0)
    }

    /// A buffer's history; empty for one that nothing is known about.
    pub fn of(&self, buffer: BufferId) -> History {
        self.table.get(&buffer).cloned().unwrap_or_default()
    }

    /// Forgets the buffers that are gone.
    pub fn retain(&mut self, exists: impl Fn(BufferId) -> bool) {
        self.table.retain(|&buffer, _| exists(buffer));
        self.users.retain(|&buffer, _| exists(buffer));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_only_inherited_a_descriptor_leaks_nothing() {
        let buffer = BufferId(1);
        let by = |pid| Some(Site { pid, tid: pid, ..Site::default() });
        let used = |histories: &mut Histories, pid| {
            histories
                .push(buffer, Moment { deed: BufferEvent::Allocated, site: by(pid), at_ns: 0 });
        };
        let mut histories = Histories::default();
        used(&mut histories, 10);
        // The parent closed it; its child ends with it.
        assert!(!histories.ends_holding(buffer, 11, true));
        // A child that used it is another matter, and so is one whose parent ended with it.
        used(&mut histories, 12);
        assert!(histories.ends_holding(buffer, 12, true));
        let mut histories = Histories::default();
        used(&mut histories, 10);
        assert!(!histories.ends_holding(buffer, 10, false));
        assert!(histories.ends_holding(buffer, 11, true));
    }

    #[test]
    fn the_last_deed_of_each_kind_stays() {
        let mut history = History::default();
        let deeds = [
            BufferEvent::Allocated,
            BufferEvent::Mapped { addr: 0x1000, len: 4096, offset: 0 },
            BufferEvent::Synced { flags: dma_buf::SYNC_RW },
            BufferEvent::Moved { times: 1 },
            BufferEvent::Synced { flags: dma_buf::SYNC_END | dma_buf::SYNC_READ },
            BufferEvent::Moved { times: 2 },
        ];
        for (at_ns, deed) in (0..).zip(deeds) {
            history.push(Moment { deed, site: None, at_ns: at_ns * 1_500_000 });
        }
        let lines: Vec<_> = history.moments().iter().map(Moment::words).collect();
        assert_eq!(
            lines,
            [
                "[     0.000 ms] allocated: by the exporter",
                "[     1.500 ms] mapped at 0x1000, 4096 bytes from offset 0x0: by the exporter",
                "[     6.000 ms] last SYNC END|READ: by the exporter",
                "[     7.500 ms] moved, 2 times so far: by the exporter",
            ]
        );
    }
}
