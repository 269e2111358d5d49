//! Commands about secrets that nobody read yet: they ask, and say when they cannot.

use serde_json::{Value, json};

use crate::harness::{Asker, BOB, Instance};
use crate::place::{SECRET, instance, login, policy};
use crate::servers::{Bao, Between, Does};

const METADATA: &str =
    "path \"secret/*\" { capabilities = [\"create\", \"read\", \"update\", \"patch\", \"list\"] }";

fn versions(instance: &Instance) -> Vec<u64> {
    let told = instance.command(&["versions", "central/prod/db", "--json"]).ok().json();
    told.as_array().expect("versions").iter().filter_map(|row| row["version"].as_u64()).collect()
}

fn names(instance: &Instance, directory: &str) -> Vec<String> {
    let told: Value = instance.command(&["ls", directory, "--json"]).ok().json();
    told.as_array().expect("names").iter().filter_map(|name| Some(name.as_str()?.to_owned())).collect()
}

fn get(instance: &Instance, words: &[&str]) -> String {
    instance.command(&[&["get", "central/prod/db"], words].concat()).ok().text()
}

#[test]
fn a_command_asks_about_what_nobody_read_yet_with_an_instance_and_without() {
    let mut bao = Bao::dev();
    let between = Between::in_front_of(&bao.url);
    let instance = instance(&bao, &[&between.url()], &[("stores.central.fresh_for", "1h".into())]);
    bao.policy("machine", METADATA);
    let alice = login(&bao, &instance, "alice", METADATA);
    instance.write_policy(&policy(&alice, &alice));
    let put = |value: &str| bao.tell("POST", SECRET, &json!({"data": {"password": value}}));
    put("first");
    bao.tell("POST", "secret/data/deep/below/it", &json!({"data": {"f": "x"}}));

    assert_eq!(names(&instance, ""), ["central/deep/below/it", "central/prod/db"], "without an instance");
    assert_eq!(names(&instance, "central/deep"), ["central/deep/below/it"]);
    assert_eq!(versions(&instance), [1]);
    assert_eq!(get(&instance, &["password"]), "first");
    assert_eq!(get(&instance, &[]), "first", "the only field there is");

    instance.mount();
    assert_eq!(versions(&instance), [1], "with one that has just started");
    assert_eq!(get(&instance, &[]), "first");
    assert_eq!(names(&instance, "central/prod/db"), ["password"]);
    put("second");
    assert_eq!((versions(&instance), get(&instance, &["password"])), (vec![1, 2], "second".to_owned()));

    let twice = || instance.command(&["rollback", "central/prod/db"]);
    twice().ok();
    let said = twice().ended_with(3).err;
    assert!(said.contains("central/prod/db has no previous version"), "by its path in the tree: {said}");
    instance.command(&["rollback", "central/prod/db", "--to", "2"]).ok();

    let asked = between.seen().len();
    let nobody = Asker::uid(BOB + 50);
    instance.program_as(&nobody, &["versions", "central/prod/db"]).run().ended_with(3);
    let about = |request: &String| request.contains("prod/db");
    assert!(!between.seen()[asked..].iter().any(about), "it is asked for whom nothing was granted");

    between.decide(|_| Does::Nothing);
    bao.kill();
    assert_eq!(
        (versions(&instance), get(&instance, &["password"])),
        (vec![1, 2], "second".to_owned()),
        "what is known"
    );
    instance.command(&["get", "central/deep/below/it", "f"]).ended_with(5);
    instance.command(&["versions", "central/deep/below/it"]).ended_with(5);
    instance.end_with("TERM");
    instance.command(&["get", "central/prod/db", "password"]).ended_with(5);
}
