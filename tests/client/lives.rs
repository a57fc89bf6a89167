//! Long lives and sudden deaths: moves under writers, purges, dead and stopped clients.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use driftheap::client::{Connection, Importer, Usage, Work};
use driftheap::sys::link::Link;
use driftheap::sys::touch::Touch;
use driftheap::uapi::dma_buf::{SYNC_READ, SYNC_WRITE};
use rustix::io::Errno;

use super::kit::{Lab, moves, named};

#[test]
fn no_update_is_lost_under_moves() {
    const PAGES: usize = 4;
    const MOVES: u32 = 3000;
    if !moves() {
        return;
    }
    let lab = Lab::new("system");
    let client = lab.client("writer");
    let buffer = named(&client, PAGES as u64, "A");
    let (stop, started) = (AtomicBool::new(false), AtomicU64::new(0));
    std::thread::scope(|scope| {
        let writers: Vec<_> = (0..2)
            .map(|slot| {
                let (buffer, stop, started) = (&buffer, &stop, &started);
                scope.spawn(move || {
                    let mapping = buffer.map().unwrap();
                    let span = mapping.span();
                    let mut counts = [0u64; PAGES];
                    while !stop.load(Ordering::Relaxed) {
                        for (page, count) in counts.iter_mut().enumerate() {
                            let at = page * 4096 + slot * 8;
                            assert_eq!(span.load_u64(at), Touch::Value(*count));
                            *count += 1;
                            assert_eq!(span.store_u64(at, *count), Touch::Value(()));
                        }
                        if counts[0] == 1 {
                            started.fetch_add(1, Ordering::SeqCst);
                        }
                    }
                    counts
                })
            })
            .collect();
        while started.load(Ordering::SeqCst) < 2 {
            std::thread::yield_now();
        }
        for _ in 0..MOVES {
            buffer.work(Work::Evict).unwrap();
        }
        stop.store(true, Ordering::Relaxed);
        let mapping = buffer.map().unwrap();
        for (slot, writer) in writers.into_iter().enumerate() {
            for (page, count) in writer.join().unwrap().into_iter().enumerate() {
                let seen = mapping.span().load_u64(page * 4096 + slot * 8);
                assert_eq!(seen, Touch::Value(count), "page {page} of writer {slot}");
                assert!(count > 0);
            }
        }
    });
    assert_eq!(lab.report(), "");
}

#[test]
fn a_purged_and_a_revoked_buffer_are_gone() {
    if !moves() {
        return;
    }
    for work in [Work::Purge, Work::Revoke] {
        let lab = Lab::new("system");
        let client = lab.client("app");
        let a = named(&client, 2, "A");
        let mapping = a.map().unwrap();
        assert_eq!(mapping.store_u8(4096, 1), Touch::Value(()));
        a.work(work).unwrap();
        assert!(matches!(mapping.load_u8(4096), Touch::Sigbus { .. }), "{work:?}");
        let attached = a.attach("isp", Importer::pinning());
        assert_eq!(attached.unwrap_err().errno(), Errno::NODEV, "{work:?}");
        assert_eq!(a.work(Work::Evict).unwrap_err().errno(), Errno::INVAL, "{work:?}");
        assert_eq!(lab.report(), "", "{work:?}");
        // The frames are there for somebody else.
        assert!(named(&client, 64, "B").map().is_ok());
    }
}

#[test]
fn cpu_access_waits_for_the_device() {
    if !moves() {
        return;
    }
    let lab = Lab::new("system");
    let client = lab.client("app");
    let a = named(&client, 1, "A");
    let device = a.attach("isp", Importer::dynamic(|| ())).unwrap();
    let lock = a.lock().unwrap();
    let table = device.map(&lock).unwrap();
    let fence = device.submit(&lock, Usage::Write).unwrap();
    drop(lock);
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let bracket = a.begin_cpu_access(SYNC_READ).unwrap();
            assert!(done.load(Ordering::SeqCst), "the bracket began before the fence signalled");
            let value = a.map().unwrap().load_u8(0);
            drop(bracket);
            value
        });
        device.dma_write(table.addr(0), &[7]).unwrap();
        done.store(true, Ordering::SeqCst);
        fence.signal().unwrap();
        assert_eq!(reader.join().unwrap(), Touch::Value(7));
    });
    drop(a.begin_cpu_access(SYNC_WRITE).unwrap());
    assert_eq!(a.begin_cpu_access(8).unwrap_err().errno(), Errno::INVAL);
}

