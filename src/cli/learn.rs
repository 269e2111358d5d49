//! `credfs learn`: grants proposed from what the audit log says was refused.

use std::collections::BTreeSet;

use serde::Deserialize;
use serde_json::json;

use crate::audit::Filter;
use crate::control::{Answer, Command, CommandFault};
use crate::model::{FieldName, Operation, Outcome, SecretPath, Stage, StageSet, Version, is_reserved};
use crate::policy::{Refused, propose};

use super::audit::{moment, records};
use super::connect::run;
use super::{Context, Exit, output};

/// What a record of a refusal says.
#[derive(Deserialize)]
struct Record {
    op: Operation,
    secret: Option<String>,
    field: Option<String>,
    stage: Option<Stage>,
    uid: Option<u32>,
    unit: Option<String>,
    exe: Option<String>,
}

pub(super) fn learn(context: &Context, since: &str) -> Result<Exit, CommandFault> {
    let config = context.config()?;
    let since = moment(since)?;
    let known = known_secrets(context)?;
    let mut refused = Vec::new();
    for outcome in [Outcome::Hidden, Outcome::Denied] {
        let filter = Filter { since: Some(since), outcome: Some(outcome), ..Filter::default() };
        for line in records(&config, &filter)? {
            if let Ok(record) = serde_json::from_str::<Record>(&line?) {
                refused.extend(wish(&known, record));
            }
        }
    }
    let count = refused.len();
    let proposal = propose(refused);
    if context.json {
        output::json(&json!({ "refusals": count, "policy": proposal }))?;
    } else {
        output::text(&proposal)?;
    }
    Ok(Exit::Done)
}

/// The paths of all secrets: what was asked for and does not exist needs no grant.
fn known_secrets(context: &Context) -> Result<BTreeSet<String>, CommandFault> {
    let command = Command::List { directory: String::new() };
    let reply = run(&context.config()?, &context.surroundings, command, Vec::new(), &mut std::io::sink())?;
    match reply.answer {
        Answer::Names { names } => Ok(names.into_iter().collect()),
        other => Err(super::connect::unexpected(&other)),
    }
}

/// What a refusal asked for. Its path may be that of a secret, or lead into one: `PATH/FIELD`, `PATH/versions/7/FIELD`.
fn wish(known: &BTreeSet<String>, record: Record) -> Option<Refused> {
    if !reads(record.op) {
        return None;
    }
    let path = record.secret?;
    let secret = prefixes(&path).find(|prefix| known.contains(*prefix))?;
    let rest = path[secret.len()..].trim_start_matches('/');
    let mut field = record.field.or_else(|| last_name(rest));
    if field.as_deref().is_some_and(is_reserved) {
        field = None;
    }
    let stage = record.stage.or_else(|| Stage::named(rest.split('/').next()?));
    Some(Refused {
        secret: SecretPath::parse(secret).ok()?,
        field: field.and_then(|field| FieldName::parse(&field).ok()),
        stages: stage.map(StageSet::of),
        uid: record.uid?,
        unit: record.unit,
        exe: record.exe,
    })
}

/// Whether an operation asks to see or read; a right to administer is never proposed.
const fn reads(operation: Operation) -> bool {
    use Operation::{Access, Get, Getxattr, List, Lookup, Open, Read, Readlink, Stat};
    matches!(operation, Access | Get | Getxattr | List | Lookup | Open | Read | Readlink | Stat)
}

/// `path` and every directory above it, longest first.
fn prefixes(path: &str) -> impl Iterator<Item = &str> {
    std::iter::successors(Some(path), |path| path.rsplit_once('/').map(|(above, _)| above))
}

fn last_name(rest: &str) -> Option<String> {
    let name = rest.rsplit('/').next().filter(|name| !name.is_empty())?;
    (name.parse::<Version>().is_err()).then(|| name.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wished(path: &str) -> Option<(String, Option<String>)> {
        let known = ["prod/db".to_owned(), "prod/db/replica".to_owned()].into();
        let record = Record {
            op: Operation::Lookup,
            secret: Some(path.to_owned()),
            field: None,
            stage: None,
            uid: Some(7),
            unit: None,
            exe: None,
        };
        let refused = wish(&known, record)?;
        Some((refused.secret.to_string(), refused.field.map(|field| field.as_str().to_owned())))
    }

    #[test]
    fn a_refused_path_is_a_wish_for_the_secret_it_leads_into() {
        let field = |name: &str| Some(name.to_owned());
        assert_eq!(wished("prod/db"), Some(("prod/db".to_owned(), None)));
        assert_eq!(wished("prod/db/password"), Some(("prod/db".to_owned(), field("password"))));
        assert_eq!(wished("prod/db/versions/7"), Some(("prod/db".to_owned(), None)));
        assert_eq!(wished("prod/db/versions/7/key"), Some(("prod/db".to_owned(), field("key"))));
        assert_eq!(wished("prod/db/current"), Some(("prod/db".to_owned(), None)));
        assert_eq!(wished("prod/db/replica/key"), Some(("prod/db/replica".to_owned(), field("key"))));
        assert_eq!(wished("prod"), None, "a directory that holds secrets is none");
        assert_eq!(wished("prod/nothing"), None);
    }
}
