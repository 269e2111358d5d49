//! Commands on the local store as a whole: backup, restore, a new key.

use std::fs::File;
use std::io::BufWriter;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use serde_json::json;

use crate::control::{Answer, Command, CommandFault, Kind};
use crate::daemon;

use super::arguments::Restoring;
use super::connect::{run, unexpected};
use super::{Context, Exit, input, output};

pub(super) fn backup(context: &Context, file: &Path, store: Option<String>) -> Result<Exit, CommandFault> {
    let config = context.config()?;
    let copy = File::options().write(true).create_new(true).mode(0o600).open(file).map_err(|error| {
        if error.kind() == std::io::ErrorKind::AlreadyExists {
            CommandFault::new(Kind::Exists, format!("{} exists already: name a new file", file.display()))
        } else {
            CommandFault::failed(format!("{} cannot be made: {error}", file.display()))
        }
    })?;
    let mut out = BufWriter::new(&copy);
    let done = run(&config, &context.surroundings, Command::Backup { store }, Vec::new(), &mut out).and_then(
        |reply| {
            out.into_inner().map_err(|error| error.into_error()).and_then(|_| copy.sync_all()).map_err(
                |error| CommandFault::failed(format!("{} cannot be written: {error}", file.display())),
            )?;
            Ok(reply.answer)
        },
    );
    let answer = done.inspect_err(|_| {
        // A part of a backup must not be taken for one.
        drop(std::fs::remove_file(file));
    })?;
    let Answer::File { store, bytes } = answer else { return Err(unexpected(&answer)) };
    if context.json {
        output::json(&json!({ "file": file, "store": store, "bytes": bytes }))?;
    } else {
        output::line(&format!(
            "store {store} is copied to {} ({bytes} bytes), sealed as it is: restoring it needs the key, which is not in it",
            file.display()
        ))?;
    }
    Ok(Exit::Done)
}

pub(super) fn restore(context: &Context, options: &Restoring) -> Result<Exit, CommandFault> {
    let config = context.trusted_config()?;
    input::confirm(
        "This replaces the local store by the backup; the store as it is now is kept beside.",
        options.yes,
    )?;
    let done = daemon::restore(&config, &context.surroundings, &options.file, options.store.as_deref())?;
    if context.json {
        output::json(&json!({
            "file": options.file, "secrets": done.checked.secrets, "versions": done.checked.versions,
            "values": done.checked.values, "replaced": done.replaced,
        }))?;
        return Ok(Exit::Done);
    }
    output::line(&format!(
        "restored: {} secrets, {} versions, {} values, all of them proven",
        done.checked.secrets, done.checked.versions, done.checked.values
    ))?;
    if let Some(replaced) = done.replaced {
        output::line(&format!("the store that was there is kept as {}", replaced.display()))?;
    }
    Ok(Exit::Done)
}

pub(super) fn rekey(context: &Context, store: Option<String>) -> Result<Exit, CommandFault> {
    let command = Command::Rekey { store };
    let reply = run(&context.config()?, &context.surroundings, command, Vec::new(), &mut std::io::sink())?;
    let Answer::Done { store } = reply.answer else { return Err(unexpected(&reply.answer)) };
    let store = store.unwrap_or_default();
    if context.json {
        output::json(&json!({ "store": store, "rekeyed": true }))?;
    } else {
        output::line(&format!(
            "store {store} has a new key: keep a copy of the key file; backups need the old one"
        ))?;
    }
    Ok(Exit::Done)
}
