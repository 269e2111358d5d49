//! `learn --store` finds out by itself which version the KV engine has, and says so where it could not.

use serde_json::{Value, json};

use crate::harness::{ALICE, Instance};
use crate::place::{ALL, instance, login, policy, read};
use crate::servers::{Bao, Between, Does};

fn learned(instance: &Instance, more: &[&str]) -> Value {
    instance.command(&[&["learn", "--store", "central", "--json"], more].concat()).ok().json()
}

/// Whether it was taken for version 2 because nobody could be asked, and whoever pipes one policy is told too.
#[track_caller]
fn assert_assumed(instance: &Instance, why: &str) {
    let told = learned(instance, &[]);
    let assumed = told["kv_assumed"].as_str().unwrap_or_else(|| panic!("{told}"));
    assert!(told["kv"] == 2 && assumed.contains(why) && assumed.contains("--kv 1"), "{told}");
    let text = instance.command(&["learn", "--store", "central", "--login", "machine"]).ok();
    assert!(text.text().contains("\n# NOT ASKED: "), "{}", text.text());
    assert!(text.err.contains("warning") && text.err.contains("--kv 1"), "{}", text.err);
    for version in ["1", "2"] {
        let told = learned(instance, &["--kv", version]);
        assert!(told["kv"].as_u64() == version.parse().ok() && told["kv_assumed"].is_null(), "{told}");
    }
}

#[test]
fn the_version_is_the_server_s_and_where_nobody_can_be_asked_that_is_said() {
    let bao = Bao::dev();
    bao.mount_kv("plain", "1");
    bao.tell("POST", "plain/prod/db", &json!({"password": "hunter2"}));
    let between = Between::in_front_of(&bao.url);
    let instance = instance(&bao, &[&between.url()], &[("stores.central.mount", "plain".into())]);
    let rights = "path \"plain/*\" { capabilities = [\"create\", \"read\", \"update\", \"list\"] }";
    bao.policy("machine", rights);
    let alice = login(&bao, &instance, "alice", rights);
    instance.write_policy(&policy(&alice, &alice));
    let tokens = bao.accessors().len();
    let told = learned(&instance, &[]);
    assert_eq!((&told["kv"], &told["kv_assumed"]), (&json!(1), &Value::Null), "{told}");
    assert_eq!(told, learned(&instance, &["--kv", "1"]));
    assert_eq!(bao.accessors().len(), tokens, "the login was left at the server");
    // The instance was told it, and needs nobody.
    instance.mount();
    assert_eq!(read(ALICE, &instance.path("central/prod/db/password")).unwrap(), "hunter2");
    let status = instance.command(&["status", "--json"]).ok().json();
    let stores = status["stores"].as_array().unwrap();
    assert_eq!(stores.iter().find(|store| store["name"] == "central").unwrap()["kv"], 1, "{status}");
    between.decide(|_| Does::Nothing);
    assert_eq!(learned(&instance, &[])["kv"], 1);
    instance.end_with("TERM");
    // Nobody is there who knows.
    instance.set("stores.central.mount", "secret");
    instance.set("stores.central.request_deadline", "1s");
    assert_assumed(&instance, "");
    between.decide(|_| Does::HandOn);
    assert!(learned(&instance, &[])["kv_assumed"].is_string(), "the machine has no rights at that mount yet");
    bao.tell("DELETE", "auth/approle/role/machine", &json!({}));
    assert_assumed(&instance, "invalid role");
    login(&bao, &instance, "machine", ALL);
}

#[test]
fn a_wrapped_secret_id_is_left_to_the_instance() {
    let bao = Bao::dev();
    let url = bao.url.clone();
    let instance = instance(&bao, &[&url], &[]);
    let wrapped = bao.wrap("auth/approle/role/machine/secret-id", &json!({}));
    std::fs::write(instance.file("machine.secret-id"), &wrapped).unwrap();
    instance.set("stores.central.login.secret_id_wrapped", true);
    assert_assumed(&instance, "wrapped");
    let doctor = instance.command(&["doctor", "--json"]);
    assert!(doctor.text().contains("a wrapped secret id opens once"), "{}", doctor.text());
    let (status, told) = bao.ask("POST", "sys/wrapping/lookup", Some(&json!({"token": wrapped})));
    assert_eq!(status, 200, "somebody opened it: {told}");
    instance.mount();
    instance.command(&["refresh"]).ok();
    assert_eq!(bao.ask("POST", "sys/wrapping/lookup", Some(&json!({"token": wrapped}))).0, 400);
}
