//! Every method of logging in at a real server: made when needed, renewed while used, made again when it ended, ended at the
//! end; and one identity's token is never another's.

use std::time::{Duration, Instant};

use credfs::store::{Login, LoginBy, LoginSetup, LoginState, Source as _, StoreFault, Wrapped};
use serde_json::{Value, json};

use crate::harness::{Bao, Between, Directory, Does, Opened, options, token_login};

const READER: &str = "path \"secret/data/*\" { capabilities = [\"read\"] }\n\
                      path \"secret/metadata/*\" { capabilities = [\"read\", \"list\"] }";

fn setup(method: LoginBy) -> LoginSetup {
    LoginSetup { method, mount: None, namespace: None }
}

fn approle(directory: &Directory, name: &str, (role_id, secret_id): (String, String)) -> LoginSetup {
    let secret_id_file = directory.file(name, &secret_id);
    setup(LoginBy::AppRole { role_id, secret_id_file, wrapped: None })
}

fn reader() -> Bao {
    let bao = Bao::dev();
    bao.policy("reader", READER);
    bao.tell("POST", "secret/data/s", &json!({"data": {"f": "value"}}));
    bao
}

fn status(opened: &Opened) -> credfs::store::LoginStatus {
    opened.vault.logins().remove(0)
}

fn reads(opened: &Opened) -> Result<(), StoreFault> {
    opened.read(&Login::machine(), "s", Some(1)).map(drop).map_err(|fault| fault.fault)
}

#[test]
fn a_token_is_made_when_needed_renewed_while_used_and_revoked_at_the_end() {
    let bao = reader();
    let directory = Directory::new();
    let role = bao
        .approle("orders", json!({"token_policies": ["reader"], "token_ttl": "2s", "token_max_ttl": "60s"}));
    let opened = Opened::with(options(&[&bao.url], "secret", approle(&directory, "id", role)), directory);
    assert_eq!(status(&opened).state, LoginState::Unused);
    reads(&opened).unwrap();
    let first = status(&opened);
    assert_eq!((first.method, first.state), ("approle", LoginState::Valid));
    let accessor = first.accessor.unwrap();
    assert!(bao.accessors().contains(&accessor));
    // Thrice its life: the same token, because it is used.
    let until = Instant::now() + Duration::from_secs(6);
    while Instant::now() < until {
        reads(&opened).unwrap();
        std::thread::sleep(Duration::from_millis(200));
    }
    let now = status(&opened);
    assert_eq!(now.accessor.as_ref(), Some(&accessor), "renewed, not made again");
    assert!(now.age.unwrap() > Duration::from_secs(5) && now.remaining.unwrap() <= Duration::from_secs(2));
    opened.run(opened.vault.log_out_unless(&Login::machine(), &|| true));
    assert!(bao.accessors().contains(&accessor), "revoked in spite of who needs it");
    assert_eq!(status(&opened).accessor.as_ref(), Some(&accessor));
    opened.run(opened.vault.log_out_unless(&Login::machine(), &|| false));
    assert!(!bao.accessors().contains(&accessor), "revoked");
    assert_eq!(status(&opened).state, LoginState::Unused);
    reads(&opened).unwrap();
    assert_ne!(status(&opened).accessor.unwrap(), accessor);
}

#[test]
fn where_renewal_ends_there_is_a_new_token_before_the_old_one_is_gone() {
    let bao = reader();
    let directory = Directory::new();
    let role = bao
        .approle("orders", json!({"token_policies": ["reader"], "token_ttl": "2s", "token_max_ttl": "3s"}));
    let opened = Opened::with(options(&[&bao.url], "secret", approle(&directory, "id", role)), directory);
    reads(&opened).unwrap();
    let first = status(&opened).accessor;
    let until = Instant::now() + Duration::from_secs(7);
    let mut accessors = std::collections::BTreeSet::new();
    while Instant::now() < until {
        reads(&opened).unwrap();
        accessors.insert(status(&opened).accessor.unwrap());
        std::thread::sleep(Duration::from_millis(50));
    }
    assert_ne!(status(&opened).accessor, first);
    assert!((2..=6).contains(&accessors.len()), "{} tokens in 7 s of at most 3 s each", accessors.len());
}

