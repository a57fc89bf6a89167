//! A running device at a glance: what `--web` shows of it.
//!
//! [`Look::at`] copies what is to be seen, bounded in every direction, so that whoever holds the
//! device's lock meanwhile is soon done; words and drawings are made of the copy.
//!
//! Where a device has a bus ([`Bus`]), a page has a frame number, and devices and pins hold addresses that can be
//! stale. Without one a move gives pages other memory, and what is known of them is where they are and
//! how often they moved: the [`trace`](super::trace) tells.

use super::live::attach::Attachment;
use super::live::bus::Bus;
use super::live::findings::Finding;
use super::live::frames::{FrameNo, Owner, PageOf};
use super::misuse::{Report, Watch};
use super::trace::TraceEvent;
use super::{BufferId, Device, Inode, Stats};
use crate::model::{Life, Placement, Slot};
use crate::sys::page::page_bytes;
use crate::terminal::printed;

/// Buffers that are looked at, the oldest ones; more are counted.
pub const BUFFERS_MAX: usize = 16;
/// Pages of a buffer, or of an address list, that are looked at by their frames.
pub const PAGES_MAX: usize = 4;
/// Addresses that are looked at.
pub const HOLDS_MAX: usize = 48;
/// An attachment that was told more addresses is not looked into.
const TOLD_MAX: usize = 1 << 14;
/// Events, findings and reports that are copied at once.
const NEWS_MAX: usize = 512;

/// A buffer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// Which.
    pub id: BufferId,
    /// Its file.
    pub inode: Inode,
    /// What it is called: its name, or `buffer INO`.
    pub name: String,
    /// The heap.
    pub exp_name: String,
    /// Bytes.
    pub size_bytes: u64,
    /// Where its pages are.
    pub placement: Placement,
    /// What is left of it.
    pub life: Life,
    /// Fences that have not signalled.
    pub fences: usize,
    /// `dma_buf_pin`, as often as importers have pinned it.
    pub pins: u32,
}

/// A frame that is somebody's, or that somebody has the address of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cell {
    /// Which.
    pub frame: FrameNo,
    /// Where.
    pub placement: Placement,
    /// Whose it is.
    pub owner: Owner,
}

/// Who holds an address.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Who {
    /// A process, by its id.
    Process(i32),
    /// A device, by name.
    Device(String),
}

/// To what an address leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum To {
    /// A frame.
    Frame(FrameNo),
    /// A page of a buffer, wherever it is.
    Page(PageOf),
}

/// An address that somebody holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hold {
    /// Who.
    pub who: Who,
    /// `sg` or `pin`.
    pub kind: &'static str,
    /// What it was taken for.
    pub of: PageOf,
    /// To what it leads.
    pub to: To,
    /// Whether that is not the page any more.
    pub stale: bool,
    /// What else is to be said of it.
    pub note: String,
    /// Whether harm was done through it.
    pub harmful: bool,
}

/// What is known already, so that it is not copied again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Known {
    /// Events of the trace.
    pub events: u64,
    /// Findings about devices.
    pub findings: usize,
    /// Misuse reports.
    pub reports: usize,
}

/// What is to be seen of a device.
#[derive(Clone, Debug, Default)]
pub struct Look {
    /// The buffers.
    pub buffers: Vec<Seen>,
    /// How many there are beside those.
    pub more_buffers: usize,
    /// Frames, where there is a bus.
    pub cells: Option<Vec<Cell>>,
    /// Addresses.
    pub holds: Vec<Hold>,
    /// Devices that are attached, by name, with the buffer; some have no addresses.
    pub attached: Vec<(String, BufferId)>,
    /// Events since, with their numbers.
    pub events: Vec<(u64, TraceEvent)>,
    /// Findings about devices since: their kind, and the whole text.
    pub findings: Vec<(String, String)>,
    /// Misuse reports since, the same.
    pub reports: Vec<(String, String)>,
    /// Whether misuse is looked for.
    pub watched: bool,
    /// Counters.
    pub stats: Stats,
    /// What is known with this.
    pub known: Known,
}

impl Look {
    /// Looks at a device.
    #[must_use]
    pub fn at(device: &Device, bus: Option<&Bus>, watch: Option<&Watch>, known: Known) -> Self {
        let mut look =
            Self { stats: device.stats, watched: watch.is_some(), known, ..Self::default() };
        look.see_buffers(device, bus);
        if let Some(bus) = bus {
            look.see_bus(bus);
        }
        if let Some(watch) = watch {
            if bus.is_none_or(|bus| bus.pins().next().is_none()) {
                look.see_pins(watch);
            }
            look.see_reports(watch.log().reports());
        }
        for (number, event) in device.trace.since(known.events).take(NEWS_MAX) {
            look.events.push((number, event.clone()));
            look.known.events = number + 1;
        }
        look
    }

    /// Adds the misuse reports that are not known yet.
    pub fn see_reports(&mut self, reports: &[Report]) {
        let fresh = reports.iter().skip(self.known.reports).take(NEWS_MAX);
        self.reports.extend(fresh.map(|report| {
            // A device has no process.
            let site = &report.site;
            let by = if site.pid == 0 {
                format!("by {}", printed(&site.comm))
            } else {
                format!("in {}", printed(&site.place_words()))
            };
            (format!("{} {by}", report.kind), report.text())
        }));
        self.known.reports += self.reports.len();
    }

