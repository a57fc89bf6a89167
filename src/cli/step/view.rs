//! Where we are in a variant, and what a key does.

use driftheap::question::scenario::Scenario;
use driftheap::report::picture::{Edge, Graph, Node, Picture};
use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyEventKind, KeyModifiers};

/// States that are looked for at once; beyond them those that somebody goes to.
const STATES_MAX: usize = 2000;

/// What a key asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Asked {
    /// Nothing more.
    Stay,
    /// The next variant.
    Variant,
    /// An end.
    Leave,
}

/// A state of the path, and how it was come to: a node and one of its edges.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Hop {
    node: usize,
    by: Option<(usize, usize)>,
}

/// A path through a variant, and where on it we are.
#[derive(Debug)]
pub(super) struct View<'a> {
    /// The variant and its answer.
    pub(super) title: String,
    scenario: &'a Scenario,
    /// The lines of the file.
    pub(super) source: Vec<&'a str>,
    graph: Graph,
    ways: Vec<(String, Vec<u8>)>,
    way: usize,
    /// Whether the path is still the one of `way`.
    by_hand: bool,
    path: Vec<Hop>,
    at: usize,
    /// The next step that is chosen.
    pub(super) chosen: usize,
    /// Lines of the picture that are above its window.
    pub(super) scroll: u16,
    /// Whether the keys are shown instead.
    pub(super) help: bool,
    /// Why the last key did nothing.
    pub(super) note: Option<&'static str>,
}

impl<'a> View<'a> {
    pub(super) fn new(
        title: String,
        scenario: &'a Scenario,
        text: &'a str,
        ways: Vec<(String, Vec<u8>)>,
    ) -> Self {
        let paths: Vec<&[u8]> = ways.iter().map(|(_, way)| way.as_slice()).collect();
        let graph = Graph::new(scenario, STATES_MAX, &paths);
        let source = text.lines().collect();
        let path = vec![Hop { node: 0, by: None }];
        let mut view = Self {
            title,
            scenario,
            source,
            graph,
            ways,
            way: 0,
            by_hand: false,
            path,
            at: 0,
            chosen: 0,
            scroll: 0,
            help: false,
            note: None,
        };
        view.follow(0);
        view
    }

    /// Begin a schedule.
    fn follow(&mut self, way: usize) {
        self.way = way;
        self.by_hand = false;
        self.path.truncate(1);
        let schedule = self.ways.get(way).map_or(Vec::new(), |(_, way)| way.clone());
        let mut node = 0;
        for actor in schedule {
            let Some(hop) = self.hop(node, usize::from(actor)) else { break };
            node = hop.node;
            self.path.push(hop);
        }
        self.go(0);
    }

    fn hop(&mut self, node: usize, actor: usize) -> Option<Hop> {
        let edge = self.graph.nodes[node].edges.iter().position(|edge| edge.actor == actor)?;
        let to = self.graph.take(self.scenario, node, actor)?;
        Some(Hop { node: to, by: Some((node, edge)) })
    }

    fn go(&mut self, at: usize) {
        self.at = at.min(self.path.len() - 1);
        let ahead = self.path.get(self.at + 1).and_then(|hop| hop.by);
        self.chosen = ahead.map_or(0, |(_, edge)| edge);
    }

