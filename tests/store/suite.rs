//! What every store must do: the embedded one, a faulty one without faults, the memory in front of an engine, and a real
//! server (tests/vault).

use std::sync::{Arc, Mutex};

use credfs::model::{FieldNode, Secret, Stage, StageSet, State, Version};
use credfs::store::{Change, Fault, Faulty, Login, Store, StoreFault, StoreState, Wanted};

use super::bench::{Directory, Hand, change, field, fresh, get, path, put, put_change, run, version};

/// What a store must have to be asked for it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Needs {
    /// One value at each path.
    Values,
    /// Numbered versions that stay, with stages and states.
    Versions,
}

type Case = fn(&dyn Store, &Hand);

const CASES: [(Needs, Case); 13] = [
    (Needs::Values, what_was_put_is_given_byte_for_byte),
    (Needs::Values, what_a_put_does_not_name_is_carried_over),
    (Needs::Values, a_freed_path_goes_on_counting),
    (Needs::Values, limits_are_named_and_nothing_is_half_done),
    (Needs::Values, watchers_and_listings_follow),
    (Needs::Values, what_is_not_there_is_named),
    (Needs::Versions, versions_and_stages_move),
    (Needs::Versions, fields_are_carried_over_by_stage),
    (Needs::Versions, rolling_back_twice_walks_back),
    (Needs::Versions, a_staged_version_is_promoted),
    (Needs::Versions, revoked_deleted_and_destroyed),
    (Needs::Versions, times_move_forward_when_the_clock_goes_back),
    (Needs::Versions, watchers_hear_of_states),
];

pub(crate) fn all(make: &dyn Fn(&Directory, &Hand) -> Arc<dyn Store>) {
    all_by(Hand::new, &[Needs::Values, Needs::Versions], make);
}

/// The same, of a store whose clock is what `hand` makes, and which `has` so much.
pub(crate) fn all_by(hand: fn() -> Hand, has: &[Needs], make: &dyn Fn(&Directory, &Hand) -> Arc<dyn Store>) {
    for (_, case) in CASES.iter().filter(|(needs, _)| has.contains(needs)) {
        let (directory, hand) = (Directory::new(), hand());
        case(&*make(&directory, &hand), &hand);
    }
}

#[test]
fn the_embedded_store_passes_the_suite() {
    all(&|directory, hand| Arc::new(fresh(directory, hand)));
}

#[test]
fn a_faulty_store_without_faults_passes_the_suite() {
    all(&|directory, hand| Arc::new(Faulty::new(Arc::new(fresh(directory, hand)))));
}

fn has_just_lost(secret: &Secret, number: u32, stage: Stage, hand: &Hand) -> bool {
    let lost = secret.version(version(number)).unwrap().lost;
    lost.is_some_and(|(when, stages)| hand.is_now(when) && stages == StageSet::of(stage))
}

fn current(store: &dyn Store, at: &str) -> Option<Version> {
    store.known(&Login::machine(), &path(at))?.current
}

fn what_was_put_is_given_byte_for_byte(store: &dyn Store, _: &Hand) {
    assert!(store.known(&Login::machine(), &path("a/b")).is_none());
    for (number, bytes) in [(1, b"one".as_slice()), (2, b""), (3, &[0, 255, 10]), (4, "\u{e9}\n".as_bytes())]
    {
        let changed = put(store, "a/b", &[("password", bytes)]);
        assert_eq!(changed.version, Some(version(number)));
        assert_eq!(current(store, "a/b"), Some(version(number)));
        assert_eq!(get(store, "a/b", number, "password").unwrap(), bytes);
    }
}

fn what_a_put_does_not_name_is_carried_over(store: &dyn Store, _: &Hand) {
    put(store, "s", &[("user", b"u"), ("password", b"p1")]);
    let changed = put(store, "s", &[("password", b"p2")]);
    assert_eq!(changed.carried, [field("user")]);
    assert_eq!(get(store, "s", 2, "user").unwrap(), b"u");
    assert_eq!(get(store, "s", 2, "password").unwrap(), b"p2");
    let changed = change(store, put_change("s", &[("alone", b"a")], true, Stage::Current)).unwrap();
    assert!(changed.carried.is_empty());
    assert_eq!(changed.after.unwrap().version(version(3)).unwrap().fields.len(), 1);
    assert!(matches!(get(store, "s", 3, "user"), Err(StoreFault::NoField(..))));
}

