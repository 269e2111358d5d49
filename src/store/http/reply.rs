//! What came back: an answer within its bounds, or why there is none.

use std::time::Duration;

use serde::Deserialize;

use super::json;
use crate::model::{SecretBytes, UnixTime};

/// An answer, whole.
pub(in crate::store) struct Reply {
    /// The status.
    pub(in crate::store) status: u16,
    /// How long the server asks to be left alone.
    pub(in crate::store) retry_after: Option<Duration>,
    /// The server's clock, to the second.
    pub(in crate::store) date: Option<UnixTime>,
    pub(super) body: SecretBytes,
}

impl Reply {
    /// The body as JSON. What is borrowed from it lies in locked memory.
    pub(in crate::store) fn json<'a, T: Deserialize<'a>>(&'a self) -> Result<T, HttpFault> {
        json::parse(self.body.expose())
    }
}

/// Why there is no answer. No text repeats what a server said or what was sent.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(in crate::store) enum HttpFault {
    /// A deadline passed.
    #[error("no answer in time")]
    Timeout,
    /// There is no connection.
    #[error("{0}")]
    Unreachable(String),
    /// The connection ended before the answer did.
    #[error("{0} ended the connection in the middle of its answer")]
    Broken(String),
    /// A redirect: nothing is sent to where it leads.
    #[error("{0} redirects to another place, which is not followed: name that place in \"addresses\"")]
    Redirect(String),
    /// More than may be.
    #[error("the answer of {0} is larger than response_bytes_max")]
    TooLarge(String),
    /// Not what it should be.
    #[error("the answer is not valid JSON, or nested too deeply")]
    Invalid,
    /// A file of ours cannot be used.
    #[error("{0}")]
    File(String),
    /// The request cannot be written down.
    #[error("this name cannot be asked for over HTTP")]
    Name,
}
