//! The embedded store: one SQLite database, every value sealed. May touch its database, lock and key file.
//!
//! One process owns the database at a time (`files::Lock`). What is known of secrets lies in memory (`catalog`),
//! proven at open (`rows`, `commitment`); values are sealed (`seal`) until the moment they are fetched.

mod cache;
mod catalog;
mod commitment;
#[cfg(test)]
mod cost_tests;
mod database;
mod format_1;
mod record;
mod retirement;
mod rows;
mod seal;
mod upkeep;
mod write;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::{Mutex, RwLock};
use rusqlite::Connection;

use cache::ValueCache;
use catalog::Catalog;
use rows::SealedValue;
use seal::Keys;

use super::readable::readable;
use super::sealed::{KeySource, files};
use super::{Change, Changed, Fetched, Login, Pending, Store, StoreFault, StoreState, Wanted, Watcher};
use crate::model::{FieldNode, Secret, SecretBytes, SecretPath, UnixTime};

pub use upkeep::{Backup, Checked, Restored};

/// The most fields that one version has.
pub const FIELDS_MAX: u32 = 256;

/// Tells the time.
pub type Clock = Arc<dyn Fn() -> UnixTime + Send + Sync>;

/// How an embedded store is opened.
#[derive(Clone)]
pub struct LocalOptions {
    /// Its name in the configuration.
    pub name: Arc<str>,
    /// The database.
    pub path: PathBuf,
    /// The key-encryption key.
    pub key: KeySource,
    /// How many versions of a secret keep their bytes; of older ones those without a stage are destroyed by
    /// [`Local::retire`]. 0: all.
    pub keep_versions: u32,
    /// For how long a version keeps its bytes in any case, from when it lost its last stage.
    pub erase_after: Duration,
    /// How long to wait for another process to give the database up, in milliseconds.
    pub busy_wait_ms: u64,
    /// How much to remember of values, in bytes of locked memory.
    pub value_cache_bytes: usize,
    /// The size of the write-ahead log, in pages of 4 KiB, from which it is moved into the database.
    pub log_pages_max: u64,
    /// Tells the time.
    pub clock: Clock,
}

impl LocalOptions {
    /// The usual options.
    #[must_use]
    pub fn new(name: &str, path: impl Into<PathBuf>, key: KeySource) -> Self {
        Self {
            name: name.into(),
            path: path.into(),
            key,
            keep_versions: 0,
            erase_after: Duration::from_secs(30),
            busy_wait_ms: 0,
            value_cache_bytes: 1024 * 1024,
            log_pages_max: 1000,
            clock: Arc::new(|| std::time::SystemTime::now().into()),
        }
    }
}

/// The embedded store.
pub struct Local {
    inner: Arc<Inner>,
}

struct Inner {
    options: LocalOptions,
    keys: RwLock<Keys>,
    catalog: RwLock<Catalog>,
    /// Guards: the order of changes. Taken before every other lock here.
    writer: Mutex<Connection>,
    reader: Mutex<Connection>,
    values: Mutex<ValueCache>,
    watchers: RwLock<Vec<Watcher>>,
    /// About how many pages the log has.
    log_pages: AtomicU64,
    /// [`LocalOptions::erase_after`] as it is now.
    erase_after: Mutex<Duration>,
    /// Held by whoever erases versions.
    retiring: Mutex<()>,
    /// Last, so that the database is closed before another process may open it.
    _lock: files::Lock,
}

/// A value that may be read, and where it lies.
struct Located {
    id: i64,
    node: FieldNode,
    bytes: Option<u64>,
}

impl Inner {
    fn locate(&self, wanted: &Wanted) -> Result<Located, StoreFault> {
        let catalog = self.catalog.read();
        let Some((id, secret)) = catalog.get(&wanted.secret) else {
            catalog.vouch_for_absence(&wanted.secret)?;
            return Err(StoreFault::NoSecret(wanted.secret.clone()));
        };
        if secret.deleted {
            return Err(StoreFault::SecretDeleted(wanted.secret.clone()));
        }
        let version = readable(secret, wanted.version)?;
        let field = version.field(&wanted.field).ok_or_else(|| {
            StoreFault::NoField(wanted.secret.clone(), wanted.version, wanted.field.clone())
        })?;
        Ok(Located { id, node: field.node, bytes: field.bytes })
    }

    /// The value, if it is remembered: no SQL, no wait.
    fn fetch_at_hand(&self, wanted: &Wanted) -> Option<Result<Fetched, StoreFault>> {
        match self.locate(wanted) {
            Ok(located) => self.values.lock().get(located.node).map(|value| Ok(fresh(value))),
            Err(fault) => Some(Err(fault)),
        }
    }

    /// The value, from the database.
    fn fetch_cold(&self, wanted: &Wanted) -> Result<Fetched, StoreFault> {
        let located = self.locate(wanted)?;
        // Held across reading and opening, so that a new key does not come between.
        let keys = self.keys.read();
        let found = rows::sealed_value(&self.reader.lock(), located.id, wanted.version, located.node.get())
            .map_err(|error| database::fault(&self.options.path, &error))?;
        // What a change took away meanwhile is no damage.
        self.locate(wanted)?;
        let sealed = found.ok_or_else(|| damaged(wanted, "is missing"))?;
        let value = unseal(&keys, wanted, &located, &sealed)?;
        // Under the catalog's lock: a change that destroys the value clears it out after us, or is seen here.
        let catalog = self.catalog.read();
        if catalog.node(located.node).is_some() {
            self.values.lock().put(located.node, value.shared());
        }
        Ok(fresh(value))
    }

