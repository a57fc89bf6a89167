//! `run --web` and `serve --web`: a page that shows a running device.
//!
//! | file | what |
//! |---|---|
//! | `view` | what is seen of a device, as a drawing, a table and news |
//! | `page` | the document |
//!
//! A thread of its own looks at the device and serves the page. It looks ten times a second while a
//! page is open, else once; it holds the device's lock for as long as [`Look::at`] copies, and asks
//! /proc who maps what without it. Nothing waits for a page.
//!
//! # Invariants
//! - Who may ask is decided as in [`web`](super::web).
//! - Nothing is moved, purged or revoked by a page without `--web-control`.
//! - It ends with the device, at the latest [`FAREWELL_MAX`] after it, and leaves nothing.

mod page;
mod view;

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::TcpListener;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::Context as _;
use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse as _, Response};
use axum::routing::{get, post};
use clap::Args;
use driftheap::device::Inode;
use driftheap::device::control::{ControlCommand, Controlled, Query, Status, answer};
use driftheap::device::look::{Known, Look};
use driftheap::device::misuse::Report;
use driftheap::device::supervisor::net::caught;
use driftheap::device::supervisor::users::{User, users};
use serde::{Deserialize, Serialize};
use tokio::sync::{oneshot, watch};

use super::out::Out;
use super::web::{self, Gate, HttpError, Reply};
use view::Books;

/// Time between two looks while a page is open, and while none is.
const LOOK_EVERY: Duration = Duration::from_millis(100);
const IDLE_EVERY: Duration = Duration::from_secs(1);

/// Looks between two walks through /proc.
const WALK_EVERY: u32 = 5;

/// Pages that are told at once; more are refused.
const PAGES_MAX: usize = 8;

/// How long pages have to hear that the device has ended.
const FAREWELL_MAX: Duration = Duration::from_millis(500);

/// The options of a device that can be looked at.
#[derive(Debug, Clone, Args)]
pub(super) struct WebArgs {
    /// Show the device in a browser on this machine: buffers, who uses them, moves, findings
    ///
    /// Serves a page on 127.0.0.1 while the device lives and prints its address on stderr, which ends
    /// with a secret word: without it nothing is answered.
    #[arg(long)]
    web: bool,
    /// The same at this port; 0 is any that is free. Implies --web
    #[arg(long, value_name = "N")]
    web_port: Option<u16>,
    /// Let the page move, evict, purge and revoke buffers. Implies --web
    #[arg(long)]
    web_control: bool,
}

/// A port that is listened at; nothing is served yet, so that no thread is started yet.
#[derive(Debug)]
pub(super) struct Listening {
    listener: TcpListener,
    gate: Gate,
    control: bool,
}

/// Looks at a device. Thoroughly: what the program has let go is released before.
pub(super) type Looker = dyn Fn(Known, bool) -> Look + Send + Sync;

impl WebArgs {
    /// Listens, if it is asked for.
    pub(super) fn listen(&self, verb: &'static str) -> anyhow::Result<Option<Listening>> {
        if !self.web && !self.web_control && self.web_port.is_none() {
            return Ok(None);
        }
        let (listener, gate) = web::listen(self.web_port.unwrap_or(0), verb)?;
        Ok(Some(Listening { listener, gate, control: self.web_control }))
    }
}

/// What the requests share.
struct Shared {
    books: Mutex<Books>,
    /// Counts the looks; pages wait for it.
    looks: watch::Sender<u64>,
    looker: Box<Looker>,
    device: Arc<dyn Controlled>,
    control: bool,
}

impl Shared {
    fn books(&self) -> MutexGuard<'_, Books> {
        self.books.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Looks, and tells the pages.
    fn look(&self, thorough: bool, used: Option<&BTreeMap<Inode, Vec<User>>>) {
        let known = self.books().known();
        let look = (self.looker)(known, thorough);
        self.books().digest(look, used);
        self.looks.send_modify(|looks| *looks += 1);
    }
}

/// A page that is served.
pub(super) struct Web {
    shared: Arc<Shared>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Listening {
    /// Serves the page from a thread of its own, and says where.
    pub(super) fn serve(
        self,
        looker: Box<Looker>,
        device: Arc<dyn Controlled>,
        out: &Out,
    ) -> anyhow::Result<Web> {
        let Self { listener, gate, control } = self;
        let address = gate.address();
        let (looks, _) = watch::channel(0);
        let books = Mutex::new(Books::default());
        let shared = Arc::new(Shared { books, looks, looker, device, control });
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_io()
            .enable_time()
            .build()
            .context("can't start a runtime")?;
        let routes = web::guarded(router(Arc::clone(&shared)), &Arc::new(gate));
        let (stop, stopped) = oneshot::channel();
        let served = Arc::clone(&shared);
        let work = move || {
            runtime.block_on(serve(listener, routes, served, stopped));
            // A look that hangs is not waited for.
            runtime.shutdown_background();
        };
        let thread = std::thread::Builder::new().name("web".to_owned()).spawn(work);
        let thread = thread.context("can't start a thread")?;
        out.note(&format!("driftheap: open in a browser on this machine: {address}\n"));
        Ok(Web { shared, stop: Some(stop), thread: Some(thread) })
    }
}

impl Web {
    /// The device has ended: the pages are told, with the last that is to be seen. `reports` are all
    /// misuse reports of the run.
    pub(super) fn end(self, reports: &[Report]) {
        let known = self.shared.books().known();
        let mut look = (self.shared.looker)(known, false);
        look.see_reports(reports);
        let mut books = self.shared.books();
        books.digest(look, None);
        books.end();
    }
}

impl Drop for Web {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // It can't have panicked but by a bug, which the terminal has told.
            drop(thread.join());
        }
    }
}

