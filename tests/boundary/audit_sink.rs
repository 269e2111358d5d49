//! No record, no bytes: whatever happens to the log, nothing is released unrecorded, nobody waits, and it recovers.

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::harness::{
    ALICE, Asker, Instance, Program, RecordList, Setup, SmallDisk, Tmpfs, median, wait_until,
};

/// Opens a file so often; prints successes, refusals other than EIO, and the milliseconds of each EIO.
const OPENS: &str = "
import os, sys, errno, time
path, count = sys.argv[1], int(sys.argv[2])
successes, others, took = 0, [], []
for _ in range(count):
    begun = time.monotonic()
    try:
        fd = os.open(path, os.O_RDONLY)
        os.read(fd, 100)
        os.close(fd)
        successes += 1
    except OSError as error:
        if error.errno == errno.EIO:
            took.append((time.monotonic() - begun) * 1000)
        else:
            others.append(errno.errorcode[error.errno])
print(successes, ','.join(others) or '-', ','.join('%.2f' % ms for ms in took) or '-')
";

struct Opens {
    successes: usize,
    others: String,
    refused_ms: Vec<f64>,
}

#[track_caller]
fn opens(path: &str, count: usize) -> Opens {
    let text = Asker::uid(ALICE).python(OPENS, &[path, &count.to_string()]);
    let words: Vec<&str> = text.split(' ').collect();
    let refused_ms = words[2].split(',').filter_map(|word| word.parse().ok()).collect();
    Opens { successes: words[0].parse().expect("a number"), others: words[1].to_owned(), refused_ms }
}

/// An instance whose log lies in `directory`; it may complain, for what is done to it.
fn start_with_log_in(directory: &Path) -> (Instance, PathBuf, String) {
    let log = directory.join("audit.log");
    let instance =
        Setup::default().set("audit.path", log.to_str().expect("UTF-8")).warnings_expected().start();
    instance.put("prod/db", &[("password", b"hunter2")]);
    let path = instance.path("prod/db/password");
    (instance, log, path)
}

/// Every open fails with EIO and soon, nothing is released, and metadata goes on.
#[track_caller]
fn assert_refused_soon(what: &str, instance: &Instance, path: &str) {
    let refused = opens(path, 20);
    assert_eq!((refused.successes, refused.others.as_str()), (0, "-"), "{what}");
    assert_eq!(refused.refused_ms.len(), 20, "{what}");
    let longest = refused.refused_ms.iter().copied().fold(0.0, f64::max);
    let middle = median(&refused.refused_ms);
    assert!(middle < 50.0 && longest < 250.0, "{what}: {middle} ms, at most {longest} ms");
    let alice = Asker::uid(ALICE);
    assert_eq!(alice.run(&["stat", "-c", "%s", path]).ok().text(), "7", "{what}: stat goes on");
    assert_eq!(alice.run(&["ls", &instance.path("prod")]).ok().text(), "db", "{what}: ls goes on");
}

#[track_caller]
fn assert_recovers(what: &str, path: &str) {
    let took = wait_until(&format!("{what}: recovers"), Duration::from_secs(5), || {
        Asker::uid(ALICE).read(path) == "read hunter2"
    });
    assert!(took < Duration::from_secs(1), "{what}: recovered after {took:?}");
}

/// Breaks the log, asserts, mends it, asserts; the records then prove.
#[track_caller]
fn broken_and_mended(what: &str, act: impl FnOnce(&Path), mend: impl FnOnce(&Path)) {
    let disk = SmallDisk::mount();
    let (instance, log, path) = start_with_log_in(disk.path());
    assert_eq!(opens(&path, 5).successes, 5);
    act(&log);
    assert_refused_soon(what, &instance, &path);
    mend(&log);
    assert_recovers(what, &path);
    let released = RecordList::read(&log).released();
    assert_eq!(released, 6, "{what}: five before, one after, none between");
    let verdict = instance.command(&["audit", "verify", "--json"]).ok().json();
    assert_eq!(verdict["ok"], true, "{what}: {verdict}");
    drop(instance);
}