#[test]
fn a_token_that_the_server_revoked_is_made_again_once_and_not_in_a_loop() {
    let bao = reader();
    let between = Between::in_front_of(&bao.url);
    let directory = Directory::new();
    let role = bao.approle("orders", json!({"token_policies": ["reader"], "token_ttl": "1h"}));
    let opened =
        Opened::with(options(&[&between.url()], "secret", approle(&directory, "id", role)), directory);
    reads(&opened).unwrap();
    assert_eq!(between.count("/login"), 1);
    bao.tell("POST", "auth/token/revoke-accessor", &json!({"accessor": status(&opened).accessor.unwrap()}));
    reads(&opened).unwrap();
    assert_eq!(between.count("/login"), 2, "once more");
    // What is forbidden stays so, however often it is asked for: no login follows from it.
    bao.tell("POST", "secret/data/s", &json!({"data": {"f": "2"}}));
    bao.policy("reader", "path \"secret/metadata/*\" { capabilities = [\"read\"] }");
    for _ in 0..20 {
        let refused = opened.read(&Login::machine(), "s", Some(1)).unwrap_err();
        assert!(matches!(refused.fault, StoreFault::Refused(_)), "{}", refused.fault);
        assert!(refused.request_id.is_some());
    }
    assert_eq!(between.count("/login"), 2);
    assert!(between.count("lookup-self") <= 3, "{} questions about the token", between.count("lookup-self"));
    // Nor where the token may not even ask about itself.
    let role = bao.approle(
        "bare",
        json!({"token_policies": ["bare"], "token_no_default_policy": true, "token_ttl": "1h"}),
    );
    let directory = Directory::new();
    let opened =
        Opened::with(options(&[&between.url()], "secret", approle(&directory, "id", role)), directory);
    let before = between.count("/login");
    for _ in 0..20 {
        assert!(matches!(reads(&opened), Err(StoreFault::Refused(_))));
    }
    assert_eq!(between.count("/login"), before + 2, "one, and one to be sure");
}

