//! A question to real memory, told bit by bit as server-sent events.

use std::convert::Infallible;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

use axum::http::StatusCode;
use axum::response::sse::{Event, Sse};
use axum::response::{IntoResponse, Response};
use driftheap::device::supervisor::net::caught;
use driftheap::exec::replay_variant_until;
use driftheap::exec::{ExecOptions, Executor, Histogram, HuntOptions, Replays, hunt};
use driftheap::question::scenario::Scenario;
use driftheap::question::verdict::{Judgement, judge_until};
use serde_json::json;
use tokio::sync::mpsc::{Sender, channel};

use super::super::input::parsed;
use super::super::web::HttpError;
use super::super::{hunt as hunt_verb, replay as replay_verb};
use super::Shared;
use super::answer::{Ask, FILE};
use super::desk::{Allowed, Stopper, Ticket};

/// Which question.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Schedules in lockstep.
    Replay,
    /// A race.
    Hunt,
}

/// Sampled schedules, beside the shortest ones.
const SAMPLE: usize = 20;

/// Runs of a race between two words of progress.
const RUNS: u64 = 32;

/// Tells whoever waits.
struct Teller(Sender<Event>);

impl Teller {
    /// Where we are; nobody waits for the reader, who may miss some of it.
    fn progress(&self, text: &str) {
        let _full = self.0.try_send(event("progress", text));
    }
}

fn event(name: &str, text: &str) -> Event {
    Event::default().event(name).data(json!({ "text": text }).to_string())
}

/// Begins to ask real memory, and answers with what it says.
pub(super) async fn stream(
    shared: &Arc<Shared>,
    ticket: Ticket,
    ask: Ask,
    kind: Kind,
) -> Result<Response, HttpError> {
    let stopper = Stopper::new(&ticket);
    let alone = Arc::clone(&shared.desk.real).acquire_owned().await;
    let alone = alone.map_err(|_| super::busy())?;
    let (sender, receiver) = channel(16);
    let program = shared.program.clone();
    // A thread of its own: its end is the end of the processes that it started.
    let work = move || {
        let teller = Teller(sender);
        let said = caught(|| run(kind, &ask, &program, &ticket.limits(), &teller));
        drop((ticket, alone));
        let last = match said {
            Some(Ok(text)) => event("done", &text),
            Some(Err(error)) => event("failed", &format!("{error:#}")),
            None => event("failed", "internal error; the terminal says where"),
        };
        let _gone = teller.0.blocking_send(last);
    };
    if let Err(error) = std::thread::Builder::new().name("real".to_owned()).spawn(work) {
        let why = format!("can't start a thread: {error}");
        return Err(HttpError(StatusCode::SERVICE_UNAVAILABLE, why));
    }
    let events =
        futures_util::stream::unfold((receiver, stopper), |(mut receiver, stopper)| async {
            let event = receiver.recv().await?;
            Some((Ok::<Event, Infallible>(event), (receiver, stopper)))
        });
    Ok(Sse::new(events).into_response())
}

fn run(
    kind: Kind,
    ask: &Ask,
    program: &Path,
    allowed: &Allowed,
    teller: &Teller,
) -> anyhow::Result<String> {
    let mistakes = |_| anyhow::anyhow!("the text has mistakes; they are shown beside it");
    let loaded = parsed(FILE, &ask.text).map_err(mistakes)?;
    let mut scenarios = loaded.scenarios().map_err(mistakes)?;
    let at = scenarios.iter().position(|scenario| scenario.variant == ask.variant).unwrap_or(0);
    anyhow::ensure!(at < scenarios.len(), "the test has no variants");
    let scenario = scenarios.swap_remove(at);
    teller.progress("exploring");
    let judgement = judge_until(&scenario, &Allowed::search(), &mut |_| allowed.go_on())?;
    if let Some(stop) = judgement.exploration.stopped {
        anyhow::bail!("the model has no answer to compare with: {}", allowed.why(stop));
    }
    match kind {
        Kind::Replay => replay(program, &scenario, &judgement, allowed, teller),
        Kind::Hunt => race(program, &scenario, &judgement, allowed, teller),
    }
}

fn replay(
    program: &Path,
    scenario: &Scenario,
    judgement: &Judgement,
    allowed: &Allowed,
    teller: &Teller,
) -> anyhow::Result<String> {
    let mut executor = Executor::new(ExecOptions::new(program.to_owned()))?;
    let mut ended = None;
    let mut progress = |done: usize, all: usize| {
        teller.progress(&format!("{done} of {all} schedules"));
        let go_on = allowed.go_on();
        if go_on.is_break() {
            ended = Some(format!(
                "Ended after {done} of {all} schedules: {}.\n",
                allowed.why(driftheap::explore::Stop::Asked)
            ));
        }
        go_on
    };
    let how = Replays::Sample(SAMPLE, 1);
    let replay = replay_variant_until(&mut executor, scenario, judgement, how, &mut progress)?;
    let text = replay_verb::describe(&replay_verb::line(scenario, replay), FILE);
    Ok(ended.unwrap_or_default() + &text)
}

fn race(
    program: &Path,
    scenario: &Scenario,
    judgement: &Judgement,
    allowed: &Allowed,
    teller: &Teller,
) -> anyhow::Result<String> {
    // Processes on one CPU take turns; races need all there are.
    let options = ExecOptions { pin_cpu: None, ..ExecOptions::new(program.to_owned()) };
    let mut executor = Executor::new(options)?;
    let how = HuntOptions { time: allowed.left(), ..HuntOptions::default() };
    let mut progress = |so_far: &Histogram| {
        if so_far.runs.is_multiple_of(RUNS) {
            let (positive, negative) = (so_far.positive(), so_far.negative());
            teller.progress(&format!(
                "{} runs: {positive} positive, {negative} negative",
                so_far.runs
            ));
        }
        if allowed.stopped() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    };
    let histogram = hunt(&mut executor, scenario, judgement, how, &mut progress)?;
    let ended = if allowed.stopped() { "Cancelled; until then:\n" } else { "" };
    Ok(ended.to_owned() + &hunt_verb::describe(scenario, &histogram, FILE))
}
