//! The device: transports that bring a request to the handler and its answer back.

pub mod cuse;