fn what_is_not_there_is_named(store: &dyn Store, _: &Hand) {
    put(store, "a/b", &[("password", b"p")]);
    assert!(matches!(get(store, "a/b", 4, "password"), Err(StoreFault::NoVersion(..))));
    assert!(matches!(get(store, "a/b", 1, "other"), Err(StoreFault::NoField(..))));
    assert!(matches!(get(store, "a", 1, "other"), Err(StoreFault::NoSecret(..))));
    assert!(store.node(FieldNode::new(FieldNode::MAX).unwrap()).is_none());
}

fn versions_and_stages_move(store: &dyn Store, hand: &Hand) {
    for (number, bytes) in [(1, b"one".as_slice()), (2, b""), (3, &[0, 255, 10])] {
        hand.turn(10);
        let changed = put(store, "a/b", &[("password", bytes)]);
        assert_eq!(changed.version, Some(version(number)));
        assert_eq!(get(store, "a/b", number, "password").unwrap(), bytes);
    }
    let secret = store.known(&Login::machine(), &path("a/b")).unwrap();
    assert_eq!((secret.current, secret.previous, secret.next), (Some(version(3)), Some(version(2)), None));
    assert!(has_just_lost(&secret, 1, Stage::Previous, hand));
    assert!(has_just_lost(&secret, 2, Stage::Current, hand));
    assert_eq!(get(store, "a/b", 1, "password").unwrap(), b"one");
    for version in secret.versions.iter() {
        for info in version.fields.iter() {
            let wanted = store.node(info.node).unwrap();
            assert_eq!(
                (wanted.secret, wanted.version, &wanted.field),
                (path("a/b"), version.number, &info.name)
            );
        }
    }
}

fn fields_are_carried_over_by_stage(store: &dyn Store, _: &Hand) {
    put(store, "s", &[("user", b"u"), ("password", b"p1")]);
    put(store, "s", &[("password", b"p2")]);
    change(store, put_change("s", &[("token", b"t")], false, Stage::Next)).unwrap();
    let changed = change(store, put_change("s", &[("user", b"x")], false, Stage::Next)).unwrap();
    assert_eq!(changed.carried, [field("password"), field("token")], "carried from the staged version");
    let changed = change(store, put_change("s", &[("alone", b"a")], true, Stage::Current)).unwrap();
    assert!(changed.carried.is_empty());
    assert_eq!(changed.after.unwrap().version(version(5)).unwrap().fields.len(), 1);
    change(store, Change::Revoke { secret: path("s"), version: version(5) }).unwrap();
    let refused = change(store, put_change("s", &[("user", b"x")], false, Stage::Current)).unwrap_err();
    assert!(refused.to_string().contains("--only"), "{refused}");
    change(store, put_change("s", &[("alone", b"b")], false, Stage::Current)).unwrap();
}

fn rolling_back_twice_walks_back(store: &dyn Store, hand: &Hand) {
    for bytes in [b"1", b"2", b"3"] {
        put(store, "s", &[("f", bytes)]);
    }
    hand.turn(5);
    let back = |to| change(store, Change::Rollback { secret: path("s"), to });
    let secret = back(None).unwrap().after.unwrap();
    assert_eq!((secret.current, secret.previous), (Some(version(2)), Some(version(1))));
    assert!(has_just_lost(&secret, 3, Stage::Current, hand));
    let before = secret.version(version(2)).unwrap().activated;
    let secret = back(None).unwrap().after.unwrap();
    assert_eq!((secret.current, secret.previous), (Some(version(1)), None));
    assert!(secret.version(version(1)).unwrap().activated > before);
    assert!(matches!(back(None), Err(StoreFault::NoStage(_, "previous"))));
    assert!(matches!(back(Some(version(9))), Err(StoreFault::NoVersion(..))));
    let secret = back(Some(version(3))).unwrap().after.unwrap();
    assert_eq!((secret.current, secret.previous), (Some(version(3)), Some(version(2))));
    assert!(back(Some(version(3))).is_err(), "current already");
}

fn a_staged_version_is_promoted(store: &dyn Store, _: &Hand) {
    put(store, "s", &[("f", b"1")]);
    let promote = || change(store, Change::Promote { secret: path("s") });
    assert!(matches!(promote(), Err(StoreFault::NoStage(_, "next"))));
    for bytes in [b"2", b"3"] {
        let changed = change(store, put_change("s", &[("f", bytes)], false, Stage::Next)).unwrap();
        assert_eq!(changed.after.unwrap().current, Some(version(1)));
    }
    let secret = promote().unwrap().after.unwrap();
    assert_eq!((secret.current, secret.previous, secret.next), (Some(version(3)), Some(version(1)), None));
    assert!(secret.version(version(2)).unwrap().activated.is_none());
    assert_eq!(secret.version(version(2)).unwrap().lost.unwrap().1, StageSet::of(Stage::Next));
}

