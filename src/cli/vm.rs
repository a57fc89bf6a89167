//! A virtual machine with a stock kernel, for `compare --vm` and `check --kernel`:
//! tools/vm/run, the laboratory module and what they need travel in this program.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, bail};
use driftheap::conformance::{Answers, parse};

use super::measure::{Ran, SUITE_SECONDS_MAX, bounded};
use super::out::Out;

/// The scripts, by name.
const SCRIPTS: [(&str, &str); 21] = [
    ("run", include_str!("../../tools/vm/run")),
    ("fetch", include_str!("../../tools/vm/fetch")),
    ("init", include_str!("../../tools/vm/init")),
    ("qemu", include_str!("../../tools/vm/qemu")),
    ("lab-module/build", include_str!("../../tools/lab-module/build")),
    ("lab-module/Kbuild", include_str!("../../tools/lab-module/Kbuild")),
    ("lab-module/driftheap_lab.h", include_str!("../../tools/lab-module/driftheap_lab.h")),
    ("lab-module/lab.h", include_str!("../../tools/lab-module/lab.h")),
    ("lab-module/main.c", include_str!("../../tools/lab-module/main.c")),
    ("lab-module/exporter.c", include_str!("../../tools/lab-module/exporter.c")),
    ("lab-module/mmap.c", include_str!("../../tools/lab-module/mmap.c")),
    ("lab-module/steps.c", include_str!("../../tools/lab-module/steps.c")),
    ("lab-module/pool.c", include_str!("../../tools/lab-module/pool.c")),
    ("lab-module/importer.c", include_str!("../../tools/lab-module/importer.c")),
    ("lab-module/gup.c", include_str!("../../tools/lab-module/gup.c")),
    ("lab-module/mm.c", include_str!("../../tools/lab-module/mm.c")),
    ("lab-module/edu.c", include_str!("../../tools/lab-module/edu.c")),
    ("lab-module/bar.c", include_str!("../../tools/lab-module/bar.c")),
    ("heap-module/build", include_str!("../../tools/arm64/heap-module/build")),
    ("heap-module/Kbuild", include_str!("../../tools/arm64/heap-module/Kbuild")),
    ("heap-module/heap.c", include_str!("../../tools/arm64/heap-module/heap.c")),
];

/// O_DIRECT pins pages only above a block device: a loop device, since the guest has no disk.
const GUEST: &str = "head -c 65536 /dev/zero >/tmp/disk
    losetup /dev/loop0 /tmp/disk
    CONFORMANCE_DIRECT=/dev/loop0 exec ./driftheap compare --measure";

/// The same where nothing but the guest has this architecture.
const GUEST_ALONE: &str = "[ ! -e driftheap_heap.ko ] || insmod driftheap_heap.ko
    head -c 65536 /dev/zero >/tmp/disk
    losetup /dev/loop0 /tmp/disk
    CONFORMANCE_DIRECT=/dev/loop0 exec ./driftheap compare --measure --all";

/// Longest that all of it may take on an emulated processor.
const EMULATED_SECONDS_MAX: u64 = 4 * SUITE_SECONDS_MAX;

/// Builds this program for another architecture.
const BUILD: &str = "tools/arm64/build";

/// tools/vm/run's status when there is no guest to be had.
pub(super) const SKIPPED: i32 = 77;

/// The fetch of a first run, and what follows it.
const SECONDS_MAX: u64 = SUITE_SECONDS_MAX + 600;

/// The scripts in a directory of ours alone, which goes with this value.
pub(super) struct Scripts(PathBuf);

impl Scripts {
    pub(super) fn unpack() -> anyhow::Result<Self> {
        let directory = std::env::temp_dir().join(format!("driftheap-vm-{}", std::process::id()));
        let made = fs::DirBuilder::new().mode(0o700).create(&directory);
        made.with_context(|| format!("can't make {}", directory.display()))?;
        let scripts = Self(directory);
        for directory in ["lab-module", "heap-module"] {
            fs::create_dir(scripts.path(directory)).context("can't make a directory")?;
        }
        for (name, text) in SCRIPTS {
            let path = scripts.0.join(name);
            fs::write(&path, text)
                .and_then(|()| fs::set_permissions(&path, PermissionsExt::from_mode(0o700)))
                .with_context(|| format!("can't write {}", path.display()))?;
        }
        // The guest's file is called as this link is.
        let own = std::env::current_exe().context("can't find driftheap's own executable")?;
        std::os::unix::fs::symlink(own, scripts.0.join("driftheap")).context("can't link")?;
        Ok(scripts)
    }

