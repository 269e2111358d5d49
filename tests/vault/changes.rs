//! Changes through the server, looked at by an outsider; and by a second credfs, which must never be shown what is staged.

use credfs::model::{Impact, Ownership, SecretBytes, Stage, State};
use credfs::store::{Change, Login, StoreFault};
use serde_json::{Value, json};

use crate::harness::{Bao, Opened, field, path, put, put_staged, read_text, version};

fn outside(bao: &Bao, secret: &str, number: u32) -> Value {
    bao.get(&format!("secret/data/{secret}?version={number}"))["data"]["data"].clone()
}

#[test]
fn what_is_put_is_what_an_outsider_reads_and_carried_fields_stay_as_they_were() {
    let bao = Bao::dev();
    let opened = Opened::at(&bao, "secret");
    let made = opened.change(put("a/b", &[("password", b"p1"), ("user", b"u")])).unwrap();
    assert_eq!((made.version, made.carried), (Some(version(1)), vec![]));
    assert_eq!(outside(&bao, "a/b", 1), json!({"password": "p1", "user": "u"}));
    bao.tell("POST", "secret/data/a/b", &json!({"data": {"password": "p2", "port": 5432, "o": {"x": [1]}}}));
    let made = opened.change(put("a/b", &[("password", b"\x00\xff\n")])).unwrap();
    assert_eq!((made.version, made.carried), (Some(version(3)), vec![field("o"), field("port")]));
    assert_eq!(
        outside(&bao, "a/b", 3),
        json!({"password": {"base64": "AP8K"}, "port": 5432, "o": {"x": [1]}})
    );
    let known = made.description.unwrap();
    assert_eq!((known.current, known.previous), (Some(version(3)), Some(version(2))));
    let names: Vec<_> =
        known.versions[2].fields.as_ref().unwrap().iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["o", "password", "port"]);
    let large = vec![1_u8; 1024 * 1024];
    opened.change(put("large", &[("f", &large)])).unwrap();
    assert_eq!(opened.read(&Login::machine(), "large", Some(1)).unwrap()[0].1, large);
}

#[test]
fn a_staged_version_is_shown_as_current_to_nobody_who_honours_stages() {
    let bao = Bao::dev();
    let (one, other) = (Opened::at(&bao, "secret"), Opened::at(&bao, "secret"));
    one.change(put("s", &[("f", b"1")])).unwrap();
    // The other looks all the time, from before it is staged until after.
    let is_over = std::sync::atomic::AtomicBool::new(false);
    let looks = std::thread::scope(|scope| {
        let looking = scope.spawn(|| {
            let mut looks = 0;
            while !is_over.load(std::sync::atomic::Ordering::Relaxed) {
                let known = other.known("s");
                assert_eq!(known.current, Some(version(1)), "{known:?}");
                looks += 1;
            }
            looks
        });
        for number in 2..11 {
            let made = one.change(put_staged("s", &[("f", b"candidate")])).unwrap();
            assert_eq!(made.version, Some(version(number)));
        }
        is_over.store(true, std::sync::atomic::Ordering::Relaxed);
        looking.join().unwrap()
    });
    assert!(looks > 2, "{looks}");
    // One more, and the engine, which keeps ten, would forget the version that readers get.
    let refused = one.change(put_staged("s", &[("f", b"one too many")])).unwrap_err().fault;
    assert!(refused.to_string().contains("-max-versions=11"), "{refused}");
    let known = other.known("s");
    assert_eq!((known.current, known.next), (Some(version(1)), Some(version(10))));
    assert!(known.versions.iter().all(|staged| staged.number == version(1) || staged.activated.is_none()));
    let made = other.change(Change::Promote { secret: path("s") }).unwrap();
    assert_eq!(made.version, Some(version(10)));
    let known = one.known("s");
    assert_eq!((known.current, known.previous, known.next), (Some(version(10)), Some(version(1)), None));
    // Somebody who knows nothing of stages stores a value: it is current for all.
    bao.tell("POST", "secret/data/s", &json!({"data": {"f": "theirs"}}));
    assert_eq!(one.known("s").current, Some(version(11)));
    assert_eq!(one.known("s").previous, Some(version(10)));
}

