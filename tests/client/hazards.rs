//! Importers that get it wrong, and the same importers right.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use driftheap::client::{Importer, Usage, Work};
use driftheap::model::HazardKind;
use driftheap::sys::touch::Touch;
use rustix::io::Errno;

use super::kit::{Lab, moves, named};

/// A device writes 64 bytes into A, which moves; its place is taken by B. Returns what B holds at
/// the first byte, whether A got the write, and the report.
fn capture(heap: &str, handles_notify: bool, fenced: bool) -> (u8, bool, Lab) {
    let lab = Lab::new(heap);
    let client = lab.client("camera");
    let a = named(&client, 1, "A");
    let stale = Arc::new(AtomicBool::new(false));
    let told = Arc::clone(&stale);
    let isp =
        a.attach("isp", Importer::dynamic(move || told.store(true, Ordering::SeqCst))).unwrap();
    let mut table = isp.map(&a.lock().unwrap()).unwrap();

    a.work(Work::Evict).unwrap();
    let b = named(&client, 1, "B");
    let of_b = b.map().unwrap();
    assert_eq!(of_b.store_u8(0, 0x42), Touch::Value(()));

    let lock = a.lock().unwrap();
    if handles_notify && stale.swap(false, Ordering::SeqCst) {
        isp.unmap().unwrap();
        table = isp.map(&lock).unwrap();
    }
    let fence = fenced.then(|| isp.submit(&lock, Usage::Write).unwrap());
    drop(lock);
    isp.dma_write(table.addr(0), &[0xcc; 64]).unwrap();
    if let Some(fence) = fence {
        fence.signal().unwrap();
    }

    let in_a = a.map().unwrap().load_u8(0) == Touch::Value(0xcc);
    let in_b = of_b.load_u8(0).value().unwrap();
    (in_b, in_a, lab)
}

#[test]
fn an_importer_that_ignores_move_notify_writes_into_the_next_owner() {
    if !moves() {
        return;
    }
    let (in_b, in_a, lab) = capture("system", false, true);
    assert_eq!((in_b, in_a), (0xcc, false), "the bytes are B's, and A never sees them");
    assert_eq!(lab.kinds(), [HazardKind::CrossBufferWrite]);
    let report = lab.report();
    for line in [
        "BUG: driftheap: cross-buffer-write by isp",
        "meant for page 0 of `A`",
        "The address is page 0 of `B` now",
        "Byte 0 was 0x42 and is 0xcc",
        "the importer went on with the addresses it had",
    ] {
        assert!(report.contains(line), "{line} in\n{report}");
    }
}

#[test]
fn an_importer_that_maps_again_is_right() {
    if !moves() {
        return;
    }
    let (in_b, in_a, lab) = capture("system", true, true);
    assert_eq!((in_b, in_a, lab.report().as_str()), (0x42, true, ""));
}

#[test]
fn an_access_without_a_fence_is_reported() {
    if !moves() {
        return;
    }
    let (_, in_a, lab) = capture("system", true, false);
    assert!(in_a);
    assert_eq!(lab.kinds(), [HazardKind::UnfencedAccess]);
}

#[test]
fn a_static_mapping_pins_the_buffer_unless_the_exporter_forgets() {
    if !moves() {
        return;
    }
    for (heap, refused) in [("system", true), ("system,on-dma-buf-pin=ignore", false)] {
        let lab = Lab::new(heap);
        let client = lab.client("v4l2");
        let a = named(&client, 2, "A");
        let device = a.attach("codec", Importer::pinning()).unwrap();
        let table = device.map(&a.lock().unwrap()).unwrap();
        let moved = a.work(Work::Evict);
        assert_eq!(moved.is_err_and(|error| error.errno() == Errno::BUSY), refused, "{heap}");
        device.dma_write(table.addr(1), &[7; 4096]).unwrap();
        let kinds: &[HazardKind] = if refused { &[] } else { &[HazardKind::UseAfterFree] };
        assert_eq!(lab.kinds(), kinds, "{heap}");
        device.unmap().unwrap();
        a.work(Work::Evict).unwrap();
        device.pin().unwrap();
        assert_eq!(a.work(Work::Evict).is_err(), refused, "{heap}");
    }
}

