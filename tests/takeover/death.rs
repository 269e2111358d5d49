//! A worker that does not answer, one that cannot start, and the death of the keeper.

use std::fs::File;
use std::time::{Duration, Instant};

use crate::harness::{Instance, Kept, Program, wait_until};
use crate::load;
use crate::pair::{guard_of, is_alive, setup, signal, worker_after, worker_of};

/// Reads in a process of its own, since it may hang; what it said, and how long it took.
pub(crate) fn read(instance: &Instance, limit_s: u32) -> (String, Duration) {
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
    // By whom and for what nobody knows: one record says how many were answered meanwhile. Each `cat` asks for at least
    // one thing.
    let log = std::fs::read_to_string(instance.audit_path()).unwrap();
    let records = log.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
    let timed_out: Vec<_> = records.filter(|record| record["outcome"] == "timeout").collect();
    assert_eq!(timed_out.len(), 1, "{timed_out:?}");
    assert_eq!(timed_out[0]["op"], "access");
    assert!(timed_out[0]["count"].as_u64().is_some_and(|count| count >= 3), "{timed_out:?}");
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

/// Holds every thread of a process whose name begins with one of the words, as a debugger would; the others run on.
const HOLD: &str = r#"
import ctypes, os, sys
ptrace = ctypes.CDLL(None, use_errno=True).ptrace
ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
SEIZE, INTERRUPT, WALL = 0x4206, 0x4207, 0x40000000
pid, held = int(sys.argv[1]), 0
for thread in os.listdir(f"/proc/{pid}/task"):
    name = open(f"/proc/{pid}/task/{thread}/comm").read()
    if name.startswith(tuple(sys.argv[2:])):
        assert ptrace(SEIZE, int(thread), None, None) == 0, name
        assert ptrace(INTERRUPT, int(thread), None, None) == 0, name
        held += 1
print("held", held, flush=True)
while True:
    try:
        os.waitpid(-1, WALL)
    except ChildProcessError:
        break
"#;

/// Holds threads of a process until that ends.
pub(crate) fn hold_threads(instance: &Instance, pid: u32, names: &[&str]) -> Kept {
    let pid = pid.to_string();
    let words = [&[crate::harness::PYTHON, "-I", "-c", HOLD, &pid], names].concat();
    let holding = Program::of(&words).keep(&instance.dir().join("held.out"));
    wait_until("the threads are held", Duration::from_secs(5), || holding.output().contains("held "));
    assert!(!holding.output().contains("held 0"), "no thread has such a name");
    holding
}

#[test]
fn a_worker_whose_heart_beats_though_nobody_in_it_takes_requests_is_replaced() {
    let instance = setup().start();
    load::fill(&instance);
    let worker = worker_after(&instance, None);
    // Those that take requests, and the one that answers for them by the clock.
    let mut holding = hold_threads(&instance, worker, &["fuse", "deadlines"]);
    let begun = Instant::now();
    let (said, took) = read(&instance, 20);
    assert!(load::is_whole(said.as_bytes()) || said.contains("timed out"), "{said} after {took:?}");
    println!("a worker that hung was replaced after {:?}", begun.elapsed());
    assert!(begun.elapsed() < Duration::from_secs(15), "{:?}", begun.elapsed());
    assert!(holding.wait(Duration::from_secs(5)).is_some() && !is_alive(worker));
    let output = instance.daemon_output();
    assert!(output.contains("does not answer requests"), "found by asking, not by silence: {output}");
    assert!(load::is_whole(read(&instance, 10).0.as_bytes()));
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
    // The mount goes while the worker still answers: it does not wait for its own end in vain.
    let output = instance.daemon_output();
    assert!(!output.contains("not taken away in time"), "{output}");
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
