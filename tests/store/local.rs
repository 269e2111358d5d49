//! The embedded store: files, keys, limits of use, upkeep, speed of opening.

use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::Path;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use credfs::model::{FieldNode, Ownership, Stage, State};
use credfs::store::{Change, Key, KeySource, Local, LocalOptions, Login, Store, StoreFault, Wanted};

use super::bench::{
    Directory, Hand, KEY, change, field, fresh, get, options, path, put, put_change, version,
};

#[test]
fn a_value_at_hand_is_ready_at_the_first_poll_and_gone_once_revoked() {
    let (directory, hand) = (Directory::new(), Hand::new());
    let store = fresh(&directory, &hand);
    put(&store, "s", &[("f", b"1")]);
    get(&store, "s", 1, "f").unwrap();
    let wanted = Wanted { secret: path("s"), version: version(1), field: field("f") };
    let login = Login::machine();
    let poll = || store.fetch(&login, &wanted).as_mut().poll(&mut Context::from_waker(Waker::noop()));
    assert!(matches!(poll(), Poll::Ready(Ok(_))));
    change(&store, Change::Revoke { secret: path("s"), version: version(1) }).unwrap();
    assert!(matches!(poll(), Poll::Ready(Err(StoreFault::Revoked(..)))));
}

#[test]
fn a_second_opener_is_refused_and_told_who_has_it() {
    let (directory, hand) = (Directory::new(), Hand::new());
    let store = fresh(&directory, &hand);
    let refused = Local::open(options(&directory.file("store.db"), &hand)).err().unwrap();
    assert!(matches!(refused, StoreFault::Busy(_)));
    assert!(refused.to_string().contains(&std::process::id().to_string()), "{refused}");
    drop(store);
    Local::open(options(&directory.file("store.db"), &hand)).unwrap();
}

#[test]
fn every_file_is_private_and_a_root_made_one_takes_its_directorys_owner() {
    let (directory, hand) = (Directory::new(), Hand::new());
    let owner = std::fs::metadata(&directory.0).unwrap().uid();
    if owner == 0 {
        std::os::unix::fs::chown(&directory.0, Some(4242), Some(4242)).unwrap();
    }
    let store = fresh(&directory, &hand);
    put(&store, "s", &[("f", b"1")]);
    for name in ["store.db", "store.db-wal", "store.db-shm", "store.db.lock"] {
        let about = std::fs::metadata(directory.file(name)).unwrap();
        assert_eq!(about.mode() & 0o777, 0o600, "{name}");
        assert_eq!(about.uid(), if owner == 0 { 4242 } else { owner }, "{name}");
    }
}

#[test]
fn key_files_are_checked_by_name() {
    let (directory, hand) = (Directory::new(), Hand::new());
    let file = directory.file("store.key");
    let with =
        || LocalOptions { key: KeySource::File(file.clone()), ..options(&directory.file("store.db"), &hand) };
    let named = |fault: &StoreFault| fault.to_string().contains("store.key");
    Key::generate().unwrap().write_new_file(&file).unwrap();
    assert!(matches!(Key::generate().unwrap().write_new_file(&file), Err(StoreFault::Exists(_))));
    Local::create(&with().path, &with().key).unwrap();
    assert!(matches!(Local::create(&with().path, &with().key), Err(StoreFault::Exists(_))));
    drop(Local::open(with()).unwrap());
    for mode in [0o640, 0o604, 0o660] {
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(mode)).unwrap();
        let fault = Local::open(with()).err().unwrap();
        assert!(matches!(fault, StoreFault::Lax(_)) && named(&fault), "{fault}");
    }
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
    std::fs::write(&file, "not a key").unwrap();
    let fault = Local::open(with()).err().unwrap();
    assert!(matches!(fault, StoreFault::KeyFile(_)) && named(&fault), "{fault}");
    std::fs::remove_file(&file).unwrap();
    let fault = Local::open(with()).err().unwrap();
    assert!(matches!(fault, StoreFault::Sealed(_)) && named(&fault), "{fault}");
}

#[test]
fn what_is_destroyed_is_in_no_file_any_more() {
    let (directory, hand) = (Directory::new(), Hand::new());
    let store = fresh(&directory, &hand);
    put(&store, "s", &[("f", b"1")]);
    put(&store, "s", &[("f", b"2")]);
    store.checkpoint().unwrap();
    let sealed: Vec<u8> = {
        let raw = rusqlite::Connection::open(directory.file("store.db")).unwrap();
        raw.query_row("SELECT key FROM version WHERE number = 1", [], |row| row.get(0)).unwrap()
    };
    let holds = |name: &str| {
        let bytes = std::fs::read(directory.file(name)).unwrap();
        bytes.windows(sealed.len()).any(|window| window == sealed)
    };
    assert!(holds("store.db") && holds("store.db-wal"));
    change(&store, Change::Destroy { secret: path("s"), version: Some(version(1)) }).unwrap();
    assert!(!holds("store.db") && !holds("store.db-wal"));
}

