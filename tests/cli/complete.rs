//! `init --complete`: what a configuration names and is missing, made once and never touched again.

use std::os::unix::fs::MetadataExt as _;

use crate::world::World;

const CONFIG: &str = r#"
mount_point = "mnt"
[stores.main]
kind = "local"
path = "data/store.db"
key_file = "data/store.key"
[audit]
path = "log/audit.log"
"#;

#[test]
fn what_is_missing_is_made_and_what_is_there_stays_as_it_is() {
    let world = World::empty();
    world.write("credfs.toml", CONFIG);
    let said = world.run(&["init", "--complete", "--json"]).expect(0).json();
    assert_eq!(said["made"].as_array().unwrap().len(), 4, "key, store, policy and log: {said}");
    assert_eq!(said["audit_fingerprint"].as_str().unwrap().len(), 64);
    world.run(&["check"]).expect(0);
    world.put("prod/db", "password", b"x");
    let key = std::fs::read(world.path("data/store.key")).unwrap();
    let inode = std::fs::metadata(world.path("policy.toml")).unwrap().ino();
    assert_eq!(world.run(&["init", "--complete"]).expect(0).text(), "nothing is missing\n");
    assert_eq!(std::fs::read(world.path("data/store.key")).unwrap(), key);
    assert_eq!(std::fs::metadata(world.path("policy.toml")).unwrap().ino(), inode);
    assert_eq!(world.run(&["get", "prod/db", "password"]).expect(0).out, b"x");
    // Only the one that is gone.
    std::fs::remove_file(world.path("policy.toml")).unwrap();
    assert!(world.run(&["init", "--complete"]).expect(0).text().contains("policy.toml"));
}

#[test]
fn a_store_without_its_key_gets_no_new_one() {
    let world = World::empty();
    world.write("credfs.toml", CONFIG);
    world.run(&["init", "--complete"]).expect(0);
    std::fs::remove_file(world.path("data/store.key")).unwrap();
    let refused = world.run(&["init", "--complete"]).expect(1);
    assert!(refused.err.contains("store.key") && refused.err.contains("copy"), "{}", refused.err);
    assert!(!world.path("data/store.key").exists());
}

#[test]
fn files_may_belong_to_the_workers_user_and_to_nobody_else() {
    let world = World::empty();
    let owned = |uid: u32| {
        for name in ["data", "data/store.key", "data/store.db", "data/store.db.lock", "log", "log/audit.log"]
        {
            std::os::unix::fs::chown(world.path(name), Some(uid), None).unwrap();
        }
    };
    world.write("credfs.toml", &format!("{CONFIG}[worker]\nuser = \"nobody\"\n"));
    world.run(&["init", "--complete"]).expect(0);
    // Debian's nobody.
    owned(65_534);
    world.run(&["check"]).expect(0);
    owned(65_533);
    assert!(world.run(&["check"]).expect(7).err.contains("65533"));
    owned(65_534);
    let doctor = world.run(&["doctor"]).expect(1).text();
    assert!(doctor.contains("policy.toml cannot be read by nobody"), "{doctor}");
    world.write("credfs.toml", &format!("{CONFIG}[worker]\nuser = \"no-such-user\"\n"));
    assert!(world.run(&["check"]).expect(7).err.contains("no-such-user"));
}
