//! This machine's wall clock is an hour off, and the server's is right: nothing that credfs decides goes by the difference.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

use credfs::model::{Stage, State, UnixTime};
use credfs::store::{
    Change, Engine, Grace, LeaseSource as _, Login, LoginBy, LoginSetup, Pki, Remote, RemoteOptions,
    Source as _, Store as _, StoreFault, Vault, Wanted,
};
use serde_json::json;

use crate::harness::{
    Bao, Between, Certificates, Directory, Does, Opened, Secured, field, free_port, options, path, put,
    put_staged, token_login, under_clocks, version,
};

const HOUR_S: i64 = 3_600;
/// What the server's seconds and a busy machine may add.
const SLACK_S: i64 = 5;

/// Seconds from `when` until now, by the clock that this process has.
fn ago_s(when: UnixTime) -> i64 {
    (UnixTime::from(SystemTime::now()).micros() - when.micros()) / 1_000_000
}

#[test]
fn a_wrong_clock_is_one() {
    under_clocks("clock::a_wrong_clock_is_one", &[HOUR_S, -HOUR_S], |ahead_s| {
        let out = std::process::Command::new("date").arg("+%s").output().unwrap();
        let right_s: i64 = String::from_utf8(out.stdout).unwrap().trim().parse().unwrap();
        let own_s = UnixTime::from(SystemTime::now()).micros() / 1_000_000;
        assert!((own_s - right_s - ahead_s).abs() <= 1, "{own_s} {right_s}");
    });
}

#[test]
fn logins_are_renewed_and_replaced_by_what_is_left_of_them() {
    let name = "clock::logins_are_renewed_and_replaced_by_what_is_left_of_them";
    under_clocks(name, &[HOUR_S, -HOUR_S], |_| {
        let bao = Bao::dev();
        bao.tell("POST", "secret/data/s", &json!({"data": {"f": "value"}}));
        bao.policy("reader", "path \"secret/*\" { capabilities = [\"read\"] }");
        let settings = json!({"token_policies": "reader", "token_ttl": "2s", "token_max_ttl": "4s"});
        let (role_id, secret_id) = bao.approle("orders", settings);
        let directory = Directory::new();
        let secret_id_file = directory.file("id", &secret_id);
        let method = LoginBy::AppRole { role_id, secret_id_file, wrapped: None };
        let between = Between::in_front_of(&bao.url);
        let login = LoginSetup { method, mount: None, namespace: None };
        let opened = Opened::with(options(&[&between.url()], "secret", login), directory);
        let began = Instant::now();
        while began.elapsed() < Duration::from_secs(8) {
            opened.read(&Login::machine(), "s", Some(1)).unwrap();
            let status = opened.vault.logins().pop().unwrap();
            let (age, left) = (status.age.unwrap(), status.remaining.unwrap());
            assert!(age < Duration::from_secs(9) && left <= Duration::from_secs(2), "{age:?} {left:?}");
            std::thread::sleep(Duration::from_millis(100));
        }
        let (logins, renewals) = (between.count("auth/approle/login"), between.count("renew-self"));
        assert!((2..=8).contains(&logins) && (1..=20).contains(&renewals), "{logins} {renewals}");
    });
}

