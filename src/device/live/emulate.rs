//! Emulated devices: importers that read and write a buffer on a schedule.
//!
//! A device waits for a buffer of its name, attaches, and every period does one job:
//!
//! 1. waits until the CPU has no SYNC bracket open on the buffer (`bracket=waits`); takes the
//!    reservation lock; maps again if `move_notify` said so (`notify=handled`); adds its
//!    fence (`fence=yes`); releases the lock. The addresses are translated here: the first half;
//! 2. works for the time `hold`, while moves, brackets and other devices go on;
//! 3. transfers every page at the addresses that it has: the second half; signals the fence.
//!
//! What it hits by an address that is not the buffer's any more is the next owner's, for real, and
//! is reported ([`super::findings`]).
//!
//! **Differs from Linux**: a job is one transfer of each page; the pattern is one byte a job.

use std::fmt;
use std::str::FromStr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::attach::{AttachmentId, Holder};
use super::bus::{InBracket, Through, Transfer};
use super::frames::BusAddr;
use super::operation::{Host, Parts};
use crate::device::{BufferId, FenceId, Seen};
use crate::model::{Slot, Usage};
use crate::sys::page::page_bytes;

/// Which buffer a device uses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Which {
    /// The oldest one that DMA_BUF_SET_NAME gave this name.
    Named(String),
    /// The so many-th one that there is, from 0.
    Index(usize),
}

/// A device that had nothing to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Idle {
    /// As it was asked for.
    pub spec: DeviceSpec,
    /// Whether the program had such a buffer: it was gone before the device looked.
    pub was_there: bool,
}

/// A device as the user asked for it: `NAME,writes=BUF,every=16ms,...`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceSpec {
    /// Its name in reports.
    pub name: String,
    /// Its buffer.
    pub buffer: Which,
    /// Whether it writes it.
    pub writes: bool,
    /// Period of its jobs.
    pub every: Duration,
    /// Time between the two halves of a job.
    pub hold: Duration,
    /// Whether it has a `move_notify`.
    pub dynamic: bool,
    /// Whether it maps again after one.
    pub handles_notify: bool,
    /// Whether it adds a fence.
    pub fenced: bool,
    /// Whether it begins no job while the CPU has a bracket open on its buffer.
    pub waits_for_brackets: bool,
}

/// Why a device can't be emulated.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SpecError {
    /// The first part is not a name.
    #[error("`{0}` is not a device name: begin with one, as in camera,writes=frame,every=16ms")]
    Name(String),
    /// Not `option=value`.
    #[error("`{0}` is not an option: write option=value; there are: {OPTIONS}")]
    Syntax(String),
    /// The option does not take this.
    #[error("`{option}` does not take `{value}`; it takes {takes}")]
    Value {
        /// The option.
        option: &'static str,
        /// What was written.
        value: String,
        /// What it takes.
        takes: &'static str,
    },
    /// Neither `writes` nor `reads`.
    #[error("say what the device does: writes=BUFFER or reads=BUFFER, by name or as #INDEX")]
    NoBuffer,
}

const OPTIONS: &str = "writes, reads, every, hold, importer, notify, fence, bracket";
const TIME: &str = "a time such as 16ms, 500us or 1s";

impl FromStr for DeviceSpec {
    type Err = SpecError;

    fn from_str(text: &str) -> Result<Self, SpecError> {
        let mut parts = text.split(',');
        let name = parts.next().unwrap_or_default().trim();
        if name.is_empty() || name.contains('=') || name.len() > 64 {
            return Err(SpecError::Name(name.to_owned()));
        }
        let mut buffer = None;
        let mut spec = Self {
            name: name.to_owned(),
            buffer: Which::Index(0),
            writes: false,
            every: Duration::from_millis(16),
            hold: Duration::from_millis(1),
            dynamic: true,
            handles_notify: true,
            fenced: true,
            waits_for_brackets: true,
        };
        for part in parts {
            let (option, value) =
                part.split_once('=').ok_or_else(|| SpecError::Syntax(part.to_owned()))?;
            let value = value.trim();
            match option.trim() {
                "writes" | "reads" => {
                    spec.writes = option.trim() == "writes";
                    buffer = Some(which(value)?);
                }
                "every" => spec.every = time("every", value)?,
                "hold" => spec.hold = time("hold", value)?,
                "importer" => {
                    spec.dynamic =
                        one_of("importer", value, ["dynamic", "static"], "dynamic or static")?;
                }
                "notify" => {
                    spec.handles_notify =
                        one_of("notify", value, ["handled", "ignored"], "handled or ignored")?;
                }
                "bracket" => {
                    spec.waits_for_brackets =
                        one_of("bracket", value, ["waits", "ignored"], "waits or ignored")?;
                }
                "fence" => spec.fenced = one_of("fence", value, ["yes", "no"], "yes or no")?,
                _ => return Err(SpecError::Syntax(part.to_owned())),
            }
        }
        spec.buffer = buffer.ok_or(SpecError::NoBuffer)?;
        Ok(spec)
    }
}

