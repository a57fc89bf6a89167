//! `driftheap serve --cuse`: a heap as a character device.

use std::os::fd::AsFd as _;
use std::sync::{Arc, Mutex};

use anyhow::{Context as _, bail};
use driftheap::device::control::{Answerer, answer_node};
use driftheap::device::cuse::{End, HandleSocket, HeapNode, Name, Node, NodeState, Roots, lock};
use driftheap::device::look::Look;
use driftheap::device::supervisor::now_ns;
use driftheap::device::{Device, HeapConfig, Limits};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use rustix::event::{EventfdFlags, eventfd};

use super::ctl::serve_control;
use super::serve::{ServeArgs, end_signals};
use super::{Exit, out::Out, run::heaps};

/// Runs until a signal, or until the kernel takes the device away.
pub(super) fn run(name: &str, args: ServeArgs, out: &Out) -> anyhow::Result<Exit> {
    let name = Name::new(name)?;
    let heap = heap_of(&name, args.heaps, args.heaps_file.as_ref())?;
    let limits = Limits { bytes: args.max_bytes, buffers: args.max_buffers, ..Limits::default() };
    let device = Device::new(vec![heap.clone()], limits);
    let id = device.heap(&heap.name).context("a device without its heap")?;
    let state = Arc::new(Mutex::new(NodeState::new(device, id)));
    // Before any thread starts, so that all of them inherit it.
    let signals = end_signals();
    signals.thread_block().context("can't block signals")?;
    let listening = args.web.listen("driftheap serve --web")?;
    let stop = SignalFd::with_flags(&signals, SfdFlags::SFD_CLOEXEC).context("no signalfd")?;
    let wake = eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC).context("no eventfd")?;
    let node = HeapNode::new(Arc::clone(&state), now_ns);
    let mut node = Node::create(&name, node, &Roots::default())?;
    let _handles = HandleSocket::serve(&name, Arc::clone(&state))
        .with_context(|| format!("can't listen on @driftheap/{name}, which gives out memory"))?;
    let asked = Arc::clone(&state);
    let answerer: Arc<Answerer> = Arc::new(move |query| answer_node(query, &asked));
    let control = serve_control(args.control, Arc::clone(&answerer), out);
    let seen = Arc::clone(&state);
    let looker = move |known, _| Look::at(&lock(&seen).device, None, None, known);
    let web = listening.map(|listening| listening.serve(Box::new(looker), answerer, out));
    let web = web.transpose()?;
    if let Some(number) = node.node_to_make() {
        let (major, minor) = number.split_once(':').unwrap_or((number, ""));
        out.note(&format!(
            "driftheap: this /dev shows no new devices: mknod {} c {major} {minor}\n",
            node.path().display()
        ));
    }
    if !out.quiet {
        out.text(&format!("serving {}\n", node.path().display()))?;
    }
    let end = node.serve(stop.as_fd(), wake.as_fd());
    drop(control);
    if let Some(web) = web {
        web.end(&[]);
    }
    if !out.quiet {
        let stats = lock(&state).device.stats;
        out.note(&format!(
            "driftheap: {} buffers, {} bytes, {} ioctls ({} failed)\n",
            stats.buffers, stats.bytes, stats.ioctls, stats.ioctl_errors
        ));
    }
    match end? {
        End::Stopped => Ok(Exit::Good),
        End::Removed => bail!("the kernel took {} away (abort in sysfs)", node.path().display()),
    }
}

/// The one heap that a node is: called like the node unless it was named.
fn heap_of(
    name: &Name,
    listed: Vec<HeapConfig>,
    file: Option<&std::path::PathBuf>,
) -> anyhow::Result<HeapConfig> {
    if listed.is_empty() && file.is_none() {
        let text = name.to_string();
        return Ok(HeapConfig::new(text.rsplit('/').next().unwrap_or(&text)));
    }
    let mut heaps = heaps(listed, file)?;
    match (heaps.pop(), heaps.is_empty()) {
        (Some(heap), true) => Ok(heap),
        _ => bail!("a node is one heap: give one --heap, and start a server for each further node"),
    }
}
