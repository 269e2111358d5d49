//! A remote engine as the remote store in front of it needs it: asked one thing at a time, under one login, and remembering no
//! secret. What is known, fresh, cached or given in an outage is decided in front of it, once for all engines.

use std::time::Duration;

use crate::model::{
    FieldName, Ownership, SecretBytes, SecretPath, StageSet, State, UnixTime, Version, VersionInfo,
};

use super::{Change, Login, Pending, StoreFault};

/// What an engine answered, and its own name for the request.
pub struct Answer<T> {
    /// What was asked for.
    pub content: T,
    /// The engine's id of the request, for the record.
    pub request_id: Option<String>,
}

/// Why an engine did not answer as asked.
#[derive(Debug, Clone)]
pub struct SourceFault {
    /// What went wrong. [`StoreFault::Refused`] is the engine's own no to this login, [`StoreFault::Away`] and
    /// [`StoreFault::Timeout`] are no answer at all.
    pub fault: StoreFault,
    /// The engine's id of the request, where it got so far.
    pub request_id: Option<String>,
    /// How long the engine asked to be left alone (429, 503).
    pub retry_after: Option<Duration>,
}

impl From<StoreFault> for SourceFault {
    fn from(fault: StoreFault) -> Self {
        Self { fault, request_id: None, retry_after: None }
    }
}

/// A secret as its engine describes it, without a value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Description {
    /// Its versions, ordered by number. Empty where the engine keeps one value and numbers none: whoever remembers
    /// its answers numbers them.
    pub versions: Vec<DescribedVersion>,
    /// The version that readers get.
    pub current: Option<Version>,
    /// The version that readers got before.
    pub previous: Option<Version>,
    /// The version that is staged.
    pub next: Option<Version>,
    /// Whether the whole secret is deleted: hidden, and restorable.
    pub deleted: bool,
    /// When anything about it last changed, by the engine's clock.
    pub changed: UnixTime,
    /// What people said about it.
    pub ownership: Ownership,
}

/// One version as its engine describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DescribedVersion {
    /// Its number.
    pub number: Version,
    /// When it was stored, by the engine's clock.
    pub created: UnixTime,
    /// When it last became current; `None` where it never was, or the engine does not say.
    pub activated: Option<UnixTime>,
    /// Which stages it lost and when it lost the last of them, where the engine says.
    pub lost: Option<(UnixTime, StageSet)>,
    /// Whether it may be read at all.
    pub state: State,
    /// Whether it is revoked, also where it is deleted or destroyed.
    pub revoked: bool,
    /// The names of its fields and their lengths in bytes, as far as the engine says before a fetch. `None`: not at all.
    pub fields: Option<Vec<(FieldName, Option<u64>)>>,
}

impl DescribedVersion {
    /// What is known of a version, with the names of its fields as `fields` says them.
    pub(super) fn of(version: &VersionInfo, fields: Option<Vec<(FieldName, Option<u64>)>>) -> Self {
        Self {
            number: version.number,
            created: version.created,
            activated: version.activated,
            lost: version.lost,
            state: version.state,
            revoked: version.revoked,
            fields,
        }
    }
}

/// Every field of one version, as one request gives them.
pub struct Values {
    /// Which version they are of; `None` where the engine numbers none.
    pub version: Option<Version>,
    /// The fields, ordered by name.
    pub fields: Vec<(FieldName, SecretBytes)>,
}

/// What a change did at the engine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Made {
    /// The version that the change was about.
    pub version: Option<Version>,
    /// Fields carried over from the version before.
    pub carried: Vec<FieldName>,
    /// What the engine now says of the secret; `None`: it is gone.
    pub description: Option<Description>,
}

/// A name in a folder of the engine.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Child {
    /// The name, one component.
    pub name: String,
    /// Whether it has names below it. A secret and a folder may share a name; both are told then.
    pub is_folder: bool,
}

/// How a login is, for `status`. Never the token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoginStatus {
    /// Whose.
    pub login: Login,
    /// By which method.
    pub method: &'static str,
    /// What happened last.
    pub state: LoginState,
    /// How long ago it was made.
    pub age: Option<Duration>,
    /// How long it lives from now unless renewed; `None`: for ever, or there is none.
    pub remaining: Option<Duration>,
    /// Whether the engine made it for us, so that it is ours to revoke.
    pub is_ours: bool,
    /// The engine's public name for the token.
    pub accessor: Option<String>,
}

/// Whether a login can be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LoginState {
    /// Not made yet: nobody needed it.
    Unused,
    /// Made, and not ended.
    Valid,
    /// The engine refused it.
    Refused,
    /// It ended, or could not be made: the engine is away.
    Away,
}

/// A remote engine. Every method ends within the deadlines that the engine was configured with. Names and fields may be
/// whatever the engine allows: what the tree cannot bear is encoded in front of it.
pub trait Source: Send + Sync {
    /// The name of the store in the configuration.
    fn name(&self) -> &str;

    /// What the engine says of a secret. `None`: there is none.
    fn describe<'a>(
        &'a self,
        login: &'a Login,
        path: &'a SecretPath,
    ) -> Pending<'a, Result<Answer<Option<Description>>, SourceFault>>;

    /// Every field of a version. `None` for the version: of the one that readers get, at an engine that numbers none.
    fn read<'a>(
        &'a self,
        login: &'a Login,
        path: &'a SecretPath,
        version: Option<Version>,
    ) -> Pending<'a, Result<Answer<Values>, SourceFault>>;

    /// The names in a folder (`""`: at the top), in byte order.
    fn list<'a>(
        &'a self,
        login: &'a Login,
        folder: &'a str,
    ) -> Pending<'a, Result<Answer<Vec<Child>>, SourceFault>>;

    /// Makes one change, whole or not at all, only if the secret is as it was when the change was worked out: a lost race
    /// is [`StoreFault::Invalid`] and says so. What is carried over goes through this process and no cache.
    fn change<'a>(
        &'a self,
        login: &'a Login,
        change: Change,
    ) -> Pending<'a, Result<Answer<Made>, SourceFault>>;

    /// Whether the engine can be reached and is unsealed, asked now without a login.
    fn probe(&self) -> Pending<'_, Result<(), SourceFault>>;

    /// The version of the KV engine behind it, where there is one and it has said so; nobody is asked.
    fn kv_version(&self) -> Option<u8> {
        None
    }

    /// How its logins are, without asking anyone.
    fn logins(&self) -> Vec<LoginStatus>;

    /// Revokes a login that nobody needs any more; the next request under it logs in again.
    fn log_out<'a>(&'a self, login: &'a Login) -> Pending<'a, ()>;

    /// The same, unless `is_needed` says otherwise at the moment from which on whoever needs the login makes a new one: what
    /// was begun under it before that moment is not cut off.
    fn log_out_unless<'a>(
        &'a self,
        login: &'a Login,
        is_needed: &'a (dyn Fn() -> bool + Send + Sync),
    ) -> Pending<'a, ()> {
        Box::pin(async move {
            if !is_needed() {
                self.log_out(login).await;
            }
        })
    }
}
