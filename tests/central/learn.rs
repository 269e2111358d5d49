//! What `learn --store` prints, loaded into a real server: it allows what the local policy does, and nothing else.

use std::collections::{BTreeMap, BTreeSet};

use credfs::model::SecretPath;
use credfs::policy::{Options, Policy, SystemNames};
use serde_json::{Value, json};

use crate::harness::{ALICE, BOB, CAROL, Instance};
use crate::place::{ALL, SECRET, instance, login, read};
use crate::servers::Bao;

const NAMES: [&str; 5] = ["prod", "db", "web", "stage", "team"];

/// Overlaps of every kind: one path under several patterns, with other rights by each.
const GRANTS: &str = r#"
[[grants]]
to = ["alice"]
read = ["central/prod/**"]
list = ["central/stage/*"]
admin = ["central/prod/db"]
[[grants]]
to = ["bob"]
read = ["central/prod/*/db", "central/db"]
list = ["central/prod/**", "central/*/*/web"]
[[grants]]
to = ["carol"]
read = ["central/*/db", "central/stage/*/**"]
list = ["central/db/**"]
[[grants]]
to = ["everyone"]
list = ["central/stage/**", "central/prod"]
[[grants]]
to = ["carol", "alice"]
admin = ["central/team/**", "central/*/web"]
"#;

fn identities(alice: &str, bob: &str) -> String {
    format!(
        "[identities.alice]\nuid = [{ALICE}]\n[identities.alice.login.central]\n{alice}\n\
         [identities.bob]\nuid = [{BOB}]\n[identities.bob.login.central]\n{bob}\n\
         [identities.carol]\nuid = [{CAROL}]\n"
    )
}

fn sequences(longest: usize) -> Vec<String> {
    let mut all = vec![];
    let mut last = vec![String::new()];
    for _ in 0..longest {
        last = last.iter().flat_map(|one| NAMES.map(|name| format!("{one}/{name}"))).collect();
        all.extend(last.iter().map(|path| path.trim_start_matches('/').to_owned()));
    }
    all
}

/// Who may do what with each path, as `explain` tells.
fn told(policy: &Policy, paths: &[String]) -> BTreeMap<String, BTreeSet<(String, &'static str)>> {
    let of = |path: &String| {
        let secret = SecretPath::parse(&format!("central/{path}")).unwrap();
        let readers = policy.readers_of(&secret);
        let each = readers.into_iter().flat_map(|reader| {
            reader.verbs.into_iter().map(move |verb| (reader.identity.clone(), verb)).collect::<Vec<_>>()
        });
        (path.clone(), each.collect())
    };
    paths.iter().map(of).collect()
}

pub(crate) fn learned(instance: &Instance, more: &[&str]) -> Vec<Value> {
    let words = [&["learn", "--store", "central", "--json"], more].concat();
    let told = instance.command(&words).ok().json();
    told["policies"].as_array().unwrap().clone()
}

/// What the server lets a token with only this policy do, path by path.
fn allowed(bao: &Bao, name: &str, paths: &[String]) -> BTreeMap<String, BTreeSet<String>> {
    let made = bao.tell("POST", "auth/token/create", &json!({"policies": [name], "no_default_policy": true}));
    let token = made["auth"]["client_token"].as_str().unwrap();
    let mut all = BTreeMap::new();
    for some in paths.chunks(200) {
        let told = bao.tell("POST", "sys/capabilities", &json!({"token": token, "paths": some}));
        for path in some {
            let words = told["data"][path].as_array().unwrap_or_else(|| panic!("{path}: {told}")).iter();
            let words = words.map(|word| word.as_str().unwrap().to_owned()).filter(|word| word != "deny");
            all.insert(path.clone(), words.collect());
        }
    }
    all
}

fn loaded(path: &str) -> Policy {
    Policy::load(&[path.into()], &Options::default(), &SystemNames).unwrap().policy
}

