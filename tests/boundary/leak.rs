//! A canary scan over a full run at the highest log level: no window of a value is found outside the mount.

use std::collections::HashSet;
use std::path::Path;

use base64::Engine as _;

use crate::harness::{ALICE, Asker, BOB, CAROL, Instance, Random, Setup};

/// How much of a value, in bytes, is already a leak.
const WINDOW: usize = 16;

/// Everything that would betray one of the values: every window, as it is and in the usual encodings.
struct Canaries(HashSet<[u8; WINDOW]>);

impl Canaries {
    fn of(values: &[Vec<u8>]) -> Self {
        let mut windows = HashSet::new();
        let mut add = |text: &[u8]| {
            windows.extend(
                text.windows(WINDOW).map(|window| <[u8; WINDOW]>::try_from(window).expect("its length")),
            );
        };
        for value in values {
            add(value);
            for phase in 0..3 {
                let text = base64::engine::general_purpose::STANDARD_NO_PAD.encode(&value[phase..]);
                // The last characters depend on what follows the value.
                add(&text.as_bytes()[..text.len() - 4]);
                add(text.replace('+', "-").replace('/', "_").as_bytes());
            }
            let hex: String = value.iter().map(|byte| format!("{byte:02x}")).collect();
            add(hex.as_bytes());
            add(hex.to_uppercase().as_bytes());
            let listed: Vec<String> = value.iter().map(u8::to_string).collect();
            add(listed.join(", ").as_bytes());
            add(listed.join(",").as_bytes());
            let url: String = value.iter().map(|byte| format!("%{byte:02X}")).collect();
            add(url.as_bytes());
        }
        Self(windows)
    }

    fn found_in(&self, bytes: &[u8]) -> Option<usize> {
        bytes.windows(WINDOW).position(|window| self.0.contains(window))
    }
}

/// Any bytes, or text: what is put into a message or a record as text loses bytes that are none.
fn canary(random: &mut Random, is_text: bool) -> Vec<u8> {
    let bytes: Vec<u8> = (0..8).flat_map(|_| random.next().to_le_bytes()).collect();
    if is_text { bytes.iter().map(|byte| b'A' + byte % 26).collect() } else { bytes }
}

/// Every file below `directory`, without entering other file systems.
fn files_below(directory: &Path, skip: &Path, found: &mut Vec<std::path::PathBuf>) {
    for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
        let path = entry.path();
        let kind = entry.file_type().expect("a type");
        if path == skip {
            continue;
        }
        if kind.is_dir() {
            files_below(&path, skip, found);
        } else if kind.is_file() {
            found.push(path);
        }
    }
}

fn scan(instance: &Instance, canaries: &Canaries, pids: &[u32]) -> Vec<String> {
    let mut files = Vec::new();
    files_below(instance.dir(), Path::new(&instance.mount_point()), &mut files);
    let mut leaks = Vec::new();
    for file in files {
        let bytes = std::fs::read(&file).expect("readable by root");
        if let Some(at) = canaries.found_in(&bytes) {
            leaks.push(format!("{} at byte {at}", file.display()));
        }
    }
    for pid in pids {
        for name in ["environ", "cmdline", "comm", "status"] {
            let file = format!("/proc/{pid}/{name}");
            if let Some(at) = canaries.found_in(&std::fs::read(&file).unwrap_or_default()) {
                leaks.push(format!("{file} at byte {at}"));
            }
        }
    }
    if let Some(at) = canaries.found_in(&instance.transcript()) {
        leaks.push(format!("what the commands printed, at byte {at}"));
    }
    leaks
}

