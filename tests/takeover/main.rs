//! The mount outlives its worker: killed, stopped, replaced, refused by a typo; and what happens when the keeper goes.
//! Needs root.
#![allow(clippy::unwrap_used, clippy::print_stderr, clippy::print_stdout, reason = "tests")]
#![allow(dead_code, unused_imports, reason = "the harness has more than these tests need")]

#[path = "../boundary/harness/mod.rs"]
mod harness;

mod death;
mod faults;
mod load;
mod older;
mod pair;
mod succession;
