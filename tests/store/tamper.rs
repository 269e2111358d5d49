//! A hand in the database: flipped bits, moved rows, moved pointers. Never wrong bytes, never a panic.

use std::path::Path;

use credfs::model::Stage;
use credfs::store::{Change, KeySource, Local, LocalOptions, Login, Store, StoreFault};
use rusqlite::Connection;

use super::bench::{Directory, Hand, change, fresh, get, options, path, put, put_change, version};

fn filled(directory: &Directory, hand: &Hand) {
    let store = fresh(directory, hand);
    for (at, first, second) in [("a", b"a1", b"a2"), ("b", b"b1", b"b2")] {
        // Records of two secrets must differ, or copying one over the other is no edit.
        hand.turn(10);
        put(&store, at, &[("f", first), ("g", first)]);
        put(&store, at, &[("f", second), ("g", second)]);
    }
    put(&store, "c", &[("f", b"c1")]);
    change(&store, Change::Revoke { secret: path("a"), version: version(1) }).unwrap();
    store.checkpoint().unwrap();
    drop(store);
    Connection::open(directory.file("store.db")).unwrap().close().unwrap();
}

fn edit(directory: &Directory, sql: &str) {
    let connection = Connection::open(directory.file("store.db")).unwrap();
    connection.execute_batch(sql).unwrap();
}

fn reopened(directory: &Directory) -> Result<Local, StoreFault> {
    Local::open(options(&directory.file("store.db"), &Hand::new()))
}

#[test]
fn a_moved_row_or_pointer_is_damage_of_that_secret_and_the_others_go_on() {
    for sql in [
        "UPDATE secret SET record = (SELECT record FROM secret WHERE path='b') WHERE path='a'",
        "UPDATE secret SET record = (SELECT record FROM secret WHERE path='b'),
             code = (SELECT code FROM secret WHERE path='b') WHERE path='a'",
        "UPDATE version SET record = (SELECT record FROM version WHERE secret=1 AND number=2),
             code = (SELECT code FROM version WHERE secret=1 AND number=2) WHERE secret=1 AND number=1",
        "UPDATE version SET record = (SELECT record FROM version WHERE secret=2 AND number=1),
             code = (SELECT code FROM version WHERE secret=2 AND number=1) WHERE secret=1 AND number=1",
        // The stage pointer: bytes 6 to 9 of the record are the current version.
        "UPDATE secret SET record = CAST(substr(record,1,5)||x'01000000'||substr(record,10) AS BLOB) WHERE id=1",
        "DELETE FROM version WHERE secret=1 AND number=1",
        "UPDATE version SET number=3 WHERE secret=1 AND number=2",
        "UPDATE secret SET path='z' WHERE path='a'",
    ] {
        let (directory, hand) = (Directory::new(), Hand::new());
        filled(&directory, &hand);
        edit(&directory, sql);
        let store = reopened(&directory).unwrap();
        assert!(store.known(&Login::machine(), &path("a")).is_none(), "{sql}");
        assert!(matches!(get(&store, "a", 2, "f"), Err(StoreFault::Corrupt(_))), "{sql}");
        assert!(change(&store, put_change("a", &[("f", b"x")], true, Stage::Current)).is_err(), "{sql}");
        assert_eq!(get(&store, "b", 2, "f").unwrap(), b"b2", "{sql}");
        put(&store, "b", &[("f", b"b3")]);
        assert!(!store.check().unwrap().faults.is_empty(), "{sql}");
    }
}

/// Versions 1 to 3 of two secrets in `old.db`; since then version 2 was revoked, 1 deleted, and 4 and 5 were put.
fn changed_since(directory: &Directory, hand: &Hand) {
    let store = fresh(directory, hand);
    for number in 1..=3_u8 {
        for at in ["a", "b"] {
            hand.turn(10);
            put(&store, at, &[("f", &[number])]);
        }
    }
    store.backup(&directory.file("old.db")).unwrap();
    for at in ["a", "b"] {
        hand.turn(10);
        change(&store, Change::Revoke { secret: path(at), version: version(2) }).unwrap();
        change(&store, Change::Delete { secret: path(at), version: Some(version(1)) }).unwrap();
        put(&store, at, &[("f", b"4")]);
        put(&store, at, &[("f", b"5")]);
    }
    store.checkpoint().unwrap();
}

