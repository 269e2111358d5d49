//! What is remembered, as records: for the sealed file on disk, and for what a worker leaves to its successor.
//!
//! ```text
//! each: u8 kind | mark: boot id as text, i64 µs since boot, i64 µs since 1970 | …
//! 1 secret   path | u8 described | u8 numbered | versions | stages | … what `Secret` holds, without nodes
//! 2 value    login as text | path | u32 version | i64 age in µs at the mark | request id? | u32 count | per field: name, bytes
//! 3 vouched  login as text | path | u32 version: given again by its engine at the mark
//! 4 dropped  login as text ("": all) | path | u32 version (0: all): not to be given any more
//! 5 gone     path
//! 6 tick     nothing but its mark: so that time that passed is not lost with a clock that goes back
//! 7 user     login as text | consumer as JSON: for a successor alone, within one boot
//! ```
//!
//! Ages add up from mark to mark (`Mark::until_us`): while a process ran, the boot clock says how much older everything
//! became, whatever was done to the wall clock; between two boots, what the wall clock went forward. So a clock that was
//! set back can hide no more than the time the machine was off.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use zeroize::Zeroizing;

use super::clocks::Mark;
use super::codec::{In, Out};
use super::held::{Entry, Held};
use crate::model::{
    Consumer, FieldName, Impact, Ownership, SecretBytes, SecretPath, Stage, StageSet, State, UnixTime,
    Version,
};
use crate::store::{DescribedVersion, Description, Login};

const SECRET: u8 = 1;
const VALUE: u8 = 2;
const VOUCHED: u8 = 3;
const DROPPED: u8 = 4;
const GONE: u8 = 5;
const TICK: u8 = 6;
const USER: u8 = 7;

/// One record.
pub(super) type Record = Zeroizing<Vec<u8>>;

fn begun(kind: u8, mark: &Mark, room_bytes: usize) -> Out {
    let mut out = Out::of(kind, room_bytes + 64);
    out.bytes(&mark.boot_id).i64(mark.boot_us).time(mark.wall);
    out
}

/// What is known of a secret.
pub(super) fn of_secret(mark: &Mark, entry: &Entry) -> Record {
    let secret = &entry.secret;
    let mut out = begun(SECRET, mark, 256);
    out.text(secret.path.as_str()).u8(u8::from(entry.is_described)).u8(u8::from(entry.is_numbered));
    out.option(entry.reader.as_ref(), |out, login| out.text(login.as_str()));
    out.u8(u8::from(secret.deleted)).time(secret.changed);
    out.version(secret.current).version(secret.previous).version(secret.next);
    let ownership = &secret.ownership;
    out.option(ownership.owner.as_deref(), |out, owner| out.text(owner));
    out.u8(Impact::to_code(ownership.impact));
    for span in [ownership.rotate_every, ownership.grace] {
        out.option(span, |out, span| out.i64(i64::try_from(span.as_micros()).unwrap_or(i64::MAX)));
    }
    out.u32(u32::try_from(secret.versions.len()).unwrap_or(0));
    for version in secret.versions.iter() {
        out.version(Some(version.number)).time(version.created);
        out.option(version.activated, |out, time| out.time(time));
        out.option(version.lost, |out, (when, stages)| out.time(when).u8(bits(stages)));
        out.u8(version.state as u8).u8(u8::from(version.revoked));
        out.u8(u8::from(entry.is_exact(version.number)));
        out.u32(u32::try_from(version.fields.len()).unwrap_or(0));
        for field in version.fields.iter() {
            out.text(field.name.as_str());
            out.option(field.bytes, |out, bytes| out.i64(i64::try_from(bytes).unwrap_or(0)));
        }
    }
    out.done()
}

/// A value that is held. It lies open in the record.
pub(super) fn of_value(mark: &Mark, path: &SecretPath, held: &Held) -> Record {
    let values: usize = held.fields.iter().map(|(name, value)| name.as_str().len() + value.len() + 16).sum();
    let mut out = begun(VALUE, mark, values + path.as_str().len() + 256);
    out.text(held.login.as_str()).text(path.as_str()).version(Some(held.version));
    out.i64(mark.boot_us.saturating_sub(held.vouched_us));
    out.option(held.request_id.as_deref(), |out, id| out.text(id));
    out.u32(u32::try_from(held.fields.len()).unwrap_or(0));
    for (name, value) in &held.fields {
        out.text(name.as_str()).bytes(value.expose());
    }
    out.done()
}

