//! Commands on the audit log: who has read what, all records, the proof, checkpoint and rotation.

use std::fmt::Write as _;
use std::time::SystemTime;

use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::audit::{self, Checkpoint, Filter, Fingerprint};
use crate::config::Config;
use crate::control::{Answer, Command, CommandFault, Kind};
use crate::model::{Operation, Outcome, UnixTime, parse_span};

use super::arguments::{AuditVerb, Logged, Verify, WhoRead};
use super::connect::{run, unexpected};
use super::{Context, Exit, output, secret_path};

pub(super) fn audit(context: &Context, verb: AuditVerb) -> Result<Exit, CommandFault> {
    match verb {
        AuditVerb::Log(options) => log(context, &options),
        AuditVerb::Verify(options) => verify(context, &options),
        AuditVerb::Checkpoint => checkpoint(context),
        AuditVerb::Rotate => rotate(context),
    }
}

/// A moment that someone typed: a span back from now, or a time.
pub(super) fn moment(text: &str) -> Result<UnixTime, CommandFault> {
    if let Some(span) = parse_span(text) {
        return Ok(UnixTime::from(SystemTime::now()).minus(span));
    }
    UnixTime::parse_rfc3339(text).ok_or_else(|| {
        CommandFault::usage(
            "a moment is a span back from now, such as 7d or 12h, or a time such as 2026-11-23T21:45:00Z",
        )
    })
}

/// The records of the log that `filter` wants, oldest first.
pub(super) fn records(
    config: &Config,
    filter: &Filter,
) -> Result<impl Iterator<Item = Result<String, CommandFault>>, CommandFault> {
    let path = config.audit.path.clone();
    let cannot = move |error: std::io::Error| match error.kind() {
        std::io::ErrorKind::PermissionDenied => CommandFault::new(
            Kind::Refused,
            format!(
                "the audit log {} is not yours to read: run this as its owner or as root",
                path.display()
            ),
        ),
        _ => CommandFault::new(
            Kind::Audit,
            format!("the audit log {} cannot be read: {error}", path.display()),
        ),
    };
    let records = audit::query(&config.audit.path, filter).map_err(&cannot)?;
    Ok(records.map(move |record| record.map_err(&cannot)))
}

pub(super) fn who_read(context: &Context, options: &WhoRead) -> Result<Exit, CommandFault> {
    let secret = secret_path(&options.path)?;
    let filter = Filter {
        secret: Some(secret.as_str().to_owned()),
        version: options.version,
        since: options.since.as_deref().map(moment).transpose()?,
        until: options.until.as_deref().map(moment).transpose()?,
        outcome: Some(Outcome::Released),
        ..Filter::default()
    };
    print_records(
        context,
        &filter,
        None,
        &["time", "uid", "unit", "exe", "pid", "op", "secret", "field", "version"],
    )
}

fn log(context: &Context, options: &Logged) -> Result<Exit, CommandFault> {
    let filter = Filter {
        secret: options.secret.clone(),
        since: options.since.as_deref().map(moment).transpose()?,
        until: options.until.as_deref().map(moment).transpose()?,
        operation: options.op.as_deref().map(|word| of_word::<Operation>(word, "operation")).transpose()?,
        outcome: options.outcome.as_deref().map(|word| of_word::<Outcome>(word, "outcome")).transpose()?,
        uid: options.uid,
        newest_first: options.lines.is_some(),
        ..Filter::default()
    };
    let columns =
        ["seq", "time", "op", "outcome", "reason", "uid", "unit", "secret", "field", "version", "count"];
    print_records(context, &filter, options.lines, &columns)
}

fn of_word<T: DeserializeOwned>(word: &str, what: &str) -> Result<T, CommandFault> {
    serde_json::from_value(Value::from(word.replace('-', "_"))).map_err(|fault| {
        let fault = fault.to_string();
        let known = fault.split_once("expected one of ").map_or("", |(_, known)| known);
        CommandFault::usage(format!("there is no such {what}; there are {known}"))
    })
}

