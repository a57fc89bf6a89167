//! Perfetto's messages, as far as they are needed, and how a trace becomes them.
//!
//! A slice is two events on its track, its begin and its end; a flow is a number that the begins of
//! its slices have in common, in the order of time. Field numbers are those of Perfetto's .proto files.

use std::collections::{BTreeMap, BTreeSet};

use prost::Message;
use serde_json::Value;

use super::{Slice, Track, Tracks};

#[derive(Clone, PartialEq, Message)]
struct Trace {
    #[prost(message, repeated, tag = "1")]
    packet: Vec<TracePacket>,
}

#[derive(Clone, PartialEq, Message)]
struct TracePacket {
    /// Nanoseconds.
    #[prost(uint64, optional, tag = "8")]
    timestamp: Option<u64>,
    #[prost(uint32, optional, tag = "10")]
    trusted_packet_sequence_id: Option<u32>,
    #[prost(message, optional, tag = "11")]
    track_event: Option<TrackEvent>,
    #[prost(uint32, optional, tag = "13")]
    sequence_flags: Option<u32>,
    #[prost(message, optional, tag = "60")]
    track_descriptor: Option<TrackDescriptor>,
}

#[derive(Clone, PartialEq, Message)]
struct TrackDescriptor {
    #[prost(uint64, optional, tag = "1")]
    uuid: Option<u64>,
    #[prost(string, optional, tag = "2")]
    name: Option<String>,
    #[prost(uint64, optional, tag = "5")]
    parent_uuid: Option<u64>,
    #[prost(int32, optional, tag = "11")]
    child_ordering: Option<i32>,
    #[prost(int32, optional, tag = "12")]
    sibling_order_rank: Option<i32>,
}

#[derive(Clone, PartialEq, Message)]
struct TrackEvent {
    #[prost(message, repeated, tag = "4")]
    debug_annotations: Vec<DebugAnnotation>,
    #[prost(int32, optional, tag = "9")]
    r#type: Option<i32>,
    #[prost(uint64, optional, tag = "11")]
    track_uuid: Option<u64>,
    #[prost(string, repeated, tag = "22")]
    categories: Vec<String>,
    #[prost(string, optional, tag = "23")]
    name: Option<String>,
    #[prost(fixed64, repeated, tag = "47")]
    flow_ids: Vec<u64>,
    #[prost(fixed64, repeated, tag = "48")]
    terminating_flow_ids: Vec<u64>,
}

#[derive(Clone, PartialEq, Message)]
struct DebugAnnotation {
    #[prost(string, optional, tag = "10")]
    name: Option<String>,
    #[prost(string, optional, tag = "6")]
    string_value: Option<String>,
}

const SLICE_BEGIN: i32 = 1;
const SLICE_END: i32 = 2;
/// `ChildTracksOrdering::EXPLICIT`.
const EXPLICIT: i32 = 3;
/// `SEQ_INCREMENTAL_STATE_CLEARED`.
const CLEARED: u32 = 1;
/// All packets are of one writer.
const SEQUENCE: u32 = 1;

/// The root of all tracks.
const ROOT: u64 = 1;

/// A number of its own for each group and track.
fn uuid((group, track): (u32, Option<usize>)) -> u64 {
    let track = track.map_or(0, |track| u64::try_from(track).unwrap_or(0) + 1);
    (u64::from(group) << 32) + track + 16
}

fn rank(at: usize) -> Option<i32> {
    Some(i32::try_from(at).unwrap_or(i32::MAX))
}

pub(super) fn encode(tracks: &Tracks) -> Vec<u8> {
    let mut packets = descriptors(tracks);
    packets.extend(events(tracks));
    if let Some(first) = packets.first_mut() {
        first.sequence_flags = Some(CLEARED);
    }
    for packet in &mut packets {
        packet.trusted_packet_sequence_id = Some(SEQUENCE);
    }
    Trace { packet: packets }.encode_to_vec()
}

fn descriptors(tracks: &Tracks) -> Vec<TracePacket> {
    let packet = |uuid, parent, name: &str, at, parent_of| TracePacket {
        track_descriptor: Some(TrackDescriptor {
            uuid: Some(uuid),
            name: Some(name.to_owned()),
            parent_uuid: parent,
            child_ordering: parent_of,
            sibling_order_rank: rank(at),
        }),
        ..TracePacket::default()
    };
    let mut packets = vec![packet(ROOT, None, "driftheap", 0, Some(EXPLICIT))];
    for (at, group) in tracks.groups.iter().enumerate() {
        let of = uuid((group.number, None));
        packets.push(packet(of, Some(ROOT), &group.title, at, Some(EXPLICIT)));
        for (at, name) in group.tracks.iter().enumerate() {
            packets.push(packet(uuid((group.number, Some(at))), Some(of), name, at, None));
        }
    }
    packets
}

