//! What readers and servers notice of restarts, crashes, upgrades, mistakes and a wedged worker: nothing, or an errno.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use sha2::{Digest as _, Sha256};

use crate::harness::{Load, Machine, Packages, Seen, wait_until};
use crate::programs::{self, Prober};

const FIELD: &str = "/run/credfs/load/counter/value";
const READERS: u32 = 8;
/// Longest that one open and read may take while a worker is replaced.
const PAUSE_MAX: Duration = Duration::from_secs(2);

const POLICY: &str = r#"
[identities.readers]
user = ["www-data"]
unit = ["readers.service"]
[[grants]]
to = ["readers"]
read = ["load/**"]
"#;

/// A value that shows by itself whether it is whole.
fn counted(number: u64) -> String {
    let digest = Sha256::digest(number.to_string());
    let digest: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("{number}:{digest}")
}

fn prepared() -> Machine {
    let machine = Machine::installed();
    machine.policy(&format!("{POLICY}{}", programs::POLICY));
    machine.put("load/counter", "value", counted(0));
    machine
}

/// Does something while readers read and the value is replaced; what the readers saw, and the last number put.
#[track_caller]
fn under_load(machine: &Machine, disturb: impl FnOnce()) -> (Seen, u64) {
    let before = machine.run(&["credfs", "get", "load/counter", "value"]).ok().text();
    let before: u64 = before.split(':').next().unwrap().parse().unwrap();
    machine.run(&["rm", "-f", "/tmp/readers.json"]).ok();
    let load = Load::start(machine, "readers", "www-data", READERS, FIELD);
    let is_over = AtomicBool::new(false);
    let replaced = AtomicU64::new(before);
    std::thread::scope(|scope| {
        let rotation = scope.spawn(|| {
            while !is_over.load(Ordering::Relaxed) {
                let next = replaced.load(Ordering::Relaxed) + 1;
                let put =
                    machine.program(&["credfs", "put", "load/counter", "value"]).input(counted(next)).run();
                // Where no worker answers in time it is refused, and asked again.
                if put.code == Some(0) {
                    replaced.store(next, Ordering::Relaxed);
                }
                std::thread::sleep(Duration::from_millis(200));
            }
        });
        disturb();
        is_over.store(true, Ordering::Relaxed);
        rotation.join().unwrap();
    });
    let last = replaced.into_inner();
    assert!(last > before, "nothing was replaced meanwhile");
    (load.end(), last)
}

#[track_caller]
fn nothing_noticed(seen: &Seen, last: u64) {
    assert!(
        seen.errors.is_empty(),
        "{} errors in {} reads: {:#?}",
        seen.errors.len(),
        seen.reads,
        seen.errors
    );
    assert_eq!(seen.stuck, 0);
    assert!(seen.pause_max < PAUSE_MAX, "{:?}", seen.pause_max);
    assert!(seen.reads > 100, "{} reads", seen.reads);
    assert!(seen.numbers.iter().all(|number| *number <= last + 1), "{:?}", seen.numbers);
    eprintln!(
        "{} reads, {} versions seen, longest pause {:?}",
        seen.reads,
        seen.numbers.len(),
        seen.pause_max
    );
}

#[track_caller]
fn kill(machine: &Machine, unit: &str, signal: &str) {
    let pid = machine.main_pid(unit);
    machine.run(&["kill", "-s", signal, &pid.to_string()]).ok();
    if signal == "KILL" {
        wait_until("another process takes its place", Duration::from_secs(10), || {
            let now = machine.main_pid(unit);
            now != 0 && now != pid
        });
        machine.serves();
    }
}

#[test]
fn twenty_restarts_and_kills_of_either_process_are_noticed_by_nobody() {
    let machine = prepared();
    programs::start(&machine);
    let prober = Prober::start(&machine);
    let (seen, last) = under_load(&machine, || {
        for _ in 0..20 {
            machine.run(&["systemctl", "restart", "credfs"]).ok();
        }
        programs::reload(&machine);
    });
    nothing_noticed(&seen, last);
    let (seen, last) = under_load(&machine, || {
        for _ in 0..3 {
            kill(&machine, "credfs", "KILL");
            kill(&machine, "credfs-keeper", "KILL");
        }
        machine.run(&["systemctl", "restart", "credfs-keeper"]).ok();
        machine.serves();
        machine.run(&["systemctl", "daemon-reexec"]).ok();
        kill(&machine, "credfs", "KILL");
        machine.run(&["systemctl", "restart", "credfs-keeper", "credfs"]).ok();
        machine.serves();
        programs::reload(&machine);
    });
    nothing_noticed(&seen, last);
    let asked = prober.end();
    assert!(asked > 5, "{asked}");
    for unit in ["nginx", "ssh"] {
        assert_eq!(machine.property(unit, "NRestarts"), "0", "{unit}");
    }
    machine.run(&["credfs", "audit", "verify"]).ok();
}

