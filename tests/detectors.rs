//! Every hazard is seen where something is broken, and nothing is reported where nothing is.
//!
//! Each seed is one litmus text with two variants: `broken`, an exporter, importer or host with one
//! fault, in which the hazard happens in some interleaving; and `fixed`, the same without the
//! fault, in which no interleaving shows any hazard at all.

#[path = "common/lab.rs"]
mod lab;

use std::collections::BTreeSet;

use driftheap::model::HazardKind;

/// A hazard and a text that seeds it.
struct Seed {
    kind: HazardKind,
    fault: &'static str,
    text: &'static str,
}

const SEEDS: &[Seed] = &[
    Seed {
        kind: HazardKind::StaleRead,
        fault: "the importer's mmap shows backing of its own",
        text: "
importer vgem { mmap = vary(broken => shadow, fixed => redirect) }
exporter heap {}
buffer A { exporter = heap; fill = 3 }
P0 application {
    mmap v = A shared r importer vgem
    load r0 = v[0]
}",
    },
    Seed {
        kind: HazardKind::StaleRead,
        fault: "the zap looks for the mapping in another address_space, and the buffer has moved",
        text: "
importer forwarder { mmap = vary(broken => keep-file, fixed => redirect) }
exporter heap { move = [lock notify wait zap reserve copy rebind unlock] }
buffer A { exporter = heap }
P0 application {
    mmap v = A shared r importer forwarder
    load r0 = v[0]
    await moved
    mmap w = A shared rw
    store w[0] = 1
    load r1 = v[0]
}
P1 exporter heap { moved: move A -> system }",
    },
    Seed {
        kind: HazardKind::LostWrite,
        fault: "the exporter copies before it zaps",
        text: "
exporter heap {
    move = vary(
        broken => [lock notify wait reserve copy zap rebind free unlock],
        fixed => [lock notify wait zap reserve copy rebind free unlock])
}
buffer A { exporter = heap }
P0 application {
    mmap v = A shared rw
    store v[0] = 1
    store v[0] = 2
}
P1 exporter heap { move A -> system }",
    },
    Seed {
        kind: HazardKind::CrossBufferRead,
        fault: "the exporter moves a buffer that a static importer has pinned",
        text: "
exporter heap { on-dma-buf-pin = vary(broken => ignore, fixed => honour) }
importer cam {}
buffer A { exporter = heap }
buffer B { exporter = heap; state = unallocated }
P0 device importer cam {
    attach t = A static
    map s = t
    dma_read r0 = s[0]
}
P1 exporter heap {
    move A -> system
    alloc B
}",
    },
    Seed {
        kind: HazardKind::CrossBufferWrite,
        fault: "the exporter inserts pages that get_user_pages takes",
        text: "
exporter heap { mmap = vary(broken => mixedmap-insert-page, fixed => pfnmap) }
buffer A { exporter = heap }
buffer B { exporter = heap; state = unallocated }
P0 application {
    mmap v = A shared rw
    store v[0] = 1
    gup p = v[0] write longterm
}
P1 device { dma_write p[0] = 7 }
P2 exporter heap {
    move A -> system
    alloc B
}",
    },
    Seed {
        kind: HazardKind::UseAfterFree,
        fault: "the purge does not zap",
        text: "
exporter heap {
    purge = vary(
        broken => [lock notify wait mark free unlock],
        fixed => [lock notify wait zap mark free unlock])
}
buffer A { exporter = heap }
P0 application {
    mmap v = A shared rw
    store v[0] = 1
    store v[0] = 2
}
P1 exporter heap { purge A }",
    },
    Seed {
        kind: HazardKind::DivergedCow,
        fault: "the exporter lets MAP_PRIVATE through",
        text: "
exporter heap { mmap = mixedmap-insert-pfn; cow = vary(broken => allow, fixed => reject) }
importer cam {}
buffer A { exporter = heap }
P0 application {
    mmap v = A private rw
    store v[0] = 5
}
P1 device importer cam {
    attach t = A static
    map s = t
    dma_read r0 = s[0]
}",
    },
    Seed {
        kind: HazardKind::Incoherent,
        fault: "the importer does not forward the application's SYNC",
        text: "
exporter heap { coherency = incoherent }
importer rockchip { sync = vary(broken => dropped, fixed => forwarded) }
buffer A { exporter = heap }
P0 application {
    mmap v = A shared rw
    sync start A write importer rockchip
    store v[0] = 5
    done: sync end A write importer rockchip
}
P1 device importer rockchip {
    attach t = A static
    map s = t
    await done
    dma_read r0 = s[0]
}",
    },
    Seed {
        kind: HazardKind::Incoherent,
        fault: "the move copies what the CPU's cache has not written back",
        text: "
exporter heap {
    coherency = incoherent
    move = vary(
        broken => [lock notify wait zap reserve copy rebind free unlock],
        fixed => [lock notify wait zap reserve flush copy rebind free unlock])
}
buffer A { exporter = heap }
P0 application {
    mmap v = A shared rw
    store v[0] = 5
}
P1 exporter heap { move A -> system }",
    },
    Seed {
        kind: HazardKind::PinBlocksMove,
        fault: "get_user_pages pins in the contiguous area without migrating first",
        text: "
host { longterm-migrate = vary(broken => no, fixed => yes) }
exporter shmem { mmap = shmem; recycle = allocator }
exporter cma-heap {}
memory { cma = 1; system = 2; vram = 0 }
buffer A { exporter = shmem; placement = cma }
buffer B { exporter = cma-heap; placement = cma; state = unallocated }
P0 application {
    mmap v = A shared rw
    gup p = v[0] write longterm
}
P1 exporter cma-heap { alloc B }",
    },
    Seed {
        kind: HazardKind::OrphanPin,
        fault: "get_user_pages takes pages that the exporter gives back to the allocator",
        text: "
exporter shmem {
    mmap = vary(broken => mixedmap-insert-page, fixed => pfnmap)
    recycle = allocator
}
buffer A { exporter = shmem; placement = system }
P0 application {
    mmap v = A shared rw
    gup p = v[0] write longterm
}
P1 exporter shmem { purge A }",
    },
    Seed {
        kind: HazardKind::OrphanMapping,
        fault: "the purge gives pages back that a page table entry still holds",
        text: "
exporter shmem {
    mmap = mixedmap-insert-page
    recycle = allocator
    purge = [lock mark zap free unlock]
    zap = vary(broken => wrong-pgoff, fixed => address-space)
}
buffer A { exporter = shmem; placement = system }
P0 application {
    mmap v = A shared rw
    store v[0] = 1
}
P1 exporter shmem { purge A }",
    },
    Seed {
        kind: HazardKind::UnfencedAccess,
        fault: "the dynamic importer starts its DMA without a fence",
        text: "
exporter heap {}
importer codec {}
buffer A { exporter = heap }
P0 device importer codec {
    attach t = A dynamic
    map s = t
    vary(broken => {}, fixed => { submit f = s write })
    dma_write s[0] = 7
}",
    },
    Seed {
        kind: HazardKind::KernelBug,
        fault: "the exporter lets MAP_PRIVATE through with VM_PFNMAP",
        text: "
exporter heap { cow = vary(broken => allow, fixed => reject) }
buffer A { exporter = heap }
P0 application {
    mmap v = A private rw
    load r0 = v[0]
}",
    },
    Seed {
        kind: HazardKind::IommuFault,
        fault: "the importer gives its device a CPU pfn as an address",
        text: "
host { bus = iommu }
exporter heap {}
importer vb2 {}
buffer A { exporter = heap }
P0 application {
    mmap v = A shared rw
    store v[0] = 1
    vary way(broken => { follow_pfn q = v[0] }, fixed => {})
}
P1 device importer vb2 {
    vary way(broken => { dma_write q[0] = 7 }, fixed => {
        attach t = A static
        map s = t
        dma_write s[0] = 7
    })
}",
    },
    Seed {
        kind: HazardKind::IommuFault,
        fault: "the importer unmaps while its device is still to write",
        text: "
host { bus = iommu }
exporter heap {}
importer cam {}
buffer A { exporter = heap }
P0 device importer cam {
    attach t = A static
    map s = t
    vary(
        broken => {
            unmap s
            dma_write s[0] = 7
        },
        fixed => {
            dma_write s[0] = 7
            unmap s
        })
}",
    },
    Seed {
        kind: HazardKind::Deadlock,
        fault: "the importer takes the reservation lock before it signals",
        text: "
exporter heap {}
importer codec {}
buffer A { exporter = heap }
P0 device importer codec {
    attach t = A dynamic
    map s = t
    submit f = s write
    vary(
        broken => {
            dma_buf_pin t
            signal f
        },
        fixed => {
            signal f
            dma_buf_pin t
        })
}
P1 exporter heap { move A -> system }",
    },
    Seed {
        kind: HazardKind::WriteThroughReadPin,
        fault: "the driver pins for reading, and its device writes",
        text: "
exporter file { mmap = shmem }
buffer A { exporter = file; placement = system }
P0 application {
    mmap v = A shared rw
    gup p = v[0] vary(broken => {}, fixed => write)
}
P1 device { dma_write p[0] = 7 }",
    },
    Seed {
        kind: HazardKind::MissedFence,
        fault: "the writer's fence is in the BOOKKEEP slot, where implicit sync does not look",
        text: "
exporter gpu { mmap = pfnmap }
importer xe {}
buffer A { exporter = gpu }
P0 device importer xe {
    attach t = A dynamic
    map s = t
    busy: submit f = s vary(broken => bookkeep, fixed => write)
    dma_write s[0] = 7
    signal f
}
P1 application {
    mmap v = A shared r
    await busy
    sync start A read
    load r0 = v[0]
    sync end A read
}",
    },
];

fn check(seed: &Seed) {
    let text = format!("DMABUF seed\n{}\nexists (hazard any)\n", seed.text);
    let hazards = |variant: &str| {
        let found = lab::explore(&lab::variant(&text, variant));
        found
            .outcomes
            .keys()
            .flat_map(driftheap::question::scenario::Outcome::hazard_kinds)
            .collect()
    };
    let broken: BTreeSet<HazardKind> = hazards("broken");
    assert!(broken.contains(&seed.kind), "{}: {} is not seen in {text}", seed.fault, seed.kind);
    let fixed: BTreeSet<HazardKind> = hazards("fixed");
    assert!(fixed.is_empty(), "{} (fixed): {fixed:?} in {text}", seed.fault);
}

#[test]
fn every_detector_fires_on_its_seed_and_is_silent_on_the_twin() {
    SEEDS.iter().for_each(check);
}

#[test]
fn every_hazard_has_a_seed() {
    let seeded: BTreeSet<_> = SEEDS.iter().map(|seed| seed.kind).collect();
    assert_eq!(seeded, HazardKind::ALL.iter().copied().collect());
}
