//! What the objects of a scenario are called in its file.

use crate::model::{Handle, Owner, Target, Via, World};
use crate::units::{AttachmentId, BufId, FrameId, PageId, PinId, SgId, VmaId};

/// Names by id, for reports.
#[derive(Debug, Clone, Default)]
pub struct Names {
    pub(super) bufs: Vec<String>,
    pub(super) vmas: Vec<String>,
    pub(super) pins: Vec<String>,
    pub(super) sgs: Vec<String>,
    pub(super) attachments: Vec<String>,
    pub(super) fences: Vec<String>,
}

fn get(names: &[String], index: usize) -> &str {
    names.get(index).map_or("?", String::as_str)
}

impl Names {
    /// The buffer's name.
    #[must_use]
    pub fn buf(&self, buf: BufId) -> &str {
        get(&self.bufs, buf.index())
    }

    /// The VMA's name in its process.
    #[must_use]
    pub fn vma(&self, vma: VmaId) -> &str {
        get(&self.vmas, vma.index())
    }

    /// The pin's name, with the entry for a frame vector.
    #[must_use]
    pub fn pin(&self, pin: PinId) -> &str {
        get(&self.pins, pin.index())
    }

    /// The `sg_table`'s name.
    #[must_use]
    pub fn sg(&self, sg: SgId) -> &str {
        get(&self.sgs, sg.index())
    }

    /// The attachment's name.
    #[must_use]
    pub fn attachment(&self, attachment: AttachmentId) -> &str {
        get(&self.attachments, attachment.index())
    }

    /// The fence's name.
    #[must_use]
    pub fn fence(&self, fence: crate::units::FenceId) -> &str {
        get(&self.fences, fence.index())
    }

    /// `A[0]`.
    #[must_use]
    pub fn page(&self, world: &World, page: PageId) -> String {
        format!("{}[{}]", self.buf(world.buf_of(page)), world.page_index(page))
    }

    /// `vram:0`: placement and number within it.
    #[must_use]
    pub fn frame(&self, world: &World, frame: FrameId) -> String {
        if frame.is_none() {
            return "-".to_owned();
        }
        if frame == world.zero_page() {
            return "zero page".to_owned();
        }
        let placement = world.placement(frame);
        let number = (0..frame.index())
            .filter(|index| world.placement(FrameId::at(*index)) == placement)
            .count();
        format!("{placement}:{number}")
    }

    /// Whose memory a frame is, in words.
    #[must_use]
    pub fn owner(&self, world: &World, owner: Owner) -> String {
        match owner {
            Owner::Free => "free".to_owned(),
            Owner::Page(page) => self.page(world, page),
            Owner::Reserved(page) => format!("destination of {}", self.page(world, page)),
            Owner::Retired(page) => format!("old {}", self.page(world, page)),
            Owner::Shadow(page) => format!("importer's shadow of {}", self.page(world, page)),
            Owner::Bounce(page) => format!("a bounce page of {}", self.page(world, page)),
            Owner::Anon => "anonymous memory".to_owned(),
            Owner::Orphan => "orphan".to_owned(),
            Owner::Zero => "the zero page".to_owned(),
        }
    }

    /// What an access was meant for, in words.
    #[must_use]
    pub fn target(&self, world: &World, target: Target) -> String {
        match target {
            Target::Page(page) => self.page(world, page),
            Target::Va(pte) => {
                let (vma, page) = world.vma_of(pte);
                format!("{:?}:{}[{page}]", world.mm_of(vma), self.vma(vma))
            }
        }
    }

    /// The way an access took, in words.
    #[must_use]
    pub fn via(&self, world: &World, via: Via) -> String {
        match via {
            Via::Vma(vma, page) => {
                format!("mapping {:?}:{}[{page}]", world.mm_of(vma), self.vma(vma))
            }
            Via::Device(Handle::Pin(pin), _) => format!("pin {}", self.pin(pin)),
            Via::Device(Handle::Sg(sg), page) => format!("sg_table {}[{page}]", self.sg(sg)),
            Via::Exporter(buf) => format!("the exporter of {}", self.buf(buf)),
            Via::Cache => "a CPU cache line".to_owned(),
        }
    }
}
