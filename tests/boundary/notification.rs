//! What watchers see: a real rename in the directory, a change of attributes on the file.

use std::time::Duration;

use crate::harness::{ALICE, Asker, Instance, wait_until};

#[test]
fn inotify_fires_moved_to_in_the_directory_and_attrib_on_the_file_after_a_put() {
    let instance = Instance::start();
    instance.put("prod/db", &[("password", b"first")]);
    let (directory, file) = (instance.path("prod/db"), instance.path("prod/db/password"));
    let log = instance.dir().join("watcher.out");
    let words = ["inotifywait", "-m", "-e", "moved_to,attrib", "--format", "%e %w %f", &directory, &file];
    let mut watcher = Asker::uid(ALICE).program(&words).keep(&log);
    wait_until("inotifywait watches", Duration::from_secs(5), || {
        watcher.output().contains("Watches established")
    });
    instance.put("prod/db", &[("password", b"second")]);
    let seen = |what: &str, whose: &str| {
        watcher.output().lines().any(|line| line.starts_with(what) && line.contains(whose))
    };
    wait_until("MOVED_TO in the directory", Duration::from_secs(2), || {
        seen("MOVED_TO", &format!("{directory}/ "))
    });
    wait_until("ATTRIB on the file", Duration::from_secs(2), || seen("ATTRIB", &format!("{file} ")));
    assert_eq!(Asker::uid(ALICE).read(&file), "read second", "what the event announces is there");
    watcher.end();
}

#[test]
fn a_rollback_is_announced_like_a_swap() {
    let instance = Instance::start();
    instance.put("prod/db", &[("password", b"first")]);
    instance.put("prod/db", &[("password", b"second")]);
    let directory = instance.path("prod/db");
    let log = instance.dir().join("watcher.out");
    let words = ["inotifywait", "-e", "moved_to", "-t", "10", "--format", "%e %f", &directory];
    let mut watcher = Asker::uid(ALICE).program(&words).keep(&log);
    wait_until("inotifywait watches", Duration::from_secs(5), || {
        watcher.output().contains("Watches established")
    });
    instance.command(&["rollback", "prod/db"]).ok();
    let status = watcher.wait(Duration::from_secs(5)).expect("an event ends inotifywait");
    assert!(status.success(), "{}", watcher.output());
    assert!(watcher.output().contains("MOVED_TO"), "{}", watcher.output());
}
