//! The audit log seen from outside: complete, provable, and not to be filled by those who may read nothing.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::harness::{ALICE, Asker, BOB, CAROL, Instance, PYTHON, Program, Record, median, wait_until};

/// Opens the arguments in turn, so often, reading what can be read.
const READER: &str = "
import os, sys
for round in range(int(sys.argv[1])):
    for path in sys.argv[2:]:
        try:
            fd = os.open(path, os.O_RDONLY)
            os.read(fd, 10)
            os.close(fd)
        except OSError:
            pass
";

#[test]
fn every_open_that_strace_saw_has_its_record() {
    let instance = Instance::start();
    instance.put("prod/db", &[("password", b"hunter2"), ("username", b"orders")]);
    instance.put("other/db", &[("password", b"hunter3")]);
    let paths = ["prod/db/password", "prod/db/current/username", "prod/db/nothing", "other/db/password"];
    let paths = paths.map(|path| instance.path(path));
    let mut seen: BTreeMap<(u32, String), u64> = BTreeMap::new();
    for uid in [ALICE, BOB, CAROL] {
        let trace = instance.dir().join(format!("trace.{uid}"));
        let trace_text = trace.to_str().expect("UTF-8");
        std::fs::write(&trace, "").expect("a file for strace");
        std::os::unix::fs::chown(&trace, Some(uid), None).expect("its owner");
        let mut words =
            vec!["strace", "-f", "-qq", "-e", "trace=openat", "-o", trace_text, PYTHON, "-I", "-c"];
        words.extend([READER, "100"]);
        words.extend(paths.iter().map(String::as_str));
        Asker::uid(uid).program(&words).limit(Duration::from_secs(60)).run().ok();
        for line in std::fs::read_to_string(&trace).expect("the trace").lines() {
            if !line.contains(&instance.mount_point()) {
                continue;
            }
            let result = line.rsplit(" = ").next().expect("a result");
            let outcome = if result.contains("EACCES") {
                "denied"
            } else if result.contains("ENOENT") {
                "hidden"
            } else {
                assert!(!result.starts_with('-'), "{line}");
                "released"
            };
            *seen.entry((uid, outcome.to_owned())).or_default() += 1;
        }
    }
    assert_eq!(seen[&(ALICE, "released".to_owned())], 200);
    assert_eq!(seen[&(BOB, "denied".to_owned())], 200);
    let records = instance.records();
    for ((uid, outcome), count) in &seen {
        if outcome == "hidden" {
            continue;
        }
        let of_uid = records.iter().filter(|record| record.number("uid") == Some(u64::from(*uid)));
        let recorded: u64 = of_uid.filter(|record| record.is("open", outcome)).map(Record::count).sum();
        assert_eq!(recorded, *count, "uid {uid}, {outcome}");
    }
    assert_eq!(records.released(), 200, "and nothing else was released");
}

#[test]
fn a_release_is_recorded_with_who_what_and_by_which_rule() {
    let instance = Instance::start();
    instance.put("prod/db", &[("password", b"hunter2")]);
    assert_eq!(Asker::uid(ALICE).read(&instance.path("prod/db/current/password")), "read hunter2");
    let records = instance.records();
    let record = records.last("open", "released");
    for (key, value) in [
        ("secret", "prod/db"),
        ("field", "password"),
        ("store", "main"),
        ("stage", "current"),
        ("identity", "alice"),
    ] {
        assert_eq!(record.text(key), value, "{key} in {record:?}");
    }
    for (key, value) in [("version", 1), ("uid", u64::from(ALICE)), ("gid", u64::from(ALICE)), ("bytes", 7)] {
        assert_eq!(record.number(key), Some(value), "{key} in {record:?}");
    }
    for key in ["seq", "prev", "boot_id", "time", "mono_us", "rule", "policy", "pid", "tid", "freshness"] {
        assert!(record.0.get(key).is_some(), "{key} in {record:?}");
    }
    let line = record.0.to_string();
    assert!(!line.contains("hunter2"));
    let (time, rule) = (record.text("time"), record.text("rule"));
    assert!(time.len() == 27 && time.ends_with('Z') && time.contains('.'), "microseconds, UTC: {time}");
    assert!(rule.contains("policy"), "the file and line of the grant: {rule}");
}

#[test]
fn what_administrators_do_is_recorded_too() {
    let instance = Instance::start();
    instance.put("prod/db", &[("password", b"first")]);
    instance.put("prod/db", &[("password", b"second")]);
    instance.command(&["get", "prod/db", "password"]).ok();
    instance.command(&["rollback", "prod/db"]).ok();
    instance.command(&["revoke", "prod/db", "--version", "2", "--reason", "drill"]).ok();
    instance.command(&["reload"]).ok();
    let records = instance.records();
    for (operation, outcome) in
        [("put", "done"), ("get", "released"), ("rollback", "done"), ("revoke", "done"), ("reload", "done")]
    {
        let record = records.last(operation, outcome);
        assert_eq!(record.number("uid"), Some(0), "{record:?}");
    }
    assert_eq!(records.all("put", "done").len(), 2);
    assert_eq!(records.last("revoke", "done").text("reason"), "drill");
}