async fn serve(
    listener: TcpListener,
    routes: Router,
    shared: Arc<Shared>,
    mut stopped: oneshot::Receiver<()>,
) {
    let Ok(listener) = tokio::net::TcpListener::from_std(listener) else { return };
    let server = axum::serve(listener, routes).into_future();
    tokio::select! {
        _ended = server => {}
        () = watching(Arc::clone(&shared)) => {}
        _dropped = &mut stopped => {
            shared.looks.send_modify(|looks| *looks += 1);
        }
    }
    // The server's own tasks go on while the pages are told.
    let heard = async {
        while shared.looks.receiver_count() > 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let _heard = tokio::time::timeout(FAREWELL_MAX, heard).await;
}

/// Looks again and again.
async fn watching(shared: Arc<Shared>) {
    let mut since_walk = WALK_EVERY;
    let mut used: Option<BTreeMap<Inode, Vec<User>>> = None;
    let mut walked = Vec::new();
    loop {
        let open = shared.looks.receiver_count() > 0;
        let inodes = shared.books().inodes();
        let walk = open && (since_walk >= WALK_EVERY || inodes != walked);
        if walk {
            walked.clone_from(&inodes);
        }
        since_walk = if walk { 1 } else { since_walk.saturating_add(1) };
        let (of, before) = (Arc::clone(&shared), used.take());
        let looked = tokio::task::spawn_blocking(move || {
            caught(|| {
                let used = if walk { Some(users(&inodes)) } else { before };
                of.look(walk, used.as_ref());
                used
            })
        });
        match looked.await {
            Ok(Some(found)) => used = found,
            // A bug, which the terminal has told: the device goes on unseen.
            Ok(None) | Err(_) => std::future::pending().await,
        }
        tokio::time::sleep(if open { LOOK_EVERY } else { IDLE_EVERY }).await;
    }
}

fn router(shared: Arc<Shared>) -> Router {
    Router::new()
        .route("/", get(document))
        .route("/events", get(events))
        .route("/order", post(order))
        .with_state(shared)
}

type Server = State<Arc<Shared>>;

async fn document(State(shared): Server) -> Response {
    page::response(shared.control)
}

/// What a page has been told.
struct Told {
    looks: watch::Receiver<u64>,
    shared: Arc<Shared>,
    known: view::Known,
    ended: bool,
}

/// The state of the device, whenever it was looked at, as server-sent events.
async fn events(State(shared): Server) -> Reply {
    if shared.looks.receiver_count() >= PAGES_MAX {
        let why = format!("{PAGES_MAX} pages are open already");
        return Err(HttpError(StatusCode::SERVICE_UNAVAILABLE, why));
    }
    let mut looks = shared.looks.subscribe();
    looks.mark_changed();
    let told = Told { looks, shared, known: view::Known::default(), ended: false };
    let events = futures_util::stream::unfold(told, |mut told| async {
        if told.ended {
            return None;
        }
        told.looks.changed().await.ok()?;
        let (text, ended) = {
            let books = told.shared.books();
            (books.news(&mut told.known), books.has_ended())
        };
        told.ended = ended;
        let name = if ended { "ended" } else { "state" };
        let event = Event::default().event(name).data(text);
        Some((Ok::<Event, Infallible>(event), told))
    });
    Ok(Sse::new(events).keep_alive(KeepAlive::default()).into_response())
}

/// What a page wants done.
#[derive(Debug, Deserialize)]
struct Order {
    verb: ControlCommand,
    ino: u64,
}

#[derive(Debug, Serialize)]
struct Done {
    done: bool,
    text: String,
}

async fn order(State(shared): Server, body: Bytes) -> Reply {
    if !shared.control {
        let why = "this page only looks; start the device with --web-control";
        return Err(HttpError(StatusCode::FORBIDDEN, why.to_owned()));
    }
    let order: Order = web::read(&body)?;
    if !matches!(
        order.verb,
        ControlCommand::Move
            | ControlCommand::Evict
            | ControlCommand::Purge
            | ControlCommand::Revoke
    ) {
        return Err(HttpError(StatusCode::BAD_REQUEST, "that is not an order".to_owned()));
    }
    let query = Query { verb: order.verb, ino: Some(order.ino), json: false };
    // It waits until the device has done it.
    let answer = tokio::task::spawn_blocking(move || answer(&query, &*shared.device)).await;
    let Ok(answer) = answer else {
        let why = "internal error; the terminal says where";
        return Err(HttpError(StatusCode::INTERNAL_SERVER_ERROR, why.to_owned()));
    };
    let done = answer.outcome == Status::Ok;
    Ok(web::json(&Done { done, text: answer.text.trim_end().to_owned() }))
}
