//! The litmus language.

pub mod ast;
pub mod cond;
mod op;
mod print;
pub mod scenario;
pub mod span;
pub mod verdict;
mod words;
