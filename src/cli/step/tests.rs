//! Keys in, a grid of cells out; what stands in the cells is the model's.

use driftheap::litmus::parse;
use driftheap::litmus::rules::ModelRules;
use driftheap::model::{Owner, Slot, State};
use driftheap::question::scenario::{Scenario, ScenarioState};
use driftheap::question::verdict::{Search, judge};
use driftheap::report::page::ways;
use driftheap::suite;
use driftheap::units::{FrameId, MAX_PAGES};
use ratatui::Terminal;
use ratatui::backend::TestBackend;
use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};

use super::draw::draw;
use super::view::{Asked, View};

fn scenarios(bundled: &suite::Bundled) -> Vec<Scenario> {
    let test = parse(bundled.file, bundled.text, &ModelRules).expect("a bundled test");
    test.variants.iter().map(|v| Scenario::new(v, bundled.text).expect("a scenario")).collect()
}

type Ways = Vec<(String, Vec<u8>)>;

fn ways_of(scenario: &Scenario) -> Ways {
    ways(&judge(scenario, &Search::default(), &mut |_| ()).expect("an answer"))
}

fn press(view: &mut View<'_>, code: KeyCode) -> Asked {
    view.key(KeyEvent::new(code, KeyModifiers::NONE))
}

fn drawn(view: &View<'_>, columns: u16, lines: u16, colour: bool) -> Terminal<TestBackend> {
    let mut terminal = Terminal::new(TestBackend::new(columns, lines)).expect("a grid");
    terminal.draw(|frame| draw(frame, view, colour)).expect("drawn");
    terminal
}

/// The lines of the grid.
fn lines(view: &View<'_>, columns: u16, lines: u16) -> Vec<String> {
    let terminal = drawn(view, columns, lines, false);
    let buffer = terminal.backend().buffer();
    let row = |y| (0..columns).map(|x| buffer[(x, y)].symbol()).collect::<String>();
    (0..lines).map(row).collect()
}

/// The frames that anything holds the address of, sorted: straight from the model.
fn addresses(state: &State) -> Vec<FrameId> {
    let ptes = state.ptes.iter().map(|pte| pte.frame);
    let held = |slot: Slot| matches!(slot, Slot::Held | Slot::Taking | Slot::Invalid);
    let pins = state.pins.iter().filter(|pin| held(pin.slot)).map(|pin| pin.frame);
    let sgs = (0..state.sgs.len())
        .filter(|sg| held(state.sgs[*sg]))
        .flat_map(|sg| state.sg_frames[sg * MAX_PAGES..(sg + 1) * MAX_PAGES].iter().copied());
    let dmas = state.dmas.iter().filter(|dma| dma.busy).map(|dma| dma.frame);
    let mut all: Vec<FrameId> =
        ptes.chain(pins).chain(sgs).chain(dmas).filter(|frame| frame.is_some()).collect();
    all.sort_unstable();
    all
}

/// The grid against the model's state; whether 80 by 24 is enough.
fn compare(scenario: &Scenario, view: &View<'_>, state: &ScenarioState, at: &str) -> bool {
    let (world, names) = (&scenario.world, &scenario.names);
    let fits = !lines(view, 80, 24).concat().contains("more lines");
    let grid = lines(view, 80, if fits { 24 } else { 40 });
    let text = grid.join("\n");
    let left: Vec<String> = grid.iter().map(|line| line.chars().take(43).collect()).collect();
    let frame_of = |text: &str| {
        let all = (0..state.model.frames.len()).map(FrameId::at);
        let named = all.filter(|frame| text.starts_with(&names.frame(world, *frame)));
        named.max_by_key(|frame| names.frame(world, *frame).len()).expect("a frame")
    };
    for (index, frame) in state.model.frames.iter().enumerate() {
        let name = format!("{} ", names.frame(world, FrameId::at(index)));
        let cell = left.iter().find(|line| line.starts_with(&name) && line.contains('['));
        let Some(cell) = cell else {
            assert_eq!(frame.owner, Owner::Free, "{at}: {name} is not shown\n{text}");
            continue;
        };
        let (_, inside) = cell.split_once('[').expect("a cell");
        let (inside, _) = inside.rsplit_once(']').expect("its end");
        if frame.owner == Owner::Free {
            assert_eq!(inside.trim(), "free", "{at}\n{text}");
            continue;
        }
        let (shown, holds) = inside.split_once('=').expect("what it holds");
        let owner = names.owner(world, frame.owner);
        // The grid's words are shorter: `old A[0]`, `new A[0]`, `shadow A[0]`, `anon`.
        let last = |text: &str| text.trim().rsplit(' ').next().unwrap_or_default().to_owned();
        let alike =
            last(&owner) == last(shown) || (last(shown) == "anon" && owner.contains("anon"));
        assert!(alike, "{at}: {name}is {owner}\n{text}");
        let value = holds.split_whitespace().next().expect("a value");
        assert_eq!(value, frame.value.to_string(), "{at}: {name}\n{text}");
    }
    let mut ends = Vec::new();
    for line in &left {
        let shaft = ["--->", "-x->"].into_iter().find_map(|shaft| line.split_once(shaft));
        if let Some((_, to)) = shaft {
            ends.push(frame_of(to.trim_start()));
        }
    }
    ends.sort_unstable();
    assert_eq!(ends, addresses(&state.model), "{at}: where the arrows end\n{text}");
    fits
}

