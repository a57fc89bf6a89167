//! Counting complete schedules: how many ways lead from the initial state to each state.
//!
//! The graph of states is acyclic, so the number of ways to a state is the sum over its incoming
//! edges of the ways to where they come from, computed in a topological order. The canonical order
//! of the search is one if every edge leads one level on, which is nearly always so; otherwise the
//! order is found by removing states without incoming edges one after another (Kahn), and whatever
//! can't be removed lies on a cycle or behind one.

use super::graph::Graph;
use super::ids::StateId;
use super::machine::actors_in;

/// The ways to each state.
pub(super) struct Ways {
    by_index: Vec<u128>,
    /// The nearest ways, where edges stand for different numbers of actions.
    nearest: Option<Vec<Nearest>>,
    /// A count did not fit 128 bits, and is given as the largest that does.
    pub(super) is_saturated: bool,
}

/// The shortest way to a state.
#[derive(Clone, Copy)]
struct Nearest {
    /// Its length in actions.
    distance: u32,
    /// From which state, by whose action.
    from: StateId,
    actor: u8,
}

/// An edge of the graph.
#[derive(Clone, Copy)]
struct Edge {
    from: StateId,
    to: StateId,
    actor: u8,
    /// Its place among all edges.
    index: usize,
}

impl Ways {
    /// The actions to a state; 0 where they are as many as the canonical order says.
    pub(super) fn distance(&self, id: StateId) -> u32 {
        self.nearest.as_ref().map_or(0, |nearest| nearest[id.index()].distance)
    }

    /// The actors that are followed on the shortest way to a state, one for each edge; none where the
    /// canonical order says it.
    pub(super) fn shortest(&self, mut id: StateId) -> Option<Vec<u8>> {
        let nearest = self.nearest.as_ref()?;
        let mut actors = Vec::new();
        while let Nearest { from, actor, .. } = nearest[id.index()]
            && from != StateId::NONE
        {
            actors.push(actor);
            id = from;
        }
        actors.reverse();
        Some(actors)
    }

    /// The actions to the farthest state, where they are not as many as the canonical order says.
    pub(super) fn farthest(&self) -> Option<u32> {
        let distances = self.nearest.as_ref()?.iter().map(|nearest| nearest.distance);
        distances.filter(|distance| *distance != u32::MAX).max()
    }

    pub(super) fn to(&self, id: StateId) -> u128 {
        self.by_index[id.index()]
    }

    /// The ways to one of the `of` outcomes that a terminal state stands for: as many to each.
    pub(super) fn share(&self, id: StateId, of: u32) -> u128 {
        match self.to(id) {
            u128::MAX => u128::MAX,
            // Of representatives, not always an equal share.
            ways => ways.div_ceil(of.into()),
        }
    }

    /// Adds to a sum of ways.
    pub(super) fn add(&mut self, sum: &mut u128, ways: u128) {
        *sum = sum.checked_add(ways).unwrap_or_else(|| {
            self.is_saturated = true;
            u128::MAX
        });
    }

    fn follow<O: Ord>(&mut self, graph: &Graph<O>, edge: Edge) {
        let Edge { from, to, actor, index } = edge;
        let mut sum = self.to(to);
        self.add(&mut sum, self.to(from));
        self.by_index[to.index()] = sum;
        if let Some(nearest) = &mut self.nearest {
            let distance = nearest[from.index()].distance.saturating_add(graph.span(index));
            if distance < nearest[to.index()].distance {
                nearest[to.index()] = Nearest { distance, from, actor };
            }
        }
    }
}

/// A state that can be reached from itself.
#[derive(Debug)]
pub(super) struct Cycle {
    pub(super) at: StateId,
    /// The actors whose actions lead back.
    pub(super) actors: Vec<u8>,
}