fn text(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

#[test]
fn a_full_file_system_refuses_opens_and_recovers_when_there_is_space() {
    let tmpfs = Tmpfs::mount("size=1m,mode=0755");
    let (instance, log, path) = start_with_log_in(tmpfs.path());
    let mut successes = opens(&path, 10).successes;
    let filler = tmpfs.path().join("filler");
    let full = Program::of(&["dd", "if=/dev/zero", &format!("of={}", text(&filler)), "bs=4096"]).run();
    assert!(full.err.contains("No space"), "{}", full.err);
    // What is left of the log's last page may still hold a few records.
    let refused = opens(&path, 60);
    successes += refused.successes;
    assert!(!refused.refused_ms.is_empty(), "it is full");
    assert_refused_soon("full", &instance, &path);
    std::fs::remove_file(&filler).expect("the filler");
    assert_recovers("full", &path);
    assert_eq!(RecordList::read(&log).released(), successes + 1, "a record for every success and no other");
    assert_eq!(instance.command(&["audit", "verify", "--json"]).ok().json()["ok"], true);
    drop(instance);
}

#[test]
fn a_log_that_its_own_records_fill_stops_releases_and_counts_each() {
    let tmpfs = Tmpfs::mount("size=1m,mode=0755");
    let (instance, log, path) = start_with_log_in(tmpfs.path());
    let mut successes = 0;
    for _ in 0..20 {
        let these = opens(&path, 500);
        successes += these.successes;
        assert_eq!(these.others, "-");
        if these.successes == 0 {
            break;
        }
    }
    assert!(successes > 500, "1 MiB holds more than {successes} records");
    assert_refused_soon("filled by records", &instance, &path);
    tmpfs.resize("2m");
    assert_recovers("filled by records", &path);
    assert_eq!(RecordList::read(&log).released(), successes + 1);
    drop(instance);
}

#[test]
fn an_unwritable_log_refuses_opens_and_recovers() {
    broken_and_mended(
        "immutable",
        |log| drop(Program::of(&["chattr", "+i", text(log)]).run().ok()),
        |log| drop(Program::of(&["chattr", "-i", text(log)]).run().ok()),
    );
}

fn aside(log: &Path) -> PathBuf {
    log.with_extension("aside")
}

fn put_back(log: &Path) {
    std::fs::rename(aside(log), log).expect("it can be put back");
}

#[test]
fn a_deleted_log_refuses_opens_and_recovers_when_a_copy_is_put_back() {
    broken_and_mended(
        "deleted",
        |log| {
            std::fs::copy(log, aside(log)).expect("a copy");
            std::fs::remove_file(log).expect("deleted");
        },
        put_back,
    );
}

#[test]
fn a_renamed_log_refuses_opens_and_recovers() {
    broken_and_mended("renamed", |log| std::fs::rename(log, aside(log)).expect("renamed"), put_back);
}

#[test]
fn a_truncated_log_refuses_opens_and_recovers_when_its_bytes_are_back() {
    broken_and_mended(
        "truncated",
        |log| {
            std::fs::copy(log, aside(log)).expect("a copy");
            Program::of(&["truncate", "-s", "100", text(log)]).run().ok();
        },
        |log| std::fs::write(log, std::fs::read(aside(log)).expect("the copy")).expect("written back"),
    );
}

#[test]
fn a_fifo_in_the_logs_place_refuses_opens_and_recovers() {
    broken_and_mended(
        "fifo",
        |log| {
            std::fs::rename(log, aside(log)).expect("renamed");
            Program::of(&["mkfifo", text(log)]).run().ok();
        },
        put_back,
    );
}

#[test]
fn a_symlink_in_the_logs_place_refuses_opens_and_recovers() {
    broken_and_mended(
        "symlink",
        |log| {
            std::fs::rename(log, aside(log)).expect("renamed");
            std::os::unix::fs::symlink(aside(log), log).expect("a symlink to the very log");
        },
        put_back,
    );
}

#[test]
fn a_directory_in_the_logs_place_refuses_opens_and_recovers() {
    broken_and_mended(
        "directory",
        |log| {
            std::fs::rename(log, aside(log)).expect("renamed");
            std::fs::create_dir(log).expect("a directory");
        },
        |log| {
            std::fs::remove_dir(log).expect("an empty directory");
            put_back(log);
        },
    );
}

#[test]
fn another_file_in_the_logs_place_refuses_opens_and_recovers() {
    broken_and_mended(
        "replaced",
        |log| {
            std::fs::rename(log, aside(log)).expect("renamed");
            std::fs::write(log, "").expect("an empty file");
        },
        put_back,
    );
}

#[test]
fn a_deleted_log_is_begun_anew_by_audit_rotate() {
    let disk = SmallDisk::mount();
    let (instance, log, path) = start_with_log_in(disk.path());
    assert_eq!(opens(&path, 5).successes, 5);
    std::fs::remove_file(&log).expect("deleted");
    assert_refused_soon("deleted", &instance, &path);
    instance.command(&["audit", "rotate"]).ok();
    assert_recovers("rotated", &path);
    assert_eq!(RecordList::read(&log).released(), 1);
    drop(instance);
}

#[test]
fn a_log_that_blocks_holds_nobody_and_recovers() {
    let mut disk = SmallDisk::mount();
    let (instance, log, path) = start_with_log_in(disk.path());
    assert_eq!(opens(&path, 5).successes, 5);
    disk.freeze();
    assert_refused_soon("frozen", &instance, &path);
    disk.thaw();
    assert_recovers("frozen", &path);
    let released = RecordList::read(&log).released();
    assert!((6..=7).contains(&released), "a write that ends late leaves a record without bytes: {released}");
    assert_eq!(instance.command(&["audit", "verify", "--json"]).ok().json()["ok"], true);
    drop(instance);
}