#[test]
fn stages_move_as_they_do_in_the_embedded_store() {
    let bao = Bao::dev();
    let opened = Opened::at(&bao, "secret");
    for value in [b"1", b"2", b"3"] {
        opened.change(put("s", &[("f", value)])).unwrap();
    }
    let back = |to: Option<u32>| opened.change(Change::Rollback { secret: path("s"), to: to.map(version) });
    let stages = |made: credfs::store::Made| {
        let known = made.description.unwrap();
        (known.current.map(|v| v.get()), known.previous.map(|v| v.get()), known.next.map(|v| v.get()))
    };
    let before = opened.known("s").versions[2].activated;
    let made = back(None).unwrap();
    assert!(made.description.as_ref().unwrap().versions[1].activated > before, "times go forward");
    assert_eq!(stages(made), (Some(2), Some(1), None));
    assert_eq!(stages(back(None).unwrap()), (Some(1), None, None));
    assert!(matches!(back(None).unwrap_err().fault, StoreFault::NoStage(_, "previous")));
    assert!(matches!(back(Some(9)).unwrap_err().fault, StoreFault::NoVersion(..)));
    assert_eq!(stages(back(Some(3)).unwrap()), (Some(3), Some(2), None));
    assert!(back(Some(3)).unwrap_err().fault.to_string().contains("already"));
    let promote = || opened.change(Change::Promote { secret: path("s") });
    assert!(matches!(promote().unwrap_err().fault, StoreFault::NoStage(_, "next")));
    assert_eq!(stages(opened.change(put_staged("s", &[("g", b"4")])).unwrap()), (Some(3), Some(2), Some(4)));
    assert_eq!(read_text(&opened, "s", 4, "f").unwrap(), "3", "carried from the current one");
    assert_eq!(stages(opened.change(put("s", &[("f", b"5")])).unwrap()), (Some(5), Some(3), Some(4)));
    assert_eq!(stages(promote().unwrap()), (Some(4), Some(5), None));
    // It is no memory of ours: another one reads the same.
    assert_eq!(Opened::at(&bao, "secret").known("s"), opened.known("s"));
}

#[test]
fn revoked_deleted_destroyed_and_freed() {
    let bao = Bao::dev();
    let opened = Opened::at(&bao, "secret");
    for value in [b"1", b"2", b"3"] {
        opened.change(put("s", &[("f", value)])).unwrap();
    }
    let s = || path("s");
    let state = |number: usize| opened.known("s").versions[number - 1].state;
    opened.change(Change::Revoke { secret: s(), version: version(3) }).unwrap();
    assert_eq!((state(3), opened.known("s").current), (State::Revoked, Some(version(3))));
    opened.change(Change::Delete { secret: s(), version: Some(version(3)) }).unwrap();
    assert_eq!(state(3), State::Deleted);
    opened.change(Change::Undelete { secret: s(), version: Some(version(3)) }).unwrap();
    assert_eq!(state(3), State::Revoked, "revoked is for good");
    opened.change(Change::Destroy { secret: s(), version: Some(version(2)) }).unwrap();
    assert_eq!((state(2), opened.known("s").previous), (State::Destroyed, None));
    assert_eq!(bao.get("secret/metadata/s")["data"]["versions"]["2"]["destroyed"], json!(true));
    opened.change(Change::Delete { secret: s(), version: None }).unwrap();
    assert!(opened.known("s").deleted);
    assert_eq!(bao.ask("GET", "secret/data/s", None).0, 404, "it is deleted for outsiders too");
    let refused = opened.change(put("s", &[("f", b"4")])).unwrap_err();
    assert!(matches!(refused.fault, StoreFault::SecretDeleted(..)));
    opened.change(Change::Undelete { secret: s(), version: None }).unwrap();
    assert!(!opened.known("s").deleted);
    assert_eq!(read_text(&opened, "s", 1, "f").unwrap(), "1");
    assert_eq!(state(3), State::Revoked);
    // Deleted by us, and stored again by somebody who does not know: it is back.
    opened.change(Change::Delete { secret: s(), version: None }).unwrap();
    bao.tell("POST", "secret/data/s", &json!({"data": {"f": "theirs"}}));
    let known = opened.known("s");
    assert!(!known.deleted && known.current == Some(version(4)));
    let made = opened.change(Change::Destroy { secret: s(), version: None }).unwrap();
    assert_eq!(made.description, None);
    assert_eq!(opened.describe("s").unwrap(), None);
    let again = opened.change(Change::Destroy { secret: s(), version: None }).unwrap_err();
    assert!(matches!(again.fault, StoreFault::NoSecret(..)));
    let made = opened.change(put("s", &[("f", b"5")])).unwrap();
    assert_eq!(made.version, Some(version(5)), "numbers go on");
    let known = made.description.unwrap();
    assert_eq!((known.versions.len(), known.current, known.previous), (1, Some(version(5)), None));
}