fn which(value: &str) -> Result<Which, SpecError> {
    let error = || SpecError::Value {
        option: "writes and reads",
        value: value.to_owned(),
        takes: "a buffer's name or #INDEX",
    };
    match value.strip_prefix('#') {
        Some(index) => Ok(Which::Index(index.parse().map_err(|_| error())?)),
        None if value.is_empty() => Err(error()),
        None => Ok(Which::Named(value.to_owned())),
    }
}

fn one_of(
    option: &'static str,
    value: &str,
    [yes, no]: [&str; 2],
    takes: &'static str,
) -> Result<bool, SpecError> {
    match value {
        _ if value == yes => Ok(true),
        _ if value == no => Ok(false),
        _ => Err(SpecError::Value { option, value: value.to_owned(), takes }),
    }
}

fn time(option: &'static str, value: &str) -> Result<Duration, SpecError> {
    let error = || SpecError::Value { option, value: value.to_owned(), takes: TIME };
    let digits = value.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let number: u64 = digits.parse().map_err(|_| error())?;
    let unit = match &value[digits.len()..] {
        "us" => 1,
        "ms" => 1000,
        "s" => 1_000_000,
        _ => return Err(error()),
    };
    let micros = number.checked_mul(unit).filter(|&micros| micros <= 3_600_000_000);
    Ok(Duration::from_micros(micros.ok_or_else(error)?))
}

impl fmt::Display for DeviceSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let verb = if self.writes { "writes" } else { "reads" };
        match &self.buffer {
            Which::Named(name) => write!(f, "{} {verb} `{name}`", self.name),
            Which::Index(index) => write!(f, "{} {verb} buffer #{index}", self.name),
        }
    }
}

/// Says when to stop.
#[derive(Debug, Default)]
struct Stop {
    stopped: Mutex<bool>,
    changed: Condvar,
}

impl Stop {
    /// Sleeps; true if it is time to stop.
    fn sleep(&self, time: Duration) -> bool {
        let guard = self.stopped.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = self.changed.wait_timeout_while(guard, time, |stopped| !*stopped);
        *waited.unwrap_or_else(PoisonError::into_inner).0
    }
}

