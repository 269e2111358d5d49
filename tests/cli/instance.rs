//! Instances: start, stop, reload, and commands while they come and go.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::json;

use crate::world::{CANARY, World};

fn is_mounted(path: &Path) -> bool {
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    mounts.lines().any(|line| line.split(' ').nth(4) == path.to_str())
}

#[test]
fn what_put_acknowledged_is_what_the_next_open_sees() {
    let world = World::new();
    world.let_everyone_read();
    let instance = world.serve();
    for number in 0..20 {
        let value = format!("{CANARY}-{number}");
        world.put("prod/db", "password", value.as_bytes());
        assert_eq!(std::fs::read_to_string(world.mount().join("prod/db/password")).unwrap(), value);
    }
    let status = world.run(&["status", "--json"]).expect(0).json();
    assert_eq!(status["state"], json!("serving"));
    assert_eq!(status["keeper_pid"], json!(instance.child.id()));
    assert!(status["worker_pid"].as_u64().is_some_and(|pid| pid != u64::from(instance.child.id())));
    assert_eq!(status["stores"], json!([{ "name": "main", "state": "ready" }]));
    assert_eq!(status["mount_point"], json!(world.mount()));
    let command_line = std::fs::read(format!("/proc/{}/cmdline", instance.child.id())).unwrap();
    assert!(!String::from_utf8_lossy(&command_line).contains(CANARY));
    instance.stop();
    assert!(!is_mounted(&world.mount()));
    assert!(!world.path("control.sock").exists());
    let stopped = world.run(&["status", "--json"]).expect(1).json();
    assert_eq!(stopped["state"], json!("stopped"));
}

#[test]
fn no_put_is_lost_while_instances_come_and_go() {
    let world = World::new();
    let puts = 12;
    std::thread::scope(|scope| {
        let putters: Vec<_> = (0..3)
            .map(|putter| {
                let world = &world;
                scope.spawn(move || {
                    for number in 0..puts {
                        world.put("prod/db", &format!("f{putter}"), format!("{number}").as_bytes());
                    }
                })
            })
            .collect();
        while !putters.iter().all(std::thread::ScopedJoinHandle::is_finished) {
            world.serve().stop();
        }
    });
    let versions = world.run(&["versions", "prod/db", "--json"]).expect(0).json();
    assert_eq!(versions.as_array().unwrap().len(), 3 * puts);
    let last = world.run(&["get", "prod/db", "--json"]).expect(0).json();
    assert_eq!(
        last["fields"],
        json!({ "f0": "11", "f1": "11", "f2": "11" }),
        "each put carried the others over"
    );
    world.run(&["audit", "verify"]).expect(0);
}

#[test]
fn a_reload_is_in_force_when_it_returns_and_a_faulty_one_changes_nothing() {
    let world = World::new();
    world.put("prod/db", "password", b"x");
    let instance = world.serve();
    let file = world.mount().join("prod/db/password");
    assert!(std::fs::read(&file).is_err(), "nothing is granted yet, to root neither");
    world.let_everyone_read();
    world.run(&["reload"]).expect(0);
    assert_eq!(std::fs::read(&file).unwrap(), b"x");
    world.write("policy.toml", "[[grants]]\nto = [\"nobody-here\"]\nread = [\"**\"]\n");
    let faulty = world.run(&["reload"]).expect(7);
    assert!(faulty.err.contains("policy.toml:2"), "{}", faulty.err);
    assert_eq!(std::fs::read(&file).unwrap(), b"x", "the old policy is in force");
    world.write("policy.toml", "");
    world.run(&["reload"]).expect(0);
    assert!(std::fs::read(&file).is_err());
    world.let_everyone_read();
    instance.signal("HUP");
    let until = Instant::now() + Duration::from_secs(5);
    while std::fs::read(&file).is_err() {
        assert!(Instant::now() < until, "SIGHUP reloads");
        std::thread::sleep(Duration::from_millis(10));
    }
    instance.stop();
}

#[test]
fn a_keeper_that_is_killed_leaves_no_mount_and_the_next_start_serves() {
    let world = World::new();
    world.let_everyone_read();
    world.put("prod/db", "password", b"x");
    let mut killed = world.serve();
    killed.child.kill().unwrap();
    killed.child.wait().unwrap();
    let until = Instant::now() + Duration::from_secs(5);
    while is_mounted(&world.mount()) {
        assert!(Instant::now() < until, "its guard takes the mount away");
        std::thread::sleep(Duration::from_millis(5));
    }
    let instance = world.serve();
    assert_eq!(std::fs::read(world.mount().join("prod/db/password")).unwrap(), b"x");
    instance.stop();
    assert!(!is_mounted(&world.mount()));
}

#[test]
fn a_second_instance_is_refused() {
    let world = World::new();
    let instance = world.serve();
    world.run(&["mount"]).expect(8);
    world.run(&["status"]).expect(0);
    instance.stop();
}

#[test]
fn doctor_finds_nothing_wrong_with_a_fresh_instance_and_names_what_is() {
    let world = World::new();
    world.run(&["doctor"]).expect(0);
    let instance = world.serve();
    let findings = world.run(&["doctor", "--json"]).expect(0).json();
    assert_eq!(findings["ok"], json!(true));
    instance.stop();
    Command::new("chmod").arg("0644").arg(world.path("store.key")).status().unwrap();
    let found = world.run(&["doctor"]).expect(1).text();
    assert!(found.contains("store.key"), "{found}");
    world.run(&["mount"]).expect(7);
}

#[test]
fn a_throw_away_instance_serves_its_samples_and_leaves_nothing_behind() {
    for signal in ["INT", "TERM", "HUP"] {
        let out = std::env::temp_dir().join(format!("credfs-dev-out-{}-{signal}", std::process::id()));
        let begun = Instant::now();
        let mut child = Command::new(env!("CARGO_BIN_EXE_credfs"))
            .arg("dev")
            .env_remove("CREDFS_CONFIG")
            .stdout(std::fs::File::create(&out).unwrap())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let printed = loop {
            let printed = std::fs::read_to_string(&out).unwrap();
            if printed.contains("Ctrl-C") {
                break printed;
            }
            assert!(begun.elapsed() < Duration::from_secs(10), "{printed}");
            std::thread::sleep(Duration::from_millis(5));
        };
        let config: PathBuf = printed.split_once("--config ").unwrap().1.split(';').next().unwrap().into();
        let mount: PathBuf = printed.split_once("below ").unwrap().1.lines().next().unwrap().into();
        for line in printed.lines().filter(|line| line.starts_with("     ")) {
            let tried = Command::new("sh").args(["-c", line]).output().unwrap();
            assert!(tried.status.success() && tried.stderr.is_empty(), "{line}: {tried:?}");
        }
        let read = |path: &str| std::fs::read(mount.join(path)).unwrap();
        assert_ne!(read("shop/database/password"), read("shop/database/previous/password"));
        assert_eq!(read("nginx/key.pem"), read("shop/tls/key"));
        assert!(
            Command::new("kill")
                .args([&format!("-{signal}"), &child.id().to_string()])
                .status()
                .unwrap()
                .success()
        );
        assert!(child.wait().unwrap().success());
        assert!(!is_mounted(&mount) && !mount.exists() && !config.parent().unwrap().exists(), "{signal}");
        std::fs::remove_file(out).unwrap();
    }
}
