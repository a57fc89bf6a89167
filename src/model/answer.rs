//! What the kernel answers when it refuses.

use std::fmt;

/// An errno that the kernel answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Errno {
    /// Bad address.
    Efault,
    /// Device or resource busy.
    Ebusy,
    /// Invalid argument.
    Einval,
    /// Out of memory.
    Enomem,
    /// No such device.
    Enodev,
    /// Permission denied.
    Eacces,
    /// Operation not permitted.
    Eperm,
}

impl Errno {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::Efault,
        Self::Ebusy,
        Self::Einval,
        Self::Enomem,
        Self::Enodev,
        Self::Eacces,
        Self::Eperm,
    ];

    /// Its name in errno(3).
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Efault => "EFAULT",
            Self::Ebusy => "EBUSY",
            Self::Einval => "EINVAL",
            Self::Enomem => "ENOMEM",
            Self::Enodev => "ENODEV",
            Self::Eacces => "EACCES",
            Self::Eperm => "EPERM",
        }
    }
}

impl fmt::Display for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What ends a CPU access that can't be served.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Signal {
    /// Nothing behind the mapping.
    Sigbus,
    /// No mapping, or not with this protection.
    Sigsegv,
    /// The kernel oopsed in this process's fault.
    Oops,
}

impl Signal {
    /// Its name in signal(7); `OOPS` for a kernel bug.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Sigbus => "SIGBUS",
            Self::Sigsegv => "SIGSEGV",
            Self::Oops => "OOPS",
        }
    }
}

impl fmt::Display for Signal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
