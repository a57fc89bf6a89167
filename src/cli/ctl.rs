//! `driftheap ctl`: looks into a running device.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use clap::{Args, ValueEnum};
use driftheap::device::control::{PACKET_BYTES_MAX, Query, Verb};
use driftheap::device::runtime;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketAddrUnix, SocketFlags, SocketType};

use super::{Exit, out::Out};

/// Look into a device that `driftheap run` or `driftheap serve` keeps, or move its buffers.
///
/// Prints what the kernel would: `info` is /sys/kernel/debug/dma_buf/bufinfo, `info INO` a
/// buffer's fdinfo, `trace` the dma_buf tracepoints.
#[derive(Args, Debug)]
pub(crate) struct CtlArgs {
    /// What to show
    verb: Verb,
    /// Inode of one buffer, from `list`
    ino: Option<u64>,
    /// The device's control socket [default: that of the only running device]
    #[arg(long, value_name = "PATH")]
    socket: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Longest wait for a device that does not answer, in seconds.
const ANSWER_SECONDS_MAX: u64 = 15;

pub(crate) fn run(args: &CtlArgs, out: &Out) -> anyhow::Result<Exit> {
    if args.verb.is_of_one_buffer() && args.ino.is_none() {
        let word =
            args.verb.to_possible_value().map_or_else(String::new, |v| v.get_name().to_owned());
        bail!("say which buffer: `driftheap ctl {word} INO`, with INO from `driftheap ctl list`");
    }
    let path = match &args.socket {
        Some(path) => path.clone(),
        None => only_socket(&runtime::directory())?,
    };
    let query = Query { verb: args.verb, ino: args.ino, json: args.json };
    let answer = ask(&path, &query)
        .with_context(|| format!("no answer from the device at {}", path.display()))?;
    out.text(&answer)?;
    Ok(Exit::Good)
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

fn ask(path: &Path, query: &Query) -> anyhow::Result<String> {
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
    let mut answer = Vec::new();
    let mut packet = vec![0; PACKET_BYTES_MAX];
    loop {
        let (_, len) = rustix::net::recv(&socket, &mut packet, RecvFlags::empty())?;
        if len == 0 {
            break;
        }
        answer.extend_from_slice(&packet[..len]);
    }
    let answer = String::from_utf8_lossy(&answer).into_owned();
    match answer.strip_prefix("refused: ") {
        Some(why) => bail!("{}", why.trim()),
        None => Ok(answer),
    }
}