#[test]
fn the_printed_policies_allow_what_the_grants_do_and_nothing_else() {
    for version in ["2", "1"] {
        let bao = Bao::dev();
        bao.mount_kv("team/kv", version);
        let url = bao.url.clone();
        let instance = instance(&bao, &[&url], &[("stores.central.mount", "team/kv".into())]);
        let (alice, bob) = (login(&bao, &instance, "alice", ALL), login(&bao, &instance, "bob", ALL));
        instance.write_policy(&(identities(&alice, &bob) + GRANTS));
        let policy = loaded(&instance.file("policy.toml"));
        let paths = sequences(3);
        let deep = told(&policy, &sequences(5));
        let policies = learned(&instance, &["--kv", version]);
        let logins: Vec<&str> = policies.iter().map(|policy| policy["login"].as_str().unwrap()).collect();
        assert_eq!(logins, ["machine", "identity:alice", "identity:bob"]);
        for printed in &policies {
            let (name, who) = (printed["name"].as_str().unwrap(), printed["login"].as_str().unwrap());
            assert_eq!(printed["wider"], json!([]), "{printed}");
            let text = printed["hcl"].as_str().unwrap();
            bao.policy(name, text);
            let kinds = ["data", "metadata", "delete", "undelete", "destroy"];
            let kinds = if version == "2" { &kinds[..] } else { &[""] };
            let full = |kind: &str, path: &str| format!("team/kv/{kind}/{path}").replace("//", "/");
            let asked: Vec<String> =
                kinds.iter().flat_map(|kind| paths.iter().map(move |path| full(kind, path))).collect();
            let said = allowed(&bao, name, &asked);
            let mut some = 0;
            for path in &paths {
                let rights = &deep[path];
                let may = |verb: &str, whose: &dyn Fn(&str) -> bool| {
                    rights.iter().any(|(identity, its)| *its == verb && whose(identity))
                };
                let own = |identity: &str| format!("identity:{identity}") == who;
                let without = |identity: &str| !["alice", "bob"].contains(&identity);
                let anyone = |_: &str| true;
                let is_machine = who == "machine";
                let admin = is_machine && may("admin", &anyone);
                let reads = if is_machine { may("read", &without) } else { may("read", &own) };
                let sees = ["read", "list"]
                    .iter()
                    .any(|verb| if is_machine { may(verb, &anyone) } else { may(verb, &own) })
                    || admin;
                // A folder is listed where something below it may be seen by anyone.
                let below = format!("{path}/");
                let lists = is_machine
                    && deep
                        .range(below.clone()..)
                        .take_while(|(at, _)| at.starts_with(&below))
                        .any(|(_, all)| !all.is_empty());
                for kind in kinds {
                    let mut meant: BTreeSet<&str> = BTreeSet::new();
                    match *kind {
                        "data" | "" if admin => meant.extend(["create", "read", "update"]),
                        "data" | "" if reads => meant.extend(["read"]),
                        "metadata" if admin => meant.extend(["create", "read", "patch"]),
                        "metadata" if sees => meant.extend(["read"]),
                        "delete" | "undelete" | "destroy" if admin => meant.extend(["update"]),
                        _ => {}
                    }
                    if kind.is_empty() && admin {
                        meant.insert("delete");
                    }
                    if ["metadata", ""].contains(kind) && lists {
                        meant.insert("list");
                    }
                    let got: BTreeSet<&str> = said[&full(kind, path)].iter().map(String::as_str).collect();
                    assert_eq!(got, meant, "{who}: {kind} {path} by\n{text}");
                    some += got.len();
                }
            }
            assert!(some > 5, "{who} may do something");
        }
    }
}

