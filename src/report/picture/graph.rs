//! The states that can be reached, each with the steps that can be taken from it.

use std::collections::{HashMap, VecDeque};

use super::Stage;
use crate::explore::Machine;
use crate::model::{HazardKind, State};
use crate::question::scenario::{Scenario, ScenarioState, ScheduleStep};
use crate::report::story;

/// A hazard that a step shows, as far as it can be pointed at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sight {
    /// Which.
    pub kind: HazardKind,
    /// The slot that the access came through.
    pub slot: Option<usize>,
    /// The place that was reached.
    pub place: Option<usize>,
}

/// A step that can be taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Edge {
    /// Whose step.
    pub actor: usize,
    /// The line of its statement; 0 when it comes from no file.
    pub line: u32,
    /// The statement.
    pub statement: String,
    /// What the step does, in the kernel's nouns.
    pub what: String,
    /// The hazards that the oracle sees in it.
    pub hazards: Vec<Sight>,
    /// The node that it leads to; none where that was left out.
    pub to: Option<usize>,
}

/// A state.
#[derive(Debug)]
pub struct Node {
    /// In the model.
    pub state: ScenarioState,
    /// The steps that can be taken, by process.
    pub edges: Vec<Edge>,
    /// Of a state from which nobody can go on: how it ended, and whether what the test asks holds.
    pub end: Option<(String, bool)>,
}

/// The states that can be reached, from the first.
#[derive(Debug)]
pub struct Graph {
    /// What is the same in all of them.
    pub stage: Stage,
    /// The states; the first one is where every schedule begins.
    pub nodes: Vec<Node>,
    /// Whether these are all.
    pub complete: bool,
}

impl Graph {
    /// All states of `scenario` if there are at most `states_max`; otherwise those of `paths`
    /// alone, each a list of processes.
    ///
    /// States that differ in nothing but which of two free frames comes first are told apart
    /// here, unlike by the explorer: in a picture a frame keeps its place.
    #[must_use]
    pub fn new(scenario: &Scenario, states_max: usize, paths: &[&[u8]]) -> Self {
        let mut walk = Walk::new(scenario);
        let complete = walk.everything(states_max);
        if !complete {
            walk = Walk::new(scenario);
            paths.iter().for_each(|path| walk.along(path));
        }
        let (states, links) = (walk.states, walk.links);
        let stage = Stage::new(scenario, &states.iter().collect::<Vec<_>>());
        let nodes = states.into_iter().zip(links);
        let nodes = nodes.map(|(state, links)| node(scenario, &stage, state, &links)).collect();
        Self { stage, nodes, complete }
    }

    /// Takes the step of `actor` from a node, also where it leads to a state that was left out:
    /// that is added. None when `actor` can't go on there.
    pub fn take(&mut self, scenario: &Scenario, at: usize, actor: usize) -> Option<usize> {
        let edge = self.nodes[at].edges.iter().position(|edge| edge.actor == actor)?;
        if let Some(to) = self.nodes[at].edges[edge].to {
            return Some(to);
        }
        let after = steps(scenario, &self.nodes[at].state).swap_remove(edge).event.after;
        let known = self.nodes.iter().position(|node| node.state == after);
        let to = known.unwrap_or(self.nodes.len());
        self.nodes[at].edges[edge].to = Some(to);
        if known.is_none() {
            let links = steps(scenario, &after);
            self.nodes.push(node(scenario, &self.stage, after, &links));
            self.widen(scenario);
        }
        Some(to)
    }

    /// Makes room on the stage for what the nodes show by now.
    fn widen(&mut self, scenario: &Scenario) {
        let states: Vec<&ScenarioState> = self.nodes.iter().map(|node| &node.state).collect();
        let stage = Stage::new(scenario, &states);
        if stage == self.stage {
            return;
        }
        self.stage = stage;
        for node in &mut self.nodes {
            let links = steps(scenario, &node.state);
            for (edge, link) in node.edges.iter_mut().zip(&links) {
                edge.hazards = sights(scenario, &self.stage, &link.event);
            }
        }
    }

