//! What a run recorded, the model says too: the hazards that were seen are possible in the file,
//! and no other is.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use driftheap::client::{Connection, Importer, Work};
use driftheap::device::live::record::Recording;
use driftheap::litmus::ast::Verdict;
use driftheap::model::HazardKind;
use driftheap::question::verdict::{Search, judge};

use super::kit::{Lab, moves, named};
use super::lab::scenarios;

use driftheap::device::live::attach::AttachmentId;
use driftheap::device::live::record::{Actor, RecordedAction, Recorder, SEGMENT_MAX, WINDOWS_MAX};
use driftheap::device::{BufferId, FenceId};
use driftheap::model::{ExporterRules, Placement, Usage};

/// What the recording's variants are found to be possible.
fn possible(recording: &Recording) -> BTreeSet<HazardKind> {
    let text = recording.with_result(None);
    let mut found = BTreeSet::new();
    for scenario in scenarios(&text) {
        let judgement = judge(&scenario, &Search::default(), &mut |_| ())
            .unwrap_or_else(|error| panic!("{error}\nin\n{text}"));
        let verdict = judgement.observation.unwrap();
        if verdict != Verdict::Never {
            found.insert(HazardKind::from_word(&scenario.variant).unwrap());
        }
    }
    found
}

fn check(heap: &str, run: impl FnOnce(&Connection), expect: &[HazardKind]) {
    let lab = Lab::with(heap, true);
    let client = lab.client("app");
    run(&client);
    let recordings = lab
        .exporter
        .look(|_, bus| bus.recorder.as_ref().unwrap().recordings("recorded", "What a test did."));
    let [recording] = &recordings[..] else { panic!("{recordings:#?}") };
    let expect: BTreeSet<HazardKind> = expect.iter().copied().collect();
    assert_eq!(recording.seen, expect, "{}", recording.text);
    assert_eq!(possible(recording), expect, "{}", recording.text);
    assert_eq!(recording.stopped, None);
}

/// A device that writes A again and again while A moves and others take its place.
fn captures(client: &Connection, handles_notify: bool, fenced: bool) {
    let a = named(client, 2, "A");
    let stale = Arc::new(AtomicBool::new(true));
    let told = Arc::clone(&stale);
    let isp =
        a.attach("isp", Importer::dynamic(move || told.store(true, Ordering::SeqCst))).unwrap();
    let mut table = isp.map(&a.lock().unwrap()).unwrap();
    stale.store(false, Ordering::SeqCst);
    let mapping = a.map().unwrap();
    for _ in 0..2 {
        let lock = a.lock().unwrap();
        if handles_notify && stale.swap(false, Ordering::SeqCst) {
            table = isp.map(&lock).unwrap();
        }
        let fence = fenced.then(|| isp.submit(&lock, Usage::Write).unwrap());
        drop(lock);
        isp.dma_write(table.addr(1), &[3; 16]).unwrap();
        if let Some(fence) = fence {
            fence.signal().unwrap();
        }
        mapping.load_u8(4096).value().unwrap();
        a.work(Work::Evict).unwrap();
        let b = named(client, 2, "B");
        drop(b);
    }
}

#[test]
fn a_clean_run_is_clean_on_the_model() {
    if moves() {
        check("system", |client| captures(client, true, true), &[]);
    }
}

#[test]
fn an_importer_that_ignores_move_notify() {
    if moves() {
        check("system", |client| captures(client, false, true), &[HazardKind::UseAfterFree]);
    }
}

#[test]
fn an_importer_without_fences() {
    if moves() {
        check("system", |client| captures(client, true, false), &[HazardKind::UnfencedAccess]);
    }
}

