//! Runs of a kernel in which processes run free are looked up in the model: each schedule of the model is
//! found again, and what no schedule shows is not explained. No kernel is needed for that.

mod exec_common;

use driftheap::exec::{Explained, Explainer, FreeRun, Replays, Seen, free_supports, schedules};
use driftheap::model::{Effect, ExporterStep, HazardKind, Reply, Signal, Slot, Step};
use driftheap::question::scenario::{Action, Outcome, Scenario};
use driftheap::units::FrameId;
use exec_common::{judged, variant};
use rustix::io::Errno;

/// The run of a kernel that does as the model does in this schedule, and its outcome.
fn run_of(scenario: &Scenario, schedule: &[u8]) -> (FreeRun, Outcome) {
    let replay = scenario.replay(schedule).expect("a schedule of the model");
    assert!(replay.complete, "{schedule:?}");
    let nothing = |program: &driftheap::question::scenario::Program| {
        Some(vec![Seen::Nothing; program.instructions.len()])
    };
    let mut seen: Vec<Option<Vec<Seen>>> = scenario.programs.iter().map(nothing).collect();
    let mut before = &replay.before;
    for event in &replay.events {
        let instruction = &scenario.programs[event.actor].instructions[event.pc];
        let Action::Step(step) = &instruction.action else { continue };
        let frame = event.effects.iter().find_map(|effect| {
            if let Effect::Pinned(_, _, _, frame, _)
            | Effect::PfnCached(_, _, _, frame)
            | Effect::DmaStarted(_, _, frame, _) = *effect
            {
                Some(frame)
            } else {
                None
            }
        });
        let pinned_before = seen[event.actor].as_ref().expect("lives")[event.pc] != Seen::Nothing;
        let (at, what) = match (event.reply, step) {
            (Reply::Again | Reply::Skipped, _) => continue,
            (Reply::Done, Step::GupFast { .. }) if frame.is_none() => continue,
            (Reply::Done, Step::GupSlow { .. }) if pinned_before => continue,
            (Reply::Value(value), _) => (event.pc, Seen::Value(value)),
            (Reply::Signal(Signal::Sigbus), _) => (event.pc, Seen::Sigbus),
            (Reply::Signal(_), _) => (event.pc, Seen::Sigsegv),
            (Reply::Errno(_), Step::Close(_)) => {
                (event.pc, Seen::Refused(Errno::BADF.raw_os_error()))
            }
            (Reply::Errno(errno), _) => (event.pc, Seen::Refused(number_of(errno.name()))),
            (Reply::Done, Step::GupFast { .. }) => (event.pc + 1, word(scenario, event, frame)),
            (
                Reply::Done,
                Step::GupSlow { .. } | Step::FollowPfn { .. } | Step::DmaStart { .. },
            ) => (event.pc, word(scenario, event, frame)),
            (Reply::Done, Step::Validate { sg, .. }) => {
                let stale = before.model.sgs[sg.index()] == Slot::Invalid;
                (event.pc, Seen::Word(stale.into(), 0))
            }
            (Reply::Done, Step::Exporter { step: ExporterStep::Notify, .. }) => {
                let heard = event.effects.iter().filter(|e| matches!(e, Effect::Notified(..)));
                (event.pc, Seen::Word(u8::try_from(heard.count()).unwrap_or(u8::MAX), 0))
            }
            (Reply::Done, _) => (event.pc, Seen::Done),
        };
        seen[event.actor].as_mut().expect("lives")[at] = what;
        before = &event.after;
    }
    for (actor, seen) in seen.iter_mut().enumerate() {
        if scenario.next(replay.last(), actor).is_some() {
            *seen = None;
        }
    }
    let model = &replay.last().model;
    let pages = model.pages.iter().map(|page| page.frame.is_some().then(|| number(page.frame)));
    let values = model.frames.iter().map(|frame| frame.value);
    let run = FreeRun { seen, pages: pages.collect(), values: values.collect() };
    (run, replay.outcome)
}

fn word(
    scenario: &Scenario,
    event: &driftheap::question::scenario::ScheduleStep,
    frame: Option<FrameId>,
) -> Seen {
    use driftheap::model::Owner;
    let Some(frame) = frame else { return Seen::Done };
    let owner = event.after.model.frames[frame.index()].owner;
    let own = matches!(owner, Owner::Anon | Owner::Zero) || frame == scenario.world.zero_page();
    Seen::Word(1, if own { u32::MAX } else { number(frame) })
}

