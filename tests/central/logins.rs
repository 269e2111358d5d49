//! Two identities, two logins: the server's policy is a second lock.

use serde_json::json;

use crate::harness::{ALICE, BOB, CAROL, wait_until};
use crate::place::{ALL, SECRET, instance, login, policy, read};
use crate::servers::Bao;

const NOTHING: &str = "path \"secret/data/other/*\" { capabilities = [\"read\"] }";

#[test]
fn one_whom_the_server_forbids_is_refused_and_never_given_what_another_was_given() {
    let mut bao = Bao::dev();
    bao.tell("POST", SECRET, &json!({"data": {"password": "hunter2", "user": "orders"}}));
    let urls = [bao.url.clone()];
    let urls: Vec<&str> = urls.iter().map(String::as_str).collect();
    let instance = instance(&bao, &urls, &[("stores.central.fresh_for", "1s".into())]);
    let alice = login(&bao, &instance, "alice", ALL);
    let bob = login(&bao, &instance, "bob", NOTHING);
    instance.write_policy(&policy(&alice, &bob));
    instance.mount();
    let path = instance.path("central/prod/db/password");
    assert_eq!(read(ALICE, &path).unwrap(), "hunter2");
    let refused = |when: &str| {
        let said = read(BOB, &path).unwrap_err();
        assert!(said.contains("Operation not permitted"), "{when}: {said}");
    };
    refused("alice's value is in the cache");
    assert!(read(CAROL, &path).unwrap_err().contains("Permission denied"), "credfs itself refuses her");
    assert_eq!(read(ALICE, &path).unwrap(), "hunter2", "she goes on");
    let records = instance.records();
    let record = records.last("open", "store_refused");
    assert_eq!((record.number("uid"), record.text("store")), (Some(u64::from(BOB)), "central"));
    assert!(record.text("request_id").len() > 8, "{record:?}");
    bao.tell("POST", SECRET, &json!({"data": {"password": "second", "user": "orders"}}));
    instance.command(&["refresh", "central/prod/db"]).ok();
    assert_eq!(read(ALICE, &path).unwrap(), "second");
    refused("after a rotation");
    bao.kill();
    std::thread::sleep(std::time::Duration::from_secs(2));
    assert_eq!(read(ALICE, &path).unwrap(), "second", "within grace");
    let said = read(BOB, &path).unwrap_err();
    assert!(said.contains("timed out") || said.contains("not permitted"), "in an outage: {said}");
    let records = instance.records();
    assert!(
        records.all("open", "released").iter().all(|record| record.number("uid") == Some(u64::from(ALICE)))
    );
    assert!(records.last("open", "released").text("freshness").starts_with("stale"));
}

#[test]
fn a_token_that_was_revoked_at_the_server_is_replaced_once() {
    let bao = Bao::dev();
    bao.tell("POST", SECRET, &json!({"data": {"password": "hunter2"}}));
    let url = bao.url.clone();
    let instance = instance(&bao, &[&url], &[("stores.central.fresh_for", "0s".into())]);
    let alice = login(&bao, &instance, "alice", ALL);
    let bob = login(&bao, &instance, "bob", NOTHING);
    instance.write_policy(&policy(&alice, &bob));
    instance.mount();
    let path = instance.path("central/prod/db/password");
    assert_eq!(read(ALICE, &path).unwrap(), "hunter2");
    let accessor = |instance: &crate::harness::Instance| {
        let status = instance.command(&["status", "--json"]).json();
        let stores = status["stores"].as_array().unwrap().clone();
        let central = stores.iter().find(|store| store["name"] == "central").unwrap().clone();
        let logins = central["logins"].as_array().unwrap().clone();
        let login = logins.iter().find(|login| login["login"] == "identity:alice").unwrap().clone();
        assert!(login.get("token").is_none());
        login["accessor"].as_str().unwrap_or_default().to_owned()
    };
    let before = accessor(&instance);
    bao.tell("POST", "auth/token/revoke-accessor", &json!({"accessor": before}));
    let tokens = bao.accessors().len();
    for _ in 0..20 {
        assert_eq!(read(ALICE, &path).unwrap(), "hunter2");
    }
    let after = accessor(&instance);
    assert_ne!(before, after);
    assert_eq!(bao.accessors().len(), tokens + 1, "one new login, not one a read");
    // At the end every token of ours is revoked.
    let accessors = bao.accessors();
    instance.end_with("TERM");
    wait_until("the tokens are revoked", std::time::Duration::from_secs(5), || {
        bao.accessors().iter().all(|left| !accessors.contains(left) || *left != after)
    });
}
