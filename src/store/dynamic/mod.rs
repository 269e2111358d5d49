//! Secrets that are minted for one consumer, in front of a store that holds all others. It may touch the file of its leases
//! and the engine it was given.
//!
//! Where to look: what there is and whose, `table`; how it is shown, `view`; the first open, `minting`; renewing and replacing
//! without anybody asking, `keeping`; the end, `ending`; what outlives the process, `book` and `resuming`.

mod book;
mod ending;
mod keeping;
mod minting;
mod resuming;
mod table;
mod view;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::{Mutex, RwLock};

use self::book::{Book, Ends, Note};
use self::resuming::Left;
use self::table::{Owner, Phase, Table};
use super::remote::breaker::Breaker;
use super::{
    Change, Changed, Clocks, Declared, Fetched, LeaseEvent, LeaseInfo, LeaseSource, Liveness, Login,
    LoginStatus, Pending, Store, StoreFault, StoreState, Wanted, Watcher,
};
use crate::model::{Consumer, FieldNode, Secret, SecretPath, UnixTime, Version};

/// How minting behaves.
#[derive(Clone)]
pub struct DynamicOptions {
    /// The file in which leases are kept. Its key lies beside it.
    pub book_file: PathBuf,
    /// How long to wait for another process to give that file up.
    pub lock_wait: Duration,
    /// How long one request to the engine may take.
    pub answer_within: Duration,
    /// Requests in a row without an answer after which the engine is left alone.
    pub failures_max: u32,
    /// How often an engine that is left alone is tried.
    pub probe_every: Duration,
    /// How often consumers are looked at.
    pub look_every: Duration,
    /// Tells the time.
    pub clocks: Clocks,
    /// Tells whether a consumer is still there.
    pub is_alive: Liveness,
}

/// Called after something happened to a lease; for a version that was minted, before it is handed out.
type Hearing = Box<dyn Fn(&LeaseEvent) + Send + Sync>;

/// A store, and what is minted beside it.
pub struct Dynamic {
    this: Weak<Self>,
    inner: Arc<dyn Store>,
    source: Arc<dyn LeaseSource>,
    options: DynamicOptions,
    /// Guards the file. Taken before `table`.
    book: Mutex<Book>,
    /// What is declared, for a look that waits for nobody.
    declared: Arc<BTreeMap<SecretPath, Arc<Declared>>>,
    /// Guards what is minted. Nothing is waited for under it.
    table: Mutex<Table>,
    /// Guards the sessions of earlier processes on which something hung when we started.
    left: Mutex<Vec<Left>>,
    watchers: RwLock<Vec<Watcher>>,
    hearing: RwLock<Option<Hearing>>,
    breaker: Breaker,
    /// Wakes `watch_over`.
    wake: tokio::sync::Notify,
}

impl Dynamic {
    /// Puts what is declared beside what `inner` holds, and goes on with the leases that the file has. Nobody is asked.
    ///
    /// # Errors
    /// Where the file cannot be used.
    pub fn open(
        inner: Arc<dyn Store>,
        source: Arc<dyn LeaseSource>,
        declared: Vec<Declared>,
        options: DynamicOptions,
    ) -> Result<Arc<Self>, StoreFault> {
        let declared = by_path(declared);
        let (book, found) = Book::open(&options.book_file, options.lock_wait)?;
        if found.is_damaged {
            let file = options.book_file.display();
            tracing::error!(%file, "the file of leases is damaged: those that it lost end by themselves");
        }
        let dynamic = Arc::new_cyclic(|this| Self {
            this: Weak::clone(this),
            inner,
            source,
            book: Mutex::new(book),
            table: Mutex::new(Table::new(Arc::clone(&declared), found.below)),
            declared,
            left: Mutex::default(),
            watchers: RwLock::default(),
            hearing: RwLock::default(),
            breaker: Breaker::new(options.failures_max, options.probe_every),
            wake: tokio::sync::Notify::new(),
            options,
        });
        dynamic.go_on_with(found)?;
        Ok(dynamic)
    }

    /// Has `hearing` called for whatever happens to a lease from now on.
    pub fn hear(&self, hearing: impl Fn(&LeaseEvent) + Send + Sync + 'static) {
        *self.hearing.write() = Some(Box::new(hearing));
    }

