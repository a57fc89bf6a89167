//! `driftheap serve --socket`: an exporter for programs that use the client library.

use std::path::Path;
use std::sync::Arc;

use anyhow::Context as _;
use driftheap::device::control::Controlled;
use driftheap::device::live::emulate::Running;
use driftheap::device::live::findings::Finding;
use driftheap::device::live::operation::Patience;
use driftheap::device::look::Look;
use driftheap::device::socket::{Config, Exporter};
use driftheap::device::transport::now_ns;
use driftheap::uapi::page_size;

use super::ctl::{clear_stale, serve_control};
use super::device::distinct_devices;
use super::serve::{ServeArgs, end_signals, wait};
use super::{Exit, out::Out, record};

/// Runs until a signal.
pub(super) fn run(path: &Path, args: ServeArgs, out: &Out) -> anyhow::Result<Exit> {
    let config = Config {
        heaps: args.device.heaps()?,
        limits: args.device.limits(),
        vram_pages: usize::try_from(args.vram / page_size()).unwrap_or(usize::MAX),
        patience: Patience::default(),
        record: args.record.is_some(),
    };
    distinct_devices(&args.devices)?;
    // Before any thread starts, so that all of them inherit it.
    let signals = end_signals();
    signals.thread_block().context("can't block signals")?;
    let listening = args.web.listen("driftheap serve --web")?;
    let exporter = Exporter::new(config)?;
    clear_stale(path, out);
    exporter.serve(path)?;
    let _socket = Unlink(path);
    let mut devices = Vec::new();
    for (spec, number) in args.devices.into_iter().zip(0..) {
        let running = Running::start(spec, Arc::clone(&exporter) as Arc<_>, number, now_ns);
        devices.push(running.context("can't start an emulated device's thread")?);
    }
    let asked: Arc<dyn Controlled> = Arc::clone(&exporter) as Arc<_>;
    let control = serve_control(args.device.control, Arc::clone(&asked), out);
    let seen = Arc::clone(&exporter);
    let looker = move |known, _| seen.look(|device, bus| Look::at(device, Some(bus), None, known));
    let web = listening.map(|listening| listening.serve(Box::new(looker), asked, out));
    let web = web.transpose()?;
    if !out.quiet {
        out.text(&format!("serving at {}\n", path.display()))?;
    }
    let mut told = 0;
    wait(&signals, || {
        told = tell(&exporter, told, out);
        false
    });
    drop(control);
    drop(devices);
    if let Some(web) = web {
        web.end(&[]);
    }
    tell(&exporter, told, out);
    let summary = exporter.look(|device, bus| {
        if !out.quiet {
            let (stats, findings) = (&device.stats, bus.findings.summary());
            let findings = if findings.is_empty() { "nothing wrong".into() } else { findings };
            out.note(&format!(
                "driftheap: {} buffers, {} bytes, {} moves of {} pages: {findings}\n",
                stats.buffers, stats.bytes, stats.moves, stats.pages_moved
            ));
        }
        let name = args.record.as_deref().map(record::name_of);
        let question = "What the clients of an exporter did.";
        let recordings =
            name.zip(bus.recorder.as_ref()).map(|(name, r)| r.recordings(&name, question));
        (bus.findings.counts().is_empty(), recordings)
    });
    let mut exit = if summary.0 { Exit::Good } else { Exit::Differs };
    if let (Some(path), Some(recordings)) = (&args.record, &summary.1) {
        exit = exit.max(record::write(path, recordings, out)?);
    }
    Ok(exit)
}

/// Reports what is new; how many reports there were so far.
fn tell(exporter: &Exporter, told: usize, out: &Out) -> usize {
    for line in exporter.take_log() {
        out.note(&format!("{line}\n"));
    }
    let (text, count) = exporter.look(|_, bus| {
        let kept = bus.findings.kept();
        (kept[told..].iter().map(Finding::text).collect::<String>(), kept.len())
    });
    if !text.is_empty() {
        out.note(&text);
    }
    count
}

/// The listener lives on a thread that is never joined, so its path is removed here.
struct Unlink<'a>(&'a Path);

impl Drop for Unlink<'_> {
    fn drop(&mut self) {
        let _gone = std::fs::remove_file(self.0);
    }
}
