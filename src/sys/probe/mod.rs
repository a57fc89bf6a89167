//! What this machine lets this user do: one probe per mechanism, each by really trying.
//!
//! Nothing is assumed at compile time and no version number is compared: a probe uses the
//! mechanism as the executor would, checks what came of it and leaves nothing behind. What can
//! only be tried by changing the process (namespaces, filters) is tried in a child that never
//! executes anything; see `attempt.rs`.
//!
//! **Differs from Linux:** these probes ask about the running kernel and the sandbox around this
//! process. The same kernel may answer differently outside a container.

mod attempt;
mod devices;
mod machine;
mod memory;
mod pins;

pub use devices::{
    cuse_device, fuse_device, fuse_mount_fusermount3, fuse_mount_namespace, fuse_mount_root,
    pidfd_getfd, ptrace, seccomp_notify, user_namespace,
};
pub use machine::machine;
pub use memory::{collapse, hugetlb, memfd_secret, memlock, userfaultfd, userfaultfd_kernel};
pub use pins::{direct_io, io_uring, vmsplice};

/// What came of trying one mechanism.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Probe {
    /// The mechanism, by the kernel's name.
    pub name: &'static str,
    /// Whether it works for this user, here and now.
    pub available: bool,
    /// What was seen: features, limits, or the error.
    pub detail: String,
    /// What can't be shown without it.
    pub coverage_lost: &'static str,
    /// What would enable it; empty when it is available.
    pub remedy: &'static str,
}

/// What is in the way of a mechanism, in words.
struct Lacks(String);

impl<E: std::error::Error> From<E> for Lacks {
    fn from(error: E) -> Self {
        Self(error.to_string())
    }
}

/// A failure with these words.
fn lacks<T>(text: impl Into<String>) -> Result<T, Lacks> {
    Err(Lacks(text.into()))
}

impl Probe {
    /// A probe from its result: the detail of a success, or of a failure.
    fn new(
        name: &'static str,
        result: Result<String, Lacks>,
        coverage_lost: &'static str,
        remedy: &'static str,
    ) -> Self {
        match result {
            Ok(detail) => Self { name, available: true, detail, coverage_lost, remedy: "" },
            Err(Lacks(detail)) => Self { name, available: false, detail, coverage_lost, remedy },
        }
    }
}

/// Every probe, in the order in which `doctor` prints them.
#[must_use]
pub fn all() -> Vec<Probe> {
    vec![
        machine(),
        userfaultfd(),
        userfaultfd_kernel(),
        memfd_secret(),
        memlock(),
        io_uring(),
        vmsplice(),
        direct_io(&std::env::temp_dir()),
        collapse(),
        hugetlb(),
        fuse_device(),
        fuse_mount_root(),
        fuse_mount_fusermount3(),
        fuse_mount_namespace(),
        cuse_device(),
        seccomp_notify(),
        ptrace(),
        pidfd_getfd(),
        user_namespace(),
    ]
}

/// A file of /proc or /sys for a detail, "absent", or the reason why it can't be read.
fn setting(path: &str) -> String {
    match std::fs::read_to_string(path) {
        Ok(text) => text.trim().to_owned(),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => "absent".to_owned(),
        Err(error) => format!("({error})"),
    }
}
