//! Open files: whose they are, what they keep, and what ends them.

use credfs::model::{Outcome, SecretPath, Stage, Version};
use credfs::store::Change;

use super::world::{World, outcome};

const TWO: &str = "[identities.two]\nuid = [100, 101]\n[[grants]]\nto = [\"two\"]\nread = [\"app\"]\n";

#[test]
fn an_open_file_keeps_its_version_through_swaps_and_past_retirement() {
    let world = World::new("keeps", TWO);
    world.put("app", Stage::Current, &[("key", "one")]);
    let caller = world.caller(100);
    let inode = world.walk(&caller, "app/key").unwrap().attributes.inode;
    let opened = world.open(&caller, inode).unwrap();
    for value in ["two", "three", "four"] {
        world.put("app", Stage::Current, &[("key", value)]);
        world.clock.forward(std::time::Duration::from_secs(60));
    }
    assert_eq!(world.read(&caller, inode, opened).unwrap(), b"one");
    assert_eq!(outcome(world.tree.attributes(&caller, inode)), Outcome::Done, "fstat goes on too");
    assert_eq!(
        outcome(world.open(&caller, inode)),
        Outcome::Retired,
        "but a new open is sent back to the path"
    );
    assert_eq!(world.cat(&caller, "app/key").as_deref(), Ok("four"));
}

#[test]
fn a_revoked_version_is_refused_at_once_in_open_files_too() {
    let world = World::new("revoked", TWO);
    world.put("app", Stage::Current, &[("key", "one")]);
    let caller = world.caller(100);
    let inode = world.walk(&caller, "app/key").unwrap().attributes.inode;
    let opened = world.open(&caller, inode).unwrap();
    let secret = SecretPath::parse("app").unwrap();
    world.change(Change::Revoke { secret, version: Version::new(1).unwrap() });
    assert_eq!(outcome(world.read(&caller, inode, opened)), Outcome::Revoked);
    assert_eq!(outcome(world.open(&caller, inode)), Outcome::Revoked);
    assert_eq!(outcome(world.walk(&caller, "app/key")), Outcome::Done, "it stays visible");
}

#[test]
fn every_open_is_one_record_and_a_reader_who_did_not_open_is_one_more() {
    let world = World::new("records", TWO);
    world.put("app", Stage::Current, &[("key", "one")]);
    let opener = world.caller(100);
    let inode = world.walk(&opener, "app/key").unwrap().attributes.inode;
    let opened = world.open(&opener, inode).unwrap();
    for _ in 0..3 {
        world.read(&opener, inode, opened).unwrap();
    }
    assert_eq!(world.releases().len(), 1, "reads by the opener add none");
    let other = world.other_caller(101);
    for _ in 0..3 {
        world.read(&other, inode, opened).unwrap();
    }
    let releases = world.releases();
    assert_eq!(releases.len(), 2);
    assert_eq!(releases[1]["op"], "read");
    assert_eq!(releases[1]["uid"], 101);
    assert_eq!(releases[1]["opener"], releases[0]["seq"].to_string());
    // The same process under another uid is another reader.
    let changed = world.caller(101);
    world.read(&changed, inode, opened).unwrap();
    assert_eq!(world.releases().len(), 3);
}

#[test]
fn a_reader_whom_policy_does_not_let_read_gets_nothing_from_an_open_file() {
    let world = World::new("passed", TWO);
    world.put("app", Stage::Current, &[("key", "one")]);
    let opener = world.caller(100);
    let inode = world.walk(&opener, "app/key").unwrap().attributes.inode;
    let opened = world.open(&opener, inode).unwrap();
    assert_eq!(outcome(world.read(&world.other_caller(102), inode, opened)), Outcome::Hidden);
    assert_eq!(
        outcome(world.read(&world.other_caller(0), inode, opened)),
        Outcome::Hidden,
        "root has no grant"
    );
    let refused: Vec<_> =
        world.records().into_iter().filter(|record| record["outcome"] == "hidden").collect();
    assert_eq!(refused.len(), 2);
    assert!(refused.iter().all(|record| record["op"] == "read" && record["opener"].is_string()));
}

#[test]
fn a_reload_is_in_force_for_open_files_at_once() {
    let world = World::new("reload", TWO);
    world.put("app", Stage::Current, &[("key", "one")]);
    let caller = world.caller(100);
    let inode = world.walk(&caller, "app/key").unwrap().attributes.inode;
    let opened = world.open(&caller, inode).unwrap();
    world.reload(&TWO.replace("100, ", ""));
    assert_eq!(outcome(world.read(&caller, inode, opened)), Outcome::Hidden);
    world.reload(TWO);
    assert_eq!(world.read(&caller, inode, opened).unwrap(), b"one");
}

#[test]
fn without_a_record_there_are_no_bytes_and_metadata_goes_on() {
    let world = World::new("no-record", TWO);
    world.put("app", Stage::Current, &[("key", "one")]);
    let caller = world.caller(100);
    let inode = world.walk(&caller, "app/key").unwrap().attributes.inode;
    let log = world.directory.join("audit.log");
    std::fs::rename(&log, world.directory.join("elsewhere")).unwrap();
    assert_eq!(outcome(world.open(&caller, inode)), Outcome::NoAudit);
    assert_eq!(outcome(world.walk(&caller, "app/key")), Outcome::Done);
    std::fs::rename(world.directory.join("elsewhere"), &log).unwrap();
    assert_eq!(outcome(world.open(&caller, inode)), Outcome::Done);
    assert_eq!(world.releases().len(), 1);
}

#[test]
fn rates_are_a_limit_on_opening() {
    let policy = TWO.to_owned() + "reads_per_minute = 2\n";
    let world = World::new("rates", &policy);
    world.put("app", Stage::Current, &[("key", "one")]);
    let caller = world.caller(100);
    for expected in [Outcome::Done, Outcome::Done, Outcome::OverLimit] {
        assert_eq!(outcome(world.cat(&caller, "app/key")), expected);
    }
    assert_eq!(outcome(world.cat(&world.caller(101), "app/key")), Outcome::Done, "another uid has its own");
}