fn number(frame: FrameId) -> u32 {
    u32::try_from(frame.index()).unwrap_or(u32::MAX)
}

fn number_of(name: &str) -> i32 {
    let known = [
        ("EFAULT", Errno::FAULT),
        ("EBUSY", Errno::BUSY),
        ("EINVAL", Errno::INVAL),
        ("ENOMEM", Errno::NOMEM),
        ("ENODEV", Errno::NODEV),
        ("EACCES", Errno::ACCESS),
        ("EPERM", Errno::PERM),
    ];
    let found = known.iter().find(|(known, _)| *known == name);
    found.map_or(0, |(_, errno)| errno.raw_os_error())
}

fn outcomes(explainer: &Explainer<'_>, run: &FreeRun) -> Vec<Outcome> {
    match explainer.explain(run) {
        Explained::Outcomes(found) => found.into_iter().map(|(outcome, _)| outcome).collect(),
        Explained::Not { .. } | Explained::TooMany => Vec::new(),
    }
}

#[test]
fn each_schedule_of_the_model_is_found_again() {
    let (mut variants, mut runs) = (0, 0);
    for bundled in driftheap::suite::TESTS {
        for scenario in exec_common::scenarios(bundled.file, bundled.text) {
            if free_supports(&scenario).is_err() || scenario.variant.contains("huge") {
                continue;
            }
            let judgement = judged(&scenario);
            if judgement.hazards.contains_key(&HazardKind::KernelBug) {
                continue;
            }
            let Ok(explainer) = Explainer::new(&scenario) else { continue };
            variants += 1;
            let complete = |schedule: &Vec<u8>| scenario.replay(schedule).unwrap().complete;
            let (chosen, _) = schedules(&scenario, &judgement, Replays::Sample(2, 1));
            for schedule in chosen.iter().filter(|schedule| complete(schedule)) {
                let (run, outcome) = run_of(&scenario, schedule);
                let found = explainer.explain(&run);
                let name = format!("{}/{} {schedule:?}", scenario.test, scenario.variant);
                let Explained::Outcomes(found) = found else {
                    panic!("{name}: {found:?}\n{run:?}")
                };
                assert!(found.iter().any(|(known, _)| *known == outcome), "{name}: {found:?}");
                runs += 1;
            }
        }
    }
    eprintln!("{runs} schedules of {variants} variants");
    assert!(variants > 150 && runs > 500, "{runs} schedules of {variants} variants");
}

#[test]
fn what_no_schedule_shows_is_not_explained() {
    let scenario = variant("insert-page-and-move", "mixedmap-insert-page");
    let judgement = judged(&scenario);
    let explainer = Explainer::new(&scenario).expect("no huge entries");
    let shortest = judgement
        .exploration
        .outcomes
        .iter()
        .find(|(outcome, _)| outcome.hazards & HazardKind::CrossBufferWrite.bit() != 0);
    let (_, tally) = shortest.expect("it goes wrong");
    let (run, outcome) = run_of(&scenario, &tally.shortest);
    assert!(outcomes(&explainer, &run).contains(&outcome));

    // A frame that holds what nobody wrote.
    for index in 0..run.values.len() {
        let mut other = run.clone();
        other.values[index] ^= 0x55;
        let zero = scenario.world.zero_page().index() == index;
        assert_eq!(outcomes(&explainer, &other).is_empty(), !zero, "frame {index}");
    }
    // A page that is elsewhere.
    for index in 0..run.pages.len() {
        let mut other = run.clone();
        other.pages[index] = Some(200);
        assert!(outcomes(&explainer, &other).is_empty(), "page {index}");
    }
    // Each answer that tells something, as another one.
    let mut told = 0;
    for (process, answers) in run.seen.iter().enumerate() {
        for (at, answer) in answers.iter().flatten().enumerate() {
            if *answer == Seen::Nothing {
                continue;
            }
            let mut other = run.clone();
            let changed = &mut other.seen[process].as_mut().expect("lives")[at];
            *changed = Seen::Refused(Errno::XDEV.raw_os_error());
            assert!(outcomes(&explainer, &other).is_empty(), "P{process}, {at}: {answer:?}");
            told += 1;
        }
    }
    assert!(told > 10, "{told}");
    // Somebody hangs, of whom the model says that he comes to his end.
    let mut other = run.clone();
    other.seen[0] = None;
    assert!(outcomes(&explainer, &other).is_empty());
}