/// Counts the ways to every state.
pub(super) fn ways<O: Ord>(graph: &Graph<O>) -> Result<Ways, Cycle> {
    let room = graph.order.iter().map(|id| id.index() + 1).max().unwrap_or(0);
    let unknown = Nearest { distance: u32::MAX, from: StateId::NONE, actor: 0 };
    let nearest = graph.passes.then(|| vec![unknown; room]);
    let mut ways = Ways { by_index: vec![0; room], nearest, is_saturated: false };
    let first = graph.order[0].index();
    ways.by_index[first] = 1;
    if let Some(nearest) = &mut ways.nearest {
        nearest[first].distance = 0;
    }
    if graph.is_levelled {
        let mut edges = graph.edges.iter().enumerate();
        for (&from, followed) in graph.order.iter().zip(&graph.followed) {
            for (actor, (index, &to)) in actors_in(*followed).zip(edges.by_ref()) {
                ways.follow(graph, Edge { from, to, actor, index });
            }
        }
        return Ok(ways);
    }

    let links = Links::new(graph, room);
    let mut incoming = vec![0u32; room];
    graph.edges.iter().for_each(|to| incoming[to.index()] += 1);
    let mut ready = Vec::new();
    if incoming[graph.order[0].index()] == 0 {
        ready.push(graph.order[0]);
    }
    while let Some(from) = ready.pop() {
        let actors = actors_in(links.followed(from));
        for (actor, (&to, index)) in actors.zip(links.from(from).iter().zip(links.first(from)..)) {
            ways.follow(graph, Edge { from, to, actor, index });
            incoming[to.index()] -= 1;
            if incoming[to.index()] == 0 {
                ready.push(to);
            }
        }
    }
    match graph.order.iter().find(|id| incoming[id.index()] > 0) {
        None => Ok(ways),
        Some(_) => Err(find_cycle(graph, &links, &incoming)),
    }
}

/// Edges by the state they leave.
struct Links<'g, O> {
    graph: &'g Graph<O>,
    /// By state index, its position in canonical order and that of its first edge.
    places: Vec<(u32, usize)>,
}

impl<'g, O> Links<'g, O> {
    fn new(graph: &'g Graph<O>, room: usize) -> Self {
        let mut places = vec![(u32::MAX, 0); room];
        let mut first_edge = 0;
        for (position, id) in (0u32..).zip(&graph.order) {
            places[id.index()] = (position, first_edge);
            first_edge +=
                graph.followed.get(position as usize).map_or(0, |f| f.count_ones()) as usize;
        }
        Self { graph, places }
    }

    fn followed(&self, id: StateId) -> u16 {
        let (position, _) = self.places[id.index()];
        self.graph.followed.get(position as usize).copied().unwrap_or(0)
    }

    /// The place of the first edge.
    fn first(&self, id: StateId) -> usize {
        self.places[id.index()].1
    }

    fn from(&self, id: StateId) -> &'g [StateId] {
        let (_, first_edge) = self.places[id.index()];
        &self.graph.edges[first_edge..first_edge + self.followed(id).count_ones() as usize]
    }
}

/// Finds a cycle, always the same one, among the states that could not be removed.
fn find_cycle<O>(graph: &Graph<O>, links: &Links<'_, O>, incoming: &[u32]) -> Cycle {
    #[derive(Clone, Copy, PartialEq)]
    enum Mark {
        New,
        OnPath,
        Left,
    }
    let mut marks = vec![Mark::New; incoming.len()];
    for &root in graph.order.iter().filter(|id| incoming[id.index()] > 0) {
        // The path of a depth-first search: each state with the number of its edges taken so far.
        let mut path = vec![(root, 0)];
        while let Some((from, taken)) = path.last_mut() {
            let from = *from;
            marks[from.index()] = Mark::OnPath;
            let Some(&to) = links.from(from).get(*taken) else {
                marks[from.index()] = Mark::Left;
                path.pop();
                continue;
            };
            *taken += 1;
            match marks[to.index()] {
                Mark::Left => {}
                Mark::New => path.push((to, 0)),
                Mark::OnPath => {
                    let start = path.iter().position(|&(id, _)| id == to).unwrap_or(0);
                    let actor = |&(id, taken): &(StateId, usize)| {
                        actors_in(links.followed(id)).nth(taken - 1).unwrap_or(u8::MAX)
                    };
                    return Cycle { at: to, actors: path[start..].iter().map(actor).collect() };
                }
            }
        }
    }
    unreachable!("states that always keep an incoming edge include a cycle")
}
