//! Where secrets come from: one small trait, and the stores behind it. It never learns who is asking beyond the
//! login that policy named, and decides nothing. SQL lives in `store/local` alone.

mod change;
mod dynamic;
mod fault;
mod faulty;
mod http;
mod lease;
mod local;
mod readable;
mod remote;
mod sealed;
mod semantics;
mod source;
mod vault;

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use crate::model::{Consumer, FieldName, FieldNode, Secret, SecretBytes, SecretPath, Version};

pub use change::{Change, Changed};
pub use dynamic::{Dynamic, DynamicOptions};
pub use fault::StoreFault;
pub use faulty::{Fault, Faulty};
pub use http::{Address, AddressFault, ClientCertificate, HttpOptions};
pub use lease::{
    Declared, Engine, LeaseEvent, LeaseHandle, LeaseInfo, LeaseSource, Leased, LeftSession, Liveness, Pki,
    Renewed, Tenure, What,
};
pub use local::{Backup, Checked, Clock, FIELDS_MAX, Local, LocalOptions, Restored};
pub use remote::{
    Age, AtHand, CacheFile, Clocks, Grace, Remote, RemoteOptions, Saying, UnreadableMemory, at_hand,
    given_in_spite,
};

pub use sealed::{Envelope, Key, KeySource};
pub use source::{
    Answer, Child, DescribedVersion, Description, LoginState, LoginStatus, Made, Source, SourceFault, Values,
};
pub use vault::{LoginBy, LoginSetup, Vault, VaultOptions, Wrapped};

/// Whose account on a store is used. The embedded store has one; a remote one may answer each login differently.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Login {
    account: Arc<str>,
    /// For whom, where what is asked for is minted for one consumer alone.
    consumer: Option<Arc<Consumer>>,
}

impl Login {
    /// The machine's own account.
    #[must_use]
    pub fn machine() -> Self {
        Self { account: "machine".into(), consumer: None }
    }

    /// The account of one local identity.
    #[must_use]
    pub fn of_identity(identity: &str) -> Self {
        Self { account: format!("identity:{identity}").into(), consumer: None }
    }

    /// The account of that name.
    fn named(account: &str) -> Self {
        Self { account: account.into(), consumer: None }
    }

    /// The same account, used for one consumer.
    #[must_use]
    pub fn for_consumer(&self, consumer: Consumer) -> Self {
        Self { account: Arc::clone(&self.account), consumer: Some(Arc::new(consumer)) }
    }

    /// The account alone, whoever it is used for.
    #[must_use]
    pub fn account(&self) -> Self {
        Self { account: Arc::clone(&self.account), consumer: None }
    }

    /// For whom it is used.
    #[must_use]
    pub fn consumer(&self) -> Option<&Arc<Consumer>> {
        self.consumer.as_ref()
    }

    /// The account's name: `machine`, or `identity:NAME`.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.account
    }
}

impl std::fmt::Display for Login {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(&self.account)
    }
}

/// How a store is, as far as it knows without asking anyone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StoreState {
    /// Answering.
    Ready,
    /// Not reachable.
    Away,
    /// Reachable, but it needs its key.
    Sealed,
    /// It cannot be used: damaged, or of a later format.
    Failed,
}

/// A field of one version, to be fetched. Only what policy permitted is ever asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    /// The secret, by its path in the store.
    pub secret: SecretPath,
    /// The version.
    pub version: Version,
    /// The field.
    pub field: FieldName,
}

/// What a fetch yields.
pub struct Fetched {
    /// The value.
    pub value: SecretBytes,
    /// How long ago its store vouched for it; zero where it did so now.
    pub stale_for: Duration,
    /// The store's own name for the request, for the record.
    pub request_id: Option<Arc<str>>,
}

/// A boxed future, as every trait with asynchronous methods behind `dyn` needs.
pub type Pending<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Called after a change is in force: a reader who asks from now on sees it.
/// Calls come in the order of changes. It may read the store and must not change it.
pub type Watcher = Box<dyn Fn(&Changed) + Send + Sync>;

/// A backing store.
///
/// What `known*` and `fetch_at_hand` answer never waits; a remote store answers from what it has seen.
pub trait Store: Send + Sync {
    /// Its name in the configuration.
    fn name(&self) -> &str;

    /// How it is.
    fn state(&self) -> StoreState;

    /// What is known of a secret. `None`: it does not exist, as far as is known.
    fn known(&self, login: &Login, path: &SecretPath) -> Option<Arc<Secret>>;

    /// Calls `visit` with each known secret whose path begins with `prefix`, letter by letter (`""`: all), in byte order
    /// of their paths, until it returns false. `visit` must not call the store.
    fn visit_known(&self, login: &Login, prefix: &str, visit: &mut dyn FnMut(&Arc<Secret>) -> bool);

