//! Commands, each way.

use serde_json::{Value, json};

use crate::world::{CANARY, World};

/// One life of a secret. What each step answers must not depend on who has the files open.
fn transcript(world: &World) -> Vec<(String, i32, Value)> {
    let steps: &[(&[&str], &str)] = &[
        (&["get", "prod/db", "password"], ""),
        (&["put", "prod/db", "password"], "one"),
        (&["put", "prod/db", "username=-", "--owner", "orders", "--impact", "high"], "user"),
        (&["put", "prod/db", "password", "--stage", "next", "--rotate-every", "90d"], "three"),
        (&["get", "prod/db", "password"], ""),
        (&["get", "prod/db", "password", "--version", "next"], ""),
        (&["promote", "prod/db"], ""),
        (&["promote", "prod/db"], ""),
        (&["get", "prod/db"], ""),
        (&["patch", "prod/db", "username"], "other"),
        (&["rollback", "prod/db"], ""),
        (&["rollback", "prod/db", "--to", "4"], ""),
        (&["revoke", "prod/db", "--version", "3", "--reason", "drill"], ""),
        (&["get", "prod/db", "password", "--version", "3"], ""),
        (&["put", "prod/db", "--fields-json", "--only"], "{\"a\":\"\\u00fc\",\"b\":{\"base64\":\"AP8=\"}}"),
        (&["get", "prod/db"], ""),
        (&["ls"], ""),
        (&["ls", "prod/db"], ""),
        (&["ls", "nothing/here"], ""),
        (&["versions", "prod/db"], ""),
        (&["versions", "prod/none"], ""),
        (&["delete", "prod/db", "--version", "1"], ""),
        (&["get", "prod/db", "password", "--version", "1"], ""),
        (&["undelete", "prod/db", "--version", "1"], ""),
        (&["delete", "prod/db"], ""),
        (&["ls"], ""),
        (&["get", "prod/db"], ""),
        (&["undelete", "prod/db"], ""),
        (&["destroy", "prod/db", "--version", "2"], ""),
        (&["destroy", "prod/db", "--yes"], ""),
        (&["versions", "prod/db"], ""),
        (&["put", "prod/db", "again"], "number goes on"),
        (&["refresh"], ""),
    ];
    let mut seen = Vec::new();
    for (arguments, input) in steps {
        let arguments: Vec<&str> = arguments.iter().copied().chain(["--json"]).collect();
        let done = world.run_with(&arguments, input.as_bytes());
        let mut answer = if done.out.is_empty() { Value::from(done.err) } else { done.json() };
        for row in answer.as_array_mut().into_iter().flatten() {
            if let Some(row) = row.as_object_mut() {
                row.remove("created");
            }
        }
        seen.push((arguments.join(" "), done.code, answer));
    }
    seen
}

#[test]
fn a_command_answers_the_same_with_and_without_a_running_instance() {
    let without = transcript(&World::new());
    let world = World::new();
    let instance = world.serve();
    let with = transcript(&world);
    instance.stop();
    for (one, other) in without.iter().zip(&with) {
        assert_eq!(one, other);
    }
    assert_eq!(with.len(), without.len());
    let code = |command: &str| without.iter().find(|(step, ..)| step.starts_with(command)).unwrap().1;
    assert_eq!(code("get prod/db password --json"), 3, "nothing is there yet");
    assert_eq!(code("versions prod/none"), 3);
    let answer = |command: &str| &without.iter().find(|(step, ..)| step.starts_with(command)).unwrap().2;
    assert_eq!(answer("put prod/db password --json")["version"], json!(1));
    assert_eq!(answer("put prod/db username=-")["carried"], json!(["password"]));
    assert_eq!(answer("put prod/db password --stage next")["stage"], json!("next"));
    let got = &without[15];
    assert_eq!(got.2["fields"], json!({ "a": "ü", "b": { "base64": "AP8=" } }), "{got:?}");
    let last = without.iter().rev().nth(1).unwrap();
    assert_eq!(last.2["version"], json!(6), "numbers are never used again: {last:?}");
}

#[test]
fn bytes_come_back_as_they_were_given_by_every_way_in_and_out() {
    let world = World::new();
    let every: Vec<u8> = (0..=255).collect();
    std::fs::write(world.path("file"), &every).unwrap();
    let file = format!("b=@{}", world.path("file").display());
    world.run_with(&["put", "x/bytes", "a=-", &file], &every).expect(0);
    for field in ["a", "b"] {
        assert_eq!(world.run(&["get", "x/bytes", field]).expect(0).out, every);
    }
    let got = world.run(&["get", "x/bytes", "--json"]).expect(0);
    let fields = got.json()["fields"].to_string();
    world.run_with(&["put", "x/again", "--fields-json"], fields.as_bytes()).expect(0);
    assert_eq!(world.run(&["get", "x/again", "a"]).expect(0).out, every);
    world.put("x/empty", "nothing", b"");
    assert_eq!(world.run(&["get", "x/empty", "nothing"]).expect(0).out, b"");
    let largest = vec![b'x'; 1024 * 1024];
    world.put("x/large", "value", &largest);
    assert_eq!(world.run(&["get", "x/large", "value"]).expect(0).out, largest);
    let refused = world.run_with(&["put", "x/large", "value"], &[&largest[..], b"y"].concat()).expect(1);
    assert!(refused.err.contains("1 MiB"), "{}", refused.err);
}

