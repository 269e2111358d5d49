//! From what an engine says of a secret, and what was known of it, to what is known now. What an engine does not say (which
//! stage a version lost and when, when it became current) this machine notes as it sees it.

use super::numbers::{Content, Numbers};
use crate::model::{
    FieldInfo, FieldName, Secret, SecretPath, Stage, StageSet, State, UnixTime, Version, VersionInfo,
};
use crate::store::{DescribedVersion, Description, StoreFault};

/// Names of fields and their lengths in bytes, as far as they are known.
pub(super) type Fields = Vec<(FieldName, Option<u64>)>;

/// What was known before.
pub(super) struct Before<'a> {
    pub(super) secret: Option<&'a Secret>,
    /// Versions whose fields are all known.
    pub(super) exact: &'a [Version],
}

/// What is known now.
pub(super) struct Merged {
    pub(super) secret: Secret,
    pub(super) exact: Vec<Version>,
}

/// Puts together what is known; numbers the fields that are new. `learned`: every field of one version.
pub(super) fn merged(
    path: &SecretPath,
    before: &Before<'_>,
    said: &Description,
    learned: Option<(Version, &Fields)>,
    now: UnixTime,
    numbers: &mut Numbers,
) -> Result<Merged, StoreFault> {
    let mut exact = Vec::new();
    let mut versions = Vec::with_capacity(said.versions.len());
    let mut ordered: Vec<&DescribedVersion> = said.versions.iter().collect();
    ordered.sort_by_key(|version| version.number);
    for version in ordered {
        let prior = before
            .secret
            .and_then(|secret| secret.version(version.number))
            .filter(|prior| prior.created == version.created);
        let (names, is_exact) = fields_of(version, prior, before, learned);
        let nodes_names: Vec<FieldName> = names.iter().map(|(name, _)| name.clone()).collect();
        let nodes = numbers.nodes_of(path, version.number, version.created, &nodes_names)?;
        if is_exact {
            exact.push(version.number);
        }
        versions.push(VersionInfo {
            number: version.number,
            created: version.created,
            activated: version.activated.or(prior.and_then(|prior| prior.activated)),
            lost: version
                .lost
                .map(|said| settled(said, prior))
                .or_else(|| lost(version.number, before.secret, said, prior, now)),
            state: version.state,
            revoked: version.revoked,
            fields: names
                .into_iter()
                .zip(nodes)
                .map(|((name, bytes), node)| FieldInfo { name, bytes, node })
                .collect(),
        });
    }
    for gone in numbers.numbered(path) {
        let stays = said.versions.iter().any(|one| one.number == gone && one.state != State::Destroyed);
        if !stays {
            numbers.forget(path, Some(gone))?;
        }
    }
    activate(path, before.secret, said, &mut versions, now, numbers)?;
    let changed = before.secret.map_or(said.changed, |before| before.changed.max(said.changed));
    let secret = Secret {
        path: path.clone(),
        versions: versions.into_iter().collect(),
        current: said.current,
        previous: said.previous,
        next: said.next,
        deleted: said.deleted,
        changed,
        ownership: said.ownership.clone(),
    };
    Ok(Merged { secret, exact })
}

/// The fields of a version, ordered by name, and whether they are all.
fn fields_of(
    version: &DescribedVersion,
    prior: Option<&VersionInfo>,
    before: &Before<'_>,
    learned: Option<(Version, &Fields)>,
) -> (Fields, bool) {
    if version.state == State::Destroyed {
        return (Vec::new(), true);
    }
    let known = |prior: &VersionInfo| -> Fields {
        prior.fields.iter().map(|field| (field.name.clone(), field.bytes)).collect()
    };
    let (mut fields, is_exact) =
        if let Some((_, learned)) = learned.filter(|(number, _)| *number == version.number) {
            (learned.clone(), true)
        } else if let Some(prior) = prior.filter(|_| before.exact.contains(&version.number)) {
            (known(prior), true)
        } else if let Some(said) = &version.fields {
            (said.clone(), said.iter().all(|(_, bytes)| bytes.is_some()))
        } else {
            (prior.map(known).unwrap_or_default(), false)
        };
    fields.sort();
    fields.dedup_by(|one, other| one.0 == other.0);
    if let Some(prior) = prior {
        for (name, bytes) in &mut fields {
            *bytes = bytes.or_else(|| prior.field(name).and_then(|field| field.bytes));
        }
    }
    (fields, is_exact)
}

