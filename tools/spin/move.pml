/*
 * A litmus test of a moving dma-buf, for SPIN: a yardstick for the explorer's speed.
 *
 * P0 application  maps buffer A page by page, stores to it, pins it, loads from it
 * P1 device       DMA through the pins: translate and transfer are separate actions
 * P2 exporter     moves A from vram to system (lock, notify, zap, wait, copy, rebind, free,
 *                 unlock), then allocates B, which takes the frames that A left
 *
 * The same granularity as the explorer's own model: every step of the move, each half of a DMA,
 * every fault, load, store and pin is one action, and so is every step for every page.
 *
 * -DN=pages of each buffer (default 2), -DPFNMAP=1: the exporter maps with remap_pfn_range, so that
 * get_user_pages fails with EFAULT; 0 (default): vm_insert_page, and a pin outlives the move.
 * Verified without properties: what is asked is how many states there are, and how fast.
 */

#ifndef N
#define N 2
#endif
#ifndef PFNMAP
#define PFNMAP 0
#endif

#define FRAMES   (3 * N)   /* vram 0 .. 2N-1, system 2N .. 3N-1 */
#define SYSTEM   (2 * N)
#define NONE     255
#define FREE     0
#define A        1
#define B        2

/* Exporter: frames. */
byte owner[FRAMES];        /* FREE, A or B */
byte owner_page[FRAMES];
byte value[FRAMES];
byte pins[FRAMES];         /* page references taken by get_user_pages */

/* dma-buf: where the pages are; the reservation lock. */
byte frame_a[N];
byte frame_b[N];
bit resv_locked;
bit moved_notified;

/* CPU side: the page table of the application, and what it pinned. */
byte pte[N];
byte pin[N];
byte submitted;            /* pins handed to the device so far */

/* The ghost: what each page of A should hold, and the hazards seen. */
byte should_a[N];
byte should_b[N];
bit cross_buffer_write;
bit stale_read;
bit lost_write;

proctype application() {
    byte page, got;

    /* store v[page] = 1 + page, faulting as often as the page is zapped under it */
    page = 0;
    do
    :: page < N ->
        do
        :: d_step { pte[page] != NONE ->
                    value[pte[page]] = 1 + page;
                    if :: owner[pte[page]] != A -> cross_buffer_write = 1 :: else fi;
                    should_a[page] = 1 + page }
           break
        :: atomic { pte[page] == NONE && !resv_locked -> pte[page] = frame_a[page] }
        od;
        page++
    :: else -> break
    od;

    /* gup p = v[page] write longterm: the slow path faults, then takes a reference */
    page = 0;
    do
    :: page < N ->
        if
        :: PFNMAP -> skip                      /* EFAULT: VM_PFNMAP has no struct page */
        :: !PFNMAP ->
            do
            :: d_step { pte[page] != NONE ->
                        pin[page] = pte[page];
                        pins[pte[page]]++ }
               break
            :: atomic { pte[page] == NONE && !resv_locked -> pte[page] = frame_a[page] }
            od
        fi;
        submitted++;                           /* the device may begin with this page */
        page++
    :: else -> break
    od;

    /* load r = v[page] */
    page = 0;
    do
    :: page < N ->
        do
        :: d_step { pte[page] != NONE ->
                    got = value[pte[page]];
                    if :: got != should_a[page] -> stale_read = 1 :: else fi;
                    got = 0 }
           break
        :: atomic { pte[page] == NONE && !resv_locked -> pte[page] = frame_a[page] }
        od;
        page++
    :: else -> break
    od
}

proctype device() {
    byte page, bus;

    /* dma_write p[page] = 7: translate, then transfer */
    page = 0;
    do
    :: page < N ->
        atomic { submitted > page -> bus = pin[page] }
        if
        :: bus == NONE -> skip                 /* the pin had failed */
        :: else ->
            d_step { value[bus] = 7;
                     if
                     :: owner[bus] == A && frame_a[owner_page[bus]] == bus ->
                         should_a[owner_page[bus]] = 7
                     :: owner[bus] == B -> cross_buffer_write = 1
                     :: else -> lost_write = 1
                     fi;
                     bus = 0 }
        fi;
        page++
    :: else -> break
    od;

    /* dma_read r = p[page]: translate, then transfer */
    page = 0;
    do
    :: page < N ->
        bus = pin[page];
        if
        :: bus == NONE -> skip
        :: else ->
            d_step { if :: value[bus] != should_a[page] -> stale_read = 1 :: else fi; bus = 0 }
        fi;
        page++
    :: else -> break
    od
}

proctype exporter() {
    byte page, old[N];

    /* move A -> system */
    atomic { !resv_locked -> resv_locked = 1 }             /* lock */
    moved_notified = 1;                                    /* notify dynamic importers */
    page = 0;
    do :: page < N -> pte[page] = NONE; page++             /* zap */
       :: else -> break od;
    skip;                                                  /* wait: no fence is pending */
    page = 0;
    do :: page < N ->                                      /* copy */
            d_step { value[SYSTEM + page] = value[frame_a[page]];
                     owner[SYSTEM + page] = A;
                     owner_page[SYSTEM + page] = page }
            page++
       :: else -> break od;
    page = 0;
    do :: page < N ->                                      /* rebind */
            d_step { old[page] = frame_a[page]; frame_a[page] = SYSTEM + page }
            page++
       :: else -> break od;
    page = 0;
    do :: page < N ->                                      /* free: pins are ignored */
            d_step { owner[old[page]] = FREE; owner_page[old[page]] = 0; old[page] = 0 }
            page++
       :: else -> break od;
    resv_locked = 0;                                       /* unlock */

    /* alloc B: the first free frames of vram, which are those that A left */
    page = 0;
    do :: page < N ->
            d_step { frame_b[page] = page;
                     assert(owner[page] == FREE);
                     owner[page] = B;
                     owner_page[page] = page;
                     value[page] = 0;
                     should_b[page] = 0 }
            page++
       :: else -> break od
}

init {
    byte page;
    d_step {
        page = 0;
        do :: page < N ->
                owner[page] = A; owner_page[page] = page; frame_a[page] = page;
                frame_b[page] = NONE; pte[page] = NONE; pin[page] = NONE; page++
           :: else -> break od;
        page = 0
    }
    atomic { run application(); run device(); run exporter() }
}
