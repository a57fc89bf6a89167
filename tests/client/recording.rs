//! What a run recorded, the model says too: the hazards that were seen are possible in the file,
//! and no other is.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use driftheap::client::{Connection, Importer, Usage, Work};
use driftheap::device::live::record::Recording;
use driftheap::litmus::ast::Verdict;
use driftheap::model::HazardKind;
use driftheap::question::verdict::{Search, judge};

use super::kit::{Lab, moves, named};
use super::lab::scenarios;

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
    let recording = lab
        .exporter
        .look(|_, bus| bus.recorder.as_ref().unwrap().recording("recorded", "What a test did."));
    let expect: BTreeSet<HazardKind> = expect.iter().copied().collect();
    assert_eq!(recording.seen, expect, "{}", recording.text);
    assert_eq!(possible(&recording), expect, "{}", recording.text);
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
