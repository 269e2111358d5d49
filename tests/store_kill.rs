//! kill -9 at random points of `put`: what was acknowledged is there, whole, and the store opens.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on says so by a panic")]

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use credfs::model::{FieldName, Ownership, SecretBytes, SecretPath, Stage, Version};
use credfs::store::{Change, KeySource, Local, LocalOptions, Login, Store, Wanted};

const WRITER: &str = "CREDFS_TEST_WRITER";
const KILLS: u32 = 200;

fn run<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}

fn options(path: &Path) -> LocalOptions {
    // A short log, so that kills also hit checkpoints.
    LocalOptions { log_pages_max: 20, ..LocalOptions::new("main", path, KeySource::Raw([3; 32])) }
}

fn bytes_of(number: u32) -> Vec<u8> {
    number.to_string().repeat(1 + number as usize % 3000).into_bytes()
}

/// Not a test by itself: what the child process runs. Prints each number once it is acknowledged.
#[test]
fn writer() {
    let Some(path) = std::env::var_os(WRITER) else { return };
    let store = Local::open(options(Path::new(&path))).unwrap();
    let secret = SecretPath::parse("s").unwrap();
    let mut number = store.known(&Login::machine(), &secret).map_or(0, |known| known.versions.len());
    loop {
        number += 1;
        let value = SecretBytes::taken_from(&mut bytes_of(u32::try_from(number).unwrap()));
        let fields = vec![(FieldName::parse("f").unwrap(), value)];
        let put = Change::Put {
            secret: secret.clone(),
            fields,
            only: true,
            stage: Stage::Current,
            ownership: Ownership::default(),
        };
        let changed = run(store.change(&Login::machine(), put)).unwrap();
        // In one system call: a kill between two would leave half a line.
        let line = format!("acknowledged {}\n", changed.version.unwrap());
        std::io::stderr().write_all(line.as_bytes()).unwrap();
    }
}

#[test]
fn no_acknowledged_version_is_lost_in_two_hundred_kills() {
    let directory = std::env::temp_dir().join(format!("credfs-kill-{}", std::process::id()));
    std::fs::create_dir(&directory).unwrap();
    let path = directory.join("store.db");
    Local::create(&path, &KeySource::Raw([3; 32])).unwrap();
    let secret = SecretPath::parse("s").unwrap();
    let mut acknowledged = 0_u32;
    for kill in 0..KILLS {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "writer", "--nocapture"])
            .env(WRITER, &path)
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stderr.take().unwrap()).lines();
        // The point of the kill: some acknowledgements, then a moment that sweeps over the next put.
        let (enough, moment) = (kill % 4 + 1, Duration::from_micros(u64::from(kill * 7919 % 6000)));
        let mut seen = 0;
        for line in lines {
            if let Some(number) = line.unwrap().strip_prefix("acknowledged ") {
                acknowledged = number.parse().unwrap();
                seen += 1;
            }
            if seen == enough {
                std::thread::sleep(moment);
                child.kill().unwrap();
            }
        }
        child.wait().unwrap();
        assert!(seen >= enough, "the writer must get to the point of the kill");
        let store = Local::open(options(&path)).unwrap();
        let known = store.known(&Login::machine(), &secret).unwrap();
        let stored = known.current.unwrap().get();
        assert!(stored >= acknowledged, "version {acknowledged} was acknowledged and {stored} is the last");
        for number in [1, stored.saturating_sub(1).max(1), stored] {
            let field = FieldName::parse("f").unwrap();
            let wanted = Wanted { secret: secret.clone(), version: Version::new(number).unwrap(), field };
            let fetched = run(store.fetch(&Login::machine(), &wanted)).unwrap();
            assert!(fetched.value.expose() == bytes_of(number), "version {number} is torn");
        }
    }
    let checked = Local::open(options(&path)).unwrap().check().unwrap();
    assert_eq!(checked.faults, Vec::<String>::new());
    assert!(checked.versions >= u64::from(KILLS));
    std::fs::remove_dir_all(&directory).unwrap();
}
