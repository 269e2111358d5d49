//! What a change means for versions, numbers and stages, at whatever store. Pure: no database, no clock, no value.

use std::collections::BTreeSet;

use super::{Change, StoreFault};
use crate::model::{
    FieldInfo, FieldName, FieldNode, Ownership, Secret, SecretPath, Stage, StageSet, State, UnixTime,
    Version, VersionInfo, Versions,
};
use crate::store::change::{check_count, check_put};
use crate::store::readable::readable;

/// One secret as its store holds it, with what readers need not know.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Held {
    /// What readers see. Without versions if the path is freed.
    pub(super) secret: Secret,
    /// Every version is destroyed, and the path may be used again.
    pub(super) freed: bool,
    /// The number of the next version: never one that was used before.
    pub(super) next_number: u32,
    /// The last moment at which a version became current; the next is later.
    pub(super) activated_last: UnixTime,
}

impl Held {
    /// A path never used before.
    pub(super) fn unused(path: SecretPath) -> Self {
        let secret = Secret {
            path,
            versions: Versions::default(),
            current: None,
            previous: None,
            next: None,
            deleted: false,
            changed: UnixTime::default(),
            ownership: Ownership::default(),
        };
        let activated_last = UnixTime::default();
        Self { secret, freed: true, next_number: 1, activated_last }
    }
}

/// What the semantics need from around them.
pub(super) struct Around<'a> {
    /// The wall clock.
    pub(super) now: UnixTime,
    /// The next node; moved on by what is allocated.
    pub(super) next_node: &'a mut u32,
}

/// What was decided beside the new state of the secret.
#[derive(Default)]
pub(super) struct Done {
    /// The version that the change was about.
    pub(super) version: Option<Version>,
    /// A version to be stored, with the one its carried fields come from.
    pub(super) base: Option<Version>,
    /// The fields carried over.
    pub(super) carried: Vec<FieldName>,
}

/// Applies `change` to `held`. On a fault `held` is to be thrown away.
pub(super) fn apply(held: &mut Held, change: &Change, around: &mut Around<'_>) -> Result<Done, StoreFault> {
    if held.freed && !matches!(change, Change::Put { .. }) {
        return Err(StoreFault::NoSecret(held.secret.path.clone()));
    }
    let before = held.secret.clone();
    let now = around.now;
    let done = match change {
        Change::Put { fields, only, stage, ownership, .. } => {
            put(held, fields, *only, *stage, ownership, around)?
        }
        Change::Promote { .. } => promote(held, now)?,
        Change::Rollback { to, .. } => roll_back(held, *to, now)?,
        Change::Revoke { version, .. } => revoke(held, *version)?,
        Change::Delete { version, .. } => delete(held, *version)?,
        Change::Undelete { version, .. } => undelete(held, *version)?,
        Change::Destroy { version, .. } => destroy(held, *version, now)?,
    };
    if held.secret != before {
        held.secret.changed = before.changed.max(now).max(held.activated_last);
    }
    Ok(done)
}

/// Where the stages point.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Stages {
    pub(super) current: Option<Version>,
    pub(super) previous: Option<Version>,
    pub(super) next: Option<Version>,
}

impl Stages {
    pub(super) fn of(secret: &Secret) -> Self {
        Self { current: secret.current, previous: secret.previous, next: secret.next }
    }

    /// The versions they point to.
    fn named(self) -> impl Iterator<Item = Version> {
        [self.current, self.previous, self.next].into_iter().flatten()
    }

    /// The stages that point to `number`.
    fn naming(self, number: Version) -> StageSet {
        let points =
            [(Stage::Current, self.current), (Stage::Previous, self.previous), (Stage::Next, self.next)];
        let ours = points.into_iter().filter(|(_, named)| *named == Some(number));
        ours.fold(StageSet::EMPTY, |set, (stage, _)| set.with(stage))
    }
}

/// Points the stages elsewhere: notes what each version lost, and when the new current one became so.
pub(super) fn restage(held: &mut Held, to: Stages, now: UnixTime) {
    let from = Stages::of(&held.secret);
    (held.secret.current, held.secret.previous, held.secret.next) = (to.current, to.previous, to.next);
    // No other version gains or loses anything.
    let named: BTreeSet<Version> = from.named().chain(to.named()).collect();
    for number in named {
        let Some(version) = held.secret.versions.get_mut(number) else { continue };
        let missing_from = |set: StageSet, other: StageSet| {
            set.iter().filter(|stage| !other.contains(*stage)).fold(StageSet::EMPTY, StageSet::with)
        };
        let (was_held, now_held) = (from.naming(number), to.naming(number));
        let (lost, gained) = (missing_from(was_held, now_held), missing_from(now_held, was_held));
        if !lost.is_empty() {
            // Only what is lost now: an older loss must not be given a new time.
            version.lost = Some((now, lost));
        } else if let Some((when, stages)) = version.lost {
            let left = missing_from(stages, gained);
            version.lost = (!left.is_empty()).then_some((when, left));
        }
        if gained.contains(Stage::Current) {
            let later = UnixTime::from_micros(held.activated_last.micros().saturating_add(1));
            held.activated_last = now.max(later);
            version.activated = Some(held.activated_last);
        }
    }
}

