//! What was asked and what came of it: the closed lists that records, errno and exit codes share.

use serde::{Deserialize, Serialize};

/// What was asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs, reason = "each is the word itself")]
pub enum Operation {
    Lookup,
    Stat,
    List,
    Readlink,
    Getxattr,
    Access,
    Open,
    Read,
    Get,
    Put,
    Promote,
    Rollback,
    Revoke,
    Delete,
    Undelete,
    Destroy,
    Reload,
    Refresh,
    Backup,
    Restore,
    Rekey,
    Start,
    Stop,
    Rotate,
    Checkpoint,
    Seal,
    Login,
}

/// What came of it. Each has its errno (`fuse::errno`) and its exit code (`cli::exit`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// Bytes were handed over.
    Released,
    /// It does not exist for this caller.
    Hidden,
    /// Visible, but not to be read.
    Denied,
    /// No record could be written.
    NoAudit,
    /// The deadline passed.
    Timeout,
    /// The store cannot be reached.
    StoreAway,
    /// The store refused our login.
    StoreRefused,
    /// The store is sealed.
    Sealed,
    /// The version's bytes are gone.
    Destroyed,
    /// The version is revoked.
    Revoked,
    /// The version lost its stage longer ago than `retire_after`.
    Retired,
    /// The daemon asked itself.
    SelfAccess,
    /// A limit was reached.
    OverLimit,
    /// An administrative act was done.
    Done,
    /// Something broke: a damaged value, a fault of our own.
    Failed,
}

/// Why, as a code: a closed list, never free text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs, reason = "each is the word itself")]
pub enum Reason {
    NoGrant,
    NoReadGrant,
    StageNotGranted,
    FieldNotGranted,
    FactUnknown,
    RootWithoutGrant,
    PolicyChanged,
    CallerChanged,
    RateLimit,
    ProcessTooOld,
    InFlight,
    Corrupt,
    WrongKey,
    Panic,
    Deadline,
    Compromised,
    Superseded,
    Error,
    Drill,
    Signal,
    Command,
    Size,
    Age,
    Shutdown,
    NotFound,
    Exists,
    Refused,
    LogReplaced,
}