#[test]
fn a_value_on_the_command_line_is_refused_and_never_repeated() {
    let world = World::new();
    let given = format!("password={CANARY}");
    for arguments in [
        &["put", "prod/db", &given][..],
        &["put", "prod/db", "password", CANARY],
        &["put", "prod/db", "password", "--value", CANARY],
        &["put", "prod/db", "password", &format!("--{CANARY}")],
        &["get", "prod/db", "password", CANARY],
        &[CANARY],
    ] {
        // `run` looks for the canary on standard error.
        let refused = world.run(arguments).expect(2);
        assert!(!refused.text().contains(CANARY), "{arguments:?}");
    }
    assert!(world.run(&["put", "prod/db", &given]).err.contains("=-"), "the remedy is told");
    for input in [
        format!("[\"{CANARY}\"]"),
        format!("{{\"a\":\"{CANARY}"),
        format!("{{\"a\":{{\"x\":\"{CANARY}\"}}}}"),
    ] {
        world.run_with(&["put", "prod/db", "--fields-json"], input.as_bytes()).expect(2);
    }
    world.run(&["versions", "prod/db"]).expect(3);
}

#[test]
fn a_lone_newline_at_the_end_is_warned_of_and_kept() {
    let world = World::new();
    let warned = world.run_with(&["put", "a/b", "c"], b"value\n").expect(0);
    assert!(warned.err.contains("newline"));
    assert_eq!(world.run(&["get", "a/b", "c"]).expect(0).out, b"value\n");
    let text = world.run_with(&["put", "a/b", "c"], b"-----BEGIN\nEND-----\n").expect(0);
    assert_eq!(text.err, "", "a text of several lines ends with one by right");
}

#[test]
fn each_kind_of_failure_has_its_exit_code() {
    let world = World::new();
    world.put("prod/db", "password", CANARY.as_bytes());
    world.run(&["nonsense"]).expect(2);
    world.run(&["put", "prod/db"]).expect(2);
    world.run(&["put", "../db", "password"]).expect(2);
    world.run(&["put", "prod/current", "password"]).expect(2);
    world.run(&["put", "prod/db", "a", "b"]).expect(2);
    world.run(&["put", "prod/db", "a", "--rotate-every", "90"]).expect(2);
    world.run(&["get", "prod/db", "none"]).expect(3);
    world.run(&["get", "prod/db", "password", "--version", "9"]).expect(3);
    world.run(&["rollback", "prod/db"]).expect(3);
    world.run(&["reload"]).expect(5);
    world.run(&["init"]).expect(8);
    world.run(&["explain", "prod/db", "--uid", "7", "--check"]).expect(4);
    world.run(&["explain", "prod/db", "--uid", "7"]).expect(0);
    world.run(&["backup", world.path("store.key").to_str().unwrap()]).expect(8);
    world.run(&["check", "--config", "/nonexistent.toml"]).expect(7);
    world.write("policy.toml", "nonsense = 1\n");
    let faults = world.run(&["check", "--json"]).expect(7).json();
    assert_eq!(faults["ok"], json!(false));
    assert_eq!(faults["faults"][0]["line"], json!(1));
    world.run(&["mount"]).expect(7);
}

#[test]
fn without_an_audit_log_nothing_is_done_or_given_out() {
    let world = World::new();
    world.put("prod/db", "password", CANARY.as_bytes());
    let (log, away) = (world.path("audit.log"), world.path("audit.away"));
    std::fs::rename(&log, &away).unwrap();
    std::fs::create_dir(&log).unwrap();
    assert_eq!(world.run(&["get", "prod/db", "password"]).expect(6).out, b"");
    world.run_with(&["put", "prod/db", "password"], b"x").expect(6);
    std::fs::remove_dir(&log).unwrap();
    std::fs::rename(&away, &log).unwrap();
    assert_eq!(world.run(&["versions", "prod/db", "--json"]).expect(0).json().as_array().unwrap().len(), 1);
    let instance = world.serve();
    std::fs::rename(&log, &away).unwrap();
    assert_eq!(world.run(&["get", "prod/db", "password"]).expect(6).out, b"");
    world.run_with(&["put", "prod/db", "password"], b"x").expect(6);
    let status = world.run(&["status", "--json"]).expect(1).json();
    assert_eq!(status["state"], json!("degraded"));
    std::fs::rename(&away, &log).unwrap();
    world.run(&["get", "prod/db", "password"]).expect(0);
    world.run(&["status"]).expect(0);
    instance.stop();
    world.run(&["audit", "verify"]).expect(0);
}