fn put(
    held: &mut Held,
    given: &[(FieldName, crate::model::SecretBytes)],
    only: bool,
    stage: Stage,
    ownership: &Ownership,
    around: &mut Around<'_>,
) -> Result<Done, StoreFault> {
    let path = held.secret.path.clone();
    if held.secret.deleted {
        return Err(StoreFault::SecretDeleted(path));
    }
    let (mut lengths, names) = check_put(given, stage)?;
    let base = held.secret.at(stage).or(held.secret.current).filter(|_| !only);
    let carried = carried_from(&held.secret, base, &names)?;
    let carried_names = carried.iter().map(|(name, _)| name.clone()).collect();
    lengths.extend(carried);
    lengths.sort();
    let number = new_number(held)?;
    let fields = allocate(&path, lengths, around.next_node)?;
    held.freed = false;
    held.secret.versions.push(VersionInfo {
        number,
        created: around.now,
        activated: None,
        lost: None,
        state: State::Active,
        revoked: false,
        fields: fields.into(),
    });
    let mut stages = Stages::of(&held.secret);
    if stage == Stage::Current {
        advance(&mut stages, number);
    } else {
        stages.next = Some(number);
    }
    restage(held, stages, around.now);
    describe(&mut held.secret.ownership, ownership);
    Ok(Done { version: Some(number), base, carried: carried_names })
}

/// Makes `number` current and what was current previous.
pub(super) fn advance(stages: &mut Stages, number: Version) {
    if stages.current.is_some() {
        stages.previous = stages.current;
    }
    if stages.next == Some(number) {
        stages.next = None;
    }
    stages.current = Some(number);
}

fn carried_from(
    secret: &Secret,
    base: Option<Version>,
    given: &BTreeSet<&FieldName>,
) -> Result<Vec<(FieldName, u64)>, StoreFault> {
    let Some(base) = base.and_then(|number| secret.version(number)) else { return Ok(Vec::new()) };
    let carried: Vec<_> = base
        .fields
        .iter()
        .filter(|field| !given.contains(&field.name))
        .map(|field| (field.name.clone(), field.bytes.unwrap_or(0)))
        .collect();
    if base.state != State::Active && !carried.is_empty() {
        let (number, path) = (base.number, &secret.path);
        return Err(StoreFault::Invalid(format!(
            "version {number} of {path} may not be read any more, so its fields cannot be carried over: \
             name every field, or use --only"
        )));
    }
    Ok(carried)
}

fn new_number(held: &mut Held) -> Result<Version, StoreFault> {
    let spent = StoreFault::TooLarge {
        what: "the number of versions of one path",
        limit: "4294967295",
        remedy: "use another path",
    };
    let number = Version::new(held.next_number).ok_or(spent.clone())?;
    held.next_number = held.next_number.checked_add(1).ok_or(spent)?;
    Ok(number)
}

fn allocate(
    path: &SecretPath,
    lengths: Vec<(FieldName, u64)>,
    next_node: &mut u32,
) -> Result<Vec<FieldInfo>, StoreFault> {
    check_count(path, lengths.len())?;
    let mut fields = Vec::with_capacity(lengths.len());
    for (name, bytes) in lengths {
        let node = FieldNode::new(*next_node).ok_or(StoreFault::TooLarge {
            what: "the number of fields ever stored",
            limit: "268435455",
            remedy: "start a new store beside this one",
        })?;
        *next_node += 1;
        fields.push(FieldInfo { name, bytes: Some(bytes), node });
    }
    Ok(fields)
}

fn describe(ownership: &mut Ownership, given: &Ownership) {
    if given.owner.is_some() {
        ownership.owner.clone_from(&given.owner);
    }
    ownership.impact = given.impact.or(ownership.impact);
    ownership.rotate_every = given.rotate_every.or(ownership.rotate_every);
    ownership.grace = given.grace.or(ownership.grace);
}

/// A version that is kept no longer than it may still be read: its number, and when it lost its last stage.
pub(super) type Surplus = (Version, UnixTime);

/// The oldest versions without a stage, as many as have bytes beyond `keep` (0: none).
pub(super) fn surplus(secret: &Secret, keep: u32) -> Vec<Surplus> {
    if keep == 0 || secret.versions.len() <= keep as usize {
        return Vec::new();
    }
    let with_bytes = || secret.versions.iter().filter(|version| version.state != State::Destroyed);
    let count = with_bytes().count().saturating_sub(keep as usize);
    with_bytes()
        .filter(|version| secret.stages_of(version.number).is_empty())
        .map(|version| (version.number, version.lost.map_or(version.created, |(when, _)| when)))
        .take(count)
        .collect()
}

