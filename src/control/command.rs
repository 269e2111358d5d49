//! What can be asked of an instance.

use serde::{Deserialize, Serialize};

use crate::model::{FieldName, Operation, Ownership, Reason, SecretPath, Stage, Version};

/// Which version is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Which {
    /// The one that a stage names.
    Stage(Stage),
    /// The one of that number.
    Number(Version),
}

/// One command. It holds names and settings; values travel beside it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "verb", rename_all = "snake_case", deny_unknown_fields)]
pub enum Command {
    /// Stores a new version; the values of `fields` come beside the command, in the same order.
    Put {
        /// Of which secret.
        secret: SecretPath,
        /// Which fields are given.
        fields: Vec<FieldName>,
        /// Whether fields that are not given are left out.
        only: bool,
        /// Current or next.
        stage: Stage,
        /// What people say of it.
        ownership: Ownership,
    },
    /// Hands out values.
    Get {
        /// Of which secret.
        secret: SecretPath,
        /// Which field; `None`: all that the asker may read.
        field: Option<FieldName>,
        /// Which version.
        version: Which,
    },
    /// Names of secrets below a directory, and fields where the directory is a secret.
    List {
        /// The directory; `""`: the top.
        directory: String,
    },
    /// The versions of a secret.
    Versions {
        /// Which secret.
        secret: SecretPath,
        /// Of which version the names of the fields are needed, also where a store knows them only after a read.
        #[serde(default)]
        fields_of: Option<Which>,
    },
    /// Makes the staged version current.
    Promote {
        /// Of which secret.
        secret: SecretPath,
    },
    /// Makes an older version current.
    Rollback {
        /// Of which secret.
        secret: SecretPath,
        /// To which; `None`: the previous one.
        to: Option<Version>,
    },
    /// Refuses a version at once and for good.
    Revoke {
        /// Of which secret.
        secret: SecretPath,
        /// Which version.
        version: Version,
        /// Why.
        reason: Option<Reason>,
    },
    /// Hides a version or the whole secret.
    Delete {
        /// Which secret.
        secret: SecretPath,
        /// Which version.
        version: Option<Version>,
    },
    /// Restores what was deleted.
    Undelete {
        /// Which secret.
        secret: SecretPath,
        /// Which version.
        version: Option<Version>,
    },
    /// Erases for good.
    Destroy {
        /// Which secret.
        secret: SecretPath,
        /// Which version.
        version: Option<Version>,
    },
    /// Asks the stores again.
    Refresh {
        /// About which secret; `None`: all.
        secret: Option<SecretPath>,
    },
    /// Reads configuration and policy again; answered when it is in force.
    Reload,
    /// How the instance is.
    Status,
    /// Signs what the audit log holds so far and says where it stands.
    Checkpoint,
    /// Begins a new audit file.
    RotateLog,
    /// The database, sealed as it is; it comes beside the answer.
    Backup {
        /// Which store; `None`: the only local one.
        store: Option<String>,
    },
    /// Gives a store a new key.
    Rekey {
        /// Which store; `None`: the only local one.
        store: Option<String>,
    },
}

impl Command {
    /// How many values come beside the command.
    #[must_use]
    pub fn value_count(&self) -> usize {
        match self {
            Self::Put { fields, .. } => fields.len(),
            _ => 0,
        }
    }

    /// Whether doing it twice is something else than doing it once.
    #[must_use]
    pub const fn is_a_change(&self) -> bool {
        match self {
            Self::Put { .. }
            | Self::Promote { .. }
            | Self::Rollback { .. }
            | Self::Revoke { .. }
            | Self::Delete { .. }
            | Self::Undelete { .. }
            | Self::Destroy { .. }
            | Self::RotateLog
            | Self::Rekey { .. } => true,
            Self::Get { .. }
            | Self::List { .. }
            | Self::Versions { .. }
            | Self::Refresh { .. }
            | Self::Reload
            | Self::Status
            | Self::Checkpoint
            | Self::Backup { .. } => false,
        }
    }

    /// The word of the audit log for it; `None`: it is not recorded.
    #[must_use]
    pub const fn operation(&self) -> Option<Operation> {
        Some(match self {
            Self::Put { .. } => Operation::Put,
            Self::Get { .. } => Operation::Get,
            Self::List { .. } | Self::Versions { .. } => Operation::List,
            Self::Promote { .. } => Operation::Promote,
            Self::Rollback { .. } => Operation::Rollback,
            Self::Revoke { .. } => Operation::Revoke,
            Self::Delete { .. } => Operation::Delete,
            Self::Undelete { .. } => Operation::Undelete,
            Self::Destroy { .. } => Operation::Destroy,
            Self::Refresh { .. } => Operation::Refresh,
            Self::Reload => Operation::Reload,
            Self::Checkpoint => Operation::Checkpoint,
            Self::RotateLog => Operation::Rotate,
            Self::Backup { .. } => Operation::Backup,
            Self::Rekey { .. } => Operation::Rekey,
            Self::Status => return None,
        })
    }
}
