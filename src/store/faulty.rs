//! A store that fails on request: what the rooms above are tested against.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use super::{Change, Changed, Fetched, Login, Pending, Store, StoreFault, StoreState, Wanted, Watcher};
use crate::model::{Consumer, FieldNode, Secret, SecretPath};

/// What goes wrong with one request.
#[derive(Debug, Clone)]
pub enum Fault {
    /// Nothing is done, and the store says so.
    Fail(StoreFault),
    /// It takes longer.
    Delay(Duration),
    /// It never answers, and nothing is done.
    Hang,
    /// It is done, and the answer is lost on the way.
    LoseAnswer,
}

#[derive(Default)]
struct Plan {
    fetches: u64,
    changes: u64,
    look_ups: u64,
    on_fetch: BTreeMap<u64, Fault>,
    on_change: BTreeMap<u64, Fault>,
    on_look_up: BTreeMap<u64, Fault>,
    always: Option<Fault>,
    state: Option<StoreState>,
}

/// Any store, made to fail as planned. Without a plan it is the store itself.
pub struct Faulty {
    inner: Arc<dyn Store>,
    plan: Mutex<Plan>,
}

impl Faulty {
    /// Wraps `inner`.
    #[must_use]
    pub fn new(inner: Arc<dyn Store>) -> Self {
        Self { inner, plan: Mutex::default() }
    }

    /// Plans a fault for the `nth` fetch from now on; 1 is the next.
    pub fn on_fetch(&self, nth: u64, fault: Fault) {
        let mut plan = self.plan.lock();
        let at = plan.fetches + nth;
        plan.on_fetch.insert(at, fault);
    }

    /// Plans a fault for the `nth` change from now on; 1 is the next.
    pub fn on_change(&self, nth: u64, fault: Fault) {
        let mut plan = self.plan.lock();
        let at = plan.changes + nth;
        plan.on_change.insert(at, fault);
    }

    /// Plans a fault for the `nth` look-up from now on; 1 is the next.
    pub fn on_look_up(&self, nth: u64, fault: Fault) {
        let mut plan = self.plan.lock();
        let at = plan.look_ups + nth;
        plan.on_look_up.insert(at, fault);
    }

    /// Has every request end so that has no plan of its own; `None`: as the store answers.
    pub fn always(&self, fault: Option<Fault>) {
        self.plan.lock().always = fault;
    }

    /// Makes the store away, sealed or failed, requests included; `None`: as it is.
    pub fn set_state(&self, state: Option<StoreState>) {
        self.plan.lock().state = state;
    }

    /// How many fetches there were.
    #[must_use]
    pub fn fetches(&self) -> u64 {
        self.plan.lock().fetches
    }

    /// How many changes there were.
    #[must_use]
    pub fn changes(&self) -> u64 {
        self.plan.lock().changes
    }

    fn next(&self, count: impl FnOnce(&mut Plan) -> Option<Fault>) -> Option<Fault> {
        let mut plan = self.plan.lock();
        let planned = count(&mut plan);
        planned.or_else(|| plan.state.and_then(fault_of_state)).or_else(|| plan.always.clone())
    }
}

fn fault_of_state(state: StoreState) -> Option<Fault> {
    match state {
        StoreState::Ready => None,
        StoreState::Away => Some(Fault::Fail(StoreFault::Away("made unreachable for a test".into()))),
        StoreState::Sealed => Some(Fault::Fail(StoreFault::Sealed("made sealed for a test".into()))),
        StoreState::Failed => Some(Fault::Fail(StoreFault::Corrupt("made to fail for a test".into()))),
    }
}

async fn suffer<T>(
    fault: Option<Fault>,
    answer: impl Future<Output = Result<T, StoreFault>>,
) -> Result<T, StoreFault> {
    match fault {
        None => answer.await,
        Some(Fault::Fail(fault)) => Err(fault),
        Some(Fault::Delay(span)) => {
            tokio::time::sleep(span).await;
            answer.await
        }
        Some(Fault::Hang) => std::future::pending().await,
        Some(Fault::LoseAnswer) => {
            answer.await?;
            Err(StoreFault::Away("the answer was lost".into()))
        }
    }
}

impl Store for Faulty {
    fn name(&self) -> &str {
        self.inner.name()
    }

    fn state(&self) -> StoreState {
        self.plan.lock().state.unwrap_or_else(|| self.inner.state())
    }

    fn known(&self, login: &Login, path: &SecretPath) -> Option<Arc<Secret>> {
        self.inner.known(login, path)
    }

    fn visit_known(&self, login: &Login, prefix: &str, visit: &mut dyn FnMut(&Arc<Secret>) -> bool) {
        self.inner.visit_known(login, prefix, visit);
    }

    fn stale_for(&self, login: &Login, path: &SecretPath) -> Duration {
        self.inner.stale_for(login, path)
    }

    fn node(&self, node: FieldNode) -> Option<Wanted> {
        self.inner.node(node)
    }

    fn look_up<'a>(
        &'a self,
        login: &'a Login,
        path: &'a SecretPath,
    ) -> Pending<'a, Result<Option<Arc<Secret>>, StoreFault>> {
        let fault = self.next(|plan| {
            plan.look_ups += 1;
            plan.on_look_up.remove(&plan.look_ups)
        });
        Box::pin(suffer(fault, self.inner.look_up(login, path)))
    }

    fn fetch_at_hand(&self, login: &Login, wanted: &Wanted) -> Option<Result<Fetched, StoreFault>> {
        let mut plan = self.plan.lock();
        let next = plan.fetches + 1;
        if plan.on_fetch.contains_key(&next)
            || plan.state.and_then(fault_of_state).is_some()
            || plan.always.is_some()
        {
            return None;
        }
        let fetched = self.inner.fetch_at_hand(login, wanted)?;
        plan.fetches = next;
        Some(fetched)
    }

    fn fetch<'a>(&'a self, login: &'a Login, wanted: &'a Wanted) -> Pending<'a, Result<Fetched, StoreFault>> {
        let fault = self.next(|plan| {
            plan.fetches += 1;
            plan.on_fetch.remove(&plan.fetches)
        });
        Box::pin(suffer(fault, self.inner.fetch(login, wanted)))
    }

    fn change<'a>(&'a self, login: &'a Login, change: Change) -> Pending<'a, Result<Changed, StoreFault>> {
        let fault = self.next(|plan| {
            plan.changes += 1;
            plan.on_change.remove(&plan.changes)
        });
        Box::pin(suffer(fault, self.inner.change(login, change)))
    }

    fn used_by(&self, login: &Login, consumer: &Consumer) {
        self.inner.used_by(login, consumer);
    }

    fn watch(&self, watcher: Watcher) {
        self.inner.watch(watcher);
    }
}
