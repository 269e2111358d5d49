//! Whatever comes instead of an answer: each has its fault, within its deadline, and recovery is found at once.

use std::time::{Duration, Instant};

use credfs::store::{Login, Source as _, StoreFault};
use serde_json::json;

use crate::harness::{
    Bao, Between, Directory, Does, Opened, free_port, options, put, silent_port, token_login,
};

/// The bound of `options`, and what a busy machine may add.
const DEADLINE: Duration = Duration::from_millis(2600);

struct Stage {
    bao: Bao,
    between: Between,
    opened: Opened,
}

fn stage() -> Stage {
    let bao = Bao::dev();
    bao.tell("POST", "secret/data/s", &json!({"data": {"f": "value"}}));
    let between = Between::in_front_of(&bao.url);
    let directory = Directory::new();
    let token = directory.file("token", &bao.root);
    let opened = Opened::with(options(&[&between.url()], "secret", token_login(token)), directory);
    opened.read(&Login::machine(), "s", Some(1)).unwrap();
    Stage { bao, between, opened }
}

#[track_caller]
fn fault(opened: &Opened) -> credfs::store::SourceFault {
    let began = Instant::now();
    let fault = opened.read(&Login::machine(), "s", Some(1)).unwrap_err();
    assert!(began.elapsed() < DEADLINE, "{:?}: {}", began.elapsed(), fault.fault);
    fault
}

#[test]
fn every_answer_that_is_none_has_its_fault_and_its_deadline() {
    let Stage { bao: _bao, between, opened } = stage();
    let whole = |body: &str| Does::answer("200 OK", "Content-Type: application/json\r\n", body);
    let half = Does::Say(
        b"HTTP/1.1 500 Internal Server Error\r\nContent-Length: 400\r\n\r\n{\"errors\":[\"x".to_vec(),
    );
    let deep = format!("{{\"data\":{}1{}}}", "[".repeat(100_000), "]".repeat(100_000));
    let big = Does::Say(b"HTTP/1.1 200 OK\r\nContent-Length: 104857600\r\n\r\n{\"data\":\"".to_vec());
    let chunked = Does::Say(
        [
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n".as_slice(),
            &b"100000\r\n".repeat(1),
            &[b'x'; 0x100_000],
        ]
        .concat(),
    );
    for (name, does, says) in [
        ("half a body", half, "in the middle of its answer"),
        ("no HTTP", Does::Say(b"hello\r\n\r\n".to_vec()), "in the middle of its answer"),
        ("nothing at all", Does::Say(Vec::new()), "in the middle of its answer"),
        ("no JSON", whole("<html>"), "not valid JSON"),
        ("half of JSON", whole("{\"data\":{\"data\":{\"f\":\"val"), "not valid JSON"),
        ("too deep", whole(&deep), "nested too deeply"),
        ("100 MB", big, "larger than response_bytes_max"),
        ("a piece and an end", chunked, "in the middle of its answer"),
        (
            "another version",
            whole("{\"data\":{\"data\":{\"f\":\"old\"},\"metadata\":{\"version\":7}}}"),
            "something else",
        ),
        ("a list", whole("[]"), "not valid JSON"),
        ("500", Does::answer("500 Internal Server Error", "", "{\"errors\":[\"broken\"]}"), "status 500"),
        ("502", Does::answer("502 Bad Gateway", "", "<html>"), "status 502"),
    ] {
        between.decide(move |_| does.clone());
        let fault = fault(&opened).fault;
        assert!(matches!(&fault, StoreFault::Away(text) if text.contains(says)), "{name}: {fault}");
    }
    between.decide(|_| Does::Nothing);
    assert!(matches!(fault(&opened).fault, StoreFault::Timeout));
    let endless = vec![b'x'; 65_536];
    let piece = [b"HTTP/1.1 200 OK\r\n\r\n".as_slice(), &endless].concat();
    between.decide(move |_| Does::Flood(piece.clone()));
    assert!(fault(&opened).fault.to_string().contains("larger than response_bytes_max"));
    between.decide(|_| {
        Does::answer("429 Too Many Requests", "Retry-After: 7\r\n", "{\"errors\":[\"slow down\"]}")
    });
    let slow = fault(&opened);
    assert!(matches!(slow.fault, StoreFault::Away(_)), "{}", slow.fault);
    assert_eq!(slow.retry_after, Some(Duration::from_secs(7)));
    between.decide(|_| Does::answer("503 Service Unavailable", "", "{\"errors\":[\"Vault is sealed\"]}"));
    assert!(matches!(fault(&opened).fault, StoreFault::Sealed(_)));
    between.decide(|_| Does::HandOn);
    assert_eq!(opened.read(&Login::machine(), "s", Some(1)).unwrap()[0].1, b"value");
}

