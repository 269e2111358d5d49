//! What a change costs of the disk: fsyncs, counted by strace. And when what is beyond `keep_versions` is erased.

use std::time::{Duration, Instant};

use crate::harness::{Instance, Program, Setup, wait_until};

const SYNCS: &str = "trace=fsync,fdatasync,sync_file_range,sync,syncfs,msync";

/// The lines of a trace that sync a file of the store or a directory.
fn store_syncs(trace: &str) -> Vec<String> {
    let text = std::fs::read_to_string(trace).expect("the trace");
    // A call that another thread interrupted has a second line, which names no file.
    let calls = text.lines().filter(|line| line.contains("sync") && !line.contains(" resumed>"));
    let ours = calls.filter(|line| !line.contains("audit.log"));
    ours.map(str::to_owned).collect()
}

#[test]
fn a_put_on_the_files_is_one_fsync_of_the_stores_log_from_the_first_on() {
    let instance = Setup::default().initialised();
    for (number, secret) in [(1, "prod/db"), (2, "prod/db"), (1, "prod/other")] {
        let trace = instance.file("trace");
        let config = instance.config_path();
        let credfs = env!("CARGO_BIN_EXE_credfs");
        let words = ["strace", "-f", "-qq", "-y", "-e", SYNCS, "-o", &trace, credfs, "--config", &config];
        let done = Program::of(&words).args(["put", secret, "value", "--json"]).input("a value").run().ok();
        assert_eq!(done.json()["version"], number);
        let syncs = store_syncs(&trace);
        assert_eq!(syncs.len(), 1, "{syncs:#?}");
        assert!(syncs[0].contains("store.db-wal"), "{syncs:#?}");
    }
}

#[test]
fn a_put_through_a_running_instance_is_one_fsync() {
    const PUTS: usize = 25;
    let instance = Setup::default().start();
    let (trace, log) = (instance.file("trace"), instance.file("strace.err"));
    let pid = instance.worker_pid().to_string();
    let mut strace =
        Program::of(&["strace", "-f", "-y", "-e", SYNCS, "-o", &trace, "-p", &pid]).keep(log.as_ref());
    wait_until("strace is attached", Duration::from_secs(10), || strace.output().contains("attached"));
    for number in 1..=PUTS {
        instance.put_by_socket("prod/db", &[("value", number.to_string().as_bytes())]);
    }
    strace.signal("INT");
    strace.wait(Duration::from_secs(10)).expect("strace ends");
    let syncs = store_syncs(&trace);
    assert_eq!(syncs.len(), PUTS, "{syncs:#?}");
    assert!(syncs.iter().all(|line| line.contains("store.db-wal")), "{syncs:#?}");
}

/// The states of a secret's versions, the oldest first.
fn states(instance: &Instance) -> Vec<String> {
    let rows = instance.command(&["versions", "prod/db", "--json"]).ok().json();
    let rows = rows.as_array().expect("an array");
    rows.iter().map(|row| row["state"].as_str().expect("a state").to_owned()).collect()
}

const KEPT: &str = "[identities.root]\nuid = 0\n[[grants]]\nto = [\"root\"]\nread = [\"prod/**\"]\n\
    list = [\"prod/**\"]\nstages = [\"current\", \"previous\", \"all\"]\n";

fn keeping_two(retire_after: &str) -> Setup {
    Setup::policy(KEPT).set("stores.main.keep_versions", 2).set("policy.retire_after", retire_after)
}

#[test]
fn what_keep_versions_leaves_out_is_readable_for_retire_after_and_then_erased_without_another_put() {
    let instance = keeping_two("2s").start();
    for bytes in [b"1", b"2", b"3", b"4"] {
        instance.put("prod/db", &[("value", bytes)]);
    }
    let put = Instant::now();
    let oldest = instance.path("prod/db/versions/1/value");
    while put.elapsed() < Duration::from_millis(1_500) {
        assert_eq!(std::fs::read(&oldest).expect("readable for retire_after"), b"1");
        std::thread::sleep(Duration::from_millis(50));
    }
    wait_until("it is erased", Duration::from_secs(10), || {
        states(&instance) == ["destroyed", "destroyed", "active", "active"]
    });
    assert!(put.elapsed() > Duration::from_secs(2), "no sooner than promised");
    assert!(std::fs::read(&oldest).is_err());
    assert_eq!(std::fs::read(instance.path("prod/db/previous/value")).expect("kept"), b"3");
    assert_eq!(std::fs::read(instance.path("prod/db/value")).expect("kept"), b"4");
}

#[test]
fn a_reload_changes_how_long_versions_are_kept_for() {
    let instance = keeping_two("1h").start();
    for bytes in [b"1", b"2", b"3"] {
        instance.put("prod/db", &[("value", bytes)]);
    }
    std::thread::sleep(Duration::from_millis(2_500));
    assert_eq!(states(&instance), ["active", "active", "active"]);
    instance.set("policy.retire_after", "1s");
    instance.command(&["reload"]).ok();
    wait_until("it is erased", Duration::from_secs(10), || {
        states(&instance) == ["destroyed", "active", "active"]
    });
}

#[test]
fn commands_alone_erase_what_is_due_and_nothing_sooner() {
    let instance = keeping_two("1s").initialised();
    for bytes in [b"1", b"2", b"3"] {
        instance.put("prod/db", &[("value", bytes)]);
    }
    let put = Instant::now();
    let soon = states(&instance);
    assert!(put.elapsed() > Duration::from_secs(1) || soon == ["active", "active", "active"], "{soon:?}");
    std::thread::sleep(Duration::from_millis(2_100).saturating_sub(put.elapsed()));
    // Of another secret, and no change at all.
    instance.command(&["ls"]).ok();
    assert_eq!(states(&instance), ["destroyed", "active", "active"]);
}
