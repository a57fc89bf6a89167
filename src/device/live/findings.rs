//! What devices hit that they did not mean: reports in the manner of KASAN.
//!
//! A report names the access, what the address stood for when the device was told it, whose memory
//! it is now, the first byte that changed, and what would have prevented it. The kinds are the
//! model's ([`HazardKind`]), so that a recorded run can be asked about them.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::attach::Holder;
use super::frames::{BusAddr, PageOf};
use crate::model::HazardKind;
use crate::terminal::{bug_line, printed};

/// Reports kept in full; more are counted.
pub const FINDINGS_MAX: usize = 64;

/// Findings that wait for [`Findings::take_fresh`]; more are counted only.
const FRESH_MAX: usize = 4096;

/// A buffer page with the buffer's name as it was then.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamedPage {
    /// Which.
    pub of: PageOf,
    /// The buffer's name: what DMA_BUF_SET_NAME gave it, or its inode.
    pub name: String,
}

/// One access that went wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// What kind of wrong.
    pub kind: HazardKind,
    /// Whose access it was: a client's or a device's number, 0 for the exporter's.
    pub holder: Holder,
    /// Who accessed: the device's name, or the process's.
    pub who: String,
    /// Whether it wrote.
    pub write: bool,
    /// The address that it used.
    pub addr: BusAddr,
    /// How many bytes.
    pub len: usize,
    /// Offset in the page of the first byte that differs from what it should be, with what it was
    /// (or should be) and what it is (or what was read).
    pub byte: Option<(usize, u8, u8)>,
    /// What the address stood for; none for one that the device was never told.
    pub meant: Option<NamedPage>,
    /// Whose memory it is; none: nobody's.
    pub hit: Option<NamedPage>,
    /// Why the address was still in use, and the rule that would have prevented it.
    pub why: &'static str,
}

impl Finding {
    /// The report, with a newline at its end.
    #[must_use]
    pub fn text(&self) -> String {
        let (verb, done) = match (self.kind, self.write) {
            (HazardKind::KernelBug, _) => ("Free", "was"),
            (_, true) => ("Write", "was"),
            (_, false) => ("Read", "should be"),
        };
        let who = format!("by {}", printed(&self.who));
        let mut text = bug_line(self.kind, &who) + "\n";
        // Writing to a String can't fail.
        let _ = write!(text, "  {verb} of {} bytes at bus address {}", self.len, self.addr);
        if let Some(NamedPage { of, name }) = &self.meant {
            let _ = write!(text, ", meant for page {} of `{}`", of.page, printed(name));
        }
        text.push('\n');
        match &self.hit {
            Some(NamedPage { of, name })
                if self.meant.as_ref().is_none_or(|meant| meant.of != *of) =>
            {
                let _ =
                    writeln!(text, "  The address is page {} of `{}` now", of.page, printed(name));
            }
            Some(_) => text.push_str("  The address is that page's\n"),
            None => text.push_str("  No buffer has the address now\n"),
        }
        if let Some((offset, before, now)) = self.byte {
            let what = if self.write { "is" } else { "was read as" };
            let _ = writeln!(text, "  Byte {offset} {done} {before:#04x} and {what} {now:#04x}");
        }
        let _ = writeln!(text, "  {}", self.why);
        text
    }
}

/// All findings of a run. What one device does wrong again in the same way is counted.
#[derive(Debug, Default)]
pub struct Findings {
    kept: Vec<Finding>,
    /// How often each was seen.
    times: Vec<u64>,
    fresh: Vec<Finding>,
    counts: BTreeMap<HazardKind, u64>,
}

impl Findings {
    /// Adds one.
    pub fn push(&mut self, finding: Finding) {
        *self.counts.entry(finding.kind).or_default() += 1;
        if self.fresh.len() < FRESH_MAX {
            self.fresh.push(finding.clone());
        }
        let same = |known: &Finding| {
            (known.kind, known.holder, &known.who) == (finding.kind, finding.holder, &finding.who)
        };
        if let Some(at) = self.kept.iter().position(same) {
            self.times[at] += 1;
        } else if self.kept.len() < FINDINGS_MAX {
            self.kept.push(finding);
            self.times.push(1);
        }
    }

