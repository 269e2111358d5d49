//! The `credfs` program: hands over to the `cli` room.

use std::process::ExitCode;

fn main() -> ExitCode {
    credfs::cli::run()
}
