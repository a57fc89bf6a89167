//! Importer rules as data, beside those of exporters and of the host in [`super::rules`].

use super::rule::{RuleSpec, RuleText, RuleValues, rule, rules};
use super::rules::YesNo;

rule! {
    /// What mmap through the importer's own file does.
    ///
    /// Source: vgem thread: Christian König and Daniel Vetter on `address_space` and `vm_pgoff`.
    ImporterMmap {
        /// `dma_buf_mmap`: `vma_set_file` to the dma-buf, right offset.
        Redirect = "redirect",
        /// Forwarded without changing `vm_file`: the VMA hangs off the importer's `address_space`.
        KeepFile = "keep-file",
        /// Right file, but `vm_pgoff` no longer holds the fake offset that the zap looks for.
        WrongPgoff = "wrong-pgoff",
        /// The importer allocated backing of its own for the imported buffer (vgem before the patch).
        Shadow = "shadow",
        /// The importer's own fault handler shows the pages of its sg_table, as they were when it
        /// imported the buffer: ordinary, counted entries under its own file, which no zap of the exporter
        /// reaches (`vgem_gem_fault` and `vgem_mmap`, drivers/gpu/drm/vgem/vgem_drv.c, 5.8).
        Bypass = "bypass",
        /// The importer's device has an aperture that the CPU sees, a BAR with a GART behind it: an access
        /// goes where the importer's sg_table says, past the CPU's cache, as the device's own do. `move_notify`
        /// takes the entries away, and a fault maps the table again with the buffer reserved (`vm_fault_gtt`
        /// and `i915_gem_object_release_mmap_gtt`, drivers/gpu/drm/i915/gem/i915_gem_mman.c; "The one
        /// exception is if you have some kind of fancy gart with cpu-visible pci bar", vgem thread). Shared
        /// mappings alone.
        Aperture = "aperture",
        /// EINVAL.
        Forbid = "forbid",
    }
}

rule! {
    /// What a dynamic importer does in `move_notify`.
    ///
    /// Source: `struct dma_buf_attach_ops`, include/linux/dma-buf.h.
    MoveNotify {
        /// Stops using its sg_table for new work and maps again under the lock.
        Handled = "handled",
        /// Goes on with the addresses it has.
        Ignored = "ignored",
    }
}

rule! {
    /// What a dynamic importer's jobs do about KERNEL fences. `dma_buf_map_attachment` waits for static
    /// ones.
    ///
    /// Source: `DMA_RESV_USAGE_KERNEL`, include/linux/dma-resv.h (6.12): "Drivers *always* must wait for
    /// those fences before accessing the resource".
    KernelFence {
        /// They begin when the fences have signalled.
        Waits = "waits",
        /// They begin.
        Ignored = "ignored",
    }
}

rule! {
    /// What a userptr importer registers on the user's range.
    ///
    /// Source: \[PULL\] topic/iomem-mmap-vs-gup; `struct mmu_interval_notifier`.
    Notifier {
        /// Nothing: the pinned model of vb2.
        None = "none",
        /// An mmu notifier that invalidates and returns although the device is still busy.
        NoWait = "no-wait",
        /// An mmu notifier that invalidates and waits for the device.
        Wait = "wait",
    }
}

rule! {
    /// Whether the importer's SYNC ioctl reaches the exporter.
    ///
    /// Source: vgem thread ("many drivers don't forward the cache coherency calls").
    SyncForward {
        /// `dma_buf_begin_cpu_access` is called.
        Forwarded = "forwarded",
        /// It is not.
        Dropped = "dropped",
    }
}

rule! {
    /// A `frame_vector` whose range is part ordinary pages, part pfns.
    ///
    /// Source: \[PULL\] topic/iomem-mmap-vs-gup, Linus Torvalds on `got_ref` and `is_pfns`.
    FrameVector {
        /// The mixed case answers EFAULT.
        RefuseMixed = "refuse-mixed",
        /// Pages for one part, bare pfns for the other.
        Mixed = "mixed",
    }
}

rule! {
    /// Whether the device has page tables of its own, and caches what it translated by them.
    ///
    /// Source: CVE-2022-0330, 7938d61591d3 (drm/i915: Flush TLBs before releasing backing store, 5.17).
    ///
    /// **Differs from Linux**: every translation that was valid is taken for cached, whether the device
    /// used it or not, as hardware may prefetch it.
    DeviceTlb {
        /// It has not: the driver hands it bus addresses.
        None = "none",
        /// It has. An address that was unmapped, or mapped anew, is reached as before until the driver flushes
        /// (statement `flush_tlb`); one that is in neither is a fault.
        Cached = "cached",
    }
}

rules! {
    /// The rules of one importer.
    ImporterRules, IMPORTER_RULES {
        words {
            /// mmap through the importer.
            mmap: ImporterMmap = Redirect, "mmap";
            /// Reaction to a move.
            move_notify: MoveNotify = Handled, "move-notify";
            /// KERNEL fences.
            kernel_fence: KernelFence = Waits, "kernel-fence";
            /// Reaction to changes of the user's page tables.
            notifier: Notifier = None, "notifier";
            /// The device can't reach the memory: mapping a static attachment gives it bounce pages, and only
            /// `dma_sync_*`, which SYNC leads to, and unmapping copy (`swiotlb_map` and
            /// `swiotlb_sync_single_for_cpu`, kernel/dma/swiotlb.c, 6.12).
            bounce: YesNo = No, "bounce";
            /// The device's own TLB.
            device_tlb: DeviceTlb = None, "device-tlb";
            /// CPU access brackets.
            sync: SyncForward = Forwarded, "sync";
            /// Mixed user ranges.
            frame_vector: FrameVector = RefuseMixed, "frame-vector";
        }
        steps {}
    }
}
