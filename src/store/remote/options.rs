//! How the memory in front of a remote engine behaves.

use std::path::PathBuf;
use std::time::Duration;

use super::clocks::Clocks;
use crate::model::{Impact, Ownership};
use crate::store::{KeySource, Liveness};

/// How long a value may be given after its freshness ended, while its engine gives no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Grace {
    /// For secrets of which nobody said what a leak would mean.
    pub unclassified: Duration,
    /// For those of low impact.
    pub low: Duration,
    /// For those of medium impact.
    pub medium: Duration,
    /// For those of high impact.
    pub high: Duration,
}

impl Grace {
    /// The same for all.
    #[must_use]
    pub const fn of_all(span: Duration) -> Self {
        Self { unclassified: span, low: span, medium: span, high: span }
    }

    /// For one secret: what its own metadata says wins.
    pub(super) fn of(self, ownership: &Ownership) -> Duration {
        ownership.grace.unwrap_or(match ownership.impact {
            None => self.unclassified,
            Some(Impact::Low) => self.low,
            Some(Impact::Medium) => self.medium,
            Some(Impact::High) => self.high,
        })
    }
}

/// The sealed cache on disk, for reads after a reboot in an outage.
#[derive(Debug, Clone)]
pub struct CacheFile {
    /// Where it is.
    pub path: PathBuf,
    /// Its key.
    pub key: KeySource,
    /// How large it may become, in bytes.
    pub bytes_max: u64,
}

/// How a remote store behaves.
#[derive(Clone)]
pub struct RemoteOptions {
    /// How long a value is given without asking again.
    pub fresh_for: Duration,
    /// How long after that while the engine does not answer.
    pub grace: Grace,
    /// How long one request to the engine may take.
    pub answer_within: Duration,
    /// Requests in a row without an answer after which the engine is left alone.
    pub failures_max: u32,
    /// How often an engine that is left alone is probed.
    pub probe_every: Duration,
    /// Most requests per minute that are made without anybody waiting for them.
    pub requests_per_minute_max: u32,
    /// How often one secret in use is asked about at most.
    pub poll_every_min: Duration,
    /// How long after its last read a secret counts as in use.
    pub in_use_for: Duration,
    /// How often the names of all secrets are listed.
    pub list_every: Duration,
    /// How much to hold of values, in bytes of locked memory.
    pub value_cache_bytes_max: usize,
    /// The file in which numbers of fields are kept for ever. Its key lies beside it.
    pub numbers_file: PathBuf,
    /// The sealed cache on disk, where there is to be one.
    pub cache_file: Option<CacheFile>,
    /// How long to wait for another process to give those files up.
    pub lock_wait: Duration,
    /// Whether an identity without a login of its own is refused.
    pub needs_own_login: bool,
    /// Tells whether a consumer is still there. `None`: nobody can tell, and logins stay until the end.
    pub is_alive: Option<Liveness>,
    /// Tells the time.
    pub clocks: Clocks,
}

impl RemoteOptions {
    /// The usual options.
    #[must_use]
    pub fn new(numbers_file: impl Into<PathBuf>) -> Self {
        Self {
            fresh_for: Duration::from_secs(10),
            grace: Grace::of_all(Duration::from_secs(3600)),
            answer_within: Duration::from_secs(3),
            failures_max: 3,
            probe_every: Duration::from_millis(800),
            requests_per_minute_max: 450,
            poll_every_min: Duration::from_secs(1),
            in_use_for: Duration::from_secs(3600),
            list_every: Duration::from_secs(300),
            value_cache_bytes_max: 4 * 1024 * 1024,
            numbers_file: numbers_file.into(),
            cache_file: None,
            lock_wait: Duration::ZERO,
            needs_own_login: false,
            is_alive: None,
            clocks: Clocks::of_machine(),
        }
    }
}
