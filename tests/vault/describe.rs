//! What an outsider stored is described, listed and read as it is; and what credfs says agrees with what curl is told.

use std::time::{Duration, SystemTime};

use credfs::model::{Stage, State, UnixTime};
use credfs::store::{Login, Source as _, StoreFault};
use serde_json::json;

use crate::harness::{Bao, Between, Directory, Does, Opened, options, path, token_login, version};

#[test]
fn versions_are_those_of_the_server() {
    let bao = Bao::dev();
    let opened = Opened::at(&bao, "secret");
    assert_eq!(opened.describe("prod/db").unwrap(), None);
    for value in ["one", "two", "three"] {
        bao.tell("POST", "secret/data/prod/db", &json!({"data": {"password": value, "user": "u"}}));
    }
    let told = bao.get("secret/metadata/prod/db")["data"].clone();
    let known = opened.known("prod/db");
    assert_eq!((known.current, known.previous, known.next), (Some(version(3)), Some(version(2)), None));
    for described in &known.versions {
        let theirs = told["versions"][described.number.to_string()]["created_time"].as_str().unwrap();
        assert_eq!(Some(described.created), UnixTime::parse_rfc3339(theirs));
        // The server tells whole seconds; of two in one second the later is a little later.
        let activated = described.activated.unwrap();
        assert!(
            (described.created..described.created.plus(std::time::Duration::from_millis(1)))
                .contains(&activated)
        );
        assert_eq!((described.state, described.fields.as_ref()), (State::Active, None));
    }
    assert_eq!(known.versions[1].lost.unwrap().0, known.versions[2].created);
    assert!(known.versions[1].lost.unwrap().1.contains(Stage::Current));
    for (number, value) in [(1, "one"), (2, "two"), (3, "three")] {
        let read = opened.read(&Login::machine(), "prod/db", Some(number)).unwrap();
        let expected = [("password", value), ("user", "u")];
        let expected = expected.map(|(name, value)| (name.to_owned(), value.as_bytes().to_vec()));
        assert_eq!(read, expected);
    }
    assert_eq!(opened.read(&Login::machine(), "prod/db", None).unwrap()[0].1, b"three");
    let fault = |number| opened.read(&Login::machine(), "prod/db", Some(number)).unwrap_err();
    assert!(matches!(fault(4).fault, StoreFault::NoVersion(..)));
    bao.tell("POST", "secret/delete/prod/db", &json!({"versions": [2]}));
    bao.tell("PUT", "secret/destroy/prod/db", &json!({"versions": [1]}));
    assert!(matches!(fault(2).fault, StoreFault::Deleted(..)));
    assert!(matches!(fault(1).fault, StoreFault::Destroyed(..)));
    assert!(fault(1).request_id.is_some());
    let states: Vec<State> = opened.known("prod/db").versions.iter().map(|version| version.state).collect();
    assert_eq!(states, [State::Destroyed, State::Deleted, State::Active]);
    // The newest is deleted, as `kv delete` does: nobody is given an older one in its place.
    bao.ask("DELETE", "secret/data/prod/db", None);
    assert_eq!(opened.known("prod/db").current, Some(version(3)));
    assert!(matches!(fault(3).fault, StoreFault::Deleted(..)));
    bao.ask("DELETE", "secret/metadata/prod/db", None);
    assert_eq!(opened.describe("prod/db").unwrap(), None);
}

#[test]
fn a_version_whose_deletion_is_planned_can_be_read_until_then() {
    let bao = Bao::dev();
    let opened = Opened::at(&bao, "secret");
    bao.tell("POST", "secret/metadata/soon", &json!({"delete_version_after": "2s"}));
    bao.tell("POST", "secret/data/soon", &json!({"data": {"a": "x"}}));
    assert_eq!(opened.known("soon").versions[0].state, State::Active);
    std::thread::sleep(std::time::Duration::from_millis(2300));
    assert_eq!(opened.known("soon").versions[0].state, State::Deleted);
}

