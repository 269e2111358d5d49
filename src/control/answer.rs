//! What a command answers. Names and numbers only: values and files travel beside it.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::model::{FieldName, SecretBytes, SecretPath, Stage, State, Version};
use crate::store::{LoginState, LoginStatus, Store, StoreState};

/// What comes beside an answer.
pub enum Payload {
    /// Nothing.
    Nothing,
    /// Values, in the order of the fields that the answer names.
    Values(Vec<SecretBytes>),
    /// A file, from its beginning to its end.
    File(File),
}

/// One version, as `versions` shows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VersionRow {
    /// Its number.
    pub version: Version,
    /// The stages that name it.
    pub stages: Vec<Stage>,
    /// When it was stored, RFC 3339.
    pub created: String,
    /// Whether it may be read at all.
    pub state: State,
    /// Its fields and their lengths.
    pub fields: Vec<ListedField>,
    /// For whom it was minted, where it was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub consumer: Option<String>,
    /// When its lease ends, RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires: Option<String>,
}

/// A field, as `versions` shows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListedField {
    /// Its name.
    pub name: FieldName,
    /// Its length, in bytes, where it is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes: Option<u64>,
}

/// A store, as `status` shows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoreStatus {
    /// Its name.
    pub name: String,
    /// How it is.
    pub state: StoreState,
    /// Its logins; none where it needs none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub logins: Vec<LoginRow>,
    /// How many requests its server was sent by this process.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub requests: Option<u64>,
    /// The version of its KV engine, where it has one and was asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kv: Option<u8>,
    /// How many leases live at each path whose values are minted.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub leases: BTreeMap<String, LeaseCount>,
}

/// How many leases there are of what one path mints.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct LeaseCount {
    /// Those that can be used.
    pub live: usize,
    /// Those that are to be ended at the server, and are not yet.
    pub ending: usize,
}

/// A login, as `status` shows it. Never its token.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LoginRow {
    /// Whose: `machine`, or `identity:NAME`.
    pub login: String,
    /// By which method.
    pub method: String,
    /// What happened last.
    pub state: LoginState,
    /// How long ago it was made, in seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub age_s: Option<u64>,
    /// How long it lives from now unless renewed, in seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remaining_s: Option<u64>,
    /// The server's public name for the token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub accessor: Option<String>,
}

impl From<LoginStatus> for LoginRow {
    fn from(status: LoginStatus) -> Self {
        Self {
            login: status.login.as_str().to_owned(),
            method: status.method.to_owned(),
            state: status.state,
            age_s: status.age.map(|age| age.as_secs()),
            remaining_s: status.remaining.map(|left| left.as_secs()),
            accessor: status.accessor,
        }
    }
}

impl StoreStatus {
    /// How `store` is, as far as it knows without asking anyone. `shown` gives the path in the tree of one in the store.
    #[must_use]
    pub fn of(store: &dyn Store, shown: &dyn Fn(&SecretPath) -> Option<SecretPath>) -> Self {
        let logins = store.logins().into_iter().map(LoginRow::from).collect();
        let mut leases: BTreeMap<String, LeaseCount> = BTreeMap::new();
        for path in store.all_declared() {
            leases.entry(shown(&path).unwrap_or(path).as_str().to_owned()).or_default();
        }
        for lease in store.leases() {
            let path = shown(&lease.secret).unwrap_or(lease.secret);
            let count = leases.entry(path.as_str().to_owned()).or_default();
            if lease.is_ending { count.ending += 1 } else { count.live += 1 }
        }
        Self {
            name: store.name().to_owned(),
            state: store.state(),
            logins,
            requests: store.requests(),
            kv: store.kv_version(),
            leases,
        }
    }
}

/// How an instance is. What is absent is not for the asker, or not known.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct StatusAnswer {
    /// `serving`, `degraded`, `stopping` or `stopped`.
    pub state: String,
    /// The version of credfs that answers.
    pub version: String,
    /// Where it serves.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mount_point: Option<PathBuf>,
    /// The process that serves.
    pub worker_pid: Option<u32>,
    /// The process that keeps the mount.
    pub keeper_pid: Option<u32>,
    /// The stores.
    pub stores: Vec<StoreStatus>,
    /// Why it is not serving, in words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
    /// The audit log: `ready`, or what is wrong.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub audit: Option<String>,
    /// The digest of the policy in force.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policy: Option<String>,
    /// How many grants it has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grants: Option<usize>,
    /// Since when it serves, RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started: Option<String>,
    /// Files that are open.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub open_files: Option<usize>,
    /// Inodes that the kernel holds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub inodes: Option<usize>,
    /// Secret memory that the kernel would not lock, in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unlocked_bytes: Option<usize>,
}

/// What a command answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "answer", rename_all = "snake_case")]
pub enum Answer {
    /// A version was stored or moved.
    Changed {
        /// Of which secret.
        secret: SecretPath,
        /// The version it is about.
        version: Option<Version>,
        /// The stage that it has now.
        stage: Option<Stage>,
        /// Its state, or that of the secret as a whole.
        state: State,
        /// Fields carried over.
        carried: Vec<FieldName>,
    },
    /// Values; they come beside the answer.
    Values {
        /// Of which secret.
        secret: SecretPath,
        /// Which version.
        version: Version,
        /// Of which fields, in order.
        fields: Vec<FieldName>,
    },
    /// Names.
    Names {
        /// Paths of secrets, and fields where a secret itself was asked for.
        names: Vec<String>,
    },
    /// Versions.
    Versions {
        /// Of which secret.
        secret: SecretPath,
        /// Each, by number.
        versions: Vec<VersionRow>,
    },
    /// How the instance is.
    Status(Box<StatusAnswer>),
    /// The policy is in force.
    Reloaded {
        /// Its digest.
        policy: String,
        /// How many grants it has.
        grants: usize,
        /// What is odd, and what needs a restart.
        warnings: Vec<String>,
    },
    /// The stores were asked again.
    Refreshed {
        /// How many secrets are known now.
        secrets: usize,
    },
    /// What the audit log says of itself.
    Checkpoint {
        /// The checkpoint, as text to be kept elsewhere.
        checkpoint: String,
        /// How many records it covers, from the first.
        records: u64,
    },
    /// A new audit file is begun.
    Rotated {
        /// Where the one before is now.
        file: PathBuf,
    },
    /// A file comes beside the answer.
    File {
        /// Of which store.
        store: String,
        /// Its length, in bytes.
        bytes: u64,
    },
    /// It was done.
    Done {
        /// On which store.
        store: Option<String>,
    },
}
