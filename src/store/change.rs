//! Changes to a store, and what they did.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::{FIELDS_MAX, StoreFault};
use crate::model::{FieldName, Ownership, Secret, SecretBytes, SecretPath, Stage, VALUE_BYTES_MAX, Version};

/// One change, made whole or not at all.
pub enum Change {
    /// Stores a new version.
    ///
    /// Fields that are not given are carried over from the version that `stage` names, else from the current one,
    /// and sealed anew. Where that version may not be read (revoked, deleted, destroyed) nothing can be carried over,
    /// and the change is refused unless `only` is set or nothing needs carrying.
    Put {
        /// Of which secret; made if it does not exist.
        secret: SecretPath,
        /// The fields that are given.
        fields: Vec<(FieldName, SecretBytes)>,
        /// Whether the fields of the version at `stage` (else of the current one) that are not given are left out
        /// instead of carried over.
        only: bool,
        /// Where the new version goes: current (the current one becomes previous) or next.
        stage: Stage,
        /// What people say of it; what is absent stays as it was.
        ownership: Ownership,
    },
    /// Makes the staged version current, the current one previous.
    Promote {
        /// Of which secret.
        secret: SecretPath,
    },
    /// Makes another version current; the version left loses its stage, so that twice does not toggle: the new
    /// previous version is the newest readable one older than it that was current once, if there is any.
    Rollback {
        /// Of which secret.
        secret: SecretPath,
        /// To which version; `None`: the previous one.
        to: Option<Version>,
    },
    /// Refuses a version at once and for good. Stages go on naming it: nobody is given an older value unasked.
    Revoke {
        /// Of which secret.
        secret: SecretPath,
        /// Which version.
        version: Version,
    },
    /// Hides a version, or the whole secret; restorable. Stages go on naming it, so that a restored version is
    /// where it was; until then a stage that names it leads nowhere.
    Delete {
        /// Which secret.
        secret: SecretPath,
        /// Which version; `None`: the whole secret.
        version: Option<Version>,
    },
    /// Restores what was deleted.
    Undelete {
        /// Which secret.
        secret: SecretPath,
        /// Which version; `None`: the whole secret.
        version: Option<Version>,
    },
    /// Erases the bytes and their key. The numbers stay used; stages that named the version name none.
    Destroy {
        /// Which secret.
        secret: SecretPath,
        /// Which version; `None`: every version, and the path is free again (numbers go on where they were).
        version: Option<Version>,
    },
}

impl Change {
    /// The secret that changes.
    #[must_use]
    pub fn secret(&self) -> &SecretPath {
        match self {
            Self::Put { secret, .. }
            | Self::Promote { secret }
            | Self::Rollback { secret, .. }
            | Self::Revoke { secret, .. }
            | Self::Delete { secret, .. }
            | Self::Undelete { secret, .. }
            | Self::Destroy { secret, .. } => secret,
        }
    }
}

/// What a change did.
#[derive(Debug, Clone)]
pub struct Changed {
    /// The name of the store.
    pub store: Arc<str>,
    /// What was known of the secret before; `None`: it is new.
    pub before: Option<Arc<Secret>>,
    /// What is known of it now; `None`: it is gone.
    pub after: Option<Arc<Secret>>,
    /// The version that the change was about: the one put, made current, revoked …
    pub version: Option<Version>,
    /// Fields carried over from the version before.
    pub carried: Vec<FieldName>,
}

impl Change {
    /// The same change, of the secret at `path`: a path in the tree becomes one in its store.
    #[must_use]
    pub fn moved_to(mut self, path: SecretPath) -> Self {
        match &mut self {
            Self::Put { secret, .. }
            | Self::Promote { secret }
            | Self::Rollback { secret, .. }
            | Self::Revoke { secret, .. }
            | Self::Delete { secret, .. }
            | Self::Undelete { secret, .. }
            | Self::Destroy { secret, .. } => *secret = path,
        }
        self
    }
}

/// The names and lengths of the fields that are put, and the names by themselves.
pub(super) type Given<'a> = (Vec<(FieldName, u64)>, BTreeSet<&'a FieldName>);

/// Refuses a version without fields, and one with too many.
pub(super) fn check_count(path: &SecretPath, count: usize) -> Result<(), StoreFault> {
    if count == 0 {
        return Err(StoreFault::Invalid(format!("a version of {path} needs at least one field: name one")));
    }
    check_count_max(count)
}

/// Refuses too many fields.
pub(super) fn check_count_max(count: usize) -> Result<(), StoreFault> {
    if count > FIELDS_MAX as usize {
        return Err(StoreFault::TooLarge {
            what: "the set of fields",
            limit: "256 fields",
            remedy: "spread them over several secrets",
        });
    }
    Ok(())
}

/// Checks what is put as far as it says so itself: where it goes, names given twice, values too large.
pub(super) fn check_put(given: &[(FieldName, SecretBytes)], stage: Stage) -> Result<Given<'_>, StoreFault> {
    if stage == Stage::Previous {
        return Err(StoreFault::Invalid("a version is put as current or next: previous is what was".into()));
    }
    let mut lengths = Vec::with_capacity(given.len());
    let mut names = BTreeSet::new();
    for (name, value) in given {
        if !names.insert(name) {
            return Err(StoreFault::Invalid(format!("field {name} is given twice: give it once")));
        }
        if value.len() > VALUE_BYTES_MAX {
            return Err(StoreFault::TooLarge {
                what: "the value",
                limit: "1 MiB (1048576 bytes)",
                remedy: "store it in several fields, or store a key to it",
            });
        }
        lengths.push((name.clone(), value.len() as u64));
    }
    Ok((lengths, names))
}
