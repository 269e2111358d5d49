//! Changes to a store, and what they did.

use std::sync::Arc;

use crate::model::{FieldName, Ownership, Secret, SecretBytes, SecretPath, Stage, Version};

/// One change, made whole or not at all.
pub enum Change {
    /// Stores a new version.
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
    /// Makes an older version current; the version left loses its stage, so that twice does not toggle.
    Rollback {
        /// Of which secret.
        secret: SecretPath,
        /// To which version; `None`: the previous one.
        to: Option<Version>,
    },
    /// Refuses a version at once and for good.
    Revoke {
        /// Of which secret.
        secret: SecretPath,
        /// Which version.
        version: Version,
    },
    /// Hides a version, or the whole secret; restorable.
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
    /// Erases the bytes and their key. The numbers stay used.
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