    /// Whether a lease hangs on a login, or is about to.
    #[must_use]
    pub fn hangs_on(&self, login: &Login) -> bool {
        let table = self.table.lock();
        table.holdings.iter().filter(|(owner, _)| *owner.account == *login.as_str()).any(|(_, holding)| {
            let is_over = |minted: &table::Minted| matches!(minted.phase, Phase::Ended { .. });
            holding.flight.is_some() || !holding.versions.iter().all(is_over)
        })
    }

    fn this(&self) -> Arc<Self> {
        // It is made in an `Arc` and nowhere else, and who calls it holds one.
        self.this.upgrade().unwrap_or_else(|| unreachable!("asked after its end"))
    }

    fn now_us(&self) -> i64 {
        self.options.clocks.now_us()
    }

    fn wall(&self) -> UnixTime {
        (self.options.clocks.wall)()
    }

    fn ends(&self, from_us: i64, span: Duration) -> Ends {
        let boot_us = from_us.saturating_add(micros(span));
        let ahead = u64::try_from(boot_us.saturating_sub(self.now_us())).unwrap_or(0);
        let wall = self.wall().plus(Duration::from_micros(ahead));
        Ends { boot_id: self.options.clocks.boot_id.to_string(), boot_us, wall }
    }

    fn note(&self, note: &Note) {
        if let Err(fault) = self.book.lock().add(note) {
            tracing::warn!(store = self.name(), %fault, "a lease's file could not be written");
        }
    }

    fn tell(&self, event: &LeaseEvent) {
        if let Some(hearing) = &*self.hearing.read() {
            hearing(event);
        }
    }

    fn tell_watchers(&self, changed: &Changed) {
        self.watchers.read().iter().for_each(|watcher| watcher(changed));
    }

    /// What `login` is shown at a path that is declared.
    fn seen(&self, login: &Login, path: &SecretPath) -> Option<Arc<Secret>> {
        let Some(consumer) = login.consumer() else { return self.table.lock().whole(path) };
        let Some(owner) = Owner::of(login, path) else {
            tracing::debug!(%consumer, %path, "nothing is minted for somebody of whom nothing is known");
            return None;
        };
        let owner = Arc::new(owner);
        let (view, to_note, ended) = {
            let mut table = self.table.lock();
            table.settle(&owner, self.now_us(), self.wall());
            let needs_one = table.holdings.get(&owner).is_none_or(|holding| holding.current().is_none());
            let promised = if needs_one { table.promise(&owner, self.wall()) } else { Ok((0, None)) };
            let to_note = match promised {
                Ok((_, to_note)) => to_note,
                Err(fault) => {
                    tracing::error!(%fault, %path, "nothing more can be minted");
                    return None;
                }
            };
            (table.view(&owner), to_note, table.take_ended())
        };
        if let Some(number) = to_note {
            self.note(&Note::Below { number });
        }
        self.note_gone(&ended);
        view
    }

    fn note_gone(&self, numbers: &[u32]) {
        numbers.iter().for_each(|number| self.note(&Note::Gone { number: *number }));
    }

    /// What can be said of a version without asking the engine.
    fn at_hand(&self, login: &Login, wanted: &Wanted) -> Option<Result<Fetched, StoreFault>> {
        let Wanted { secret, version, field } = wanted;
        let Some(owner) = Owner::of(login, secret) else {
            return Some(Err(StoreFault::Invalid(format!(
                "{secret} is minted for each consumer: read it through the mount, or from a running instance"
            ))));
        };
        let replaced = || Some(Err(StoreFault::Replaced(secret.clone(), *version)));
        let mut table = self.table.lock();
        table.settle(&owner, self.now_us(), self.wall());
        let Some(holding) = table.holdings.get(&owner) else { return replaced() };
        let number = version.get();
        if holding.promised.is_some_and(|(promised, _)| promised == number) {
            // Where a current one came meanwhile, that one is to be read.
            return if holding.current().is_some() { replaced() } else { self.breaker_says() };
        }
        let Some(minted) = holding.minted(number) else { return replaced() };
        if minted.is_revoked {
            return Some(Err(StoreFault::Revoked(secret.clone(), *version)));
        }
        if minted.phase != Phase::Live {
            return replaced();
        }
        let Some(value) = minted.field(field) else {
            return Some(Err(StoreFault::NoField(secret.clone(), *version, field.clone())));
        };
        let (value, request_id) = (value.shared(), minted.request_id.clone());
        Some(Ok(Fetched { value, stale_for: Duration::ZERO, request_id }))
    }