    /// The nodes that `schedule` passes, the first one included; shorter where it leaves the graph.
    #[must_use]
    pub fn follow(&self, schedule: &[u8]) -> Vec<usize> {
        let mut path = vec![0];
        let mut at = 0;
        for &actor in schedule {
            let edge = self.nodes[at].edges.iter().find(|edge| edge.actor == usize::from(actor));
            let Some(next) = edge.and_then(|edge| edge.to) else { break };
            path.push(next);
            at = next;
        }
        path
    }
}

/// A step, before it is told.
struct Link {
    event: ScheduleStep,
    to: Option<usize>,
}

struct Walk<'a> {
    scenario: &'a Scenario,
    states: Vec<ScenarioState>,
    links: Vec<Vec<Link>>,
    known: HashMap<ScenarioState, usize>,
}

impl<'a> Walk<'a> {
    fn new(scenario: &'a Scenario) -> Self {
        let mut walk =
            Self { scenario, states: Vec::new(), links: Vec::new(), known: HashMap::new() };
        walk.node(&scenario.initial());
        walk
    }

    /// The number of `state`, a new one if need be.
    fn node(&mut self, state: &ScenarioState) -> usize {
        if let Some(&at) = self.known.get(state) {
            return at;
        }
        let at = self.states.len();
        self.known.insert(state.clone(), at);
        self.states.push(state.clone());
        self.links.push(Vec::new());
        at
    }

    /// Breadth first; false when there are more than `states_max`.
    fn everything(&mut self, states_max: usize) -> bool {
        let mut queue = VecDeque::from([0]);
        while let Some(at) = queue.pop_front() {
            let mut links = steps(self.scenario, &self.states[at]);
            for link in &mut links {
                let known = self.states.len();
                let to = self.node(&link.event.after);
                link.to = Some(to);
                if to == known {
                    if known >= states_max {
                        return false;
                    }
                    queue.push_back(to);
                }
            }
            self.links[at] = links;
        }
        true
    }

    /// The nodes of one path, with all steps from each of them.
    fn along(&mut self, path: &[u8]) {
        let mut at = 0;
        for next in path.iter().map(|actor| Some(*actor)).chain([None]) {
            if self.links[at].is_empty() {
                self.links[at] = steps(self.scenario, &self.states[at]);
            }
            let taken =
                |link: &Link| next.is_some_and(|next| link.event.actor == usize::from(next));
            let Some(index) = self.links[at].iter().position(taken) else { return };
            let after = self.links[at][index].event.after.clone();
            let to = self.node(&after);
            self.links[at][index].to = Some(to);
            at = to;
        }
    }
}

/// The steps that can be taken from a state, leading nowhere yet.
fn steps(scenario: &Scenario, before: &ScenarioState) -> Vec<Link> {
    let enabled = scenario.enabled(before);
    let step = |actor: usize| {
        let pc = usize::from(before.pcs[actor]);
        let mut after = before.clone();
        let mut effects = Vec::new();
        let reply = scenario.advance(&mut after, actor, &mut effects);
        Link { event: ScheduleStep { actor, pc, reply, effects, after }, to: None }
    };
    let actors = 0..scenario.programs.len();
    actors.filter(|actor| enabled & (1 << actor) != 0).map(step).collect()
}

fn node(scenario: &Scenario, stage: &Stage, state: ScenarioState, links: &[Link]) -> Node {
    let edges: Vec<Edge> =
        links.iter().map(|link| edge(scenario, stage, &state.model, link)).collect();
    let end = edges.is_empty().then(|| {
        let outcome = scenario.classify(&state);
        (outcome.describe(scenario), scenario.holds(&outcome))
    });
    Node { state, edges, end }
}

fn edge(scenario: &Scenario, stage: &Stage, before: &State, link: &Link) -> Edge {
    let event = &link.event;
    let program = &scenario.programs[event.actor];
    let statement = &program.statements[program.instructions[event.pc].statement];
    Edge {
        actor: event.actor,
        line: statement.line,
        statement: statement.text.clone(),
        what: story::tell(scenario, before, event),
        hazards: sights(scenario, stage, event),
        to: link.to,
    }
}

fn sights(scenario: &Scenario, stage: &Stage, event: &ScheduleStep) -> Vec<Sight> {
    let sight = |hazard: &crate::model::Hazard| Sight {
        kind: hazard.kind,
        slot: stage.through(scenario, hazard.via),
        place: stage.place(hazard.frame),
    };
    event.hazards().map(sight).collect()
}
