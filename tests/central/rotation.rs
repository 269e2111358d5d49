//! A new version at the server, and many who open one secret at once.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::harness::{ALICE, Asker, Instance, wait_until};
use crate::place::{SECRET, read, served};
use crate::servers::{Bao, Between};

#[test]
fn a_new_version_is_seen_within_two_seconds_with_ten_secrets_in_use() {
    let bao = Bao::dev();
    let at = |number: u32| format!("secret/data/prod/s{number}");
    for number in 0..10 {
        bao.tell("POST", &at(number), &json!({"data": {"f": "first"}}));
    }
    let instance = served(&bao, &[&bao.url], &[]);
    let path = |number: u32| instance.path(&format!("central/prod/s{number}/f"));
    for number in 0..10 {
        assert_eq!(read(ALICE, &path(number)).unwrap(), "first");
    }
    std::thread::sleep(Duration::from_secs(3));
    let mut lags = Vec::new();
    for number in [3, 7, 1, 9, 5] {
        bao.tell("POST", &at(number), &json!({"data": {"f": "second"}}));
        let lag = wait_until("it is seen", Duration::from_secs(20), || {
            read(ALICE, &path(number)).unwrap() == "second"
        });
        lags.push(lag.as_millis());
    }
    println!("seen after {lags:?} ms");
    assert!(lags.iter().all(|lag| *lag < 2_000), "{lags:?}");
}

#[test]
fn what_put_acknowledged_is_what_the_next_open_sees_and_a_rollback_too() {
    let bao = Bao::dev();
    let instance = served(&bao, &[&bao.url], &[]);
    let path = instance.path("central/prod/db/password");
    for round in 1..=5_u32 {
        let value = format!("value {round}");
        assert_eq!(instance.put("central/prod/db", &[("password", value.as_bytes())]), u64::from(round));
        assert_eq!(read(ALICE, &path).unwrap(), value);
        assert_eq!(bao.get(SECRET)["data"]["data"]["password"], json!(value));
    }
    instance.command(&["rollback", "central/prod/db"]).ok();
    assert_eq!(read(ALICE, &path).unwrap(), "value 4");
    assert_eq!(read(ALICE, &instance.path("central/prod/db/previous/password")).unwrap(), "value 3");
    instance.command(&["delete", "central/prod/db", "--version", "4"]).ok();
    assert!(read(ALICE, &path).unwrap_err().contains("No such file"));
}

#[test]
fn a_thousand_processes_that_open_one_cold_secret_at_once_are_one_fetch() {
    let bao = Bao::dev();
    bao.tell("POST", SECRET, &json!({"data": {"password": "hunter2"}}));
    let between = Between::in_front_of(&bao.url);
    let instance = served(&bao, &[&between.url()], &[]);
    let path = instance.path("central/prod/db/password");
    let script = "
import os, sys, time
path, start = sys.argv[1], time.time() + 2.5
good = 0
children = []
for _ in range(1000):
    child = os.fork()
    if child == 0:
        time.sleep(max(0, start - time.time()))
        try:
            fd = os.open(path, os.O_RDONLY)
            os._exit(0 if os.read(fd, 100) == b'hunter2' else 2)
        except OSError as error:
            os._exit(error.errno)
    children.append(child)
outcomes = {}
for child in children:
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    outcomes[code] = outcomes.get(code, 0) + 1
print(outcomes)
";
    let begun = Instant::now();
    let told = Asker::uid(ALICE).python(script, &[&path]);
    println!("{told} in {:?}", begun.elapsed());
    let fetches = between.seen().iter().filter(|request| request.contains("/v1/secret/data/prod/db")).count();
    assert_eq!(fetches, 1, "fetches");
    assert!(told.starts_with("{0: "), "{told}");
    let good: u32 = told.trim_start_matches("{0: ").split([',', '}']).next().unwrap().parse().unwrap();
    // More than in_flight_per_uid_max at once are told EAGAIN (11) and may come again; nobody gets anything else.
    assert!(
        told == format!("{{0: {good}}}") || told == format!("{{0: {good}, 11: {}}}", 1000 - good),
        "{told}"
    );
}
