/* An importer that ignores move_notify, and the same importer right.
 *
 *   driftheap serve --socket /tmp/heap.sock &
 *   importer /tmp/heap.sock wrong    writes into a buffer that is not its own
 *   importer /tmp/heap.sock right    does not
 *
 * Exit status: 0 clean, 1 corrupted, 2 could not try.
 */
#include "driftheap.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void check(int ok, const char *what)
{
    if (!ok) {
        fprintf(stderr, "%s: %s\n", what, dh_error());
        exit(2);
    }
}

/* A camera's driver: one attachment, and whether its addresses are still good. */
struct camera {
    dh_attachment *attachment;
    uint64_t addr;
    volatile int stale;
};

static void move_notify(void *data)
{
    struct camera *camera = data;
    camera->stale = 1;
}

static void capture(struct camera *camera, int right)
{
    unsigned char frame[64];
    uint64_t fence;

    memset(frame, 0xcc, sizeof(frame));
    check(dh_lock(camera->attachment) == 0, "lock");
    if (camera->stale && right) {
        /* The buffer has moved: the old addresses are somebody else's by now. */
        camera->stale = 0;
        check(dh_unmap_attachment(camera->attachment) == 0, "unmap");
        check(dh_map_attachment(camera->attachment, &camera->addr, 1) == 0, "map");
    }
    check(dh_submit(camera->attachment, DH_USAGE_WRITE, &fence) == 0, "submit");
    check(dh_unlock(camera->attachment) == 0, "unlock");
    check(dh_dma_write(camera->attachment, camera->addr + 16, frame, sizeof(frame)) == 0, "dma");
    check(dh_signal(camera->attachment, fence) == 0, "signal");
}

int main(int argc, char **argv)
{
    unsigned char before = 0x42, after = 0;
    struct camera camera = {0};
    dh_buffer *a, *b;
    dh_mapping *of_b;
    dh_heap *heap;
    char *report;

    if (argc != 3) {
        fprintf(stderr, "usage: importer SOCKET right|wrong\n");
        return 2;
    }
    check((heap = dh_open(argv[1], "importer")) != NULL, "open");
    check((a = dh_alloc(heap, "system", DH_PAGE_SIZE)) != NULL, "alloc A");
    check(dh_set_name(a, "A") == 0, "name");
    camera.attachment = dh_attach(a, "camera", move_notify, &camera);
    check(camera.attachment != NULL, "attach");
    check(dh_lock(camera.attachment) == 0, "lock");
    check(dh_map_attachment(camera.attachment, &camera.addr, 1) == 0, "map");
    check(dh_unlock(camera.attachment) == 0, "unlock");

    /* The exporter needs room: A moves, and B gets the frame that it leaves. */
    check(dh_make(a, DH_MOVE_TO_SYSTEM) == 0, "move");
    check((b = dh_alloc(heap, "system", DH_PAGE_SIZE)) != NULL, "alloc B");
    check(dh_set_name(b, "B") == 0, "name");
    check((of_b = dh_map(b)) != NULL, "map B");
    check(dh_store(of_b, 16, &before, 1) == 0, "store");

    capture(&camera, strcmp(argv[2], "right") == 0);

    check(dh_load(of_b, 16, &after, 1) == 0, "load");
    check((report = dh_findings(heap)) != NULL, "findings");
    if (after != before)
        printf("byte 16 of B was 0x%02x and is 0x%02x\n%s", before, after, report);
    else
        printf("B is as it was\n%s", report);
    dh_text_free(report);
    dh_unmap(of_b);
    dh_detach(camera.attachment);
    dh_buffer_free(a);
    dh_buffer_free(b);
    dh_close(heap);
    return after != before;
}