/// `UPDATE` of one row of `version` of secret 1 to what `old.db` holds of it.
fn put_back(numbers: &str) -> String {
    format!(
        "UPDATE version SET (record, code, key) = (SELECT o.record, o.code, o.key FROM old.version o \
         WHERE o.secret = version.secret AND o.number = version.number) WHERE secret=1 AND number IN ({numbers})"
    )
}

#[test]
fn an_older_copy_of_a_row_or_an_older_set_of_rows_is_damage() {
    let old_row =
        "UPDATE secret SET (record, code) = (SELECT record, code FROM old.secret WHERE id=1) WHERE id=1";
    let commitment_of = |from: &str| {
        // The last 56 bytes of the record.
        format!(
            "UPDATE secret SET record = CAST(substr(record, 1, length(record)-56) || \
             (SELECT substr(record, -56) FROM {from}) AS BLOB) WHERE id=1"
        )
    };
    let cases = [
        // The revoked version is active again; the deleted one is; what lost its stage has it still.
        put_back("2"),
        put_back("1"),
        put_back("3"),
        put_back("1, 2, 3"),
        "DELETE FROM version WHERE secret=1 AND number=5".to_owned(),
        "DELETE FROM version WHERE secret=1 AND number=1".to_owned(),
        "DELETE FROM version WHERE secret=1 AND number=4".to_owned(),
        "DELETE FROM version WHERE secret=1".to_owned(),
        // Older versions than there are, and a second copy of one.
        "INSERT INTO version SELECT secret, 6, record, code, key FROM version WHERE secret=1 AND number=5"
            .to_owned(),
        "INSERT INTO version SELECT 1, 7, record, code, key FROM version WHERE secret=2 AND number=5"
            .to_owned(),
        "UPDATE version SET number = 100 WHERE secret=1 AND number = 1; \
         UPDATE version SET number = 1 WHERE secret=1 AND number = 2; \
         UPDATE version SET number = 2 WHERE secret=1 AND number = 100"
            .to_owned(),
        "UPDATE version SET record = (SELECT record FROM version WHERE secret=2 AND number=2), \
         code = (SELECT code FROM version WHERE secret=2 AND number=2) WHERE secret=1 AND number=2"
            .to_owned(),
        // The secret's row as it was, with all, some and none of its versions as they were.
        old_row.to_owned(),
        format!("{old_row}; DELETE FROM version WHERE secret=1 AND number > 3"),
        format!("{old_row}; DELETE FROM version WHERE secret=1 AND number > 3; {}", put_back("1, 2")),
        format!("{old_row}; DELETE FROM version WHERE secret=1 AND number > 3; {}", put_back("2, 3")),
        format!("{old_row}; {}", put_back("1, 2, 3")),
        // The commitment as it was, and that of another secret.
        commitment_of("old.secret WHERE id=1"),
        commitment_of("secret WHERE id=2"),
        format!(
            "{}; DELETE FROM version WHERE secret=1 AND number > 3; {}",
            commitment_of("old.secret WHERE id=1"),
            put_back("1, 2, 3")
        ),
    ];
    for sql in cases {
        let (directory, hand) = (Directory::new(), Hand::new());
        changed_since(&directory, &hand);
        let old = directory.file("old.db");
        edit(&directory, &format!("ATTACH '{}' AS old; {sql}", old.display()));
        let store = reopened(&directory).unwrap();
        assert!(store.known(&Login::machine(), &path("a")).is_none(), "{sql}");
        for number in 1..=5 {
            assert!(matches!(get(&store, "a", number, "f"), Err(StoreFault::Corrupt(_))), "{sql}");
        }
        assert!(change(&store, put_change("a", &[("f", b"x")], true, Stage::Current)).is_err(), "{sql}");
        assert_eq!(get(&store, "b", 5, "f").unwrap(), b"5", "{sql}");
        assert!(!store.check().unwrap().faults.is_empty(), "{sql}");
    }
}

