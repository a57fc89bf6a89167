//! Tracks with slices and flows between them, as a trace: for ui.perfetto.dev as its own track events,
//! or as JSON, which chrome://tracing reads as well.
//!
//! Sources: `protos/perfetto/trace/track_event/*.proto` of Perfetto (TrackEvent, TrackDescriptor), and
//! *Trace Event Format*: `X` slices with `ts` and `dur` in microseconds, `M` names of processes and
//! threads, `s` `t` `f` flows.

mod wire;

use serde_json::{Value, json};

/// Where a slice stands: group, track.
pub type Track = (u32, usize);

/// Something that lasts.
#[derive(Debug, Clone)]
struct Slice {
    track: Track,
    name: String,
    at_ns: u64,
    len_ns: u64,
    bad: bool,
    args: Value,
}

/// A group of tracks, with their names.
#[derive(Debug, Clone)]
struct Group {
    number: u32,
    title: String,
    tracks: Vec<String>,
}

/// An arrow through slices, each named by its track and a time within it.
#[derive(Debug, Clone)]
struct Flow {
    name: String,
    stations: Vec<(Track, u64)>,
}

/// A trace in the making. A group is what the JSON format calls a process, a track in it a thread.
#[derive(Debug, Default)]
pub struct Tracks {
    groups: Vec<Group>,
    slices: Vec<Slice>,
    flows: Vec<Flow>,
}

impl Tracks {
    /// Names a group and its tracks.
    pub fn group(&mut self, number: u32, title: &str, tracks: impl IntoIterator<Item = String>) {
        let (title, tracks) = (title.to_owned(), tracks.into_iter().collect());
        self.groups.push(Group { number, title, tracks });
    }

    /// Something that lasts; `bad` marks what did harm.
    pub fn slice(
        &mut self,
        track: Track,
        name: &str,
        (at_ns, len_ns): (u64, u64),
        bad: bool,
        args: Value,
    ) {
        self.slices.push(Slice { track, name: name.to_owned(), at_ns, len_ns, bad, args });
    }

    /// An arrow from slice to slice, each named by its track and a time within it.
    pub fn flow(&mut self, name: &str, stations: &[(Track, u64)]) {
        if stations.len() >= 2 {
            self.flows.push(Flow { name: name.to_owned(), stations: stations.to_vec() });
        }
    }

    /// The trace as JSON.
    #[must_use]
    pub fn json(&self) -> String {
        let mut events = Vec::new();
        for Group { number, title, tracks } in &self.groups {
            let mut meta = |tid: usize, name: &str, args: Value| {
                events.push(
                    json!({ "ph": "M", "pid": number, "tid": tid, "name": name, "args": args }),
                );
            };
            meta(0, "process_name", json!({ "name": title }));
            meta(0, "process_sort_index", json!({ "sort_index": number }));
            for (at, track) in tracks.iter().enumerate() {
                meta(at + 1, "thread_name", json!({ "name": track }));
                meta(at + 1, "thread_sort_index", json!({ "sort_index": at }));
            }
        }
        for slice in &self.slices {
            let (group, track) = slice.track;
            let mut event = json!({
                "ph": "X", "pid": group, "tid": track + 1, "name": slice.name,
                "ts": micros(slice.at_ns), "dur": micros(slice.len_ns), "args": slice.args,
            });
            if slice.bad {
                event["cname"] = json!("terrible");
                event["cat"] = json!("hazard");
            }
            events.push(event);
        }
        for (id, Flow { name, stations }) in (1..).zip(&self.flows) {
            for (index, &((group, track), at_ns)) in stations.iter().enumerate() {
                let phase = match index {
                    0 => "s",
                    _ if index + 1 == stations.len() => "f",
                    _ => "t",
                };
                events.push(json!({
                    "ph": phase, "pid": group, "tid": track + 1, "id": id, "cat": "address",
                    "name": name, "ts": micros(at_ns), "bp": "e",
                }));
            }
        }
        format!("{}\n", json!({ "displayTimeUnit": "ms", "traceEvents": events }))
    }

    /// The trace as Perfetto's own track events.
    #[must_use]
    pub fn track_events(&self) -> Vec<u8> {
        wire::encode(self)
    }

    /// The trace for a file of this name: JSON where it ends with `.json`, else track events.
    #[must_use]
    pub fn bytes_for(&self, path: &std::path::Path) -> Vec<u8> {
        let is_json = path.extension().is_some_and(|ext| ext.eq_ignore_ascii_case("json"));
        if is_json { self.json().into_bytes() } else { self.track_events() }
    }
}

/// Microseconds, with a fraction where there is one.
fn micros(ns: u64) -> Value {
    if ns.is_multiple_of(1000) { json!(ns / 1000) } else { json!(ns as f64 / 1000.0) }
}