#[test]
fn a_backup_is_sealed_and_whole_and_restoring_loses_nothing() {
    let (directory, hand) = (Directory::new(), Hand::new());
    let store = fresh(&directory, &hand);
    put(&store, "s", &[("f", b"canary-value")]);
    let copy = directory.file("copy");
    store.backup(&copy).unwrap();
    assert!(matches!(store.backup(&copy), Err(StoreFault::Exists(_))));
    let bytes = std::fs::read(&copy).unwrap();
    assert!(!bytes.windows(12).any(|window| window == b"canary-value"));
    put(&store, "s", &[("f", b"later")]);
    let target = options(&directory.file("store.db"), &hand);
    assert!(matches!(Local::restore(&copy, &target, true), Err(StoreFault::Busy(_))), "it is open");
    drop(store);
    assert!(matches!(Local::restore(&copy, &target, false), Err(StoreFault::Exists(_))));
    let mut damaged = bytes.clone();
    let middle = damaged.len() - 20;
    damaged[middle] ^= 1;
    std::fs::write(directory.file("damaged"), damaged).unwrap();
    assert!(Local::restore(&directory.file("damaged"), &target, true).is_err());
    let wrong = LocalOptions { key: KeySource::Raw([9; 32]), ..target.clone() };
    assert!(matches!(Local::restore(&copy, &wrong, true), Err(StoreFault::WrongKey(_))));
    let kept = Local::restore(&copy, &target, true).unwrap().replaced.unwrap();
    let store = Local::open(target.clone()).unwrap();
    assert_eq!(get(&store, "s", 1, "f").unwrap(), b"canary-value");
    assert!(get(&store, "s", 2, "f").is_err());
    let old = Local::open(LocalOptions { path: kept, ..target }).unwrap();
    assert_eq!(get(&old, "s", 2, "f").unwrap(), b"later");
}

#[test]
fn a_rekeyed_store_opens_with_either_file_a_crash_may_leave() {
    let (directory, hand) = (Directory::new(), Hand::new());
    let (file, beside) = (directory.file("key"), directory.file("key.new"));
    Key::generate().unwrap().write_new_file(&file).unwrap();
    let with =
        || LocalOptions { key: KeySource::File(file.clone()), ..options(&directory.file("store.db"), &hand) };
    Local::create(&with().path, &with().key).unwrap();
    let store = Local::open(with()).unwrap();
    put(&store, "s", &[("f", b"1")]);
    get(&store, "s", 1, "f").unwrap();
    let old = std::fs::read(&file).unwrap();
    store.rekey(&Key::generate().unwrap()).unwrap();
    assert_eq!(get(&store, "s", 1, "f").unwrap(), b"1");
    drop(store);
    assert!(!beside.exists() && std::fs::read(&file).unwrap() != old);
    // Cut off after the database was changed, before the rename.
    std::fs::rename(&file, &beside).unwrap();
    std::fs::write(&file, &old).unwrap();
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
    assert_eq!(get(&Local::open(with()).unwrap(), "s", 1, "f").unwrap(), b"1");
    assert!(!beside.exists());
    // Cut off before the database was changed.
    Key::generate().unwrap().write_new_file(&beside).unwrap();
    assert_eq!(get(&Local::open(with()).unwrap(), "s", 1, "f").unwrap(), b"1");
    std::fs::write(&file, old).unwrap();
    assert!(matches!(Local::open(with()), Err(StoreFault::WrongKey(_))));
}

#[test]
fn old_versions_without_a_stage_are_destroyed_beyond_the_number_to_keep() {
    let (directory, hand) = (Directory::new(), Hand::new());
    drop(fresh(&directory, &hand));
    let keep = || LocalOptions {
        keep_versions: 3,
        erase_after: Duration::from_secs(30),
        ..options(&directory.file("store.db"), &hand)
    };
    let store = Local::open(keep()).unwrap();
    for number in 1..=6 {
        put(&store, "s", &[("f", &[number])]);
        hand.turn(1_000_000);
    }
    let readable = |store: &Local| -> Vec<u32> {
        let secret = store.known(&Login::machine(), &path("s")).unwrap();
        let active = secret.versions.iter().filter(|version| version.state == State::Active);
        active.map(|version| version.number.get()).collect()
    };
    // Version 1 lost its last stage with the third put, 2 with the fourth, 3 with the fifth: 4, 3, and 2 seconds ago.
    assert_eq!(store.retire().unwrap(), 0);
    assert_eq!(readable(&store), [1, 2, 3, 4, 5, 6]);
    hand.turn(26_000_000);
    assert!(!store.has_versions_to_retire());
    assert_eq!(store.retire().unwrap(), 0, "exactly as long is not longer");
    hand.turn(1);
    assert!(store.has_versions_to_retire());
    assert_eq!(store.retire().unwrap(), 1);
    assert_eq!(readable(&store), [2, 3, 4, 5, 6]);
    hand.turn(1_000_000);
    assert_eq!((store.retire().unwrap(), store.retire().unwrap()), (1, 0));
    assert_eq!(readable(&store), [3, 4, 5, 6]);
    drop(store);
    let store = Local::open(keep()).unwrap();
    hand.turn(60_000_000);
    assert_eq!((store.retire().unwrap(), store.retire().unwrap()), (1, 0), "also after a restart");
    assert_eq!(readable(&store), [4, 5, 6]);
    assert!(matches!(get(&store, "s", 3, "f"), Err(StoreFault::Destroyed(..))));
    assert_eq!(store.check().unwrap().faults, Vec::<String>::new());
}

