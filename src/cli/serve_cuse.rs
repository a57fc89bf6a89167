//! `driftheap serve --cuse`: a heap as a character device.

use std::os::fd::AsFd as _;
use std::sync::{Arc, Mutex};

use anyhow::{Context as _, bail};
use driftheap::device::control::Controlled;
use driftheap::device::cuse::{End, HandleSocket, HeapNode, Name, Node, NodeState, Roots};
use driftheap::device::look::Look;
use driftheap::device::transport::{lock, now_ns};
use driftheap::device::{Device, HeapConfig};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use rustix::event::{EventfdFlags, eventfd};

use super::ctl::serve_control;
use super::device::DeviceArgs;
use super::serve::{ServeArgs, end_signals};
use super::{Exit, out::Out};

/// Runs until a signal, or until the kernel takes the device away.
pub(super) fn run(name: &str, args: ServeArgs, out: &Out) -> anyhow::Result<Exit> {
    let name = Name::new(name)?;
    let heap = heap_of(&name, &args.device)?;
    let device = Device::new(vec![heap.clone()], args.device.limits());
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
    let asked: Arc<dyn Controlled> = Arc::clone(&state) as Arc<_>;
    let control = serve_control(args.device.control, Arc::clone(&asked), out);
    let seen = Arc::clone(&state);
    let looker = move |known, _| Look::at(&lock(&seen).device, None, None, known);
    let web = listening.map(|listening| listening.serve(Box::new(looker), asked, out));
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
fn heap_of(name: &Name, args: &DeviceArgs) -> anyhow::Result<HeapConfig> {
    if args.heaps.is_empty() && args.heaps_file.is_none() {
        let text = name.to_string();
        return Ok(HeapConfig::new(text.rsplit('/').next().unwrap_or(&text)));
    }
    let mut heaps = args.heaps()?;
    match (heaps.pop(), heaps.is_empty()) {
        (Some(heap), true) => Ok(heap),
        _ => bail!("a node is one heap: give one --heap, and start a server for each further node"),
    }
}