#[test]
fn the_exporter_waits_for_fences_unless_its_rules_do_not() {
    if !moves() {
        return;
    }
    let no_wait = "system,move=[lock notify zap reserve copy rebind free unlock]";
    for (heap, waits) in [("system", true), (no_wait, false)] {
        let lab = Lab::new(heap);
        let client = lab.client("gpu");
        let a = named(&client, 1, "A");
        let device = a.attach("gpu", Importer::dynamic(|| ())).unwrap();
        let lock = a.lock().unwrap();
        let table = device.map(&lock).unwrap();
        let fence = device.submit(&lock, Usage::Bookkeep).unwrap();
        drop(lock);
        // The fence does not signal, so that an exporter that waits gives up.
        let moved = a.work(Work::Evict);
        assert_eq!(moved.is_err_and(|e| e.errno() == Errno::TIMEDOUT), waits, "{heap}");
        device.dma_write(table.addr(0), &[1]).unwrap();
        fence.signal().unwrap();
        let kinds: &[HazardKind] = if waits { &[] } else { &[HazardKind::UseAfterFree] };
        assert_eq!(lab.kinds(), kinds, "{heap}");
        if !waits {
            assert!(lab.report().contains("the exporter did not wait"), "{}", lab.report());
        }
    }
}

#[test]
fn a_mapping_through_the_importer_is_not_zapped() {
    if !moves() {
        return;
    }
    let lab = Lab::new("system");
    let client = lab.client("drm");
    let a = named(&client, 1, "A");
    let wrong = a.map_through_importer().unwrap();
    let right = a.map().unwrap();
    assert_eq!(wrong.store_u8(5, 1).unwrap(), Touch::Value(()));
    assert_eq!(right.load_u8(5), Touch::Value(1), "until it moves they are one");
    assert_eq!(lab.report(), "");

    a.work(Work::Evict).unwrap();
    assert_eq!(wrong.load_u8(5).unwrap(), Touch::Value(1), "the old frame keeps what it held");
    let b = named(&client, 1, "B");
    let of_b = b.map().unwrap();
    assert_eq!(of_b.store_u8(5, 0x42), Touch::Value(()));
    assert_eq!(wrong.load_u8(5).unwrap(), Touch::Value(0x42), "B's bytes, by a load through A");
    assert_eq!(wrong.store_u8(5, 0xcc).unwrap(), Touch::Value(()));
    assert_eq!(of_b.load_u8(5), Touch::Value(0xcc), "and by a store");
    assert_eq!(right.load_u8(5), Touch::Value(1));
    let kinds =
        [HazardKind::CrossBufferRead, HazardKind::CrossBufferWrite, HazardKind::UseAfterFree];
    let mut seen = lab.kinds();
    seen.sort_by_key(|kind| kind.word());
    assert_eq!(seen, kinds);
    assert!(lab.report().contains("Byte 5 was 0x42 and is 0xcc"), "{}", lab.report());
}

#[test]
fn get_user_pages_is_as_the_rules_say() {
    if !moves() {
        return;
    }
    let lab = Lab::new("system");
    let a = named(&lab.client("app"), 1, "A");
    let pinned = a.map().unwrap().get_user_pages(0);
    assert_eq!(pinned.unwrap_err().errno(), Errno::FAULT, "VM_PFNMAP");

    let page = "mmap=mixedmap-insert-page";
    for (rules, busy, kinds) in [
        ("on-foreign-pin=refuse", true, &[][..]),
        ("on-foreign-pin=ignore", false, &[HazardKind::CrossBufferWrite][..]),
    ] {
        let lab = Lab::new(&format!("system,{page},{rules}"));
        let client = lab.client("app");
        let a = named(&client, 1, "A");
        let mapping = a.map().unwrap();
        let pin = mapping.get_user_pages(0).unwrap();
        let moved = a.work(Work::Evict);
        assert_eq!(moved.is_err_and(|error| error.errno() == Errno::BUSY), busy, "{rules}");
        let b = named(&client, 1, "B");
        pin.dma_write(8, &[9]).unwrap();
        assert_eq!(lab.kinds(), kinds, "{rules}");
        let in_b = b.map().unwrap().load_u8(8).value().unwrap();
        assert_eq!(in_b == 9, !busy, "{rules}");
        drop(pin);
        a.work(Work::Evict).unwrap();
    }
}

#[test]
fn an_address_that_was_never_told_is_an_iommu_fault() {
    if !moves() {
        return;
    }
    let lab = Lab::new("system");
    let client = lab.client("app");
    let (a, b) = (named(&client, 1, "A"), named(&client, 1, "B"));
    let device = a.attach("npu", Importer::pinning()).unwrap();
    let other = b.attach("npu", Importer::pinning()).unwrap();
    let table = other.map(&b.lock().unwrap()).unwrap();
    let error = device.dma_write(table.addr(0), &[1]).unwrap_err();
    assert_eq!(error.errno(), Errno::FAULT);
    assert_eq!(lab.kinds(), [HazardKind::IommuFault]);
    let wrong_lock = device.map(&b.lock().unwrap()).unwrap_err();
    assert_eq!(wrong_lock.errno(), Errno::INVAL);
}
