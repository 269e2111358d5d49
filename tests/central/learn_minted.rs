//! What `learn --store` prints for secrets that are minted, loaded into a real server with a real PostgreSQL and a real
//! certificate authority behind it.

use std::time::Duration;

use serde_json::{Value, json};

use crate::harness::{ALICE, BOB, CAROL, Instance, wait_until};
use crate::learn::learned;
use crate::place::{ALL, instance, login};
use crate::servers::{Bao, Between, Postgres, Unit};

const DECLARED: &str = r#"
[dynamic."db/orders"]
engine = "database"
role = "orders"
[dynamic."tls/web"]
engine = "pki"
role = "web"
common_name = "web.internal"
alt_names = ["www.internal"]
ttl = "1h"
[dynamic."tls/leased"]
engine = "pki"
role = "leased"
common_name = "leased.internal"
"#;

/// One certificate authority with two roles: one that gives leases, and one that does not.
fn issue_through(bao: &Bao) {
    bao.tell("POST", "sys/mounts/pki", &json!({"type": "pki", "config": {"max_lease_ttl": "87600h"}}));
    bao.tell("POST", "pki/root/generate/internal", &json!({"common_name": "test root", "ttl": "8760h"}));
    for (role, has_lease) in [("web", false), ("leased", true)] {
        let settings = json!({
            "allowed_domains": "internal", "allow_subdomains": true, "max_ttl": "72h", "generate_lease": has_lease,
        });
        bao.tell("POST", &format!("pki/roles/{role}"), &settings);
    }
}

fn identities(alice: &str, bob: &str) -> String {
    format!(
        "[identities.alice]\nuid = [{ALICE}]\n[identities.alice.login.central]\n{alice}\n\
         [identities.bob]\nuid = [{BOB}]\n[identities.bob.login.central]\n{bob}\n\
         [identities.carol]\nuid = [{CAROL}]\n"
    )
}

fn declare(instance: &Instance) {
    let table: toml::Table = DECLARED.parse().unwrap();
    instance.set("stores.central.dynamic", table["dynamic"].clone());
}

/// Puts every printed policy at the server, in the place of the rights that the roles had.
fn load(bao: &Bao, instance: &Instance) -> Vec<Value> {
    let policies = learned(instance, &[]);
    for printed in &policies {
        let name = printed["login"].as_str().unwrap().trim_start_matches("identity:");
        bao.policy(name, printed["hcl"].as_str().unwrap());
    }
    policies
}

/// A token as the login called `name` gets it, with the server's default policy.
fn token_of(bao: &Bao, name: &str) -> String {
    let role_id = bao.get(&format!("auth/approle/role/{name}/role-id"))["data"]["role_id"].clone();
    let body = json!({"role_id": role_id, "secret_id": bao.secret_id(name)});
    bao.tell("POST", "auth/approle/login", &body)["auth"]["client_token"].as_str().unwrap().to_owned()
}

/// What a process of a unit reads as somebody: the texts of these files, or what went wrong.
fn read(unit: &Unit, uid: u32, files: &[String]) -> Result<String, String> {
    let script = format!("exec setpriv --reuid={uid} --regid={uid} --clear-groups cat {}", files.join(" "));
    let done = unit.shell(&script).output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    if done.status.success() { Ok(text(done.stdout)) } else { Err(text(done.stderr)) }
}

#[track_caller]
fn is_answered(bao: &Bao, token: &str, asked: &[(&str, &str, Value, u16)]) {
    for (method, path, body, status) in asked {
        let body = (!body.is_null()).then_some(body);
        let (said, answer) = bao.ask_with(token, method, path, body);
        assert_eq!(said, *status, "{method} {path} {body:?}: {answer}");
    }
}