#[test]
fn under_the_printed_policies_credfs_reads_lists_and_changes_what_it_is_granted() {
    let bao = Bao::dev();
    bao.tell("POST", SECRET, &json!({"data": {"password": "hunter2"}}));
    bao.tell("POST", "secret/data/other/db", &json!({"data": {"password": "not granted"}}));
    let url = bao.url.clone();
    let instance = instance(&bao, &[&url], &[]);
    let (alice, bob) = (login(&bao, &instance, "alice", ALL), login(&bao, &instance, "bob", ALL));
    let grants = "[[grants]]\nto = [\"alice\", \"carol\"]\nread = [\"central/prod/**\"]\n\
                  [[grants]]\nto = [\"carol\"]\nadmin = [\"central/prod/**\"]\n";
    instance.write_policy(&(identities(&alice, &bob) + grants));
    for printed in learned(&instance, &[]) {
        let name = printed["login"].as_str().unwrap().trim_start_matches("identity:").to_owned();
        // The roles have policies by these names.
        bao.policy(&name, printed["hcl"].as_str().unwrap());
    }
    instance.mount();
    let path = instance.path("central/prod/db/password");
    assert_eq!(read(ALICE, &path).unwrap(), "hunter2");
    assert_eq!(read(CAROL, &path).unwrap(), "hunter2");
    assert!(read(BOB, &path).is_err());
    instance.put("central/prod/db", &[("password", b"second")]);
    assert_eq!(read(ALICE, &path).unwrap(), "second");
    instance.command_with(&["put", "central/prod/new", "key", "--owner", "the team"], *b"x").ok();
    instance.command(&["rollback", "central/prod/db"]).ok();
    assert_eq!(read(ALICE, &path).unwrap(), "hunter2");
    instance.command(&["delete", "central/prod/db", "--version", "2"]).ok();
    instance.command(&["undelete", "central/prod/db"]).ok();
    instance.command(&["destroy", "central/prod/db", "--yes"]).ok();
    let refused = instance.command_with(&["put", "central/other/db", "password"], *b"x");
    assert!(refused.err.contains("permission denied"), "{}", refused.err);
}

#[test]
fn what_the_server_cannot_say_is_told_and_wider_never_narrower() {
    let bao = Bao::dev();
    let url = bao.url.clone();
    let instance = instance(&bao, &[&url], &[]);
    let (alice, bob) = (login(&bao, &instance, "alice", ALL), login(&bao, &instance, "bob", ALL));
    let grants = "[[grants]]\nto = [\"alice\"]\nread = [\"central/prod/we*\", \"central/stage/**/db\"]\n\
                  [[grants]]\nto = [\"bob\"]\nread = [\"**/team\"]\n";
    instance.write_policy(&(identities(&alice, &bob) + grants));
    let of_bob = learned(&instance, &["--login", "identity:bob"]);
    let text = of_bob[0]["hcl"].as_str().unwrap();
    assert!(text.contains("\"secret/data/team\"") && text.contains("\"secret/data/+/*\""), "{text}");
    assert!(text.contains("# WIDER: \"**/team\""), "{text}");
    let policies = learned(&instance, &["--login", "identity:alice"]);
    let [printed] = &policies[..] else { panic!("{policies:?}") };
    let text = printed["hcl"].as_str().unwrap();
    for line in ["\"secret/data/prod/we*\"", "\"secret/data/stage/+/*\""] {
        assert!(text.contains(line), "{line} in\n{text}");
    }
    assert_eq!(text.matches("# WIDER").count(), 4, "{text}");
    let name = printed["name"].as_str().unwrap();
    bao.policy(name, text);
    let policy = loaded(&instance.file("policy.toml"));
    let paths = sequences(4);
    let told = told(&policy, &paths);
    let full: Vec<String> = paths.iter().map(|path| format!("secret/data/{path}")).collect();
    let said = allowed(&bao, name, &full);
    for (path, full) in paths.iter().zip(&full) {
        let is_granted = told[path].iter().any(|(identity, _)| identity == "alice");
        assert!(!is_granted || said[full].contains("read"), "{path} in\n{text}");
    }
    assert!(said["secret/data/web"].is_empty());
}
