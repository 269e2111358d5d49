//! A worker that does not answer, one that cannot start, and the death of the keeper.

use std::fs::File;
use std::time::{Duration, Instant};

use crate::harness::{Instance, wait_until};
use crate::load;
use crate::pair::{guard_of, is_alive, setup, signal, worker_after, worker_of};

/// Reads in a process of its own, since it may hang; what it said, and how long it took.
fn read(instance: &Instance, limit_s: u32) -> (String, Duration) {
    let begun = Instant::now();
    let output = std::process::Command::new("timeout")
        .args(["-s", "KILL", &limit_s.to_string(), "cat", &instance.path("prod/app/key")])
        .output()
        .unwrap();
    let said =
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    (said, begun.elapsed())
}

#[test]
fn a_typo_at_a_restart_means_time_outs_and_mending_it_heals() {
    let instance = setup().set("limits.request_deadline", "2s").start();
    load::fill(&instance);
    let held = File::open(instance.path("prod/app/key")).unwrap();
    let config = std::fs::read_to_string(instance.config_path()).unwrap();
    std::fs::write(instance.config_path(), config.replacen("path", "pahth", 1)).unwrap();
    let worker = worker_after(&instance, None);
    signal(worker, "KILL");
    for _ in 0..3 {
        let (said, took) = read(&instance, 10);
        assert!(said.contains("timed out"), "{said} after {took:?}");
        assert!(took < Duration::from_secs(5), "{took:?}");
    }
    let status = instance.command(&["status", "--json"]);
    assert_ne!(status.code, Some(0));
    std::fs::write(instance.config_path(), config).unwrap();
    wait_until("it serves again", Duration::from_secs(10), || {
        instance.program(&["status"]).run().code == Some(0)
    });
    assert!(load::is_whole(read(&instance, 10).0.as_bytes()));
    let mut bytes = vec![0; 64];
    assert!(std::os::unix::fs::FileExt::read_at(&held, &mut bytes, 0).unwrap() > 0);
    let log = std::fs::read_to_string(instance.audit_path()).unwrap();
    assert!(log.contains("\"outcome\":\"timeout\""), "what was answered meanwhile is in the log");
}

#[test]
fn a_stopped_worker_is_replaced_within_fifteen_seconds_and_nobody_stays_stuck() {
    let instance = setup().start();
    load::fill(&instance);
    let worker = worker_after(&instance, None);
    signal(worker, "STOP");
    let begun = Instant::now();
    let (said, took) = read(&instance, 20);
    assert!(load::is_whole(said.as_bytes()) || said.contains("timed out"), "{said} after {took:?}");
    wait_until("it serves again", Duration::from_secs(15), || {
        load::is_whole(read(&instance, 20).0.as_bytes())
    });
    println!("a stopped worker was replaced after {:?}", begun.elapsed());
    assert!(begun.elapsed() < Duration::from_secs(15), "{:?}", begun.elapsed());
    assert!(!is_alive(worker));
}

#[test]
fn the_keepers_death_leaves_no_mount_and_no_worker() {
    let instance = setup().start();
    load::fill(&instance);
    let (keeper, worker) = (instance.daemon_pid(), worker_after(&instance, None));
    let _held = File::open(instance.path("prod/app/key")).unwrap();
    signal(keeper, "KILL");
    wait_until("nothing is mounted", Duration::from_secs(5), || !instance.is_mounted());
    wait_until("the worker has ended", Duration::from_secs(5), || !is_alive(worker));
    instance.end_with("KILL");
    instance.mount();
    assert!(load::is_whole(read(&instance, 10).0.as_bytes()));
}

#[test]
fn the_death_of_all_of_them_is_made_good_at_the_next_start() {
    let instance = setup().start();
    load::fill(&instance);
    for _ in 0..3 {
        let keeper = instance.daemon_pid();
        let (worker, guard) = (worker_after(&instance, None), guard_of(keeper).unwrap());
        // Stopped first, so that none of them sees another die.
        for pid in [guard, keeper, worker] {
            signal(pid, "STOP");
        }
        for pid in [guard, keeper, worker] {
            signal(pid, "KILL");
        }
        instance.end_with("KILL");
        wait_until("all have ended", Duration::from_secs(5), || !is_alive(worker) && !is_alive(guard));
        assert!(instance.is_mounted(), "a dead mount is left, to be replaced");
        instance.mount();
        assert!(load::is_whole(read(&instance, 10).0.as_bytes()));
    }
}

#[test]
fn a_guard_that_dies_is_replaced_and_a_worker_that_keeps_dying_is_started_again() {
    let instance = setup().start();
    load::fill(&instance);
    let keeper = instance.daemon_pid();
    let guard = guard_of(keeper).unwrap();
    signal(guard, "KILL");
    wait_until("another guard", Duration::from_secs(5), || guard_of(keeper).is_some_and(|now| now != guard));
    let mut before = None;
    for _ in 0..5 {
        // At once, while it still starts.
        let worker = worker_after(&instance, before);
        signal(worker, "KILL");
        before = Some(worker);
    }
    wait_until("it serves again", Duration::from_secs(15), || {
        instance.program(&["status"]).run().code == Some(0)
    });
    assert!(load::is_whole(read(&instance, 10).0.as_bytes()));
    assert!(worker_of(keeper).is_some());
}

#[test]
fn it_ends_within_five_seconds_though_files_are_held_open() {
    let instance = setup().start();
    load::fill(&instance);
    let held: Vec<File> = (0..50).map(|_| File::open(instance.path("prod/app/key")).unwrap()).collect();
    let worker = worker_after(&instance, None);
    let begun = Instant::now();
    assert!(instance.end_with("TERM").success());
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    assert!(!instance.is_mounted() && !is_alive(worker));
    drop(held);
}

#[test]
fn the_worker_holds_no_capability_and_can_gain_none() {
    let instance = setup().start();
    load::fill(&instance);
    let worker = worker_after(&instance, None);
    let status = std::fs::read_to_string(format!("/proc/{worker}/status")).unwrap();
    let line = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        line.trim().to_owned()
    };
    // Locking memory is kept where the limit on it is low, and nothing else ever: bit 14.
    let effective = u64::from_str_radix(&line("CapEff:"), 16).unwrap();
    assert_eq!(effective & !(1 << 14), 0, "{effective:x}");
    assert_eq!(line("NoNewPrivs:"), "1");
    let answered = instance.command(&["status", "--json"]).ok().json();
    assert_eq!(answered["worker_pid"], worker);
    assert_eq!(answered["keeper_pid"], instance.daemon_pid());
}