#[test]
fn under_the_printed_policies_what_is_granted_is_minted_renewed_and_ended_and_nothing_else_can_be() {
    let (postgres, bao) = (Postgres::start(), Bao::dev());
    postgres.serve_through(&bao, "orders", "4s", "1h");
    postgres.serve_through(&bao, "other", "1h", "24h");
    issue_through(&bao);
    for (path, value) in [("db/orders", "of the KV engine"), ("db/plain", "plain"), ("prod/app", "of bob")] {
        bao.tell("POST", &format!("secret/data/{path}"), &json!({"data": {"username": value}}));
    }
    let between = Between::in_front_of(&bao.url);
    let instance = instance(&bao, &[&between.url()], &[]);
    declare(&instance);
    let (alice, bob) = (login(&bao, &instance, "alice", ALL), login(&bao, &instance, "bob", ALL));
    let grants = "[[grants]]\nto = [\"alice\"]\nread = [\"central/db/*\", \"central/tls/web\"]\n\
                  [[grants]]\nto = [\"bob\"]\nread = [\"central/prod/*\"]\nlist = [\"central/db/*\"]\n\
                  [[grants]]\nto = [\"carol\"]\nread = [\"central/tls/leased\"]\n";
    instance.write_policy(&(identities(&alice, &bob) + grants));
    load(&bao, &instance);
    instance.mount();
    let mut unit = Unit::running("app");
    let files = |names: &[&str]| names.iter().map(|name| instance.path(name)).collect::<Vec<_>>();

    // Through the mount: each gets what he is granted.
    let pair = || {
        let names = files(&["central/db/orders/username", "central/db/orders/password"]);
        names.iter().map(|name| read(&unit, ALICE, std::slice::from_ref(name)).unwrap()).collect::<Vec<_>>()
    };
    let minted = pair();
    assert!(postgres.lets_in(&minted[0], &minted[1]), "{minted:?}");
    assert_eq!(read(&unit, ALICE, &files(&["central/db/plain/username"])).unwrap(), "plain");
    let web = read(&unit, ALICE, &files(&["central/tls/web/serial_number"])).unwrap();
    let leased = read(&unit, CAROL, &files(&["central/tls/leased/serial_number"])).unwrap();
    assert_eq!(read(&unit, BOB, &files(&["central/prod/app/username"])).unwrap(), "of bob");
    for (uid, name) in [
        (BOB, "central/db/orders/username"),
        (BOB, "central/tls/web/serial_number"),
        (ALICE, "central/tls/leased/serial_number"),
        (CAROL, "central/db/orders/username"),
    ] {
        let refused = read(&unit, uid, &files(&[name])).unwrap_err();
        assert!(refused.contains("No such file") || refused.contains("ermission denied"), "{refused}");
    }
    let listed = unit.shell(&format!(
        "exec setpriv --reuid={ALICE} --regid={ALICE} --clear-groups ls -R {}",
        instance.path("central")
    ));
    let listed = { listed }.output().unwrap();
    assert!(listed.status.success(), "{}", String::from_utf8_lossy(&listed.stderr));

    // Its lease is renewed: it is the same user after its first term is over.
    std::thread::sleep(Duration::from_secs(6));
    assert!(pair() == minted && postgres.lets_in(&minted[0], &minted[1]), "a lease was not renewed");
    assert!(between.count("sys/leases/renew") > 0);

    // At the server itself, past credfs.
    let others = bao.get("database/creds/other")["lease_id"].as_str().unwrap().to_owned();
    let (alice, bob, machine) = (token_of(&bao, "alice"), token_of(&bao, "bob"), token_of(&bao, "machine"));
    let (_, made) = bao.ask_with(&alice, "GET", "database/creds/orders", None);
    let own = made["lease_id"].as_str().unwrap_or_else(|| panic!("{made}")).to_owned();
    let as_asked = json!({"common_name": "web.internal", "alt_names": "www.internal", "ttl": "3600s"});
    let of_lease = |id: &str| json!({"lease_id": id});
    let none = Value::Null;
    let longer = ("POST", "sys/leases/renew", json!({"lease_id": own, "increment": 600}), 200);
    is_answered(&bao, &alice, &[longer]);
    is_answered(
        &bao,
        &bob,
        &[
            ("GET", "database/creds/orders", none.clone(), 403),
            ("POST", "pki/issue/web", as_asked.clone(), 403),
            ("POST", "pki/revoke", json!({"serial_number": web.trim()}), 403),
            ("POST", "sys/leases/revoke", of_lease(&own), 403),
            ("GET", "secret/data/db/plain", none.clone(), 403),
            ("GET", "secret/metadata/db/plain", none.clone(), 200),
            ("GET", "secret/metadata/db/orders", none.clone(), 403),
        ],
    );
    is_answered(
        &bao,
        &alice,
        &[
            ("GET", "secret/data/db/plain", none.clone(), 200),
            ("GET", "secret/data/db/orders", none.clone(), 403),
            ("GET", "secret/metadata/db/orders", none.clone(), 403),
            ("GET", "database/creds/other", none.clone(), 403),
            ("GET", "database/roles/orders", none.clone(), 403),
            ("POST", "pki/issue/leased", json!({"common_name": "leased.internal"}), 403),
            ("POST", "pki/issue/web", as_asked, 200),
            ("POST", "pki/issue/web", json!({"common_name": "admin.internal"}), 403),
            ("POST", "pki/issue/web", json!({"common_name": "web.internal", "alt_names": "x.internal"}), 403),
            ("POST", "pki/issue/web", json!({"common_name": "web.internal", "format": "der"}), 403),
            ("POST", "sys/leases/renew", of_lease(&others), 403),
            ("POST", "sys/leases/revoke", of_lease(&others), 403),
            ("POST", &format!("sys/leases/revoke/{others}"), json!({}), 403),
            ("POST", "sys/leases/revoke", json!({"lease_id": own, "url_lease_id": others}), 403),
            ("POST", "sys/leases/revoke-prefix/database/creds/orders", json!({}), 403),
            ("POST", "sys/leases/revoke", json!({"lease_id": own, "sync": true}), 204),
        ],
    );
    is_answered(
        &bao,
        &machine,
        &[
            ("POST", "pki/issue/leased", json!({"common_name": "leased.internal"}), 200),
            ("GET", "database/creds/orders", none.clone(), 403),
            ("POST", "sys/leases/revoke", of_lease(&others), 403),
            ("GET", "secret/metadata/tls/leased", none, 403),
        ],
    );

    // The end of the unit is the end of what was minted for it.
    unit.stop(true);
    let is_revoked = |serial: &str| {
        bao.get(&format!("pki/cert/{}", serial.trim()))["data"]["revocation_time"].as_u64().unwrap_or(0) > 0
    };
    wait_until("all is ended at the server", Duration::from_secs(15), || {
        !postgres.users().contains(&minted[0]) && is_revoked(&web) && is_revoked(&leased)
    });
    let records = instance.records();
    for operation in ["mint", "renew", "revoke"] {
        assert!(records.all(operation, "failed").is_empty(), "{operation}\n{}", instance.daemon_output());
    }
    assert_eq!(records.all("revoke", "done").len(), 3);
}

