//! The machine of the server is gone, as programs see it through the mount.

use std::time::{Duration, Instant};

use crate::harness::{ALICE, Asker};
use crate::place::{SECRET, read, served};
use crate::servers::{Bao, BlackHole};

#[test]
fn a_read_ends_timed_out_within_the_deadline_for_connections_and_with_another_address_it_is_served() {
    let (bao, hole) = (Bao::dev(), BlackHole::new());
    bao.tell("POST", SECRET, &serde_json::json!({"data": {"password": "hunter2"}}));
    let alone = served(&bao, &[&hole.url()], &[]);
    let path = alone.path("central/prod/db/password");
    for _ in 0..2 {
        let began = Instant::now();
        let said = read(ALICE, &path).unwrap_err();
        // One second for a connection; looking and opening may each ask once.
        assert!(
            said.contains("timed out") && began.elapsed() < Duration::from_secs(3),
            "{said} {:?}",
            began.elapsed()
        );
        let began = Instant::now();
        let listed = Asker::uid(ALICE).run(&["ls", &alone.mount_point()]);
        assert!(began.elapsed() < Duration::from_millis(500), "{:?}", listed.err);
    }
    let refused = alone.records().iter().any(|record| {
        record.text("secret") == "central/prod/db/password" && record.text("outcome") == "released"
    });
    assert!(!refused);
    let both = served(&bao, &[&hole.url(), &bao.url], &[]);
    let path = both.path("central/prod/db/password");
    let began = Instant::now();
    assert_eq!(read(ALICE, &path).unwrap(), "hunter2");
    assert!(began.elapsed() < Duration::from_secs(4), "{:?}", began.elapsed());
    let began = Instant::now();
    both.command(&["refresh"]).ok();
    assert_eq!(read(ALICE, &path).unwrap(), "hunter2");
    assert!(began.elapsed() < Duration::from_millis(800), "{:?}", began.elapsed());
}
