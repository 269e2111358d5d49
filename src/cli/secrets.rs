//! Commands on secrets: put, get, list, and the life of versions.

use serde_json::json;

use crate::control::{Answer, Command, CommandFault, Reply, Which};
use crate::model::{FieldName, Ownership, SecretBytes, State};

use super::arguments::{Destroying, Getting, Put, Revoking, Rollback, VersionOf};
use super::connect::{run, unexpected};
use super::{Context, Exit, input, output, secret_path};

fn ask(context: &Context, command: Command, values: Vec<SecretBytes>) -> Result<Reply, CommandFault> {
    run(&context.config()?, &context.surroundings, command, values, &mut std::io::sink())
}

pub(super) fn put(context: &Context, options: Put) -> Result<Exit, CommandFault> {
    let secret = secret_path(&options.path)?;
    // Before a value is asked for: nobody shall type one in vain.
    context.config()?;
    let fields = if options.fields_json { input::fields_json()? } else { input::fields(&options.fields)? };
    let (names, values): (Vec<FieldName>, Vec<SecretBytes>) = fields.into_iter().unzip();
    let command = Command::Put {
        secret,
        fields: names,
        only: options.only,
        stage: options.stage,
        ownership: Ownership {
            owner: options.owner,
            impact: options.impact.map(Into::into),
            rotate_every: options.rotate_every,
            grace: options.grace,
        },
    };
    changed(context, ask(context, command, values)?.answer, "stored")
}

/// Prints what a change did.
fn changed(context: &Context, answer: Answer, done: &str) -> Result<Exit, CommandFault> {
    let Answer::Changed { secret, version, stage, state, carried } = answer else {
        return Err(unexpected(&answer));
    };
    if context.json {
        output::json(&json!({
            "secret": secret, "version": version, "stage": stage, "state": state, "carried": carried,
        }))?;
        return Ok(Exit::Done);
    }
    let mut text = match version {
        Some(version) => format!("{secret}: version {version} {done}"),
        None => format!("{secret}: {done}"),
    };
    if let (Some(stage), State::Active) = (stage, state) {
        text.push_str(&format!(", {stage}"));
    }
    if !carried.is_empty() {
        let names: Vec<String> =
            carried.iter().map(|name| name.as_str().escape_debug().to_string()).collect();
        text.push_str(&format!("; carried over: {}", names.join(", ")));
    }
    output::line(&text)?;
    Ok(Exit::Done)
}

pub(super) fn get(context: &Context, options: &Getting) -> Result<Exit, CommandFault> {
    let secret = secret_path(&options.path)?;
    let field = match &options.field {
        Some(field) => Some(FieldName::parse(field)?),
        None if context.json => None,
        None => Some(only_field(context, &options.path, options.version)?),
    };
    let reply = ask(context, Command::Get { secret, field, version: options.version }, Vec::new())?;
    let Answer::Values { secret, version, fields } = reply.answer else {
        return Err(unexpected(&reply.answer));
    };
    if context.json {
        output::values(secret.as_str(), version.get(), &fields, &reply.values)?;
    } else if let Some(value) = reply.values.first() {
        output::value(value)?;
    }
    Ok(Exit::Done)
}

/// The field of a secret that has only one. Asked of the metadata, so that no value is released in vain.
fn only_field(context: &Context, path: &str, which: Which) -> Result<FieldName, CommandFault> {
    let answer =
        ask(context, Command::Versions { secret: secret_path(path)?, fields_of: Some(which) }, Vec::new())?
            .answer;
    let Answer::Versions { versions, .. } = answer else { return Err(unexpected(&answer)) };
    let row = versions.into_iter().find(|row| match which {
        Which::Number(number) => row.version == number,
        Which::Stage(stage) => row.stages.contains(&stage),
    });
    let mut fields = row.map(|row| row.fields).unwrap_or_default();
    match (fields.pop(), fields.is_empty()) {
        (Some(field), true) => Ok(field.name),
        (Some(last), false) => {
            let names: Vec<String> = fields
                .iter()
                .chain([&last])
                .map(|field| field.name.as_str().escape_debug().to_string())
                .collect();
            Err(CommandFault::usage(format!(
                "{path} has several fields ({}): name one, or print all with --json",
                names.join(", ")
            )))
        }
        (None, _) => Err(CommandFault::not_found(format!(
            "{path} has no such version that you may read: `credfs versions {path}` shows what there is"
        ))),
    }
}

