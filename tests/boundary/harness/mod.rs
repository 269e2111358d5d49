//! What every test at the boundary stands on: an instance of credfs, callers with facts of their own, the log.

mod asker;
mod cgroup;
mod instance;
mod log;
mod mounts;
mod program;

use std::time::{Duration, Instant};

pub(crate) use asker::Asker;
pub(crate) use cgroup::Cgroup;
pub(crate) use instance::{Filling, Instance, Setup};
pub(crate) use log::{Record, RecordList};
pub(crate) use mounts::{SmallDisk, Tmpfs};
pub(crate) use program::{Done, Kept, Program};

/// The interpreter that every user may enter.
pub(crate) const PYTHON: &str = "/usr/bin/python3";

/// Two ordinary users that no account has, and what the default policy of the tests gives them.
pub(crate) const ALICE: u32 = 24_001;
/// May list what alice reads, and read nothing of it.
pub(crate) const BOB: u32 = 24_002;
/// Has no grant at all.
pub(crate) const CAROL: u32 = 24_003;

/// Calls `ready` until it holds, and fails with `what` when it did not within `limit`. Returns how long it took.
#[track_caller]
pub(crate) fn wait_until(what: &str, limit: Duration, mut ready: impl FnMut() -> bool) -> Duration {
    let begun = Instant::now();
    while !ready() {
        assert!(begun.elapsed() < limit, "{what}: not within {limit:?}");
        std::thread::sleep(Duration::from_millis(5));
    }
    begun.elapsed()
}

/// The middle one of `values`.
pub(crate) fn median<T: Copy + PartialOrd>(values: &[T]) -> T {
    let mut sorted = values.to_vec();
    sorted.sort_by(|one, other| one.partial_cmp(other).expect("comparable"));
    sorted[sorted.len() / 2]
}

/// How often the long tests repeat: `usual`, or `full` where `CREDFS_TEST_FULL=1`.
pub(crate) fn repetitions(usual: u64, full: u64) -> u64 {
    if is_full() { full } else { usual }
}

/// Whether what takes long is asked for.
pub(crate) fn is_full() -> bool {
    std::env::var_os("CREDFS_TEST_FULL").is_some_and(|value| value == "1")
}

/// A TCP port of the loopback interface that was free a moment ago.
pub(crate) fn free_port() -> u16 {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.local_addr().expect("its address").port()
}

/// Numbers without a pattern, from a seed (splitmix64): the same on every run.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    /// A number below `limit`.
    pub(crate) fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }
}