#[test]
fn when_a_version_was_left_is_told_by_our_clock_and_written_by_that_of_all() {
    let name = "clock::when_a_version_was_left_is_told_by_our_clock_and_written_by_that_of_all";
    under_clocks(name, &[HOUR_S, -HOUR_S, 0], |ahead_s| {
        let bao = Bao::dev();
        for value in ["1", "2", "3"] {
            bao.tell("POST", "secret/data/s", &json!({"data": {"f": value}}));
        }
        let opened = Opened::at(&bao, "secret");
        // By policy a version may be read for a while after it was left: that while is counted by our clock.
        let is_just_now = |when: UnixTime| (-1..=SLACK_S).contains(&ago_s(when));
        let known = opened.known("s");
        for (number, stage) in [(1, Stage::Previous), (2, Stage::Current)] {
            let told = known.versions.iter().find(|one| one.number == version(number)).unwrap();
            let (when, stages) = told.lost.unwrap();
            assert!(stages.contains(stage) && is_just_now(when), "{number}: {} s ago", ago_s(when));
        }
        // What is done through us is known by our clock too, and written down by the server's.
        let made = opened.change(put_staged("s", &[("f", b"staged")])).unwrap().description.unwrap();
        assert_eq!((made.current, made.next), (Some(version(3)), Some(version(4))));
        // The server's times are of whole seconds, and what says nothing new is not written.
        std::thread::sleep(Duration::from_millis(1_100));
        let back = Change::Rollback { secret: path("s"), to: Some(version(1)) };
        let made = opened.change(back).unwrap().description.unwrap();
        let left = made.versions.iter().find(|one| one.number == version(3)).unwrap();
        assert!(made.current == Some(version(1)) && is_just_now(left.lost.unwrap().0));
        let custom = bao.get("secret/metadata/s")["data"]["custom_metadata"].clone();
        let text = format!("{} {}", custom["credfs.activated"], custom["credfs.lost"]);
        let times = text.split(['=', ':', ' ', '"']).filter_map(|part| part.parse::<i64>().ok());
        let times: Vec<i64> = times.filter(|number| *number > 1_000_000_000_000_000).collect();
        assert!(!times.is_empty(), "{custom}");
        for time in times {
            let ago_s = ago_s(UnixTime::from_micros(time + ahead_s * 1_000_000));
            assert!((-1..=SLACK_S).contains(&ago_s), "{ago_s} s ago by the server's clock: {custom}");
        }
        let until = custom["credfs.stages"].as_str().unwrap().split("until=").nth(1);
        if let Some(until) = until {
            let until: i64 = until.split(' ').next().unwrap().parse().unwrap();
            let left_s = -ago_s(UnixTime::from_micros((until + ahead_s) * 1_000_000));
            assert!((0..=70).contains(&left_s), "{left_s}: {custom}");
        }
        // Deleted and restored by somebody else.
        bao.tell("POST", "secret/delete/s", &json!({"versions": [1]}));
        let state = || opened.known("s").versions[0].state;
        assert_eq!(state(), State::Deleted);
        assert!(opened.read(&Login::machine(), "s", Some(1)).is_err());
        bao.tell("POST", "secret/undelete/s", &json!({"versions": [1]}));
        assert_eq!(state(), State::Active);
        let delete = Change::Delete { secret: path("s"), version: Some(version(1)) };
        let made = opened.change(delete).unwrap().description.unwrap();
        assert_eq!(made.versions[0].state, State::Deleted);
    });
}

#[test]
fn freshness_and_grace_are_spans_and_what_is_the_same_stays_the_same() {
    let name = "clock::freshness_and_grace_are_spans_and_what_is_the_same_stays_the_same";
    under_clocks(name, &[HOUR_S, -HOUR_S], |_| {
        let bao = Bao::dev();
        for value in ["1", "2"] {
            bao.tell("POST", "secret/data/s", &json!({"data": {"f": value}}));
        }
        let between = Between::in_front_of(&bao.url);
        let directory = Directory::new();
        let token = directory.file("token", &bao.root);
        let vault = Arc::new(Vault::new(options(&[&between.url()], "secret", token_login(token))));
        let remote = RemoteOptions {
            fresh_for: Duration::from_secs(1),
            grace: Grace::of_all(Duration::from_secs(3)),
            ..RemoteOptions::new(directory.path().join("numbers"))
        };
        let remote = Remote::open(vault as _, remote).unwrap();
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let machine = Login::machine();
        let wanted = |number| Wanted { secret: path("s"), version: version(number), field: field("f") };
        let changes = Arc::new(AtomicUsize::new(0));
        let known = Arc::new(Mutex::new(Vec::new()));
        runtime.block_on(remote.look_up(&machine, &path("s"))).unwrap();
        let heard = Arc::clone(&changes);
        remote.watch(Box::new(move |_| {
            heard.fetch_add(1, Ordering::SeqCst);
        }));
        // The server's seconds begin at other moments than ours: that must not look like news.
        for _ in 0..12 {
            runtime.block_on(remote.refresh(&machine, Some(&path("s")))).unwrap();
            let secret = remote.known(&machine, &path("s")).unwrap();
            known.lock().unwrap().push(secret.version(version(1)).unwrap().lost);
            std::thread::sleep(Duration::from_millis(170));
        }
        let mut lost = known.lock().unwrap().clone();
        lost.dedup();
        assert!(lost.len() == 1 && lost[0].is_some(), "{lost:?}");
        assert_eq!(changes.load(Ordering::SeqCst), 0);
        runtime.block_on(remote.fetch(&machine, &wanted(2))).unwrap();
        let asked = between.seen().len();
        runtime.block_on(remote.fetch(&machine, &wanted(2))).unwrap();
        assert_eq!(between.seen().len(), asked, "it was fresh");
        between.decide(|_| Does::answer("500 Internal Server Error", "", "{}"));
        std::thread::sleep(Duration::from_millis(1_500));
        let stale = runtime.block_on(remote.fetch(&machine, &wanted(2))).unwrap();
        assert!(stale.stale_for > Duration::ZERO && stale.stale_for < Duration::from_secs(3));
        std::thread::sleep(Duration::from_millis(3_500));
        let over = runtime.block_on(remote.fetch(&machine, &wanted(2))).map(drop).unwrap_err();
        assert!(matches!(over.bare(), StoreFault::Away(_) | StoreFault::Timeout), "{over}");
    });
}