/// A value that its engine gave again.
pub(super) fn of_vouched(mark: &Mark, path: &SecretPath, held: &Held) -> Record {
    let mut out = begun(VOUCHED, mark, 128);
    out.text(held.login.as_str()).text(path.as_str()).version(Some(held.version));
    out.done()
}

/// Values that may not be given any more.
pub(super) fn of_dropped(
    mark: &Mark,
    login: Option<&Login>,
    path: &SecretPath,
    version: Option<Version>,
) -> Record {
    let mut out = begun(DROPPED, mark, 128);
    out.text(login.map_or("", |login| login.as_str())).text(path.as_str()).version(version);
    out.done()
}

/// A secret that is no more.
pub(super) fn of_gone(mark: &Mark, path: &SecretPath) -> Record {
    let mut out = begun(GONE, mark, 64);
    out.text(path.as_str());
    out.done()
}

/// A moment.
pub(super) fn of_tick(mark: &Mark) -> Record {
    begun(TICK, mark, 0).done()
}

/// Somebody who uses a login.
pub(super) fn of_user(mark: &Mark, login: &Login, consumer: &Consumer) -> Option<Record> {
    let consumer = serde_json::to_vec(consumer).ok()?;
    let mut out = begun(USER, mark, login.as_str().len() + consumer.len() + 16);
    out.text(login.as_str()).bytes(&consumer);
    Some(out.done())
}

fn bits(stages: StageSet) -> u8 {
    Stage::ALL.into_iter().enumerate().map(|(at, stage)| u8::from(stages.contains(stage)) << at).sum()
}

fn stages(bits: u8) -> StageSet {
    let named = Stage::ALL.into_iter().enumerate().filter(|(at, _)| bits >> at & 1 == 1);
    named.fold(StageSet::EMPTY, |set, (_, stage)| set.with(stage))
}

/// What was known of a secret.
pub(super) struct ReadSecret {
    pub(super) said: Description,
    pub(super) exact: Vec<Version>,
    pub(super) is_described: bool,
    pub(super) is_numbered: bool,
    pub(super) reader: Option<Login>,
}

struct ReadValue {
    fields: Box<[(FieldName, SecretBytes)]>,
    request_id: Option<Arc<str>>,
    /// When it was vouched for, on the line of marks.
    vouched_line_us: i64,
}

/// Reads records in their order, and works out how old everything is.
#[derive(Default)]
pub(super) struct Reading {
    /// How far the line of marks goes, in microseconds.
    line_us: i64,
    last: Option<Mark>,
    pub(super) secrets: BTreeMap<SecretPath, ReadSecret>,
    values: BTreeMap<(SecretPath, Box<str>, Version), ReadValue>,
    pub(super) users: Vec<(Login, Consumer)>,
}

impl Reading {
    /// Reads one record; `None` where it makes no sense.
    pub(super) fn read(&mut self, record: &[u8]) -> Option<()> {
        let mut from = In(record);
        let kind = from.u8()?;
        let mark = Mark { boot_id: from.bytes()?.into(), boot_us: from.i64()?, wall: from.time()? };
        self.go_on_to(mark);
        match kind {
            SECRET => {
                let path = from.path()?;
                let secret = read_secret(&mut from)?;
                self.secrets.insert(path, secret);
            }
            VALUE => {
                let (login, path) = (from.text()?.into(), from.path()?);
                let version = from.version()??;
                let vouched_line_us = self.line_us.saturating_sub(from.i64()?.max(0));
                let request_id = from.option(|from| from.text().map(Arc::from))?;
                let count = from.u32()?;
                let fields = (0..count).map(|_| Some((from.field()?, read_value(from.bytes()?)?)));
                let fields: Box<[_]> = fields.collect::<Option<Vec<_>>>()?.into();
                self.values.insert((path, login, version), ReadValue { fields, request_id, vouched_line_us });
            }
            VOUCHED => {
                let (login, path) = (from.text()?.into(), from.path()?);
                let version = from.version()??;
                if let Some(value) = self.values.get_mut(&(path, login, version)) {
                    value.vouched_line_us = self.line_us;
                }
            }
            DROPPED => {
                let (login, path) = (from.text()?, from.path()?);
                let version = from.version()?;
                self.values.retain(|(at, of, number), _| {
                    *at != path
                        || (!login.is_empty() && **of != *login)
                        || version.is_some_and(|version| version != *number)
                });
            }
            GONE => {
                let path = from.path()?;
                self.secrets.remove(&path);
                self.values.retain(|(at, ..), _| *at != path);
            }
            TICK => {}
            USER => {
                let login = Login::named(from.text()?);
                self.users.push((login, serde_json::from_slice(from.bytes()?).ok()?));
            }
            _ => return None,
        }
        Some(())
    }