/// Destroys those versions beyond `keep` that lost their last stage before `since`.
pub(super) fn retire(held: &mut Held, keep: u32, since: UnixTime, now: UnixTime) {
    let before = held.secret.clone();
    for (number, _) in surplus(&before, keep).into_iter().filter(|(_, lost)| *lost < since) {
        destroy_version(held, number, now);
    }
    if held.secret != before {
        held.secret.changed = before.changed.max(now).max(held.activated_last);
    }
}

fn promote(held: &mut Held, now: UnixTime) -> Result<Done, StoreFault> {
    let secret = live(held)?;
    let next = secret.next.ok_or(StoreFault::NoStage(secret.path.clone(), "next"))?;
    readable(secret, next)?;
    let mut stages = Stages::of(secret);
    advance(&mut stages, next);
    restage(held, stages, now);
    Ok(about(next))
}

fn roll_back(held: &mut Held, to: Option<Version>, now: UnixTime) -> Result<Done, StoreFault> {
    let secret = live(held)?;
    let target = to.or(secret.previous).ok_or(StoreFault::NoStage(secret.path.clone(), "previous"))?;
    if secret.current == Some(target) {
        let path = &secret.path;
        return Err(StoreFault::Invalid(format!("version {target} of {path} is current already")));
    }
    readable(secret, target)?;
    let previous = secret
        .versions
        .iter()
        .rev()
        .find(|version| {
            version.number < target && version.state == State::Active && version.activated.is_some()
        })
        .map(|version| version.number);
    let next = secret.next.filter(|next| *next != target);
    restage(held, Stages { current: Some(target), previous, next }, now);
    Ok(about(target))
}

fn revoke(held: &mut Held, number: Version) -> Result<Done, StoreFault> {
    let version = version_mut(&mut held.secret, number)?;
    if version.state == State::Active {
        version.state = State::Revoked;
    }
    version.revoked = true;
    Ok(about(number))
}

fn delete(held: &mut Held, number: Option<Version>) -> Result<Done, StoreFault> {
    let Some(number) = number else {
        held.secret.deleted = true;
        return Ok(Done::default());
    };
    version_mut(&mut held.secret, number)?.state = State::Deleted;
    Ok(about(number))
}

fn undelete(held: &mut Held, number: Option<Version>) -> Result<Done, StoreFault> {
    let Some(number) = number else {
        held.secret.deleted = false;
        return Ok(Done::default());
    };
    let version = version_mut(&mut held.secret, number)?;
    version.state = if version.revoked { State::Revoked } else { State::Active };
    Ok(about(number))
}

fn destroy(held: &mut Held, number: Option<Version>, now: UnixTime) -> Result<Done, StoreFault> {
    let Some(number) = number else {
        held.freed = true;
        held.secret.versions.clear();
        (held.secret.current, held.secret.previous, held.secret.next) = (None, None, None);
        held.secret.deleted = false;
        held.secret.ownership = Ownership::default();
        return Ok(Done::default());
    };
    if held.secret.version(number).is_none() {
        return Err(StoreFault::NoVersion(held.secret.path.clone(), number));
    }
    destroy_version(held, number, now);
    Ok(about(number))
}

fn destroy_version(held: &mut Held, number: Version, now: UnixTime) {
    let without = |stage: Option<Version>| stage.filter(|named| *named != number);
    let Stages { current, previous, next } = Stages::of(&held.secret);
    let stages = Stages { current: without(current), previous: without(previous), next: without(next) };
    restage(held, stages, now);
    if let Some(version) = held.secret.versions.get_mut(number) {
        version.state = State::Destroyed;
        version.fields = [].into();
    }
}

fn about(version: Version) -> Done {
    Done { version: Some(version), ..Done::default() }
}

fn live(held: &Held) -> Result<&Secret, StoreFault> {
    if held.secret.deleted {
        return Err(StoreFault::SecretDeleted(held.secret.path.clone()));
    }
    Ok(&held.secret)
}

fn version_mut(secret: &mut Secret, number: Version) -> Result<&mut VersionInfo, StoreFault> {
    let path = secret.path.clone();
    match secret.versions.get_mut(number) {
        None => Err(StoreFault::NoVersion(path, number)),
        Some(version) if version.state == State::Destroyed => Err(StoreFault::Destroyed(path, number)),
        Some(version) => Ok(version),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::SecretBytes;

    #[test]
    fn the_last_node_is_handed_out_and_then_putting_is_refused() {
        let path = SecretPath::parse("s").unwrap();
        let mut held = Held::unused(path.clone());
        let mut next_node = FieldNode::MAX;
        let put = Change::Put {
            secret: path,
            fields: vec![(FieldName::parse("f").unwrap(), SecretBytes::taken_from(&mut [1]))],
            only: true,
            stage: Stage::Current,
            ownership: Ownership::default(),
        };
        let mut once = || {
            let now = UnixTime::from_micros(1);
            apply(&mut held, &put, &mut Around { now, next_node: &mut next_node })
        };
        assert!(once().is_ok());
        assert!(matches!(once(), Err(StoreFault::TooLarge { .. })));
    }
}
