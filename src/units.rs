//! Identifiers of the things a scenario names.
//!
//! Every id is an index into one table of [`crate::model::World`] or
//! [`crate::model::State`]. Ids are one byte so that a state encodes into a few
//! hundred bytes; [`MAX_OBJECTS`] is therefore the limit of every table, and
//! [`crate::model::World`] enforces it when it is built.

use std::fmt;

/// Upper bound on the number of objects of one kind in a scenario.
pub const MAX_OBJECTS: usize = 250;

/// Upper bound on the number of pages of one buffer in a scenario.
pub const MAX_PAGES: usize = 16;

/// Pages of one buffer or VMA, a bit each.
pub type PageSet = u16;

/// A set of pages has room for all of them.
const _: () = assert!(MAX_PAGES <= PageSet::BITS as usize);

/// The first pages, so many.
#[must_use]
pub const fn first_pages(pages: u8) -> PageSet {
    if pages as u32 >= PageSet::BITS { PageSet::MAX } else { (1 << pages) - 1 }
}

macro_rules! id {
    ($(#[$doc:meta])* $name:ident, $letter:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub u8);

        impl $name {
            /// "None of them": what a field holds when it refers to nothing.
            pub const NONE: Self = Self(u8::MAX);

            /// The id of the object at position `index` of its table.
            ///
            /// # Panics
            /// When `index` is not below [`MAX_OBJECTS`]; tables are bounded by it when
            /// they are built.
            #[must_use]
            pub const fn at(index: usize) -> Self {
                assert!(index < MAX_OBJECTS, "table limit");
                #[allow(clippy::cast_possible_truncation, reason = "bounded by the assertion")]
                Self(index as u8)
            }

            /// Position in the table; meaningless for [`Self::NONE`].
            #[must_use]
            pub const fn index(self) -> usize {
                self.0 as usize
            }

            /// Whether this refers to nothing.
            #[must_use]
            pub const fn is_none(self) -> bool {
                self.0 == u8::MAX
            }

            /// Whether this refers to something.
            #[must_use]
            pub const fn is_some(self) -> bool {
                !self.is_none()
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                if self.is_none() { f.write_str("-") } else { write!(f, "{}{}", $letter, self.0) }
            }
        }
    };
}

id!(
    /// Whoever executes steps: a process of a litmus test, a client of the device.
    ActorId, "P");
id!(
    /// A dma-buf.
    BufId, "buf");
id!(
    /// One page of one dma-buf; all pages of all buffers share one table.
    PageId, "page");
id!(
    /// A page frame of some placement.
    FrameId, "frame");
id!(
    /// A virtual memory area of some process.
    VmaId, "vma");
id!(
    /// One page table slot of one VMA; all slots of all VMAs share one table.
    PteId, "pte");
id!(
    /// A `get_user_pages` pin, or a cached pfn.
    PinId, "pin");
id!(
    /// A `struct dma_buf_attachment`.
    AttachmentId, "att");
id!(
    /// A `struct sg_table`, what `dma_buf_map_attachment` returns.
    SgId, "sg");
id!(
    /// A `struct dma_fence` in some buffer's `dma_resv`.
    FenceId, "fence");
id!(
    /// An exporter, that is, a set of [`crate::model::ExporterRules`].
    ExporterId, "exporter");
id!(
    /// An importer, that is, a set of [`crate::model::ImporterRules`].
    ImporterId, "importer");