fn print_records(
    context: &Context,
    filter: &Filter,
    newest: Option<usize>,
    columns: &[&str],
) -> Result<Exit, CommandFault> {
    let config = context.config()?;
    let records = records(&config, filter)?;
    let mut lines = match newest {
        None => records.collect::<Result<Vec<String>, _>>()?,
        Some(count) => {
            let mut lines = records.take(count).collect::<Result<Vec<String>, _>>()?;
            lines.reverse();
            lines
        }
    };
    if context.json {
        let mut text = String::with_capacity(lines.iter().map(String::len).sum::<usize>() + lines.len() + 3);
        text.push('[');
        for (at, line) in lines.drain(..).enumerate() {
            text.push_str(if at == 0 { "" } else { "," });
            text.push_str(&line);
        }
        text.push_str("]\n");
        output::text(&text)?;
        return Ok(Exit::Done);
    }
    let mut rows = Vec::with_capacity(lines.len());
    for line in &lines {
        let record: Value = serde_json::from_str(line).map_err(|_| {
            CommandFault::new(Kind::Audit, "a record is damaged: `credfs audit verify` says where")
        })?;
        rows.push(columns.iter().map(|column| cell(&record, column)).collect());
    }
    let heads: Vec<String> = columns.iter().map(|column| column.to_uppercase()).collect();
    let heads: Vec<&str> = heads.iter().map(String::as_str).collect();
    output::text(&output::table(&heads, &rows))?;
    Ok(Exit::Done)
}

fn cell(record: &Value, column: &str) -> String {
    match &record[column] {
        Value::Null => "-".to_owned(),
        Value::String(text) => text.escape_debug().to_string(),
        other => other.to_string(),
    }
}

fn verify(context: &Context, options: &Verify) -> Result<Exit, CommandFault> {
    let root = options.root.as_deref().map(|text| {
        Fingerprint::parse(text).ok_or_else(|| {
            CommandFault::usage(
                "--root is no fingerprint: it has the 64 hexadecimal digits that `credfs init` printed",
            )
        })
    });
    let root = root.transpose()?;
    let kept = options.checkpoint.as_deref().map(|file| {
        let text = std::fs::read_to_string(file)
            .map_err(|error| CommandFault::failed(format!("{} cannot be read: {error}", file.display())))?;
        text.parse::<Checkpoint>().map_err(|fault| CommandFault::new(Kind::Audit, fault.to_string()))
    });
    let kept = kept.transpose()?;
    let path = context.config()?.audit.path;
    let verdict = audit::verify_with(&path, root.as_ref(), kept.as_ref()).map_err(|error| {
        CommandFault::new(Kind::Audit, format!("the audit log {} cannot be read: {error}", path.display()))
    })?;
    if context.json {
        output::json(&json!(verdict))?;
    } else {
        let mut text = String::new();
        // Writing to a String cannot fail.
        let _ = match &verdict.fault {
            None => writeln!(text, "{} records, all of them proven", verdict.records),
            Some(fault) => writeln!(
                text,
                "record {} ({}, line {}): {}\n{} records before it are good",
                fault.seq,
                fault.file.display(),
                fault.line,
                fault.what,
                verdict.records
            ),
        };
        if let Some(root) = verdict.root {
            let _ = writeln!(text, "root {root}");
        }
        if !verdict.root_pinned {
            text.push_str(
                "The root is not pinned: give --root with the fingerprint that `credfs init` printed.\n",
            );
        }
        if verdict.unsealed > 0 {
            let _ = writeln!(text, "{} records at the end are not sealed yet", verdict.unsealed);
        }
        output::text(&text)?;
    }
    Ok(if verdict.ok { Exit::Done } else { Exit::Audit })
}

/// What verification finds without anything that was kept elsewhere.
pub(super) fn proof(config: &Config) -> Result<audit::Verdict, CommandFault> {
    audit::verify(&config.audit.path, None).map_err(|error| {
        CommandFault::new(
            Kind::Audit,
            format!("the audit log {} cannot be read: {error}", config.audit.path.display()),
        )
    })
}

fn checkpoint(context: &Context) -> Result<Exit, CommandFault> {
    let answer = ask(context, Command::Checkpoint)?;
    let Answer::Checkpoint { checkpoint, records } = answer else { return Err(unexpected(&answer)) };
    if context.json {
        output::json(&json!({ "checkpoint": checkpoint, "records": records }))?;
    } else {
        output::text(&checkpoint)?;
    }
    Ok(Exit::Done)
}

fn rotate(context: &Context) -> Result<Exit, CommandFault> {
    let answer = ask(context, Command::RotateLog)?;
    let Answer::Rotated { file } = answer else { return Err(unexpected(&answer)) };
    if context.json {
        output::json(&json!({ "rotated": file }))?;
    } else {
        output::line(&format!("a new segment file is begun; the one before is {}", file.display()))?;
    }
    Ok(Exit::Done)
}

fn ask(context: &Context, command: Command) -> Result<Answer, CommandFault> {
    let reply = run(&context.config()?, &context.surroundings, command, Vec::new(), &mut std::io::sink())?;
    Ok(reply.answer)
}
