//! Explorer (placeholder).
