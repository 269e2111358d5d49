//! What is asked of the stores when a name is not found: one thing at a time, until it is found or there is nothing left to
//! ask.

use std::sync::Arc;

use crate::access::{Asking, Refusal};
use crate::caller::Caller;
use crate::model::{FieldName, SecretPath, Version, decode_name, is_reserved};

use super::inode::Inode;
use super::lookup::join;
use super::node::{FieldPlace, Node};
use super::{Entry, Tree};

/// Views of which the secret behind is asked for, at most, to find one name.
const VIEWS_MAX: usize = 8;

/// How a LOOKUP goes on.
pub enum Lookup {
    /// Answered.
    Done(Result<Entry, Refusal>),
    /// A store is being asked; then the name is to be looked up again. To be run elsewhere, within its own deadline.
    Asking(Asking),
}

impl Tree {
    /// What to ask a store before `name` can be said not to exist in `parent`; `None`: nothing.
    pub(super) fn question(&self, caller: &Caller<'_>, parent: &Node, name: &[u8]) -> Option<Asking> {
        if self.gate.places().knows_all() {
            return None;
        }
        let name = decode_name(std::str::from_utf8(name).ok()?)?;
        // All that can be there is known of what is minted, and asking would mint it.
        let secret = match parent {
            Node::Directory(directory) => SecretPath::of_shared(directory).ok(),
            Node::Versions(secret) | Node::Version(secret, _) => Some(secret.clone()),
            Node::Link(..) | Node::Field(_) | Node::View(..) | Node::Notices => None,
        };
        if secret.is_some_and(|secret| self.gate.places().declared(&secret).is_some()) {
            return None;
        }
        match parent {
            Node::Directory(directory) => self
                .ask_within_secret(caller, directory, &name)
                .or_else(|| self.ask_for_views(caller, &join(directory, &name)))
                .or_else(|| self.ask_for_child(caller, &join(directory, &name))),
            Node::Versions(secret) => {
                let number: Version = name.parse().ok()?;
                let known = self.gate.places().known(secret);
                let is_known = known.is_some_and(|secret| secret.version(number).is_some());
                if is_known { None } else { self.gate.ask_for_secret(caller, secret) }
            }
            Node::Version(secret, version) => self.ask_for_field(caller, secret, *version, &name),
            Node::Link(..) | Node::Field(_) | Node::View(..) | Node::Notices => None,
        }
    }

    /// Where the directory is a secret: what it is, then what its current version holds.
    fn ask_within_secret(&self, caller: &Caller<'_>, directory: &Arc<str>, name: &str) -> Option<Asking> {
        let path = SecretPath::of_shared(directory).ok()?;
        let secret = self.gate.places().known(&path)?;
        if secret.versions.is_empty() {
            return self.gate.ask_for_secret(caller, &path);
        }
        let current = secret.current.filter(|_| !is_reserved(name))?;
        self.ask_for_field(caller, &path, current, name)
    }

    fn ask_for_field(
        &self,
        caller: &Caller<'_>,
        secret: &SecretPath,
        version: Version,
        name: &str,
    ) -> Option<Asking> {
        let field = FieldName::from_store(name).ok()?;
        let place = FieldPlace { secret: secret.clone(), version, field, inode: Inode(0) };
        self.gate.ask_for_field(caller, &self.target(caller, &place))
    }

    /// A child may be a secret, or a folder in which something lies.
    fn ask_for_child(&self, caller: &Caller<'_>, child: &str) -> Option<Asking> {
        let path = SecretPath::from_store(child).ok()?;
        let places = self.gate.places();
        if places.known(&path).is_some() {
            return None;
        }
        let as_secret = self.gate.ask_for_secret(caller, &path);
        let as_folder =
            if places.has_anything_at(child) { None } else { self.gate.ask_for_names(caller, child) };
        match (as_secret, as_folder) {
            (Some(secret), Some(folder)) => Some(Box::pin(async move {
                secret.await?;
                folder.await
            })),
            (one, other) => one.or(other),
        }
    }

    /// A view, or a directory of views, is there when what is behind it is known.
    fn ask_for_views(&self, caller: &Caller<'_>, path: &str) -> Option<Asking> {
        let policy = self.gate.policy();
        let below = format!("{path}/");
        let views = policy
            .views()
            .range(path.to_owned()..)
            .take_while(|(at, _)| at.as_str() == path || at.starts_with(&below))
            .take(VIEWS_MAX);
        let mut questions = Vec::new();
        for (_, view) in views {
            let known = self.gate.places().known(&view.secret);
            let question = match known.and_then(|secret| secret.current) {
                None => self.gate.ask_for_secret(caller, &view.secret),
                Some(current) => self.ask_for_field(caller, &view.secret, current, view.field.as_str()),
            };
            questions.extend(question);
        }
        if questions.is_empty() {
            return None;
        }
        Some(Box::pin(async move {
            let mut outcome = Ok(());
            for question in questions {
                outcome = question.await;
                if outcome.is_ok() {
                    break;
                }
            }
            outcome
        }))
    }
}
