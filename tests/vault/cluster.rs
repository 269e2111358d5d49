//! Three servers that keep one storage: the one that leads is killed under reads.

use std::time::{Duration, Instant};

use credfs::store::{Login, StoreFault};
use serde_json::json;

use crate::harness::{Cluster, Directory, Opened, options, put, token_login};

#[test]
fn reads_go_on_within_the_election_and_a_second_when_the_leader_is_killed() {
    let mut cluster = Cluster::start();
    let leader = cluster.leader();
    cluster.nodes[leader].mount_kv("secret", "2");
    cluster.nodes[leader].tell("POST", "secret/data/s", &json!({"data": {"f": "value"}}));
    let directory = Directory::new();
    let token = directory.file("token", &cluster.nodes[0].root);
    let urls: Vec<String> = cluster.nodes.iter().map(|node| node.url.clone()).collect();
    let urls: Vec<&str> = urls.iter().map(String::as_str).collect();
    let opened = Opened::with(options(&urls, "secret", token_login(token)), directory);
    let reads = || opened.read(&Login::machine(), "s", Some(1)).map(drop).map_err(|fault| fault.fault);
    reads().unwrap();
    cluster.nodes[leader].kill();
    let killed = Instant::now();
    let mut failed = 0;
    // Followers hand on to a leader: until there is one nobody can answer, and each failure is quick.
    while let Err(fault) = reads() {
        assert!(
            matches!(fault, StoreFault::Away(_) | StoreFault::Timeout | StoreFault::Sealed(_)),
            "{fault}"
        );
        assert!(killed.elapsed() < Duration::from_secs(30), "not back: {fault}");
        failed += 1;
        std::thread::sleep(Duration::from_millis(10));
    }
    let back = killed.elapsed();
    let elected = cluster.leader();
    assert_ne!(elected, leader);
    println!("back after {} ms, {failed} reads failed until then", back.as_millis());
    for _ in 0..200 {
        reads().unwrap();
    }
    opened.change(put("s", &[("f", b"2")])).unwrap();
    assert_eq!(cluster.nodes[elected].get("secret/data/s")["data"]["data"]["f"], json!("2"));
}
