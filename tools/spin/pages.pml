/*
 * The pages question, for SPIN: two processes and a device write N pages each while the exporter moves
 * them. The same granularity as tools/bench/src/pages.rs asks of driftheap: a fault and the store behind
 * it, each half of a DMA, every step of the move and every page's copy are one action each.
 *
 * -DN=pages (default 4), -DLATE=1: the move waits for the device only after it has copied.
 * Verified without properties: what is asked is how many states there are, and how long it takes.
 */

#ifndef N
#define N 4
#endif
#ifndef LATE
#define LATE 0
#endif

#define SYSTEM N           /* frames: vram 0 .. N-1, system N .. 2N-1 */
#define NONE   255

byte frame[N];             /* where each page of the buffer is */
byte next[N];              /* where the move puts it */
byte value[2 * N];
byte ghost[N];             /* what each page should hold */
byte pte[2 * N];           /* the page tables of both writers */
byte sg[N];                /* the device's addresses */
bit is_free[2 * N];
bit locked, is_mapped, invalid, fence;
bit lost_write;

inline check_write(where, page, what) {
    value[where] = what;
    ghost[page] = what;
    if
    :: where != frame[page] -> lost_write = 1
    :: else
    fi
}

proctype writer(byte who; byte first) {
    byte page;
    atomic { page = 0 };    /* mmap */
    do
    :: atomic { page < N && pte[who * N + page] == NONE && !locked ->
           pte[who * N + page] = frame[page] }
    :: d_step { page < N && pte[who * N + page] != NONE ->
           check_write(pte[who * N + page], page, first + page); page++ }
    :: atomic { page == N -> break }
    od
}

proctype device() {
    byte page, at;
    atomic { page = 0 };    /* attach */
    d_step { !locked ->     /* map */
        page = 0;
        do
        :: page < N -> sg[page] = frame[page]; page++
        :: else -> break
        od;
        page = 0;
        is_mapped = 1 };
    d_step { !locked ->     /* validate: map again what move_notify declared invalid */
        if
        :: invalid ->
            page = 0;
            do
            :: page < N -> sg[page] = frame[page]; page++
            :: else -> break
            od;
            page = 0;
            invalid = 0
        :: else
        fi;
        locked = 1 };
    d_step { fence = 1; locked = 0 };
    do
    :: page < N ->
        atomic { at = sg[page] };
        d_step { check_write(at, page, 7); page++; at = 0 }
    :: page == N -> break
    od;
    fence = 0
}

inline wait_for_fence() { !fence }

proctype exporter() {
    byte page, old;
    d_step { !locked -> locked = 1 };
    invalid = is_mapped;    /* move_notify */
#if !LATE
    wait_for_fence();
#endif
    d_step {                /* zap */
        page = 0;
        do
        :: page < 2 * N -> pte[page] = NONE; page++
        :: else -> break
        od;
        page = 0 };
    skip;                   /* check-pins */
    d_step {                /* reserve */
        do
        :: page < N -> next[page] = SYSTEM + page; is_free[SYSTEM + page] = 0; page++
        :: else -> break
        od;
        page = 0 };
    do
    :: d_step { page < N -> value[next[page]] = value[frame[page]]; page++ }
    :: page == N -> break
    od;
    atomic {                /* rebind */
        page = 0;
        do
        :: page < N ->
            old = frame[page];
            frame[page] = next[page];
            next[page] = old;
            if
            :: value[frame[page]] != ghost[page] -> lost_write = 1
            :: else
            fi;
            page++
        :: else -> break
        od;
        page = 0; old = 0 };
#if LATE
    wait_for_fence();
#endif
    d_step {                /* free */
        do
        :: page < N -> is_free[next[page]] = 1; next[page] = NONE; page++
        :: else -> break
        od;
        page = 0 };
    locked = 0
}

init {
    byte page;
    d_step {
        do
        :: page < N ->
            frame[page] = page;
            next[page] = NONE;
            sg[page] = NONE;
            pte[page] = NONE;
            pte[N + page] = NONE;
            is_free[SYSTEM + page] = 1;
            page++
        :: else -> break
        od;
        page = 0 };
    atomic { run writer(0, 1); run writer(1, 11); run device(); run exporter() }
}
