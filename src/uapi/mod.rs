//! Kernel structures and ioctl numbers that no crate we use carries.
//!
//! Everything here is plain data: no system call is made from this module. What `linux-raw-sys`
//! has is used from there; what it lacks is defined here, its size and offsets asserted at
//! compile time and compared with the machine's own headers by a test where they are installed.

pub mod userfaultfd;
