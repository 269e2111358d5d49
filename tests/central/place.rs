//! An instance in front of a server: each reader has a login of his own there.

use serde_json::json;

use crate::harness::{ALICE, Asker, BOB, CAROL, Instance, Setup};
use crate::servers::Bao;

/// What the server lets each of them read.
pub(crate) const ALL: &str = r#"
path "secret/data/*" { capabilities = ["create", "read", "update"] }
path "secret/metadata/*" { capabilities = ["create", "read", "update", "patch", "list"] }
path "secret/delete/*" { capabilities = ["update"] }
"#;

/// The server's secret behind `central/prod/db`.
pub(crate) const SECRET: &str = "secret/data/prod/db";

/// Adds an AppRole with these rights at the server, and the file with its secret id; the lines that log in with it.
pub(crate) fn login(bao: &Bao, instance: &Instance, name: &str, rights: &str) -> String {
    bao.policy(name, rights);
    let (role_id, secret_id) = bao.approle(name, json!({"token_policies": [name], "token_ttl": "1h"}));
    let file = instance.file(&format!("{name}.secret-id"));
    std::fs::write(&file, secret_id).expect("written");
    std::os::unix::fs::chown(&file, Some(0), Some(0)).expect("root's");
    std::fs::set_permissions(&file, std::os::unix::fs::PermissionsExt::from_mode(0o600)).expect("private");
    format!("method = \"approle\"\nrole_id = \"{role_id}\"\nsecret_id_file = \"{file}\"\n")
}

/// A policy under which alice and bob, who log in each for himself, may read all, and carol may list.
pub(crate) fn policy(alice: &str, bob: &str) -> String {
    format!(
        "[identities.alice]\nuid = [{ALICE}]\n[identities.alice.login.central]\n{alice}\n\
         [identities.bob]\nuid = [{BOB}]\n[identities.bob.login.central]\n{bob}\n\
         [identities.carol]\nuid = [{CAROL}]\n\
         [[grants]]\nto = [\"alice\", \"bob\"]\nread = [\"central/**\"]\nlist = [\"central/**\"]\n\
         [[grants]]\nto = [\"carol\"]\nlist = [\"central/**\"]\n"
    )
}

/// An instance with a store `central` at these addresses, not mounted; `more` is in the store's table.
pub(crate) fn instance(bao: &Bao, urls: &[&str], more: &[(&'static str, toml::Value)]) -> Instance {
    let mut setup = Setup::default()
        .warnings_expected()
        .set("stores.central.kind", "vault")
        .set("stores.central.prefix", "central")
        .set("stores.central.addresses", urls.iter().map(|url| (*url).into()).collect::<Vec<toml::Value>>());
    for (key, value) in more {
        setup = setup.set(key, value.clone());
    }
    let instance = setup.initialised();
    let machine = login(bao, &instance, "machine", ALL);
    let table: toml::Table = machine.parse().expect("TOML");
    instance.set("stores.central.login", table);
    instance
}

/// The same, mounted, for alice and bob with one login between them.
pub(crate) fn served(bao: &Bao, urls: &[&str], more: &[(&'static str, toml::Value)]) -> Instance {
    let instance = instance(bao, urls, more);
    let alice = login(bao, &instance, "alice", ALL);
    instance.write_policy(&policy(&alice, &alice));
    instance.mount();
    instance
}

/// Reads as somebody: the value, or what the program said.
pub(crate) fn read(uid: u32, path: &str) -> Result<String, String> {
    let done = Asker::uid(uid).run(&["cat", path]);
    if done.err.is_empty() { Ok(done.text()) } else { Err(done.err.clone()) }
}
