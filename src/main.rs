//! The `credfs` program: hands over to the `cli` room.

use std::process::ExitCode;

fn main() -> ExitCode {
    credfs::fuse::notifier::run_if_asked(std::env::args_os()).unwrap_or(ExitCode::SUCCESS)
}
