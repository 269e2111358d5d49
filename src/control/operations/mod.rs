//! What each command does, in one place for both ways of asking: over the socket, and on the files directly.

mod asking;
mod change;
mod show;
mod upkeep;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use crate::access::{Actor, Gate};
use crate::model::SecretBytes;
use crate::store::Local;

use super::{Answer, Command, CommandFault, Kind, Payload, StatusAnswer};

/// The rooms that commands work on.
pub struct Instance {
    /// The door to values and changes.
    pub gate: Arc<Gate>,
    /// The embedded stores by name, for backup and rekey.
    pub locals: BTreeMap<String, LocalStore>,
    /// What only a running instance can do; `None` where the files were opened for one command.
    pub running: Option<Arc<dyn Running>>,
}

/// An embedded store and where it lies.
pub struct LocalStore {
    /// The store.
    pub store: Arc<Local>,
    /// Its database.
    pub path: PathBuf,
}

/// What only a running instance can do.
pub trait Running: Send + Sync {
    /// How it is; everything.
    fn status(&self) -> StatusAnswer;

    /// Reads configuration and policy again. Returns when they are in force for every request.
    ///
    /// # Errors
    /// Every fault; the old policy stays in force then.
    fn reload(&self) -> Result<Answer, CommandFault>;
}

/// Does one command for `actor`; `values` are those of its fields, in order.
///
/// # Errors
/// [`CommandFault`]; its text never holds a value.
pub async fn execute(
    instance: &Instance,
    actor: &Actor<'_>,
    command: Command,
    values: Vec<SecretBytes>,
) -> Result<(Answer, Payload), CommandFault> {
    if command.value_count() != values.len() {
        return Err(CommandFault::usage("as many values as fields are needed"));
    }
    let plain = |answer| (answer, Payload::Nothing);
    match command {
        Command::Get { secret, field, version } => {
            show::get(&instance.gate, actor, &secret, field, version).await
        }
        Command::List { directory } => show::list(instance, actor, &directory).await.map(plain),
        Command::Versions { secret, fields_of } => {
            show::versions(&instance.gate, actor, &secret, fields_of).await.map(plain)
        }
        Command::Refresh { secret } => upkeep::refresh(instance, actor, secret).await.map(plain),
        Command::Reload => upkeep::reload(instance, actor).map(plain),
        Command::Status => upkeep::status(instance, actor).map(plain),
        Command::Checkpoint => upkeep::checkpoint(instance, actor).map(plain),
        Command::RotateLog => upkeep::rotate_log(instance, actor).map(plain),
        Command::Backup { store } => upkeep::backup(instance, actor, store.as_deref()),
        Command::Rekey { store } => upkeep::rekey(instance, actor, store.as_deref()).map(plain),
        change => change::make(&instance.gate, actor, change, values).await.map(plain),
    }
}

/// Refuses whoever is not an administrator of the whole instance.
fn must_administer(gate: &Gate, actor: &Actor<'_>) -> Result<crate::caller::Described, CommandFault> {
    match actor {
        Actor::Owner(who) => Ok(who.clone()),
        Actor::Peer(caller) if gate.policy().is_administrator(*caller) => Ok(caller.describe_administrator()),
        Actor::Peer(_) => Err(CommandFault::new(
            Kind::Refused,
            "only root and the owner of the configuration may do this: run it as one of them",
        )),
    }
}