#[test]
fn what_was_changed_in_the_audit_log_is_found() {
    let world = World::empty();
    let laid = world.run(&["init", "--json"]).expect(0).json();
    let root = laid["audit_fingerprint"].as_str().unwrap().to_owned();
    world.put("prod/db", "password", b"x");
    let verdict = world.run(&["audit", "verify", "--root", &root, "--json"]).expect(0).json();
    assert_eq!(verdict["ok"], json!(true));
    assert_eq!(verdict["root_pinned"], json!(true));
    assert_eq!(verdict["fault"], Value::Null);
    let other = "0".repeat(64);
    world.run(&["audit", "verify", "--root", &other]).expect(6);
    world.run(&["audit", "verify", "--root", "abc"]).expect(2);
    let text = std::fs::read_to_string(world.path("audit.log")).unwrap();
    world.write("audit.log", &text.replacen("prod/db", "prod/xx", 1));
    let verdict = world.run(&["audit", "verify", "--json"]).expect(6).json();
    assert_eq!(verdict["ok"], json!(false));
    assert!(verdict["fault"]["seq"].is_u64(), "{verdict}");
}

#[test]
fn backup_restore_and_a_new_key_lose_nothing() {
    let world = World::new();
    world.put("prod/db", "password", b"first");
    let backup = world.path("backup");
    let backup = backup.to_str().unwrap();
    world.run(&["backup", backup]).expect(0);
    let instance = world.serve();
    world.put("prod/db", "password", b"second");
    world.run(&["backup", &format!("{backup}-2")]).expect(0);
    world.run(&["restore", backup]).expect(1);
    instance.stop();
    assert_eq!(
        world.run(&["restore", &format!("{backup}-2"), "--json"]).expect(0).json()["versions"],
        json!(2)
    );
    world.run(&["restore", backup]).expect(0);
    assert_eq!(world.run(&["get", "prod/db", "password"]).expect(0).out, b"first");
    let key = std::fs::read(world.path("store.key")).unwrap();
    world.run(&["rekey"]).expect(0);
    let instance = world.serve();
    world.run(&["rekey"]).expect(0);
    assert_eq!(world.run(&["get", "prod/db", "password"]).expect(0).out, b"first");
    instance.stop();
    assert_ne!(std::fs::read(world.path("store.key")).unwrap(), key);
    assert_eq!(world.run(&["get", "prod/db", "password"]).expect(0).out, b"first");
    world.run(&["restore", "/nonexistent"]).expect(3);
    world.run(&["audit", "verify"]).expect(0);
}

#[test]
fn every_command_explains_itself_with_an_example() {
    let world = World::empty();
    let help = world.run(&["--help"]).expect(0).text();
    let verbs: Vec<&str> = help
        .lines()
        .skip_while(|line| !line.starts_with("Commands:"))
        .skip(1)
        .take_while(|line| line.starts_with("  "))
        .filter_map(|line| line.split_whitespace().next())
        .filter(|verb| verb.chars().all(|c| c.is_ascii_lowercase() || c == '-') && *verb != "help")
        .collect();
    for verb in ["put", "get", "who-read", "audit", "doctor", "dev", "rekey"] {
        assert!(help.contains(verb), "{verb}");
    }
    for verb in verbs.iter().filter(|verb| help.contains(&format!("\n  {verb} "))) {
        let done = world.run(&[verb, "--help"]);
        if done.code == 0 && *verb != "audit" {
            assert!(done.text().contains("Examples:"), "{verb}: {}", done.text());
        }
    }
}

#[test]
fn the_audit_log_answers_who_read_and_what_to_grant() {
    let world = World::new();
    world.put("prod/db", "password", b"x");
    world.run(&["get", "prod/db", "password"]).expect(0);
    let read = world.run(&["who-read", "prod/db", "--since", "1h", "--json"]).expect(0).json();
    assert_eq!(read.as_array().unwrap().len(), 1, "{read}");
    assert_eq!((&read[0]["op"], &read[0]["field"]), (&json!("get"), &json!("password")));
    let none = world.run(&["who-read", "prod/db", "--version", "2", "--json"]).expect(0).json();
    assert_eq!(none, json!([]));
    let log = world.run(&["audit", "log", "--op", "put", "--json"]).expect(0).json();
    assert_eq!(log.as_array().unwrap().len(), 1);
    let last = world.run(&["audit", "log", "-n", "2", "--json"]).expect(0).json();
    assert_eq!(last.as_array().unwrap().len(), 2);
    let checkpoint = world.run(&["audit", "checkpoint"]).expect(0).text();
    world.write("checkpoint", &checkpoint);
    world.run(&["audit", "rotate"]).expect(0);
    let kept = world.path("checkpoint");
    world.run(&["audit", "verify", "--checkpoint", kept.to_str().unwrap()]).expect(0);
    let explained = world.run(&["explain", "prod/db", "--uid", "7", "--json"]).expect(0).json();
    assert_eq!(explained["decision"], json!("hidden"));
    assert_eq!((&explained["rule"], &explained["identity"]), (&Value::Null, &Value::Null));
    assert!(world.run(&["learn"]).expect(0).text().starts_with('#'));
}
