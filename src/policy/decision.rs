//! What is asked of policy and what it answers. Only this room can make a [`Permit`].

use std::fmt;
use std::sync::Arc;

use super::grant::RateLimit;
use crate::model::{FieldName, Reason, SecretPath, Standing};

/// What a caller wants to do with a secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Action {
    /// See that it is there, and its metadata.
    List,
    /// Get a value.
    Read,
    /// Change it, or ask about it as an administrator.
    Admin,
}

/// One question.
#[derive(Debug, Clone, Copy)]
pub struct Request<'a> {
    /// What is to be done.
    pub action: Action,
    /// With which secret.
    pub secret: &'a SecretPath,
    /// With which field; `None`: with the secret as a whole.
    pub field: Option<&'a FieldName>,
    /// How the version stands. For [`Action::List`], `None` asks about the secret's directory; for
    /// [`Action::Read`], `None` is a version that no stage names or named. [`Action::Admin`] does not look at it.
    pub standing: Option<&'a Standing>,
}

/// The answer.
#[derive(Debug)]
#[must_use]
pub enum Decision {
    /// It may be done.
    Allow(Permit),
    /// It may not.
    Deny(Denial),
}

impl Decision {
    /// Whether it may be done.
    #[must_use]
    pub const fn is_allow(&self) -> bool {
        matches!(self, Self::Allow(_))
    }
}

/// A short digest of the policy in force, for records.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct PolicyDigest(pub(super) Arc<str>);

impl PolicyDigest {
    /// Sixteen hexadecimal digits.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for PolicyDigest {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

/// The proof of one decision: this may be done, with this, by this rule.
#[derive(Debug)]
#[must_use]
pub struct Permit {
    pub(super) action: Action,
    pub(super) secret: SecretPath,
    pub(super) field: Option<FieldName>,
    pub(super) rule: Arc<str>,
    pub(super) identity: Arc<str>,
    pub(super) policy: PolicyDigest,
    pub(super) limit: Option<RateLimit>,
}

impl Permit {
    /// What may be done.
    #[must_use]
    pub const fn action(&self) -> Action {
        self.action
    }

    /// With which secret.
    #[must_use]
    pub const fn secret(&self) -> &SecretPath {
        &self.secret
    }

    /// With which field; `None`: with the secret as a whole.
    #[must_use]
    pub const fn field(&self) -> Option<&FieldName> {
        self.field.as_ref()
    }

    /// The rule, as `policy.toml:12 (grant 3)`.
    #[must_use]
    pub fn rule(&self) -> &str {
        &self.rule
    }

    /// The identity that the caller has by that rule.
    #[must_use]
    pub fn identity(&self) -> &str {
        &self.identity
    }

    /// The policy that was in force.
    #[must_use]
    pub const fn policy(&self) -> &PolicyDigest {
        &self.policy
    }

    /// How often the rule may be used; counting is the gate's.
    #[must_use]
    pub const fn limit(&self) -> Option<RateLimit> {
        self.limit
    }
}

/// How a denial looks to the caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DenialKind {
    /// It does not exist for this caller.
    Hidden,
    /// It is visible, and not to be read.
    Denied,
    /// It was granted until its stage was lost longer ago than `retire_after`.
    Retired,
    /// It was granted within a time of the process's start that is over.
    TooOld,
}

/// A refusal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Denial {
    /// How it looks.
    pub kind: DenialKind,
    /// Why, for the record.
    pub reason: Reason,
}

/// What a caller sees of a version or a field.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[must_use]
pub enum Listing {
    /// It is there.
    Visible,
    /// It was, until its stage was lost longer ago than `retire_after`.
    Retired,
    /// It is not.
    Hidden,
}
