//! No token, secret id or value in any log, at the finest level, nor in any fault.

use credfs::store::{Login, LoginBy, LoginSetup, Source as _};
use serde_json::json;

use crate::harness::{Bao, Between, Directory, Does, Opened, heard, options, put, put_staged};

#[test]
fn nothing_secret_is_ever_logged_or_said() {
    heard();
    let bao = Bao::dev();
    bao.policy("all", "path \"secret/*\" { capabilities = [\"create\", \"read\", \"update\", \"patch\", \"delete\", \"list\"] }");
    let (role_id, secret_id) = bao.approle("orders", json!({"token_policies": ["all"], "token_ttl": "1h"}));
    let between = Between::in_front_of(&bao.url);
    let directory = Directory::new();
    let secret_id_file = directory.file("id", &secret_id);
    let method = LoginBy::AppRole { role_id, secret_id_file, wrapped: None };
    let login = LoginSetup { method, mount: None, namespace: None };
    let opened = Opened::with(options(&[&between.url()], "secret", login), directory);
    let value = "canary-value-5f0c9e41d2";
    let mut said = String::new();
    let tour = |said: &mut String| {
        for result in [
            opened.change(put("s", &[("f", value.as_bytes())])).map(drop),
            opened.change(put_staged("s", &[("f", value.as_bytes())])).map(drop),
            opened.read(&Login::machine(), "s", Some(1)).map(drop),
            opened.describe("s").map(drop),
        ] {
            if let Err(fault) = result {
                said.push_str(&format!("{} {fault:?}\n", fault.fault));
            }
        }
    };
    tour(&mut said);
    assert_eq!(said, "");
    let token = between
        .seen()
        .iter()
        .flat_map(|request| {
            request
                .lines()
                .filter_map(|line| line.strip_prefix("x-vault-token: "))
                .map(str::to_owned)
                .collect::<Vec<_>>()
        })
        .next_back()
        .unwrap();
    assert!(
        between.seen().iter().any(|request| request.contains(value)),
        "the scan finds what there is to find"
    );
    // A server that repeats what it was sent.
    for status in ["400 Bad Request", "403 Forbidden", "500 Internal Server Error", "301 Moved"] {
        let (value, token, secret_id) = (value.to_owned(), token.clone(), secret_id.clone());
        between.decide(move |line| {
            if line.contains("/v1/auth/") || line.contains("/data/") {
                let body = format!("{{\"errors\":[\"you sent {value} {token} {secret_id}\"]}}");
                return Does::answer(
                    status,
                    &format!("Location: http://127.0.0.1/{value}/{token}\r\n"),
                    &body,
                );
            }
            Does::HandOn
        });
        tour(&mut said);
        opened.run(opened.vault.log_out(&Login::machine()));
        tour(&mut said);
    }
    assert!(said.len() > 100);
    for status in opened.vault.logins() {
        said.push_str(&format!("{status:?}\n"));
    }
    let heard = heard();
    assert!(heard.contains("logged in"), "it is listened to");
    for secret in [value, token.as_str(), secret_id.as_str()] {
        assert!(!said.contains(secret), "a fault says it: {said}");
        let at = heard.find(secret);
        assert!(at.is_none(), "the log has it: …{}…", &heard[at.unwrap().saturating_sub(200)..at.unwrap()]);
    }
}
