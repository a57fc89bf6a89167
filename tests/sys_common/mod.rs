//! What the tests of `sys` share.

use std::fmt::Display;
use std::time::Duration;

/// Far longer than anything here takes: no test's result depends on it.
pub(crate) const LONG: Duration = Duration::from_secs(20);

/// The value, or `None` with the reason printed: the mechanism is missing here.
pub(crate) fn available<T, E: Display>(what: &str, result: Result<T, E>) -> Option<T> {
    match result {
        Ok(value) => Some(value),
        Err(error) => {
            eprintln!("skipped: no {what} here: {error}");
            None
        }
    }
}
