//! Putting a backup in a store's place, recorded. The store is closed meanwhile.

use std::path::Path;
use std::time::Duration;

use crate::audit::{Entry, Log, Who};
use crate::config::Config;
use crate::control::{CommandFault, Kind};
use crate::model::{Operation, Outcome, Reason};
use crate::store::{Local, Restored, StoreFault};

use super::rooms::{OpenTrouble, local_options, log_options, log_trouble};
use super::{Surroundings, ourselves};

/// How long we wait for a command that has the files open.
const WAIT: Duration = Duration::from_secs(2);

/// Restores the store called `name` (`None`: the only one) from `file`. The one that was there is kept beside.
///
/// # Errors
/// Where an instance runs, where the backup does not prove itself, where its key is another. Nothing is changed then.
pub fn restore(
    config: &Config,
    surroundings: &Surroundings,
    file: &Path,
    name: Option<&str>,
) -> Result<Restored, CommandFault> {
    let embedded: Vec<_> = config.stores.iter().filter(|store| store.local().is_some()).collect();
    let settings = match (name, embedded.as_slice()) {
        (None, [only]) => only,
        (None, _) => {
            return Err(CommandFault::usage("there are several stores: say which with --store NAME"));
        }
        (Some(name), _) => config.stores.iter().find(|store| store.name == name).ok_or_else(|| {
            CommandFault::not_found("there is no such store: the configuration names them as [stores.NAME]")
        })?,
    };
    let local = settings.local().ok_or_else(|| {
        CommandFault::usage(format!(
            "the store \"{}\" is not on this machine: its server's administrators restore it",
            settings.name
        ))
    })?;
    if !file.is_file() {
        return Err(CommandFault::not_found(format!("{} is not a file", file.display())));
    }
    let running = |trouble: OpenTrouble| match trouble {
        OpenTrouble::Busy(fault) => CommandFault::failed(format!(
            "an instance is running, and a store cannot be replaced under it: stop it first ({fault})"
        )),
        other => other.into_fault(),
    };
    let (log, _) = Log::open(log_options(config, WAIT)).map_err(log_trouble).map_err(running)?;
    let options = local_options(config, &settings.name, local, surroundings, WAIT).map_err(running)?;
    if log.check().is_err() {
        return Err(CommandFault::new(Kind::Audit, "the audit log cannot be written, so nothing was done"));
    }
    let done = Local::restore(file, &options, true);
    let ours = ourselves();
    let who = Who {
        uid: ours.uid,
        gid: ours.gid,
        pid: ours.pid,
        login_uid: ours.login_uid,
        session: ours.session,
        ..Who::default()
    };
    let outcome = if done.is_ok() { Outcome::Done } else { Outcome::Failed };
    let recorded = log.record(&Entry {
        reason: Some(Reason::Command),
        store: Some(&settings.name),
        who: Some(&who),
        ..Entry::new(Operation::Restore, outcome)
    });
    let done = done.map_err(|fault| match fault {
        StoreFault::Busy(text) => running(OpenTrouble::Busy(CommandFault::failed(text))),
        fault => fault.into(),
    })?;
    match recorded {
        Ok(_) => Ok(done),
        Err(fault) => Err(CommandFault::new(Kind::Audit, format!("restored, but not recorded: {fault}"))),
    }
}
