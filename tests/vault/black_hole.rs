//! A server whose machine is gone: nothing answers a connection's first packet, not even with a refusal.

use std::time::{Duration, Instant};

use credfs::store::{Engine, LeaseSource as _, Login, Pki, SourceFault, StoreFault, VaultOptions};
use serde_json::json;

use crate::harness::{Bao, Between, BlackHole, Directory, Opened, free_port, options, put, token_login};

/// What a busy machine may add to a deadline.
const SLACK: Duration = Duration::from_millis(600);
const CONNECT_DEADLINE: Duration = Duration::from_millis(500);
const REQUEST_DEADLINE: Duration = Duration::from_secs(2);

fn served() -> Bao {
    let bao = Bao::dev();
    bao.tell("POST", "secret/data/s", &json!({"data": {"f": "value"}}));
    bao
}

fn opened(bao: &Bao, urls: &[&str], adjust: impl FnOnce(&mut VaultOptions)) -> Opened {
    let directory = Directory::new();
    let token = directory.file("token", &bao.root);
    let mut options = options(urls, "secret", token_login(token));
    options.http.connect_deadline = CONNECT_DEADLINE;
    options.http.request_deadline = REQUEST_DEADLINE;
    adjust(&mut options);
    Opened::with(options, directory)
}

fn read(opened: &Opened) -> (Result<String, SourceFault>, Duration) {
    let began = Instant::now();
    let read = opened.read(&Login::machine(), "s", Some(1));
    let text = read.map(|fields| String::from_utf8(fields[0].1.clone()).unwrap());
    (text, began.elapsed())
}

#[test]
fn alone_it_is_given_up_at_the_deadline_for_connections_or_for_requests_whichever_is_sooner() {
    let (bao, hole) = (served(), BlackHole::new());
    for (connect_ms, request_ms) in [(500, 2000), (1500, 1500)] {
        let opened = opened(&bao, &[&hole.url()], |options| {
            options.http.connect_deadline = Duration::from_millis(connect_ms);
            options.http.request_deadline = Duration::from_millis(request_ms);
        });
        let bound = Duration::from_millis(connect_ms.min(request_ms));
        for is_first in [true, false] {
            let (read, took) = read(&opened);
            let fault = read.unwrap_err().fault;
            assert!(matches!(fault, StoreFault::Timeout), "{fault}");
            // Whoever comes within a second after a login that could not be made is told that at once.
            let is_waited_for = took > bound * 9 / 10 || !is_first;
            assert!(is_waited_for && took < bound + SLACK, "{took:?} for {bound:?}");
        }
        let began = Instant::now();
        let put = opened.change(put("s", &[("f", b"x")])).unwrap_err().fault;
        assert!(matches!(put, StoreFault::Timeout) && began.elapsed() < bound + SLACK, "{put}");
    }
}

#[test]
fn another_address_is_used_within_the_deadline_and_first_from_then_on_also_for_changes() {
    let (bao, hole) = (served(), BlackHole::new());
    for is_change_first in [false, true] {
        let opened = opened(&bao, &[&hole.url(), &bao.url], |_| {});
        let began = Instant::now();
        if is_change_first {
            // No connection was made, so it is certain that nothing was done there.
            opened.change(put("s", &[("f", b"changed")])).unwrap();
        } else {
            assert_eq!(read(&opened).0.unwrap(), "value");
        }
        let took = began.elapsed();
        assert!(took > CONNECT_DEADLINE * 9 / 10 && took < CONNECT_DEADLINE + SLACK, "{took:?}");
        let (again, took) = read(&opened);
        assert!(again.is_ok() && took < Duration::from_millis(300), "{took:?}");
    }
}

#[test]
fn what_is_asked_once_only_goes_to_the_other_too_for_nothing_was_asked_of_the_one_that_is_gone() {
    let bao = served();
    bao.tell("POST", "sys/mounts/pki", &json!({"type": "pki"}));
    bao.tell("POST", "pki/root/generate/internal", &json!({"common_name": "test root", "ttl": "700h"}));
    let settings = json!({"allowed_domains": "internal", "allow_subdomains": true, "max_ttl": "72h"});
    bao.tell("POST", "pki/roles/web", &settings);
    let between = Between::in_front_of(&bao.url);
    let port = between.url().rsplit_once(':').unwrap().1.parse().unwrap();
    let opened = opened(&bao, &[&between.url(), &bao.url], |_| {});
    assert_eq!(read(&opened).0.unwrap(), "value");
    assert!(between.count("/v1/secret/data/s") == 1, "it is the one that is asked first");
    drop(between);
    let _hole = BlackHole::at(port);
    let engine = Engine::Pki(Pki {
        mount: "pki".to_owned(),
        role: "web".to_owned(),
        common_name: "orders.internal".to_owned(),
        alt_names: Vec::new(),
        ip_sans: Vec::new(),
        ttl: None,
    });
    let began = Instant::now();
    let minted = opened.run(opened.vault.mint(&Login::machine(), &engine));
    minted.map(drop).map_err(|fault| fault.fault).unwrap();
    assert!(began.elapsed() < CONNECT_DEADLINE + SLACK, "{:?}", began.elapsed());
}

#[test]
fn two_that_are_gone_leave_the_third_its_share() {
    let (bao, one, other) = (served(), BlackHole::new(), BlackHole::new());
    let opened = opened(&bao, &[&one.url(), &other.url(), &bao.url], |options| {
        // Longer than a third of the request's: the shares decide.
        options.http.connect_deadline = Duration::from_secs(2);
    });
    let (read, took) = read(&opened);
    assert_eq!(read.unwrap(), "value");
    assert!(took > REQUEST_DEADLINE / 2 && took < REQUEST_DEADLINE, "{took:?}");
}

#[test]
fn a_server_that_served_until_its_machine_went_is_left_within_the_deadline() {
    let port = free_port();
    let mut gone = Bao::dev_at(port);
    let stays = served();
    gone.tell("POST", "secret/data/s", &json!({"data": {"f": "of the first"}}));
    let opened = opened(&gone, &[&gone.url, &stays.url], |_| {});
    assert_eq!(read(&opened).0.unwrap(), "of the first");
    gone.kill();
    let _hole = BlackHole::at(port);
    // The other is another server here, with another token.
    opened.directory.file("token", &stays.root);
    let began = Instant::now();
    let read = std::iter::from_fn(|| Some(read(&opened))).find(|(read, took)| {
        assert!(*took < REQUEST_DEADLINE + SLACK, "{took:?}");
        read.is_ok() || began.elapsed() > REQUEST_DEADLINE * 2
    });
    assert_eq!(read.unwrap().0.unwrap(), "value");
}
