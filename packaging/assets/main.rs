//! Writes the manual pages and shell completions that the packages ship, made from the command line itself.
//!
//! ```text
//! cargo run --example assets -- DIRECTORY      man1/*.1, completion/{bash,zsh,fish}
//! ```

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a program that tells a builder what it made")]

mod pages;

use std::path::PathBuf;
use std::process::ExitCode;

fn main() -> ExitCode {
    let Some(directory) = std::env::args_os().nth(1).map(PathBuf::from) else {
        eprintln!("usage: assets DIRECTORY");
        return ExitCode::from(2);
    };
    match pages::write(&directory) {
        Ok(files) => {
            println!("{} files in {}", files.len(), directory.display());
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("assets: {} cannot be written: {error}", directory.display());
            ExitCode::FAILURE
        }
    }
}
