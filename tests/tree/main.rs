//! The tree without a mount: what each caller is shown, and what happens to open files.
#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "tests")]

#[path = "../store/engine.rs"]
#[allow(dead_code, reason = "the tests of stores use the rest")]
mod engine;
mod matrix;
mod names;
mod open_files;
mod remote;
mod successor;
mod world;
