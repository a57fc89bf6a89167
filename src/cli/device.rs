//! The options of a device, which are those of `run` and of `serve`.

use std::path::PathBuf;

use anyhow::Context as _;
use clap::Args;
use driftheap::device::live::emulate::DeviceSpec;
use driftheap::device::rules::{distinct, heaps_from_toml, parse_size};
use driftheap::device::{HeapConfig, Limits};

use super::out::Out;

#[derive(Args, Debug)]
pub(crate) struct DeviceArgs {
    /// Heap to offer, may be repeated [default: system, or the name of the node]
    ///
    /// Rules: mmap=pfnmap (default), mixedmap-insert-pfn, mixedmap-insert-page or shmem;
    /// cow=reject (default) or allow. Of buffers that move (`run --live`, `serve --socket`):
    /// on-dma-buf-pin, on-foreign-pin, recycle, wait, and the steps move, purge and revoke, such as
    /// move=[lock zap copy rebind free unlock]; `driftheap rules exporter` says what each means.
    /// SIZE bounds the heap's buffers together, with K, M or G.
    #[arg(long = "heap", value_name = "NAME[:SIZE][,RULE=VALUE]...")]
    pub(super) heaps: Vec<HeapConfig>,
    /// TOML file of [[heap]] tables with name, size and the rules of --heap
    #[arg(long, value_name = "FILE", conflicts_with = "heaps")]
    pub(super) heaps_file: Option<PathBuf>,
    /// Most bytes of all buffers; beyond it ALLOC answers ENOMEM
    #[arg(long, value_name = "SIZE", default_value = "1G", value_parser = parse_size)]
    pub(super) max_bytes: u64,
    /// Most buffers; beyond it ALLOC answers EMFILE
    #[arg(long, value_name = "N", default_value_t = 65_536)]
    pub(super) max_buffers: usize,
    /// Where `driftheap ctl` finds this device [default: a directory of yours, see `ctl`]
    #[arg(long, value_name = "PATH")]
    pub(super) control: Option<PathBuf>,
}

impl DeviceArgs {
    /// Heaps from the command line or the file; one called `system` if there is neither.
    pub(super) fn heaps(&self) -> anyhow::Result<Vec<HeapConfig>> {
        if let Some(path) = &self.heaps_file {
            let text = super::input::read_text(path).map_err(anyhow::Error::msg)?;
            return heaps_from_toml(&text).with_context(|| format!("in {}", path.display()));
        }
        if self.heaps.is_empty() {
            return Ok(vec![HeapConfig::new("system")]);
        }
        Ok(distinct(self.heaps.clone())?)
    }

    /// Says which rules of its heaps have no effect on buffers that stay where they are.
    pub(super) fn note_idle_rules(heaps: &[HeapConfig], out: &Out) {
        for heap in heaps {
            let idle = heap.given_of_moves();
            if !idle.is_empty() {
                out.note(&format!(
                    "driftheap: heap {}: {} without effect: buffers do not move without --live\n",
                    heap.name,
                    idle.join(", ")
                ));
            }
        }
    }

    pub(super) fn limits(&self) -> Limits {
        Limits { bytes: self.max_bytes, buffers: self.max_buffers, ..Limits::default() }
    }
}

/// Devices by names of their own: reports and recordings tell them apart by these.
pub(super) fn distinct_devices(devices: &[DeviceSpec]) -> anyhow::Result<()> {
    for (index, device) in devices.iter().enumerate() {
        if devices[..index].iter().any(|other| other.name == device.name) {
            anyhow::bail!("two devices are called `{}`: give each a name of its own", device.name);
        }
    }
    Ok(())
}
