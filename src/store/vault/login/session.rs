//! One token and how long it lives.

use std::borrow::Cow;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::super::server::{Answered, store_fault};
use crate::model::SecretBytes;
use crate::store::http::bytes_of;
use crate::store::{SourceFault, StoreFault};

/// What is taken off the end of a lease, so that no request arrives after it.
const MARGIN_MAX: Duration = Duration::from_secs(2);

/// A token, as long as it is good. It has no Debug, Clone or Serialize, and is wiped when dropped.
pub(in crate::store::vault) struct Session {
    pub(super) token: SecretBytes,
    /// The server's public name for the token.
    pub(super) accessor: Option<String>,
    /// When it was made.
    pub(super) made: Instant,
    /// Whether the server made it for us: only then is it ours to revoke.
    pub(super) is_ours: bool,
    /// Guards the lease, which renewal changes.
    lease: Mutex<Lease>,
    /// When a request last used it.
    used: Mutex<Instant>,
}

/// Until when a token is good.
#[derive(Debug, Clone, Copy)]
pub(super) struct Lease {
    /// Since when.
    pub(super) since: Instant,
    /// How long; `None`: for ever.
    pub(super) length: Option<Duration>,
    /// Whether it can be renewed.
    pub(super) is_renewable: bool,
}

/// The `auth` of a login's answer.
#[derive(Deserialize)]
struct Auth<'a> {
    #[serde(borrow, default)]
    client_token: Option<&'a RawValue>,
    #[serde(borrow, default)]
    accessor: Option<Cow<'a, str>>,
    #[serde(default)]
    lease_duration: u64,
    #[serde(default)]
    renewable: bool,
}

#[derive(Deserialize)]
struct LoggedIn<'a> {
    #[serde(borrow, default)]
    auth: Option<Auth<'a>>,
}

/// What the server says of a token.
#[derive(Deserialize)]
struct TokenTold<'a> {
    #[serde(default)]
    ttl: u64,
    #[serde(default)]
    renewable: bool,
    #[serde(borrow, default)]
    accessor: Option<Cow<'a, str>>,
}

fn seconds(seconds: u64) -> Option<Duration> {
    (seconds > 0).then(|| Duration::from_secs(seconds))
}

impl Session {
    fn new(token: SecretBytes, accessor: Option<Cow<'_, str>>, is_ours: bool, lease: Lease) -> Self {
        Self {
            token,
            accessor: accessor.map(Cow::into_owned).filter(|accessor| !accessor.is_empty()),
            made: lease.since,
            is_ours,
            lease: Mutex::new(lease),
            used: Mutex::new(lease.since),
        }
    }

    /// The session that a login began.
    pub(super) fn begun(answered: &Answered) -> Result<Self, SourceFault> {
        let told: LoggedIn<'_> = answered.reply.json().map_err(|fault| answered.fault(store_fault(fault)))?;
        let refused = |text: &str| answered.fault(StoreFault::Refused(text.to_owned()));
        let auth = told.auth.ok_or_else(|| refused("the server answered the login without a token"))?;
        let token = match auth.client_token.map(bytes_of) {
            Some(token) => token.map_err(|fault| answered.fault(store_fault(fault)))?,
            None => return Err(refused("the server answered the login without a token")),
        };
        if token.is_empty() {
            return Err(refused("the server wants a second factor for this login: use a method without"));
        }
        let lease = Lease {
            since: Instant::now(),
            length: seconds(auth.lease_duration),
            is_renewable: auth.renewable,
        };
        Ok(Self::new(token, auth.accessor, true, lease))
    }

    /// The session of a token that we were given, by what the server says of it.
    pub(super) fn given(token: SecretBytes, answered: &Answered) -> Result<Self, SourceFault> {
        let (told, _): (TokenTold<'_>, _) = answered.data()?;
        let lease = Lease { since: Instant::now(), length: seconds(told.ttl), is_renewable: told.renewable };
        Ok(Self::new(token, told.accessor, false, lease))
    }

    /// The lease that a renewal gave.
    pub(super) fn renewed(answered: &Answered) -> Option<Lease> {
        let told: LoggedIn<'_> = answered.reply.json().ok()?;
        let auth = told.auth?;
        Some(Lease {
            since: Instant::now(),
            length: seconds(auth.lease_duration),
            is_renewable: auth.renewable,
        })
    }

    pub(super) fn lease(&self) -> Lease {
        *self.lease.lock()
    }

    pub(super) fn set_lease(&self, lease: Lease) {
        *self.lease.lock() = lease;
    }

    /// How long it is still good; `None`: for ever.
    pub(super) fn remaining(&self) -> Option<Duration> {
        let lease = self.lease();
        Some(lease.length?.saturating_sub(lease.since.elapsed()))
    }

    /// Whether a request that is sent now may come too late.
    pub(super) fn is_over(&self) -> bool {
        let Some(length) = self.lease().length else { return false };
        self.remaining().is_some_and(|remaining| remaining <= MARGIN_MAX.min(length / 10))
    }

    pub(super) fn note_use(&self) {
        *self.used.lock() = Instant::now();
    }

    /// Whether a request used it within the last lease.
    pub(super) fn is_in_use(&self) -> bool {
        let used = *self.used.lock();
        self.lease().length.is_none_or(|length| used.elapsed() < length)
    }
}
