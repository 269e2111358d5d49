//! `doctor` and `check` find what is wrong with a server and with each login there, and say what to do.

use serde_json::{Value, json};

use crate::harness::Instance;
use crate::place::{ALL, instance, login, policy};
use crate::servers::Bao;

/// What `doctor` finds about remote stores, in words: `ok …`, or what is wrong and the remedy.
fn found(instance: &Instance) -> Vec<String> {
    let found = instance.command(&["doctor", "--json"]).json();
    let of_stores = |finding: &Value| {
        let (weight, what) = (finding["weight"].as_str()?, finding["found"].as_str()?);
        let remedy = finding["remedy"].as_str().unwrap_or_default();
        (finding["about"] == "store" && what.starts_with("central"))
            .then(|| format!("{weight} {what} | {remedy}"))
    };
    found["findings"].as_array().expect("findings").iter().filter_map(of_stores).collect()
}

#[test]
fn every_login_is_tried_and_what_is_wrong_has_its_remedy() {
    let mut bao = Bao::dev();
    let url = bao.url.clone();
    let instance = instance(&bao, &[&url], &[]);
    let alice = login(&bao, &instance, "alice", ALL);
    let bob = login(&bao, &instance, "bob", ALL);
    instance.write_policy(&policy(&alice, &bob));
    let tokens = bao.accessors().len();
    let all = found(&instance);
    assert_eq!(all.len(), 3, "{all:#?}");
    assert!(all.iter().all(|finding| finding.starts_with("ok ")), "{all:#?}");
    assert!(all[0].contains("version 2") && all[1].contains("alice") && all[2].contains("bob"), "{all:#?}");
    assert_eq!(bao.accessors().len(), tokens, "a login was left at the server");

    bao.tell("DELETE", "auth/approle/role/bob", &json!({}));
    let all = found(&instance);
    assert!(all[1].starts_with("ok ") && all[2].contains("[identities.bob.login.central]"), "{all:#?}");
    assert!(all[2].contains("refused") && all[2].contains("credfs learn --store central"), "{all:#?}");

    let secret_id = instance.file("alice.secret-id");
    std::fs::remove_file(&secret_id).expect("it was there");
    let checked = instance.command(&["check"]).ok();
    assert!(checked.err.contains(&format!("{secret_id}: is named for a login")), "{}", checked.err);

    bao.tell("PUT", "sys/seal", &json!({}));
    let all = found(&instance);
    assert!(all.len() == 1 && all[0].contains("sealed") && all[0].contains("operator unseal"), "{all:#?}");
    bao.kill();
    let all = found(&instance);
    assert!(all.len() == 1 && all[0].contains("cannot be reached"), "{all:#?}");
    assert!(all[0].contains("\"addresses\" of [stores.central]"), "{all:#?}");
}
