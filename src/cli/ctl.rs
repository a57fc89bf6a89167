//! `driftheap ctl`: looks into a running device.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context as _, bail};
use clap::{Args, ValueEnum};
use driftheap::device::control::{
    Control, ControlAnswer, ControlCommand, Controlled, Head, PACKET_BYTES_MAX, Query, Status,
    default_path,
};
use driftheap::device::runtime;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketAddrUnix, SocketFlags, SocketType};

use super::{Exit, out::Out};

/// Look into a device that `driftheap run` or `driftheap serve` keeps, or move its buffers
///
/// Prints what the kernel would: `info` is /sys/kernel/debug/dma_buf/bufinfo, `info INO` a
/// buffer's fdinfo, `trace` the dma_buf tracepoints.
///
/// What works where:
///                                  run   run --live,   serve     serve    serve
///                                        --chaos       --mount   --cuse   --socket
///   list, info, stats, trace       yes   yes           yes       yes      yes
///   move, evict, purge, revoke     -     yes           yes       -        yes
///   zap                            -     -             yes       -        -
///
/// Exit status:
///   0  it was answered, or done
///   1  the device refused, or has no buffer with that inode
///   2  bad usage, or no device that answers
#[derive(Args, Debug)]
#[command(verbatim_doc_comment)]
pub(crate) struct CtlArgs {
    /// What to show
    verb: ControlCommand,
    /// Inode of one buffer, from `list`
    #[arg(value_parser = inode)]
    ino: Option<u64>,
    /// The device's control socket [default: that of the only running device]
    #[arg(long, value_name = "PATH")]
    socket: Option<PathBuf>,
    /// One JSON object per line: a buffer, an event, the counters, or what became of an order
    #[arg(long)]
    json: bool,
}

/// Longest wait for a device that does not answer, in seconds.
const ANSWER_SECONDS_MAX: u64 = 15;

fn inode(text: &str) -> Result<u64, String> {
    let error =
        |_| format!("`{text}` is not an inode: `driftheap ctl list` shows those of the buffers");
    text.parse().map_err(error)
}

pub(crate) fn run(args: &CtlArgs, out: &Out) -> anyhow::Result<Exit> {
    if args.verb.is_of_one_buffer() && args.ino.is_none() {
        let word =
            args.verb.to_possible_value().map_or_else(String::new, |v| v.get_name().to_owned());
        bail!("say which buffer: `driftheap ctl {word} INO`, with INO from `driftheap ctl list`");
    }
    if let (ControlCommand::List | ControlCommand::Stats | ControlCommand::Trace, Some(ino)) =
        (args.verb, args.ino)
    {
        bail!("this is about all buffers: `driftheap ctl info {ino}` shows one");
    }
    let path = match &args.socket {
        Some(path) => path.clone(),
        None => only_socket(&runtime::directory())?,
    };
    let query = Query { verb: args.verb, ino: args.ino, json: args.json };
    let answer = ask(&path, &query)
        .with_context(|| format!("no answer from the device at {}", path.display()))?;
    match answer.outcome {
        Status::Ok => {
            out.text(&answer.text)?;
            Ok(Exit::Good)
        }
        Status::Refused | Status::Unknown if args.json => {
            out.text(&answer.text)?;
            Ok(Exit::Differs)
        }
        Status::Refused => {
            out.error(&format!("refused: {}", answer.text.trim_end()));
            Ok(Exit::Differs)
        }
        Status::Unknown => {
            out.error(answer.text.trim_end());
            Ok(Exit::Differs)
        }
    }
}

/// Serves the control socket, where it was asked for or in the user's directory. That there is none
/// is said: the device goes on.
pub(super) fn serve_control(
    asked: Option<PathBuf>,
    device: Arc<dyn Controlled>,
    out: &Out,
) -> Option<Control> {
    if let Some(path) = &asked {
        clear_stale(path, out);
    }
    let named = asked.as_ref().map_or_else(String::new, |path| format!(" at {}", path.display()));
    let is_own = asked.is_none();
    let path = asked.map_or_else(default_path, Ok);
    let served = path.and_then(|path| {
        Control::serve(&path, device).inspect_err(|_| {
            if is_own {
                runtime::release(&path);
            }
        })
    });
    match served {
        Ok(control) => Some(control),
        Err(error) => {
            out.note(&format!(
                "driftheap: no control socket{named}, so `driftheap ctl` finds nothing: {error}\n"
            ));
            None
        }
    }
}

/// Removes a socket that a killed process left where a new one is to be.
pub(super) fn clear_stale(path: &Path, out: &Out) {
    if runtime::is_stale_socket(path) {
        out.note(&format!(
            "driftheap: {} was left by a process that is gone; it is replaced\n",
            path.display()
        ));
        runtime::remove(path);
    }
}

/// The one socket in the directory whose device is alive.
fn only_socket(directory: &Path) -> anyhow::Result<PathBuf> {
    match runtime::trusted(directory) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error.into()),
        _ => {}
    }
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    let alive = |path: &PathBuf| {
        path.extension().is_some_and(|kind| kind == "sock")
            && runtime::owner(path).is_some_and(runtime::is_alive)
    };
    let mut sockets: Vec<PathBuf> = entries.map(|entry| entry.path()).filter(alive).collect();
    match sockets.len() {
        0 => bail!("no device runs: start one with `driftheap run -- PROGRAM`"),
        1 => Ok(sockets.remove(0)),
        _ => {
            let names: Vec<String> =
                sockets.iter().map(|path| format!("  --socket {}", path.display())).collect();
            bail!("several devices run; say which:\n{}", names.join("\n"))
        }
    }
}

fn ask(path: &Path, query: &Query) -> anyhow::Result<ControlAnswer> {
    if runtime::is_stale_socket(path) {
        bail!("nobody listens at this socket any more: the device has ended");
    }
    let flags = SocketFlags::CLOEXEC;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
    let timeout = std::time::Duration::from_secs(ANSWER_SECONDS_MAX);
    rustix::net::sockopt::set_socket_timeout(
        &socket,
        rustix::net::sockopt::Timeout::Recv,
        Some(timeout),
    )?;
    rustix::net::connect(&socket, &SocketAddrUnix::new(path)?)?;
    let (peer, own) =
        (rustix::net::sockopt::socket_peercred(&socket)?.uid, rustix::process::geteuid());
    if peer != own && !peer.is_root() && !own.is_root() {
        bail!("the server is of user {}, not yours: it is not trusted", peer.as_raw());
    }
    rustix::net::send(&socket, &serde_json::to_vec(query)?, SendFlags::NOSIGNAL)?;
    let mut packet = vec![0; PACKET_BYTES_MAX];
    let (_, len) = rustix::net::recv(&socket, &mut packet, RecvFlags::empty())?;
    let head: Head = serde_json::from_slice(&packet[..len])
        .context("it does not speak as this driftheap does; is it another version's?")?;
    let mut text = Vec::new();
    loop {
        let (_, len) = rustix::net::recv(&socket, &mut packet, RecvFlags::empty())?;
        if len == 0 {
            break;
        }
        text.extend_from_slice(&packet[..len]);
    }
    Ok(ControlAnswer { outcome: head.outcome, text: String::from_utf8_lossy(&text).into_owned() })
}
