//! Names of the device's objects.

macro_rules! id {
    ($(#[$meta:meta])* $name:ident) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub struct $name(pub u64);
    };
}

id! {
    /// A heap, by its place on the command line.
    HeapId
}
id! {
    /// A dma-buf. Never used again for another one.
    BufferId
}
id! {
    /// A sync_file. Never used again for another one.
    SyncFileId
}
id! {
    /// An open /sys/kernel/debug/sync/sw_sync: one timeline of fences.
    TimelineId
}
id! {
    /// A fence. Never used again for another one.
    FenceId
}

/// What a file descriptor of ours refers to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Object {
    /// An open /dev/dma_heap/NAME.
    Heap(HeapId),
    /// An open /dev/udmabuf.
    Udmabuf,
    /// An open sw_sync.
    Timeline(TimelineId),
    /// A dma-buf.
    Buffer(BufferId),
    /// A sync_file.
    SyncFile(SyncFileId),
}
