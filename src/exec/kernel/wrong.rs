//! A model with a wrong rule, to see that the comparison notices.

use crate::model::{
    Cow, ExporterRules, GupFast, ImporterMmap, MmapKind, MoveNotify, OnDmaBufPin, Unshare, YesNo,
    ZapReach,
};
use crate::question::scenario::Scenario;

/// What the model is made to believe while the kernel does as the test says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WrongRule {
    /// Page table entries have no special bit.
    NoSpecialBit,
    /// A read-only pin never unshares.
    NeverUnshares,
    /// Parent and child share a pinned page.
    ForkShares,
    /// The fast path of `get_user_pages` takes a driver's own page.
    FastTakesAny,
    /// An exporter that inserts pfns inserts pages.
    InsertsPages,
    /// No exporter refuses a private mapping.
    NeverRefusesCow,
    /// Each zap reaches the whole address_space.
    ZapsAll,
    /// An importer's mmap is always the exporter's.
    Redirects,
    /// `dma_buf_pin` never keeps a buffer from moving.
    IgnoresPins,
    /// Each importer that is told of a move invalidates its mappings.
    HearsNotify,
    /// All memory has a struct page.
    PagesEverywhere,
}

impl WrongRule {
    /// All of them, by name.
    pub const ALL: [(&str, Self); 11] = [
        ("no-special-bit", Self::NoSpecialBit),
        ("never-unshares", Self::NeverUnshares),
        ("fork-shares", Self::ForkShares),
        ("fast-takes-any", Self::FastTakesAny),
        ("inserts-pages", Self::InsertsPages),
        ("never-refuses-cow", Self::NeverRefusesCow),
        ("zaps-all", Self::ZapsAll),
        ("redirects", Self::Redirects),
        ("ignores-pins", Self::IgnoresPins),
        ("hears-notify", Self::HearsNotify),
        ("pages-everywhere", Self::PagesEverywhere),
    ];

    /// The scenario as a model with this rule sees it.
    #[must_use]
    pub fn applied(self, scenario: &Scenario) -> Scenario {
        let mut wrong = scenario.clone();
        let world = &mut wrong.world;
        match self {
            Self::NoSpecialBit => world.host.pte_special = YesNo::No,
            Self::NeverUnshares => world.host.longterm_unshare = Unshare::No,
            Self::ForkShares => world.host.fork_copies_pinned = YesNo::No,
            Self::FastTakesAny => world.host.gup_fast = GupFast::Any,
            Self::InsertsPages | Self::NeverRefusesCow | Self::ZapsAll | Self::IgnoresPins => {
                world.exporters_mut().iter_mut().for_each(|rules| self.exporter(rules))
            }
            Self::PagesEverywhere => world.host.vram_pages = YesNo::Yes,
            Self::Redirects => {
                world
                    .importers_mut()
                    .iter_mut()
                    .for_each(|rules| rules.mmap = ImporterMmap::Redirect);
            }
            Self::HearsNotify => {
                let heard = MoveNotify::Handled;
                world.importers_mut().iter_mut().for_each(|rules| rules.move_notify = heard);
            }
        }
        wrong
    }

    fn exporter(self, rules: &mut ExporterRules) {
        if self == Self::InsertsPages && rules.mmap == MmapKind::MixedmapInsertPfn {
            rules.mmap = MmapKind::MixedmapInsertPage;
        } else if self == Self::NeverRefusesCow {
            rules.cow = Cow::Allow;
        } else if self == Self::ZapsAll {
            rules.zap = ZapReach::AddressSpace;
        } else if self == Self::IgnoresPins {
            rules.on_dma_buf_pin = OnDmaBufPin::Ignore;
        }
    }
}