#[test]
fn erasing_goes_on_past_many_secrets_and_one_that_is_damaged() {
    let (directory, hand) = (Directory::new(), Hand::new());
    drop(fresh(&directory, &hand));
    let keep = LocalOptions { keep_versions: 1, ..options(&directory.file("store.db"), &hand) };
    let store = Local::open(keep).unwrap();
    for number in 0..150_u8 {
        for _ in 0..3 {
            put(&store, &format!("s{number}"), &[("f", &[number])]);
        }
    }
    hand.turn(60_000_000);
    let raw = rusqlite::Connection::open(directory.file("store.db")).unwrap();
    raw.execute_batch("UPDATE version SET code = zeroblob(32) WHERE secret = 7 AND number = 1").unwrap();
    assert!(matches!(store.retire(), Err(StoreFault::Corrupt(_))));
    while store.has_versions_to_retire() {
        store.retire().unwrap();
    }
    let count = |sql: &str| raw.query_row(sql, [], |row| row.get::<_, i64>(0)).unwrap();
    assert_eq!(count("SELECT count(*) FROM version WHERE key IS NULL"), 149);
    assert_eq!(count("SELECT count(*) FROM value"), 2 * 149 + 3);
}

#[test]
fn nodes_mean_the_same_after_a_restart() {
    let (directory, hand) = (Directory::new(), Hand::new());
    let store = fresh(&directory, &hand);
    let node = put(&store, "s", &[("f", b"1"), ("g", b"2")]).after.unwrap().versions[0].fields[1].node;
    drop(store);
    let store = Local::open(options(&directory.file("store.db"), &hand)).unwrap();
    assert_eq!(store.node(node).unwrap().field, field("g"));
    assert!(store.node(FieldNode::new(node.get() + 1).unwrap()).is_none());
}

#[test]
fn ownership_given_once_stays_until_it_is_given_again() {
    let (directory, hand) = (Directory::new(), Hand::new());
    let store = fresh(&directory, &hand);
    let ownership = Ownership { owner: Some("Ada".into()), ..Ownership::default() };
    let mut first = put_change("s", &[("f", b"1")], false, Stage::Current);
    if let Change::Put { ownership: given, .. } = &mut first {
        *given = ownership.clone();
    }
    change(&store, first).unwrap();
    assert_eq!(put(&store, "s", &[("f", b"2")]).after.unwrap().ownership, ownership);
}

/// The sample of a format in a directory of its own, and how it is opened.
fn sample(format: u32) -> (Directory, LocalOptions) {
    let directory = Directory::new();
    let samples = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/samples");
    for (ending, to) in [("db", "store.db"), ("key", "store.key")] {
        std::fs::copy(samples.join(format!("store-{format}.{ending}")), directory.file(to)).unwrap();
        std::fs::set_permissions(directory.file(to), std::fs::Permissions::from_mode(0o600)).unwrap();
    }
    let key = KeySource::File(directory.file("store.key"));
    let options = LocalOptions::new("main", directory.file("store.db"), key);
    (directory, options)
}

fn format_of(file: &Path) -> u32 {
    let raw = rusqlite::Connection::open(file).unwrap();
    raw.pragma_query_value(None, "user_version", |row| row.get(0)).unwrap()
}

#[test]
fn the_samples_of_every_format_open_for_ever_and_take_changes() {
    for format in [1, 2] {
        let (directory, options) = sample(format);
        assert_eq!(format_of(&options.path), format);
        let store = Local::open(options.clone()).unwrap();
        holds_the_sample(&store);
        assert_eq!(format_of(&options.path), 2);
        drop(store);
        let store = Local::open(options.clone()).unwrap();
        holds_the_sample(&store);
        change(&store, Change::Promote { secret: path("prod/orders/db") }).unwrap();
        put(&store, "prod/orders/db", &[("password", b"4")]);
        drop(store);
        let store = Local::open(options).unwrap();
        assert_eq!(get(&store, "prod/orders/db", 3, "password").unwrap(), b"sample-3");
        assert_eq!(get(&store, "prod/orders/db", 4, "username").unwrap(), b"orders");
        assert_eq!(store.check().unwrap().faults, Vec::<String>::new());
        drop(directory);
    }
}

