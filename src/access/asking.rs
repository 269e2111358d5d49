//! Asking the stores about names that are not known, before it can be said that they do not exist: a remote store may not
//! have been heard about them yet. Policy is asked first, so that nobody has anything asked that he may not see.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use crate::audit::Entry;
use crate::caller::{Caller, Described};
use crate::model::{Operation, SecretPath};
use crate::policy::{Action, Decision, Request};
use crate::store::{Login, Saying, Store, StoreFault, Wanted};

use super::record::who;
use super::{Gate, Place, Refusal, Target};

/// A question to a store under way. When it ends well, the name is looked for once more.
pub type Asking = Pin<Box<dyn Future<Output = Result<(), Refusal>> + Send>>;

/// What a store is asked.
enum Question {
    /// What it knows of a secret.
    Secret(SecretPath),
    /// What lies in a folder.
    Folder(String),
    /// A version, whose fields are known when it was read.
    Version(Wanted),
}

/// Whose question it is.
struct Asker {
    person: Described,
    store: Arc<dyn Store>,
    login: Login,
    /// The path in the tree, for the record.
    path: String,
}

impl Gate {
    /// Has the store of `path` say what it knows of the secret there. `None`: it is known, or nothing to be asked for this
    /// caller.
    #[must_use]
    pub fn ask_for_secret(self: &Arc<Self>, caller: &Caller<'_>, path: &SecretPath) -> Option<Asking> {
        let is_worth_asking =
            |place: &Place<'_>| place.is_to_be_asked() && !place.store.is_absent(&place.path);
        let place = self.places.place(path).filter(is_worth_asking)?;
        let request = Request { action: Action::List, secret: path, field: None, standing: None };
        let Decision::Allow(permit) = self.policy().decide(caller, &request, self.now()) else { return None };
        let login = self.login_for(permit.identity(), place.store.as_ref());
        let store = Arc::clone(place.store);
        let question = Question::Secret(place.path.into_owned());
        Some(self.ask(caller, store, login, path.as_str().to_owned(), question))
    }

    /// Has the stores say what lies in a directory of the tree, for a caller who holds a pattern that could match below it.
    #[must_use]
    pub fn ask_for_names(self: &Arc<Self>, caller: &Caller<'_>, directory: &str) -> Option<Asking> {
        if self.policy().list_patterns_below(caller, directory).is_empty() {
            return None;
        }
        let (store, folder) = self
            .places
            .folder(directory)
            .filter(|(store, folder)| !store.knows_all() && !store.is_listed(folder))?;
        let store = Arc::clone(store);
        let login = Ok(self.places.login().clone());
        Some(self.ask(caller, store, login, directory.to_owned(), Question::Folder(folder)))
    }

    /// Has the store read a version, so that its fields are known, for a caller who may read the field that he names.
    #[must_use]
    pub fn ask_for_field(self: &Arc<Self>, caller: &Caller<'_>, target: &Target) -> Option<Asking> {
        let place = self.places.place(&target.secret).filter(Place::is_to_be_asked)?;
        let permit = self.decide_read(caller, target).ok()?;
        super::read::check_state(target).ok()?;
        let store = Arc::clone(place.store);
        let wanted =
            Wanted { secret: place.path.into_owned(), version: target.version, field: target.field.clone() };
        let login = self.login_for(permit.identity(), store.as_ref());
        if let Ok(login) = &login
            && matches!(store.fetch_at_hand(login, &wanted), Some(Ok(_) | Err(StoreFault::NoField(..))))
        {
            return None;
        }
        let path = format!("{}/{}", target.secret, target.field);
        Some(self.ask(caller, store, login, path, Question::Version(wanted)))
    }

    fn ask(
        self: &Arc<Self>,
        caller: &Caller<'_>,
        store: Arc<dyn Store>,
        login: Result<Login, Refusal>,
        path: String,
        question: Question,
    ) -> Asking {
        let person = caller.describe();
        let ready = login.and_then(|login| Ok((login, self.limits.begin_fetch(person.uid)?)));
        let gate = Arc::clone(self);
        match ready {
            Ok((login, in_flight)) => {
                super::read::note_use(caller, store.as_ref(), &login);
                let asker = Asker { person, store, login, path };
                Box::pin(async move {
                    let _in_flight = in_flight;
                    gate.put(&asker, question).await
                })
            }
            Err(refusal) => Box::pin(std::future::ready(Err(refusal))),
        }
    }

    async fn put(&self, asker: &Asker, question: Question) -> Result<(), Refusal> {
        let Asker { person, store, login, path } = asker;
        let answering = async {
            match &question {
                Question::Secret(path) => store.look_up(login, path).await.map(drop),
                Question::Folder(folder) => store.look_into(login, folder).await,
                Question::Version(wanted) => store.fetch(login, wanted).await.map(drop),
            }
        };
        let answer = tokio::time::timeout(self.limits.limits().request_deadline, answering)
            .await
            .unwrap_or(Err(StoreFault::Timeout));
        let Err(fault) = answer else { return Ok(()) };
        if Saying::of(&fault) == Saying::Gone {
            // Then it does not exist, which the tree says.
            return Ok(());
        }
        let refusal = Refusal::from(&fault);
        tracing::debug!(store = store.name(), path, %fault, "a name could not be asked for");
        self.log.refused(&Entry {
            reason: refusal.reason,
            store: Some(store.name()),
            secret: Some(path),
            request_id: fault.request_id(),
            who: Some(&who(person)),
            ..Entry::new(Operation::Lookup, refusal.outcome)
        });
        Err(refusal)
    }
}