#[test]
fn a_lost_race_is_told_and_nothing_is_done() {
    let bao = Bao::dev();
    let between = crate::harness::Between::in_front_of(&bao.url);
    let directory = crate::harness::Directory::new();
    let token = directory.file("token", &bao.root);
    let options = crate::harness::options(&[&between.url()], "secret", crate::harness::token_login(token));
    let opened = Opened::with(options, directory);
    opened.change(put("s", &[("f", b"1")])).unwrap();
    // Somebody stores a version while ours is on its way.
    let (root, url) = (bao.root.clone(), bao.url.clone());
    let interfere = move |line: &str, part: &str| {
        if line.contains(part) {
            let done = std::process::Command::new("curl")
                .args([
                    "-s",
                    "--noproxy",
                    "*",
                    "-o",
                    "/dev/null",
                    "-H",
                    &format!("X-Vault-Token: {root}"),
                    "-d",
                ])
                .args(["{\"data\":{\"f\":\"theirs\"}}", &format!("{url}/v1/secret/data/s")])
                .status();
            assert!(done.unwrap().success());
        }
        crate::harness::Does::HandOn
    };
    let by_data = interfere.clone();
    between.decide(move |line| by_data(line, "POST /v1/secret/data/s"));
    for change in [put("s", &[("f", b"mine")]), put_staged("s", &[("f", b"mine")])] {
        let fault = opened.change(change).unwrap_err().fault;
        assert!(fault.to_string().contains("somebody else changed s"), "{fault}");
        let newest = bao.get("secret/data/s");
        assert_eq!(newest["data"]["data"]["f"], json!("theirs"));
        between.decide(|_| crate::harness::Does::HandOn);
        let known = opened.known("s");
        let number = newest["data"]["metadata"]["version"].as_u64().unwrap();
        assert_eq!(
            known.current.map(|v| u64::from(v.get())),
            Some(number),
            "theirs is current, and not staged"
        );
        assert_eq!(known.next, None);
        let by_data = interfere.clone();
        between.decide(move |line| by_data(line, "POST /v1/secret/data/s"));
    }
    // Somebody changes what is written beside it: the server checks that too, where it counts its states.
    let (root, url) = (bao.root.clone(), bao.url.clone());
    between.decide(move |line| {
        if line.starts_with("PATCH") {
            let done = std::process::Command::new("curl")
                .args(["-s", "--noproxy", "*", "-X", "POST", "-H", &format!("X-Vault-Token: {root}"), "-d"])
                .args(["{\"custom_metadata\":{\"theirs\":\"x\"}}", &format!("{url}/v1/secret/metadata/s")])
                .status();
            assert!(done.unwrap().success());
        }
        crate::harness::Does::HandOn
    });
    let counts_states = bao.get("secret/metadata/s")["data"]["current_metadata_version"].is_u64();
    let revoked = opened.change(Change::Revoke { secret: path("s"), version: version(1) });
    let beside = bao.get("secret/metadata/s")["data"]["custom_metadata"].clone();
    if counts_states {
        let fault = revoked.unwrap_err().fault;
        assert!(fault.to_string().contains("somebody else changed s"), "{fault}");
        assert_eq!(beside, json!({"theirs": "x"}));
    } else {
        // HashiCorp Vault has no such check: what each of them wrote is there, and nothing is lost.
        revoked.unwrap();
        assert_eq!((&beside["theirs"], &beside["credfs.revoked"]), (&json!("x"), &json!("1")), "{beside}");
    }
}