    /// The first of each kind and device, of at most [`FINDINGS_MAX`].
    #[must_use]
    pub fn kept(&self) -> &[Finding] {
        &self.kept
    }

    /// Every finding since this was asked before.
    pub fn take_fresh(&mut self) -> Vec<Finding> {
        std::mem::take(&mut self.fresh)
    }

    /// How many of each kind.
    #[must_use]
    pub fn counts(&self) -> &BTreeMap<HazardKind, u64> {
        &self.counts
    }

    /// All reports, and what was left out; empty without findings.
    #[must_use]
    pub fn text(&self) -> String {
        let mut text = self.words(|_| true);
        let left = self.counts.values().sum::<u64>() - self.times.iter().sum::<u64>();
        if left > 0 {
            let _ = writeln!(text, "driftheap: {left} more reports left out");
        }
        text
    }

    /// The reports about one client.
    #[must_use]
    pub fn text_of(&self, holder: Holder) -> String {
        self.words(|finding| finding.holder == holder)
    }

    fn words(&self, wanted: impl Fn(&Finding) -> bool) -> String {
        let mut text = String::new();
        for (finding, &times) in self.kept.iter().zip(&self.times).filter(|(one, _)| wanted(one)) {
            text += &finding.text();
            if times > 1 {
                let _ = writeln!(text, "  Seen {times} times; this is the first");
            }
        }
        text
    }

    /// One line of counts; empty without findings.
    #[must_use]
    pub fn summary(&self) -> String {
        let counts = self.counts.iter().map(|(kind, count)| format!("{count} {kind}"));
        counts.collect::<Vec<_>>().join(", ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::BufferId;
    use crate::device::live::frames::FrameNo;

    fn finding(kind: HazardKind) -> Finding {
        let place = |buffer, name: &str| NamedPage {
            of: PageOf { buffer: BufferId(buffer), page: 0 },
            name: name.into(),
        };
        Finding {
            kind,
            holder: Holder(7),
            who: "camera".into(),
            write: true,
            addr: BusAddr::of(FrameNo(1)),
            len: 64,
            byte: Some((16, 0x42, 0xcc)),
            meant: Some(place(1, "A")),
            hit: Some(place(2, "B")),
            why: "The importer was told.",
        }
    }

    #[test]
    fn a_report_names_the_byte_and_the_buffers() {
        assert_eq!(
            finding(HazardKind::CrossBufferWrite).text(),
            "BUG: driftheap: cross-buffer-write by camera\n  \
             Write of 64 bytes at bus address 0x4000001000, meant for page 0 of `A`\n  \
             The address is page 0 of `B` now\n  \
             Byte 16 was 0x42 and is 0xcc\n  \
             The importer was told.\n"
        );
    }

    #[test]
    fn reports_are_bounded_and_counted() {
        let mut findings = Findings::default();
        assert_eq!((findings.text(), findings.summary()), (String::new(), String::new()));
        for number in 0..FINDINGS_MAX + 2 {
            let who = format!("device {number}");
            findings.push(Finding { who, ..finding(HazardKind::LostWrite) });
        }
        assert!(findings.text().ends_with("driftheap: 2 more reports left out\n"));
        assert_eq!(findings.summary(), "66 lost-write");
    }

    #[test]
    fn one_report_for_a_device_and_kind() {
        let mut findings = Findings::default();
        for kind in [HazardKind::LostWrite, HazardKind::StaleRead, HazardKind::LostWrite] {
            findings.push(finding(kind));
        }
        let gpu = Finding { who: "gpu".into(), ..finding(HazardKind::LostWrite) };
        findings.push(Finding { holder: Holder(8), ..gpu });
        assert_eq!(findings.text_of(Holder(8)).matches("by gpu").count(), 1);
        assert_eq!(findings.text_of(Holder(8)).matches("by camera").count(), 0);
        assert_eq!(findings.kept().len(), 3);
        let text = findings.text();
        assert_eq!(text.matches("Seen 2 times; this is the first\n").count(), 1, "{text}");
        assert_eq!(findings.take_fresh().len(), 4);
        assert_eq!(findings.take_fresh(), []);
        assert_eq!(findings.summary(), "1 stale-read, 3 lost-write");
    }
}
