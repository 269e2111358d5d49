//! What a KV engine with versions says of a secret, as it says it.

use std::borrow::Cow;
use std::collections::BTreeMap;

use serde::Deserialize;

use super::server::Answered;
use crate::model::{UnixTime, Version};
use crate::store::{SourceFault, StoreFault};

/// What the engine says of one secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Metadata {
    /// The newest version, also where it is destroyed; 0: none yet.
    pub(super) newest: u32,
    /// The number of this very state of the metadata, where the engine counts them.
    pub(super) revision: Option<u64>,
    /// How many versions are kept of this secret, where that is said.
    pub(super) kept_max: u32,
    /// When anything last changed.
    pub(super) updated: UnixTime,
    /// The versions, ordered by number.
    pub(super) versions: Vec<KeptVersion>,
    /// What people and credfs wrote beside it.
    pub(super) custom: BTreeMap<String, String>,
}

/// One version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct KeptVersion {
    pub(super) number: Version,
    pub(super) created: UnixTime,
    /// When it was, or will be, deleted.
    pub(super) deletion: Option<UnixTime>,
    pub(super) destroyed: bool,
}

#[derive(Deserialize)]
struct Told<'a> {
    current_version: u32,
    #[serde(default)]
    current_metadata_version: Option<u64>,
    #[serde(default)]
    max_versions: u32,
    #[serde(borrow, default)]
    updated_time: Cow<'a, str>,
    #[serde(borrow, default)]
    versions: Option<BTreeMap<Cow<'a, str>, ToldVersion<'a>>>,
    #[serde(default)]
    custom_metadata: Option<BTreeMap<String, String>>,
}

#[derive(Deserialize)]
struct ToldVersion<'a> {
    #[serde(borrow)]
    created_time: Cow<'a, str>,
    #[serde(borrow, default)]
    deletion_time: Cow<'a, str>,
    #[serde(default)]
    destroyed: bool,
}

impl Metadata {
    /// Reads an answer, with the server's name for the request.
    pub(super) fn read(answered: &Answered) -> Result<(Self, Option<String>), SourceFault> {
        let (told, id): (Told<'_>, _) = answered.data()?;
        let invalid = || answered.fault(StoreFault::Away("the server's metadata make no sense".to_owned()));
        let mut versions = Vec::new();
        for (number, version) in told.versions.unwrap_or_default() {
            versions.push(KeptVersion {
                number: number.parse().map_err(|()| invalid())?,
                created: UnixTime::parse_rfc3339(&version.created_time).ok_or_else(invalid)?,
                deletion: UnixTime::parse_rfc3339(&version.deletion_time),
                destroyed: version.destroyed,
            });
        }
        versions.sort_by_key(|version| version.number);
        let metadata = Self {
            newest: told.current_version,
            revision: told.current_metadata_version,
            kept_max: told.max_versions,
            updated: UnixTime::parse_rfc3339(&told.updated_time).unwrap_or_default(),
            versions,
            custom: told.custom_metadata.unwrap_or_default(),
        };
        Ok((metadata, id))
    }
}