fn stages(
    current: Option<Version>,
    previous: Option<Version>,
    next: Option<Version>,
    of: Version,
) -> StageSet {
    let points = [(Stage::Current, current), (Stage::Previous, previous), (Stage::Next, next)];
    let ours = points.into_iter().filter(|(_, named)| *named == Some(of));
    ours.fold(StageSet::EMPTY, |set, (stage, _)| set.with(stage))
}

fn without(set: StageSet, other: StageSet) -> StageSet {
    set.iter().filter(|stage| !other.contains(*stage)).fold(StageSet::EMPTY, StageSet::with)
}

/// What is said of a loss, or what was said before where that is the same: times that an engine says by another clock than ours
/// come a little different each time.
fn settled(said: (UnixTime, StageSet), prior: Option<&VersionInfo>) -> (UnixTime, StageSet) {
    const SAME_US: u64 = 3_000_000;
    let before = prior.and_then(|prior| prior.lost);
    let is_same = |(when, stages): &(UnixTime, StageSet)| {
        *stages == said.1 && when.micros().abs_diff(said.0.micros()) <= SAME_US
    };
    before.filter(is_same).unwrap_or(said)
}

/// Which stages a version lost and when, as this machine saw it.
fn lost(
    number: Version,
    before: Option<&Secret>,
    said: &Description,
    prior: Option<&VersionInfo>,
    now: UnixTime,
) -> Option<(UnixTime, StageSet)> {
    let before = before?;
    let was = stages(before.current, before.previous, before.next, number);
    let is = stages(said.current, said.previous, said.next, number);
    let lost = without(was, is);
    if !lost.is_empty() {
        return Some((now, lost));
    }
    let (when, left) = prior?.lost?;
    let left = without(left, is);
    (!left.is_empty()).then_some((when, left))
}

/// Says when the current version became so, where the engine does not: later than whatever was shown before it.
fn activate(
    path: &SecretPath,
    before: Option<&Secret>,
    said: &Description,
    versions: &mut [VersionInfo],
    now: UnixTime,
    numbers: &mut Numbers,
) -> Result<(), StoreFault> {
    let Some(current) = said.current else { return Ok(()) };
    let is_said = said.versions.iter().any(|one| one.number == current && one.activated.is_some());
    let Some(version) = versions.iter_mut().find(|version| version.number == current) else { return Ok(()) };
    if is_said {
        return Ok(());
    }
    let noted = numbers.activated(path);
    if let Some((_, when)) = noted.filter(|(number, _)| *number == current) {
        version.activated = Some(when);
        return Ok(());
    }
    let shown = before
        .and_then(|before| before.version(before.current?))
        .map(VersionInfo::shown_since)
        .max(noted.map(|(_, when)| when));
    let when = match shown {
        // The first that is seen of it: its own time is all there is.
        None => version.created,
        Some(shown) if version.created > shown => version.created,
        Some(shown) => now.max(UnixTime::from_micros(shown.micros().saturating_add(1))),
    };
    version.activated = Some(when);
    numbers.note_activated(path, current, when)
}

/// What an engine that numbers nothing would say of a secret, had it numbered what it holds.
pub(super) fn numbered(content: &Content, said: &Description) -> Description {
    let version = |(number, created): (Version, UnixTime)| DescribedVersion {
        number,
        created,
        activated: None,
        lost: None,
        state: State::Active,
        revoked: false,
        fields: None,
    };
    Description {
        versions: content.previous.into_iter().chain([content.current]).map(version).collect(),
        current: Some(content.current.0),
        previous: content.previous.map(|(number, _)| number),
        next: None,
        deleted: said.deleted,
        changed: said.changed.max(content.current.1),
        ownership: said.ownership.clone(),
    }
}

/// What is known of a secret, as its engine would say it: for what is put together with more.
pub(super) fn description_of(secret: &Secret) -> Description {
    Description {
        versions: secret.versions.iter().map(|version| DescribedVersion::of(version, None)).collect(),
        current: secret.current,
        previous: secret.previous,
        next: secret.next,
        deleted: secret.deleted,
        changed: secret.changed,
        ownership: secret.ownership.clone(),
    }
}