#[test]
fn only_a_grant_that_opens_a_field_as_it_is_now_lets_a_login_mint() {
    let bao = Bao::dev();
    let url = bao.url.clone();
    let instance = instance(&bao, &[&url], &[]);
    declare(&instance);
    let (alice, bob) = (login(&bao, &instance, "alice", ALL), login(&bao, &instance, "bob", ALL));
    let rules_of = |policies: &[Value], login: &str| -> Vec<String> {
        let policy = policies.iter().find(|policy| policy["login"] == login).unwrap();
        let rules = policy["rules"].as_array().unwrap().iter();
        let minting = |rule: &&Value| !rule["path"].as_str().unwrap().starts_with("secret/");
        rules.filter(minting).map(|rule| rule["path"].as_str().unwrap().to_owned()).collect()
    };
    let of_user = ["database/creds/orders", "sys/leases/renew", "sys/leases/revoke"];
    for (grant, alice_mints, machine_mints) in [
        ("to = [\"alice\"]\nread = [\"central/db/orders\"]", true, false),
        ("to = [\"alice\"]\nread = [\"**\"]\nfields = [\"user*\"]", true, false),
        ("to = [\"alice\"]\nread = [\"central/**\"]\nstages = [\"all\"]", true, false),
        ("to = [\"carol\"]\nread = [\"central/db/*\"]", false, true),
        ("to = [\"everyone\"]\nread = [\"central/db/*\"]", false, true),
        ("to = [\"alice\", \"carol\"]\nread = [\"central/*/orders\"]", true, true),
        ("to = [\"alice\"]\nread = [\"central/db/orders/*\"]", false, false),
        ("to = [\"alice\"]\nread = [\"central/db/*\"]\nfields = [\"port\"]", false, false),
        ("to = [\"alice\"]\nread = [\"central/db/*\"]\nstages = [\"next\"]", false, false),
        ("to = [\"alice\"]\nlist = [\"central/**\"]\nadmin = [\"central/**\"]", false, false),
    ] {
        instance.write_policy(&(identities(&alice, &bob) + &format!("[[grants]]\n{grant}\n")));
        let policies = learned(&instance, &["--kv", "2"]);
        for (login, mints) in
            [("identity:alice", alice_mints), ("machine", machine_mints), ("identity:bob", false)]
        {
            let mut rules = rules_of(&policies, login);
            rules.retain(|rule| !rule.starts_with("pki/"));
            let is_met = if mints { rules == of_user } else { !rules.contains(&of_user[0].to_owned()) };
            assert!(is_met, "{login} by {grant}: {rules:?}");
        }
    }
    // A certificate's names are in its rule, and what a server cannot say is told.
    let grant = "[[grants]]\nto = [\"alice\"]\nread = [\"central/tls/*\"]\n";
    instance.write_policy(&(identities(&alice, &bob) + grant));
    let policies = learned(&instance, &["--kv", "2", "--login", "identity:alice"]);
    let text = policies[0]["hcl"].as_str().unwrap();
    for part in [
        "path \"pki/issue/web\" {\n  capabilities = [\"update\"]\n  allowed_parameters = {\n    \
         \"alt_names\" = [\"www.internal\"]\n    \"common_name\" = [\"web.internal\"]\n    \"ttl\" = [\"3600s\"]\n",
        "\"lease_id\" = [\"pki/issue/leased/*\", \"pki/issue/web/*\"]",
        "path \"secret/data/tls/web\" { capabilities = [\"deny\"] }",
        "# WIDER: pki/revoke ends any certificate",
        "# Note: leases of pki/issue/web ",
    ] {
        assert!(text.contains(part), "{part} in\n{text}");
    }
    assert!(!text.contains("sys/leases/renew"), "certificates are not renewed:\n{text}");
}

