//! Why a command was not done: a kind, which becomes the exit code, and a sentence for people.

use serde::{Deserialize, Serialize};

use crate::access::AdministerFault;
use crate::document::Fault;
use crate::model::{NameFault, Outcome};
use crate::store::StoreFault;

/// What kind of failure; each has its exit code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// It failed, for a reason that has no code of its own.
    Failed,
    /// The command was not understood.
    Usage,
    /// There is no such secret, version or field, or none that the asker may know of.
    NotFound,
    /// Policy refused.
    Refused,
    /// The store, or the running instance, cannot be reached.
    StoreAway,
    /// The audit log cannot be written or does not verify.
    Audit,
    /// The configuration or the policy is invalid.
    Invalid,
    /// It already exists, or the name is taken.
    Exists,
}

/// A command that was not done. The text never holds a value.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct CommandFault {
    /// What kind.
    pub kind: Kind,
    /// What, where, remedy.
    pub message: String,
}

impl CommandFault {
    /// A fault of that kind.
    pub fn new(kind: Kind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into() }
    }

    /// A failure without a code of its own.
    pub fn failed(message: impl Into<String>) -> Self {
        Self::new(Kind::Failed, message)
    }

    /// The command was not understood.
    pub fn usage(message: impl Into<String>) -> Self {
        Self::new(Kind::Usage, message)
    }

    /// Nothing there.
    pub fn not_found(message: impl Into<String>) -> Self {
        Self::new(Kind::NotFound, message)
    }

    /// Every fault of configuration or policy, a line each.
    #[must_use]
    pub fn invalid(faults: &[Fault]) -> Self {
        let lines: Vec<String> = faults.iter().map(ToString::to_string).collect();
        Self::new(Kind::Invalid, lines.join("\n"))
    }
}

impl From<NameFault> for CommandFault {
    fn from(fault: NameFault) -> Self {
        Self::usage(fault.to_string())
    }
}

impl From<StoreFault> for CommandFault {
    fn from(fault: StoreFault) -> Self {
        let kind = match &fault {
            StoreFault::NoSecret(_)
            | StoreFault::NoVersion(..)
            | StoreFault::NoField(..)
            | StoreFault::NoStage(..)
            | StoreFault::Deleted(..)
            | StoreFault::Destroyed(..) => Kind::NotFound,
            StoreFault::Timeout | StoreFault::Away(_) | StoreFault::Sealed(_) | StoreFault::Refused(_) => {
                Kind::StoreAway
            }
            StoreFault::Exists(_) => Kind::Exists,
            _ => Kind::Failed,
        };
        Self::new(kind, fault.to_string())
    }
}

impl From<AdministerFault> for CommandFault {
    fn from(fault: AdministerFault) -> Self {
        let kind = match fault {
            AdministerFault::Store(fault) => return fault.into(),
            AdministerFault::Refused(_) => Kind::Refused,
            AdministerFault::NoStore(_) => Kind::NotFound,
            AdministerFault::NotRecorded | AdministerFault::DoneUnrecorded { .. } => Kind::Audit,
        };
        Self::new(kind, fault.to_string())
    }
}

/// The kind of a refused read.
#[must_use]
pub(super) const fn kind_of(outcome: Outcome) -> Kind {
    match outcome {
        Outcome::Hidden | Outcome::Destroyed | Outcome::Retired => Kind::NotFound,
        Outcome::Denied | Outcome::Revoked | Outcome::OverLimit | Outcome::SelfAccess => Kind::Refused,
        Outcome::NoAudit => Kind::Audit,
        Outcome::Timeout | Outcome::StoreAway | Outcome::StoreRefused | Outcome::Sealed => Kind::StoreAway,
        Outcome::Released | Outcome::Done | Outcome::Failed => Kind::Failed,
    }
}
