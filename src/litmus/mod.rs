//! The litmus language (placeholder).
