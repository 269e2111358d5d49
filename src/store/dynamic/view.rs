//! What is minted as the tree is shown it: to a consumer what is his, and the whole of it to those who need no more than
//! to know that it is there.

use std::sync::Arc;

use super::table::{Minted, Owner, Phase, Table};
use crate::model::{
    FieldInfo, FieldName, FieldNode, Ownership, Secret, SecretPath, Stage, StageSet, State, UnixTime,
    Version, VersionInfo,
};
use crate::store::{Declared, LeaseInfo};

/// Set in the node of every field that is minted: an engine's own numbers stay below.
const NODE_BIT: u32 = 1 << 27;
/// How many fields a version may have.
const FIELDS_MAX: u32 = 8;
/// How many numbers there are.
pub(super) const NUMBERS_MAX: u32 = NODE_BIT / FIELDS_MAX;

impl Minted {
    fn info(&self) -> VersionInfo {
        let fields = self.fields.iter().enumerate();
        VersionInfo {
            number: version_of(self.number),
            created: self.shown,
            activated: Some(self.shown),
            lost: self.lost.map(|when| (when, StageSet::of(Stage::Current))),
            state: if self.is_revoked { State::Revoked } else { State::Active },
            revoked: self.is_revoked,
            fields: fields
                .filter_map(|(at, (name, value))| field_info(self.number, at, name, Some(value.len())))
                .collect(),
        }
    }
}

impl Table {
    /// What `owner` is shown. He has been promised a number where he has no version.
    pub(super) fn view(&mut self, owner: &Owner) -> Option<Arc<Secret>> {
        let declared = Arc::clone(self.declared.get(&owner.path)?);
        let holding = self.holdings.get_mut(owner)?;
        if let Some(view) = &holding.view {
            return Some(Arc::clone(view));
        }
        let current = holding.current().map(|minted| minted.number);
        let promised = holding.promised.filter(|_| current.is_none());
        let mut all: Vec<VersionInfo> = holding.versions.iter().map(Minted::info).collect();
        all.extend(promised.map(|(number, since)| promised_info(&declared, number, since)));
        all.sort_by_key(|version| version.number);
        let changed = all.iter().map(|version| version.created).max().unwrap_or_default();
        let secret = Arc::new(Secret {
            path: owner.path.clone(),
            versions: all.into_iter().collect(),
            current: current.or(promised.map(|(number, _)| number)).map(version_of),
            previous: holding.previous().map(|minted| version_of(minted.number)),
            next: None,
            deleted: false,
            changed,
            ownership: Ownership::default(),
        });
        holding.view = Some(Arc::clone(&secret));
        Some(secret)
    }

    /// Everything at a path, whoever it is for. Each of it is somebody's current version, so it counts as that for as
    /// long as it lives: for who is asked about an open file that was handed to him.
    pub(super) fn whole(&mut self, path: &SecretPath) -> Option<Arc<Secret>> {
        let declared = Arc::clone(self.declared.get(path)?);
        if let Some(whole) = self.wholes.get(path) {
            return Some(Arc::clone(whole));
        }
        let mut all = Vec::new();
        let mut current = None;
        for (_, holding) in self.holdings.iter().filter(|(owner, _)| owner.path == *path) {
            all.extend(holding.versions.iter().map(Minted::info));
            all.extend(holding.promised.map(|(number, since)| promised_info(&declared, number, since)));
            current = current.max(holding.current().map(|minted| (minted.shown, minted.number)));
        }
        for version in &mut all {
            version.lost = Some((UnixTime::from_micros(i64::MAX), StageSet::of(Stage::Current)));
        }
        all.sort_by_key(|version: &VersionInfo| version.number);
        let whole = Arc::new(Secret {
            path: path.clone(),
            versions: all.into_iter().collect(),
            current: current.map(|(_, number)| version_of(number)),
            previous: None,
            next: None,
            deleted: false,
            changed: UnixTime::default(),
            ownership: Ownership::default(),
        });
        self.wholes.insert(path.clone(), Arc::clone(&whole));
        Some(whole)
    }

    /// Every lease that is not done with.
    pub(super) fn leases(&self) -> Vec<LeaseInfo> {
        let mut all = Vec::new();
        for (owner, holding) in &self.holdings {
            let current = holding.current().map(|minted| minted.number);
            let previous = holding.previous().map(|minted| minted.number);
            for minted in
                holding.versions.iter().filter(|minted| !matches!(minted.phase, Phase::Ended { .. }))
            {
                let at = |number: Option<u32>| number == Some(minted.number);
                all.push(LeaseInfo {
                    secret: owner.path.clone(),
                    version: version_of(minted.number),
                    consumer: owner.consumer.to_string(),
                    stage: if at(current) {
                        Some(Stage::Current)
                    } else {
                        at(previous).then_some(Stage::Previous)
                    },
                    expires: minted.ends.as_ref().map(|ends| ends.wall),
                    is_ending: matches!(minted.phase, Phase::Ending { .. }),
                });
            }
        }
        all.sort_by(|one, other| (&one.secret, one.version).cmp(&(&other.secret, other.version)));
        all
    }
}

fn promised_info(declared: &Declared, number: u32, since: UnixTime) -> VersionInfo {
    let fields = declared.engine.fields();
    VersionInfo {
        number: version_of(number),
        created: since,
        activated: Some(since),
        lost: None,
        state: State::Active,
        revoked: false,
        fields: fields
            .iter()
            .enumerate()
            .filter_map(|(at, name)| field_info(number, at, name, None))
            .collect(),
    }
}

fn field_info(number: u32, at: usize, name: &FieldName, bytes: Option<usize>) -> Option<FieldInfo> {
    let node = node_of(number, u32::try_from(at).ok()?)?;
    Some(FieldInfo { name: name.clone(), bytes: bytes.map(|bytes| bytes as u64), node })
}

fn node_of(number: u32, at: u32) -> Option<FieldNode> {
    (number < NUMBERS_MAX && at < FIELDS_MAX)
        .then(|| FieldNode::new(NODE_BIT | (number * FIELDS_MAX + at)))?
}

/// Whether a node is one of ours, and of which version and which of its fields.
pub(super) fn number_of(node: FieldNode) -> Option<(u32, usize)> {
    let number = node.get();
    (number & NODE_BIT != 0).then(|| {
        let rest = number & !NODE_BIT;
        (rest / FIELDS_MAX, (rest % FIELDS_MAX) as usize)
    })
}

/// Numbers count from 1.
pub(super) fn version_of(number: u32) -> Version {
    const FIRST: Version = match Version::new(1) {
        Some(version) => version,
        None => unreachable!(),
    };
    Version::new(number).unwrap_or(FIRST)
}
