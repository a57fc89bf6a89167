//! Tracks with slices and flows between them, as a trace for ui.perfetto.dev and chrome://tracing.
//!
//! Source: *Trace Event Format* (the JSON format that Perfetto imports as track events): `X` slices with
//! `ts` and `dur` in microseconds, `M` names of processes and threads, `s` `t` `f` flows.

use serde_json::{Value, json};

/// A trace in the making. A group is what the format calls a process, a track in it a thread.
#[derive(Debug, Default)]
pub struct Tracks {
    events: Vec<Value>,
    flows: u64,
}

/// Where a slice stands: group, track.
pub type Track = (u32, usize);

impl Tracks {
    /// Names a group and its tracks.
    pub fn group(&mut self, group: u32, title: &str, tracks: impl IntoIterator<Item = String>) {
        let mut meta = |tid: usize, name: &str, args: Value| {
            self.events
                .push(json!({ "ph": "M", "pid": group, "tid": tid, "name": name, "args": args }));
        };
        meta(0, "process_name", json!({ "name": title }));
        meta(0, "process_sort_index", json!({ "sort_index": group }));
        for (at, track) in tracks.into_iter().enumerate() {
            meta(at + 1, "thread_name", json!({ "name": track }));
            meta(at + 1, "thread_sort_index", json!({ "sort_index": at }));
        }
    }

    /// Something that lasts; `bad` marks what did harm.
    pub fn slice(
        &mut self,
        (group, track): Track,
        name: &str,
        (at_ns, len_ns): (u64, u64),
        bad: bool,
        args: &Value,
    ) {
        let mut slice = json!({
            "ph": "X", "pid": group, "tid": track + 1, "name": name, "ts": micros(at_ns),
            "dur": micros(len_ns), "args": args,
        });
        if bad {
            slice["cname"] = json!("terrible");
            slice["cat"] = json!("hazard");
        }
        self.events.push(slice);
    }

    /// An arrow from slice to slice, each named by its track and a time within it.
    pub fn flow(&mut self, name: &str, stations: &[(Track, u64)]) {
        if stations.len() < 2 {
            return;
        }
        self.flows += 1;
        for (index, &((group, track), at_ns)) in stations.iter().enumerate() {
            let phase = match index {
                0 => "s",
                _ if index + 1 == stations.len() => "f",
                _ => "t",
            };
            self.events.push(json!({
                "ph": phase, "pid": group, "tid": track + 1, "id": self.flows, "cat": "address",
                "name": name, "ts": micros(at_ns), "bp": "e",
            }));
        }
    }

    /// The trace, as JSON.
    #[must_use]
    pub fn text(&self) -> String {
        format!("{}\n", json!({ "displayTimeUnit": "ms", "traceEvents": self.events }))
    }
}

/// Microseconds, with a fraction where there is one.
fn micros(ns: u64) -> Value {
    if ns.is_multiple_of(1000) { json!(ns / 1000) } else { json!(ns as f64 / 1000.0) }
}
