//! Reading a value: decide, fetch, record, release.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::audit::{Entry, NotRecorded, Receipt};
use crate::caller::{Caller, Described};
use crate::model::{
    Facts as _, FieldName, Operation, Outcome, Reason, SecretBytes, SecretPath, Sharing, Stage, StageSet,
    Standing, State, Version,
};
use crate::policy::{Action, Decision, Permit, Request};
use crate::store::{Fetched, Login, Store, StoreFault, Wanted};

use super::record::{about, freshness, micros, who};
use super::spoken::{trace_decision, trace_refusal};
use super::{Gate, Refusal};

/// What is to be read.
#[derive(Debug, Clone)]
pub struct Target {
    /// The secret, by its path in the tree.
    pub secret: SecretPath,
    /// The version.
    pub version: Version,
    /// The field.
    pub field: FieldName,
    /// The stage that names the version, for the record.
    pub stage: Option<Stage>,
    /// How the version stands, for policy.
    pub standing: Standing,
    /// Whether the version may be read at all; `None` where it is not known.
    pub state: Option<State>,
    /// Whether the whole secret is deleted.
    pub deleted: bool,
}

/// In which role someone reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reader {
    /// He opens the file.
    Opener,
    /// He reads from a handle that an earlier process of ours gave out.
    OfHandle(u64),
    /// He asks by the command line.
    Command,
}

impl Reader {
    const fn operation(self) -> Operation {
        match self {
            Self::Opener => Operation::Open,
            Self::OfHandle(_) => Operation::Read,
            Self::Command => Operation::Get,
        }
    }

    const fn opener(self) -> Option<u64> {
        match self {
            Self::OfHandle(handle) => Some(handle),
            Self::Opener | Self::Command => None,
        }
    }
}

/// A value that was permitted, fetched and recorded. Only the gate makes one.
pub struct Released {
    pub(super) value: SecretBytes,
    pub(super) receipt: Receipt,
    pub(super) standing: Standing,
}

impl Released {
    /// The bytes.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        self.value.expose()
    }

    /// The value itself, to be handed over once.
    #[must_use]
    pub fn into_value(self) -> SecretBytes {
        self.value
    }

    /// The proof of the record.
    pub fn receipt(&self) -> &Receipt {
        &self.receipt
    }

    /// How the version stood when it was released.
    #[must_use]
    pub fn standing(&self) -> Standing {
        self.standing
    }
}

/// A release under way.
pub type Releasing = Pin<Box<dyn Future<Output = Result<Released, Refusal>> + Send>>;

/// What came of asking for a value.
pub enum Opening {
    /// Refused, and recorded.
    Refused(Refusal),
    /// Released, and recorded.
    Released(Released),
    /// Permitted; the store is being asked. To be run elsewhere, to its end.
    Waiting(Releasing),
}

/// Everything of one request that outlives the caller's wait: it may end on another thread.
struct Permitted {
    permit: Permit,
    target: Target,
    reader: Reader,
    person: Described,
    store: Arc<dyn Store>,
    wanted: Wanted,
    login: Login,
    begun: Instant,
}

/// Tells a store who uses an identity's own login, so that it is ended when they are gone.
pub(super) fn note_use(caller: &Caller<'_>, store: &dyn Store, login: &Login) {
    if login.account() != Login::machine() {
        store.used_by(login, &caller.consumer(Sharing::Unit));
    }
}

/// A store that was asked in vain, and its server's id of the request.
#[derive(Clone, Copy)]
struct Asked<'a> {
    store: &'a str,
    request_id: Option<&'a str>,
}

impl Gate {
    /// Asks for a value on behalf of `caller`. What the store has at hand is released at once.
    #[must_use]
    pub fn open(self: &Arc<Self>, caller: &Caller<'_>, target: Target, reader: Reader) -> Opening {
        let permitted = match self.permit(caller, target, reader, Instant::now()) {
            Ok(permitted) => permitted,
            Err(refusal) => return Opening::Refused(refusal),
        };
        note_use(caller, permitted.store.as_ref(), &permitted.login);
        match permitted.store.fetch_at_hand(&permitted.login, &permitted.wanted) {
            Some(fetched) => match self.release(&permitted, fetched) {
                Ok(released) => Opening::Released(released),
                Err(refusal) => Opening::Refused(refusal),
            },
            None => self.begin_fetch(permitted),
        }
    }

