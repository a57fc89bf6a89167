//! The machines that a guest may be: which kernel, on what hardware.

use driftheap::model::{Bus, GupFast, HostRules, Unshare};

/// A kernel, and how it is booted.
#[derive(Debug, Clone, Copy)]
pub(super) struct Machine {
    /// As `tools/vm/run --flavour` names its kernel.
    pub(super) flavour: &'static str,
    /// What else stands on its command line.
    pub(super) append: &'static str,
    /// What qemu is told.
    pub(super) qemu: &'static [&'static str],
    /// What it is called beside its release.
    pub(super) what: &'static str,
    /// Whether it may have a rule of a host that the first machine has not.
    pub(super) may_have: fn(&HostRules) -> bool,
}

/// The first is asked everything, the others what those before them could not answer.
pub(super) const MACHINES: [Machine; 3] = [
    // All that a device maps bounces; the module alone maps anything.
    Machine {
        flavour: "cloud",
        append: "swiotlb=1024,force",
        qemu: &[],
        what: "",
        may_have: |_| true,
    },
    Machine {
        flavour: "6.1",
        append: "swiotlb=1024,force",
        qemu: &[],
        what: "",
        may_have: |host| host.longterm_unshare != Unshare::Yes || host.gup_fast == GupFast::Any,
    },
    // A device that does DMA by itself; what is at an address is the IOMMU's affair.
    Machine {
        flavour: "cloud",
        append: "intel_iommu=on iommu.strict=1",
        qemu: &["-M", "q35", "-device", "intel-iommu", "-device", "edu,dma_mask=0xffffffff"],
        what: " with a device behind an IOMMU",
        may_have: |host| host.bus == Bus::Iommu,
    },
];