    /// For how long the values at a path have not been vouched for by their source while it gives no answer; zero while
    /// they are fresh, or would be if they were read.
    fn stale_for(&self, login: &Login, path: &SecretPath) -> Duration;

    /// What a node stands for, also after a restart. `None`: never handed out, or destroyed.
    fn node(&self, node: FieldNode) -> Option<Wanted>;

    /// Asks the store for what is known of a secret now. The embedded store knows already.
    fn look_up<'a>(
        &'a self,
        login: &'a Login,
        path: &'a SecretPath,
    ) -> Pending<'a, Result<Option<Arc<Secret>>, StoreFault>>;

    /// Whether all there is is known, so that what is not known does not exist. The embedded store knows all.
    fn knows_all(&self) -> bool {
        true
    }

    /// What is declared of the secret at `path`, where its values are minted for each consumer.
    fn declared(&self, _path: &SecretPath) -> Option<Arc<Declared>> {
        None
    }

    /// Every path whose values are minted.
    fn all_declared(&self) -> Vec<SecretPath> {
        Vec::new()
    }

    /// Every lease that is not done with, by path and version.
    fn leases(&self) -> Vec<LeaseInfo> {
        Vec::new()
    }

    /// Has the names of the fields of a version known, where they are not known before it is read. Nothing is given for that.
    fn learn_fields<'a>(
        &'a self,
        _login: &'a Login,
        _path: &'a SecretPath,
        _version: Version,
    ) -> Pending<'a, Result<(), StoreFault>> {
        Box::pin(std::future::ready(Ok(())))
    }

    /// Somebody who may list it looks at a secret, and is shown what is known of it. A store that may know more asks about it
    /// soon, and nobody waits for that.
    fn note_look(&self, _path: &SecretPath) {}

    /// Whether it was said a moment ago that there is no such secret, so that it is not asked for again.
    fn is_absent(&self, _path: &SecretPath) -> bool {
        true
    }

    /// Whether it was said a moment ago which names lie in a folder.
    fn is_listed(&self, _folder: &str) -> bool {
        true
    }

    /// Whether an identity without a login of its own is refused.
    fn needs_own_login(&self) -> bool {
        false
    }

    /// Notes that something is about to be asked under `login` for a consumer: once none of a login's consumers is left it
    /// may be ended.
    fn used_by(&self, _login: &Login, _consumer: &Consumer) {}

    /// How its logins are, without asking anyone; none where it needs none.
    fn logins(&self) -> Vec<LoginStatus> {
        Vec::new()
    }

    /// The version of the KV engine behind it, where there is one and it has said so; nobody is asked.
    fn kv_version(&self) -> Option<u8> {
        None
    }

    /// How many requests its server was sent by this process; `None` where it has no server.
    fn requests(&self) -> Option<u64> {
        None
    }

    /// Asks the store for the names directly in a folder (`""`: at the top), so that they are known.
    fn look_into<'a>(&'a self, _login: &'a Login, _folder: &'a str) -> Pending<'a, Result<(), StoreFault>> {
        Box::pin(std::future::ready(Ok(())))
    }

    /// Asks the store again about one secret, or about all that is known and whatever else there is; the answer is newer
    /// than this call. Returns how many secrets are known of those.
    fn refresh<'a>(
        &'a self,
        login: &'a Login,
        path: Option<&'a SecretPath>,
    ) -> Pending<'a, Result<usize, StoreFault>> {
        let count = path.map_or_else(
            || {
                let mut count = 0;
                self.visit_known(login, "", &mut |_| {
                    count += 1;
                    true
                });
                count
            },
            |path| usize::from(self.known(login, path).is_some()),
        );
        Box::pin(std::future::ready(Ok(count)))
    }

    /// One value, where it can be had without waiting for a disk or a network. `None`: only [`Self::fetch`] can tell.
    fn fetch_at_hand(&self, login: &Login, wanted: &Wanted) -> Option<Result<Fetched, StoreFault>>;

    /// Fetches one value.
    fn fetch<'a>(&'a self, login: &'a Login, wanted: &'a Wanted) -> Pending<'a, Result<Fetched, StoreFault>>;

    /// Makes one change, whole or not at all. When it returns, it is stored for good and in force. A caller that
    /// stops waiting cannot know which: the change may still be made.
    fn change<'a>(&'a self, login: &'a Login, change: Change) -> Pending<'a, Result<Changed, StoreFault>>;

    /// Has `watcher` called after every change from now on.
    fn watch(&self, watcher: Watcher);
}
