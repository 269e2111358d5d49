//! The server is gone, sealed, or comes back.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::harness::{ALICE, Asker, Instance, Program, wait_until};
use crate::place::{SECRET, read, served};
use crate::servers::{Bao, Cluster, free_port};

fn list_ms(instance: &Instance) -> u128 {
    let begun = Instant::now();
    let done = Asker::uid(ALICE).run(&["ls", "-R", &instance.mount_point()]);
    assert!(done.err.is_empty(), "{}", done.err);
    begun.elapsed().as_millis()
}

#[test]
fn in_an_outage_what_is_known_is_given_marked_and_what_is_cold_times_out_and_nothing_hangs() {
    let mut bao = Bao::configured(free_port(), None);
    bao.mount_kv("secret", "2");
    bao.tell("POST", SECRET, &json!({"data": {"password": "hunter2"}}));
    bao.tell("POST", "secret/data/prod/cold", &json!({"data": {"key": "never read"}}));
    let url = bao.url.clone();
    let more = [("stores.central.fresh_for", "500ms".into()), ("stores.central.grace", "6s".into())];
    let instance = served(&bao, &[&url], &more);
    let (warm, cold) = (instance.path("central/prod/db/password"), instance.path("central/prod/cold/key"));
    assert_eq!(read(ALICE, &warm).unwrap(), "hunter2");
    bao.tell("PUT", "sys/seal", &json!({}));
    std::thread::sleep(Duration::from_millis(1_500));
    assert_eq!(read(ALICE, &warm).unwrap(), "hunter2", "sealed: within grace");
    assert!(instance.records().last("open", "released").text("freshness").starts_with("stale"));
    let attribute =
        Asker::uid(ALICE).run(&["getfattr", "--only-values", "-n", "user.credfs.freshness", &warm]);
    assert!(attribute.text().starts_with("stale"), "{} {}", attribute.text(), attribute.err);
    let begun = Instant::now();
    let said = read(ALICE, &cold).unwrap_err();
    assert!(said.contains("Required key not available") || said.contains("timed out"), "{said}");
    assert!(begun.elapsed() < Duration::from_secs(6), "{:?}", begun.elapsed());
    assert!(list_ms(&instance) < 500);
    bao.kill();
    assert!(list_ms(&instance) < 500);
    let said = read(ALICE, &cold).unwrap_err();
    assert!(said.contains("timed out") || said.contains("Required key"), "{said}");
    wait_until("grace is over", Duration::from_secs(10), || read(ALICE, &warm).is_err());
    assert!(read(ALICE, &warm).unwrap_err().contains("timed out"));
    assert!(
        instance.records().iter().all(
            |record| record.text("secret") != "central/prod/cold" || record.text("outcome") != "released"
        )
    );
}

#[test]
fn the_first_read_after_the_server_came_back_is_fresh_within_two_seconds() {
    let mut bao = Bao::configured(free_port(), None);
    bao.mount_kv("secret", "2");
    bao.tell("POST", SECRET, &json!({"data": {"password": "first"}}));
    let url = bao.url.clone();
    let instance = served(&bao, &[&url], &[("stores.central.fresh_for", "500ms".into())]);
    let warm = instance.path("central/prod/db/password");
    assert_eq!(read(ALICE, &warm).unwrap(), "first");
    bao.tell("PUT", "sys/seal", &json!({}));
    std::thread::sleep(Duration::from_secs(1));
    assert_eq!(read(ALICE, &warm).unwrap(), "first");
    bao.unseal();
    wait_until("the engine answers again", Duration::from_secs(10), || {
        bao.ask("POST", SECRET, Some(&json!({"data": {"password": "second"}}))).0 == 200
    });
    let took = wait_until("it is fresh", Duration::from_secs(10), || read(ALICE, &warm).unwrap() == "second");
    println!("fresh {} ms after the server took a new version", took.as_millis());
    assert!(took < Duration::from_secs(2), "{took:?}");
}

#[test]
fn open_files_and_grace_outlive_a_worker_that_dies_in_an_outage() {
    let mut bao = Bao::dev();
    bao.tell("POST", SECRET, &json!({"data": {"password": "hunter2"}}));
    let url = bao.url.clone();
    let instance = served(&bao, &[&url], &[("stores.central.fresh_for", "500ms".into())]);
    let warm = instance.path("central/prod/db/password");
    assert_eq!(read(ALICE, &warm).unwrap(), "hunter2");
    let log = instance.dir().join("holding.out");
    let script = "exec 3< \"$0\"; echo open; sleep 6; cat <&3";
    let mut holding = Asker::uid(ALICE).program(&["/bin/sh", "-c", script, &warm]).keep(&log);
    wait_until("it is open", Duration::from_secs(5), || holding.output().contains("open"));
    // What is remembered is left to a successor within a second or two.
    std::thread::sleep(Duration::from_secs(2));
    bao.kill();
    let worker = instance.worker_pid();
    Program::of(&["kill", "-9", &worker.to_string()]).run().ok();
    assert_eq!(read(ALICE, &warm).unwrap(), "hunter2", "its successor was left it");
    let status = instance.command(&["status", "--json"]).ok().json();
    assert_eq!(status["state"], "serving");
    let central =
        status["stores"].as_array().unwrap().iter().find(|store| store["name"] == "central").unwrap();
    assert_eq!(central["state"], "away");
    assert_ne!(status["worker_pid"], u64::from(worker));
    holding.wait(Duration::from_secs(10)).expect("it ends");
    assert_eq!(holding.output(), "open\nhunter2");
}