#[test]
fn a_login_that_is_refused_is_not_tried_at_every_read() {
    let bao = reader();
    let between = Between::in_front_of(&bao.url);
    let directory = Directory::new();
    let (role_id, _) = bao.approle("orders", json!({"token_policies": ["reader"]}));
    let login = approle(&directory, "id", (role_id, "no-such-secret-id".to_owned()));
    let opened = Opened::with(options(&[&between.url()], "secret", login), directory);
    for _ in 0..50 {
        let Err(StoreFault::Refused(text)) = reads(&opened) else { panic!("it is refused") };
        assert!(text.contains("approle") && !text.contains("no-such-secret-id"), "{text}");
    }
    assert!(between.count("/login") <= 2, "{} tries", between.count("/login"));
    assert_eq!(status(&opened).state, LoginState::Refused);
    // The right one is delivered: it is read again, after the pause.
    opened.directory.file("id", &bao.secret_id("orders"));
    let began = Instant::now();
    while reads(&opened).is_err() {
        assert!(began.elapsed() < Duration::from_secs(5));
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn a_thousand_who_need_the_token_at_once_log_in_once() {
    let bao = reader();
    let between = Between::in_front_of(&bao.url);
    let directory = Directory::new();
    let role = bao.approle("orders", json!({"token_policies": ["reader"]}));
    let mut options = options(&[&between.url()], "secret", approle(&directory, "id", role));
    options.http.request_deadline = Duration::from_secs(30);
    let opened = Opened::with(options, directory);
    // Held back a little, so that all come before the first is done.
    between.decide(|line| {
        if line.contains("/login") {
            std::thread::sleep(Duration::from_millis(300));
        }
        if line.contains("/data/") {
            Does::answer("404 Not Found", "", "{\"errors\":[]}")
        } else {
            Does::HandOn
        }
    });
    opened.run(async {
        let (login, path) = (Login::machine(), crate::harness::path("s"));
        let all = (0..200).map(|_| opened.vault.read(&login, &path, Some(crate::harness::version(1))));
        let mut under_way: Vec<_> = all.collect();
        for one in &mut under_way {
            // Every one is begun before any is waited for.
            let begun = tokio::time::timeout(Duration::ZERO, one).await;
            assert!(begun.is_err());
        }
        for one in under_way {
            assert!(matches!(one.await.err().unwrap().fault, StoreFault::NoVersion(..)));
        }
    });
    assert_eq!(between.count("/login"), 1);
}

#[test]
fn each_identity_logs_in_as_itself() {
    let bao = reader();
    bao.tell("POST", "secret/data/orders/db", &json!({"data": {"f": "orders"}}));
    bao.tell("POST", "secret/data/billing/db", &json!({"data": {"f": "billing"}}));
    for name in ["orders", "billing"] {
        bao.policy(name, &format!("path \"secret/data/{name}/*\" {{ capabilities = [\"read\"] }}"));
    }
    let directory = Directory::new();
    let mut options = options(&[&bao.url], "secret", token_login(directory.file("token", &bao.root)));
    for name in ["orders", "billing"] {
        let role = bao.approle(name, json!({"token_policies": [name]}));
        options.logins.insert(name.to_owned(), approle(&directory, name, role));
    }
    let opened = Opened::with(options.clone(), directory);
    let read = |identity: &str, secret: &str| {
        opened.read(&Login::of_identity(identity), secret, Some(1)).map_err(|fault| fault.fault)
    };
    assert_eq!(read("orders", "orders/db").unwrap()[0].1, b"orders");
    assert!(matches!(read("orders", "billing/db"), Err(StoreFault::Refused(_))));
    assert_eq!(read("billing", "billing/db").unwrap()[0].1, b"billing");
    assert!(matches!(read("billing", "orders/db"), Err(StoreFault::Refused(_))));
    assert_eq!(
        read("nobody", "orders/db").unwrap()[0].1,
        b"orders",
        "the machine's login, where that may be"
    );
    let names: Vec<String> = opened.vault.logins().iter().map(|status| status.login.to_string()).collect();
    assert_eq!(names, ["identity:billing", "identity:orders", "machine"]);
    // A reload takes one away: its token is gone, the other's is kept.
    let accessor = |name: &str| {
        let all = opened.vault.logins();
        all.into_iter()
            .find(|status| status.login == Login::of_identity(name))
            .and_then(|status| status.accessor)
    };
    let (gone, kept) = (accessor("billing").unwrap(), accessor("orders"));
    let mut logins = options.logins.clone();
    logins.remove("billing");
    for ended in opened.vault.set_logins(&logins) {
        opened.run(ended.log_out());
    }
    assert!(!bao.accessors().contains(&gone));
    assert_eq!(accessor("orders"), kept);
    let mut strict = options;
    strict.own_login_required = true;
    let opened = Opened::with(strict, Directory::new());
    let refused = opened.read(&Login::of_identity("nobody"), "orders/db", Some(1)).unwrap_err().fault;
    assert!(matches!(&refused, StoreFault::Refused(text) if text.contains("login.central")), "{refused}");
}

#[test]
fn a_wrapped_secret_id_opens_once_and_only_if_it_was_made_where_it_should_be() {
    let bao = reader();
    let (role_id, _) = bao.approle("orders", json!({"token_policies": ["reader"], "token_ttl": "1h"}));
    let open = |token: &str, made_at: Option<&str>| {
        let directory = Directory::new();
        let secret_id_file = directory.file("id", token);
        let wrapped = Some(Wrapped { made_at: made_at.map(str::to_owned) });
        let login = setup(LoginBy::AppRole { role_id: role_id.clone(), secret_id_file, wrapped });
        Opened::with(options(&[&bao.url], "secret", login), directory)
    };
    let token = bao.wrap("auth/approle/role/orders/secret-id", &json!({}));
    let opened = open(&token, None);
    reads(&opened).unwrap();
    // Logged out and in again: what was unwrapped is still known, though its wrapping opens no more.
    opened.run(opened.vault.log_out(&Login::machine()));
    reads(&opened).unwrap();
    let says = |result: Result<(), StoreFault>| result.unwrap_err().to_string();
    assert!(says(reads(&open(&token, None))).contains("find out who did"));
    let elsewhere = bao.wrap("sys/wrapping/wrap", &json!({"secret_id": "planted"}));
    assert!(says(reads(&open(&elsewhere, None))).contains("not made where it should have been"));
    let token = bao.wrap("auth/approle/role/orders/secret-id", &json!({}));
    assert!(says(reads(&open(&token, Some("auth/approle/role/other/secret-id")))).contains("not made where"));
    reads(&open(&token, Some("auth/approle/role/orders/secret-id"))).unwrap();
}

#[test]
fn a_ready_token_is_used_renewed_and_never_revoked() {
    let bao = reader();
    let made = bao.tell("POST", "auth/token/create", &json!({"policies": ["reader"], "ttl": "2s"}));
    let (token, accessor) =
        (made["auth"]["client_token"].as_str().unwrap(), made["auth"]["accessor"].as_str().unwrap());
    let directory = Directory::new();
    let file = directory.file("token", token);
    let opened = Opened::with(options(&[&bao.url], "secret", token_login(file)), directory);
    let until = Instant::now() + Duration::from_secs(5);
    while Instant::now() < until {
        reads(&opened).unwrap();
        std::thread::sleep(Duration::from_millis(100));
    }
    assert_eq!(status(&opened).accessor.as_deref(), Some(accessor));
    opened.run(opened.vault.log_out(&Login::machine()));
    assert!(bao.accessors().contains(&accessor.to_owned()), "it is not ours");
    // A new one in the file is taken when the old one ended.
    bao.tell("POST", "auth/token/revoke-accessor", &json!({"accessor": accessor}));
    let next = bao.tell("POST", "auth/token/create", &json!({"policies": ["reader"]}));
    opened.directory.file("token", next["auth"]["client_token"].as_str().unwrap());
    reads(&opened).unwrap();
    assert_eq!(status(&opened).accessor.as_deref(), next["auth"]["accessor"].as_str());
}

/// A token signed by a key of the test's own, for a subject.
fn signed_token(directory: &Directory, key: &std::path::Path, subject: &str, claims: &Value) -> String {
    let encode = |bytes: &[u8]| {
        use base64::Engine as _;
        base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(bytes)
    };
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    let mut all = json!({"sub": subject, "aud": ["credfs"], "iat": now, "nbf": now - 5, "exp": now + 300, "iss": "test"});
    all.as_object_mut().unwrap().extend(claims.as_object().unwrap().clone());
    let text =
        format!("{}.{}", encode(b"{\"alg\":\"RS256\",\"typ\":\"JWT\"}"), encode(all.to_string().as_bytes()));
    let input = directory.file("to-sign", &text);
    let signed = std::process::Command::new("openssl")
        .args(["dgst", "-sha256", "-sign"])
        .args([key, input.as_path()])
        .output()
        .unwrap();
    assert!(signed.status.success());
    format!("{text}.{}", encode(&signed.stdout))
}

fn signing_key(directory: &Directory) -> (std::path::PathBuf, String) {
    let key = directory.path().join("signer.key");
    let run = |arguments: &[&str]| {
        let done = std::process::Command::new("openssl").args(arguments).output().unwrap();
        assert!(done.status.success());
        String::from_utf8(done.stdout).unwrap()
    };
    run(&["genrsa", "-out", key.to_str().unwrap(), "2048"]);
    let public = run(&["rsa", "-in", key.to_str().unwrap(), "-pubout"]);
    (key, public)
}

#[test]
fn a_signed_token_is_read_again_at_each_login() {
    let bao = reader();
    let directory = Directory::new();
    let (key, public) = signing_key(&directory);
    bao.tell("POST", "sys/auth/jwt", &json!({"type": "jwt"}));
    bao.tell("POST", "auth/jwt/config", &json!({"jwt_validation_pubkeys": [public]}));
    bao.tell(
        "POST",
        "auth/jwt/role/orders",
        &json!({
            "role_type": "jwt", "user_claim": "sub", "bound_audiences": ["credfs"], "bound_subject": "orders",
            "token_policies": ["reader"], "token_ttl": "1h",
        }),
    );
    let file = directory.file("jwt", &signed_token(&directory, &key, "somebody", &json!({})));
    let login = setup(LoginBy::Jwt { role: "orders".to_owned(), jwt_file: file });
    let opened = Opened::with(options(&[&bao.url], "secret", login), directory);
    let refused = reads(&opened).unwrap_err();
    assert!(matches!(&refused, StoreFault::Refused(text) if text.contains("jwt")), "{refused}");
    opened.directory.file("jwt", &signed_token(&opened.directory, &key, "orders", &json!({})));
    std::thread::sleep(Duration::from_millis(1400));
    reads(&opened).unwrap();
    assert_eq!(status(&opened).method, "jwt");
}

#[test]
fn a_service_account_logs_in_as_kubernetes_would_have_it() {
    // The server asks the cluster whether a token is one of its own: this stands for the cluster, which cannot be had here.
    let bao = reader();
    let (cluster, certificates) = (Between::in_front_of(&bao.url), crate::harness::Certificates::new());
    let directory = Directory::new();
    let (key, public) = signing_key(&directory);
    cluster.decide(|line| {
        assert!(line.contains("tokenreviews"), "{line}");
        let review = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "status": {
            "authenticated": true, "audiences": ["credfs"],
            "user": {"username": "system:serviceaccount:shop:orders", "uid": "uid-1", "groups": ["system:serviceaccounts"]},
        }});
        Does::answer("201 Created", "Content-Type: application/json\r\n", &review.to_string())
    });
    bao.tell("POST", "sys/auth/kubernetes", &json!({"type": "kubernetes"}));
    let reviewer = signed_token(&directory, &key, "reviewer", &json!({}));
    bao.tell(
        "POST",
        "auth/kubernetes/config",
        &json!({
            "kubernetes_host": cluster.url(), "token_reviewer_jwt": reviewer, "disable_local_ca_jwt": true, "kubernetes_ca_cert": certificates.text("ca"),
            "pem_keys": [public], "disable_iss_validation": true,
        }),
    );
    bao.tell(
        "POST",
        "auth/kubernetes/role/orders",
        &json!({
            "bound_service_account_names": ["orders"], "bound_service_account_namespaces": ["shop"],
            "token_policies": ["reader"], "audience": "credfs",
        }),
    );
    let claims = json!({"kubernetes.io": {"namespace": "shop", "serviceaccount": {"name": "orders", "uid": "uid-1"}},
        "sub": "system:serviceaccount:shop:orders"});
    let jwt_file =
        directory.file("jwt", &signed_token(&directory, &key, "system:serviceaccount:shop:orders", &claims));
    let login = setup(LoginBy::Kubernetes { role: "orders".to_owned(), jwt_file });
    let opened = Opened::with(options(&[&bao.url], "secret", login), directory);
    reads(&opened).unwrap();
    assert_eq!(cluster.count("tokenreviews"), 1);
}
