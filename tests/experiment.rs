//! An experiment: an exporter rule that no toggle expresses, in one small type.
//!
//! The driver waits for page pins to go away where others refuse to move or do not look. Is that a
//! better rule? Nothing is corrupted, and no pin makes a move fail; but a pin that is never dropped
//! stops the exporter for ever.

#[path = "common/lab.rs"]
mod lab;

use std::sync::Arc;

use driftheap::explore::{Explorer, Limits, Reduction};
use driftheap::litmus::rules::ModelRules;
use driftheap::model::{
    Admission, ExporterPolicy, ExporterStep, HazardKind, Request, State, Step, World,
};
use driftheap::question::scenario::Scenario;
use driftheap::question::verdict::{Judgement, Search, judge};

/// "Evict when unpinned": the step `check-pins` waits until no page of the buffer is pinned.
#[derive(Debug)]
struct EvictWhenUnpinned;

impl ExporterPolicy for EvictWhenUnpinned {
    fn admit(&self, world: &World, state: &State, request: &Request) -> Admission {
        let Step::Exporter { step: ExporterStep::CheckPins, buf, .. } = request.step else {
            return Admission::Default;
        };
        let pinned = world.pages(buf).any(|page| {
            let frame = state.pages[page.index()].frame;
            frame.is_some() && state.counted_pins(frame) > 0
        });
        if pinned { Admission::Wait } else { Admission::Default }
    }
}

/// A pin that the device is done with is dropped, or is not.
const TEXT: &str = "
DMABUF evict-when-unpinned

exporter heap { mmap = mixedmap-insert-page; on-foreign-pin = vary rule(ignore, refuse) }
buffer A { exporter = heap }
buffer B { exporter = heap; state = unallocated }

P0 application {
    mmap v = A shared rw
    store v[0] = 1
    gup p = v[0] write longterm
}
P1 device {
    dma_write p[0] = 7
    vary(dropped => { unpin p }, kept => {})
}
P2 exporter heap {
    m: move A -> system
    alloc B
}
exists (hazard any \\/ m = EBUSY)
";

/// The answer to a variant, with the experiment's rule or without.
fn ask(variant: &str, policy: Option<Arc<dyn ExporterPolicy>>) -> Judgement {
    let test = driftheap::litmus::parse("experiment.litmus", TEXT, &ModelRules).expect("valid");
    let variant = test.variants.iter().find(|found| found.name == variant).expect("a variant");
    let policies: Vec<_> = policy.into_iter().map(|policy| ("heap", policy)).collect();
    let scenario = Scenario::with_policies(variant, TEXT, &policies).expect("a runnable variant");
    judge(&scenario, &Search::default(), &mut |_| ()).expect("an answer")
}

fn hazards(judgement: &Judgement) -> Vec<HazardKind> {
    judgement.hazards.keys().copied().collect()
}

#[test]
fn without_the_rule_there_is_corruption_or_a_refused_move() {
    let ignored = hazards(&ask("ignore/dropped", None));
    assert!(ignored.contains(&HazardKind::CrossBufferWrite), "{ignored:?}");
    assert_eq!(hazards(&ask("refuse/dropped", None)), [HazardKind::PinBlocksMove]);
}

#[test]
fn waiting_for_the_pin_corrupts_nothing_and_refuses_nothing() {
    for rule in ["ignore/dropped", "refuse/dropped"] {
        assert_eq!(hazards(&ask(rule, Some(Arc::new(EvictWhenUnpinned)))), []);
    }
}

#[test]
fn a_pin_that_is_never_dropped_stops_the_exporter() {
    for rule in ["ignore/kept", "refuse/kept"] {
        let answer = ask(rule, Some(Arc::new(EvictWhenUnpinned)));
        assert_eq!(hazards(&answer), [HazardKind::Deadlock]);
        let ends = &answer.exploration;
        assert!(ends.deadlock_states > 0, "the exporter waits for ever where the pin came first");
        assert!(ends.deadlock_states < ends.terminal_states, "and moves where it came later");
    }
}

#[test]
fn the_rule_is_explored_alike_with_and_without_reduction() {
    let test = driftheap::litmus::parse("experiment.litmus", TEXT, &ModelRules).expect("valid");
    for variant in &test.variants {
        let policy: Arc<dyn ExporterPolicy> = Arc::new(EvictWhenUnpinned);
        let scenario = Scenario::with_policies(variant, TEXT, &[("heap", policy)]).expect("valid");
        let [full, reduced] = [Reduction::Full, Reduction::Persistent].map(|reduction| {
            let explorer = Explorer::new(&scenario, Limits::default(), reduction, 1);
            explorer.explore().expect("no circle").outcomes.into_keys().collect::<Vec<_>>()
        });
        assert_eq!(full, reduced, "{}", lab::title(&scenario));
    }
}