#[test]
fn the_log_proves_from_the_fingerprint_that_init_printed_and_names_an_edit() {
    let instance = Instance::start();
    instance.put("prod/db", &[("password", b"hunter2")]);
    for _ in 0..3 {
        Asker::uid(ALICE).read(&instance.path("prod/db/password"));
    }
    instance.command(&["audit", "rotate"]).ok();
    Asker::uid(ALICE).read(&instance.path("prod/db/password"));
    let unpinned = instance.command(&["audit", "verify", "--json"]).ok().json();
    let root = unpinned["root"].as_str().expect("a fingerprint").to_owned();
    let transcript = String::from_utf8_lossy(&instance.transcript()).into_owned();
    assert!(transcript.contains(&root), "init printed {root}");
    let verdict = instance.command(&["audit", "verify", "--root", &root, "--json"]).ok().json();
    assert_eq!(verdict["ok"], true, "{verdict}");
    assert!(verdict["records"].as_u64() > Some(4), "{verdict}");
    let other = root.chars().rev().collect::<String>();
    instance.command(&["audit", "verify", "--root", &other, "--json"]).ended_with(6);

    assert!(instance.end_with("TERM").success());
    let log = instance.audit_path();
    let text = std::fs::read_to_string(&log).expect("the log");
    std::fs::write(&log, text.replacen("\"uid\":24001", "\"uid\":24002", 1)).expect("an edit");
    let verdict = instance.command(&["audit", "verify", "--root", &root, "--json"]).ended_with(6).json();
    assert_eq!(verdict["ok"], false);
    assert!(!verdict["fault"].is_null(), "{verdict}");
}

#[test]
fn who_read_names_the_readers_of_a_secret_and_a_version() {
    let instance = Instance::start();
    instance.put("prod/db", &[("password", b"first")]);
    Asker::uid(ALICE).read(&instance.path("prod/db/password"));
    instance.put("prod/db", &[("password", b"second")]);
    Asker::uid(ALICE).read(&instance.path("prod/db/password"));
    let asked = |more: &[&str]| {
        let words = [&["who-read", "prod/db", "--since", "7d", "--json"], more].concat();
        instance.command(&words).ok().json().as_array().expect("an array").clone()
    };
    let all = asked(&[]);
    assert_eq!(all.len(), 2, "{all:#?}");
    assert!(all.iter().all(|record| record["uid"] == ALICE && record["outcome"] == "released"));
    let second = asked(&["--version", "2"]);
    assert_eq!(second.len(), 1);
    assert_eq!(second[0]["version"], 2);
}

/// Opens a path so often and prints the median in microseconds.
const MEDIAN_OF_READS: &str = "
import os, sys, time
path, count = sys.argv[1], int(sys.argv[2])
took = []
for _ in range(count):
    begun = time.perf_counter_ns()
    fd = os.open(path, os.O_RDONLY)
    os.read(fd, 100)
    os.close(fd)
    took.append(time.perf_counter_ns() - begun)
took.sort()
print(took[len(took) // 2] / 1000)
";

/// Asks for names that do not exist for it, each another one, until it is ended.
const LOOP_OVER_HIDDEN: &str = "
import os, sys
n = 0
while True:
    n += 1
    for path in (sys.argv[1], sys.argv[1] + '-%d' % n):
        try:
            os.stat(path)
        except OSError:
            pass
        try:
            os.close(os.open(path, os.O_RDONLY))
        except OSError:
            pass
";

#[test]
fn a_user_looping_over_hidden_names_neither_fills_the_log_nor_slows_another_beyond_twice() {
    let instance = Instance::start();
    instance.put("prod/db", &[("password", b"hunter2")]);
    let path = instance.path("prod/db/password");
    let log = instance.dir().join("loop.out");
    let words = [PYTHON, "-I", "-c", LOOP_OVER_HIDDEN, &path];
    let mut looping = Asker::uid(CAROL).program(&words).keep(&log);
    // On an idle machine most of a read is waking the other processor, and a noisy neighbour keeps it awake: with one
    // processor busy all the time, quiet and noisy rounds differ by the neighbour alone.
    let mut busy =
        Program::of(&["/bin/sh", "-c", "while :; do :; done"]).keep(&instance.dir().join("busy.out"));
    let measured =
        || Asker::uid(ALICE).python(MEDIAN_OF_READS, &[&path, "1500"]).parse::<f64>().expect("microseconds");
    measured();
    // What else the machine does slows the noisy rounds of one try or the other; what credfs does slows those of all.
    let mut ratios = Vec::new();
    while ratios.len() < 4 && ratios.iter().all(|ratio| *ratio >= 2.0) {
        let (mut quiet, mut noisy) = (Vec::new(), Vec::new());
        for _ in 0..5 {
            looping.signal("STOP");
            quiet.push(measured());
            looping.signal("CONT");
            noisy.push(measured());
        }
        ratios.push(median(&noisy) / median(&quiet));
    }
    println!("beside a user looping over hidden names: {ratios:.2?} times the quiet median");
    assert!(looping.is_running(), "{}", looping.output());
    looping.end();
    busy.end();
    assert!(ratios.iter().any(|ratio| *ratio < 2.0), "{ratios:.2?}");
    wait_until("the refusals are written", Duration::from_secs(20), || {
        instance.records().iter().any(|record| record.number("uid") == Some(u64::from(CAROL)))
    });
    let records = instance.records();
    let of_carol: Vec<_> =
        records.iter().filter(|record| record.number("uid") == Some(u64::from(CAROL))).collect();
    let stood_for: u64 = of_carol.iter().map(|record| record.count()).sum();
    let bytes: usize = of_carol.iter().map(|record| record.0.to_string().len()).sum();
    println!("{stood_for} refusals in {} records, {bytes} bytes", of_carol.len());
    assert!(stood_for > 1_000, "only {stood_for}");
    assert!(of_carol.len() < 400 && bytes < 1 << 20, "{} records, {bytes} bytes", of_carol.len());
}