#[test]
fn a_redirect_is_not_followed_and_no_other_host_ever_gets_a_token() {
    let Stage { bao, between, opened } = stage();
    let trap = Between::in_front_of(&bao.url);
    for status in
        ["301 Moved", "302 Found", "303 See Other", "307 Temporary Redirect", "308 Permanent Redirect"]
    {
        let headers = format!("Location: {}/v1/secret/data/s?version=1\r\n", trap.url());
        between.decide(move |_| Does::answer(status, &headers, ""));
        let fault = fault(&opened).fault;
        assert!(matches!(&fault, StoreFault::Away(text) if text.contains("redirects")), "{fault}");
        let fault = opened.change(put("s", &[("f", b"secret value")])).unwrap_err().fault;
        assert!(matches!(&fault, StoreFault::Away(_)), "{fault}");
    }
    assert_eq!(trap.seen(), [""; 0]);
    assert!(
        between.seen().iter().all(|request| request.contains(&bao.root)),
        "the other way round it is seen"
    );
}

#[test]
fn proxies_of_the_environment_are_not_heard() {
    let bao = Bao::dev();
    let trap = Between::in_front_of(&bao.url);
    // This very test once more, in a process whose environment names a proxy.
    if std::env::var_os("CREDFS_TEST_INNER").is_none() {
        let done = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["faults::proxies_of_the_environment_are_not_heard", "--exact", "--test-threads=1"])
            .env("CREDFS_TEST_INNER", trap.url())
            .envs(
                ["http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"]
                    .map(|name| (name, trap.url())),
            )
            .output()
            .unwrap();
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stdout));
        assert_eq!(trap.seen(), [""; 0]);
        return;
    }
    let opened = Opened::at(&bao, "secret");
    assert_eq!(opened.describe("s").unwrap(), None);
    // A configured one is, and learns where an encrypted connection goes and nothing more.
    trap.decide(|_| Does::answer("502 Bad Gateway", "", ""));
    let directory = Directory::new();
    let token = directory.file("token", &bao.root);
    let mut options = options(&["https://vault.example:8200", &bao.url], "secret", token_login(token));
    options.http.proxy = Some(credfs::store::Address::parse(&trap.url()).unwrap());
    let opened = Opened::with(options, directory);
    assert_eq!(opened.describe("s").unwrap(), None, "what is on this machine is asked directly");
    assert!(trap.count("CONNECT vault.example:8200") > 0);
    assert!(trap.seen().iter().all(|request| request.starts_with("CONNECT") && !request.contains(&bao.root)));
}

#[test]
fn a_server_that_is_stopped_sealed_or_a_black_hole_is_away_and_found_again_at_once() {
    let port = free_port();
    let mut bao = Bao::configured(port, None);
    bao.mount_kv("secret", "2");
    bao.tell("POST", "secret/data/s", &json!({"data": {"f": "value"}}));
    let opened = Opened::at(&bao, "secret");
    let reads = || opened.read(&Login::machine(), "s", Some(1)).map_err(|fault| fault.fault);
    reads().unwrap();
    opened.run(opened.vault.probe()).unwrap();
    bao.tell("POST", "sys/seal", &json!({}));
    assert!(matches!(fault(&opened).fault, StoreFault::Sealed(_)));
    assert!(matches!(opened.run(opened.vault.probe()).unwrap_err().fault, StoreFault::Sealed(_)));
    bao.unseal();
    let began = Instant::now();
    while reads().is_err() {
        assert!(began.elapsed() < Duration::from_secs(2), "not found again within 2 s");
    }
    bao.kill();
    assert!(matches!(fault(&opened).fault, StoreFault::Away(_)));
    assert!(matches!(opened.run(opened.vault.probe()).unwrap_err().fault, StoreFault::Away(_)));
    let again = Bao::dev_at(port);
    again.tell("POST", "secret/data/s", &json!({"data": {"f": "again"}}));
    // Another server altogether: the token is unknown there, and the file holds the new one.
    opened.directory.file("token", &again.root);
    let began = Instant::now();
    while reads().is_err() {
        assert!(began.elapsed() < Duration::from_secs(2), "not found again within 2 s");
    }
    // A black hole: connections are taken and nothing is said.
    let (_listener, silent) = silent_port();
    let directory = Directory::new();
    let token = directory.file("token", &again.root);
    let hole = format!("http://127.0.0.1:{silent}");
    let opened = Opened::with(options(&[&hole], "secret", token_login(token.clone())), directory);
    assert!(matches!(fault(&opened).fault, StoreFault::Timeout));
    // With another address beside it, that one answers, and is asked first from then on.
    let opened = Opened::with(options(&[&hole, &again.url], "secret", token_login(token)), Directory::new());
    opened.read(&Login::machine(), "s", Some(1)).unwrap();
    let began = Instant::now();
    opened.read(&Login::machine(), "s", Some(1)).unwrap();
    assert!(began.elapsed() < Duration::from_millis(500));
}

#[test]
fn a_name_that_cannot_be_resolved_is_away() {
    let directory = Directory::new();
    let token = directory.file("token", "x");
    let opened = Opened::with(
        options(&["https://no-such-host.invalid:8200"], "secret", token_login(token)),
        directory,
    );
    assert!(matches!(fault(&opened).fault, StoreFault::Away(_) | StoreFault::Timeout));
}
