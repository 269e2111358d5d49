//! What is wrong is refused with a place and a remedy, and nothing has changed afterwards.

use std::os::unix::fs::PermissionsExt as _;

use crate::harness::{Done, Instance, Setup};

/// An instance that is not running, with one secret.
fn stored() -> Instance {
    let instance = Setup::default().initialised();
    instance.put("prod/db", &[("key", b"hunter2-hunter2")]);
    instance
}

/// It was refused with this exit code, says each of `words`, and repeats no value.
#[track_caller]
fn refused(what: &str, done: &Done, code: i32, words: &[&str]) {
    let said = format!("{}{}", done.text(), done.err);
    assert_eq!(done.code, Some(code), "{what}: {said}");
    for word in words {
        assert!(said.contains(word), "{what} says nothing of {word:?}: {said}");
    }
    assert!(!said.contains("hunter2") && !said.contains("panicked"), "{what}: {said}");
    assert!(said.lines().count() < 20, "{what}: {said}");
}

#[track_caller]
fn is_as_it_was(instance: &Instance) {
    let versions = instance.command(&["versions", "prod/db", "--json"]).ok().json();
    assert_eq!(versions.as_array().map(Vec::len), Some(1), "{versions}");
    assert_eq!(instance.command(&["ls"]).ok().text(), "prod/db");
    assert_eq!(instance.command(&["get", "prod/db", "key"]).ok().text(), "hunter2-hunter2");
}

#[test]
fn names_that_cannot_be_are_refused_with_the_rule_and_the_remedy() {
    let instance = stored();
    let long = "x".repeat(300);
    let of_paths: [(&str, &str); 9] = [
        ("..", "\"..\""),
        ("a/../b", "\"..\""),
        (".", "\".\""),
        ("a//b", "empty"),
        ("", "empty"),
        ("a\nb", "control character"),
        ("a\u{1}b", "control character"),
        (&long, "longer than 255"),
        ("prod/db/current", "choose another"),
    ];
    for (path, rule) in of_paths {
        let done = instance.command_with(&["put", path, "key"], "hunter2");
        refused(&format!("path {path:?}"), &done, 2, &["path of the secret", rule, ": "]);
    }
    let of_fields: [(&str, &str); 8] = [
        ("..", "\"..\""),
        ("", "empty"),
        ("a\nb", "control character"),
        ("a\0b", "control character"),
        (&long, "longer than 255"),
        ("versions", "choose another"),
        ("previous", "choose another"),
        ("a/b", "choose another"),
    ];
    for (field, rule) in of_fields {
        // By JSON, which can hold what no argument can.
        let fields = serde_json::json!({ "good": "hunter2", field: "hunter2" }).to_string();
        let done = instance.command_with(&["put", "prod/db", "--fields-json"], fields);
        refused(&format!("field {field:?}"), &done, 2, &["field number", rule, ": "]);
    }
    is_as_it_was(&instance);
}

#[test]
fn a_value_too_large_is_refused_beside_good_ones_and_nothing_is_stored() {
    let instance = stored();
    let big = "hunter2-".repeat(140_000);
    let fields = serde_json::json!({ "key": "hunter2-new", "big": big }).to_string();
    let done = instance.command_with(&["put", "prod/db", "--fields-json"], fields);
    refused("a value too large", &done, 1, &["big", "1048576", "split it"]);
    is_as_it_was(&instance);
}

#[test]
fn malformed_configuration_is_told_with_file_line_and_remedy_and_nothing_starts() {
    let instance = stored();
    let file = instance.config_path();
    let good = std::fs::read_to_string(&file).expect("the configuration");
    let end = good.lines().count() + 1;
    for (line, words) in [
        ("x = = 3", "not TOML"),
        ("[limits]\nunknown_limit = 3", "unknown_limit"),
        ("[limits]\nrequest_deadline = \"5 parsecs\"", "units are"),
        ("[stores.second]\nkind = \"paper\"", "kind"),
    ] {
        std::fs::write(&file, format!("{good}\n{line}\n")).expect("written");
        for verb in ["check", "mount", "get prod/db key"] {
            let verb: Vec<&str> = verb.split(' ').collect();
            let done = instance.command(&verb);
            refused(line, &done, 7, &[&format!("{file}:"), words, "; "]);
            let said = format!("{}\n{}", done.err, done.text());
            let place = said.split(&format!("{file}:")).nth(1).and_then(|rest| rest.split(':').next());
            let number: usize = place.and_then(|number| number.parse().ok()).expect("the number of a line");
            assert!((end..end + 4).contains(&number), "line {number}: {said}");
        }
        assert!(!instance.is_mounted());
    }
    std::fs::write(&file, good).expect("written");
    is_as_it_was(&instance);
}

#[test]
fn a_wrong_key_no_key_a_lax_mode_and_a_later_format_are_told_apart() {
    let instance = stored();
    let (key, store) =
        (instance.configured_file("stores.main.key_file"), instance.configured_file("stores.main.path"));
    let key_name = key.display().to_string();
    let other = Setup::default().initialised();
    let held = std::fs::read(&key).expect("the key");
    std::fs::write(&key, std::fs::read(other.configured_file("stores.main.key_file")).expect("a key"))
        .expect("another key");
    let get = || instance.command(&["get", "prod/db", "key"]);
    let done = get();
    assert!(matches!(done.code, Some(1 | 5)), "{:?} {}", done.code, done.err);
    refused("another store's key", &done, done.code.expect("a code"), &["key", &key_name]);
    std::fs::write(&key, "hunter2").expect("no key at all");
    refused("no key", &get(), 1, &[&key_name, "credfs-key-1:"]);
    std::fs::write(&key, &held).expect("the key again");
    for (file, mode) in [(&key, 0o640), (&store, 0o666)] {
        let before = std::fs::metadata(file).expect("it exists").permissions();
        std::fs::set_permissions(file, std::fs::Permissions::from_mode(mode)).expect("chmod");
        refused("a lax mode", &get(), 7, &[&file.display().to_string(), "chmod"]);
        std::fs::set_permissions(file, before).expect("chmod");
    }
    is_as_it_was(&instance);
    let later = rusqlite::Connection::open(&store).expect("the database");
    later.pragma_update(None, "user_version", 3).expect("another format");
    drop(later);
    refused("a later format", &get(), 1, &[&store.display().to_string(), "format 3", "install"]);
    let earlier = rusqlite::Connection::open(&store).expect("the database");
    earlier.pragma_update(None, "user_version", 2).expect("the format again");
    drop(earlier);
    is_as_it_was(&instance);
}
