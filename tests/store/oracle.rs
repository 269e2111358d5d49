//! Random changes against a model of stages, numbers and carried fields that was written without the store's code.

use std::collections::BTreeMap;

use credfs::model::{Stage, State, Version};
use credfs::store::{Change, Local, Login, Store};

use super::bench::{Directory, Hand, change, fresh, get, options, path, put_change, version};

/// Fields (none once destroyed), whether it is revoked, deleted, and was current once.
type Line = (Option<BTreeMap<String, Vec<u8>>>, bool, bool, bool);

#[derive(Default, Clone)]
struct Model {
    next_number: u32,
    exists: bool,
    deleted: bool,

    versions: BTreeMap<u32, Line>,
    current: Option<u32>,
    previous: Option<u32>,
    next: Option<u32>,
}

impl Model {
    fn active(&self, number: u32) -> bool {
        self.versions
            .get(&number)
            .is_some_and(|(fields, revoked, deleted, _)| fields.is_some() && !revoked && !deleted)
    }

    /// Applies; false: refused, and nothing changed.
    fn put(&mut self, given: &[(&str, Vec<u8>)], only: bool, staged: bool) -> bool {
        if self.exists && self.deleted {
            return false;
        }
        let base = if staged { self.next.or(self.current) } else { self.current };
        let mut fields: BTreeMap<String, Vec<u8>> = BTreeMap::new();
        if let Some(base) = base.filter(|_| !only && self.exists) {
            for (name, bytes) in self.versions[&base].0.iter().flatten() {
                if given.iter().all(|(given, _)| given != name) {
                    if !self.active(base) {
                        return false;
                    }
                    fields.insert(name.clone(), bytes.clone());
                }
            }
        }
        fields.extend(given.iter().map(|(name, bytes)| ((*name).to_owned(), bytes.clone())));
        self.exists = true;
        self.next_number += 1;
        self.versions.insert(self.next_number, (Some(fields), false, false, !staged));
        if staged {
            self.next = Some(self.next_number);
        } else {
            self.previous = self.current.or(self.previous);
            self.current = Some(self.next_number);
        }
        true
    }

    fn promote(&mut self) -> bool {
        let Some(next) = self.next.filter(|next| self.exists && !self.deleted && self.active(*next)) else {
            return false;
        };
        self.previous = self.current.or(self.previous);
        (self.current, self.next) = (Some(next), None);
        self.versions.get_mut(&next).unwrap().3 = true;
        true
    }

    fn roll_back(&mut self, to: Option<u32>) -> bool {
        let Some(target) = to.or(self.previous).filter(|_| self.exists && !self.deleted) else {
            return false;
        };
        if !self.active(target) || self.current == Some(target) {
            return false;
        }
        self.versions.get_mut(&target).unwrap().3 = true;
        self.current = Some(target);
        self.next = self.next.filter(|next| *next != target);
        let older = self.versions.range(..target).rev();
        self.previous = older.map(|(number, _)| *number).find(|n| self.active(*n) && self.versions[n].3);
        true
    }

    fn mark(&mut self, number: u32, mark: impl FnOnce(&mut bool, &mut bool)) -> bool {
        match self.versions.get_mut(&number) {
            Some((Some(_), revoked, deleted, _)) if self.exists => {
                mark(revoked, deleted);
                true
            }
            _ => false,
        }
    }

    fn destroy(&mut self, number: u32) -> bool {
        let Some(version) = self.versions.get_mut(&number) else { return false };
        version.0 = None;
        for stage in [&mut self.current, &mut self.previous, &mut self.next] {
            *stage = stage.filter(|named| *named != number);
        }
        true
    }

    fn free(&mut self) -> bool {
        let was = self.exists;
        *self = Self { next_number: self.next_number, ..Self::default() };
        was
    }