#[test]
fn a_row_put_back_while_the_store_is_open_is_found_by_a_change_of_it_and_never_made_good_by_others() {
    let (directory, hand) = (Directory::new(), Hand::new());
    changed_since(&directory, &hand);
    let store = reopened(&directory).unwrap();
    let old = directory.file("old.db");
    edit(&directory, &format!("ATTACH '{}' AS old; {}", old.display(), put_back("2")));
    let undelete = Change::Undelete { secret: path("a"), version: Some(version(2)) };
    assert!(matches!(get(&store, "a", 2, "f"), Err(StoreFault::Revoked(..))), "what is known is what counts");
    assert!(matches!(change(&store, undelete).map(drop), Ok(())), "which changes nothing");
    let delete = Change::Delete { secret: path("a"), version: Some(version(2)) };
    assert!(matches!(change(&store, delete), Err(StoreFault::Corrupt(_))));
    put(&store, "a", &[("f", b"6")]);
    put(&store, "a", &[("f", b"7")]);
    drop(store);
    let store = reopened(&directory).unwrap();
    assert!(store.known(&Login::machine(), &path("a")).is_none());
    assert_eq!(get(&store, "b", 5, "f").unwrap(), b"5");
}

#[test]
fn a_store_said_to_be_of_the_first_format_is_no_way_around_the_proof() {
    let (directory, hand) = (Directory::new(), Hand::new());
    changed_since(&directory, &hand);
    let old = directory.file("old.db");
    let sql = format!("ATTACH '{}' AS old; PRAGMA user_version = 1; {}", old.display(), put_back("2"));
    edit(&directory, &sql);
    for _ in 0..2 {
        let store = reopened(&directory).unwrap();
        assert!(store.known(&Login::machine(), &path("a")).is_none());
        assert_eq!(get(&store, "b", 5, "f").unwrap(), b"5", "what was whole is whole");
    }
}

#[test]
fn swapped_values_and_keys_never_open() {
    for sql in [
        "UPDATE value SET sealed = (SELECT sealed FROM value WHERE node=4) WHERE node=3",
        "UPDATE value SET sealed = (SELECT sealed FROM value WHERE node=1) WHERE node=3",
        "UPDATE value SET sealed = (SELECT sealed FROM value WHERE node=7) WHERE node=3",
        "UPDATE version SET key = (SELECT key FROM version WHERE secret=2 AND number=2) WHERE secret=1 AND number=2",
        "UPDATE value SET sealed = substr(sealed,1,length(sealed)-1) WHERE node=3",
        "UPDATE value SET sealed = x'' WHERE node=3",
        "DELETE FROM value WHERE node=3",
    ] {
        let (directory, hand) = (Directory::new(), Hand::new());
        filled(&directory, &hand);
        edit(&directory, sql);
        let store = reopened(&directory).unwrap();
        let refused = get(&store, "a", 2, "f").unwrap_err();
        assert!(matches!(refused, StoreFault::Corrupt(_)), "{sql}: {refused}");
        assert_eq!(get(&store, "b", 2, "f").unwrap(), b"b2");
        assert!(!store.check().unwrap().faults.is_empty(), "{sql}");
        assert!(store.rekey(&credfs::store::Key::generate().unwrap()).is_err() || !sql.contains("key ="));
    }
}