    /// Decides; every refusal is recorded here.
    fn permit(
        &self,
        caller: &Caller<'_>,
        target: Target,
        reader: Reader,
        begun: Instant,
    ) -> Result<Permitted, Refusal> {
        let permit = self.decide_read(caller, &target);
        let person = caller.describe();
        let checked = permit.and_then(|permit| {
            check_state(&target)?;
            if let Some(limit) = permit.limit() {
                self.limits.take_read(permit.rule(), person.uid, limit, begun)?;
            }
            let place =
                self.places.place(&target.secret).ok_or(Refusal::new(Outcome::Hidden, Reason::NotFound))?;
            Ok((permit, place))
        });
        match checked {
            Ok((permit, place)) => {
                let wanted = Wanted {
                    secret: place.path.into_owned(),
                    version: target.version,
                    field: target.field.clone(),
                };
                let store = Arc::clone(place.store);
                match self.login_for(permit.identity(), store.as_ref()) {
                    Ok(login) => {
                        let own = self.own_login(&self.policy(), caller, &target.secret);
                        let login = own.unwrap_or(login);
                        Ok(Permitted { permit, target, reader, person, store, wanted, login, begun })
                    }
                    Err(refusal) => Err(self.record_refusal(&target, reader, &person, refusal)),
                }
            }
            Err(refusal) => Err(self.record_refusal(&target, reader, &person, refusal)),
        }
    }

    pub(super) fn decide_read(&self, caller: &Caller<'_>, target: &Target) -> Result<Permit, Refusal> {
        let request = Request {
            action: Action::Read,
            secret: &target.secret,
            field: Some(&target.field),
            standing: Some(&target.standing),
        };
        let decision = self.policy().decide(caller, &request, self.now());
        trace_decision(caller, target, &decision);
        match decision {
            Decision::Allow(permit) => Ok(permit),
            Decision::Deny(denial) => Err(denial.into()),
        }
    }

    /// The account under which the store is asked: the identity's own where policy gives it one, else the machine's,
    /// unless the store demands one of his own of everyone.
    pub(super) fn login_for(&self, identity: &str, store: &dyn Store) -> Result<Login, Refusal> {
        if self.policy().login_of(identity, store.name()).is_some() {
            Ok(Login::of_identity(identity))
        } else if store.needs_own_login() {
            Err(Refusal::new(Outcome::StoreRefused, Reason::NoLogin))
        } else {
            Ok(Login::machine())
        }
    }

    /// Asks the store for what it has not at hand, unless the reader has too much under way.
    fn begin_fetch(self: &Arc<Self>, permitted: Permitted) -> Opening {
        let in_flight = match self.limits.begin_fetch(permitted.person.uid) {
            Ok(in_flight) => in_flight,
            Err(refusal) => return Opening::Refused(self.refuse(&permitted, refusal)),
        };
        let gate = Arc::clone(self);
        Opening::Waiting(Box::pin(async move {
            let _in_flight = in_flight;
            let left = gate.limits.limits().request_deadline.saturating_sub(permitted.begun.elapsed());
            let fetching = permitted.store.fetch(&permitted.login, &permitted.wanted);
            let fetched = tokio::time::timeout(left, fetching).await.unwrap_or(Err(StoreFault::Timeout));
            gate.release(&permitted, fetched)
        }))
    }