    fn compare(&self, store: &dyn Store, at: &str) {
        let known = store.known(&Login::machine(), &path(at));
        assert_eq!(known.is_some(), self.exists);
        let Some(secret) = known else { return };
        let number = |version: Option<Version>| version.map(Version::get);
        let stages = (number(secret.current), number(secret.previous), number(secret.next));
        assert_eq!(stages, (self.current, self.previous, self.next));
        assert_eq!(secret.deleted, self.deleted);
        assert_eq!(secret.versions.len(), self.versions.len());
        for (info, (number, (fields, revoked, deleted, _))) in secret.versions.iter().zip(&self.versions) {
            let state = match (fields, deleted, revoked) {
                (None, _, _) => State::Destroyed,
                (_, true, _) => State::Deleted,
                (_, _, true) => State::Revoked,
                _ => State::Active,
            };
            assert_eq!((info.number.get(), info.state), (*number, state));
            let names = info.fields.iter().map(|field| field.name.as_str().to_owned()).collect::<Vec<_>>();
            assert_eq!(names, fields.iter().flatten().map(|(name, _)| name.clone()).collect::<Vec<_>>());
            for (name, bytes) in fields.iter().flatten() {
                let got = get(store, at, *number, name);
                if state == State::Active && !self.deleted {
                    assert_eq!(&got.unwrap(), bytes);
                } else {
                    assert!(got.is_err());
                }
            }
        }
    }
}

struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        // xorshift64*, Vigna 2016
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33) % sides
    }
}

fn step(dice: &mut Dice, model: &mut Model, store: &dyn Store, at: &str) {
    let number = u32::try_from(dice.roll(u64::from(model.next_number) + 2)).unwrap().max(1);
    let secret = path(at);
    let mut expected = model.clone();
    let (agreed, change_made) = match dice.roll(16) {
        0..=5 => {
            let names = ["a", "b", "c"];
            let given: Vec<(&str, Vec<u8>)> = (0..=dice.roll(2))
                .map(|_| names[usize::try_from(dice.roll(3)).unwrap()])
                .collect::<std::collections::BTreeSet<_>>()
                .into_iter()
                .map(|name| (name, dice.roll(1_000_000).to_string().into_bytes()))
                .collect();
            let (only, staged) = (dice.roll(4) == 0, dice.roll(3) == 0);
            let fields: Vec<(&str, &[u8])> =
                given.iter().map(|(name, bytes)| (*name, bytes.as_slice())).collect();
            let stage = if staged { Stage::Next } else { Stage::Current };
            (expected.put(&given, only, staged), put_change(at, &fields, only, stage))
        }
        6 => (expected.promote(), Change::Promote { secret }),
        7..=8 => (expected.roll_back(None), Change::Rollback { secret, to: None }),
        9 => (expected.roll_back(Some(number)), Change::Rollback { secret, to: Some(version(number)) }),
        10 => (
            expected.mark(number, |revoked, _| *revoked = true),
            Change::Revoke { secret, version: version(number) },
        ),
        11 => (
            expected.mark(number, |_, deleted| *deleted = true),
            Change::Delete { secret, version: Some(version(number)) },
        ),
        12 => (
            expected.mark(number, |_, deleted| *deleted = false),
            Change::Undelete { secret, version: Some(version(number)) },
        ),
        13 => (expected.destroy(number), Change::Destroy { secret, version: Some(version(number)) }),
        14 => {
            let whole = dice.roll(2) == 0;
            let was = expected.exists;
            expected.deleted = if was { whole } else { expected.deleted };
            (
                was,
                if whole {
                    Change::Delete { secret, version: None }
                } else {
                    Change::Undelete { secret, version: None }
                },
            )
        }
        _ if dice.roll(8) == 0 => (expected.free(), Change::Destroy { secret, version: None }),
        _ => return,
    };
    let outcome = change(store, change_made);
    assert_eq!(outcome.is_ok(), agreed, "{:?}", outcome.err());
    if agreed {
        *model = expected;
    }
    model.compare(store, at);
}

#[test]
fn random_changes_lead_where_a_second_implementation_says() {
    let (directory, hand) = (Directory::new(), Hand::new());
    let mut store = fresh(&directory, &hand);
    let mut dice = Dice(0x5eed);
    let mut models = [Model::default(), Model::default()];
    for round in 0..600 {
        let which = usize::try_from(dice.roll(2)).unwrap();
        step(&mut dice, &mut models[which], &store, ["s", "s/t"][which]);
        hand.turn(i64::try_from(dice.roll(100)).unwrap() - 20);
        if round % 100 == 99 {
            drop(store);
            store = Local::open(options(&directory.file("store.db"), &hand)).unwrap();
            models.iter().zip(["s", "s/t"]).for_each(|(model, at)| model.compare(&store, at));
            assert_eq!(store.check().unwrap().faults, Vec::<String>::new());
        }
    }
}
