//! A real mount served by this process, over stores and logs that misbehave: nothing hangs, and one request's trouble
//! is its own. Needs root.
#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "tests")]

mod deadlines;
mod sink;
mod stage;
#[path = "../tree/world.rs"]
#[allow(dead_code, reason = "shared with the tests without a mount")]
mod world;
