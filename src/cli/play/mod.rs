//! `driftheap play`: pages that answer, on this machine alone.
//!
//! | file | what |
//! |---|---|
//! | `desk` | how many questions there are at once, and how one is cut off |
//! | `answer` | a text to diagnostics or verdicts and a drawing |
//! | `real` | a text to what real memory says, bit by bit |
//! | `lessons` | the bundled tests in a teaching order |
//! | `page` | the document |
//!
//! # Invariants
//! - Nothing that comes by HTTP names a file: what can be read are the bundled tests and the file of the
//!   command line, as it was when the server began.
//! - Who may ask is decided as in [`web`](super::web).
//! - A question ends when its limit is reached, when its client asks for it, and when nobody is left
//!   who waits for its answer.

mod answer;
mod desk;
mod lessons;
mod page;
mod real;

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context, bail};
use axum::Router;
use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use axum::routing::{get, post};
use clap::Args;
use driftheap::device::supervisor::net::caught;
use driftheap::suite;
use serde::{Deserialize, Serialize};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

use super::Exit;
use super::input;
use super::out::Out;
use super::web::{self, HttpError, Reply, json, read};
use answer::Ask;
use desk::{Desk, Stopper};

/// Longest question, in bytes.
const TEXT_BYTES_MAX: usize = 64 << 10;

/// Longest body of a request: a question as a JSON text, each byte of it escaped at worst.
const BODY_BYTES_MAX: usize = 6 * TEXT_BYTES_MAX + 4096;

/// Learn and try in a browser: edit a question, flip a rule, step through what goes wrong
///
/// Serves a page on 127.0.0.1 and prints its address, which ends with a secret word: without it
/// nothing is answered. The bundled tests are the lessons. What is typed is answered at once, with
/// every mistake at its place; a rule that is flipped changes the text and the verdict; each next step
/// of a drawing is a button, as in the pages of `driftheap report`. Two more buttons ask real memory:
/// `replay` and `hunt`.
///
/// Limits: a question of 64 KiB, 200000 states and 256 MiB a variant, 10 seconds in all; a race of 10
/// seconds; one question at a time from a page, four in all. Nothing is written, and no file is
/// read but FILE, once.
///
/// Ctrl-C ends it.
///
/// Examples:
///   driftheap play
///   driftheap play my.litmus --port 8080
///
/// Exit status:
///   0  ended
///   2  FILE can't be read, or the port is not free
#[derive(Debug, Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct PlayArgs {
    /// A question to begin with: a file, or a bundled test by name or row [default: the first lesson]
    #[arg(value_name = "FILE")]
    file: Option<String>,

    /// The port; 0 is any that is free
    #[arg(long, value_name = "N", default_value_t = 0)]
    port: u16,
}

/// What all requests share.
#[derive(Debug)]
struct Shared {
    /// The name and the text to begin with.
    first: (String, String),
    /// This program, of which the processes on real memory are copies.
    program: PathBuf,
    desk: Desk,
}

type Server = State<Arc<Shared>>;

pub(crate) fn run(args: &PlayArgs, out: &Out) -> anyhow::Result<Exit> {
    let first = match &args.file {
        None => None,
        Some(name) => match &mut input::texts(name)[..] {
            [Ok(text)] if text.text.len() > TEXT_BYTES_MAX => {
                bail!(
                    "{name}: longer than {} KiB, which is the most that is answered here",
                    TEXT_BYTES_MAX >> 10
                )
            }
            [Ok(text)] => Some((text.file.clone(), text.text.clone())),
            [Err(message)] => bail!("{message}"),
            _ => bail!("`{name}` is several tests; name one"),
        },
    };
    let first = first.or_else(lesson_one).context("there are no lessons")?;
    let program = std::env::current_exe().context("this program can't find itself")?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("can't start a runtime")?;
    runtime.block_on(serve(args.port, first, program, out))?;
    // A question that is under way is told to end; nobody waits for it.
    runtime.shutdown_background();
    Ok(Exit::Good)
}

fn lesson_one() -> Option<(String, String)> {
    let (name, _) = lessons::CHAPTERS.first()?.lessons.first()?;
    suite::find(name).map(|test| (test.file.to_owned(), test.text.to_owned()))
}

async fn serve(
    port: u16,
    first: (String, String),
    program: PathBuf,
    out: &Out,
) -> anyhow::Result<()> {
    let (listener, gate) = web::listen(port, "driftheap play")?;
    let listener = TcpListener::from_std(listener).context("can't listen")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("can't watch for Ctrl-C")?;
    let mut terminate = signal(SignalKind::terminate()).context("can't watch for SIGTERM")?;
    let mut hangup = signal(SignalKind::hangup()).context("can't watch for SIGHUP")?;
    out.text(&format!("{}\n", gate.address()))?;
    if !out.quiet {
        out.note("Open this address in a browser on this machine. Ctrl-C ends it.\n");
    }
    let shared = Arc::new(Shared { first, program, desk: Desk::new() });
    let routes = web::guarded(router(Arc::clone(&shared)), &Arc::new(gate));
    let server = axum::serve(listener, routes);
    tokio::select! {
        ended = server.into_future() => ended.context("the server ended")?,
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
        _ = hangup.recv() => {}
    }
    shared.desk.stop_all();
    Ok(())
}

