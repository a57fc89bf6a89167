//! The drivers of the guest's kernel that export buffers to programs.

use driftheap::conformance::{close_buffer, exporter_buffer};
use driftheap::exec::{Driver, KernelExecutor};
use driftheap::model::{Cow, FaultPage, MmapKind};
use driftheap::question::scenario::Scenario;

use super::wire::{Differs, DriverSaid};

/// Read from 6.12: `system_heap_mmap` (drivers/dma-buf/heaps/system_heap.c), `mmap_udmabuf`
/// (drivers/dma-buf/udmabuf.c), `drm_gem_shmem_mmap` and `drm_gem_shmem_fault`
/// (drivers/gpu/drm/drm_gem_shmem_helper.c), which vgem uses.
const DRIVERS: [Driver; 3] = [
    Driver {
        name: "system heap",
        mmap: MmapKind::RemapPfnRange,
        cow: Cow::Allow,
        fault_page: FaultPage::AtOffset,
        buffer: |pages| exporter_buffer("system", pages),
        close: close_buffer,
    },
    Driver {
        name: "udmabuf",
        mmap: MmapKind::Pfnmap,
        cow: Cow::Reject,
        fault_page: FaultPage::AtOffset,
        buffer: |pages| exporter_buffer("udmabuf", pages),
        close: close_buffer,
    },
    Driver {
        name: "vgem",
        mmap: MmapKind::Pfnmap,
        cow: Cow::Reject,
        fault_page: FaultPage::FromStart,
        buffer: |pages| exporter_buffer("vgem", pages),
        close: close_buffer,
    },
];

/// A kernel's drivers and how they answered; the reason where none could be asked.
pub(super) fn answer(
    executor: &mut KernelExecutor,
    scenario: &Scenario,
    schedules: &[Vec<u8>],
    begin: &mut dyn FnMut(usize) -> anyhow::Result<()>,
) -> anyhow::Result<Result<Vec<DriverSaid>, String>> {
    let mut all = Vec::new();
    let mut reason = None;
    for driver in &DRIVERS {
        if let Err(skip) = driver.maps_as(scenario) {
            reason = reason.or(Some(skip.to_string()));
            continue;
        }
        let mut said = DriverSaid { name: driver.name.to_owned(), ..DriverSaid::default() };
        for (index, schedule) in schedules.iter().enumerate() {
            begin(index)?;
            let report = match executor.replay_on(driver, scenario, schedule) {
                Ok(report) => report,
                Err(error) => {
                    let (what, model) = ("the schedule".to_owned(), "it can be taken".to_owned());
                    let real = format!("{}: {error}", driver.name);
                    said.difference = Some((index, Differs { step: 0, what, model, real }));
                    break;
                }
            };
            said.compared += report.compared;
            if let Some(why) = report.inexpressible {
                reason = Some(why);
                continue;
            }
            said.replayed += 1;
            said.steps += report.events;
            said.of += schedule.len();
            if let Some(found) = report.disagreement {
                let what = format!("{}, {}", driver.name, found.what);
                let (step, model, real) = (found.event + 1, found.model, found.real);
                said.difference = Some((index, Differs { step, what, model, real }));
                break;
            }
            said.agreed += 1;
        }
        if said.replayed > 0 || said.difference.is_some() {
            all.push(said);
        }
    }
    if all.is_empty() {
        return Ok(Err(reason.unwrap_or_else(|| "there is no such driver".to_owned())));
    }
    Ok(Ok(all))
}