#[test]
fn values_of_every_kind_are_what_an_outsider_stored() {
    let bao = Bao::dev();
    let opened = Opened::at(&bao, "secret");
    let pem = "-----BEGIN KEY-----\nAA\"\\\t\n-----END KEY-----\n";
    let stored = json!({"data": {
        "pem": pem, "number": 7, "truth": true, "nothing": null, "object": {"a": [1, "x"]}, "empty": "", "é/日": "😀\u{1}",
        "bytes": {"base64": "AP8K"},
    }});
    bao.tell("POST", "secret/data/kinds", &stored);
    let read = opened.read(&Login::machine(), "kinds", Some(1)).unwrap();
    let value = |name: &str| read.iter().find(|(found, _)| found == name).unwrap().1.clone();
    assert_eq!(value("pem"), pem.as_bytes());
    assert_eq!(value("number"), b"7");
    assert_eq!(value("truth"), b"true");
    assert_eq!(value("nothing"), b"null");
    assert_eq!(value("object"), br#"{"a":[1,"x"]}"#);
    assert_eq!(value("empty"), b"");
    assert_eq!(value("é/日"), "😀\u{1}".as_bytes());
    assert_eq!(value("bytes"), [0, 255, 10]);
    let names: Vec<&String> = read.iter().map(|(name, _)| name).collect();
    assert!(names.is_sorted());
}

#[test]
fn names_are_listed_and_asked_for_as_they_are() {
    let bao = Bao::dev();
    let opened = Opened::at(&bao, "secret");
    assert_eq!(opened.list(""), [""; 0]);
    assert_eq!(opened.list("no/such"), [""; 0]);
    for (encoded, plain) in [
        ("top", "top"),
        ("a/b", "a/b"),
        ("a/b/c", "a/b/c"),
        ("a/b%20c%3Fd%23e", "a/b c?d#e"),
        ("a/%C3%A9%25", "a/é%"),
    ] {
        bao.tell("POST", &format!("secret/data/{encoded}"), &json!({"data": {"at": plain}}));
        let read = opened.read(&Login::machine(), plain, Some(1)).unwrap();
        assert_eq!(read[0].1, plain.as_bytes(), "{plain}");
        assert!(opened.describe(plain).unwrap().is_some());
    }
    assert_eq!(opened.list(""), ["a/", "top"]);
    assert_eq!(opened.list("a"), ["b", "b/", "b c?d#e", "é%"]);
    assert_eq!(opened.list("a/b"), ["c"]);
}

#[test]
fn a_mount_at_a_longer_path_in_a_namespace_is_found_and_one_that_is_no_kv_engine_is_refused() {
    let bao = Bao::dev();
    bao.tell("POST", "sys/namespaces/team", &json!({}));
    bao.mount_kv("team/deep/secrets", "2");
    bao.tell("POST", "team/deep/secrets/data/x", &json!({"data": {"a": "in the namespace"}}));
    let directory = crate::harness::Directory::new();
    let token = directory.file("token", &bao.root);
    let mut options =
        crate::harness::options(&[&bao.url], "deep/secrets", crate::harness::token_login(token));
    options.namespace = Some("team".to_owned());
    options.machine_login.namespace = Some(String::new());
    let opened = Opened::with(options.clone(), directory);
    assert_eq!(opened.read(&Login::machine(), "x", Some(1)).unwrap()[0].1, b"in the namespace");
    opened.run(opened.vault.probe()).unwrap();
    for (mount, says) in [("sys", "not KV"), ("no-such", "no-such")] {
        options.namespace = None;
        options.mount = mount.to_owned();
        let directory = crate::harness::Directory::new();
        let opened = Opened::with(options.clone(), directory);
        // The token's file belongs to the first store, which is still there.
        let fault = opened.describe("x").unwrap_err().fault;
        assert!(fault.to_string().contains(says), "{fault}");
    }
}

#[test]
fn what_people_wrote_beside_a_secret_is_told() {
    let bao = Bao::dev();
    let opened = Opened::at(&bao, "secret");
    let custom = json!({"custom_metadata": {
        "credfs.owner": "the orders team", "credfs.impact": "high", "credfs.rotate_every": "90d", "credfs.grace": "1h",
        "credfs.fields": "user,password", "team": "theirs",
    }});
    bao.tell("POST", "secret/metadata/s", &custom);
    assert_eq!(opened.describe("s").unwrap(), None, "nothing is stored yet");
    bao.tell("POST", "secret/data/s", &json!({"data": {"user": "u", "password": "p"}}));
    let known = opened.known("s");
    assert_eq!(known.ownership.owner.as_deref(), Some("the orders team"));
    assert_eq!(known.ownership.impact, Some(credfs::model::Impact::High));
    assert_eq!(known.ownership.grace, Some(std::time::Duration::from_secs(3600)));
    let fields = known.versions[0].fields.clone().unwrap();
    assert_eq!(fields.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(), ["password", "user"]);
    // Two logins are two answers: what one may not see is refused to it, and its request has a name.
    let fault = opened.run(opened.vault.describe(&Login::machine(), &path("s"))).unwrap();
    assert!(fault.request_id.is_some_and(|id| id.len() > 30));
}

#[test]
fn what_the_server_deleted_by_its_own_clock_is_deleted_though_ours_is_an_hour_off() {
    let bao = Bao::dev();
    bao.tell("POST", "secret/data/s", &json!({"data": {"f": "value"}}));
    bao.tell("POST", "secret/delete/s", &json!({"versions": [1]}));
    let between = Between::in_front_of(&bao.url);
    let directory = Directory::new();
    let token = directory.file("token", &bao.root);
    let opened = Opened::with(options(&[&between.url()], "secret", token_login(token)), directory);
    assert_eq!(opened.known("s").versions[0].state, State::Deleted);
    // The server's very answer, with its clock an hour ahead of ours; then with the deletion still to come there.
    let told = bao.get("secret/metadata/s");
    let later = |seconds: u64| UnixTime::from(SystemTime::now() + Duration::from_secs(seconds));
    let http_date = |time: UnixTime| {
        let seconds = format!("@{}", time.micros() / 1_000_000);
        let words = ["-u", "-d", &seconds, "+%a, %d %b %Y %H:%M:%S GMT"];
        let made = std::process::Command::new("date").env("LC_ALL", "C").args(words).output().unwrap();
        String::from_utf8(made.stdout).unwrap().trim().to_owned()
    };
    for (date, state) in [(3_600, State::Deleted), (0, State::Active)] {
        let mut told = told.clone();
        told["data"]["versions"]["1"]["deletion_time"] = json!(later(3_600).rfc3339());
        let headers = format!("Date: {}\r\n", http_date(later(date)));
        between.decide(move |line| match line.contains("/metadata/") {
            true => Does::answer("200 OK", &headers, &told.to_string()),
            false => Does::HandOn,
        });
        assert_eq!(opened.known("s").versions[0].state, state, "{date}");
    }
}
