//! The `driftheap` command.

use std::process::ExitCode;

fn main() -> ExitCode {
    let mut args = std::env::args_os().skip(1);
    if args.next().is_some_and(|verb| verb == "__actor") {
        let link = args.next().and_then(|fd| driftheap::sys::process::inherited_link(&fd).ok());
        return link.map_or(ExitCode::from(2), driftheap::exec::actor_main);
    }
    ExitCode::SUCCESS
}