#[test]
fn a_row_that_disappears_is_missed_and_its_path_is_not_given_out_anew() {
    let (directory, hand) = (Directory::new(), Hand::new());
    filled(&directory, &hand);
    edit(&directory, "DELETE FROM value; DELETE FROM version WHERE secret=3; DELETE FROM secret WHERE id=3");
    let store = reopened(&directory).unwrap();
    assert!(matches!(get(&store, "c", 1, "f"), Err(StoreFault::Corrupt(_))));
    let refused = change(&store, put_change("c", &[("f", b"x")], true, Stage::Current));
    assert!(matches!(refused, Err(StoreFault::Corrupt(_))));
}

/// Opens and reads everything; every answer must be right or a fault.
fn probe(file: &Path, hand: &Hand) {
    let Ok(store) = Local::open(options(file, hand)) else { return };
    let allowed: [(&str, u32, &[u8]); 4] =
        [("a", 2, b"a2"), ("b", 1, b"b1"), ("b", 2, b"b2"), ("c", 1, b"c1")];
    for (at, number, right) in allowed {
        match get(&store, at, number, "f") {
            Ok(bytes) => assert_eq!(bytes, right),
            Err(fault) => {
                assert!(!matches!(fault, StoreFault::NoSecret(_) | StoreFault::NoVersion(..)), "{fault}")
            }
        }
        if let Some(secret) = store.known(&Login::machine(), &path(at)) {
            assert_eq!(secret.current.unwrap().get(), if at == "c" { 1 } else { 2 });
        }
    }
    assert!(get(&store, "a", 1, "f").is_err(), "revoked stays revoked");
}

#[test]
fn a_flipped_bit_anywhere_is_a_fault_or_changes_nothing() {
    let (directory, hand) = (Directory::new(), Hand::new());
    filled(&directory, &hand);
    let whole = std::fs::read(directory.file("store.db")).unwrap();
    // Every byte takes minutes: CREDFS_TEST_EVERY_BYTE=1 asks for it, else every 23rd and all of the header.
    let every = std::env::var_os("CREDFS_TEST_EVERY_BYTE").is_some();
    let stride = if every { 1 } else { 23 };
    let places: Vec<usize> = (0..whole.len()).filter(|at| *at < 100 || at % stride == 0).collect();
    let damaged = directory.file("damaged.db");
    for at in places {
        if !every && whole[at] == 0 && at % 5 != 0 {
            continue;
        }
        let mut bytes = whole.clone();
        bytes[at] ^= 1 << (at * 7 % 8);
        for leftover in ["-wal", "-shm"] {
            drop(std::fs::remove_file(directory.file(&format!("damaged.db{leftover}"))));
        }
        std::fs::write(&damaged, bytes).unwrap();
        probe(&damaged, &hand);
    }
    for length in (0..whole.len()).step_by(if every { 64 } else { 1024 }) {
        for leftover in ["-wal", "-shm"] {
            drop(std::fs::remove_file(directory.file(&format!("damaged.db{leftover}"))));
        }
        std::fs::write(&damaged, &whole[..length]).unwrap();
        probe(&damaged, &hand);
    }
}

#[test]
fn another_key_and_a_later_format_are_told_apart_from_damage() {
    let (directory, hand) = (Directory::new(), Hand::new());
    filled(&directory, &hand);
    let file = directory.file("store.db");
    let other = LocalOptions { key: KeySource::Raw([8; 32]), ..options(&file, &hand) };
    let refused = Local::open(other).err().unwrap();
    assert!(matches!(refused, StoreFault::WrongKey(_)), "{refused}");
    edit(&directory, "UPDATE meta SET value = zeroblob(46) WHERE name = 'check'");
    assert!(matches!(reopened(&directory), Err(StoreFault::Corrupt(_))));
    edit(&directory, "PRAGMA user_version = 9");
    let refused = reopened(&directory).err().unwrap();
    let text = refused.to_string();
    assert!(
        matches!(refused, StoreFault::Future(_)) && text.contains('9') && text.contains("up to 2"),
        "{text}"
    );
}
