//! Administration: changes to a store, decided and recorded like reads.

use std::sync::Arc;

use crate::audit::{Entry, Receipt};
use crate::caller::{Caller, Described};
use crate::model::{Operation, Outcome, Reason, SecretPath, Version};
use crate::policy::{Action, Decision, Request};
use crate::store::{Change, Changed, StoreFault};

use super::record::who;
use super::spoken::{debug_change, trace_note};
use super::{Gate, Refusal};

/// On whose behalf something is administered.
pub enum Actor<'a> {
    /// A process at the other end of the control socket: policy decides.
    Peer(&'a Caller<'a>),
    /// This process itself, on the files it could open: their permissions have decided.
    Owner(Described),
}

/// Why an administrative act was not done, or was done without a record.
#[derive(Debug, thiserror::Error)]
pub enum AdministerFault {
    /// Policy gives the actor no `admin` grant there.
    #[error("policy gives you no `admin` grant on {0}: `credfs explain {0}` says why")]
    Refused(SecretPath),
    /// No store answers for the path.
    #[error("no store answers for {0}: look at the prefixes in the configuration")]
    NoStore(SecretPath),
    /// The audit log does not take records: nothing was done.
    #[error("the audit log cannot be written, so nothing was done: `credfs doctor` says why")]
    NotRecorded,
    /// It was done, but the audit log then failed to take the record.
    #[error("done as version {version:?}, but the audit log could not be written: `credfs doctor` says why")]
    DoneUnrecorded {
        /// The version it was about.
        version: Option<Version>,
    },
    /// The store refused or failed.
    #[error(transparent)]
    Store(#[from] StoreFault),
}

/// What was done, and the proof of its record.
pub struct Administered {
    /// What changed.
    pub changed: Changed,
    /// The proof.
    pub receipt: Receipt,
}

impl Gate {
    /// Makes one change on behalf of `actor`. `secret` is the path in the tree; the change names the same.
    ///
    /// # Errors
    /// [`AdministerFault`]; all but `DoneUnrecorded` mean that nothing changed.
    pub async fn administer(
        &self,
        person: &Described,
        secret: &SecretPath,
        change: Change,
        reason: Option<Reason>,
    ) -> Result<Administered, AdministerFault> {
        let operation = operation_of(&change);
        let place = self.places.place(secret).ok_or_else(|| AdministerFault::NoStore(secret.clone()))?;
        let store = Arc::clone(place.store);
        let change = change.moved_to(place.path.into_owned());
        if self.log.check().is_err() {
            return Err(AdministerFault::NotRecorded);
        }
        let done = store.change(self.places.login(), change).await;
        let (outcome, version) = match &done {
            Ok(changed) => (Outcome::Done, changed.version),
            Err(_) => (Outcome::Failed, None),
        };
        let recorded = self.log.record(&Entry {
            reason: reason.or(done.as_ref().err().map(|_| Reason::Refused)),
            store: Some(store.name()),
            secret: Some(secret.as_str()),
            version,
            who: Some(&who(person)),
            ..Entry::new(operation, outcome)
        });
        let seq = recorded.as_ref().ok().map(Receipt::seq);
        debug_change(operation, person, secret, (outcome, version), seq);
        match (done, recorded) {
            (Ok(changed), Ok(receipt)) => Ok(Administered { changed, receipt }),
            (Ok(_), Err(_)) => Err(AdministerFault::DoneUnrecorded { version }),
            (Err(fault), _) => Err(fault.about(secret).into()),
        }
    }

    /// Whether `actor` may administer `secret`; a refusal is recorded.
    ///
    /// # Errors
    /// [`AdministerFault::Refused`].
    pub fn may_administer(
        &self,
        actor: &Actor<'_>,
        secret: &SecretPath,
        operation: Operation,
    ) -> Result<Described, AdministerFault> {
        let caller = match actor {
            Actor::Owner(person) => return Ok(person.clone()),
            Actor::Peer(caller) => caller,
        };
        let request = Request { action: Action::Admin, secret, field: None, standing: None };
        let person = caller.describe_administrator();
        match self.policy().decide(*caller, &request, self.now()) {
            Decision::Allow(_) => Ok(person),
            Decision::Deny(denial) => {
                let refusal = Refusal::from(denial);
                let _ = self.log.record_refusal(&Entry {
                    reason: refusal.reason,
                    secret: Some(secret.as_str()),
                    who: Some(&who(&person)),
                    ..Entry::new(operation, Outcome::Denied)
                });
                Err(AdministerFault::Refused(secret.clone()))
            }
        }
    }

    /// Records something that was done or failed and is about no secret: start, stop, reload, backup …
    ///
    /// # Errors
    /// [`AdministerFault::NotRecorded`].
    pub fn record_act(
        &self,
        person: &Described,
        operation: Operation,
        outcome: Outcome,
        reason: Option<Reason>,
    ) -> Result<Receipt, AdministerFault> {
        let policy = self.policy();
        let entry = Entry {
            reason,
            policy: Some(policy.digest().as_str()),
            who: Some(&who(person)),
            ..Entry::new(operation, outcome)
        };
        let recorded = self.log.record(&entry);
        tracing::debug!(?operation, ?outcome, uid = person.uid, recorded = recorded.is_ok(), "administered");
        recorded.map_err(|_| AdministerFault::NotRecorded)
    }

    /// Notes how many requests were answered with a time-out while no worker was there to record them. By whom and for
    /// what they were made nobody knows.
    pub fn note_timed_out(&self, count: u64) {
        if count > 0 {
            let entry = Entry { count: Some(count), ..Entry::new(Operation::Access, Outcome::Timeout) };
            if self.log.record(&entry).is_err() {
                tracing::warn!(count, "time-outs of the time without a worker could not be recorded");
            }
        }
    }

    /// Notes that the daemon asked its own mount, and refuses it.
    pub fn note_self_access(&self, uid: u32, gid: u32) -> Refusal {
        let own = Described { uid, gid, pid: Some(std::process::id()), ..Described::default() };
        self.log
            .refused(&Entry { who: Some(&who(&own)), ..Entry::new(Operation::Access, Outcome::SelfAccess) });
        Outcome::SelfAccess.into()
    }

    /// Notes a refused lookup, stat or listing; many alike become one record with a count.
    pub fn note_refusal(&self, caller: &Caller<'_>, operation: Operation, path: &str, refusal: Refusal) {
        trace_note(operation, caller, path, refusal);
        let person = caller.describe();
        self.log.refused(&Entry {
            reason: refusal.reason,
            secret: Some(path),
            who: Some(&who(&person)),
            ..Entry::new(operation, refusal.outcome)
        });
    }
}

fn operation_of(change: &Change) -> Operation {
    match change {
        Change::Put { .. } => Operation::Put,
        Change::Promote { .. } => Operation::Promote,
        Change::Rollback { .. } => Operation::Rollback,
        Change::Revoke { .. } => Operation::Revoke,
        Change::Delete { .. } => Operation::Delete,
        Change::Undelete { .. } => Operation::Undelete,
        Change::Destroy { .. } => Operation::Destroy,
    }
}
