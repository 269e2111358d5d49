//! The gate: the one door to values. It decides, fetches, records and releases, in that order, and nobody else
//! holds a store. It may touch the rooms below it; it knows no FUSE, no socket and no configuration file.
//!
//! **Invariant:** no byte leaves without a [`Permit`](crate::policy::Permit), which only policy makes, and a
//! [`Receipt`](crate::audit::Receipt), which only the audit log makes.

mod administer;
mod asking;
mod get;
mod limits;
mod minted;
mod places;
mod read;
mod record;
mod refusal;
mod spoken;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::RwLock;

use crate::audit::Log;
use crate::model::UnixTime;
use crate::policy::Policy;

pub use administer::{Actor, AdministerFault, Administered};
pub use asking::Asking;
pub use limits::Limits;
pub use places::{Place, Places, PrefixFault};
pub use read::{Opening, Reader, Released, Releasing, Target};
pub(crate) use record::freshness;
pub use refusal::Refusal;

/// Tells the wall-clock time; tests pass their own.
pub type Clock = Box<dyn Fn() -> UnixTime + Send + Sync>;

/// What the gate is built from.
pub struct Parts {
    /// Every store, by where it appears in the tree.
    pub places: Places,
    /// Who may do what.
    pub policy: Policy,
    /// Where it is recorded.
    pub log: Arc<Log>,
    /// How much of what.
    pub limits: Limits,
    /// What time it is.
    pub clock: Clock,
}

/// The one door to values.
pub struct Gate {
    places: Places,
    /// Guards which policy is in force; a request takes one `Arc` and keeps to it.
    policy: RwLock<Arc<Policy>>,
    /// Whether the policy in force names executables by digest: one look for each request.
    names_digests: AtomicBool,
    log: Arc<Log>,
    limits: limits::Counters,
    clock: Clock,
}

impl Gate {
    /// Builds the gate.
    #[must_use]
    pub fn new(parts: Parts) -> Self {
        Self {
            places: parts.places,
            names_digests: AtomicBool::new(parts.policy.names_digests()),
            policy: RwLock::new(Arc::new(parts.policy)),
            log: parts.log,
            limits: limits::Counters::new(parts.limits),
            clock: parts.clock,
        }
    }

    /// The policy in force.
    #[must_use]
    pub fn policy(&self) -> Arc<Policy> {
        Arc::clone(&self.policy.read())
    }

    /// Puts `policy` in force: every decision that begins after this returns is made by it.
    pub fn put_in_force(&self, policy: Policy) {
        let mut in_force = self.policy.write();
        self.names_digests.store(policy.names_digests(), Ordering::Release);
        *in_force = Arc::new(policy);
    }

    /// Whether the policy in force names executables by digest.
    #[must_use]
    pub fn names_digests(&self) -> bool {
        self.names_digests.load(Ordering::Acquire)
    }

    /// Where secrets are: names and metadata, no values.
    #[must_use]
    pub fn places(&self) -> &Places {
        &self.places
    }

    /// The audit log.
    #[must_use]
    pub fn log(&self) -> &Arc<Log> {
        &self.log
    }

    /// What time it is.
    #[must_use]
    pub fn now(&self) -> UnixTime {
        (self.clock)()
    }
}
