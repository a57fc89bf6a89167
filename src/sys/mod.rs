//! All unsafe code (placeholder docs).

pub mod arena;
pub mod link;
pub mod mailbox;
pub mod map;
pub mod page;
pub mod pin;
pub mod process;
pub mod secret;
pub mod touch;
pub mod uffd;