#[test]
fn in_a_namespace_the_rules_for_leases_stand_below_it() {
    let (postgres, bao) = (Postgres::start(), Bao::dev());
    bao.tell("POST", "sys/namespaces/team", &json!({}));
    bao.mount_kv("team/secret", "2");
    // The harness's database engine, made over for the namespace.
    postgres.serve_through(&bao, "orders", "1h", "24h");
    bao.tell("POST", "sys/remount", &json!({"from": "database", "to": "team/database"}));
    wait_until("the engine has moved", Duration::from_secs(10), || {
        bao.ask("GET", "team/database/roles/orders", None).0 == 200
    });
    let url = bao.url.clone();
    let instance = instance(&bao, &[&url], &[("stores.central.namespace", "team".into())]);
    declare(&instance);
    instance.set("stores.central.login.namespace", "");
    let (alice, bob) = (login(&bao, &instance, "alice", ALL), login(&bao, &instance, "bob", ALL));
    let (alice, bob) = (alice + "namespace = \"\"\n", bob + "namespace = \"\"\n");
    let grants = "[[grants]]\nto = [\"alice\"]\nread = [\"central/db/*\"]\n";
    instance.write_policy(&(identities(&alice, &bob) + grants));
    let policies = load(&bao, &instance);
    let text = policies[1]["hcl"].as_str().unwrap();
    for path in ["team/database/creds/orders", "team/sys/leases/revoke", "team/secret/data/db/+"] {
        assert!(text.contains(&format!("path \"{path}\"")), "{path} in\n{text}");
    }
    instance.mount();
    let mut unit = Unit::running("app");
    let file = instance.path("central/db/orders/username");
    let user = read(&unit, ALICE, std::slice::from_ref(&file)).unwrap();
    assert_eq!(postgres.users(), [user]);
    assert!(read(&unit, BOB, &[file]).is_err());
    let token = token_of(&bao, "bob");
    is_answered(&bao, &token, &[("GET", "team/database/creds/orders", Value::Null, 403)]);
    unit.stop(true);
    wait_until("the user is gone", Duration::from_secs(10), || postgres.users().is_empty());
    assert!(instance.records().all("revoke", "failed").is_empty());
}
