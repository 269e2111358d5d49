//! Why a store did not do what it was asked.

use std::sync::Arc;

use crate::model::{FieldName, SecretPath, Version};

/// A store's refusal or failure. The text is for operators; it never holds a value.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StoreFault {
    /// There is no such secret.
    #[error("{0} does not exist")]
    NoSecret(SecretPath),
    /// There is no such version.
    #[error("{0} has no version {1}")]
    NoVersion(SecretPath, Version),
    /// The version has no such field.
    #[error("version {1} of {0} has no field {2}")]
    NoField(SecretPath, Version, FieldName),
    /// There is no version to go back to, or none staged.
    #[error("{0} has no {1} version")]
    NoStage(SecretPath, &'static str),
    /// The version is deleted; it can be restored.
    #[error("version {1} of {0} is deleted: restore it with `credfs undelete`")]
    Deleted(SecretPath, Version),
    /// The bytes are gone.
    #[error("version {1} of {0} is destroyed")]
    Destroyed(SecretPath, Version),
    /// The version is revoked.
    #[error("version {1} of {0} is revoked")]
    Revoked(SecretPath, Version),
    /// The store keeps one value alone, and holds another one by now.
    #[error("version {1} of {0} was replaced")]
    Replaced(SecretPath, Version),
    /// What the store's own server said, and its name for the request.
    #[error("{fault} (request {request_id})")]
    Answered {
        /// What it said.
        fault: Box<StoreFault>,
        /// Its id of the request.
        request_id: Arc<str>,
    },
    /// A value or a set of fields is larger than the limit.
    #[error("{what} is larger than {limit}: {remedy}")]
    TooLarge {
        /// What is.
        what: &'static str,
        /// The limit, with its unit.
        limit: &'static str,
        /// What to do.
        remedy: &'static str,
    },
    /// The deadline passed.
    #[error("the store did not answer in time")]
    Timeout,
    /// The store cannot be reached.
    #[error("the store cannot be reached: {0}")]
    Away(String),
    /// The store refused our login, or a request of it.
    #[error("refused by the store: {0}")]
    Refused(String),
    /// The store needs its key.
    #[error("the store is sealed: {0}")]
    Sealed(String),
    /// The key does not open the store.
    #[error("the key does not open this store: {0}")]
    WrongKey(String),
    /// What is stored does not prove itself: changed, moved or damaged.
    #[error("damaged: {0}")]
    Corrupt(String),
    /// The store was written by a later version of credfs.
    #[error("{0}")]
    Future(String),
    /// Another process holds the store.
    #[error("{0}")]
    Busy(String),
    /// The whole secret is deleted; it can be restored.
    #[error("{0} is deleted: restore it with `credfs undelete`")]
    SecretDeleted(SecretPath),
    /// What was asked makes no sense as things stand. Says why and what to do.
    #[error("{0}")]
    Invalid(String),
    /// A file that would be overwritten.
    #[error("{0}")]
    Exists(String),
    /// Others than its owner may use a file that is to be private.
    #[error("{0}")]
    Lax(String),
    /// The key file does not hold a key.
    #[error("{0}")]
    KeyFile(String),
    /// The file or disk failed.
    #[error("{0}")]
    Io(String),
}

impl StoreFault {
    /// The fault itself, without the request that it was the answer to.
    #[must_use]
    pub fn bare(&self) -> &Self {
        match self {
            Self::Answered { fault, .. } => fault.bare(),
            fault => fault,
        }
    }

    /// The same, told of the secret by its path in the tree instead of that in the store.
    #[must_use]
    pub fn about(self, path: &SecretPath) -> Self {
        let path = path.clone();
        match self {
            Self::NoSecret(_) => Self::NoSecret(path),
            Self::NoVersion(_, version) => Self::NoVersion(path, version),
            Self::NoField(_, version, field) => Self::NoField(path, version, field),
            Self::NoStage(_, stage) => Self::NoStage(path, stage),
            Self::Deleted(_, version) => Self::Deleted(path, version),
            Self::Destroyed(_, version) => Self::Destroyed(path, version),
            Self::Revoked(_, version) => Self::Revoked(path, version),
            Self::Replaced(_, version) => Self::Replaced(path, version),
            Self::SecretDeleted(_) => Self::SecretDeleted(path),
            Self::Answered { fault, request_id } => {
                Self::Answered { fault: Box::new(fault.about(&path)), request_id }
            }
            fault => fault,
        }
    }

    /// The server's id of the request that this was the answer to.
    #[must_use]
    pub fn request_id(&self) -> Option<&str> {
        match self {
            Self::Answered { request_id, .. } => Some(request_id),
            _ => None,
        }
    }
}
