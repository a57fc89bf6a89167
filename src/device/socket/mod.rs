//! The socket: an exporter for cooperating clients, whose buffers move under them.
//!
//! | module | what |
//! |---|---|
//! | [`protocol`] | messages |
//! | [`memory`] | the buffers' files and their mappings in the clients |
//! | [`exporter`] | the exporter's state, and what it tells clients |
//! | `serve` | connections and requests |
//!
//! The clients' side is [`crate::client`]. The socket has mode 0600, and who is neither our user
//! nor root by SO_PEERCRED is refused.
//!
//! **Differs from Linux**: a buffer lives as long as a client has a handle of it; a file that was
//! passed on and not imported keeps the memory, and is not moved.

mod control;
pub mod exporter;
pub mod memory;
pub mod protocol;
mod serve;

pub use exporter::{Config, Exporter, SetupError};
