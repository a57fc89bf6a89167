//! `--junit` and `--ktap`.

use std::path::PathBuf;

use clap::Args;
use driftheap::report::formats::{Case, junit, ktap};

use super::report::write;

/// Files for other tools.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct Formats {
    /// Also write the results to FILE as JUnit, for a CI server
    #[arg(long, value_name = "FILE")]
    junit: Option<PathBuf>,

    /// Also write the results to FILE as KTAP, as the kernel's tests print them
    #[arg(long, value_name = "FILE")]
    ktap: Option<PathBuf>,
}

impl Formats {
    /// Write what is asked for.
    pub(crate) fn write(&self, cases: &[Case]) -> anyhow::Result<()> {
        if let Some(path) = &self.junit {
            write(path, &junit(cases))?;
        }
        if let Some(path) = &self.ktap {
            write(path, &ktap(cases))?;
        }
        Ok(())
    }
}
