//! A KV engine of version 1: what it can do, and that the rest is refused by name.

use credfs::model::{Impact, Ownership, SecretBytes, Stage};
use credfs::store::{Change, Login, StoreFault};
use serde_json::json;

use crate::harness::{Bao, Opened, field, path, put, put_staged};

#[test]
fn one_value_is_stored_described_read_listed_and_destroyed() {
    let bao = Bao::dev();
    bao.mount_kv("old", "1");
    let opened = Opened::at(&bao, "old");
    assert_eq!(opened.describe("a/b").unwrap(), None);
    bao.tell("POST", "old/a/b", &json!({"password": "p", "port": 5432}));
    let known = opened.known("a/b");
    assert!(known.versions.is_empty() && known.current.is_none());
    assert_eq!(opened.describe("a").unwrap(), None, "a folder is no secret");
    let read = opened.read(&Login::machine(), "a/b", None).unwrap();
    assert_eq!(read, [("password".to_owned(), b"p".to_vec()), ("port".to_owned(), b"5432".to_vec())]);
    let made = opened.change(put("a/b", &[("password", b"q")])).unwrap();
    assert_eq!((made.version, made.carried), (None, vec![field("port")]));
    assert_eq!(bao.get("old/a/b")["data"], json!({"password": "q", "port": 5432}));
    assert_eq!((opened.list(""), opened.list("a")), (vec!["a/".to_owned()], vec!["b".to_owned()]));
    let made = opened.change(Change::Destroy { secret: path("a/b"), version: None }).unwrap();
    assert_eq!(made.description, None);
    assert_eq!(bao.ask("GET", "old/a/b", None).0, 404);
    assert!(matches!(
        opened.read(&Login::machine(), "a/b", None).unwrap_err().fault,
        StoreFault::NoSecret(_)
    ));
}

#[test]
fn what_it_cannot_do_is_refused_with_the_remedy() {
    let bao = Bao::dev();
    bao.mount_kv("old", "1");
    let opened = Opened::at(&bao, "old");
    opened.change(put("s", &[("f", b"1")])).unwrap();
    let s = || path("s");
    let one = credfs::model::Version::new(1).unwrap();
    let owned = Change::Put {
        secret: s(),
        fields: vec![(field("f"), SecretBytes::taken_from(&mut [1]))],
        only: false,
        stage: Stage::Current,
        ownership: Ownership { impact: Some(Impact::Low), ..Ownership::default() },
    };
    for change in [
        put_staged("s", &[("f", b"2")]),
        owned,
        Change::Promote { secret: s() },
        Change::Rollback { secret: s(), to: None },
        Change::Revoke { secret: s(), version: one },
        Change::Delete { secret: s(), version: None },
        Change::Undelete { secret: s(), version: None },
        Change::Destroy { secret: s(), version: Some(one) },
    ] {
        let fault = opened.change(change).unwrap_err().fault;
        assert!(matches!(&fault, StoreFault::Invalid(text) if text.contains("version 1")), "{fault}");
    }
    assert_eq!(bao.get("old/s")["data"], json!({"f": "1"}));
}

#[test]
fn where_names_may_not_be_listed_a_secret_is_found_all_the_same() {
    let bao = Bao::dev();
    bao.mount_kv("old", "1");
    bao.tell("POST", "old/s", &json!({"f": "1"}));
    bao.policy("reader", "path \"old/*\" { capabilities = [\"read\"] }");
    let made = bao.tell("POST", "auth/token/create", &json!({"policies": ["reader"]}));
    let directory = crate::harness::Directory::new();
    let token = directory.file("token", made["auth"]["client_token"].as_str().unwrap());
    let options = crate::harness::options(&[&bao.url], "old", crate::harness::token_login(token));
    let opened = Opened::with(options, directory);
    assert!(opened.describe("s").unwrap().is_some());
    assert_eq!(opened.describe("t").unwrap(), None);
}