#[test]
fn no_window_of_a_value_is_found_outside_the_mount_at_the_highest_log_level() {
    let mut random = Random(0x00ca_4a47);
    let values: Vec<Vec<u8>> = (0..6).map(|at| canary(&mut random, at % 5 != 1)).collect();
    let canaries = Canaries::of(&values);
    let instance = Setup::default().env("RUST_LOG", "trace").warnings_expected().start();
    // By standard input, by JSON (also malformed), by a file.
    instance.command_with(&["put", "prod/one", "value"], values[0].clone()).ok();
    instance.put("prod/two", &[("value", &values[1]), ("other", &values[2])]);
    let text = String::from_utf8_lossy(&values[3]).into_owned();
    let malformed = [b"{\"value\": \"".as_slice(), &values[3], b"\", oops"].concat();
    instance.command_with(&["put", "prod/two", "--fields-json"], malformed).ended_with(2);
    let twice = serde_json::json!({ "../bad": text, "value": { "base64": "!!!" } }).to_string();
    assert_ne!(instance.command_with(&["put", "prod/two", "--fields-json"], twice).code, Some(0));
    instance.command_with(&["put", "prod/../two", "value"], values[4].clone());
    let big: Vec<u8> = values[5].iter().copied().cycle().take(1_048_640).collect();
    assert_ne!(instance.command_with(&["put", "prod/big", "value"], big).code, Some(0));
    read_and_refuse(&instance);
    let pid = instance.worker_pid();
    let daemon = instance.daemon_pid();
    assert_eq!(scan(&instance, &canaries, &[pid, daemon]), Vec::<String>::new());
    let said = instance.daemon_output();
    assert!(said.contains("serving"), "it logs:\n{said}");
    // A scan of what says nothing finds nothing: each step of a read and of a change was told, and where it led.
    for step in [
        "found",
        "listed",
        "allowed",
        "not allowed",
        "not at hand",
        "fetched",
        "recorded, released",
        "opened",
        "open answered",
        "read answered",
        "closed",
        "refused",
        "hidden",
        "asked by the control socket",
        "changed",
        "given to an administrator",
        "administered",
        "answered",
    ] {
        assert!(said.lines().any(|line| line.contains(&format!(" {step}"))), "nothing was said of: {step}");
    }
    assert!(instance.end_with("TERM").success());
    // Against a damaged store, and with the wrong key.
    let key = instance.configured_file("stores.main.key_file");
    let held = std::fs::read(&key).expect("the key");
    let wrong: Vec<u8> = held.iter().rev().copied().collect();
    std::fs::write(&key, wrong).expect("another key");
    assert_ne!(instance.command(&["get", "prod/one", "value"]).code, Some(0));
    std::fs::write(&key, held).expect("the key again");
    assert_eq!(scan(&instance, &canaries, &[]), Vec::<String>::new());

    // The positive control: one window, once in each encoding, is found.
    let planted = instance.dir().join("planted");
    let middle = &values[2][20..44];
    let hex: String = middle.iter().map(|byte| format!("{byte:02x}")).collect();
    let encoded = base64::engine::general_purpose::STANDARD.encode([b"x".as_slice(), middle].concat());
    for bytes in [middle.to_vec(), hex.into_bytes(), encoded.into_bytes(), format!("{middle:?}").into_bytes()]
    {
        std::fs::write(&planted, [b"prefix ".as_slice(), &bytes, b" suffix"].concat()).expect("planted");
        assert_eq!(scan(&instance, &canaries, &[]).len(), 1, "the scan sees {bytes:?}");
    }
    std::fs::remove_file(&planted).expect("removed");
}

/// Everything that hands values over or refuses to, by the mount and by the command line.
fn read_and_refuse(instance: &Instance) {
    for uid in [ALICE, BOB, CAROL] {
        let asker = Asker::uid(uid);
        for path in ["prod/one/value", "prod/two/current/other", "prod/two/nothing"] {
            asker.run(&["cat", &instance.path(path)]);
            asker.run(&["getfattr", "-d", &instance.path(path)]);
        }
        asker.run(&["ls", "-l", &instance.path("prod/two")]);
    }
    // What it prints is the value itself, so that goes into no transcript.
    instance.program(&["get", "prod/two", "value"]).run().ok();
    for words in [
        &["rollback", "prod/two"][..],
        &["ls"],
        &["versions", "prod/two", "--json"],
        &["explain", "prod/one", "--uid", "24001", "--json"],
        &["who-read", "prod/one", "--json"],
        &["audit", "log", "--json"],
        &["audit", "verify", "--json"],
        &["doctor"],
        &["status", "--json"],
        &["learn"],
        &["revoke", "prod/one", "--version", "1"],
        &["get", "prod/one", "value"],
        &["delete", "prod/two"],
        &["undelete", "prod/two"],
    ] {
        instance.command(words);
    }
    let backup = instance.file("backup");
    instance.command(&["backup", &backup]).ok();
    instance.command(&["rekey"]);
    instance.command(&["destroy", "prod/two"]);
}
