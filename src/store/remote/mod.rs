//! The memory in front of a remote engine: what is known, values while they are fresh or within grace, one request at a
//! time for each, and numbers that stay. It may touch its own files and the engine it was given; it opens no network.
//!
//! Where to look: whether a held value may be given, `verdict`; what a request to the engine does, `asking`; what its answer
//! changes, `learning`; what is asked without anybody waiting, `watching`, how often, `polling`, and which names there are,
//! `listing`; what outlives the process, `numbers`, `record`, `cache_file`.

mod asking;
pub(super) mod breaker;
mod cache_file;
mod changing;
mod clocks;
mod codec;
mod flights;
mod held;
mod learning;
mod leaving;
mod listing;
mod merge;
mod numbers;
mod options;
mod polling;
mod record;
mod users;
mod verdict;
mod watching;

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::{Mutex, RwLock};

use asking::{Asked, ReadKey};
use breaker::Breaker;
use cache_file::Cache;
use flights::Flights;
use held::Memory;
use numbers::Numbers;

use super::readable::readable;
use super::{
    Change, Changed, Fetched, Login, LoginState, LoginStatus, Pending, Source, Store, StoreFault, StoreState,
    Wanted, Watcher,
};
use crate::model::{Consumer, FieldNode, Secret, SecretPath, Stage, StageSet, Version};

pub use clocks::Clocks;
pub use leaving::UnreadableMemory;
pub use options::{CacheFile, Grace, RemoteOptions};
pub use verdict::{Age, AtHand, Saying, at_hand, given_in_spite};

/// For how long what the engine said is not there is not asked for again.
const ABSENT_FOR: Duration = Duration::from_secs(1);

/// A remote engine with a memory in front of it.
pub struct Remote {
    source: Arc<dyn Source>,
    name: Arc<str>,
    options: RemoteOptions,
    /// Guards what is known and held. Nothing is waited for under it, no disk and no engine.
    memory: RwLock<Memory>,
    /// Guards the numbers and their file. Taken before `memory`, and never while that is held.
    numbers: RwLock<Numbers>,
    /// Guards the order in which what is known changes, and in which watchers hear of it. Taken before every other lock.
    order: Mutex<()>,
    /// Guards the cache on disk, where there is one. The last lock to be taken.
    cache: Option<Mutex<Cache>>,
    watchers: RwLock<Vec<Watcher>>,
    breaker: Breaker,
    reads: Flights<ReadKey, Asked>,
    descriptions: Flights<(SecretPath, u64), Result<(), StoreFault>>,
    listings: Flights<Box<str>, Result<(), StoreFault>>,
    /// Numbers requests in the order they were made.
    asked: AtomicU64,
    /// How many requests the engine was sent.
    requests: AtomicU64,
    /// Whether `watch_over` runs, which probes an engine that is away.
    is_watched: AtomicBool,
    /// Secrets that somebody looked at, to be asked about by `watch_over`.
    looked_at: Mutex<VecDeque<SecretPath>>,
    /// Folders to be listed, by `watch_over`.
    folders: Mutex<VecDeque<Box<str>>>,
    /// Wakes `watch_over`.
    wake: tokio::sync::Notify,
    /// Rises whenever something was dropped that may not be given any more.
    drops: AtomicU64,
    users: users::Guarded,
    /// Asked before a login is ended.
    needed: RwLock<Option<users::Needed>>,
}

impl Remote {
    /// Puts a memory in front of `source`, and goes on with what its files hold. The engine is not asked.
    ///
    /// # Errors
    /// Where its files cannot be used.
    pub fn open(source: Arc<dyn Source>, options: RemoteOptions) -> Result<Arc<Self>, StoreFault> {
        let numbers = Numbers::open(&options.numbers_file, options.lock_wait)?;
        let mut reading = record::Reading::default();
        let cache = match &options.cache_file {
            Some(file) => Some(Mutex::new(Cache::open(file, options.lock_wait, &mut reading)?)),
            None => None,
        };
        let remote = Self {
            name: source.name().into(),
            breaker: Breaker::new(options.failures_max, options.probe_every),
            source,
            memory: RwLock::default(),
            numbers: RwLock::new(numbers),
            order: Mutex::default(),
            cache,
            watchers: RwLock::default(),
            reads: Flights::default(),
            descriptions: Flights::default(),
            listings: Flights::default(),
            asked: AtomicU64::new(1),
            requests: AtomicU64::new(0),
            is_watched: AtomicBool::new(false),
            looked_at: Mutex::default(),
            folders: Mutex::default(),
            wake: tokio::sync::Notify::new(),
            drops: AtomicU64::new(0),
            users: users::Guarded::default(),
            needed: RwLock::default(),
            options,
        };
        remote.go_on_with(reading);
        remote.begin_line();
        Ok(Arc::new(remote))
    }