#[test]
fn a_machine_with_the_sealed_cache_starts_in_an_outage_and_one_without_serves_nothing_cold() {
    let mut bao = Bao::dev();
    bao.tell("POST", SECRET, &json!({"data": {"password": "hunter2"}}));
    let url = bao.url.clone();
    let with = served(
        &bao,
        &[&url],
        &[
            ("stores.central.fresh_for", "500ms".into()),
            ("stores.central.cache_file", "central.cache".into()),
            ("stores.central.cache_key_file", "central.cache.key".into()),
        ],
    );
    let without = served(&bao, &[&url], &[]);
    let paths = [&with, &without].map(|instance| instance.path("central/prod/db/password"));
    for path in &paths {
        assert_eq!(read(ALICE, path).unwrap(), "hunter2");
    }
    std::thread::sleep(Duration::from_secs(1));
    with.end_with("TERM");
    without.end_with("TERM");
    bao.kill();
    let bytes = std::fs::read(with.file("central.cache")).expect("it was kept");
    assert!(!bytes.windows(7).any(|window| window == b"hunter2"), "sealed");
    with.mount();
    assert_eq!(read(ALICE, &paths[0]).unwrap(), "hunter2");
    assert!(with.records().last("open", "released").text("freshness").starts_with("stale"));
    without.mount();
    let begun = Instant::now();
    assert!(read(ALICE, &paths[1]).unwrap_err().contains("timed out"));
    assert!(begun.elapsed() < Duration::from_secs(6));
    assert!(list_ms(&without) < 500);
}

#[test]
fn the_death_of_a_leader_fails_no_read_of_what_is_cached() {
    let mut cluster = Cluster::start();
    let leader = cluster.leader();
    cluster.nodes[leader].mount_kv("secret", "2");
    cluster.nodes[leader].tell("POST", SECRET, &json!({"data": {"password": "hunter2"}}));
    cluster.nodes[leader].tell("POST", "secret/data/prod/cold", &json!({"data": {"key": "cold"}}));
    let urls: Vec<String> = cluster.nodes.iter().map(|node| node.url.clone()).collect();
    let urls: Vec<&str> = urls.iter().map(String::as_str).collect();
    let instance = served(&cluster.nodes[leader], &urls, &[("stores.central.fresh_for", "200ms".into())]);
    let (warm, cold) = (instance.path("central/prod/db/password"), instance.path("central/prod/cold/key"));
    assert_eq!(read(ALICE, &warm).unwrap(), "hunter2");
    let script = "
import sys, time
end = time.time() + 8
failed = reads = 0
slowest = 0
while time.time() < end:
    begun = time.time()
    try:
        with open(sys.argv[1], 'rb') as file:
            assert file.read() == b'hunter2'
    except OSError:
        failed += 1
    reads += 1
    slowest = max(slowest, time.time() - begun)
    time.sleep(0.01)
print(reads, failed, int(slowest * 1000))
";
    let log = instance.dir().join("reads.out");
    let words = ["/usr/bin/python3", "-I", "-c", script, &warm];
    let mut reading = Asker::uid(ALICE).program(&words).keep(&log);
    std::thread::sleep(Duration::from_secs(1));
    cluster.nodes[leader].kill();
    let killed = Instant::now();
    cluster.leader();
    let elected = killed.elapsed();
    let back = wait_until("cold reads are back", Duration::from_secs(20), || read(ALICE, &cold).is_ok());
    println!("elected after {} ms, cold reads {} ms later", elected.as_millis(), back.as_millis());
    assert!(back < Duration::from_secs(1) + Duration::from_millis(500), "{back:?} after the election");
    reading.wait(Duration::from_secs(20)).expect("it ends");
    let told = reading.output();
    let numbers: Vec<u64> = told.split_whitespace().map(|word| word.parse().expect("numbers")).collect();
    println!("{} reads, {} failed, the slowest {} ms", numbers[0], numbers[1], numbers[2]);
    assert_eq!(numbers[1], 0, "{told}");
    assert!(numbers[0] > 200, "{told}");
}