    /// A file in the directory.
    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Scripts {
    fn drop(&mut self) {
        let _gone = fs::remove_dir_all(&self.0);
    }
}

/// Boots a kernel and measures there: `release`, the kernel's exporters, and `cuse`.
pub(super) fn measure() -> anyhow::Result<(String, BTreeMap<String, Answers>)> {
    let scripts = Scripts::unpack()?;
    let mut command = Command::new(scripts.0.join("run"));
    command.args(["--flavour", "full"]);
    for module in ["vgem", "cuse", "loop"] {
        command.args(["--module", module]);
    }
    command.args(["--timeout", &SUITE_SECONDS_MAX.to_string(), "--program"]);
    command.arg(scripts.0.join("driftheap")).args(["--", "sh", "-ec", GUEST]);
    measured(&bounded(&mut command, SECONDS_MAX)?)
}

/// The same in a guest of another architecture, with each of our transports.
pub(super) fn measure_elsewhere(
    arch: &str,
    pages: &str,
    program: Option<&Path>,
    out: &Out,
) -> anyhow::Result<(String, BTreeMap<String, Answers>)> {
    let scripts = Scripts::unpack()?;
    let built = scripts.0.join("built");
    let program = if let Some(program) = program {
        program.to_owned()
    } else {
        if !Path::new(BUILD).exists() {
            bail!("--arch {arch} needs --program FILE, or a checkout here, which has {BUILD}");
        }
        fs::create_dir(&built).context("can't make a directory")?;
        let ran = bounded(Command::new(BUILD).arg(&built), 2 * SECONDS_MAX)?;
        if !ran.status.success() {
            bail!("{BUILD}: {}: {}", ran.status, ran.stderr.trim());
        }
        built.join("driftheap")
    };
    // The guest's file is called as this one is.
    let named = scripts.0.join(arch);
    fs::create_dir(&named).context("can't make a directory")?;
    let program =
        fs::canonicalize(&program).with_context(|| format!("can't find {}", program.display()))?;
    std::os::unix::fs::symlink(program, named.join("driftheap")).context("can't link")?;
    let flavour = if pages == "16k" { "16k" } else { "full" };
    let kernel = ["--arch", arch, "--flavour", flavour];
    // What it fetches the module is built for.
    let mut fetch = Command::new(scripts.0.join("run"));
    fetch.args(kernel).args(["--timeout", "120", "--", "true"]);
    let fetched = bounded(&mut fetch, SECONDS_MAX)?;
    if fetched.status.code() == Some(SKIPPED) {
        bail!("{}", fetched.stderr.trim());
    }
    // Debian's arm64 kernels have no heaps: theirs, as a module. Without it the exporters are measured.
    let build = scripts.0.join("heap-module/build");
    let made = bounded(Command::new(build).arg(&named).arg(flavour), SECONDS_MAX)?;
    match made.status.code() {
        Some(0) => {}
        Some(SKIPPED) => out.note(&format!("no heap in the guest: {}\n", made.stderr.trim())),
        _ => bail!("the heap does not build: {}\n{}", made.status, made.stderr.trim()),
    }
    let mut command = Command::new(scripts.0.join("run"));
    command.args(kernel);
    for module in ["vgem", "cuse", "loop"] {
        command.args(["--module", module]);
    }
    command.args(["--timeout", &EMULATED_SECONDS_MAX.to_string(), "--dir"]);
    command.arg(&named).args(["--", "sh", "-ec", GUEST_ALONE]);
    measured(&bounded(&mut command, EMULATED_SECONDS_MAX + SECONDS_MAX)?)
}

/// What a guest printed.
fn measured(ran: &Ran) -> anyhow::Result<(String, BTreeMap<String, Answers>)> {
    match ran.status.code() {
        Some(0) => {}
        Some(SKIPPED) => bail!("{}", ran.stderr.trim()),
        _ => bail!("the guest did not measure: {}\n{}", ran.status, ran.stderr.trim()),
    }
    let release = ran.stdout.lines().find_map(|line| line.strip_prefix("# Linux "));
    let release = release.context("the guest did not name its kernel")?.to_owned();
    Ok((release, parse(&ran.stdout)))
}