    /// Revokes a login that nobody needs any more, and forgets what it was given.
    pub async fn log_out(&self, login: &Login) {
        self.forget_login(login);
        self.source.log_out(login).await;
    }

    /// Forgets what a login was given, since it is another account from now on.
    pub fn forget(&self, login: &Login) {
        self.forget_login(login);
        self.forget_users(login);
    }

    /// Revokes every login at the engine, since nobody is served any more; with `is_handed_over` but those on which something
    /// hangs that a successor goes on with. What they were given stays.
    pub async fn log_out_all(&self, is_handed_over: bool) {
        for status in self.source.logins() {
            let is_kept = is_handed_over && self.is_needed(&status.login);
            if status.state == LoginState::Valid && !is_kept {
                self.source.log_out(&status.login).await;
            }
        }
    }

    /// What was not there before this, by the boot clock, is to be asked for again.
    fn absent_since_us(&self) -> i64 {
        self.now_us().saturating_sub(ABSENT_FOR.as_micros() as i64)
    }

    fn now_us(&self) -> i64 {
        self.options.clocks.now_us()
    }

    /// Why nothing need be asked about a version or a secret, by what is known and was said lately; `None`: it may be
    /// readable, or somebody must be asked.
    fn at_hand(&self, login: &Login, wanted: &Wanted) -> Option<Result<Fetched, StoreFault>> {
        let memory = self.memory.read();
        let now_us = self.now_us();
        let away = self.breaker.fault_now(now_us, self.is_watched.load(Ordering::Acquire));
        let Some(entry) = memory.get(&wanted.secret).filter(|entry| entry.is_described) else {
            return away.map(Err);
        };
        // What is not to be read is never given from here; whether it still is not, the engine is asked now and then.
        let no = |fault| {
            let is_new = entry.described_within(ABSENT_FOR, now_us);
            (is_new || away.is_some()).then_some(Err(fault))
        };
        if entry.secret.deleted {
            return no(StoreFault::SecretDeleted(wanted.secret.clone()));
        }
        if let Err(fault) = readable(&entry.secret, wanted.version) {
            return no(fault);
        }
        let is_there = entry
            .secret
            .version(wanted.version)
            .is_some_and(|version| version.field(&wanted.field).is_some() || !entry.is_exact(wanted.version));
        if !is_there {
            let Wanted { secret, version, field } = wanted.clone();
            return Some(Err(StoreFault::NoField(secret, version, field)));
        }
        let held = entry.held(login, wanted.version);
        let grace = self.options.grace.of(&entry.secret.ownership);
        let age = held.map(|held| held.age(now_us, self.options.fresh_for, grace));
        match at_hand(age, away.is_some()) {
            AtHand::Give(stale_for) => {
                let held = held?;
                let value = held.field(&wanted.field)?.shared();
                entry.given(held, now_us);
                Some(Ok(Fetched { value, stale_for, request_id: held.request_id.clone() }))
            }
            AtHand::Refuse => away.map(Err),
            AtHand::Ask => None,
        }
    }

    async fn fetch_now(&self, login: &Login, wanted: &Wanted) -> Result<Fetched, StoreFault> {
        if let Some(fetched) = self.at_hand(login, wanted) {
            return fetched;
        }
        if self.must_be_described(wanted) {
            self.describe(login, &wanted.secret, true)
                .await
                .map_err(|fault| self.known_fault(wanted, fault))?;
            if let Some(fetched) = self.at_hand(login, wanted) {
                return fetched;
            }
            // Described a moment ago, and still not to be read: then it is not.
            self.check_readable(wanted)?;
        }
        let reading = self.read(login, &wanted.secret, wanted.version);
        let asked = match self.stage_to_confirm(wanted) {
            Some(was) => {
                // Both at once: mostly nothing is new, and nobody waits twice.
                let (described, asked) = tokio::join!(self.describe(login, &wanted.secret, true), reading);
                if described.is_ok() {
                    self.check_readable(wanted)?;
                }
                if self.has_lost(wanted, was) {
                    return Err(StoreFault::Replaced(wanted.secret.clone(), wanted.version));
                }
                asked
            }
            None => reading.await,
        };
        if asked.as_ref().is_err_and(|fault| Saying::of(fault) == Saying::Gone) {
            // The tree shall not go on showing what is gone. That it cannot be described changes nothing here.
            drop(self.describe(login, &wanted.secret, true).await);
        }
        self.settle(login, wanted, asked)
    }

