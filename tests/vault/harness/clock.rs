//! A test run again with a wall clock that is wrong: the servers it starts keep the right one.

use std::path::PathBuf;
use std::process::Command;

use super::Directory;

const AHEAD: &str = "CREDFS_TEST_CLOCK_AHEAD_S";

/// Between the program and the C library: the wall clock alone is moved, and not in programs that are started.
const SHIM: &str = r#"
#define _GNU_SOURCE
#include <stdlib.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>
static long ahead;
__attribute__((constructor)) static void begin(void) {
    const char *told = getenv("CREDFS_TEST_CLOCK_AHEAD_S");
    ahead = told ? atol(told) : 0;
    unsetenv("LD_PRELOAD");
}
int clock_gettime(clockid_t clock, struct timespec *when) {
    int failed = (int) syscall(SYS_clock_gettime, clock, when);
    if (!failed && clock == CLOCK_REALTIME) when->tv_sec += ahead;
    return failed;
}
"#;

/// How far this process's clock is ahead of the machine's, in seconds.
pub(crate) fn clock_ahead_s() -> Option<i64> {
    std::env::var(AHEAD).ok()?.parse().ok()
}

/// Runs `body` with the clock ahead by each of these seconds, each in a process of its own: the test called `name` runs again.
#[track_caller]
pub(crate) fn under_clocks(name: &str, ahead_s: &[i64], body: impl FnOnce(i64)) {
    if let Some(ahead_s) = clock_ahead_s() {
        return body(ahead_s);
    }
    let directory = Directory::new();
    let source = directory.file("shim.c", SHIM);
    let shim: PathBuf = directory.path().join("shim.so");
    let made = Command::new("cc").args(["-shared", "-fPIC", "-o"]).arg(&shim).arg(&source).status().unwrap();
    assert!(made.success(), "cc, which every link of ours needs");
    for ahead_s in ahead_s {
        let done = Command::new(std::env::current_exe().unwrap())
            .args([name, "--exact", "--nocapture", "--test-threads", "1"])
            .env("LD_PRELOAD", &shim)
            .env(AHEAD, ahead_s.to_string())
            .output()
            .unwrap();
        let said =
            String::from_utf8_lossy(&done.stdout).into_owned() + &String::from_utf8_lossy(&done.stderr);
        assert!(said.contains("1 passed"), "with the clock {ahead_s} s ahead:\n{said}");
    }
}
