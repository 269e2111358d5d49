//! What is minted for one consumer: under which login somebody is shown and given it, and what is recorded of it.

use std::sync::Arc;

use crate::audit::Entry;
use crate::model::{Facts, Operation, Outcome, Secret, SecretPath, Stage, Standing};
use crate::policy::{Action, Decision, Policy, Request};
use crate::store::{LeaseEvent, Login, What};

use super::Gate;

impl Gate {
    /// The login of whoever asks for what is at `path`, where that is minted for each consumer; `None`: it is the same for
    /// all. The account is that of the identity by which he may read the first of the fields.
    #[must_use]
    pub fn own_login(&self, policy: &Policy, facts: &dyn Facts, path: &SecretPath) -> Option<Login> {
        let (declared, store) = self.places().declared(path)?;
        let standing = Standing::at(Stage::Current);
        let account = declared.engine.fields().iter().find_map(|field| {
            let request =
                Request { action: Action::Read, secret: path, field: Some(field), standing: Some(&standing) };
            match policy.decide(facts, &request, self.now()) {
                Decision::Allow(permit) => Some(account_of(policy, permit.identity(), store.name())),
                Decision::Deny(_) => None,
            }
        });
        let account = account.unwrap_or_else(Login::machine);
        Some(account.for_consumer(facts.consumer(declared.sharing)))
    }

    /// What is known of the secret at `path` as it is shown to this caller. Policy is asked before.
    #[must_use]
    pub fn known_to(&self, policy: &Policy, facts: &dyn Facts, path: &SecretPath) -> Option<Arc<Secret>> {
        match self.own_login(policy, facts, path) {
            Some(login) => self.places().known_as(&login, path),
            None => self.places().known(path),
        }
    }

    /// Records what happened to a lease of the store called `store`.
    pub fn record_lease(&self, store: &str, event: &LeaseEvent) {
        let operation = match event.what {
            What::Minted => Operation::Mint,
            What::Renewed => Operation::Renew,
            What::Revoked => Operation::Revoke,
        };
        let outcome = if event.is_done { Outcome::Done } else { Outcome::Failed };
        let path = self.places().tree_path(store, &event.secret);
        let consumer = event.consumer.to_string();
        let recorded = self.log().record(&Entry {
            reason: event.reason,
            store: Some(store),
            secret: path.as_ref().map(SecretPath::as_str),
            version: Some(event.version),
            consumer: Some(&consumer),
            request_id: event.request_id.as_deref(),
            ..Entry::new(operation, outcome)
        });
        if recorded.is_err() {
            // What is minted is still released by a record of its own alone.
            tracing::warn!(store, secret = %event.secret, "what happened to a lease could not be recorded");
        }
    }
}

/// The account under which the store is asked for an identity: its own where policy gives it one.
fn account_of(policy: &Policy, identity: &str, store: &str) -> Login {
    let has_own = policy.login_of(identity, store).is_some();
    if has_own { Login::of_identity(identity) } else { Login::machine() }
}