    fn release(
        &self,
        permitted: &Permitted,
        fetched: Result<Fetched, StoreFault>,
    ) -> Result<Released, Refusal> {
        match fetched {
            Ok(fetched) => {
                tracing::trace!(
                    store = permitted.store.name(),
                    secret = permitted.target.secret.as_str(),
                    version = %permitted.target.version,
                    bytes = fetched.value.len(),
                    stale_s = fetched.stale_for.as_secs(),
                    after_us = micros(permitted.begun.elapsed()),
                    "fetched"
                );
                let receipt = self.record_release(permitted, &fetched)?;
                tracing::trace!(
                    seq = receipt.seq(),
                    after_us = micros(permitted.begun.elapsed()),
                    "recorded, released"
                );
                Ok(Released { value: fetched.value, receipt, standing: permitted.target.standing })
            }
            Err(fault) => {
                tracing::warn!(store = permitted.store.name(), secret = %permitted.target.secret, %fault, "fetch failed");
                let refusal = Refusal::from(&fault);
                let asked = Asked { store: permitted.store.name(), request_id: fault.request_id() };
                let Permitted { target, reader, person, .. } = permitted;
                Err(self.record_refusal_of(target, *reader, person, refusal, Some(asked)))
            }
        }
    }

    fn refuse(&self, permitted: &Permitted, refusal: Refusal) -> Refusal {
        self.record_refusal(&permitted.target, permitted.reader, &permitted.person, refusal)
    }

    fn record_release(&self, permitted: &Permitted, fetched: &Fetched) -> Result<Receipt, NotRecorded> {
        let Permitted { permit, target, reader, person, store, begun, .. } = permitted;
        let opener = reader.opener().map(|handle| handle.to_string());
        self.log.record(&Entry {
            rule: Some(permit.rule()),
            identity: Some(permit.identity()),
            policy: Some(permit.policy().as_str()),
            store: Some(store.name()),
            who: Some(&who(person)),
            opener: opener.as_deref(),
            resent: person.is_resent,
            freshness: Some(&freshness(fetched.stale_for)),
            bytes: Some(fetched.value.len() as u64),
            latency_us: Some(micros(begun.elapsed())),
            request_id: fetched.request_id.as_deref(),
            ..about(target, reader.operation(), Outcome::Released)
        })
    }

    fn record_refusal(
        &self,
        target: &Target,
        reader: Reader,
        person: &Described,
        refusal: Refusal,
    ) -> Refusal {
        self.record_refusal_of(target, reader, person, refusal, None)
    }

    /// The same where a store was asked: its name, and its server's id of the request.
    fn record_refusal_of(
        &self,
        target: &Target,
        reader: Reader,
        person: &Described,
        refusal: Refusal,
        asked: Option<Asked<'_>>,
    ) -> Refusal {
        trace_refusal(target, reader.operation(), person, refusal);
        let policy = self.policy();
        let opener = reader.opener().map(|handle| handle.to_string());
        // A refusal that cannot be recorded now is counted, and recorded later: no byte hangs on it.
        let _ = self.log.record_refusal(&Entry {
            reason: refusal.reason,
            policy: Some(policy.digest().as_str()),
            who: Some(&who(person)),
            opener: opener.as_deref(),
            resent: person.is_resent,
            store: asked.map(|asked| asked.store),
            request_id: asked.and_then(|asked| asked.request_id),
            ..about(target, reader.operation(), refusal.outcome)
        });
        refusal
    }

    /// Whether the opener of a handle may go on: by the policy in force now, with facts read now. Adds no record
    /// unless he may not.
    ///
    /// # Errors
    /// The refusal, recorded.
    pub fn may_go_on_reading(
        &self,
        caller: &Caller<'_>,
        target: &Target,
        handle: u64,
    ) -> Result<(), Refusal> {
        match self.decide_read(caller, target) {
            Ok(_) => Ok(()),
            // A limit on the age of a process is a limit on opening.
            Err(Refusal { reason: Some(Reason::ProcessTooOld), .. }) => Ok(()),
            Err(refusal) => Err(self.refuse_read(caller, target, handle, refusal)),
        }
    }