/// The slices of each track, none of which begins before another ends.
fn by_track(tracks: &Tracks) -> BTreeMap<Track, Vec<(u64, u64, &Slice)>> {
    let mut all: BTreeMap<Track, Vec<(u64, u64, &Slice)>> = BTreeMap::new();
    for slice in &tracks.slices {
        all.entry(slice.track).or_default().push((slice.at_ns, slice.len_ns, slice));
    }
    for slices in all.values_mut() {
        slices.sort_by_key(|(at, ..)| *at);
        let mut free = 0;
        for (at, len, _) in slices {
            // What was done at one moment stands behind each other, a nanosecond each.
            *at = free.max(*at);
            free = at.saturating_add((*len).max(1));
            *len = free - *at;
        }
    }
    all
}

fn events(tracks: &Tracks) -> Vec<TracePacket> {
    let all = by_track(tracks);
    // The flows that each slice is in, and those that end in it.
    let mut through: BTreeMap<(Track, usize), (BTreeSet<u64>, BTreeSet<u64>)> = BTreeMap::new();
    for (id, flow) in (1..).zip(&tracks.flows) {
        for (index, &(track, at_ns)) in flow.stations.iter().enumerate() {
            let slices = all.get(&track).map_or(&[][..], Vec::as_slice);
            let Some(slice) = slices.iter().rposition(|(_, _, slice)| slice.at_ns <= at_ns) else {
                continue;
            };
            let (flows, ends) = through.entry((track, slice)).or_default();
            let of = if index + 1 == flow.stations.len() { ends } else { flows };
            of.insert(id);
        }
    }
    let mut events = Vec::new();
    for (&track, slices) in &all {
        let track_uuid = Some(uuid((track.0, Some(track.1))));
        for (index, &(at, len, slice)) in slices.iter().enumerate() {
            let (flows, ends) = through.remove(&(track, index)).unwrap_or_default();
            let begin = TrackEvent {
                r#type: Some(SLICE_BEGIN),
                track_uuid,
                name: Some(slice.name.clone()),
                categories: slice.bad.then(|| "hazard".to_owned()).into_iter().collect(),
                flow_ids: flows.into_iter().collect(),
                terminating_flow_ids: ends.into_iter().collect(),
                debug_annotations: annotations(&slice.args),
            };
            let end = TrackEvent { r#type: Some(SLICE_END), track_uuid, ..TrackEvent::default() };
            events.push((at, begin));
            events.push((at + len, end));
        }
    }
    // Within a track they are in order; an end comes before what begins at the same time.
    events.sort_by_key(|(at, event)| (*at, event.r#type == Some(SLICE_BEGIN)));
    let packet = |(at, event)| TracePacket {
        timestamp: Some(at),
        track_event: Some(event),
        ..TracePacket::default()
    };
    events.into_iter().map(packet).collect()
}

fn annotations(args: &Value) -> Vec<DebugAnnotation> {
    let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    let words = |value: &Value| match value.as_array() {
        Some(list) => list.iter().map(text).collect::<Vec<_>>().join(", "),
        None => text(value),
    };
    let one = |(name, value): (&String, &Value)| DebugAnnotation {
        name: Some(name.clone()),
        string_value: Some(words(value)),
    };
    args.as_object().into_iter().flatten().map(one).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn begins_and_ends_alternate_and_a_flow_runs_through_its_slices() {
        let mut tracks = Tracks::default();
        tracks.group(1, "deeds", ["a".to_owned(), "b".to_owned()]);
        tracks.slice((1, 0), "take", (0, 0), false, json!({ "step": 1 }));
        tracks.slice((1, 0), "next", (0, 5), false, json!({}));
        tracks.slice((1, 1), "move", (10, 5), false, json!({}));
        tracks.slice((1, 0), "harm", (20, 5), true, json!({ "hazards": ["lost-write"] }));
        tracks.flow("lost-write", &[((1, 0), 0), ((1, 1), 12), ((1, 0), 20)]);
        let trace = Trace::decode(tracks.track_events().as_slice()).expect("a trace");
        let named = |packet: &TracePacket| packet.track_descriptor.clone()?.name;
        let names: Vec<String> = trace.packet.iter().filter_map(named).collect();
        assert_eq!(names, ["driftheap", "deeds", "a", "b"]);
        let mut open: BTreeMap<u64, bool> = BTreeMap::new();
        let (mut before, mut flow) = (0, Vec::new());
        for packet in &trace.packet {
            assert_eq!(packet.trusted_packet_sequence_id, Some(SEQUENCE));
            let Some(event) = &packet.track_event else { continue };
            let at = packet.timestamp.expect("a time");
            assert!(at >= before, "in order");
            before = at;
            let track = event.track_uuid.expect("a track");
            let is_begin = event.r#type == Some(SLICE_BEGIN);
            assert_eq!(open.insert(track, is_begin).unwrap_or(false), !is_begin, "{event:?}");
            if !event.flow_ids.is_empty() || !event.terminating_flow_ids.is_empty() {
                flow.push((
                    event.name.clone().expect("a name"),
                    event.terminating_flow_ids.clone(),
                ));
            }
        }
        assert!(open.values().all(|open| !open), "all have ended");
        // Two slices begin at the moment of the first station: the later one is meant.
        let expected = [("next", vec![]), ("move", vec![]), ("harm", vec![1])];
        assert_eq!(flow, expected.map(|(name, ends)| (name.to_owned(), ends)));
    }
}