    fn go_on_to(&mut self, mark: Mark) {
        if let Some(last) = &self.last {
            self.line_us = self.line_us.saturating_add(last.until_us(&mark));
        }
        self.last = Some(mark);
    }

    /// The values, each with its secret, as old as they are at `now`.
    pub(super) fn values_at(&mut self, now: Mark) -> Vec<(SecretPath, Held)> {
        let now_us = now.boot_us;
        self.go_on_to(now);
        let line_us = self.line_us;
        std::mem::take(&mut self.values)
            .into_iter()
            .map(|((path, login, version), value)| {
                let age_us = line_us.saturating_sub(value.vouched_line_us);
                let held = Held {
                    login: Login::named(&login),
                    version,
                    fields: value.fields,
                    vouched_us: now_us.saturating_sub(age_us),
                    is_left: true,
                    request_id: value.request_id,
                    used_us: AtomicI64::new(now_us.saturating_sub(age_us)),
                };
                held.used_us.fetch_min(now_us, Ordering::Relaxed);
                (path, held)
            })
            .collect()
    }
}

fn read_value(bytes: &[u8]) -> Option<SecretBytes> {
    let copied = SecretBytes::filled_by(bytes.len(), |place| {
        place.copy_from_slice(bytes);
        Ok::<(), ()>(())
    });
    copied.ok()
}

fn read_secret(from: &mut In<'_>) -> Option<ReadSecret> {
    let (is_described, is_numbered) = (from.u8()? != 0, from.u8()? != 0);
    let reader = from.option(|from| from.text().map(Login::named))?;
    let (deleted, changed) = (from.u8()? != 0, from.time()?);
    let (current, previous, next) = (from.version()?, from.version()?, from.version()?);
    let owner = from.option(|from| from.text().map(str::to_owned))?;
    let impact = Impact::from_code(from.u8()?)?;
    let mut span = || from.option(|from| Some(Duration::from_micros(u64::try_from(from.i64()?).ok()?)));
    let (rotate_every, grace) = (span()?, span()?);
    let mut exact = Vec::new();
    let count = from.u32()?;
    let versions = (0..count).map(|_| read_version(from, &mut exact)).collect::<Option<Vec<_>>>()?;
    let ownership = Ownership { owner, impact, rotate_every, grace };
    let said = Description { versions, current, previous, next, deleted, changed, ownership };
    Some(ReadSecret { said, exact, is_described, is_numbered, reader })
}

