//! All unsafe code (placeholder docs).

pub mod arena;
pub mod map;
pub mod page;
pub mod pin;
pub mod secret;
pub mod touch;
pub mod uffd;
