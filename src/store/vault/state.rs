//! What a secret is, by what its engine says and what is written beside it; and what must be written for it to be so. Pure.

use super::metadata::Metadata;
use super::pins::{Pins, StagePin, is_in, ranges_of};
use crate::model::{Secret, SecretPath, StageSet, State, UnixTime, Version, VersionInfo};
use crate::store::semantics::{Held, Stages, advance, restage};
use crate::store::{DescribedVersion, Description};

/// The secret that metadata and pins describe. Versions have no fields here: the engine does not tell them.
pub(super) fn held(path: &SecretPath, metadata: &Metadata, pins: &Pins, now: UnixTime) -> Held {
    let mut held = Held::unused(path.clone());
    let known: Vec<_> =
        metadata.versions.iter().filter(|version| version.number.get() > pins.freed).collect();
    let (deleted_upto, hidden) =
        pins.deleted.as_ref().map_or((0, &[][..]), |(upto, hidden)| (*upto, hidden.as_slice()));
    // Whoever stored a version after the secret was deleted brought it back.
    let is_deleted = pins.deleted.is_some() && metadata.newest <= deleted_upto && !known.is_empty();
    for version in &known {
        let number = version.number;
        let revoked = is_in(&pins.revoked, number);
        let is_gone = version.deletion.is_some_and(|when| when <= now);
        let state = match () {
            () if version.destroyed => State::Destroyed,
            () if is_gone && !(is_deleted && is_in(hidden, number)) => State::Deleted,
            () if revoked => State::Revoked,
            () => State::Active,
        };
        held.secret.versions.push(VersionInfo {
            number,
            created: version.created,
            activated: None,
            lost: None,
            state,
            revoked,
            fields: [].into(),
        });
    }
    let is_covered = |number: Version, created: UnixTime| {
        pins.stages.is_some_and(|pin| match pin.upto {
            None => true,
            Some(upto) if number.get() == upto => pin.until.is_none_or(|until| created <= until),
            Some(upto) => number.get() < upto,
        })
    };
    let mut stages = Stages { current: None, previous: None, next: None };
    let mut last_covered = None;
    let mut is_pinned = false;
    for version in &known {
        let covered = is_covered(version.number, version.created);
        if !covered && !is_pinned {
            pin(&mut held, pins, &mut stages, last_covered, &is_covered);
            is_pinned = true;
        }
        if covered {
            last_covered = Some(version.created);
            if pins.activated.get(&version.number) == Some(&None) {
                continue;
            }
        }
        advance(&mut stages, version.number);
        restage(&mut held, stages, version.created);
    }
    if !is_pinned {
        pin(&mut held, pins, &mut stages, last_covered, &is_covered);
    }
    let secret = &mut held.secret;
    let with_bytes = |secret: &Secret, stage: Option<Version>| {
        stage
            .filter(|number| secret.version(*number).is_some_and(|version| version.state != State::Destroyed))
    };
    secret.current = with_bytes(secret, secret.current);
    secret.previous = with_bytes(secret, secret.previous);
    secret.next = with_bytes(secret, secret.next);
    secret.deleted = is_deleted;
    secret.ownership = pins.ownership.clone();
    let activated = secret.versions.iter().filter_map(|version| version.activated).max();
    held.activated_last = activated.unwrap_or_default();
    secret.changed = metadata.updated.max(held.activated_last);
    held.freed = known.is_empty();
    held.next_number = metadata.newest.saturating_add(1);
    held
}

/// Points the stages where it is written, and takes over what is written of the versions that this covers.
fn pin(
    held: &mut Held,
    pins: &Pins,
    stages: &mut Stages,
    last_covered: Option<UnixTime>,
    is_covered: &dyn Fn(Version, UnixTime) -> bool,
) {
    let Some(pin) = pins.stages else { return };
    let Some(when) = last_covered else { return };
    let meant = |held: &Held, number: Option<Version>| {
        number.filter(|number| held.secret.version(*number).is_some_and(|v| is_covered(*number, v.created)))
    };
    *stages = Stages {
        current: meant(held, pin.current),
        previous: meant(held, pin.previous),
        next: meant(held, pin.next),
    };
    restage(held, *stages, when);
    let numbers: Vec<Version> = held.secret.versions.iter().map(|version| version.number).collect();
    for number in numbers {
        let stands = held.secret.stages_of(number);
        let Some(version) = held.secret.versions.get_mut(number) else { continue };
        if let Some(when) = pins.activated.get(&number) {
            version.activated = *when;
        }
        if let Some((when, stages)) = pins.lost.get(&number) {
            let left = stages.iter().filter(|stage| !stands.contains(*stage));
            let left = left.fold(StageSet::EMPTY, StageSet::with);
            version.lost = (!left.is_empty()).then_some((*when, left));
        }
    }
}

