//! The machines that a guest may be: which kernel, on what hardware.

use clap::ValueEnum;
use driftheap::model::{Bus, GupFast, HostRules, Unshare};

/// Which kernel is asked first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Version {
    /// Debian's 6.12, and 6.1 for what was otherwise before it
    #[value(name = "6.12")]
    Stable,
    /// The newest of Debian's backports
    Newest,
    /// The drivers of 6.12 that export buffers, instead of the laboratory's own exporter
    Drivers,
}

impl Version {
    /// The machines, the first of which is asked everything, the others what those before them could
    /// not answer.
    pub(super) const fn machines(self) -> &'static [Machine] {
        match self {
            Self::Stable => &STABLE,
            Self::Newest => &NEWEST,
            Self::Drivers => &DRIVERS,
        }
    }

    /// The option that asks this one.
    pub(super) const fn option(self) -> &'static str {
        match self {
            Self::Stable => " --kernel",
            Self::Newest => " --kernel=newest",
            Self::Drivers => " --kernel=drivers",
        }
    }
}

/// All that a device maps bounces.
const BOUNCING: &str = "swiotlb=1024,force";
/// A device that does DMA by itself; what is at an address is the IOMMU's affair.
const WITH_IOMMU: &str = "intel_iommu=on iommu.strict=1";
const IOMMU: [&str; 6] =
    ["-M", "q35", "-device", "intel-iommu", "-device", "edu,dma_mask=0xffffffff"];
const IOMMU_WHAT: &str = " with a device behind an IOMMU";

/// Memory without struct page, for video memory that has none.
const WITH_BAR: [&str; 4] = [
    "-object",
    "memory-backend-ram,id=bar,size=1M,share=on",
    "-device",
    "ivshmem-plain,memdev=bar",
];

/// A kernel, and how it is booted.
#[derive(Debug, Clone, Copy)]
pub(super) struct Machine {
    /// As `tools/vm/run --flavour` names its kernel.
    pub(super) flavour: &'static str,
    /// What else stands on its command line.
    pub(super) append: &'static str,
    /// What qemu is told.
    pub(super) qemu: &'static [&'static str],
    /// Which of its modules are loaded.
    pub(super) modules: &'static [&'static str],
    /// What it is called beside its release.
    pub(super) what: &'static str,
    /// Whether it may have a rule of a host that the first machine has not.
    pub(super) may_have: fn(&HostRules) -> bool,
}

const STABLE: [Machine; 3] = [
    Machine {
        flavour: "cloud",
        append: BOUNCING,
        qemu: &WITH_BAR,
        modules: &[],
        what: "",
        may_have: |_| true,
    },
    Machine {
        flavour: "6.1",
        append: BOUNCING,
        qemu: &[],
        modules: &[],
        what: "",
        may_have: |host| host.longterm_unshare != Unshare::Yes || host.gup_fast == GupFast::Any,
    },
    Machine {
        flavour: "cloud",
        append: WITH_IOMMU,
        qemu: &IOMMU,
        modules: &[],
        what: IOMMU_WHAT,
        may_have: |host| host.bus == Bus::Iommu,
    },
];

/// Where nothing bounces, and the usual kernel, which has vgem.
const DRIVERS: [Machine; 1] = [Machine {
    flavour: "full",
    append: "",
    qemu: &[],
    modules: &["vgem"],
    what: "",
    may_have: |_| true,
}];

const NEWEST: [Machine; 2] = [
    Machine {
        flavour: "backports",
        append: BOUNCING,
        qemu: &WITH_BAR,
        modules: &[],
        what: "",
        may_have: |_| true,
    },
    Machine {
        flavour: "backports",
        append: WITH_IOMMU,
        qemu: &IOMMU,
        modules: &[],
        what: IOMMU_WHAT,
        may_have: |host| host.bus == Bus::Iommu,
    },
];
