//! The ioctl numbers and structure sizes of `driftheap::uapi` against the kernel's own headers, as
//! the C compiler sees them. SKIP without a compiler or the headers.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod device_kit;

use std::collections::BTreeMap;
use std::process::{Command, Stdio};

use device_kit::{bounded, text};
use driftheap::uapi::{dma_buf, dma_heap, stat, sync_file, udmabuf};

/// C expressions and what we say they are.
fn ours() -> Vec<(&'static str, u64)> {
    let size = |bytes: usize| u64::try_from(bytes).unwrap();
    vec![
        ("DMA_HEAP_IOCTL_ALLOC", dma_heap::ALLOC.into()),
        ("DMA_HEAP_VALID_FD_FLAGS", dma_heap::VALID_FD_FLAGS.into()),
        ("sizeof(struct dma_heap_allocation_data)", size(dma_heap::AllocationData::SIZE)),
        ("DMA_BUF_IOCTL_SYNC", dma_buf::SYNC.into()),
        ("DMA_BUF_SET_NAME_A", dma_buf::SET_NAME_A.into()),
        ("DMA_BUF_SET_NAME_B", dma_buf::SET_NAME_B.into()),
        ("DMA_BUF_IOCTL_EXPORT_SYNC_FILE", dma_buf::EXPORT_SYNC_FILE.into()),
        ("DMA_BUF_IOCTL_IMPORT_SYNC_FILE", dma_buf::IMPORT_SYNC_FILE.into()),
        ("DMA_BUF_SYNC_READ", dma_buf::SYNC_READ),
        ("DMA_BUF_SYNC_WRITE", dma_buf::SYNC_WRITE),
        ("DMA_BUF_SYNC_END", dma_buf::SYNC_END),
        ("DMA_BUF_NAME_LEN", size(dma_buf::NAME_LEN)),
        ("sizeof(struct dma_buf_export_sync_file)", size(dma_buf::SyncFileArg::SIZE)),
        ("SYNC_IOC_MERGE", sync_file::MERGE.into()),
        ("SYNC_IOC_FILE_INFO", sync_file::FILE_INFO.into()),
        ("sizeof(struct sync_merge_data)", size(sync_file::MergeData::SIZE)),
        ("sizeof(struct sync_file_info)", size(sync_file::FileInfo::SIZE)),
        ("sizeof(struct sync_fence_info)", size(sync_file::FenceInfo::SIZE)),
        ("UDMABUF_CREATE", udmabuf::CREATE.into()),
        ("UDMABUF_CREATE_LIST", udmabuf::CREATE_LIST.into()),
        ("UDMABUF_FLAGS_CLOEXEC", udmabuf::FLAGS_CLOEXEC.into()),
        ("sizeof(struct udmabuf_create)", size(udmabuf::Create::SIZE)),
        ("sizeof(struct udmabuf_create_item)", size(udmabuf::CreateItem::SIZE)),
        ("sizeof(struct stat)", size(stat::Stat::SIZE)),
        ("sizeof(struct statx)", size(stat::Statx::SIZE)),
        ("sizeof(struct statfs)", size(stat::Statfs::SIZE)),
    ]
}

#[test]
fn numbers_are_the_kernels() {
    if Command::new("cc").arg("--version").stdout(Stdio::null()).status().is_err() {
        eprintln!("SKIP: no C compiler called cc");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let mut source = String::from(
        "#define _GNU_SOURCE\n#include <stdio.h>\n#include <fcntl.h>\n#include <sys/stat.h>\n\
         #include <sys/vfs.h>\n#include <linux/dma-heap.h>\n#include <linux/dma-buf.h>\n\
         #include <linux/sync_file.h>\n#include <linux/udmabuf.h>\nint main(void) {\n",
    );
    for (name, _) in ours() {
        // A macro that the installed headers lack is left out and reported.
        let test = if name.contains('(') { "1".into() } else { format!("defined({name})") };
        source += &format!(
            "#if {test}\nprintf(\"{name}\\t%llu\\n\", (unsigned long long)({name}) & 0xffffffff);\n\
             #endif\n"
        );
    }
    source += "return 0; }\n";
    let file = dir.path().join("uapi.c");
    std::fs::write(&file, source).unwrap();
    let mut compile = Command::new("cc");
    compile.arg("-w").arg("-o").arg(dir.path().join("uapi")).arg(&file);
    let compiled = bounded(compile);
    if !compiled.status.success() {
        eprintln!("SKIP: the headers do not compile: {}", text(&compiled));
        return;
    }
    let output = text(&bounded(Command::new(dir.path().join("uapi"))));
    let theirs: BTreeMap<&str, u64> = output
        .lines()
        .filter_map(|line| line.split_once('\t'))
        .map(|(name, value)| (name, value.parse().unwrap()))
        .collect();
    let mut compared = 0;
    for (name, value) in ours() {
        match theirs.get(name) {
            Some(&theirs) => assert_eq!(value & 0xffff_ffff, theirs, "{name}"),
            None => eprintln!("SKIP {name}: not in the installed headers"),
        }
        compared += usize::from(theirs.contains_key(name));
    }
    assert!(compared >= 20, "{compared} of {}", ours().len());
}
