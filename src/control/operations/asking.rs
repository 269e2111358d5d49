//! What a command is about is asked of a store that may know more than is known here. Whoever types a command waits for the
//! answer, as a listing of the tree does not; policy is asked first, so that nobody has anything asked that he may not see.

use crate::access::{Actor, Gate, Place};
use crate::control::{CommandFault, Instance};
use crate::model::{SecretPath, Version};
use crate::store::{Saying, StoreFault};

use super::show::Sight;

/// Has the store of `path` say what it knows of the secret there, as it is now. Where it gives no answer, what is known of
/// it will do.
///
/// # Errors
/// Why it cannot be asked, where nothing is known.
pub(super) async fn about_secret(
    gate: &Gate,
    actor: &Actor<'_>,
    path: &SecretPath,
) -> Result<(), CommandFault> {
    let Some(place) = asked(gate, path).filter(|_| may_see(gate, actor, path)) else { return Ok(()) };
    let told = place.store.look_up(gate.places().login(), &place.path).await;
    let is_known = || gate.places().known(path).is_some_and(|secret| !secret.versions.is_empty());
    settled(told.map(drop), is_known)
}

/// Has the stores of `directory` say which names are in it, and what they know of a secret there. Without an instance, which
/// lists all names now and then, all of them are listed.
///
/// # Errors
/// As [`about_secret`].
pub(super) async fn about_directory(
    instance: &Instance,
    actor: &Actor<'_>,
    directory: &str,
) -> Result<(), CommandFault> {
    let gate = &*instance.gate;
    let may_look = match actor {
        Actor::Owner(_) => true,
        Actor::Peer(caller) => {
            let policy = gate.policy();
            policy.is_administrator(*caller) || !policy.list_patterns_below(*caller, directory).is_empty()
        }
    };
    if let Ok(path) = SecretPath::from_store(directory)
        && gate.places().known(&path).is_some()
    {
        about_secret(gate, actor, &path).await?;
    }
    let machine = gate.places().login();
    for (store, folder) in gate.places().folders(directory) {
        if !may_look || store.knows_all() {
            continue;
        }
        let told = if instance.running.is_none() {
            store.refresh(machine, None).await.map(drop)
        } else if store.is_listed(&folder) {
            Ok(())
        } else {
            store.look_into(machine, &folder).await
        };
        settled(told, || directory.is_empty() || gate.places().has_anything_at(directory))?;
    }
    Ok(())
}

/// Has the fields of a version known, for an administrator who did not name one.
///
/// # Errors
/// Why it cannot be read, where its fields are not known.
pub(super) async fn about_fields(
    gate: &Gate,
    actor: &Actor<'_>,
    path: &SecretPath,
    version: Version,
) -> Result<(), CommandFault> {
    let sight = Sight { gate, actor };
    let Some(place) = asked(gate, path).filter(|_| sight.administers(path)) else { return Ok(()) };
    let told = place.store.learn_fields(gate.places().login(), &place.path, version).await;
    settled(told, || {
        let known = gate.places().known(path);
        known.is_some_and(|secret| secret.version(version).is_some_and(|version| !version.fields.is_empty()))
    })
}

fn asked<'a>(gate: &'a Gate, path: &'a SecretPath) -> Option<Place<'a>> {
    gate.places().place(path).filter(Place::is_to_be_asked)
}

fn may_see(gate: &Gate, actor: &Actor<'_>, path: &SecretPath) -> bool {
    let Actor::Peer(caller) = actor else { return true };
    Sight { gate, actor }.administers(path) || gate.policy().may_list(*caller, path)
}

fn settled(told: Result<(), StoreFault>, is_known: impl FnOnce() -> bool) -> Result<(), CommandFault> {
    match told {
        Err(fault) if Saying::of(&fault) != Saying::Gone && !is_known() => Err(fault.into()),
        _ => Ok(()),
    }
}
