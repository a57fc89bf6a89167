//! The `driftheap` command.

mod cli;

use std::process::ExitCode;

/// Out of memory is a message and exit status 1, not an abort.
#[global_allocator]
static ALLOCATOR: driftheap::sys::alloc::Bounded = driftheap::sys::alloc::Bounded;

fn main() -> ExitCode {
    driftheap::device::supervisor::net::abort_on_panic();
    // An actor of the executor is this same program; its one argument is the link to its conductor.
    let mut args = std::env::args_os().skip(1);
    let verb = args.next().unwrap_or_default();
    // `driftheap compare` runs this program as a client of the device.
    if verb == "__conformance" {
        let only = args.next().unwrap_or_default();
        return driftheap::conformance::main(&only.to_string_lossy());
    }
    if verb == "__actor" {
        let link = args.next().and_then(|fd| driftheap::sys::process::inherited_link(&fd).ok());
        return link.map_or(ExitCode::from(2), driftheap::exec::actor_main);
    }
    // `check --kernel` runs this program in a guest.
    if verb == "__lab" {
        return cli::lab(&args.next().unwrap_or_default(), args.next().as_deref());
    }
    cli::main()
}