#[test]
fn a_backup_of_the_first_format_is_restored() {
    let (directory, options) = sample(1);
    let backup = directory.file("backup");
    std::fs::rename(&options.path, &backup).unwrap();
    Local::restore(&backup, &options, false).unwrap();
    holds_the_sample(&Local::open(options).unwrap());
    assert_eq!(format_of(&backup), 1, "the backup is left as it was");
}

#[test]
fn an_upgrade_leaves_what_is_damaged_as_it_is_and_saves_the_rest() {
    let (_directory, options) = sample(1);
    let raw = rusqlite::Connection::open(&options.path).unwrap();
    raw.execute_batch("UPDATE version SET code = zeroblob(32) WHERE secret = 2").unwrap();
    let rows = || -> Vec<Vec<u8>> {
        let mut rows = raw.prepare("SELECT record FROM secret WHERE id = 2").unwrap();
        rows.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect()
    };
    let before = rows();
    for _ in 0..2 {
        let store = Local::open(options.clone()).unwrap();
        assert_eq!(get(&store, "prod/orders/db", 2, "password").unwrap(), b"sample-2");
        assert!(matches!(get(&store, "prod/api", 1, "key"), Err(StoreFault::Corrupt(_))));
        assert_eq!(rows(), before);
    }
}

#[test]
fn an_upgrade_with_another_key_changes_nothing() {
    let (_directory, options) = sample(1);
    let other = LocalOptions { key: KeySource::Raw([9; 32]), ..options.clone() };
    assert!(matches!(Local::open(other), Err(StoreFault::WrongKey(_))));
    assert_eq!(format_of(&options.path), 1);
    holds_the_sample(&Local::open(options).unwrap());
}

fn holds_the_sample(store: &Local) {
    assert_eq!(get(store, "prod/orders/db", 2, "password").unwrap(), b"sample-2");
    assert_eq!(get(store, "prod/orders/db", 2, "username").unwrap(), b"orders");
    assert_eq!(get(store, "prod/api", 1, "key").unwrap(), [0, 1, 2, 255]);
    assert!(matches!(get(store, "prod/orders/db", 1, "password"), Err(StoreFault::Revoked(..))));
    let secret = store.known(&Login::machine(), &path("prod/orders/db")).unwrap();
    assert_eq!((secret.current, secret.next), (Some(version(2)), Some(version(3))));
    assert_eq!(store.check().unwrap().faults, Vec::<String>::new());
}

/// Run by hand once a format is final: `cargo test --test store -- --ignored make_the_sample`.
#[test]
#[ignore = "makes the sample anew"]
fn make_the_sample() {
    let samples = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/samples");
    let (database, key) = (samples.join("store-2.db"), samples.join("store-2.key"));
    Key::from_bytes(&KEY).write_new_file(&key).unwrap();
    let directory = Directory::new();
    let store = fresh(&directory, &Hand::new());
    put(&store, "prod/orders/db", &[("password", b"sample-1"), ("username", b"orders")]);
    put(&store, "prod/orders/db", &[("password", b"sample-2")]);
    change(&store, put_change("prod/orders/db", &[("password", b"sample-3")], false, Stage::Next)).unwrap();
    change(&store, Change::Revoke { secret: path("prod/orders/db"), version: version(1) }).unwrap();
    put(&store, "prod/api", &[("key", &[0, 1, 2, 255])]);
    store.backup(&database).unwrap();
}

#[test]
#[ignore = "a measurement: run with --release --ignored --nocapture"]
fn ten_thousand_secrets_open_fast() {
    let (directory, hand) = (Directory::new(), Hand::new());
    let store = Arc::new(fresh(&directory, &hand));
    for round in 0..5_u8 {
        for number in 0..10_000 {
            put(
                &*store,
                &format!("prod/team{}/secret{number}", number % 100),
                &[("password", &[round]), ("user", b"u")],
            );
        }
    }
    drop(store);
    let started = std::time::Instant::now();
    let store = Local::open(options(&directory.file("store.db"), &hand)).unwrap();
    println!("open: {:?}", started.elapsed());
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    println!("{}", status.lines().find(|line| line.starts_with("VmRSS")).unwrap());
    assert_eq!(store.node(FieldNode::new(100_000).unwrap()).unwrap().version, version(5));
}