    /// Why nothing is minted now, where one need not ask.
    fn breaker_says(&self) -> Option<Result<Fetched, StoreFault>> {
        let is_time = self.breaker.try_at_us().is_none_or(|at| at <= self.now_us());
        if is_time { None } else { self.breaker.fault().map(Err) }
    }

    async fn fetch_now(&self, login: &Login, wanted: &Wanted) -> Result<Fetched, StoreFault> {
        if let Some(fetched) = self.at_hand(login, wanted) {
            return fetched;
        }
        let replaced = || StoreFault::Replaced(wanted.secret.clone(), wanted.version);
        let owner = Owner::of(login, &wanted.secret).ok_or_else(replaced)?;
        self.this().join_minting(&Arc::new(owner), wanted.version.get()).await?;
        self.at_hand(login, wanted).unwrap_or_else(|| Err(replaced()))
    }

    async fn change_declared(&self, change: &Change) -> Result<Changed, StoreFault> {
        let Change::Revoke { secret, version } = change else {
            return Err(StoreFault::Invalid(format!(
                "{} is minted by its engine: nothing is stored there. What can be done is `credfs revoke {} --version N`",
                change.secret(),
                change.secret()
            )));
        };
        self.revoke_by_command(secret, *version).await
    }
}

fn by_path(declared: Vec<Declared>) -> Arc<BTreeMap<SecretPath, Arc<Declared>>> {
    Arc::new(declared.into_iter().map(|one| (one.path.clone(), Arc::new(one))).collect())
}

fn micros(span: Duration) -> i64 {
    i64::try_from(span.as_micros()).unwrap_or(i64::MAX)
}

impl Store for Dynamic {
    fn name(&self) -> &str {
        self.inner.name()
    }

    fn state(&self) -> StoreState {
        match (self.inner.state(), self.breaker.fault()) {
            (StoreState::Ready, Some(fault)) if matches!(fault.bare(), StoreFault::Sealed(_)) => {
                StoreState::Sealed
            }
            (StoreState::Ready, Some(_)) => StoreState::Away,
            (state, _) => state,
        }
    }

    fn known(&self, login: &Login, path: &SecretPath) -> Option<Arc<Secret>> {
        if self.declared(path).is_some() { self.seen(login, path) } else { self.inner.known(login, path) }
    }

    fn visit_known(&self, login: &Login, prefix: &str, visit: &mut dyn FnMut(&Arc<Secret>) -> bool) {
        use std::ops::Bound::{Included, Unbounded};
        // Made before: `visit` is not called under a lock.
        let ours: Vec<Arc<Secret>> = {
            let mut table = self.table.lock();
            let all = Arc::clone(table.all_declared());
            let below = all
                .range::<str, _>((Included(prefix), Unbounded))
                .take_while(|(path, _)| path.as_str().starts_with(prefix));
            below.filter_map(|(path, _)| table.whole(path)).collect()
        };
        let mut ours = ours.iter().peekable();
        let mut goes_on = true;
        self.inner.visit_known(login, prefix, &mut |secret| {
            while let Some(own) = ours.next_if(|own| own.path <= secret.path) {
                if own.path == secret.path {
                    // What is declared hides what the store has at the same path.
                    goes_on = visit(own);
                    return goes_on;
                }
                if !visit(own) {
                    goes_on = false;
                    return false;
                }
            }
            goes_on = visit(secret);
            goes_on
        });
        while goes_on && let Some(own) = ours.next() {
            goes_on = visit(own);
        }
    }

    fn stale_for(&self, login: &Login, path: &SecretPath) -> Duration {
        if self.declared(path).is_some() { Duration::ZERO } else { self.inner.stale_for(login, path) }
    }