    /// Whether the engine must say more of a secret before one of its versions can be asked for.
    fn must_be_described(&self, wanted: &Wanted) -> bool {
        let memory = self.memory.read();
        memory.get(&wanted.secret).is_none_or(|entry| {
            !entry.is_described || entry.secret.deleted || readable(&entry.secret, wanted.version).is_err()
        })
    }

    /// The stages of the wanted version as they were known, where the engine did not say so lately: whoever looked them up
    /// may have been shown what is not so any more.
    fn stage_to_confirm(&self, wanted: &Wanted) -> Option<StageSet> {
        let memory = self.memory.read();
        let entry = memory.get(&wanted.secret).filter(|entry| entry.is_described && entry.is_numbered)?;
        let is_old = !entry.described_within(self.options.fresh_for, self.now_us());
        is_old.then(|| entry.secret.stages_of(wanted.version))
    }

    /// Whether the wanted version has not every stage any more that it had: then the name leads to another.
    fn has_lost(&self, wanted: &Wanted, was: StageSet) -> bool {
        let memory = self.memory.read();
        let is = memory.get(&wanted.secret).map(|entry| entry.secret.stages_of(wanted.version));
        is.is_some_and(|is| Stage::ALL.into_iter().any(|stage| was.contains(stage) && !is.contains(stage)))
    }

    fn check_readable(&self, wanted: &Wanted) -> Result<(), StoreFault> {
        let memory = self.memory.read();
        let entry = memory.get(&wanted.secret).ok_or_else(|| StoreFault::NoSecret(wanted.secret.clone()))?;
        if entry.secret.deleted {
            return Err(StoreFault::SecretDeleted(wanted.secret.clone()));
        }
        readable(&entry.secret, wanted.version).map(drop)
    }

    /// What is known to be wrong with a version whose engine cannot say more; else `fault`.
    fn known_fault(&self, wanted: &Wanted, fault: StoreFault) -> StoreFault {
        match self.check_readable(wanted) {
            Err(known @ (StoreFault::Deleted(..) | StoreFault::Destroyed(..) | StoreFault::Revoked(..)))
            | Err(known @ StoreFault::SecretDeleted(_)) => known,
            _ => fault,
        }
    }

    /// What is given after the engine was asked.
    fn settle(&self, login: &Login, wanted: &Wanted, asked: Asked) -> Result<Fetched, StoreFault> {
        let Wanted { secret, version, field } = wanted;
        let fault = match asked {
            Ok(read) if read.version == *version => {
                // What a change took away while the engine answered is not given.
                self.check_readable(wanted)?;
                let value = read
                    .field(field)
                    .ok_or_else(|| StoreFault::NoField(secret.clone(), *version, field.clone()))?;
                return Ok(Fetched {
                    value: value.shared(),
                    stale_for: Duration::ZERO,
                    request_id: read.request_id.clone(),
                });
            }
            Ok(_) => {
                // The engine holds one content, and by now another one. Who had this one just before may finish.
                if let Some(fetched) = self.held_in_spite(login, wanted, Saying::Silent) {
                    return Ok(fetched);
                }
                return Err(StoreFault::Replaced(secret.clone(), *version));
            }
            Err(fault) => fault,
        };
        match self.held_in_spite(login, wanted, Saying::of(&fault)) {
            Some(fetched) => Ok(fetched),
            None => Err(fault),
        }
    }

    fn held_in_spite(&self, login: &Login, wanted: &Wanted, saying: Saying) -> Option<Fetched> {
        let memory = self.memory.read();
        let entry = memory.get(&wanted.secret).filter(|entry| !entry.secret.deleted)?;
        readable(&entry.secret, wanted.version).ok()?;
        let held = entry.held(login, wanted.version)?;
        let now_us = self.now_us();
        let age = held.age(now_us, self.options.fresh_for, self.options.grace.of(&entry.secret.ownership));
        let stale_for = given_in_spite(Some(age), saying)?;
        let value = held.field(&wanted.field)?.shared();
        entry.given(held, now_us);
        entry.is_unanswered.store(true, Ordering::Relaxed);
        Some(Fetched { value, stale_for, request_id: held.request_id.clone() })
    }
}

impl Store for Remote {
    fn name(&self) -> &str {
        &self.name
    }