/// A device at work; it stops and detaches when this is dropped.
#[derive(Debug)]
pub struct Running {
    /// What was asked for.
    spec: DeviceSpec,
    stop: Arc<Stop>,
    /// Jobs done.
    jobs: Arc<Mutex<u64>>,
    /// Whether its buffer ever was there.
    attached: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Running {
    /// Starts a device on a thread of its own. `number` tells it from other devices.
    ///
    /// # Errors
    /// No thread can be started.
    pub fn start(
        spec: DeviceSpec,
        host: Arc<dyn Host + Send + Sync>,
        number: u64,
        now_ns: fn() -> u64,
    ) -> std::io::Result<Self> {
        let stop = Arc::new(Stop::default());
        let jobs = Arc::new(Mutex::new(0));
        let attached = Arc::new(AtomicBool::new(false));
        let holder = Holder(1 + number);
        let mut machine = Machine {
            spec: spec.clone(),
            host,
            holder,
            now_ns,
            bound: None,
            jobs: Arc::clone(&jobs),
            attached: Arc::clone(&attached),
        };
        let stopped = Arc::clone(&stop);
        let thread = std::thread::Builder::new()
            .name(machine.spec.name.chars().take(15).collect())
            .spawn(move || machine.run(&stopped))?;
        Ok(Self { spec, stop, jobs, attached, thread: Some(thread) })
    }

    /// The device as it was asked for, if it never attached to a buffer; and whether there was one
    /// for it.
    #[must_use]
    pub fn idle(&self, seen: &Seen) -> Option<Idle> {
        if self.attached.load(Ordering::Acquire) {
            return None;
        }
        let was_there = match &self.spec.buffer {
            Which::Named(name) => seen.has_had(name.as_bytes()),
            Which::Index(index) => seen.most_at_once() > *index,
        };
        Some(Idle { spec: self.spec.clone(), was_there })
    }

    /// Jobs done so far.
    #[must_use]
    pub fn jobs(&self) -> u64 {
        *self.jobs.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        *self.stop.stopped.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.stop.changed.notify_all();
        if let Some(thread) = self.thread.take() {
            // A panic of it has been printed.
            let _panicked = thread.join();
        }
    }
}

/// What a device has of its buffer.
#[derive(Clone, Debug)]
struct Bound {
    buffer: BufferId,
    id: AttachmentId,
    addrs: Vec<BusAddr>,
}

struct Machine {
    spec: DeviceSpec,
    host: Arc<dyn Host + Send + Sync>,
    holder: Holder,
    now_ns: fn() -> u64,
    bound: Option<Bound>,
    jobs: Arc<Mutex<u64>>,
    attached: Arc<AtomicBool>,
}

/// A device that waits for its buffer looks at least this often.
const LOOK_TIME_MAX: Duration = Duration::from_millis(10);

/// Longest wait for a reservation lock before a job is left out.
const LOCK_TIME_MAX: Duration = Duration::from_secs(2);

impl Machine {
    fn run(&mut self, stop: &Stop) {
        loop {
            let begun = Instant::now();
            if let Some(fence) = self.first_half(stop) {
                // A job that was begun is finished, stopped or not.
                stop.sleep(self.spec.hold);
                self.second_half(fence);
            }
            let every = self.spec.every;
            let period = if self.bound.is_some() { every } else { every.min(LOOK_TIME_MAX) };
            if stop.sleep(period.saturating_sub(begun.elapsed())) {
                break;
            }
        }
        let (host, holder) = (Arc::clone(&self.host), self.holder);
        host.with(&mut |parts| {
            for fence in parts.bus.drop_holder(holder) {
                parts.device.signal_fence(fence, 1, (self.now_ns)());
            }
        });
    }

    /// Attaches, maps, adds the fence; none if there is nothing to work on.
    fn first_half(&mut self, stop: &Stop) -> Option<Option<FenceId>> {
        let host = Arc::clone(&self.host);
        let deadline = Instant::now() + LOCK_TIME_MAX;
        loop {
            let mut begun = Begun::Nothing;
            host.with(&mut |parts| begun = self.begin(parts));
            match begun {
                Begun::Nothing => return None,
                Begun::Job(fence) => return Some(fence),
                Begun::Locked => {
                    if Instant::now() > deadline || stop.sleep(Duration::ZERO) {
                        return None;
                    }
                    host.wait(Duration::from_millis(1));
                }
            }
        }
    }

    fn begin(&mut self, parts: &mut Parts<'_>) -> Begun {
        let Some(buffer) = self.find(parts) else {
            self.unbind(parts);
            return Begun::Nothing;
        };
        if self.bound.as_ref().is_some_and(|bound| bound.buffer != buffer) {
            self.unbind(parts);
        }
        // A driver works on what was queued, and a program queues what it has ended its bracket on.
        if self.spec.waits_for_brackets && parts.bus.brackets.buffers.contains(&buffer) {
            return Begun::Nothing;
        }
        if !parts.bus.attachments.lock(buffer, self.holder) {
            return Begun::Locked;
        }
        let begun = self.under_lock(parts, buffer);
        parts.bus.attachments.unlock(buffer, self.holder);
        match begun {
            Some(fence) => Begun::Job(fence),
            None => {
                // Purged or revoked: nothing of it is of use any more.
                self.unbind(parts);
                Begun::Nothing
            }
        }
    }

    fn under_lock(&mut self, parts: &mut Parts<'_>, buffer: BufferId) -> Option<Option<FenceId>> {
        let Parts { device, bus, .. } = parts;
        let bound = match self.bound.take() {
            Some(bound) => bound,
            None => {
                let of = (self.holder, self.spec.name.as_str());
                let id = bus.attach(buffer, of, self.spec.dynamic).ok()?;
                self.attached.store(true, Ordering::Release);
                Bound { buffer, id, addrs: Vec::new() }
            }
        };
        let bound = self.bound.insert(bound);
        let sg = bus.attachments.of(bound.id, self.holder).ok()?.sg;
        let stale = sg == Slot::Invalid && self.spec.handles_notify;
        if bound.addrs.is_empty() || stale {
            bound.addrs = bus.map(bound.id, self.holder).ok()?;
        }
        if !self.spec.fenced {
            return Some(None);
        }
        let usage = if self.spec.writes { Usage::Write } else { Usage::Read };
        Some(Some(bus.submit(device, bound.id, self.holder, usage).ok()?))
    }