    /// What `key` asks for, done as far as it concerns this view.
    #[expect(clippy::wildcard_enum_match_arm, reason = "a key that means nothing does nothing")]
    pub(super) fn key(&mut self, key: KeyEvent) -> Asked {
        if key.kind == KeyEventKind::Release {
            return Asked::Stay;
        }
        self.note = None;
        let control = key.modifiers.contains(KeyModifiers::CONTROL);
        if control {
            return if key.code == KeyCode::Char('c') { Asked::Leave } else { Asked::Stay };
        }
        if std::mem::take(&mut self.help) && key.code != KeyCode::Char('q') {
            return Asked::Stay;
        }
        match key.code {
            KeyCode::Char('q') | KeyCode::Esc => return Asked::Leave,
            KeyCode::Char('v') => return Asked::Variant,
            KeyCode::Char('?') => self.help = true,
            KeyCode::Char('s') if self.ways.len() > 1 => {
                self.follow((self.way + 1) % self.ways.len());
            }
            KeyCode::Char('s') => self.follow(0),
            KeyCode::Char('n') => self.seek_hazard(true),
            KeyCode::Char('N') => self.seek_hazard(false),
            KeyCode::Char(digit @ '1'..='9') => self.take(digit as usize - '1' as usize),
            KeyCode::Enter => self.take(self.chosen),
            KeyCode::Right | KeyCode::Char('l' | ' ') => self.forward(),
            KeyCode::Left | KeyCode::Char('h') | KeyCode::Backspace => {
                self.go(self.at.saturating_sub(1));
            }
            KeyCode::Down | KeyCode::Char('j') => {
                self.chosen = (self.chosen + 1).min(self.node().edges.len().saturating_sub(1));
            }
            KeyCode::Up | KeyCode::Char('k') => self.chosen = self.chosen.saturating_sub(1),
            KeyCode::Home | KeyCode::Char('g') => self.go(0),
            KeyCode::End | KeyCode::Char('G') => self.go(self.path.len() - 1),
            KeyCode::PageDown => self.scroll = self.scroll.saturating_add(5),
            KeyCode::PageUp => self.scroll = self.scroll.saturating_sub(5),
            _ => {}
        }
        Asked::Stay
    }

    /// The next step of the path; where it ends, the one that is chosen.
    fn forward(&mut self) {
        if self.at + 1 < self.path.len() { self.go(self.at + 1) } else { self.take(self.chosen) }
    }

    /// Take one of the next steps.
    fn take(&mut self, edge: usize) {
        let node = self.path[self.at].node;
        let Some(actor) = self.graph.nodes[node].edges.get(edge).map(|edge| edge.actor) else {
            self.note = Some("there is no such step here");
            return;
        };
        let Some(hop) = self.hop(node, actor) else { return };
        if self.path.get(self.at + 1) != Some(&hop) {
            self.path.truncate(self.at + 1);
            self.path.push(hop);
            self.by_hand = true;
        }
        self.go(self.at + 1);
    }

    fn seek_hazard(&mut self, ahead: bool) {
        let shows = |at: &usize| self.edge_to(*at).is_some_and(|edge| !edge.hazards.is_empty());
        let found = if ahead {
            (self.at + 1..self.path.len()).find(shows)
        } else {
            (0..self.at).rev().find(shows)
        };
        match found {
            Some(at) => self.go(at),
            None if ahead => self.note = Some("no hazard ahead on this schedule"),
            None => self.note = Some("no hazard before this step"),
        }
    }

    fn edge_to(&self, at: usize) -> Option<&Edge> {
        let (node, edge) = self.path[at].by?;
        Some(&self.graph.nodes[node].edges[edge])
    }

    /// The state that is shown.
    pub(super) fn node(&self) -> &Node {
        &self.graph.nodes[self.path[self.at].node]
    }

    /// The step that led to it.
    pub(super) fn last(&self) -> Option<&Edge> {
        self.edge_to(self.at)
    }

    /// What it looks like.
    pub(super) fn picture(&self) -> Picture {
        self.graph.stage.picture(self.scenario, &self.node().state)
    }

    /// The stage of the picture.
    pub(super) const fn stage(&self) -> &driftheap::report::picture::Stage {
        &self.graph.stage
    }

    /// `step 3 of 10`, and of what.
    pub(super) fn place(&self) -> String {
        let of = match self.ways.get(self.way) {
            Some((title, _)) if !self.by_hand => title.as_str(),
            _ => "by hand",
        };
        format!("step {} of {} ({of})", self.at, self.path.len() - 1)
    }
}