#[test]
fn at_every_step_of_every_bundled_test_the_cells_are_the_models() {
    let (mut steps, mut hazards) = (0, 0);
    let mut large = std::collections::BTreeSet::new();
    for bundled in suite::TESTS {
        for scenario in scenarios(bundled) {
            let ways = ways_of(&scenario);
            let mut view =
                View::new(scenario.variant.clone(), &scenario, bundled.text, ways.clone());
            for (title, way) in &ways {
                let replay = scenario.replay(way).expect("a schedule");
                let at = format!("{}/{}, {title}", scenario.test, scenario.variant);
                let mut fits = compare(&scenario, &view, &replay.before, &at);
                for (index, event) in replay.events.iter().enumerate() {
                    assert_eq!(press(&mut view, KeyCode::Right), Asked::Stay);
                    let at = format!("{at}, step {index}");
                    fits &= compare(&scenario, &view, &event.after, &at);
                    let last = view.last().expect("a step");
                    assert_eq!(last.hazards.len(), event.hazards().count(), "{at}");
                    for sight in &last.hazards {
                        let text = lines(&view, 80, 24)[1..3].concat();
                        assert!(text.contains(&format!("! {}", sight.kind.word())), "{at}: {text}");
                        hazards += 1;
                    }
                    steps += 1;
                }
                press(&mut view, KeyCode::Char('s'));
                if !fits {
                    large.insert(bundled.name);
                }
            }
        }
    }
    // Eight pages with eight entries.
    assert_eq!(large.into_iter().collect::<Vec<_>>(), ["pat-walk-cost"], "80 by 24 is enough");
    assert!(steps > 1000 && hazards > 50, "{steps} steps, {hazards} hazards");
}

fn direct_io() -> (Scenario, Ways, &'static str) {
    let bundled = suite::find("ttm-direct-io").expect("a test");
    let scenario = scenarios(bundled).swap_remove(0);
    let ways = ways_of(&scenario);
    (scenario, ways, bundled.text)
}

#[test]
fn keys_go_forward_back_and_to_the_hazard() {
    let (scenario, ways, text) = direct_io();
    let steps = ways[0].1.len();
    let mut view = View::new("title".to_owned(), &scenario, text, ways);
    assert!(view.place().starts_with(&format!("step 0 of {steps} (the shortest")));
    press(&mut view, KeyCode::Char('n'));
    assert!(view.place().starts_with(&format!("step {steps} of {steps}")), "{}", view.place());
    let grid = lines(&view, 80, 24).join("\n");
    assert!(grid.contains("! cross-buffer-write"), "{grid}");
    let marked = grid.lines().filter(|line| line.contains("-x->") && line.contains(" !"));
    assert_eq!(marked.count(), 1, "the way that went wrong is marked:\n{grid}");
    press(&mut view, KeyCode::Char('n'));
    assert_eq!(view.note, Some("no hazard ahead on this schedule"));
    press(&mut view, KeyCode::Left);
    assert!(view.note.is_none() && view.place().starts_with(&format!("step {}", steps - 1)));
    press(&mut view, KeyCode::Char('N'));
    assert_eq!(view.note, Some("no hazard before this step"));
    press(&mut view, KeyCode::Home);
    assert!(view.last().is_none());
    press(&mut view, KeyCode::Left);
    assert!(view.last().is_none());
    press(&mut view, KeyCode::End);
    assert!(view.place().starts_with(&format!("step {steps} of {steps}")));
    assert_eq!(press(&mut view, KeyCode::Char('v')), Asked::Variant);
    press(&mut view, KeyCode::Char('?'));
    assert!(lines(&view, 80, 24).join("\n").contains("Any key goes back."));
    assert_eq!(press(&mut view, KeyCode::Char('?')), Asked::Stay);
    assert!(!view.help);
    for code in [KeyCode::Char('q'), KeyCode::Esc] {
        assert_eq!(press(&mut view, code), Asked::Leave);
    }
    let interrupt = KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL);
    assert_eq!(view.key(interrupt), Asked::Leave);
}