    fn see_buffers(&mut self, device: &Device, bus: Option<&Bus>) {
        let mut all = device.buffers().filter(|(_, buffer)| buffer.inode != Inode::default());
        for (id, buffer) in all.by_ref().take(BUFFERS_MAX) {
            let fences = buffer.resv.all().filter(|&fence| !device.fences().is_signalled(fence));
            self.buffers.push(Seen {
                id,
                inode: buffer.inode,
                name: buffer
                    .name_printed()
                    .unwrap_or_else(|| format!("buffer {}", buffer.inode.ino)),
                exp_name: buffer.exp_name.clone(),
                size_bytes: buffer.size_bytes,
                placement: buffer.placement,
                life: buffer.life,
                fences: fences.count(),
                pins: bus.map_or(0, |bus| bus.attachments.pins(id)),
            });
        }
        self.more_buffers = all.count();
    }

    fn see_bus(&mut self, bus: &Bus) {
        let mut frames: Vec<FrameNo> = Vec::new();
        for seen in &self.buffers {
            let pages = (0..PAGES_MAX).map(|page| PageOf { buffer: seen.id, page });
            frames.extend(pages.filter_map(|of| bus.frames.frame(of)));
        }
        for (_, attachment) in bus.attachments.iter() {
            self.attached.push((attachment.device.clone(), attachment.buffer));
            for (page, frame) in addresses(attachment) {
                let of = PageOf { buffer: attachment.buffer, page };
                let note = match (attachment.sg, attachment.pins) {
                    (Slot::Invalid, _) => "invalid".to_owned(),
                    (_, 0) => String::new(),
                    (_, pins) => format!("dma_buf_pin {pins}"),
                };
                let who = Who::Device(attachment.device.clone());
                self.hold(bus, (who, "sg", of, frame), note);
                frames.push(frame);
            }
        }
        for (_, pin) in bus.pins() {
            let pid = pin.program.strip_prefix("pid ").and_then(|pid| pid.parse().ok());
            let who = pid.map_or_else(|| Who::Device(pin.program.clone()), Who::Process);
            self.hold(bus, (who, "pin", pin.of, pin.frame), String::new());
            frames.push(pin.frame);
        }
        for finding in bus.findings.kept().iter().skip(self.known.findings).take(NEWS_MAX) {
            let title = format!("{} by {}", finding.kind, printed(&finding.who));
            self.findings.push((title, finding.text()));
        }
        self.known.findings += self.findings.len();
        frames.sort_unstable();
        frames.dedup();
        let cell = |frame| {
            let placement = bus.frames.placement_of(frame)?;
            Some(Cell { frame, placement, owner: bus.frames.owner(frame)? })
        };
        let mut cells: Vec<Cell> = frames.into_iter().filter_map(cell).collect();
        cells.sort_by_key(|cell| (cell.placement, cell.frame));
        self.cells = Some(cells);
    }

    fn hold(
        &mut self,
        bus: &Bus,
        (who, kind, of, frame): (Who, &'static str, PageOf, FrameNo),
        note: String,
    ) {
        if self.holds.len() >= HOLDS_MAX {
            return;
        }
        let stale = bus.frames.frame(of) != Some(frame);
        let harm = |finding: &Finding| {
            let meant = finding.meant.as_ref().is_some_and(|meant| meant.of.buffer == of.buffer);
            let by = match &who {
                Who::Device(name) => finding.who == *name,
                Who::Process(_) => finding.who.starts_with("pin "),
            };
            meant && by
        };
        let harmful = stale && bus.findings.kept().iter().any(harm);
        self.holds.push(Hold { who, kind, of, to: To::Frame(frame), stale, note, harmful });
    }

    /// The program's own pins, where there is no bus: pages, and not frames.
    fn see_pins(&mut self, watch: &Watch) {
        for pin in watch.pins.iter().take(HOLDS_MAX) {
            let page = usize::try_from(pin.range.start).unwrap_or(0) / page_bytes();
            let of = PageOf { buffer: pin.buffer, page };
            self.holds.push(Hold {
                who: Who::Process(pin.site.pid),
                kind: "pin",
                of,
                to: To::Page(of),
                stale: false,
                note: pin.call().to_owned(),
                harmful: false,
            });
        }
    }
}

/// The addresses of an sg_table that is mapped: page and frame.
fn addresses(attachment: &Attachment) -> Vec<(usize, FrameNo)> {
    if !attachment.sg.is_mapped() || attachment.told.len() > TOLD_MAX {
        return Vec::new();
    }
    let last = attachment.told.iter().filter(|(_, (_, map))| map + 1 == attachment.maps);
    let mut pages: Vec<(usize, FrameNo)> = last
        .map(|(&frame, &(page, _))| (page, frame))
        .filter(|(page, _)| *page < PAGES_MAX)
        .collect();
    pages.sort_unstable();
    pages
}
