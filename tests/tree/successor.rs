//! Inodes and handles are read from themselves: a tree that handed none of them out knows what they mean.

use std::sync::Arc;

use credfs::model::{Outcome, SecretPath, Stage, Version};
use credfs::store::Change;
use credfs::tree::{Inode, Reading, Tree};

use super::world::{World, outcome, tree_options};

const POLICY: &str = "[identities.one]\nuid = [100]\n[[grants]]\nto = [\"one\"]\nread = [\"**\"]\nstages = [\"all\"]\n\
    [views.\"etc/site.pem\"]\nsecret = \"prod/app\"\nfield = \"key\"\nmode = \"0440\"\n";

fn succeed(world: &mut World) {
    world.tree = Tree::new(Arc::clone(&world.gate), tree_options());
}

#[test]
fn a_successor_knows_every_inode_of_its_predecessor() {
    let mut world = World::new("inodes", POLICY);
    world.put("prod/app", Stage::Current, &[("key", "one"), ("name", "n")]);
    world.put("prod/app", Stage::Current, &[("key", "two")]);
    world.put("prod/app", Stage::Next, &[("key", "three")]);
    let paths = [
        "prod",
        "prod/app",
        "prod/app/key",
        "prod/app/versions",
        "prod/app/versions/1",
        "prod/app/versions/1/name",
        "prod/app/current",
        "prod/app/previous",
        "prod/app/next",
        "etc",
        "etc/site.pem",
    ];
    let caller_uid = 100;
    let before: Vec<_> =
        paths.iter().map(|path| world.walk(&world.caller(caller_uid), path).unwrap().attributes).collect();
    succeed(&mut world);
    for (path, before) in paths.iter().zip(before) {
        let mut after = world.tree.attributes(&world.caller(caller_uid), before.inode).unwrap().attributes;
        if ["prod", "etc"].contains(path) {
            // A directory of no secret shows when the process started.
            after.time = before.time;
        }
        assert_eq!(after, before, "{path}");
    }
    assert_eq!(outcome(world.tree.attributes(&world.caller(100), Inode(1 << 63 | 12345))), Outcome::Retired);
}

#[test]
fn a_successor_reads_on_from_an_open_file_and_records_the_reader_anew() {
    let mut world = World::new("handles", POLICY);
    world.put("prod/app", Stage::Current, &[("key", "one")]);
    let caller_uid = 100;
    let (inode, opened) = {
        let caller = world.caller(caller_uid);
        let inode = world.walk(&caller, "prod/app/key").unwrap().attributes.inode;
        (inode, world.open(&caller, inode).unwrap())
    };
    world.put("prod/app", Stage::Current, &[("key", "two")]);
    succeed(&mut world);
    let caller = world.caller(caller_uid);
    assert_eq!(world.read(&caller, inode, opened).unwrap(), b"one", "the version it was opened with");
    world.read(&caller, inode, opened).unwrap();
    let releases = world.releases();
    assert_eq!(releases.len(), 2, "the reader is recorded once more, and then no more");
    assert_eq!(releases[1]["opener"], opened.handle.to_string());
}

#[test]
fn a_successor_reads_on_from_a_file_opened_within_its_hold() {
    let mut world = World::new("hold", &POLICY.replace("stages = [\"all\"]\n", ""));
    world.put("prod/app", Stage::Current, &[("key", "one")]);
    let caller_uid = 100;
    let inode = world.walk(&world.caller(caller_uid), "prod/app/key").unwrap().attributes.inode;
    world.put("prod/app", Stage::Current, &[("key", "two")]);
    world.put("prod/app", Stage::Current, &[("key", "three")]);
    let opened = world.open(&world.caller(caller_uid), inode).unwrap();
    succeed(&mut world);
    world.clock.forward(std::time::Duration::from_secs(60));
    assert_eq!(world.read(&world.caller(caller_uid), inode, opened).unwrap(), b"one");
}

#[test]
fn a_handle_that_no_record_released_or_that_was_revoked_gives_nothing() {
    let mut world = World::new("forged", POLICY);
    world.put("prod/app", Stage::Current, &[("key", "one")]);
    let (inode, opened) = {
        let caller = world.caller(100);
        let inode = world.walk(&caller, "prod/app/key").unwrap().attributes.inode;
        (inode, world.open(&caller, inode).unwrap())
    };
    let secret = SecretPath::parse("prod/app").unwrap();
    world.change(Change::Revoke { secret, version: Version::new(1).unwrap() });
    succeed(&mut world);
    let caller = world.caller(100);
    for handle in [opened.handle, 0, 77_777] {
        let Reading::Refused(refusal) = world.tree.read(&caller, inode, handle) else {
            panic!("read {handle}")
        };
        assert_eq!(refusal.outcome, Outcome::Revoked);
    }
}