fn router(shared: Arc<Shared>) -> Router {
    Router::new()
        .route("/", get(document))
        .route("/lesson", post(lesson))
        .route("/answer", post(answers))
        .route("/rule", post(rule))
        .route("/step", post(step))
        .route("/replay", post(replay))
        .route("/hunt", post(hunt))
        .route("/cancel", post(cancel))
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
        .with_state(shared)
}

/// A question that is short enough.
fn ask(body: &Bytes) -> Result<Ask, HttpError> {
    let ask: Ask = read(body)?;
    if ask.text.len() > TEXT_BYTES_MAX {
        let why = format!("the question is longer than {} KiB", TEXT_BYTES_MAX >> 10);
        return Err(HttpError(StatusCode::PAYLOAD_TOO_LARGE, why));
    }
    Ok(ask)
}

async fn document(State(shared): Server) -> Response {
    page::response(&shared.first)
}

#[derive(Deserialize)]
struct Lesson {
    name: String,
}

#[derive(Serialize)]
struct Text<'a> {
    text: &'a str,
}

async fn lesson(body: Bytes) -> Reply {
    let lesson: Lesson = read(&body)?;
    match suite::TESTS.iter().find(|test| test.name == lesson.name) {
        Some(test) => Ok(json(&Text { text: test.text })),
        None => {
            Err(HttpError(StatusCode::NOT_FOUND, format!("there is no lesson `{}`", lesson.name)))
        }
    }
}

async fn rule(body: Bytes) -> Reply {
    let flip: answer::Flip = read(&body)?;
    match flip.apply() {
        Ok(text) => Ok(json(&Text { text: &text })),
        Err(why) => Err(HttpError(StatusCode::BAD_REQUEST, why)),
    }
}

async fn answers(State(shared): Server, headers: HeaderMap, body: Bytes) -> Reply {
    let ask = ask(&body)?;
    let ticket = shared.desk.begin(&headers).await.ok_or_else(busy)?;
    let stopper = Stopper::new(&ticket);
    let work = move || {
        let result = caught(|| answer::answer(&ask, ticket.limits()));
        drop(ticket);
        result
    };
    let done = tokio::task::spawn_blocking(work).await;
    drop(stopper);
    match done {
        Ok(Some(answer)) => Ok(json(&answer)),
        Ok(None) | Err(_) => {
            let why = "internal error: the question could not be answered; the terminal says where";
            Err(HttpError(StatusCode::INTERNAL_SERVER_ERROR, why.to_owned()))
        }
    }
}

/// The states of a schedule, which the page does not hold.
async fn step(State(shared): Server, body: Bytes) -> Reply {
    let steps: answer::Steps = read(&body)?;
    let place = shared.desk.place().await.ok_or_else(busy)?;
    let done = tokio::task::spawn_blocking(move || {
        let told = caught(|| steps.told());
        drop(place);
        told
    });
    match done.await {
        Ok(Some(Ok(told))) => Ok(json(&told)),
        Ok(Some(Err(why))) => Err(HttpError(StatusCode::BAD_REQUEST, why)),
        Ok(None) | Err(_) => {
            let why = "internal error: the step could not be taken; the terminal says where";
            Err(HttpError(StatusCode::INTERNAL_SERVER_ERROR, why.to_owned()))
        }
    }
}

fn busy() -> HttpError {
    let why = format!("{} questions are being answered; try again in a moment", desk::RUNNING_MAX);
    HttpError(StatusCode::SERVICE_UNAVAILABLE, why)
}

async fn replay(State(shared): Server, headers: HeaderMap, body: Bytes) -> Reply {
    on_real_memory(shared, headers, body, real::Kind::Replay).await
}

async fn hunt(State(shared): Server, headers: HeaderMap, body: Bytes) -> Reply {
    on_real_memory(shared, headers, body, real::Kind::Hunt).await
}

async fn on_real_memory(
    shared: Arc<Shared>,
    headers: HeaderMap,
    body: Bytes,
    kind: real::Kind,
) -> Reply {
    let ask = ask(&body)?;
    let ticket = shared.desk.begin(&headers).await.ok_or_else(busy)?;
    real::stream(&shared, ticket, ask, kind).await
}

#[derive(Serialize)]
struct Cancelled {
    cancelled: bool,
}

async fn cancel(State(shared): Server, headers: HeaderMap) -> Response {
    json(&Cancelled { cancelled: shared.desk.cancel(&headers) })
}
