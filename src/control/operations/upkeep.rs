//! Commands that keep an instance well: status, reload, refresh, the audit log's files, backup, a new key.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::access::{Actor, AdministerFault};
use crate::caller::Described;
use crate::model::{Operation, Outcome, Reason, SecretPath};
use crate::store::{Key, StoreFault};

use super::super::{Answer, CommandFault, Kind, Payload};
use super::{Instance, LocalStore, must_administer};

pub(super) fn status(instance: &Instance, actor: &Actor<'_>) -> Result<Answer, CommandFault> {
    let mut status = running(instance)?.status();
    if must_administer(&instance.gate, actor).is_err() {
        status.audit = None;
        status.policy = None;
        status.grants = None;
        status.open_files = None;
        status.inodes = None;
        status.unlocked_bytes = None;
        status.why = None;
        status.stores.iter_mut().for_each(|store| store.logins.clear());
    }
    Ok(Answer::Status(Box::new(status)))
}

pub(super) fn reload(instance: &Instance, actor: &Actor<'_>) -> Result<Answer, CommandFault> {
    let who = must_administer(&instance.gate, actor)?;
    let running = running(instance)?;
    recorded(instance, &who, Operation::Reload, || running.reload())
}

fn running(instance: &Instance) -> Result<&Arc<dyn super::Running>, CommandFault> {
    instance.running.as_ref().ok_or_else(|| {
        CommandFault::new(Kind::StoreAway, "no instance is running: start one with `credfs mount`")
    })
}

pub(super) async fn refresh(
    instance: &Instance,
    actor: &Actor<'_>,
    secret: Option<SecretPath>,
) -> Result<Answer, CommandFault> {
    let gate = &instance.gate;
    let who = match &secret {
        Some(secret) => gate.may_administer(actor, secret, Operation::Refresh)?,
        None => must_administer(gate, actor)?,
    };
    let mut known = 0;
    match &secret {
        Some(path) => {
            let place = gate.places().place(path).ok_or_else(|| AdministerFault::NoStore(path.clone()))?;
            known += place.store.refresh(gate.places().login(), Some(&place.path)).await?;
        }
        None => {
            for store in gate.places().stores() {
                known += store.refresh(gate.places().login(), None).await?;
            }
        }
    }
    if let (Some(secret), 0) = (&secret, known) {
        return Err(StoreFault::NoSecret(secret.clone()).into());
    }
    recorded(instance, &who, Operation::Refresh, || Ok(Answer::Refreshed { secrets: known }))
}

pub(super) fn checkpoint(instance: &Instance, actor: &Actor<'_>) -> Result<Answer, CommandFault> {
    must_administer(&instance.gate, actor)?;
    let made = instance.gate.log().checkpoint().map_err(|fault| unwritable(&fault))?;
    Ok(Answer::Checkpoint { checkpoint: made.to_string(), records: made.records })
}

pub(super) fn rotate_log(instance: &Instance, actor: &Actor<'_>) -> Result<Answer, CommandFault> {
    must_administer(&instance.gate, actor)?;
    let file = instance.gate.log().rotate().map_err(|fault| unwritable(&fault))?;
    Ok(Answer::Rotated { file })
}

fn unwritable(fault: &dyn std::fmt::Display) -> CommandFault {
    CommandFault::new(Kind::Audit, format!("{fault}: `credfs doctor` says more"))
}

/// The copy is made beside the database, which is known to have room and the right owner, and sent from there: this
/// process never writes to a path of a peer's choice.
pub(super) fn backup(
    instance: &Instance,
    actor: &Actor<'_>,
    store: Option<&str>,
) -> Result<(Answer, Payload), CommandFault> {
    let who = must_administer(&instance.gate, actor)?;
    let (name, local) = local(instance, store)?;
    let mut file = None;
    let answer = recorded(instance, &who, Operation::Backup, || {
        let copy = copy_path(&local.path);
        let made = local.store.backup(&copy).map_err(CommandFault::from)?;
        let opened = std::fs::File::open(&copy);
        // Open, it needs no name any more: nothing is left behind however this ends.
        let removed = std::fs::remove_file(&copy);
        file = Some(opened.and_then(|file| removed.map(|()| file)).map_err(|error| {
            CommandFault::failed(format!("the copy {} cannot be used: {error}", copy.display()))
        })?);
        Ok(Answer::File { store: name.to_owned(), bytes: made.bytes })
    })?;
    let payload = file.map_or(Payload::Nothing, Payload::File);
    Ok((answer, payload))
}

fn copy_path(database: &Path) -> PathBuf {
    let mut name = database.as_os_str().to_owned();
    name.push(format!(".backup-{}", std::process::id()));
    name.into()
}

pub(super) fn rekey(
    instance: &Instance,
    actor: &Actor<'_>,
    store: Option<&str>,
) -> Result<Answer, CommandFault> {
    let who = must_administer(&instance.gate, actor)?;
    let (name, local) = local(instance, store)?;
    recorded(instance, &who, Operation::Rekey, || {
        let key = Key::generate()?;
        local.store.rekey(&key)?;
        Ok(Answer::Done { store: Some(name.to_owned()) })
    })
}

fn local<'a>(instance: &'a Instance, name: Option<&str>) -> Result<(&'a str, &'a LocalStore), CommandFault> {
    let found = match name {
        Some(name) => instance.locals.get_key_value(name),
        None if instance.locals.len() > 1 => {
            return Err(CommandFault::usage("there are several local stores: say which with --store NAME"));
        }
        None => instance.locals.iter().next(),
    };
    let (name, local) = found.ok_or_else(|| {
        CommandFault::not_found("there is no such local store: the configuration names them as [stores.NAME]")
    })?;
    Ok((name, local))
}

/// Does `act` and records what came of it. Nothing is begun while the log takes no records.
fn recorded<T>(
    instance: &Instance,
    who: &Described,
    operation: Operation,
    act: impl FnOnce() -> Result<T, CommandFault>,
) -> Result<T, CommandFault> {
    if instance.gate.log().check().is_err() {
        return Err(AdministerFault::NotRecorded.into());
    }
    let done = act();
    let (outcome, reason) = if done.is_ok() {
        (Outcome::Done, Some(Reason::Command))
    } else {
        (Outcome::Failed, Some(Reason::Command))
    };
    let _receipt = instance.gate.record_act(who, operation, outcome, reason)?;
    done
}
