//! The tree without a mount: what each caller is shown, and what happens to open files.
#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "tests")]

mod matrix;
mod names;
mod open_files;
mod successor;
mod world;
