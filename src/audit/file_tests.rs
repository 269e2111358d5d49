//! What stands at the log's path, and how much space there is.

use std::io::Write as _;
use std::path::Path;
use std::time::{Duration, Instant};

use super::testing::{Scratch, Tmpfs, open, record};
use super::*;

fn proven(path: &Path) {
    let verdict = verify(path, None).unwrap();
    assert!(verdict.ok, "{verdict:?}");
}

#[test]
fn what_is_no_regular_file_is_refused_at_open() {
    let scratch = Scratch::new();
    let path = scratch.log();
    std::fs::create_dir(&path).unwrap();
    assert!(matches!(Log::open(Options::at(&path)), Err(OpenFault::NotAFile { .. })));
    std::fs::remove_dir(&path).unwrap();
    std::os::unix::fs::symlink(scratch.path("elsewhere"), &path).unwrap();
    assert!(matches!(Log::open(Options::at(&path)), Err(OpenFault::NotAFile { .. })));
    std::fs::remove_file(&path).unwrap();
    assert!(std::process::Command::new("mkfifo").arg(&path).status().unwrap().success());
    assert!(matches!(Log::open(Options::at(&path)), Err(OpenFault::NotAFile { .. })));
}

/// Something done to the log's file, and undone.
type Act = (&'static str, fn(&Path, &Path), fn(&Path, &Path));

fn back(log: &Path, aside: &Path) {
    std::fs::rename(aside, log).unwrap();
}
fn away(log: &Path, aside: &Path) {
    std::fs::rename(log, aside).unwrap();
}
fn copy_back(log: &Path, aside: &Path) {
    drop(std::fs::remove_dir(log));
    drop(std::fs::remove_file(log));
    std::fs::copy(aside, log).unwrap();
}
fn moved(log: &Path, aside: &Path) {
    std::fs::copy(log, aside).unwrap();
    std::fs::remove_file(log).unwrap();
}
const ACTS: &[Act] = &[
    ("renamed", away, back),
    ("deleted", moved, copy_back),
    (
        "truncated",
        |log, aside| {
            std::fs::copy(log, aside).unwrap();
            std::fs::OpenOptions::new().write(true).open(log).unwrap().set_len(10).unwrap();
        },
        |log, aside| std::fs::write(log, std::fs::read(aside).unwrap()).unwrap(),
    ),
    (
        "appended to",
        |log, _| {
            let mut file = std::fs::OpenOptions::new().append(true).open(log).unwrap();
            file.write_all(b"{\"seq\":1}\n").unwrap();
        },
        |log, _| {
            let file = std::fs::OpenOptions::new().write(true).open(log).unwrap();
            file.set_len(file.metadata().unwrap().len() - 10).unwrap();
        },
    ),
    (
        "replaced by a FIFO",
        |log, aside| {
            moved(log, aside);
            assert!(std::process::Command::new("mkfifo").arg(log).status().unwrap().success());
        },
        copy_back,
    ),
    (
        "replaced by a directory",
        |log, aside| {
            moved(log, aside);
            std::fs::create_dir(log).unwrap();
        },
        copy_back,
    ),
    (
        "replaced by a link to itself",
        |log, aside| {
            std::fs::rename(log, aside).unwrap();
            std::os::unix::fs::symlink(aside, log).unwrap();
        },
        |log, aside| {
            std::fs::remove_file(log).unwrap();
            std::fs::rename(aside, log).unwrap();
        },
    ),
    (
        "replaced by a file of the same length",
        |log, aside| {
            std::fs::rename(log, aside).unwrap();
            std::fs::write(log, vec![b'x'; usize::try_from(aside.metadata().unwrap().len()).unwrap()])
                .unwrap();
        },
        copy_back,
    ),
];

#[test]
fn nothing_is_recorded_into_a_file_that_is_not_the_log_and_it_recovers_when_put_back() {
    let scratch = Scratch::new();
    let log = open(&scratch.log());
    let aside = scratch.path("aside");
    for (what, act, undo) in ACTS {
        let before = record(&log, "a", 1).unwrap();
        act(&scratch.log(), &aside);
        for _ in 0..3 {
            let begun = Instant::now();
            assert!(record(&log, "a", 1).is_err(), "{what}");
            assert!(begun.elapsed() < Duration::from_millis(50), "{what}");
        }
        assert!(matches!(log.state().health, Health::Failing(_)), "{what}");
        undo(&scratch.log(), &aside);
        assert_eq!(record(&log, "a", 1).unwrap(), before + 1, "{what}");
        assert_eq!(log.state().health, Health::Recording, "{what}");
    }
    drop(log);
    proven(&scratch.log());
}

#[test]
fn a_full_disk_leaves_no_half_record_and_recording_goes_on_when_there_is_space() {
    let tmpfs = Tmpfs::new("size=1m,mode=0700");
    let path = tmpfs.path("audit.log");
    let log = open(&path);
    let ballast = tmpfs.path("ballast");
    std::fs::write(&ballast, vec![0; 400_000]).unwrap();
    for round in 0..3 {
        let mut written = 0_usize;
        let fault = loop {
            match record(&log, "prod/orders/db", 7) {
                Ok(_) => written += 1,
                Err(fault) => break fault,
            }
        };
        assert_eq!(fault, NotRecorded::Full);
        assert!(written > 0, "round {round}");
        let bytes = std::fs::read(&path).unwrap();
        assert_eq!(bytes.last(), Some(&b'\n'), "cut back to whole records");
        let begun = Instant::now();
        assert!(record(&log, "prod/orders/db", 7).is_err());
        assert!(begun.elapsed() < Duration::from_millis(50));
        proven(&path);
        match round {
            0 => std::fs::write(&ballast, vec![0; 200_000]).unwrap(),
            1 => std::fs::remove_file(&ballast).unwrap(),
            _ => {}
        }
    }
    drop(log);
    proven(&path);
}