    /// Releases what a handle holds to a process that did not open it: decided and recorded for the reader himself.
    ///
    /// # Errors
    /// The refusal, recorded; [`Outcome::NoAudit`] where it cannot be.
    pub fn release_to_another(
        &self,
        caller: &Caller<'_>,
        target: &Target,
        handle: u64,
        held: &Released,
    ) -> Result<Receipt, Refusal> {
        let begun = Instant::now();
        let permit = match self.decide_read(caller, target) {
            Ok(permit) => permit,
            Err(refusal) => return Err(self.refuse_read(caller, target, handle, refusal)),
        };
        let person = caller.describe();
        let receipt = self.log.record(&Entry {
            rule: Some(permit.rule()),
            identity: Some(permit.identity()),
            policy: Some(permit.policy().as_str()),
            store: self.places.place(&target.secret).map(|place| place.store.name()),
            who: Some(&who(&person)),
            opener: Some(&handle.to_string()),
            resent: person.is_resent,
            bytes: Some(held.bytes().len() as u64),
            latency_us: Some(micros(begun.elapsed())),
            ..about(target, Operation::Read, Outcome::Released)
        })?;
        tracing::trace!(seq = receipt.seq(), opener = handle, "recorded, released to another");
        Ok(receipt)
    }

    /// Records a refused read from an open handle, and passes the refusal on.
    pub fn refuse_read(
        &self,
        caller: &Caller<'_>,
        target: &Target,
        handle: u64,
        refusal: Refusal,
    ) -> Refusal {
        self.record_refusal(target, Reader::OfHandle(handle), &caller.describe(), refusal)
    }

    /// Records an open that a limit of ours refused, and passes the refusal on.
    pub fn refuse_open(&self, caller: &Caller<'_>, target: &Target, refusal: Refusal) -> Refusal {
        self.record_refusal(target, Reader::Opener, &caller.describe(), refusal)
    }

    /// Whether an open would be permitted, for access(2). No record, no fetch.
    ///
    /// # Errors
    /// The refusal.
    pub fn may_read(&self, caller: &Caller<'_>, target: &Target) -> Result<(), Refusal> {
        self.decide_read(caller, target).and_then(|_permit| check_state(target))
    }

    /// The stages under which the record numbered `seq` released a field; `None` where it did not.
    #[must_use]
    pub fn was_released(
        &self,
        seq: u64,
        secret: &SecretPath,
        version: Version,
        field: &FieldName,
    ) -> Option<StageSet> {
        let record = self.log.find(seq)?;
        let is_ours = record.outcome == Outcome::Released
            && record.secret.as_ref() == Some(secret)
            && record.field.as_ref() == Some(field)
            && record.version == Some(version);
        is_ours.then(|| record.stage.map_or(StageSet::EMPTY, StageSet::of))
    }

    /// Makes a value that an earlier process of ours released, and left to this one, a released one again: the log must
    /// hold the record numbered `seq` of exactly that.
    #[must_use]
    pub fn released_before(
        &self,
        seq: u64,
        secret: &SecretPath,
        version: Version,
        field: &FieldName,
        standing: Standing,
        value: SecretBytes,
    ) -> Option<Released> {
        self.was_released(seq, secret, version, field)?;
        let receipt = self.log.receipt_of(seq)?;
        Some(Released { value, receipt, standing })
    }

    /// The bytes of a value that an earlier process left and nobody has asked for since, to be left once more.
    #[must_use]
    pub fn bytes_of_left<'a>(&self, value: &'a SecretBytes) -> &'a [u8] {
        value.expose()
    }

    /// For how long the values at `path` have not been vouched for by their store; zero while they are fresh.
    #[must_use]
    pub fn stale_for(&self, path: &SecretPath) -> Duration {
        let place = self.places.place(path);
        place.map_or(Duration::ZERO, |place| place.store.stale_for(self.places.login(), &place.path))
    }
}

/// A version that is not active is refused whatever policy says.
pub(super) fn check_state(target: &Target) -> Result<(), Refusal> {
    if target.deleted {
        return Err(Refusal::new(Outcome::Hidden, Reason::NotFound));
    }
    match target.state {
        Some(State::Active) => Ok(()),
        Some(State::Revoked) => Err(Outcome::Revoked.into()),
        Some(State::Destroyed) => Err(Outcome::Destroyed.into()),
        Some(State::Deleted) | None => Err(Refusal::new(Outcome::Hidden, Reason::NotFound)),
    }
}