#[test]
fn a_static_importer_of_an_exporter_that_forgets_the_pin() {
    let run = |client: &Connection| {
        let a = named(client, 1, "A");
        let codec = a.attach("codec", Importer::pinning()).unwrap();
        let table = codec.map(&a.lock().unwrap()).unwrap();
        let _moved = a.work(Work::Evict);
        let b = named(client, 1, "B");
        codec.dma_write(table.addr(0), &[1]).unwrap();
        codec.dma_read(table.addr(0), &mut [0; 8]).unwrap();
        drop(b);
    };
    if moves() {
        check("system", run, &[]);
        let seen = [HazardKind::CrossBufferWrite, HazardKind::CrossBufferRead];
        check("system,on-dma-buf-pin=ignore", run, &seen);
    }
}

#[test]
fn a_mapping_through_the_importer() {
    let run = |client: &Connection| {
        let a = named(client, 1, "A");
        let wrong = a.map_through_importer().unwrap();
        wrong.store_u8(0, 1).unwrap().value().unwrap();
        a.work(Work::Evict).unwrap();
        let b = named(client, 1, "B");
        wrong.store_u8(0, 2).unwrap().value().unwrap();
        drop(b);
    };
    if moves() {
        check("system", run, &[HazardKind::CrossBufferWrite]);
    }
}

#[test]
fn pins() {
    let run = |client: &Connection| {
        let a = named(client, 1, "A");
        let mapping = a.map().unwrap();
        let pin = mapping.get_user_pages(0).unwrap();
        let _moved = a.work(Work::Evict);
        let b = named(client, 1, "B");
        pin.dma_write(0, &[1]).unwrap();
        drop((pin, b));
    };
    if moves() {
        let page = "system,mmap=mixedmap-insert-page";
        check(&format!("{page},on-foreign-pin=ignore"), run, &[HazardKind::CrossBufferWrite]);
        check(&format!("{page},on-foreign-pin=refuse"), run, &[HazardKind::PinBlocksMove]);
    }
}

#[test]
fn what_a_purge_takes_away() {
    let run = |client: &Connection| {
        let a = named(client, 1, "A");
        let gpu = a.attach("gpu", Importer::dynamic(|| ())).unwrap();
        let lock = a.lock().unwrap();
        let table = gpu.map(&lock).unwrap();
        drop(lock);
        a.work(Work::Purge).unwrap();
        gpu.dma_write(table.addr(0), &[1]).unwrap();
    };
    if moves() {
        check("system", run, &[HazardKind::UseAfterFree, HazardKind::UnfencedAccess]);
    }
}

/// The recordings of a lab so far.
fn recordings(lab: &Lab) -> Vec<Recording> {
    let of = |recorder: &Recorder| recorder.recordings("recorded", "What a test did.");
    lab.exporter.look(|_, bus| of(bus.recorder.as_ref().unwrap()))
}

/// What every window shows is possible in it; what all of them show together.
fn seen(recordings: &[Recording]) -> BTreeSet<HazardKind> {
    let mut seen = BTreeSet::new();
    for recording in recordings {
        assert_eq!(possible(recording), recording.seen, "{}", recording.text);
        seen.extend(&recording.seen);
    }
    seen
}

/// What goes wrong after thousands of moves is in a window that begins with the state it finds.
#[test]
fn a_long_run_is_several_windows() {
    if !moves() {
        return;
    }
    let lab = Lab::with("system", true);
    let client = lab.client("app");
    let a = named(&client, 2, "A");
    let b = named(&client, 1, "B");
    let isp = a.attach("isp", Importer::dynamic(|| ())).unwrap();
    let write = |table: &driftheap::client::SgTable, signals: bool| {
        let lock = a.lock().unwrap();
        let fence = signals.then(|| isp.submit(&lock, Usage::Write).unwrap());
        drop(lock);
        table_write(&isp, table);
        if let Some(fence) = fence {
            fence.signal().unwrap();
        }
    };
    for round in 0..60 {
        let table = isp.map(&a.lock().unwrap()).unwrap();
        write(&table, true);
        a.work(Work::Evict).unwrap();
        if round % 3 == 0 {
            b.work(Work::Evict).unwrap();
        }
    }
    let calm = recordings(&lab);
    assert_eq!(seen(&calm), BTreeSet::new());
    assert!(calm.len() < 6, "what repeats stands there once: {}", calm.len());
    // A stale address, after moves back and forth: nobody's memory first, then another buffer's.
    let table = isp.map(&a.lock().unwrap()).unwrap();
    for _ in 0..41 {
        a.work(Work::Evict).unwrap();
    }
    write(&table, true);
    let other = named(&client, 2, "C");
    let elsewhere = named(&client, 2, "D");
    elsewhere.work(Work::Evict).unwrap();
    write(&table, false);
    drop((other, elsewhere));
    let all = recordings(&lab);
    assert!(all.len() > 1 && all.len() < WINDOWS_MAX, "{}", all.len());
    assert_eq!(all.iter().find_map(|recording| recording.stopped.clone()), None);
    let told: BTreeSet<HazardKind> = lab.kinds().into_iter().collect();
    assert!(told.contains(&HazardKind::UseAfterFree), "{told:?}");
    assert_eq!(seen(&all), told);
}

