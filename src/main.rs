//! The `driftheap` command.

mod cli;

use std::process::ExitCode;

fn main() -> ExitCode {
    // An actor of the executor is this same program; its one argument is the link to its conductor.
    let mut args = std::env::args_os().skip(1);
    if args.next().is_some_and(|verb| verb == "__actor") {
        let link = args.next().and_then(|fd| driftheap::sys::process::inherited_link(&fd).ok());
        return link.map_or(ExitCode::from(2), driftheap::exec::actor_main);
    }
    cli::main()
}
