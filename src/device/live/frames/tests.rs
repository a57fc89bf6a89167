//! Every order of steps, and what each access lands in.

use super::*;

const A: BufferId = BufferId(1);
const B: BufferId = BufferId(2);
const MOVE: Operation = Operation::Move(Placement::System);

fn page(buffer: BufferId, page: usize) -> PageOf {
    PageOf { buffer, page }
}

fn table() -> Frames {
    let mut frames = Frames::new(4, 4);
    frames.alloc(A, 2, Placement::Vram, Recycle::Pool).unwrap();
    frames
}

fn moved(frames: &mut Frames) {
    frames.reserve(A, Placement::System).unwrap();
    frames.rebind(A);
    assert_eq!(frames.free(A, MOVE), Given::default());
}

#[test]
fn the_next_owner_gets_the_frame_that_a_move_left() {
    let mut frames = table();
    let (stale, _) = frames.tell(A).unwrap()[1].split().unwrap();
    assert_eq!(frames.landing(stale, page(A, 1)), Some(Landing::Current));
    moved(&mut frames);
    assert_eq!(frames.landing(stale, page(A, 1)), Some(Landing::Nobody));
    frames.alloc(B, 1, Placement::Vram, Recycle::Pool).unwrap();
    assert_eq!(frames.landing(stale, page(A, 1)), Some(Landing::Other));
    assert_eq!(frames.bytes(stale), Some(Bytes::Buffer(page(B, 0))));
    assert_eq!(frames.placement(A), Some(Placement::System));
}

#[test]
fn between_rebind_and_free_the_old_frame_has_bytes_of_its_own() {
    let mut frames = table();
    let (old, _) = frames.tell(A).unwrap()[0].split().unwrap();
    frames.reserve(A, Placement::System).unwrap();
    assert_eq!(frames.landing(old, page(A, 0)), Some(Landing::Current));
    assert_eq!(frames.rebind(A).len(), 2);
    assert_eq!(frames.landing(old, page(A, 0)), Some(Landing::Old));
    frames.free(A, MOVE);
    assert_eq!(frames.landing(old, page(A, 0)), Some(Landing::Nobody));
}

#[test]
fn frames_that_nobody_knows_need_no_copy() {
    let mut frames = table();
    frames.reserve(A, Placement::System).unwrap();
    assert_eq!(frames.leave(A, false), []);
}

#[test]
fn limits_hold_and_an_abandoned_move_gives_its_frames_back() {
    let mut frames = table();
    let error = frames.alloc(B, 3, Placement::Vram, Recycle::Pool).unwrap_err();
    assert_eq!(error.to_string(), "no 3 free frames in vram: it has 4 (ENOMEM)");
    frames.reserve(A, Placement::Vram).unwrap();
    assert!(frames.alloc(B, 1, Placement::Vram, Recycle::Pool).is_err());
    frames.abandon(A);
    frames.alloc(B, 2, Placement::Vram, Recycle::Pool).unwrap();
    assert!(frames.landing(FrameNo(99), page(A, 0)).is_none());
    assert_eq!(BusAddr(0x1000).split(), None);
}

#[test]
fn a_pin_keeps_a_frame_from_the_allocator_and_not_from_a_pool() {
    for (recycle, after) in [(Recycle::Pool, Landing::Nobody), (Recycle::Allocator, Landing::Old)] {
        let mut frames = Frames::new(4, 4);
        frames.alloc(A, 1, Placement::System, recycle).unwrap();
        let frame = frames.frame(page(A, 0)).unwrap();
        frames.pin(frame);
        assert!(frames.is_pinned(A));
        frames.release(A);
        assert_eq!(frames.landing(frame, page(A, 0)), Some(after), "{recycle}");
        frames.unpin(frame);
        assert_eq!(frames.owner(frame), Some(Owner::Free));
    }
}

/// Every order of the steps, each up to twice, with another buffer that takes what is free: a
/// frame has one owner, is on the free list exactly if that is nobody, and nothing panics.
#[test]
fn no_order_of_steps_breaks_the_table() {
    const STEPS: u32 = 5;
    for order in 0..STEPS.pow(5) {
        let mut frames = Frames::new(6, 6);
        frames.alloc(A, 2, Placement::Vram, Recycle::Pool).unwrap();
        let mut rest = order;
        for _ in 0..5 {
            match rest % STEPS {
                0 => drop(frames.reserve(A, Placement::Vram)),
                1 => drop(frames.leave(A, false)),
                2 => drop(frames.rebind(A)),
                3 => drop(frames.free(A, MOVE)),
                _ => drop(frames.alloc(
                    BufferId(u64::from(rest) + 10),
                    1,
                    Placement::Vram,
                    Recycle::Pool,
                )),
            }
            rest /= STEPS;
        }
        frames.abandon(A);
        frames.release(A);
        frames.release(A);
        let free: Vec<FrameNo> = frames.free.values().flatten().copied().collect();
        for (number, frame) in (0..).map(FrameNo).zip(&frames.frames) {
            let listed = free.iter().filter(|&&other| other == number).count();
            let expect = usize::from(frame.owner == Owner::Free);
            assert_eq!(listed, expect, "{number:?} {order}: {frame:?}");
        }
    }
}

#[test]
fn what_is_freed_twice_is_told() {
    let mut frames = table();
    frames.reserve(A, Placement::System).unwrap();
    assert_eq!(frames.free(A, MOVE), Given::default());
    // Before it is rebound the page's frame is known to be free.
    assert_eq!(frames.free(A, MOVE), Given::default());
    frames.abandon(A);
    let old = frames.frame(page(A, 0)).unwrap();
    frames.alloc(B, 2, Placement::Vram, Recycle::Pool).unwrap();
    let Given { twice, .. } = frames.release(A);
    assert_eq!(twice[0], FreedTwice { frame: old, of: page(A, 0) });
    assert_eq!(twice.len(), 2);
    let owner = frames.owner(frames.frame(page(B, 0)).unwrap());
    assert_eq!(owner, Some(Owner::Page(page(B, 0))), "it stays the next owner's");
}

#[test]
fn freed_before_it_is_rebound() {
    let mut frames = table();
    frames.tell(A).unwrap();
    frames.reserve(A, Placement::System).unwrap();
    frames.free(A, MOVE);
    frames.alloc(B, 2, Placement::Vram, Recycle::Pool).unwrap();
    frames.rebind(A);
    frames.free(A, MOVE);
    assert_eq!(frames.owner(frames.frame(page(B, 0)).unwrap()), Some(Owner::Page(page(B, 0))));
}