#[test]
fn an_importer_that_does_not_come_back_is_dropped_and_the_others_go_on() {
    if !moves() {
        return;
    }
    let lab = Lab::new("system");
    let (bad, good) = (lab.client("stuck"), lab.client("well"));
    let a = named(&good, 1, "A");
    let told = Arc::new(AtomicU64::new(0));
    let count = Arc::clone(&told);
    let importer = Importer::dynamic(move || {
        count.fetch_add(1, Ordering::SeqCst);
    });
    let _well = a.attach("well", importer).unwrap();
    let theirs = bad.import(std::os::fd::AsFd::as_fd(&a).try_clone_to_owned().unwrap()).unwrap();
    let (hold, held) = std::sync::mpsc::channel::<()>();
    let stuck = Importer::dynamic(move || {
        // Until the test lets it go, by dropping the other end.
        let _end = held.recv();
    });
    let stuck = theirs.attach("stuck", stuck).unwrap();
    a.work(Work::Evict).unwrap();
    assert_eq!(told.load(Ordering::SeqCst), 1);
    assert_eq!(
        lab.exporter.take_log(),
        ["driftheap: client `stuck` is dropped: it did not act on an event: no message in time \
          from the process at the other end"]
    );
    assert_eq!(stuck.pin().unwrap_err().errno(), Errno::PIPE);
    drop(hold);
    a.work(Work::Evict).unwrap();
    assert_eq!(told.load(Ordering::SeqCst), 2);
}

#[test]
fn a_lock_that_is_not_released_is_taken_away() {
    if !moves() {
        return;
    }
    let lab = Lab::new("system");
    let (bad, good) = (lab.client("stuck"), lab.client("well"));
    let a = named(&good, 1, "A");
    let theirs = bad.import(std::os::fd::AsFd::as_fd(&a).try_clone_to_owned().unwrap()).unwrap();
    let lock = theirs.lock().unwrap();
    a.work(Work::Evict).unwrap();
    assert!(lab.exporter.take_log()[0].contains("held a reservation lock"));
    drop(lock);
}

#[test]
fn what_a_dead_client_had_is_given_back() {
    if !moves() {
        return;
    }
    let lab = Lab::new("system");
    let (dying, other) = (lab.client("dying"), lab.client("other"));
    let a = named(&other, 1, "A");
    let theirs = dying.import(std::os::fd::AsFd::as_fd(&a).try_clone_to_owned().unwrap()).unwrap();
    let device = theirs.attach("isp", Importer::pinning()).unwrap();
    let lock = theirs.lock().unwrap();
    let _table = device.map(&lock).unwrap();
    let fence = device.submit(&lock, Usage::Write).unwrap();
    dying.disconnect();
    // Lock, pin and fence went with the connection, and nobody was dropped by force.
    a.work(Work::Evict).unwrap();
    assert_eq!(lab.exporter.take_log(), Vec::<String>::new());
    assert_eq!(fence.signal().unwrap_err().errno(), Errno::PIPE);
}

#[test]
fn who_speaks_nonsense_is_refused() {
    if !moves() {
        return;
    }
    let lab = Lab::new("system");
    for packet in [&b"hello"[..], b"\x02\0\0\0{}", b"\x0a\0\0\0\"findings\""] {
        let link = Link::connect(&lab.path).unwrap();
        link.send(packet, &[]).unwrap();
        let mut answer = [0; 512];
        let (len, _) = link.receive(&mut answer, std::time::Duration::from_secs(10)).unwrap();
        assert!(String::from_utf8_lossy(&answer[..len]).contains("\"error\""));
    }
    let missing = Connection::open(&lab.path.with_extension("none"), "app").unwrap_err();
    assert!(missing.to_string().contains("can't connect to"), "{missing}");
    let heap = lab.client("app");
    assert_eq!(heap.alloc("cma", 4096).unwrap_err().errno(), Errno::NOENT);
    assert_eq!(heap.alloc("system", 0).unwrap_err().errno(), Errno::INVAL);
    assert_eq!(heap.alloc("system", 65 * 4096).unwrap_err().errno(), Errno::NOMEM);
}
