//! Why a caller gets nothing.

use crate::audit::NotRecorded;
use crate::model::{Outcome, Reason};
use crate::policy::{Denial, DenialKind};
use crate::store::StoreFault;

/// A refusal: what the record says, and through the errno contract what the caller sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Refusal {
    /// The outcome, which decides the errno.
    pub outcome: Outcome,
    /// Why, as a code.
    pub reason: Option<Reason>,
}

impl Refusal {
    /// It does not exist, for this caller.
    pub const HIDDEN: Self = Self { outcome: Outcome::Hidden, reason: None };

    /// A refusal for `reason`.
    #[must_use]
    pub const fn new(outcome: Outcome, reason: Reason) -> Self {
        Self { outcome, reason: Some(reason) }
    }
}

impl From<Outcome> for Refusal {
    fn from(outcome: Outcome) -> Self {
        Self { outcome, reason: None }
    }
}

impl From<Denial> for Refusal {
    fn from(denial: Denial) -> Self {
        let outcome = match denial.kind {
            DenialKind::Hidden => Outcome::Hidden,
            DenialKind::Denied => Outcome::Denied,
            DenialKind::Retired => Outcome::Retired,
            DenialKind::TooOld => Outcome::OverLimit,
        };
        Self { outcome, reason: Some(denial.reason) }
    }
}

impl From<NotRecorded> for Refusal {
    fn from(_: NotRecorded) -> Self {
        Self { outcome: Outcome::NoAudit, reason: None }
    }
}

impl From<&StoreFault> for Refusal {
    fn from(fault: &StoreFault) -> Self {
        match fault {
            StoreFault::Answered { fault, .. } => Self::from(&**fault),
            // The kernel walks the path once more, and finds what is there now.
            StoreFault::Replaced(..) => Outcome::Retired.into(),
            // What is gone or hidden in the store does not exist, for anyone.
            StoreFault::NoSecret(_)
            | StoreFault::NoVersion(..)
            | StoreFault::NoField(..)
            | StoreFault::NoStage(..)
            | StoreFault::SecretDeleted(_)
            | StoreFault::Deleted(..) => Self::new(Outcome::Hidden, Reason::NotFound),
            StoreFault::Destroyed(..) => Outcome::Destroyed.into(),
            StoreFault::Revoked(..) => Outcome::Revoked.into(),
            StoreFault::TooLarge { .. } => Self::new(Outcome::Failed, Reason::Size),
            StoreFault::Timeout => Self::new(Outcome::Timeout, Reason::Deadline),
            StoreFault::Away(_) | StoreFault::Busy(_) => Outcome::StoreAway.into(),
            StoreFault::Refused(_) => Outcome::StoreRefused.into(),
            StoreFault::Sealed(_) => Outcome::Sealed.into(),
            StoreFault::WrongKey(_) => Self::new(Outcome::Sealed, Reason::WrongKey),
            // A later format or a failing disk is a fault of this machine, not of the caller.
            StoreFault::Corrupt(_) | StoreFault::Future(_) => Self::new(Outcome::Failed, Reason::Corrupt),
            StoreFault::Io(_)
            | StoreFault::Invalid(_)
            | StoreFault::Exists(_)
            | StoreFault::Lax(_)
            | StoreFault::KeyFile(_) => Self::new(Outcome::Failed, Reason::Error),
        }
    }
}
