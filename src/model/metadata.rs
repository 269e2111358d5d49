//! What is known of a secret without opening a value.

use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{FieldName, FieldNode, SecretPath, Stage, StageSet, Standing, UnixTime, Version, Versions};

/// What a leak or loss of the secret would mean.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Impact {
    /// An inconvenience.
    Low,
    /// A bad day.
    Medium,
    /// A very bad one.
    High,
}

impl Impact {
    /// The word people type.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Low => "low",
            Self::Medium => "medium",
            Self::High => "high",
        }
    }

    /// The number under which records keep it: 0 for none.
    #[must_use]
    pub fn to_code(impact: Option<Self>) -> u8 {
        impact.map_or(0, |impact| impact as u8 + 1)
    }

    /// What [`Self::to_code`] wrote; `None` where it is not that.
    #[must_use]
    pub fn from_code(code: u8) -> Option<Option<Self>> {
        match code {
            0 => Some(None),
            1 => Some(Some(Self::Low)),
            2 => Some(Some(Self::Medium)),
            3 => Some(Some(Self::High)),
            _ => None,
        }
    }
}

/// What people said about a secret: who owns it, how much it matters, how long it may live.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Ownership {
    /// Who answers for it, in words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<String>,
    /// What a leak would mean.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub impact: Option<Impact>,
    /// How often it is to be replaced.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rotate_every: Option<Duration>,
    /// How long a value may be served after its store went away.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grace: Option<Duration>,
}

/// Whether a version may be read at all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// It may, by those whom policy lets.
    Active,
    /// Refused at once and for good, open handles too.
    Revoked,
    /// Hidden, and restorable.
    Deleted,
    /// Gone: the bytes and their key are erased.
    Destroyed,
}

/// One field of one version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FieldInfo {
    /// Its name.
    pub name: FieldName,
    /// Its length, in bytes; `None` while a remote store has not been asked.
    pub bytes: Option<u64>,
    /// Its number in the tree.
    pub node: FieldNode,
}

/// One version of a secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VersionInfo {
    /// Its number.
    pub number: Version,
    /// When it was stored.
    pub created: UnixTime,
    /// When it last became current; `None` if it never was.
    pub activated: Option<UnixTime>,
    /// Which stages it lost, and when it lost the last of them.
    pub lost: Option<(UnixTime, StageSet)>,
    /// Whether it may be read at all.
    pub state: State,
    /// Whether it is revoked, also where `state` says that it is deleted or destroyed.
    pub revoked: bool,
    /// Its fields, ordered by name.
    pub fields: Arc<[FieldInfo]>,
}

impl VersionInfo {
    /// The field of that name.
    #[must_use]
    pub fn field(&self, name: &FieldName) -> Option<&FieldInfo> {
        let at = self.fields.binary_search_by(|field| field.name.cmp(name)).ok()?;
        self.fields.get(at)
    }

    /// The moment its files show: when it became current, else when it was stored.
    #[must_use]
    pub fn shown_since(&self) -> UnixTime {
        self.activated.unwrap_or(self.created)
    }
}

/// One secret: a path, its versions, and which of them the stages name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Secret {
    /// Where it is, in its store.
    pub path: SecretPath,
    /// Its versions, ordered by number; destroyed ones included.
    pub versions: Versions,
    /// The version that readers get.
    pub current: Option<Version>,
    /// The version that readers got before.
    pub previous: Option<Version>,
    /// The version that is staged.
    pub next: Option<Version>,
    /// Whether the whole secret is deleted: hidden, and restorable.
    pub deleted: bool,
    /// When anything about it last changed. Never goes back.
    pub changed: UnixTime,
    /// What people said about it.
    pub ownership: Ownership,
}

impl Secret {
    /// The version of that number.
    #[must_use]
    pub fn version(&self, number: Version) -> Option<&VersionInfo> {
        self.versions.get(number)
    }

    /// The version that `stage` names.
    #[must_use]
    pub fn at(&self, stage: Stage) -> Option<Version> {
        match stage {
            Stage::Current => self.current,
            Stage::Previous => self.previous,
            Stage::Next => self.next,
        }
    }

    /// The stages that name `number` now.
    #[must_use]
    pub fn stages_of(&self, number: Version) -> StageSet {
        Stage::ALL
            .into_iter()
            .filter(|stage| self.at(*stage) == Some(number))
            .fold(StageSet::EMPTY, StageSet::with)
    }

    /// How `version` stands towards the stages.
    #[must_use]
    pub fn standing(&self, version: &VersionInfo) -> Standing {
        Standing { held: self.stages_of(version.number), lost: version.lost }
    }

    /// When the current version is due to be replaced.
    #[must_use]
    pub fn rotate_by(&self) -> Option<UnixTime> {
        let current = self.version(self.current?)?;
        Some(current.created.plus(self.ownership.rotate_every?))
    }
}