    fn look_up(&self, path: &SecretPath) -> Result<Option<Arc<Secret>>, StoreFault> {
        let catalog = self.catalog.read();
        match catalog.get(path) {
            Some((_, secret)) => Ok(Some(Arc::clone(secret))),
            None => catalog.vouch_for_absence(path).map(|()| None),
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        if self.log_pages.load(Ordering::Relaxed) > self.options.log_pages_max {
            // Nobody is left to hear of a failure, and nothing is lost by one: the log is read at the next open.
            drop(database::erase_log(self.writer.get_mut()));
        }
    }
}

fn damaged(wanted: &Wanted, what: &str) -> StoreFault {
    let Wanted { secret, version, field } = wanted;
    StoreFault::Corrupt(format!(
        "field {} of version {version} of {secret} {what}: restore a backup",
        field.as_str().escape_debug()
    ))
}

fn unseal(
    keys: &Keys,
    wanted: &Wanted,
    located: &Located,
    sealed: &SealedValue,
) -> Result<SecretBytes, StoreFault> {
    let key = keys
        .unwrap_key(&wanted.secret, wanted.version, &sealed.key)
        .ok_or_else(|| damaged(wanted, "has a data key that does not open"))?;
    let value = keys
        .open_value(&key, &wanted.secret, wanted.version, &wanted.field, &sealed.sealed)
        .ok_or_else(|| damaged(wanted, "does not open"))?;
    if located.bytes != Some(value.len() as u64) {
        return Err(damaged(wanted, "has another length than was stored"));
    }
    Ok(value)
}

/// What this store serves is never stale: it is asked at every open.
fn fresh(value: SecretBytes) -> Fetched {
    Fetched { value, stale_for: Duration::ZERO, request_id: None }
}

/// Runs what waits for the disk where it may wait. It runs to its end even if nobody waits for it any more.
async fn where_it_may_wait<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, StoreFault> + Send + 'static,
) -> Result<T, StoreFault> {
    match tokio::runtime::Handle::try_current() {
        Err(_) => work(),
        Ok(runtime) => runtime
            .spawn_blocking(work)
            .await
            .unwrap_or_else(|_| Err(StoreFault::Io("the store's work ended in a panic".into()))),
    }
}

impl Store for Local {
    fn name(&self) -> &str {
        &self.inner.options.name
    }

    fn state(&self) -> StoreState {
        StoreState::Ready
    }

    fn known(&self, _login: &Login, path: &SecretPath) -> Option<Arc<Secret>> {
        self.inner.catalog.read().get(path).map(|(_, secret)| Arc::clone(secret))
    }

    fn visit_known(&self, _login: &Login, prefix: &str, visit: &mut dyn FnMut(&Arc<Secret>) -> bool) {
        self.inner.catalog.read().visit(prefix, visit);
    }

    fn stale_for(&self, _login: &Login, _path: &SecretPath) -> Duration {
        Duration::ZERO
    }

    fn node(&self, node: FieldNode) -> Option<Wanted> {
        self.inner.catalog.read().node(node)
    }

    fn look_up<'a>(
        &'a self,
        _login: &'a Login,
        path: &'a SecretPath,
    ) -> Pending<'a, Result<Option<Arc<Secret>>, StoreFault>> {
        Box::pin(std::future::ready(self.inner.look_up(path)))
    }

    fn fetch_at_hand(&self, _login: &Login, wanted: &Wanted) -> Option<Result<Fetched, StoreFault>> {
        self.inner.fetch_at_hand(wanted)
    }

    fn fetch<'a>(
        &'a self,
        _login: &'a Login,
        wanted: &'a Wanted,
    ) -> Pending<'a, Result<Fetched, StoreFault>> {
        Box::pin(async move {
            if let Some(fetched) = self.inner.fetch_at_hand(wanted) {
                return fetched;
            }
            tracing::trace!(secret = wanted.secret.as_str(), version = %wanted.version, "not at hand: read from the database");
            let (inner, wanted) = (Arc::clone(&self.inner), wanted.clone());
            where_it_may_wait(move || inner.fetch_cold(&wanted)).await
        })
    }

    fn change<'a>(&'a self, _login: &'a Login, change: Change) -> Pending<'a, Result<Changed, StoreFault>> {
        Box::pin(async move {
            let inner = Arc::clone(&self.inner);
            let changed = where_it_may_wait(move || inner.make(&change)).await;
            // After the change is acknowledged in all but name: the log is moved while the caller goes on.
            if self.inner.log_is_long() {
                let inner = Arc::clone(&self.inner);
                match tokio::runtime::Handle::try_current() {
                    Ok(runtime) => drop(runtime.spawn_blocking(move || inner.checkpoint())),
                    Err(_) => drop(inner.checkpoint()),
                }
            }
            changed
        })
    }

    fn watch(&self, watcher: Watcher) {
        self.inner.watchers.write().push(watcher);
    }
}
