//! Exit codes: what scripts rely on.

use std::process::ExitCode;

use crate::control::Kind;

/// How the program ends. The numbers never change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// It was done.
    Done = 0,
    /// It failed, for a reason that has no number of its own.
    Failed = 1,
    /// The command line was not understood.
    Usage = 2,
    /// There is no such secret, version or field, or none that you may know of.
    NotFound = 3,
    /// Policy refused.
    Refused = 4,
    /// The store, or the running instance, cannot be reached.
    StoreAway = 5,
    /// The audit log cannot be written, or does not verify.
    Audit = 6,
    /// The configuration or the policy is invalid.
    Invalid = 7,
    /// It already exists, or the name is taken.
    Exists = 8,
}

impl Exit {
    /// The exit of another process of ours.
    pub(super) fn of_code(code: i32) -> Self {
        let all = [
            Self::Done,
            Self::Failed,
            Self::Usage,
            Self::NotFound,
            Self::Refused,
            Self::StoreAway,
            Self::Audit,
            Self::Invalid,
            Self::Exists,
        ];
        all.into_iter().find(|exit| *exit as i32 == code).unwrap_or(Self::Failed)
    }
}

impl From<Kind> for Exit {
    fn from(kind: Kind) -> Self {
        match kind {
            Kind::Failed => Self::Failed,
            Kind::Usage => Self::Usage,
            Kind::NotFound => Self::NotFound,
            Kind::Refused => Self::Refused,
            Kind::StoreAway => Self::StoreAway,
            Kind::Audit => Self::Audit,
            Kind::Invalid => Self::Invalid,
            Kind::Exists => Self::Exists,
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}