pub(super) fn ls(context: &Context, path: Option<String>) -> Result<Exit, CommandFault> {
    let answer = ask(context, Command::List { directory: path.unwrap_or_default() }, Vec::new())?.answer;
    let Answer::Names { names } = answer else { return Err(unexpected(&answer)) };
    if context.json {
        output::json(&json!(names))?;
    } else {
        // A name may hold what a terminal would obey.
        let lines: String = names.iter().map(|name| format!("{}\n", printable(name))).collect();
        output::text(&lines)?;
    }
    Ok(Exit::Done)
}

/// A name without control characters. Stores of our own hold none; others may.
fn printable(name: &str) -> String {
    name.chars().flat_map(|c| if c.is_control() { c.escape_default().collect() } else { vec![c] }).collect()
}

pub(super) fn versions(context: &Context, path: &str) -> Result<Exit, CommandFault> {
    let answer =
        ask(context, Command::Versions { secret: secret_path(path)?, fields_of: None }, Vec::new())?.answer;
    let Answer::Versions { versions, .. } = answer else { return Err(unexpected(&answer)) };
    if context.json {
        output::json(&json!(versions))?;
        return Ok(Exit::Done);
    }
    let is_minted = versions.iter().any(|row| row.consumer.is_some());
    let rows: Vec<Vec<String>> = versions
        .iter()
        .map(|row| {
            let stages: Vec<&str> = row.stages.iter().map(|stage| stage.as_str()).collect();
            let fields: Vec<String> = row
                .fields
                .iter()
                .map(|field| match field.bytes {
                    Some(bytes) => format!("{} ({bytes} B)", printable(field.name.as_str())),
                    None => printable(field.name.as_str()),
                })
                .collect();
            let mut cells = vec![
                row.version.to_string(),
                stages.join(", "),
                row.created.clone(),
                state_word(row.state).to_owned(),
                fields.join(", "),
            ];
            if is_minted {
                cells.push(row.consumer.clone().unwrap_or_default());
                cells.push(row.expires.clone().unwrap_or_default());
            }
            cells
        })
        .collect();
    let mut heads = vec!["VERSION", "STAGES", "CREATED", "STATE", "FIELDS"];
    if is_minted {
        heads.extend(["CONSUMER", "EXPIRES"]);
    }
    output::text(&output::table(&heads, &rows))?;
    Ok(Exit::Done)
}

const fn state_word(state: State) -> &'static str {
    match state {
        State::Active => "active",
        State::Revoked => "revoked",
        State::Deleted => "deleted",
        State::Destroyed => "destroyed",
    }
}

pub(super) fn promote(context: &Context, path: &str) -> Result<Exit, CommandFault> {
    let command = Command::Promote { secret: secret_path(path)? };
    changed(context, ask(context, command, Vec::new())?.answer, "promoted")
}

pub(super) fn rollback(context: &Context, options: &Rollback) -> Result<Exit, CommandFault> {
    let command = Command::Rollback { secret: secret_path(&options.path)?, to: options.to };
    changed(context, ask(context, command, Vec::new())?.answer, "made current again")
}

pub(super) fn revoke(context: &Context, options: &Revoking) -> Result<Exit, CommandFault> {
    let command = Command::Revoke {
        secret: secret_path(&options.path)?,
        version: options.version,
        reason: options.reason.map(Into::into),
    };
    changed(context, ask(context, command, Vec::new())?.answer, "revoked: it is refused from now on")
}

pub(super) fn delete(context: &Context, options: &VersionOf) -> Result<Exit, CommandFault> {
    let command = Command::Delete { secret: secret_path(&options.path)?, version: options.version };
    changed(context, ask(context, command, Vec::new())?.answer, "deleted; `credfs undelete` brings it back")
}

pub(super) fn undelete(context: &Context, options: &VersionOf) -> Result<Exit, CommandFault> {
    let command = Command::Undelete { secret: secret_path(&options.path)?, version: options.version };
    changed(context, ask(context, command, Vec::new())?.answer, "restored")
}

pub(super) fn destroy(context: &Context, options: &Destroying) -> Result<Exit, CommandFault> {
    let secret = secret_path(&options.what.path)?;
    let what = match options.what.version {
        Some(version) => format!("version {version} of {secret}"),
        None => format!("{secret} with all its versions"),
    };
    input::confirm(&format!("This erases {what} for good."), options.yes)?;
    let command = Command::Destroy { secret, version: options.what.version };
    changed(context, ask(context, command, Vec::new())?.answer, "destroyed")
}