/// What must be written beside a secret for `held` to be read there again. `metadata` is the engine's, with the version
/// that is about to be stored, if one is. `until`: by when that must have been done.
pub(super) fn pins_for(
    held: &Held,
    metadata: &Metadata,
    before: &Pins,
    until: Option<UnixTime>,
    now: UnixTime,
) -> Pins {
    let secret = &held.secret;
    let freed = if held.freed { metadata.newest } else { before.freed };
    let mut pins = Pins {
        stages: (!held.freed).then_some(StagePin {
            upto: Some(metadata.newest),
            until,
            current: secret.current,
            previous: secret.previous,
            next: secret.next,
        }),
        revoked: ranges_of(
            secret.versions.iter().filter(|version| version.revoked).map(|version| version.number),
        ),
        freed,
        ownership: secret.ownership.clone(),
        fields: before
            .fields
            .iter()
            .filter(|(of, _)| of.is_none_or(|of| !secret.stages_of(of).is_empty()))
            .cloned()
            .collect(),
        ..Pins::default()
    };
    if secret.deleted {
        let hidden = |version: &&VersionInfo| matches!(version.state, State::Active | State::Revoked);
        let hidden = secret.versions.iter().filter(hidden).map(|version| version.number);
        pins.deleted = Some((metadata.newest, ranges_of(hidden)));
    }
    // What would be read anyway need not be written: only the rest is. Those that never were current first, for they
    // decide what the others are taken for.
    for version in secret.versions.iter().filter(|version| version.activated.is_none()) {
        pins.activated.insert(version.number, None);
    }
    let plain = self::held(&secret.path, metadata, &pins, now);
    for version in secret.versions.iter() {
        let Some(taken) = plain.secret.version(version.number) else { continue };
        if taken.activated != version.activated {
            pins.activated.insert(version.number, version.activated);
        }
        if taken.lost != version.lost
            && let Some(lost) = version.lost
        {
            pins.lost.insert(version.number, lost);
        }
    }
    pins
}

/// Whether two states lead readers to the same: of what was just stored the times are the server's.
pub(super) fn leads_to_the_same(one: &Held, other: &Held) -> bool {
    let (left, right) = (&one.secret, &other.secret);
    let says = |secret: &Secret| -> Vec<(Version, State, bool, bool)> {
        let told = |version: &VersionInfo| {
            (version.number, version.state, version.revoked, version.activated.is_some())
        };
        secret.versions.iter().map(told).collect()
    };
    Stages::of(left) == Stages::of(right)
        && left.deleted == right.deleted
        && left.ownership == right.ownership
        && one.freed == other.freed
        && says(left) == says(right)
}

/// The description for those who ask. `None`: there is no such secret.
pub(super) fn described(held: Held, pins: &Pins) -> Option<Description> {
    if held.freed {
        return None;
    }
    let Secret { versions, current, previous, next, deleted, changed, ownership, .. } = held.secret;
    let versions = versions
        .iter()
        .map(|version| {
            let names = pins.fields_of(version.number).filter(|_| version.state != State::Destroyed);
            let fields = names.map(|names| names.iter().map(|name| (name.clone(), None)).collect());
            DescribedVersion::of(version, fields)
        })
        .collect();
    Some(Description { versions, current, previous, next, deleted, changed, ownership })
}

/// The same with the times at which versions lost their stages by our clock, which decides how long they may still be read.
pub(super) fn by_our_clock(mut description: Description, ahead_us: i64) -> Description {
    for version in &mut description.versions {
        if let Some((when, _)) = &mut version.lost {
            *when = UnixTime::from_micros(when.micros().saturating_add(ahead_us));
        }
    }
    description
}

/// Whether a version is hidden only because the whole secret is.
pub(super) fn hidden_with_the_secret(held: &Held) -> Vec<Version> {
    let hidden = held.secret.versions.iter();
    hidden
        .filter(|version| matches!(version.state, State::Active | State::Revoked))
        .map(|version| version.number)
        .collect()
}

#[cfg(test)]
#[path = "state_tests.rs"]
mod tests;
