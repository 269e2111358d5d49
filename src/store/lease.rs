//! Secrets that are minted for one consumer and end with a lease: what is declared of them, and what an engine that mints
//! must answer.

use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{Answer, Login, Pending, SourceFault};
use crate::model::{Consumer, FieldName, Reason, SecretBytes, SecretPath, Sharing, Stage, UnixTime, Version};

/// A directory whose values are minted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Declared {
    /// Where, by the path in its store.
    pub path: SecretPath,
    /// By what.
    pub engine: Engine,
    /// Who shares one lease.
    pub sharing: Sharing,
}

/// What mints.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Engine {
    /// A user of a database.
    Database {
        /// The path of the engine.
        mount: String,
        /// Its role.
        role: String,
    },
    /// A certificate and its key.
    Pki(Pki),
}

/// What a certificate is issued for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pki {
    /// The path of the engine.
    pub mount: String,
    /// Its role.
    pub role: String,
    /// The name.
    pub common_name: String,
    /// Other names.
    pub alt_names: Vec<String>,
    /// Addresses.
    pub ip_sans: Vec<String>,
    /// How long it shall live; `None`: as the role says.
    pub ttl: Option<Duration>,
}

impl Pki {
    /// What the engine is sent, name by name.
    #[must_use]
    pub fn parameters(&self) -> Vec<(&'static str, String)> {
        let mut all = vec![("common_name", self.common_name.clone())];
        for (name, list) in [("alt_names", &self.alt_names), ("ip_sans", &self.ip_sans)] {
            if !list.is_empty() {
                all.push((name, list.join(",")));
            }
        }
        all.extend(self.ttl.map(|ttl| ("ttl", format!("{}s", ttl.as_secs()))));
        all
    }
}

/// Names of a database engine's fields, in order.
const DATABASE: [&str; 2] = ["password", "username"];
/// Names of a PKI engine's fields, in order.
const PKI: [&str; 7] =
    ["bundle", "ca_chain", "certificate", "fullchain", "issuing_ca", "private_key", "serial_number"];

impl Engine {
    /// The fields that it gives, ordered by name: known before anything is minted.
    #[must_use]
    pub fn fields(&self) -> Vec<FieldName> {
        let names: &[&str] = match self {
            Self::Database { .. } => &DATABASE,
            Self::Pki(_) => &PKI,
        };
        names.iter().filter_map(|name| FieldName::from_store(name).ok()).collect()
    }

    /// The engine's path and role, in words.
    #[must_use]
    pub fn describe(&self) -> String {
        match self {
            Self::Database { mount, role } => format!("{mount}/creds/{role}"),
            Self::Pki(pki) => format!("{}/issue/{}", pki.mount, pki.role),
        }
    }
}

/// What was minted.
pub struct Leased {
    /// The fields, ordered by name.
    pub fields: Vec<(FieldName, SecretBytes)>,
    /// By what the server ends it.
    pub handle: LeaseHandle,
    /// How long it lives from when it was asked for; `None`: for ever.
    pub length: Option<Duration>,
    /// Whether it can be renewed.
    pub is_renewable: bool,
    /// The session that it hangs on: it ends with that.
    pub tenure: Option<Arc<dyn Tenure>>,
}

/// By what a server knows what it minted. No secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LeaseHandle {
    /// A lease.
    Lease(String),
    /// A certificate without a lease.
    Certificate {
        /// The path of the engine.
        mount: String,
        /// Its serial number.
        serial: String,
    },
}

/// What ends a session, for a process that did not begin it. Its token is a secret.
pub struct LeftSession {
    /// Whose it is.
    pub login: Login,
    /// The server's public name for it.
    pub accessor: String,
    /// What it is used and ended with.
    pub token: SecretBytes,
}

/// A session at the server on which a lease hangs.
pub trait Tenure: Send + Sync {
    /// Keeps the session from being given up as unused; returns whether it is still the account's, and so kept good.
    fn keep(&self) -> bool;
    /// How long it still lives; `None`: for ever.
    fn remaining(&self) -> Option<Duration>;
    /// What a successor ends it with; `None`: it is not ours to end.
    fn leave(&self) -> Option<LeftSession>;
}

/// What came of a renewal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Renewed {
    /// It lives so long from when that was asked for.
    For {
        /// How long.
        length: Duration,
        /// Whether it can be renewed again.
        is_renewable: bool,
    },
    /// The server knows it no more.
    Gone,
}

/// An engine that mints. Every method ends within the deadlines that it was configured with.
pub trait LeaseSource: Send + Sync {
    /// Mints. Never asked twice for one call: what was minted unheard lives until its lease ends.
    fn mint<'a>(
        &'a self,
        login: &'a Login,
        engine: &'a Engine,
    ) -> Pending<'a, Result<Answer<Leased>, SourceFault>>;

    /// Asks for more time.
    fn renew<'a>(
        &'a self,
        login: &'a Login,
        handle: &'a LeaseHandle,
        length: Duration,
    ) -> Pending<'a, Result<Answer<Renewed>, SourceFault>>;

    /// Ends it. That it has ended already is no fault.
    fn revoke<'a>(
        &'a self,
        login: &'a Login,
        handle: &'a LeaseHandle,
    ) -> Pending<'a, Result<Answer<()>, SourceFault>>;

    /// Ends a session that an earlier process began. That it has ended already is no fault.
    fn end_session<'a>(&'a self, session: &'a LeftSession) -> Pending<'a, Result<Answer<()>, SourceFault>>;
}

/// Tells whether a consumer may still be there.
pub type Liveness = Arc<dyn Fn(&Consumer) -> bool + Send + Sync>;

/// What was done with a lease, for the record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum What {
    /// It was minted, or was not.
    Minted,
    /// It was not renewed.
    Renewed,
    /// It was ended at the server, or was not.
    Revoked,
}

/// Something that happened to a lease without anybody's command.
#[derive(Debug, Clone)]
pub struct LeaseEvent {
    /// The secret, by its path in the store.
    pub secret: SecretPath,
    /// Which version.
    pub version: Version,
    /// What was done.
    pub what: What,
    /// Whether it came about.
    pub is_done: bool,
    /// Why.
    pub reason: Option<Reason>,
    /// For whom.
    pub consumer: Arc<Consumer>,
    /// The store's name for the request.
    pub request_id: Option<String>,
}

/// A lease, for those who administer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeaseInfo {
    /// The secret, by its path in the store.
    pub secret: SecretPath,
    /// Which version.
    pub version: Version,
    /// For whom, in words.
    pub consumer: String,
    /// The stage at which that consumer sees it.
    pub stage: Option<Stage>,
    /// When it ends; `None`: never.
    pub expires: Option<UnixTime>,
    /// Whether it is only waiting to be ended at the server.
    pub is_ending: bool,
}