fn revoked_deleted_and_destroyed(store: &dyn Store, _: &Hand) {
    for bytes in [b"1", b"2", b"3"] {
        put(store, "s", &[("f", bytes)]);
        get(store, "s", u32::from(bytes[0] - b'0'), "f").unwrap();
    }
    let (s, v) = (|| path("s"), |number| Some(version(number)));
    change(store, Change::Revoke { secret: s(), version: version(3) }).unwrap();
    assert!(matches!(get(store, "s", 3, "f"), Err(StoreFault::Revoked(..))));
    assert_eq!(store.known(&Login::machine(), &s()).unwrap().current, v(3));
    change(store, Change::Delete { secret: s(), version: v(3) }).unwrap();
    assert!(matches!(get(store, "s", 3, "f"), Err(StoreFault::Deleted(..))));
    change(store, Change::Undelete { secret: s(), version: v(3) }).unwrap();
    assert!(matches!(get(store, "s", 3, "f"), Err(StoreFault::Revoked(..))), "revoked is for good");
    change(store, Change::Delete { secret: s(), version: v(2) }).unwrap();
    change(store, Change::Undelete { secret: s(), version: v(2) }).unwrap();
    assert_eq!(get(store, "s", 2, "f").unwrap(), b"2");
    let node = store.known(&Login::machine(), &s()).unwrap().version(version(2)).unwrap().fields[0].node;
    let secret = change(store, Change::Destroy { secret: s(), version: v(2) }).unwrap().after.unwrap();
    assert_eq!((secret.previous, secret.version(version(2)).unwrap().state), (None, State::Destroyed));
    assert!(matches!(get(store, "s", 2, "f"), Err(StoreFault::Destroyed(..))));
    assert!(store.node(node).is_none());
    assert!(matches!(
        change(store, Change::Undelete { secret: s(), version: v(2) }),
        Err(StoreFault::Destroyed(..))
    ));
    change(store, Change::Delete { secret: s(), version: None }).unwrap();
    assert!(matches!(get(store, "s", 1, "f"), Err(StoreFault::SecretDeleted(..))));
    let refused = change(store, put_change("s", &[("f", b"4")], false, Stage::Current));
    assert!(matches!(refused, Err(StoreFault::SecretDeleted(..))));
    change(store, Change::Undelete { secret: s(), version: None }).unwrap();
    assert_eq!(get(store, "s", 1, "f").unwrap(), b"1");
}

fn a_freed_path_goes_on_counting(store: &dyn Store, _: &Hand) {
    put(store, "s", &[("f", b"1")]);
    let first = put(store, "s", &[("f", b"2")]).after.unwrap().versions[1].fields[0].node;
    let changed = change(store, Change::Destroy { secret: path("s"), version: None }).unwrap();
    assert!(changed.after.is_none());
    assert!(store.known(&Login::machine(), &path("s")).is_none());
    assert!(matches!(get(store, "s", 1, "f"), Err(StoreFault::NoSecret(..))));
    let gone = change(store, Change::Destroy { secret: path("s"), version: None });
    assert!(matches!(gone, Err(StoreFault::NoSecret(..))));
    let changed = put(store, "s", &[("f", b"3")]);
    assert!(changed.before.is_none());
    assert_eq!(changed.version, Some(version(3)));
    assert!(changed.after.unwrap().versions[0].fields[0].node > first);
    assert_eq!(get(store, "s", 3, "f").unwrap(), b"3");
}

fn limits_are_named_and_nothing_is_half_done(store: &dyn Store, _: &Hand) {
    let large = vec![1; 1024 * 1024];
    put(store, "s", &[("f", &large)]);
    assert_eq!(get(store, "s", 1, "f").unwrap(), large);
    let too_large = vec![1; 1024 * 1024 + 1];
    let names: Vec<String> = (0..257).map(|number| format!("f{number}")).collect();
    let many: Vec<(&str, &[u8])> = names.iter().map(|name| (name.as_str(), b"x".as_slice())).collect();
    for (fields, says) in [
        (vec![("ok", b"x".as_slice()), ("f", too_large.as_slice())], "1 MiB"),
        (many, "256"),
        (vec![("f", b"x".as_slice()), ("f", b"y".as_slice())], "twice"),
    ] {
        let refused = change(store, put_change("s", &fields, true, Stage::Current)).unwrap_err();
        assert!(refused.to_string().contains(says), "{refused}");
    }
    assert!(change(store, put_change("s", &[("f", b"x")], true, Stage::Previous)).is_err());
    assert!(change(store, put_change("new", &[], false, Stage::Current)).is_err());
    assert!(store.known(&Login::machine(), &path("new")).is_none());
    assert_eq!(store.known(&Login::machine(), &path("s")).unwrap().versions.len(), 1);
}

