//! Every detector of one device, and the reports they made.

use super::brackets::{Brackets, Fault, Unended};
use super::history::{BufferEvent, Histories, Moment, sync_words};
use super::kind::Kind;
use super::pins::Pins;
use super::report::{Act, Finding, Log, Report, Subject};
use super::site::Site;
use crate::device::{Buffer, BufferId};

/// The call that brackets are made with.
const SYNC: Act = Act::Call { name: "ioctl(DMA_BUF_IOCTL_SYNC)", addr: 0, len: 0 };

/// The misuse that a SYNC is which does not fit the others.
fn unbalanced(fault: Fault, flags: u64, site: &Site) -> Finding {
    let words = sync_words(flags);
    let (kind, what) = match fault {
        Fault::EndWithoutStart => {
            (Kind::EndWithoutStart, format!("{words}, and no bracket was open on the buffer."))
        }
        Fault::OtherDirection(bracket) => (
            Kind::MismatchedEnd,
            format!(
                "{words} ends what {} started: {}.",
                sync_words(bracket.kind),
                bracket.start.words()
            ),
        ),
        Fault::Nested(bracket) => (
            Kind::NestedBracket,
            format!(
                "{words}, and this thread's bracket by {} was still open: {}.",
                sync_words(bracket.kind),
                bracket.start.words()
            ),
        ),
    };
    Finding { kind, what, act: SYNC, site: site.clone(), offset: None }
}

/// Every detector of one device.
#[derive(Debug, Default)]
pub struct Watch {
    /// The open SYNC brackets, where accesses are checked.
    pub brackets: Brackets,
    /// The pins that may be alive.
    pub pins: Pins,
    histories: Histories,
    log: Log,
}

impl Watch {
    /// Notes what a thread did to a buffer.
    pub fn did(&mut self, buffer: BufferId, deed: BufferEvent, site: Site) {
        let at_ns = site.at_ns;
        self.histories.push(buffer, Moment { deed, site: Some(site), at_ns });
    }

    /// A SYNC that was granted: its bracket is opened or closed, and what does not balance is
    /// reported.
    pub fn synced(&mut self, id: BufferId, buffer: &Buffer, flags: u64, site: Site) {
        let fault = self.brackets.sync(id, flags, &site, || Some(Subject::of(buffer, None)));
        if let Some(fault) = fault {
            self.report(id, buffer, unbalanced(fault, flags, &site));
        }
        self.did(id, BufferEvent::Synced { flags }, site);
    }

    /// A process exits: reports the brackets that it leaves open.
    pub fn process_exits(&mut self, pid: i32) {
        for unended in self.brackets.process_gone(pid) {
            self.unended(unended, "its process exits");
        }
    }

    fn unended(&mut self, unended: Unended, why: &str) {
        let Unended { buffer, subject: Some(subject), bracket } = unended else { return };
        let words = sync_words(bracket.kind);
        self.log.push(Report {
            kind: Kind::UnendedBracket,
            what: format!("The bracket that {words} opened here was never ended, and {why}."),
            act: SYNC,
            site: bracket.start,
            subject,
            history: self.histories.of(buffer),
            count: 1,
        });
    }

    /// Notes what the exporter did to a buffer.
    pub fn exporter_did(&mut self, buffer: BufferId, deed: BufferEvent, at_ns: u64) {
        if matches!(deed, BufferEvent::Purged | BufferEvent::Revoked) {
            self.brackets.taken_away(buffer);
        }
        self.histories.push(buffer, Moment { deed, site: None, at_ns });
    }

    /// The exporter has moved a buffer once more.
    pub fn exporter_moved(&mut self, buffer: BufferId, at_ns: u64) {
        let times = self.histories.moves(buffer) + 1;
        self.exporter_did(buffer, BufferEvent::Moved { times }, at_ns);
    }

    /// Reports a misuse of a buffer; how often it was seen at this place.
    pub fn report(&mut self, id: BufferId, buffer: &Buffer, finding: Finding) -> u64 {
        let Finding { kind, what, act, site, offset } = finding;
        self.log.push(Report {
            kind,
            what,
            act,
            site,
            subject: Subject::of(buffer, offset),
            history: self.histories.of(id),
            count: 1,
        })
    }

    /// The last mapping of a buffer turned out to be at this address.
    pub fn mapped_at(&mut self, buffer: BufferId, address: u64) {
        self.histories.mapped_at(buffer, address);
    }

    /// Where a buffer was allocated, if that was seen.
    pub fn allocated_at(&self, buffer: BufferId) -> Option<Site> {
        let history = self.histories.of(buffer);
        let allocated =
            history.moments().iter().find(|moment| moment.deed == BufferEvent::Allocated)?;
        allocated.site.clone()
    }

    /// A process ends that holds a buffer; whether that is a leak ([`Histories::ends_holding`]).
    pub fn ends_holding(&mut self, buffer: BufferId, pid: i32, last: bool) -> bool {
        self.histories.ends_holding(buffer, pid, last)
    }

    /// Forgets the buffers that are gone; a bracket that was open on one is reported.
    pub fn retain(&mut self, exists: impl Fn(BufferId) -> bool) {
        for unended in self.brackets.retain(&exists) {
            self.unended(unended, "the buffer is gone");
        }
        self.histories.retain(&exists);
        self.pins.retain(exists);
    }

    /// The texts of the reports that were not handed out yet.
    pub fn take_texts(&mut self) -> Vec<String> {
        self.log.take_texts()
    }

    /// Every report so far.
    pub fn log(&self) -> &Log {
        &self.log
    }

    /// Every report, at the end.
    pub fn into_log(self) -> Log {
        self.log
    }
}