fn table_write(isp: &driftheap::client::Attachment, table: &driftheap::client::SgTable) {
    isp.dma_write(table.addr(1), &[3; 16]).unwrap();
}

/// Two names that differ in what the language does not take, and nothing at all.
#[test]
fn names_are_made_words_and_an_attachment_needs_no_map() {
    let mut recorder = Recorder::default();
    let rules = ExporterRules::default();
    for (number, heap) in (1..).zip(["a.heap", "a heap", "\u{e9}"]) {
        let buffer = BufferId(number);
        recorder.declare(buffer, (heap, &rules), 1, Placement::Vram);
        recorder.push(&Actor::Exporter, RecordedAction::Alloc(buffer), &[]);
        recorder.settle(&String::new);
    }
    for (number, device) in (1..).zip(["v4l2 \x1b[31m", "v4l2_?[31m", ""]) {
        let (id, buffer) = (AttachmentId(number), BufferId(number));
        let attach = RecordedAction::Attach { id, buffer, dynamic: true };
        recorder.push(&Actor::Device(device.to_owned()), attach, &[]);
        recorder.settle(&String::new);
    }
    let [recording] = &recorder.recordings("recorded", "Names.")[..] else { panic!() };
    assert_eq!(scenarios(&recording.with_result(None)).len(), HazardKind::ALL.len());
    assert_eq!(recording.text.matches("\nimporter d-").count(), 3, "{}", recording.text);
    assert_eq!(recording.stopped, None);
}

/// A recording that is not whole says so, and its check differs.
#[test]
fn what_has_no_place_is_said() {
    let mut recorder = Recorder::default();
    let (buffer, id, fence) = (BufferId(1), AttachmentId(1), FenceId(1));
    let device = Actor::Device("isp".to_owned());
    recorder.declare(buffer, ("system", &ExporterRules::default()), 1, Placement::Vram);
    recorder.push(&Actor::Exporter, RecordedAction::Alloc(buffer), &[]);
    recorder.push(&device, RecordedAction::Attach { id, buffer, dynamic: true }, &[]);
    recorder.push(&device, RecordedAction::Map(id), &[]);
    recorder.settle(&String::new);
    recorder.push(&device, RecordedAction::Submit(fence, id, Usage::Write), &[]);
    for _ in 0..=SEGMENT_MAX {
        recorder.push(&device, RecordedAction::Dma { id, age: 0, page: 0, write: true }, &[]);
        recorder.settle(&String::new);
    }
    recorder.push(&device, RecordedAction::Signal(fence), &[]);
    recorder.settle(&String::new);
    let [recording] = &recorder.recordings("recorded", "Too much.")[..] else { panic!() };
    assert!(recording.stopped.is_some() && recording.text.contains("Not all of it is here"));
    let text = recording.with_result(Some(&|_| "Never"));
    let scenario = scenarios(&text).pop().unwrap();
    assert_eq!(scenario.variant, "what-came-later");
    let judgement = judge(&scenario, &Search::default(), &mut |_| ()).unwrap();
    assert_eq!(judgement.observation, Some(Verdict::Never));
    assert!(text.contains("Result: what-came-later Always, * Never"), "{text}");
}