#[test]
fn owner_and_impact_are_kept_beside_the_words_of_others() {
    let bao = Bao::dev();
    let opened = Opened::at(&bao, "secret");
    bao.tell("POST", "secret/metadata/s", &json!({"custom_metadata": {"team": "theirs"}}));
    let ownership = Ownership {
        owner: Some("the \"orders\" team, and é".to_owned()),
        impact: Some(Impact::High),
        rotate_every: Some(std::time::Duration::from_secs(90 * 86_400)),
        grace: Some(std::time::Duration::from_secs(3600)),
    };
    let change = Change::Put {
        secret: path("s"),
        fields: vec![(field("f"), SecretBytes::taken_from(&mut [b'x']))],
        only: false,
        stage: Stage::Current,
        ownership: ownership.clone(),
    };
    let made = opened.change(change).unwrap();
    assert_eq!(made.description.unwrap().ownership, ownership);
    let custom = bao.get("secret/metadata/s")["data"]["custom_metadata"].clone();
    assert_eq!((&custom["team"], &custom["credfs.impact"]), (&json!("theirs"), &json!("high")));
    let too_long = Change::Put {
        secret: path("s"),
        fields: vec![(field("f"), SecretBytes::taken_from(&mut [b'y']))],
        only: false,
        stage: Stage::Current,
        ownership: Ownership { owner: Some("x".repeat(513)), ..Ownership::default() },
    };
    assert!(matches!(opened.change(too_long).unwrap_err().fault, StoreFault::TooLarge { .. }));
    assert_eq!(bao.get("secret/metadata/s")["data"]["current_version"], json!(1), "nothing is half done");
}

#[test]
fn a_login_that_may_not_write_is_refused_before_anything_is_done() {
    let bao = Bao::dev();
    let root = Opened::at(&bao, "secret");
    root.change(put("s", &[("f", b"1")])).unwrap();
    bao.policy(
        "reader",
        "path \"secret/data/*\" { capabilities = [\"read\", \"create\", \"update\"] }\n\
         path \"secret/metadata/*\" { capabilities = [\"read\", \"list\"] }",
    );
    let made = bao.tell("POST", "auth/token/create", &json!({"policies": ["reader"]}));
    let directory = crate::harness::Directory::new();
    let token = directory.file("token", made["auth"]["client_token"].as_str().unwrap());
    let options = crate::harness::options(&[&bao.url], "secret", crate::harness::token_login(token));
    let opened = Opened::with(options, directory);
    let fault = opened.change(put_staged("s", &[("f", b"2")])).unwrap_err().fault;
    assert!(
        matches!(&fault, StoreFault::Refused(text) if text.contains("patch on secret/metadata/s")),
        "{fault}"
    );
    assert_eq!(root.known("s").versions.len(), 1, "what cannot be staged is not stored");
    // A plain new version needs no more than the right to write it.
    assert_eq!(opened.change(put("s", &[("f", b"2")])).unwrap().version, Some(version(2)));
}
