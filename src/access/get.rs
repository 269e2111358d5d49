//! Reading a value by the command line, as an administrator: decided, fetched, recorded, released.

use std::time::Instant;

use crate::audit::Entry;
use crate::caller::Caller;
use crate::model::{Operation, Outcome};
use crate::policy::{ADMINISTRATOR, Action, Decision, Permit, Request};
use crate::store::Wanted;

use super::read::{Released, check_state};
use super::record::{freshness, micros, who};
use super::{Actor, Gate, Refusal, Target};

impl Gate {
    /// The permit by which a peer may administer the secret of `target`; a refusal is not recorded, for reading by a
    /// grant of his own comes next.
    #[must_use]
    pub fn administers(&self, caller: &Caller<'_>, target: &Target) -> Option<Permit> {
        let request = Request {
            action: Action::Admin,
            secret: &target.secret,
            field: Some(&target.field),
            standing: None,
        };
        match self.policy().decide(caller, &request, self.now()) {
            Decision::Allow(permit) => Some(permit),
            Decision::Deny(_) => None,
        }
    }

    /// Releases a value to an administrator: the owner of the files, or a peer with the `admin` permit.
    ///
    /// # Errors
    /// The refusal, recorded.
    pub async fn get(
        &self,
        actor: &Actor<'_>,
        permit: Option<&Permit>,
        target: &Target,
    ) -> Result<Released, Refusal> {
        let begun = Instant::now();
        let person = match actor {
            Actor::Owner(person) => person.clone(),
            Actor::Peer(caller) => caller.describe_administrator(),
        };
        let place = self.places().place(&target.secret).ok_or(Refusal::HIDDEN)?;
        let who = who(&person);
        let base = Entry {
            rule: permit.map(Permit::rule),
            identity: Some(permit.map_or(ADMINISTRATOR, Permit::identity)),
            store: Some(place.store.name()),
            secret: Some(target.secret.as_str()),
            field: Some(target.field.as_str()),
            version: Some(target.version),
            stage: target.stage,
            who: Some(&who),
            ..Entry::new(Operation::Get, Outcome::Released)
        };
        let wanted = Wanted {
            secret: place.path.clone().into_owned(),
            version: target.version,
            field: target.field.clone(),
        };
        let fetched = match check_state(target) {
            Ok(()) => {
                let own = match actor {
                    Actor::Peer(caller) => self.own_login(&self.policy(), *caller, &target.secret),
                    Actor::Owner(_) => None,
                };
                let login = own.unwrap_or_else(|| self.places().login().clone());
                let fetched = place.store.fetch(&login, &wanted).await;
                fetched.map_err(|fault| (Refusal::from(&fault), fault.request_id().map(str::to_owned)))
            }
            Err(refusal) => Err((refusal, None)),
        };
        let policy = self.policy();
        let base = Entry { policy: Some(policy.digest().as_str()), ..base };
        match fetched {
            Ok(fetched) => {
                let receipt = self.log().record(&Entry {
                    freshness: Some(&freshness(fetched.stale_for)),
                    bytes: Some(fetched.value.len() as u64),
                    latency_us: Some(micros(begun.elapsed())),
                    request_id: fetched.request_id.as_deref(),
                    ..base
                })?;
                tracing::debug!(
                    uid = person.uid,
                    secret = target.secret.as_str(),
                    seq = receipt.seq(),
                    "given to an administrator"
                );
                Ok(Released { value: fetched.value, receipt, standing: target.standing })
            }
            Err((refusal, request_id)) => {
                // A refusal that cannot be recorded now is counted, and recorded later: no byte hangs on it.
                let _ = self.log().record_refusal(&Entry {
                    outcome: refusal.outcome,
                    reason: refusal.reason,
                    request_id: request_id.as_deref(),
                    ..base
                });
                Err(refusal)
            }
        }
    }
}
