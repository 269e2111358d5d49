//! A kernel that cannot send again what a dead worker had taken (before Linux 6.9), tried on one that can.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::time::{Duration, Instant};

use crate::death::read;
use crate::harness::{Instance, wait_until};
use crate::load;
use crate::pair::{is_alive, setup, signal, worker_after};

/// What a reader may be told of a mount that is being made anew.
const GONE: [&str; 3] = ["ECONNABORTED", "ENOTCONN", "ENOENT"];

fn start() -> Instance {
    let instance =
        setup().env("CREDFS_KERNEL_WITHOUT", "resend").set("limits.request_deadline", "2s").start();
    load::fill(&instance);
    instance
}

#[test]
fn a_killed_worker_costs_requests_in_flight_an_error_and_the_mount_comes_back_by_itself() {
    let instance = start();
    let doctor = instance.program(&["doctor"]).run();
    let said = format!("{}{}", doctor.text(), doctor.err);
    assert!(said.contains("requests in flight fail when the worker dies"), "{said}");
    let held = File::open(instance.path("prod/app/key")).unwrap();
    let mut moments = Vec::new();
    let found = load::under(&instance, true, || {
        let mut worker = None;
        for _ in 0..8 {
            let current = worker_after(&instance, worker);
            std::thread::sleep(Duration::from_millis(700));
            signal(current, "KILL");
            moments.push(Instant::now());
            worker = Some(current);
        }
        worker_after(&instance, worker);
        wait_until("it serves again", Duration::from_secs(5), || {
            instance.program(&["status"]).run().code == Some(0)
        });
    });
    let strange = |fault: &&String| !GONE.iter().any(|gone| fault.contains(gone));
    let strange: Vec<_> = found.faults.iter().filter(strange).collect();
    assert!(strange.is_empty(), "{strange:#?}");
    let pauses = found.pauses(&moments);
    println!("{} opens, {} errors, pauses {pauses:?}", found.opened, found.faults.len());
    assert!(pauses.last().is_some_and(|longest| *longest < Duration::from_secs(2)), "{pauses:?}");
    assert!(!found.faults.is_empty(), "what was in flight failed: else this shows nothing");
    assert!(load::is_whole(&std::fs::read(instance.path("prod/app/key")).unwrap()));
    // Of the first mount: an error, and no hang.
    assert!(held.read_at(&mut [0; 64], 0).is_err());
}

#[test]
fn a_hand_over_fails_nobody_and_a_worker_that_cannot_start_is_a_time_out() {
    let instance = start();
    let held = File::open(instance.path("prod/app/key")).unwrap();
    let found = load::under(&instance, false, || {
        let mut worker = None;
        for _ in 0..5 {
            let current = worker_after(&instance, worker);
            std::thread::sleep(Duration::from_millis(200));
            signal(current, "TERM");
            worker = Some(current);
        }
        worker_after(&instance, worker);
    });
    assert!(found.faults.is_empty(), "{:#?}", found.faults);
    assert!(held.read_at(&mut [0; 64], 0).is_ok_and(|count| count > 0));
    let config = std::fs::read_to_string(instance.config_path()).unwrap();
    std::fs::write(instance.config_path(), config.replacen("path", "pahth", 1)).unwrap();
    let last = worker_after(&instance, None);
    signal(last, "TERM");
    wait_until("the last worker has ended", Duration::from_secs(5), || !is_alive(last));
    for _ in 0..2 {
        let (said, took) = read(&instance, 10);
        assert!(said.contains("timed out"), "{said} after {took:?}");
        assert!(took < Duration::from_secs(5), "{took:?}");
    }
    // One that waits when the next worker comes is answered by then, since that one will never hear of it.
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| read(&instance, 10));
        std::thread::sleep(Duration::from_millis(200));
        std::fs::write(instance.config_path(), config).unwrap();
        let (said, took) = waiting.join().unwrap();
        assert!(load::is_whole(said.as_bytes()) || said.contains("timed out"), "{said} after {took:?}");
        assert!(took < Duration::from_secs(4), "{took:?}");
    });
    wait_until("it serves again", Duration::from_secs(10), || {
        std::fs::read(instance.path("prod/app/key")).is_ok_and(|bytes| load::is_whole(&bytes))
    });
}