    fn node(&self, node: FieldNode) -> Option<Wanted> {
        if view::number_of(node).is_none() {
            return self.inner.node(node);
        }
        let (secret, version, field) = self.table.lock().node(node)?;
        Some(Wanted { secret, version, field })
    }

    fn look_up<'a>(
        &'a self,
        login: &'a Login,
        path: &'a SecretPath,
    ) -> Pending<'a, Result<Option<Arc<Secret>>, StoreFault>> {
        if self.declared(path).is_some() {
            return Box::pin(std::future::ready(Ok(self.seen(login, path))));
        }
        self.inner.look_up(login, path)
    }

    fn knows_all(&self) -> bool {
        self.inner.knows_all()
    }

    fn is_absent(&self, path: &SecretPath) -> bool {
        self.declared(path).is_none() && self.inner.is_absent(path)
    }

    fn is_listed(&self, folder: &str) -> bool {
        self.inner.is_listed(folder)
    }

    fn declared(&self, path: &SecretPath) -> Option<Arc<Declared>> {
        self.declared.get(path).cloned()
    }

    fn all_declared(&self) -> Vec<SecretPath> {
        self.declared.keys().cloned().collect()
    }

    fn logins(&self) -> Vec<LoginStatus> {
        self.inner.logins()
    }

    fn kv_version(&self) -> Option<u8> {
        self.inner.kv_version()
    }

    fn requests(&self) -> Option<u64> {
        self.inner.requests()
    }

    fn leases(&self) -> Vec<LeaseInfo> {
        self.table.lock().leases()
    }

    fn needs_own_login(&self) -> bool {
        self.inner.needs_own_login()
    }

    fn learn_fields<'a>(
        &'a self,
        login: &'a Login,
        path: &'a SecretPath,
        version: Version,
    ) -> Pending<'a, Result<(), StoreFault>> {
        // The fields of what is minted are known, and reading it would mint it.
        if self.declared(path).is_some() {
            return Box::pin(std::future::ready(Ok(())));
        }
        self.inner.learn_fields(login, path, version)
    }

    fn note_look(&self, path: &SecretPath) {
        if self.declared(path).is_none() {
            self.inner.note_look(path);
        }
    }

    fn used_by(&self, login: &Login, consumer: &Consumer) {
        self.inner.used_by(login, consumer);
    }

    fn look_into<'a>(&'a self, login: &'a Login, folder: &'a str) -> Pending<'a, Result<(), StoreFault>> {
        self.inner.look_into(login, folder)
    }

    fn refresh<'a>(
        &'a self,
        login: &'a Login,
        path: Option<&'a SecretPath>,
    ) -> Pending<'a, Result<usize, StoreFault>> {
        // What was minted is as it was: nothing is asked about it.
        if path.is_some_and(|path| self.declared(path).is_some()) {
            return Box::pin(std::future::ready(Ok(1)));
        }
        self.inner.refresh(login, path)
    }

    fn fetch_at_hand(&self, login: &Login, wanted: &Wanted) -> Option<Result<Fetched, StoreFault>> {
        if self.declared(&wanted.secret).is_some() {
            return self.at_hand(login, wanted);
        }
        self.inner.fetch_at_hand(login, wanted)
    }

    fn fetch<'a>(&'a self, login: &'a Login, wanted: &'a Wanted) -> Pending<'a, Result<Fetched, StoreFault>> {
        if self.declared(&wanted.secret).is_some() {
            return Box::pin(self.fetch_now(login, wanted));
        }
        self.inner.fetch(login, wanted)
    }

    fn change<'a>(&'a self, login: &'a Login, change: Change) -> Pending<'a, Result<Changed, StoreFault>> {
        if self.declared(change.secret()).is_some() {
            return Box::pin(async move { self.change_declared(&change).await });
        }
        self.inner.change(login, change)
    }

    fn watch(&self, watcher: Watcher) {
        let watcher = Arc::new(watcher);
        let shared = Arc::clone(&watcher);
        self.inner.watch(Box::new(move |changed| shared(changed)));
        self.watchers.write().push(Box::new(move |changed| watcher(changed)));
    }
}