#[test]
fn an_upgrade_of_the_package_under_load_is_noticed_by_nobody() {
    let machine = prepared();
    programs::start(&machine);
    let prober = Prober::start(&machine);
    let packages = Packages::built();
    let before = machine.main_pid("credfs");
    let (seen, last) = under_load(&machine, || {
        machine.install(&packages.second);
        machine.serves();
        programs::reload(&machine);
    });
    nothing_noticed(&seen, last);
    prober.end();
    assert_ne!(machine.main_pid("credfs"), before);
    let installed = machine.run(&["sha256sum", "/usr/bin/credfs"]).ok().text();
    for unit in ["credfs", "credfs-keeper"] {
        let runs = machine.run(&["sha256sum", &format!("/proc/{}/exe", machine.main_pid(unit))]).ok().text();
        assert_eq!(runs.get(..64), installed.get(..64), "{unit} runs the new program");
    }
    let version = machine.run(&["credfs", "--version"]).ok().text();
    assert_eq!(version, format!("credfs {}", packages.second_version));
    machine.run(&["credfs", "audit", "verify"]).ok();
}

#[test]
fn a_typo_in_the_configuration_at_a_restart_is_etimedout_until_it_is_mended() {
    let machine = prepared();
    let read = |limit: &str| {
        machine.in_unit("readers", &["User=www-data"], &["timeout", "-s", "KILL", limit, "cat", FIELD])
    };
    assert_eq!(read("5").text(), counted(0));
    machine.sh("cp /etc/credfs/credfs.toml /tmp/sound; sed -i 's/^keep_versions/kep_versions/' /etc/credfs/credfs.toml").ok();
    machine.run(&["systemctl", "restart", "--no-block", "credfs"]).ok();
    wait_until("the worker refuses", Duration::from_secs(10), || {
        machine.journal("credfs").contains("kep_versions")
    });
    for _ in 0..3 {
        let refused = read("10");
        assert!(refused.err.contains("timed out"), "{:?} {}", refused.signal, refused.err);
    }
    let begun = Instant::now();
    let journal = machine.journal("credfs");
    assert!(
        journal.contains("credfs.toml") && journal.contains("keep_versions"),
        "the remedy is said: {journal}"
    );
    machine.sh("cp /tmp/sound /etc/credfs/credfs.toml").ok();
    wait_until("it heals by itself", Duration::from_secs(10), || read("5").text() == counted(0));
    eprintln!("healed within {:?} of mending", begun.elapsed());
}

#[test]
fn a_stopped_worker_is_replaced_and_no_reader_is_stuck() {
    let machine = prepared();
    let before = machine.main_pid("credfs");
    let begun = Instant::now();
    let (seen, _) = under_load(&machine, || {
        kill(&machine, "credfs", "STOP");
        wait_until("the worker is replaced", Duration::from_secs(15), || {
            ![0, before].contains(&machine.main_pid("credfs"))
        });
        machine.serves();
        assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
    });
    assert_eq!(seen.stuck, 0);
    assert!(
        seen.errors.iter().all(|error| error.ends_with("ETIMEDOUT")
            || error.ends_with("ECONNABORTED")
            || error.ends_with("ENOTCONN")),
        "{:?}",
        seen.errors
    );
    assert!(seen.pause_max < Duration::from_secs(16), "{:?}", seen.pause_max);
    eprintln!("{} reads, {} errors, longest pause {:?}", seen.reads, seen.errors.len(), seen.pause_max);
}

#[test]
fn processes_that_are_both_stopped_are_replaced_by_systemds_watchdog() {
    let machine = prepared();
    // Who replaces a stopped worker is the keeper, and sooner: the watchdog is for a keeper that is stopped itself.
    assert_eq!(machine.property("credfs", "WatchdogUSec"), "10s");
    assert_eq!(machine.property("credfs-keeper", "WatchdogUSec"), "30s");
    let units = ["credfs", "credfs-keeper"];
    let before = units.map(|unit| machine.main_pid(unit));
    let begun = Instant::now();
    for pid in before {
        machine.run(&["kill", "-s", "STOP", &pid.to_string()]).ok();
    }
    for (unit, before, limit) in [("credfs", before[0], 20), ("credfs-keeper", before[1], 45)] {
        wait_until("another process takes its place", Duration::from_secs(limit), || {
            ![0, before].contains(&machine.main_pid(unit))
        });
        eprintln!("{unit} was replaced after {:?}", begun.elapsed());
        let said = machine.journal(unit);
        assert!(said.contains("Watchdog timeout"), "{unit}: it was replaced by somebody else:\n{said}");
    }
    machine.serves();
    let read = machine.in_unit("readers", &["User=www-data"], &["timeout", "-s", "KILL", "10", "cat", FIELD]);
    assert_eq!(read.text(), counted(0), "{}", read.err);
    eprintln!("served again {:?} after both were stopped", begun.elapsed());
    assert!(begun.elapsed() < Duration::from_secs(60), "{:?}", begun.elapsed());
}
