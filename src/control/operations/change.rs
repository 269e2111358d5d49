//! Commands that change a secret: decided, made and recorded by the gate.

use crate::access::{Actor, Gate};
use crate::model::{SecretBytes, State, Version};
use crate::store::{Change, Changed};

use super::super::{Answer, Command, CommandFault};

/// Makes the change that `command` is.
pub(super) async fn make(
    gate: &Gate,
    actor: &Actor<'_>,
    command: Command,
    values: Vec<SecretBytes>,
) -> Result<Answer, CommandFault> {
    let Some(operation) = command.operation() else {
        return Err(CommandFault::usage("this command changes nothing"));
    };
    let reason = match &command {
        Command::Revoke { reason, .. } => *reason,
        _ => None,
    };
    let change = change_of(command, values)?;
    let secret = change.secret().clone();
    let who = gate.may_administer(actor, &secret, operation)?;
    let done = gate.administer(&who, &secret, change, reason).await?;
    Ok(answer_of(secret, &done.changed))
}

fn change_of(command: Command, values: Vec<SecretBytes>) -> Result<Change, CommandFault> {
    Ok(match command {
        Command::Put { secret, fields, only, stage, ownership } => {
            Change::Put { secret, fields: fields.into_iter().zip(values).collect(), only, stage, ownership }
        }
        Command::Promote { secret } => Change::Promote { secret },
        Command::Rollback { secret, to } => Change::Rollback { secret, to },
        Command::Revoke { secret, version, .. } => Change::Revoke { secret, version },
        Command::Delete { secret, version } => Change::Delete { secret, version },
        Command::Undelete { secret, version } => Change::Undelete { secret, version },
        Command::Destroy { secret, version } => Change::Destroy { secret, version },
        _ => return Err(CommandFault::usage("this command changes nothing")),
    })
}

fn answer_of(secret: crate::model::SecretPath, changed: &Changed) -> Answer {
    let about = |number: Version| {
        let after = changed.after.as_ref()?;
        Some((after.stages_of(number).iter().next(), after.version(number)?.state))
    };
    let (stage, of_version) = changed.version.and_then(about).unzip();
    let of_secret = match &changed.after {
        None => State::Destroyed,
        Some(after) if after.deleted => State::Deleted,
        Some(_) => State::Active,
    };
    let state = if of_secret == State::Active { of_version.unwrap_or(of_secret) } else { of_secret };
    Answer::Changed {
        secret,
        version: changed.version,
        stage: stage.flatten(),
        state,
        carried: changed.carried.clone(),
    }
}