fn read_version(from: &mut In<'_>, exact: &mut Vec<Version>) -> Option<DescribedVersion> {
    let (number, created): (Version, UnixTime) = (from.version()??, from.time()?);
    let activated = from.option(In::time)?;
    let lost = from.option(|from| Some((from.time()?, stages(from.u8()?))))?;
    let state = match from.u8()? {
        0 => State::Active,
        1 => State::Revoked,
        2 => State::Deleted,
        3 => State::Destroyed,
        _ => return None,
    };
    let revoked = from.u8()? != 0;
    if from.u8()? != 0 {
        exact.push(number);
    }
    let count = from.u32()?;
    let fields = (0..count).map(|_| {
        let name = from.field()?;
        let bytes = from.option(In::i64)?;
        Some((name, bytes.and_then(|bytes| u64::try_from(bytes).ok())))
    });
    let fields = Some(fields.collect::<Option<Vec<_>>>()?);
    Some(DescribedVersion { number, created, activated, lost, state, revoked, fields })
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: i64 = 1_000_000;

    fn mark(boot: &str, boot_s: i64, wall_s: i64) -> Mark {
        Mark {
            boot_id: boot.as_bytes().into(),
            boot_us: boot_s * SECOND,
            wall: UnixTime::from_micros(wall_s * SECOND),
        }
    }

    fn path() -> SecretPath {
        SecretPath::parse("a/b").unwrap()
    }

    fn held(vouched_s: i64) -> Held {
        Held {
            login: Login::of_identity("orders"),
            version: Version::new(3).unwrap(),
            fields: [(FieldName::parse("f").unwrap(), SecretBytes::taken_from(&mut b"hunter2".to_vec()))]
                .into(),
            vouched_us: vouched_s * SECOND,
            is_left: false,
            request_id: Some("r".into()),
            used_us: AtomicI64::new(0),
        }
    }

    fn age_s(records: &[Record], now: Mark) -> Option<i64> {
        let mut reading = Reading::default();
        records.iter().for_each(|record| reading.read(record).unwrap());
        let now_us = now.boot_us;
        reading.values_at(now).first().map(|(_, held)| (now_us - held.vouched_us) / SECOND)
    }

    #[test]
    fn ages_add_up_over_boots_and_no_clock_makes_anything_younger() {
        let value = of_value(&mark("a", 100, 1_000), &path(), &held(95));
        let in_a = [value.clone()];
        assert_eq!(
            age_s(&in_a, mark("a", 130, 9_000)),
            Some(35),
            "the wall clock says nothing within a boot"
        );
        assert_eq!(age_s(&in_a, mark("b", 5, 1_060)), Some(65));
        assert_eq!(age_s(&in_a, mark("b", 5, 100)), Some(5), "a clock set back hides the time off alone");
        // An hour in an outage, ticks each minute, and a reboot with the clock two hours back.
        let mut ticked = vec![value.clone()];
        ticked.extend((1..=60).map(|minute| of_tick(&mark("a", 100 + 60 * minute, 1_000 + 60 * minute))));
        assert_eq!(
            age_s(&ticked, mark("b", 5, -3_600)),
            Some(5 + 3_600),
            "what was lived through is not lost"
        );
        // Reboot upon reboot, each an hour back: what each lived through adds up.
        ticked.push(of_tick(&mark("b", 5, -3_600)));
        ticked.push(of_tick(&mark("b", 1_805, -1_800)));
        assert_eq!(age_s(&ticked, mark("c", 1, -9_000)), Some(5 + 3_600 + 1_800));
        let vouched = [value, of_vouched(&mark("a", 150, 1_050), &path(), &held(150))];
        assert_eq!(age_s(&vouched, mark("a", 160, 0)), Some(10));
    }

    #[test]
    fn what_was_dropped_does_not_come_back() {
        let at = mark("a", 100, 1_000);
        let value = of_value(&at, &path(), &held(95));
        let (login, other) = (Login::of_identity("orders"), Login::machine());
        let version = held(0).version;
        for (record, stays) in [
            (of_dropped(&at, Some(&login), &path(), None), false),
            (of_dropped(&at, None, &path(), None), false),
            (of_dropped(&at, None, &path(), Some(version)), false),
            (of_dropped(&at, Some(&other), &path(), None), true),
            (of_dropped(&at, None, &path(), Version::new(4)), true),
            (of_dropped(&at, None, &SecretPath::parse("a").unwrap(), None), true),
            (of_gone(&at, &path()), false),
        ] {
            assert_eq!(age_s(&[value.clone(), record], at.clone()).is_some(), stays);
        }
    }

    #[test]
    fn a_record_cut_anywhere_is_refused_and_never_a_panic() {
        let at = mark("a", 100, 1_000);
        let mut entry = Entry::of(super::super::held::sighted(path()));
        entry.reader = Some(Login::machine());
        let user = of_user(&at, &Login::machine(), &Consumer::Process { pid: 1, origin: 2 }).unwrap();
        for record in [of_value(&at, &path(), &held(95)), of_secret(&at, &entry), user] {
            for cut in 0..record.len() {
                assert!(Reading::default().read(&record[..cut]).is_none(), "{cut}");
            }
            assert!(Reading::default().read(&record).is_some());
        }
    }
}
