//! Verbs of the `driftheap` command that concern the device.

pub mod run;
