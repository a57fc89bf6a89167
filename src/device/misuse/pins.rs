//! Pins that a program takes of a buffer's pages through its mapping.
//!
//! Kernel counterpart: pin_user_pages and get_user_pages behind vmsplice (fs/splice.c,
//! `iter_to_pipe`) and IORING_REGISTER_BUFFERS (io_uring/rsrc.c, `io_sqe_buffer_register`). A pin
//! refers to pages and not to the buffer: when the exporter gives the buffer other
//! pages, the pin keeps the old ones, and what goes through it is lost, or is another buffer's.
//!
//! The books say which pins there may be; whether one is still alive the transport asks the kernel
//! when it matters, which is when the buffer moves.

use std::ops::Range;

use super::kind::Kind;
use super::report::{Act, Finding};
use super::site::Site;
use crate::device::{BufferId, Inode};

/// Most pins that are remembered; the oldest is forgotten.
pub const PINS_MAX: usize = 4096;

/// What holds a pin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Holder {
    /// Bytes in a pipe, until somebody reads them.
    Pipe {
        /// The pipe.
        inode: Inode,
        /// The descriptor that it was made with.
        fd: i32,
    },
    /// A buffer registered with an io_uring, until it is unregistered or the ring is closed.
    Ring,
}

/// One pin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pin {
    /// Whose pages.
    pub buffer: BufferId,
    /// Which: bytes in the buffer.
    pub range: Range<u64>,
    /// Address in the process.
    pub addr: u64,
    /// What holds it.
    pub holder: Holder,
    /// The call that took it, and where.
    pub site: Site,
    /// Whether that call is known to be over.
    pub has_landed: bool,
}

impl Pin {
    /// Whether this is the same pin, whatever is known of its call by now.
    pub fn is_same(&self, other: &Self) -> bool {
        let of =
            |pin: &Self| (pin.buffer, pin.addr, pin.range.clone(), pin.site.tid, pin.site.at_ns);
        of(self) == of(other) && self.holder == other.holder
    }

    /// The system call that took it.
    pub fn call(&self) -> &'static str {
        match self.holder {
            Holder::Pipe { .. } => "vmsplice",
            Holder::Ring => "io_uring_register",
        }
    }

    /// The misuse that it is when the exporter moves the buffer, or takes its pages away.
    pub fn finding(&self, moved: bool) -> Finding {
        let holder = match &self.holder {
            Holder::Pipe { fd, .. } => format!("the pipe of descriptor {fd} still holds them"),
            Holder::Ring => "an io_uring has them registered".into(),
        };
        let deed = if moved { "moves the buffer to other pages" } else { "takes the pages away" };
        Finding {
            kind: Kind::PinAcrossMove,
            what: format!(
                "The pages were pinned through the mapping, and as the exporter {deed}, {holder}."
            ),
            act: Act::Call {
                name: self.call(),
                addr: self.addr,
                len: self.range.end - self.range.start,
            },
            site: self.site.clone(),
            offset: Some(self.range.start),
        }
    }
}

/// The pins that may be alive.
#[derive(Debug, Default)]
pub struct Pins {
    pins: Vec<Pin>,
}

impl Pins {
    /// A pin is about to be taken.
    pub fn push(&mut self, pin: Pin) {
        if self.pins.len() >= PINS_MAX {
            self.pins.remove(0);
        }
        self.pins.push(pin);
    }

    /// Takes out the pins of pages of a buffer. What is alive and was not affected goes back by
    /// [`Pins::push`].
    pub fn take(&mut self, buffer: BufferId, range: &Range<u64>) -> Vec<Pin> {
        let touches = |pin: &mut Pin| {
            pin.buffer == buffer && pin.range.start < range.end && range.start < pin.range.end
        };
        self.pins.extract_if(.., touches).collect()
    }

    /// Forgets pins that are known to be gone.
    pub fn forget(&mut self, gone: impl Fn(&Pin) -> bool) {
        self.pins.retain(|pin| !gone(pin));
    }

    /// All of them, the oldest first.
    pub fn iter(&self) -> impl Iterator<Item = &Pin> {
        self.pins.iter()
    }

    /// Whether this pin is among them.
    pub fn has(&self, pin: &Pin) -> bool {
        self.pins.iter().any(|known| known.is_same(pin))
    }

    /// Forgets the buffers that are gone.
    pub fn retain(&mut self, exists: impl Fn(BufferId) -> bool) {
        self.pins.retain(|pin| exists(pin.buffer));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pin(buffer: u64, range: Range<u64>) -> Pin {
        let holder = Holder::Ring;
        let (buffer, site) = (BufferId(buffer), Site::default());
        Pin { buffer, range, addr: 0x7000, holder, site, has_landed: true }
    }

    #[test]
    fn pins_are_found_by_page() {
        let mut pins = Pins::default();
        pins.push(pin(1, 0..4096));
        pins.push(pin(1, 8192..12288));
        pins.push(pin(2, 0..4096));
        assert_eq!(pins.take(BufferId(1), &(4096..8192)), []);
        assert_eq!(pins.take(BufferId(1), &(4096..8193)), [pin(1, 8192..12288)]);
        assert_eq!(pins.take(BufferId(1), &(0..1 << 20)), [pin(1, 0..4096)]);
        pins.push(pin(3, 0..4096));
        pins.retain(|buffer| buffer != BufferId(2));
        assert_eq!(pins.take(BufferId(2), &(0..1)), []);
        pins.forget(|pin| pin.holder == Holder::Ring);
        assert_eq!(pins.take(BufferId(3), &(0..1)), []);
    }

    #[test]
    fn the_books_are_bounded() {
        let mut pins = Pins::default();
        for _ in 0..PINS_MAX + 10 {
            pins.push(pin(1, 0..4096));
        }
        assert_eq!(pins.take(BufferId(1), &(0..1)).len(), PINS_MAX);
    }

    #[test]
    fn a_finding_names_call_and_holder() {
        let finding = pin(1, 0..4096).finding(true);
        assert_eq!(finding.kind, Kind::PinAcrossMove);
        assert!(finding.what.contains("io_uring has them registered"), "{}", finding.what);
        let act = Act::Call { name: "io_uring_register", addr: 0x7000, len: 4096 };
        assert_eq!(finding.act, act);
    }
}
