//! What every test of the service stands on: the packages, a Debian system that boots, what runs in it.

mod load;
mod machine;
mod packages;
#[path = "../../boundary/harness/program.rs"]
#[allow(dead_code, reason = "shared with the tests at the boundary, which use more of it")]
mod program;

use std::time::{Duration, Instant};

pub(crate) use load::{Load, Seen};
pub(crate) use machine::Machine;
pub(crate) use packages::Packages;
pub(crate) use program::{Done, Program};

/// Calls `ready` until it holds, and fails with `what` when it did not within `limit`. Returns how long it took.
#[track_caller]
pub(crate) fn wait_until(what: &str, limit: Duration, mut ready: impl FnMut() -> bool) -> Duration {
    let begun = Instant::now();
    while !ready() {
        assert!(begun.elapsed() < limit, "{what}: not within {limit:?}");
        std::thread::sleep(Duration::from_millis(20));
    }
    begun.elapsed()
}
