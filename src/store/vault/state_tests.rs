//! The states that engines are read into, and back.

use std::collections::BTreeMap;

use super::super::metadata::{KeptVersion, Metadata};
use super::*;
use crate::model::SecretBytes;
use crate::model::Stage;
use crate::store::Change;
use crate::store::semantics::{Around, apply};

fn number(number: u32) -> Version {
    Version::new(number).unwrap()
}

fn path() -> SecretPath {
    SecretPath::parse("s").unwrap()
}

/// An engine in memory, which does what the real one does with numbers and text.
struct Engine {
    metadata: Metadata,
    now: i64,
}

impl Engine {
    fn new() -> Self {
        let metadata = Metadata {
            newest: 0,
            revision: None,
            kept_max: 0,
            updated: UnixTime::default(),
            versions: Vec::new(),
            custom: BTreeMap::new(),
        };
        Self { metadata, now: 1_000_000 }
    }

    fn held(&self) -> Held {
        let pins = Pins::read(&self.metadata);
        super::held(&path(), &self.metadata, &pins, UnixTime::from_micros(self.now))
    }

    fn store(&mut self) {
        self.now += 10;
        self.metadata.newest += 1;
        let created = UnixTime::from_micros(self.now);
        let number = number(self.metadata.newest);
        self.metadata.versions.push(KeptVersion { number, created, deletion: None, destroyed: false });
    }

    fn write(&mut self, pins: &Pins) {
        for (key, text) in pins.write().unwrap() {
            match text {
                Some(text) => self.metadata.custom.insert(key.to_owned(), text),
                None => self.metadata.custom.remove(key),
            };
        }
    }
}

/// What the other stores make of the same changes.
fn local(changes: &[(i64, Change)]) -> Held {
    let mut held = Held::unused(path());
    let mut next_node = 1;
    for (at, change) in changes {
        apply(&mut held, change, &mut Around { now: UnixTime::from_micros(*at), next_node: &mut next_node })
            .unwrap();
    }
    held
}

fn put(stage: Stage) -> Change {
    let field = crate::model::FieldName::parse("f").unwrap();
    Change::Put {
        secret: path(),
        fields: vec![(field, SecretBytes::taken_from(&mut [1]))],
        only: true,
        stage,
        ownership: crate::model::Ownership::default(),
    }
}

#[test]
fn versions_that_were_simply_stored_are_what_the_other_stores_make_of_them() {
    let mut engine = Engine::new();
    let mut changes = Vec::new();
    for _ in 0..5 {
        engine.store();
        changes.push((engine.now, put(Stage::Current)));
    }
    let (ours, theirs) = (engine.held(), local(&changes));
    assert_eq!(Stages::of(&ours.secret).current, Some(number(5)));
    for version in theirs.secret.versions.iter() {
        let mine = ours.secret.version(version.number).unwrap();
        assert_eq!((mine.activated, mine.lost, mine.state), (version.activated, version.lost, version.state));
    }
}

#[test]
fn what_is_written_for_a_state_leads_back_to_it() {
    let mut engine = Engine::new();
    for _ in 0..4 {
        engine.store();
    }
    let steps: [(&str, Change); 6] = [
        ("rollback", Change::Rollback { secret: path(), to: None }),
        ("rollback to 1", Change::Rollback { secret: path(), to: Some(number(1)) }),
        ("rollback to 4", Change::Rollback { secret: path(), to: Some(number(4)) }),
        ("revoke", Change::Revoke { secret: path(), version: number(2) }),
        ("delete", Change::Delete { secret: path(), version: None }),
        ("undelete", Change::Undelete { secret: path(), version: None }),
    ];
    for (name, change) in steps {
        let mut wanted = engine.held();
        let mut next_node = 1;
        engine.now += 1_000;
        let now = UnixTime::from_micros(engine.now);
        apply(&mut wanted, &change, &mut Around { now, next_node: &mut next_node }).unwrap();
        let pins = pins_for(&wanted, &engine.metadata, &Pins::read(&engine.metadata), None, now);
        engine.write(&pins);
        let there = engine.held();
        assert!(leads_to_the_same(&there, &wanted), "{name}");
        for version in wanted.secret.versions.iter() {
            let mine = there.secret.version(version.number).unwrap();
            assert_eq!(
                (mine.activated, mine.lost),
                (version.activated, version.lost),
                "{name} {}",
                version.number
            );
        }
    }
}

#[test]
fn a_staged_version_is_never_current_and_a_stranger_s_always_is() {
    let mut engine = Engine::new();
    engine.store();
    engine.store();
    // It is said first, and stored then.
    let mut wanted = engine.held();
    let mut next_node = 1;
    apply(
        &mut wanted,
        &put(Stage::Next),
        &mut Around { now: UnixTime::from_micros(engine.now), next_node: &mut next_node },
    )
    .unwrap();
    let mut planned = engine.metadata.clone();
    planned.newest = 3;
    let created = UnixTime::from_micros(engine.now);
    planned.versions.push(KeptVersion { number: number(3), created, deletion: None, destroyed: false });
    let until = Some(UnixTime::from_micros(engine.now + 60_000_000));
    let pins = pins_for(&wanted, &planned, &Pins::default(), until, created);
    engine.write(&pins);
    assert_eq!(engine.held().secret.current, Some(number(2)), "nothing is stored yet");
    assert_eq!(engine.held().secret.next, None);
    engine.store();
    let secret = engine.held().secret;
    assert_eq!(
        (secret.current, secret.previous, secret.next),
        (Some(number(2)), Some(number(1)), Some(number(3)))
    );
    assert_eq!(secret.version(number(3)).unwrap().activated, None);
    assert_eq!(secret.version(number(2)).unwrap().lost, None);
    // Somebody who knows nothing of stages stores one more: it is current.
    engine.store();
    let secret = engine.held().secret;
    assert_eq!(
        (secret.current, secret.previous, secret.next),
        (Some(number(4)), Some(number(2)), Some(number(3)))
    );
    // What was said of a version that never came is not taken for one that a stranger stores much later.
    let mut late = Engine::new();
    late.store();
    late.store();
    late.write(&pins);
    late.now += 120_000_000;
    late.store();
    let secret = late.held().secret;
    assert_eq!((secret.current, secret.previous, secret.next), (Some(number(3)), Some(number(2)), None));
}

#[test]
fn people_may_pin_by_hand() {
    let mut engine = Engine::new();
    for _ in 0..3 {
        engine.store();
    }
    engine.metadata.custom.insert("credfs.stages".to_owned(), "current=2".to_owned());
    let secret = engine.held().secret;
    assert_eq!((secret.current, secret.previous, secret.next), (Some(number(2)), None, None));
    engine.metadata.custom.insert("credfs.stages".to_owned(), "current=9 previous=0 x".to_owned());
    assert_eq!(engine.held().secret.current, None, "what is not there is not given out in another's place");
}

#[test]
fn a_freed_path_is_no_secret_and_its_numbers_go_on() {
    let mut engine = Engine::new();
    engine.store();
    engine.store();
    engine.metadata.versions.iter_mut().for_each(|version| version.destroyed = true);
    engine.metadata.custom.insert("credfs.freed".to_owned(), "2".to_owned());
    let held = engine.held();
    assert!(held.freed && described(held, &Pins::default()).is_none());
    engine.store();
    let held = engine.held();
    assert_eq!((held.secret.versions.len(), held.secret.current), (1, Some(number(3))));
}
