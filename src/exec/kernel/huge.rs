//! Huge entries: a huge page of the machine is as many frames as the model's entry covers.
//!
//! The first page of each part stands for the frame: it alone is touched, filled and compared.

use super::super::error::Skip;
use super::super::plan::Steps;
use crate::model::{Blocks, Huge, MmapKind, Placement, Step, World};
use crate::question::scenario::Scenario;
use crate::units::{BufId, FrameId, VmaId};

/// Pages of a huge page.
pub(super) const HUGE_PAGES: u16 = 512;

/// How frames lie in the laboratory.
#[derive(Debug)]
pub(super) struct Layout {
    /// Frames of a huge page; none where a frame is a small page.
    pub(super) per_block: Option<u8>,
    /// Whether huge pages are blocks that are not compound, each page of which counts for itself.
    pub(super) loose: bool,
    /// What the laboratory calls each frame.
    numbers: Vec<u8>,
}

impl Layout {
    /// Each placement begins a huge page, as it begins aligned memory in the model.
    pub(super) fn of(scenario: &Scenario) -> Result<Self, Skip> {
        let world = &scenario.world;
        let per_block = per_block(scenario)?;
        let step = u32::from(per_block.unwrap_or(1));
        let mut numbers = Vec::with_capacity(world.frames());
        let mut next = 0_u32;
        let mut last: Option<Placement> = None;
        for frame in (0..world.frames()).map(FrameId::at) {
            let placement = world.placement(frame);
            if last.replace(placement).is_some_and(|last| last != placement) {
                next = next.next_multiple_of(step);
            }
            let number = u8::try_from(next).map_err(|_| Skip::new("more frames than fit"))?;
            numbers.push(number);
            next += 1;
        }
        let loose = loose(world, per_block)?;
        Ok(Self { per_block, loose, numbers })
    }

    pub(super) fn number(&self, frame: FrameId) -> u8 {
        self.numbers[frame.index()]
    }

    /// The frames whose references the kernel counts together with those of `frame`.
    pub(super) fn together(&self, frame: FrameId) -> impl Iterator<Item = FrameId> {
        let compound = self.per_block.filter(|_| !self.loose);
        let block = move |number: u8| compound.map(|per_block| number / per_block);
        let own = block(self.number(frame));
        (0..self.numbers.len()).map(FrameId::at).filter(move |other| {
            *other == frame || own.is_some() && block(self.number(*other)) == own
        })
    }
}

/// Whether buffers are blocks that are not compound, which all are then.
fn loose(world: &World, per_block: Option<u8>) -> Result<bool, Skip> {
    let loose = |buf: &BufId| world.exporter_of(*buf).blocks == Blocks::NonCompound;
    let bufs = || (0..world.bufs()).map(BufId::at);
    let found = bufs().filter(loose).count();
    if found == 0 {
        return Ok(false);
    }
    let slow = |buf: BufId| {
        let rules = world.exporter_of(buf);
        rules.mmap != MmapKind::Pfnmap && !rules.vm_io.yes()
    };
    if bufs().any(slow) {
        return Err(Skip::new(
            "a page without a count that the slow path takes would be put below 0",
        ));
    }
    let whole = |buf: BufId| per_block == Some(world.buf(buf).pages);
    if found < world.bufs() || !bufs().all(whole) {
        return Err(Skip::new("a block that is not compound is one huge page of the laboratory"));
    }
    Ok(true)
}

/// The pages that all mappings have, where there may be huge entries.
fn per_block(scenario: &Scenario) -> Result<Option<u8>, Skip> {
    let world = &scenario.world;
    let huge = |buf| world.exporter_of(buf).huge != Huge::None;
    if !(0..world.bufs()).map(BufId::at).any(huge) {
        return Ok(None);
    }
    let steps = Steps::of(scenario);
    let mmaps = steps
        .all
        .iter()
        .filter_map(|(_, step)| if let Step::Mmap(mmap) = **step { Some(mmap) } else { None });
    let mut pages = None;
    for mmap in mmaps {
        if mmap.buf.is_none() {
            return Err(Skip::new("anonymous memory beside huge entries would be huge, too"));
        }
        pages = pages.or(Some(world.vma_pages(mmap.vma)));
    }
    let pages = pages.unwrap_or(2);
    let other = |vma| world.vma_pages(vma) != pages;
    if !matches!(pages, 1 | 2 | 4 | 8 | 16) || (0..steps.vmas).map(VmaId::at).any(other) {
        return Err(Skip::new(
            "a huge entry covers what a mapping has: here 1, 2, 4, 8 or 16 pages, the same for all",
        ));
    }
    Ok(Some(pages))
}