    fn state(&self) -> StoreState {
        match self.breaker.fault() {
            None => StoreState::Ready,
            Some(fault) if matches!(fault.bare(), StoreFault::Sealed(_)) => StoreState::Sealed,
            Some(_) => StoreState::Away,
        }
    }

    fn known(&self, _login: &Login, path: &SecretPath) -> Option<Arc<Secret>> {
        self.memory.read().get(path).map(|entry| Arc::clone(&entry.secret))
    }

    fn visit_known(&self, _login: &Login, prefix: &str, visit: &mut dyn FnMut(&Arc<Secret>) -> bool) {
        let memory = self.memory.read();
        for (_, entry) in memory.beginning_with(prefix) {
            if !visit(&entry.secret) {
                return;
            }
        }
    }

    fn stale_for(&self, login: &Login, path: &SecretPath) -> Duration {
        let memory = self.memory.read();
        let is_unanswered = |entry: &held::Entry| entry.is_unanswered.load(Ordering::Relaxed);
        // While the engine answers, an open is answered by it.
        if !self.breaker.is_doubted() && !memory.get(path).is_some_and(is_unanswered) {
            return Duration::ZERO;
        }
        let now_us = self.now_us();
        memory.stale_for(login, path, self.options.fresh_for, self.options.grace, now_us)
    }

    fn node(&self, node: FieldNode) -> Option<Wanted> {
        self.numbers.read().wanted(node)
    }

    fn knows_all(&self) -> bool {
        false
    }

    fn learn_fields<'a>(
        &'a self,
        login: &'a Login,
        path: &'a SecretPath,
        version: Version,
    ) -> Pending<'a, Result<(), StoreFault>> {
        Box::pin(async move {
            if self.memory.read().get(path).is_some_and(|entry| entry.is_exact(version)) {
                return Ok(());
            }
            self.read(login, path, version).await.map(drop)
        })
    }

    fn note_look(&self, path: &SecretPath) {
        self.remember_look(path);
    }

    fn is_absent(&self, path: &SecretPath) -> bool {
        self.memory.read().is_absent(path, self.absent_since_us())
    }

    fn is_listed(&self, folder: &str) -> bool {
        self.memory.read().unlisted(folder, self.absent_since_us()).is_none()
    }

    fn logins(&self) -> Vec<LoginStatus> {
        self.source.logins()
    }

    fn kv_version(&self) -> Option<u8> {
        self.source.kv_version()
    }

    fn requests(&self) -> Option<u64> {
        Some(self.requests.load(Ordering::Relaxed))
    }

    fn needs_own_login(&self) -> bool {
        self.options.needs_own_login
    }

    fn used_by(&self, login: &Login, consumer: &Consumer) {
        self.note_user(login, consumer);
    }

    fn look_up<'a>(
        &'a self,
        login: &'a Login,
        path: &'a SecretPath,
    ) -> Pending<'a, Result<Option<Arc<Secret>>, StoreFault>> {
        Box::pin(async move {
            match self.describe(login, path, true).await {
                Err(fault) if Saying::of(&fault) == Saying::Silent && self.memory.read().was_absent(path) => {
                    Ok(None)
                }
                described => described.map(|()| self.known(login, path)),
            }
        })
    }

    fn look_into<'a>(&'a self, login: &'a Login, folder: &'a str) -> Pending<'a, Result<(), StoreFault>> {
        Box::pin(async move {
            match self.look_below(login, folder).await {
                Err(fault)
                    if Saying::of(&fault) == Saying::Silent && self.memory.read().was_empty(folder) =>
                {
                    Ok(())
                }
                looked => looked,
            }
        })
    }

    fn refresh<'a>(
        &'a self,
        login: &'a Login,
        path: Option<&'a SecretPath>,
    ) -> Pending<'a, Result<usize, StoreFault>> {
        Box::pin(self.ask_again(login, path))
    }

    fn fetch_at_hand(&self, login: &Login, wanted: &Wanted) -> Option<Result<Fetched, StoreFault>> {
        self.at_hand(login, wanted)
    }

    fn fetch<'a>(&'a self, login: &'a Login, wanted: &'a Wanted) -> Pending<'a, Result<Fetched, StoreFault>> {
        Box::pin(self.fetch_now(login, wanted))
    }

    fn change<'a>(&'a self, login: &'a Login, change: Change) -> Pending<'a, Result<Changed, StoreFault>> {
        Box::pin(self.make(login, change))
    }

    fn watch(&self, watcher: Watcher) {
        self.watchers.write().push(watcher);
    }
}
