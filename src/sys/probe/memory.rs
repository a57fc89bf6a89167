//! Probes of memory: traps, secret pages, huge pages, limits.

use rustix::process::Resource;

use super::super::arena::{Arena, HUGE_BYTES, PageKind};
use super::super::map::{Prot, Sharing, Window};
use super::super::page::{FrameIndex, page_bytes};
use super::super::pin::VmsplicePin;
use super::super::secret::SecretArena;
use super::super::touch::Touch;
use super::super::uffd::{Features, Fill, Modes, Uffd, Via};
use super::{Lacks, Probe, lacks, setting};

/// Pages below one entry of the second level of page tables: an entry has eight bytes, and a table is
/// a page. 2 MiB where a page is 4 KiB.
fn huge_pages() -> usize {
    page_bytes() / 8
}

/// Traps of user-mode accesses to shared memory, with each operation that the executor uses.
#[must_use]
pub fn userfaultfd() -> Probe {
    Probe::new(
        "userfaultfd",
        try_userfaultfd(),
        "every test of a CPU mapping: faults, zaps, moves and revocation",
        "Linux 5.11 or later with CONFIG_USERFAULTFD (6.6 for POISON); in a container, a seccomp \
         profile that allows userfaultfd (podman, docker: --security-opt seccomp=unconfined)",
    )
}

fn try_userfaultfd() -> Result<String, Lacks> {
    let needed = Features::MISSING_SHMEM
        | Features::MINOR_SHMEM
        | Features::WP_HUGETLBFS_SHMEM
        | Features::POISON;
    let supported = Uffd::supported(Via::UserModeOnly)?;
    let names: Vec<_> = supported.iter_names().map(|(name, _)| name).collect();
    let names = names.join(" ");
    let missing = needed.difference(supported);
    if !missing.is_empty() {
        let missing: Vec<_> = missing.iter_names().map(|(name, _)| name).collect();
        return lacks(format!("lacks {}; has {names}", missing.join(" ")));
    }
    let uffd = Uffd::open(Via::UserModeOnly, needed)?;
    let arena = Arena::create(1, PageKind::Base)?;
    arena.fill(FrameIndex(0), 1)?;
    let window = Window::reserve(1)?;
    window.map(0, &arena, FrameIndex(0), 1, Sharing::Shared, Prot::ReadWrite)?;
    let page = window.span(0, 1);
    uffd.register(page.range(), Modes::MISSING | Modes::MINOR | Modes::WP)?;
    uffd.continue_(page.range(), Fill::WriteProtected)?;
    uffd.write_unprotect(page.range())?;
    if page.store_u8(0, 2) != Touch::Value(()) {
        return lacks("a store to a page that was made writable did not complete");
    }
    window.zap(0, 1)?;
    uffd.poison(page.range())?;
    let access = page.load_u8(0);
    if matches!(access, Touch::Sigbus { .. }) {
        Ok(names)
    } else {
        lacks(format!("a poisoned page was loaded: {access:?}"))
    }
}

/// Traps of the kernel's own accesses, which UFFD_USER_MODE_ONLY leaves out.
#[must_use]
pub fn userfaultfd_kernel() -> Probe {
    let result = Uffd::open(Via::Device, Features::MISSING_SHMEM)
        .map(|_| "through /dev/userfaultfd".to_owned())
        .map_err(Lacks::from);
    Probe::new(
        "userfaultfd of kernel faults",
        result,
        "waiting instead of EFAULT when the kernel touches a trapped page (read(2), pinning)",
        "chmod a+rw /dev/userfaultfd",
    )
}

/// Memory that get_user_pages refuses, shown by a vmsplice that does.
#[must_use]
pub fn memfd_secret() -> Probe {
    let tried = || {
        let secret = SecretArena::create(1)?;
        secret.fill(FrameIndex(0), 1)?;
        match VmsplicePin::take(secret.frame(FrameIndex(0))).err() {
            Some(rustix::io::Errno::FAULT) => Ok("get_user_pages answers EFAULT".to_owned()),
            other => lacks(format!("its pages can be pinned: {other:?}")),
        }
    };
    Probe::new(
        "memfd_secret",
        tried(),
        "mmap = pfnmap on real memory: the kernel refusing to pin",
        "Linux 5.14 or later with CONFIG_SECRETMEM; before 6.5 boot with secretmem.enable=1",
    )
}

/// RLIMIT_MEMLOCK, which io_uring buffers and secret memory are charged to.
#[must_use]
pub fn memlock() -> Probe {
    const NEEDED_BYTES: u64 = 1 << 20;
    let limit = rustix::process::getrlimit(Resource::Memlock).current;
    let result = match limit {
        None => Ok("unlimited".to_owned()),
        Some(bytes) if bytes >= NEEDED_BYTES => Ok(format!("{} KiB", bytes >> 10)),
        Some(bytes) => lacks(format!("{} KiB, 1024 KiB are needed", bytes >> 10)),
    };
    Probe::new(
        "RLIMIT_MEMLOCK",
        result,
        "registered io_uring buffers and secret memory of more than a few pages",
        "ulimit -l 8192, or LimitMEMLOCK=8M in the systemd unit",
    )
}

/// A migration that the kernel makes on request: MADV_COLLAPSE of a memfd.
#[must_use]
pub fn collapse() -> Probe {
    let settings = format!(
        "THP {}; shmem {}",
        setting("/sys/kernel/mm/transparent_hugepage/enabled"),
        setting("/sys/kernel/mm/transparent_hugepage/shmem_enabled"),
    );
    let tried = || {
        let pages = huge_pages();
        let frames = u32::try_from(pages).unwrap_or(u32::MAX);
        let arena = Arena::create(frames, PageKind::Base)?;
        let window = Window::reserve_aligned(pages, pages * page_bytes())?;
        window.map(0, &arena, FrameIndex(0), pages, Sharing::Shared, Prot::ReadWrite)?;
        if window.span(0, pages).fill(3) != Touch::Value(()) {
            return lacks("no memory for a huge page");
        }
        window.collapse(0, pages).map_err(|errno| Lacks(format!("{errno}; {settings}")))?;
        let access = window.span(pages - 1, 1).load_u8(page_bytes() - 1);
        if access == Touch::Value(3) {
            Ok(settings.clone())
        } else {
            lacks(format!("the bytes changed: {access:?}"))
        }
    };
    Probe::new(
        "MADV_COLLAPSE (THP of a memfd)",
        tried(),
        "migration by the kernel itself, and huge entries made of base pages",
        "Linux 6.1 or later with CONFIG_TRANSPARENT_HUGEPAGE",
    )
}

/// 2 MiB hugetlb pages.
#[must_use]
pub fn hugetlb() -> Probe {
    let tried = || {
        Arena::create(u32::try_from(HUGE_BYTES / page_bytes()).unwrap_or(1), PageKind::Hugetlb2M)
            .and_then(|arena| arena.allocate(FrameIndex(0), 512))
            .map_err(|error| {
                let set = setting("/proc/sys/vm/nr_hugepages");
                Lacks(format!("{error}; vm.nr_hugepages = {set}"))
            })?;
        Ok("2 MiB pages can be allocated".to_owned())
    };
    Probe::new(
        "hugetlb",
        tried(),
        "huge entries by hugetlb; transparent huge pages are used where they work",
        "sysctl vm.nr_hugepages=8",
    )
}