#[test]
fn what_is_left_of_a_certificate_is_counted_by_the_server_s_clock() {
    let name = "clock::what_is_left_of_a_certificate_is_counted_by_the_server_s_clock";
    under_clocks(name, &[HOUR_S, -HOUR_S], |_| {
        let bao = Bao::dev();
        bao.tell("POST", "sys/mounts/pki", &json!({"type": "pki", "config": {"max_lease_ttl": "87600h"}}));
        bao.tell("POST", "pki/root/generate/internal", &json!({"common_name": "test root", "ttl": "8760h"}));
        let settings = json!({"allowed_domains": "internal", "allow_subdomains": true, "max_ttl": "72h"});
        bao.tell("POST", "pki/roles/web", &settings);
        let opened = Opened::at(&bao, "secret");
        let engine = Engine::Pki(Pki {
            mount: "pki".to_owned(),
            role: "web".to_owned(),
            common_name: "orders.internal".to_owned(),
            alt_names: Vec::new(),
            ip_sans: Vec::new(),
            ttl: Some(Duration::from_secs(600)),
        });
        let minted = opened.run(opened.vault.mint(&Login::machine(), &engine)).map_err(|fault| fault.fault);
        let length = minted.unwrap().content.length.unwrap();
        assert!(length > Duration::from_secs(590) && length < Duration::from_secs(610), "{length:?}");
    });
}

#[test]
fn a_certificate_that_is_not_valid_yet_or_any_more_is_away_and_the_clock_is_named() {
    let name = "clock::a_certificate_that_is_not_valid_yet_or_any_more_is_away_and_the_clock_is_named";
    under_clocks(name, &[-HOUR_S, 72 * HOUR_S, HOUR_S], |ahead_s| {
        let certificates = Certificates::new();
        certificates.make("server", "IP:127.0.0.1", "serverAuth");
        let secured = Secured { certificates: &certificates, shows: "server" };
        // Its own state is as far as it gets: the harness asks by curl, whose clock is right.
        let bao = Bao::configured(free_port(), Some(&secured));
        let directory = Directory::new();
        let token = directory.file("token", &bao.root);
        let mut options = options(&[&bao.url], "secret", token_login(token));
        options.http.ca_file = Some(certificates.ca());
        let opened = Opened::with(options, directory);
        let read = opened.run(opened.vault.probe()).map_err(|fault| fault.fault);
        if ahead_s == HOUR_S {
            return read.unwrap();
        }
        let Err(StoreFault::Away(text)) = read else { panic!("{read:?}") };
        assert!(text.contains("clock"), "{text}");
        let fault = opened.change(put("s", &[("f", b"x")])).map(drop).unwrap_err().fault;
        assert!(matches!(fault, StoreFault::Away(_)), "{fault}");
    });
}