fn times_move_forward_when_the_clock_goes_back(store: &dyn Store, hand: &Hand) {
    let first = put(store, "s", &[("f", b"1")]).after.unwrap();
    hand.turn(-500_000);
    let second = put(store, "s", &[("f", b"2")]).after.unwrap();
    assert!(second.versions[1].activated > first.versions[0].activated);
    assert!(second.changed >= first.changed);
    let third = change(store, Change::Rollback { secret: path("s"), to: None }).unwrap().after.unwrap();
    assert!(third.versions[0].activated > second.versions[1].activated);
    assert!(third.changed >= second.changed);
}

fn watchers_and_listings_follow(store: &dyn Store, _: &Hand) {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let noted = Arc::clone(&seen);
    store.watch(Box::new(move |changed| {
        noted.lock().unwrap().push((changed.before.is_some(), changed.after.is_some()));
    }));
    for at in ["b", "a/x", "a-b", "a/y", "aé"] {
        put(store, at, &[("f", b"1")]);
    }
    put(store, "b", &[("f", b"2")]);
    put(store, "b", &[("g", b"2")]);
    change(store, Change::Destroy { secret: path("b"), version: None }).unwrap();
    assert_eq!(seen.lock().unwrap().len(), 8);
    assert_eq!(seen.lock().unwrap()[0], (false, true));
    assert_eq!(seen.lock().unwrap()[7], (true, false));
    let list = |prefix: &str| {
        let mut found = Vec::new();
        store.visit_known(&Login::machine(), prefix, &mut |secret| {
            found.push(secret.path.as_str().to_owned());
            true
        });
        found
    };
    assert_eq!(list(""), ["a-b", "a/x", "a/y", "aé"]);
    assert_eq!(list("a/"), ["a/x", "a/y"]);
    assert!(list("z/").is_empty());
}

fn watchers_hear_of_states(store: &dyn Store, _: &Hand) {
    put(store, "b", &[("f", b"1")]);
    let seen = Arc::new(Mutex::new(Vec::new()));
    let noted = Arc::clone(&seen);
    store.watch(Box::new(move |changed| {
        noted.lock().unwrap().push(changed.after.as_ref().is_some_and(|secret| secret.deleted));
    }));
    change(store, Change::Delete { secret: path("b"), version: None }).unwrap();
    change(store, Change::Undelete { secret: path("b"), version: None }).unwrap();
    assert_eq!(*seen.lock().unwrap(), [true, false]);
}

#[test]
fn a_planned_fault_hits_the_planned_request_and_no_other() {
    let (directory, hand) = (Directory::new(), Hand::new());
    let store = Faulty::new(Arc::new(fresh(&directory, &hand)));
    put(&store, "s", &[("f", b"1")]);
    store.on_fetch(2, Fault::Fail(StoreFault::Timeout));
    assert!(get(&store, "s", 1, "f").is_ok());
    assert!(matches!(get(&store, "s", 1, "f"), Err(StoreFault::Timeout)));
    assert!(get(&store, "s", 1, "f").is_ok());
    store.on_change(1, Fault::LoseAnswer);
    assert!(change(&store, put_change("s", &[("f", b"2")], false, Stage::Current)).is_err());
    assert_eq!(get(&store, "s", 2, "f").unwrap(), b"2", "it was done all the same");
    store.set_state(Some(StoreState::Sealed));
    assert!(matches!(get(&store, "s", 1, "f"), Err(StoreFault::Sealed(_))));
    store.set_state(None);
    store.on_fetch(1, Fault::Hang);
    let wanted = Wanted { secret: path("s"), version: version(1), field: field("f") };
    let hung = run(async {
        let login = Login::machine();
        tokio::time::timeout(std::time::Duration::from_millis(20), store.fetch(&login, &wanted))
            .await
            .is_err()
    });
    assert!(hung);
    assert_eq!((store.fetches(), store.changes()), (6, 2));
}
