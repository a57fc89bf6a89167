//! All unsafe code.

pub mod backing;
pub mod notify;
pub mod seccomp;
pub mod spawn;