    fn second_half(&mut self, fence: Option<FenceId>) {
        let Some(bound) = self.bound.clone() else { return };
        let jobs = {
            let mut jobs = self.jobs.lock().unwrap_or_else(PoisonError::into_inner);
            *jobs += 1;
            *jobs
        };
        let byte = u8::try_from(jobs % 255).unwrap_or(0) + 1;
        let mut page = vec![byte; page_bytes()];
        let by = (Through::Attachment(bound.id), self.holder);
        let host = Arc::clone(&self.host);
        for &addr in &bound.addrs {
            let dma =
                if self.spec.writes { Transfer::Write(&page) } else { Transfer::Read(&mut page) };
            let mut dma = Some(dma);
            host.with(&mut |parts| {
                let Parts { device, bus, memory } = parts;
                if let Some(dma) = dma.take() {
                    if bus.brackets.buffers.contains(&bound.buffer) {
                        let (who, buffer) = (self.spec.name.clone(), bound.buffer);
                        let (write, len) = (self.spec.writes, page_bytes());
                        bus.brackets.hits.push(InBracket { who, buffer, write, len });
                    }
                    // A buffer that is gone answers an error; the next job finds another one.
                    let _gone = bus.dma(device, *memory, by, addr, dma);
                }
            });
        }
        let Some(fence) = fence else { return };
        host.with(&mut |parts| {
            let Parts { device, bus, .. } = parts;
            let of = (bound.id, self.holder);
            if bus.signal(device, of, fence, (self.now_ns)()).is_err() {
                // The attachment went with its buffer; nobody may wait for its fence.
                device.signal_fence(fence, 1, (self.now_ns)());
            }
        });
    }

    fn find(&self, parts: &Parts<'_>) -> Option<BufferId> {
        let alive = |id: &BufferId| {
            parts.bus.life(*id) == crate::model::Life::Live
                && parts.bus.frames.placement(*id).is_some()
        };
        let mut buffers = parts.device.buffers();
        match &self.spec.buffer {
            Which::Named(name) => buffers
                .filter(|(_, buffer)| buffer.name.as_deref() == Some(name.as_bytes()))
                .map(|(id, _)| id)
                .find(alive),
            Which::Index(index) => buffers.nth(*index).map(|(id, _)| id).filter(alive),
        }
    }

    fn unbind(&mut self, parts: &mut Parts<'_>) {
        let Some(bound) = self.bound.take() else { return };
        for fence in parts.bus.detach(bound.id, self.holder).unwrap_or_default() {
            parts.device.signal_fence(fence, 1, (self.now_ns)());
        }
    }
}

enum Begun {
    /// There is no such buffer.
    Nothing,
    /// Somebody has its reservation lock.
    Locked,
    /// The job is submitted.
    Job(Option<FenceId>),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn specs() {
        let spec: DeviceSpec =
            "camera,writes=A,every=500us,importer=static,notify=ignored,fence=no,hold=0ms"
                .parse()
                .unwrap();
        assert_eq!(spec.to_string(), "camera writes `A`");
        assert_eq!((spec.every, spec.hold), (Duration::from_micros(500), Duration::ZERO));
        assert!(!spec.dynamic && !spec.handles_notify && !spec.fenced);
        let spec: DeviceSpec = "npu,reads=#2".parse().unwrap();
        assert_eq!(spec.to_string(), "npu reads buffer #2");
        assert!(spec.dynamic && spec.handles_notify && spec.fenced);
        for (text, error) in [
            ("", "`` is not a device name: begin with one, as in camera,writes=frame,every=16ms"),
            (
                "c,writes",
                "`writes` is not an option: write option=value; there are: writes, reads, every, hold, \
                 importer, notify, fence, bracket",
            ),
            (
                "c,writes=A,every=16",
                "`every` does not take `16`; it takes a time such as 16ms, 500us or 1s",
            ),
            ("c,writes=A,fence=maybe", "`fence` does not take `maybe`; it takes yes or no"),
            (
                "c,every=1s",
                "say what the device does: writes=BUFFER or reads=BUFFER, by name or as #INDEX",
            ),
        ] {
            assert_eq!(text.parse::<DeviceSpec>().unwrap_err().to_string(), error, "{text}");
        }
    }
}