/// Somebody who takes the last process that can go, always, comes to an end; each step is real.
#[test]
fn by_hand_to_the_end_and_back() {
    for bundled in suite::TESTS {
        let scenario = scenarios(bundled).swap_remove(0);
        let ways = ways_of(&scenario);
        let mut view = View::new(String::new(), &scenario, bundled.text, ways);
        let mut schedule: Vec<u8> = Vec::new();
        while view.node().end.is_none() {
            let last = view.node().edges.len() - 1;
            (0..last).for_each(|_| assert_eq!(press(&mut view, KeyCode::Down), Asked::Stay));
            assert_eq!(view.chosen, last);
            schedule.push(view.node().edges[last].actor.try_into().expect("small"));
            press(&mut view, KeyCode::Enter);
        }
        let replay = scenario.replay(&schedule).expect("a schedule");
        let end = &replay.events.last().expect("a step").after;
        assert_eq!(&view.node().state, end, "{}", bundled.name);
        let grid = lines(&view, 80, 24).join("\n");
        assert!(grid.contains("The end. What is asked"), "{grid}");
        press(&mut view, KeyCode::Char('9'));
        assert_eq!(view.note, Some("there is no such step here"));
        for _ in 0..schedule.len() {
            press(&mut view, KeyCode::Backspace);
        }
        assert_eq!(view.node().state, replay.before);
    }
}

#[test]
fn colour_is_never_the_only_sign_and_off_when_it_shall_be() {
    use ratatui::style::Color;
    let (scenario, ways, text) = direct_io();
    let mut view = View::new("title".to_owned(), &scenario, text, ways);
    press(&mut view, KeyCode::Char('n'));
    let plain = drawn(&view, 80, 24, false);
    let coloured = |terminal: &Terminal<TestBackend>| {
        terminal.backend().buffer().content.iter().filter(|cell| cell.fg != Color::Reset).count()
    };
    let colour = drawn(&view, 80, 24, true);
    assert!(coloured(&plain) == 0 && coloured(&colour) > 0);
    let symbols = |terminal: &Terminal<TestBackend>| {
        terminal
            .backend()
            .buffer()
            .content
            .iter()
            .map(|c| c.symbol().to_owned())
            .collect::<String>()
    };
    assert_eq!(symbols(&plain), symbols(&colour));
}

#[test]
fn any_size_can_be_drawn() {
    let (scenario, ways, text) = direct_io();
    let mut view = View::new("title".to_owned(), &scenario, text, ways);
    press(&mut view, KeyCode::Char('n'));
    for columns in [1, 20, 40, 79, 80, 200] {
        for rows in [1, 5, 12, 13, 24, 100] {
            let grid = lines(&view, columns, rows).join("\n");
            let fits = columns >= 40 && rows >= 12;
            assert_eq!(grid.contains("Memory"), fits, "{columns} by {rows}:\n{grid}");
        }
    }
    let short = lines(&view, 80, 13).join("\n");
    assert!(short.contains("more lines: PageDown"), "{short}");
    (0..9).for_each(|_| assert_eq!(press(&mut view, KeyCode::PageDown), Asked::Stay));
    let short = lines(&view, 80, 13).join("\n");
    assert!(!short.contains("more lines") && !short.contains("Memory"), "{short}");
}
