/* driftheap: the client library for C.
 *
 * A program that uses the buffers of `driftheap serve --socket PATH`, which move. The functions are
 * a driver's: dma_buf_dynamic_attach, dma_resv_lock, dma_buf_map_attachment, dma_resv_add_fence.
 *
 * A function that returns int returns 0 or a negative errno. One that returns a pointer returns
 * NULL and sets errno. dh_error() tells the last failure of the calling thread in words. Handles
 * may be used from any thread; each is freed once, by the function named with it, and an object may
 * be freed before or after those made from it.
 *
 * Built with the library's examples: target/debug/examples/libdriftheap_client.so. For static programs:
 * cargo rustc --example driftheap_client --crate-type staticlib.
 */
#ifndef DRIFTHEAP_H
#define DRIFTHEAP_H

#include <stddef.h>
#include <stdint.h>
#include <unistd.h>

#ifdef __cplusplus
extern "C" {
#endif

#define DH_PAGE_SIZE ((size_t)sysconf(_SC_PAGESIZE))

/* DMA_BUF_SYNC_* of <linux/dma-buf.h>. */
#define DH_SYNC_READ (1u << 0)
#define DH_SYNC_WRITE (2u << 0)
#define DH_SYNC_START (0u << 2)
#define DH_SYNC_END (1u << 2)

/* enum dma_resv_usage. */
enum dh_usage { DH_USAGE_KERNEL, DH_USAGE_WRITE, DH_USAGE_READ, DH_USAGE_BOOKKEEP };

/* What an exporter does to a buffer under pressure. */
enum dh_work { DH_MOVE_TO_VRAM, DH_MOVE_TO_SYSTEM, DH_EVICT, DH_PURGE, DH_REVOKE };

typedef struct dh_heap dh_heap;
typedef struct dh_buffer dh_buffer;
typedef struct dh_mapping dh_mapping;
typedef struct dh_importer_mapping dh_importer_mapping;
typedef struct dh_attachment dh_attachment;
typedef struct dh_pin dh_pin;

/* The last failure of this thread; valid until its next one. Never NULL. */
const char *dh_error(void);

/* Connects to an exporter; `name` is this program's in its reports. */
dh_heap *dh_open(const char *path, const char *name);
void dh_close(dh_heap *heap);

/* The exporter's reports so far; empty if nothing is wrong. To be freed by dh_text_free. */
char *dh_findings(dh_heap *heap);
void dh_text_free(char *text);

/* DMA_HEAP_IOCTL_ALLOC. */
dh_buffer *dh_alloc(dh_heap *heap, const char *heap_name, size_t len);
/* A buffer that came from another client as a file descriptor, which stays the caller's. */
dh_buffer *dh_import(dh_heap *heap, int fd);
void dh_buffer_free(dh_buffer *buffer);
/* Its file, owned by the buffer; to be sent to another client. */
int dh_buffer_fd(const dh_buffer *buffer);
size_t dh_buffer_pages(const dh_buffer *buffer);
/* DMA_BUF_SET_NAME. */
int dh_set_name(dh_buffer *buffer, const char *name);
/* DMA_BUF_IOCTL_SYNC. START waits for the fences that the access conflicts with. */
int dh_sync(dh_buffer *buffer, uint64_t flags);
/* Makes the exporter move, purge or revoke the buffer. EBUSY: it is pinned. */
int dh_make(dh_buffer *buffer, enum dh_work work);

/* Maps the whole buffer, trapped: no store is lost when it moves. */
dh_mapping *dh_map(dh_buffer *buffer);
void dh_unmap(dh_mapping *mapping);
/* Accesses. EFAULT: SIGBUS, the buffer was purged or revoked. EINVAL: outside the buffer. */
int dh_load(dh_mapping *mapping, size_t offset, void *into, size_t len);
int dh_store(dh_mapping *mapping, size_t offset, const void *from, size_t len);

/* Maps it through the importer's own file: a mapping that the exporter's zap does not reach. The
 * hazard on purpose. Byte accesses. */
dh_importer_mapping *dh_map_through_importer(dh_buffer *buffer);
void dh_importer_unmap(dh_importer_mapping *mapping);
int dh_importer_load(dh_importer_mapping *mapping, size_t offset, uint8_t *into);
int dh_importer_store(dh_importer_mapping *mapping, size_t offset, uint8_t value);

/* dma_buf_dynamic_attach; with move_notify NULL dma_buf_attach. The callback runs on the library's
 * thread while the exporter holds the reservation lock: it notes that the addresses are invalid,
 * and returns within a second. It must not take the lock. */
dh_attachment *dh_attach(dh_buffer *buffer, const char *device, void (*move_notify)(void *data),
                         void *data);
void dh_detach(dh_attachment *attachment);
/* dma_resv_lock and dma_resv_unlock of the attachment's buffer. */
int dh_lock(dh_attachment *attachment);
int dh_unlock(dh_attachment *attachment);
/* dma_buf_map_attachment, under the lock: the bus address of each page. EINVAL: `pages` is not the
 * buffer's, or the lock is not held. ENODEV: purged or revoked. */
int dh_map_attachment(dh_attachment *attachment, uint64_t *addrs, size_t pages);
int dh_unmap_attachment(dh_attachment *attachment);
/* dma_buf_pin and dma_buf_unpin. */
int dh_dma_buf_pin(dh_attachment *attachment);
int dh_dma_buf_unpin(dh_attachment *attachment);
/* dma_resv_add_fence, under the lock. */
int dh_submit(dh_attachment *attachment, enum dh_usage usage, uint64_t *fence);
/* dma_fence_signal. */
int dh_signal(dh_attachment *attachment, uint64_t fence);
/* The device accesses memory within one page. EFAULT: it was never told this address. */
int dh_dma_write(dh_attachment *attachment, uint64_t addr, const void *from, size_t len);
int dh_dma_read(dh_attachment *attachment, uint64_t addr, void *into, size_t len);

/* pin_user_pages of one page. EFAULT where the exporter maps with VM_PFNMAP. */
dh_pin *dh_get_user_page(dh_mapping *mapping, size_t page);
void dh_unpin(dh_pin *pin);
int dh_pin_write(dh_pin *pin, size_t offset, const void *from, size_t len);
int dh_pin_read(dh_pin *pin, size_t offset, void *into, size_t len);

#ifdef __cplusplus
}
#endif
#endif
