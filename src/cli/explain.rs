//! `credfs explain`: who may do what with a secret, and by which rule.

use std::io::Read as _;
use std::path::Path;

use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::control::{CommandFault, Kind};
use crate::daemon;
use crate::model::{FieldName, Session, Sha256Digest, Stage, Standing, UnixTime};
use crate::policy::{Action, Assumed, Explanation, Request};
use crate::sys::{harden, names};

use super::arguments::Explain;
use super::{Context, Exit, output, secret_path};

pub(super) fn explain(context: &Context, options: &Explain) -> Result<Exit, CommandFault> {
    let config = context.trusted_config()?;
    let policy = daemon::load_policy(&config).map_err(|faults| CommandFault::invalid(&faults))?.policy;
    let secret = secret_path(&options.path)?;
    let field = options.field.as_deref().or(options.of_field.as_deref()).map(FieldName::parse).transpose()?;
    let caller = caller(options)?;
    let standing = standing(&options.stage)?;
    let action = match options.action.as_str() {
        "read" => Action::Read,
        "list" => Action::List,
        "admin" => Action::Admin,
        _ => return Err(CommandFault::usage("--action is read, list or admin")),
    };
    let request = Request { action, secret: &secret, field: field.as_ref(), standing: Some(&standing) };
    let explanation = policy.explain(&caller, &request, UnixTime::from(std::time::SystemTime::now()));
    if context.json {
        let mut value = json!(explanation);
        for key in ["rule", "identity"] {
            if value.get(key).is_none() {
                value[key] = Value::Null;
            }
        }
        output::json(&value)?;
    } else {
        output::text(&in_words(&options.path, &explanation))?;
    }
    let is_no = explanation.decision != "allow";
    Ok(if options.check && is_no { Exit::Refused } else { Exit::Done })
}

fn in_words(path: &str, explanation: &Explanation) -> String {
    let mut text = format!("{}: {path} {}\n", explanation.decision, explanation.summary);
    if !explanation.considered.is_empty() {
        text.push_str("\nRules about this path:\n");
        for rule in &explanation.considered {
            text.push_str(&format!("  {}, {}: {}\n", rule.rule, rule.identity, rule.verdict));
        }
    }
    if !explanation.readers.is_empty() {
        text.push_str("\nWho may do something with it:\n");
        for reader in &explanation.readers {
            let fields = reader
                .fields
                .as_ref()
                .map_or_else(String::new, |fields| format!(", fields {}", fields.join(", ")));
            text.push_str(&format!(
                "  {} ({}) may {}, stages {}{fields}, by {}\n",
                reader.identity,
                reader.who,
                reader.verbs.join(" and "),
                reader.stages.join(", "),
                reader.rule
            ));
        }
    }
    text
}

/// The caller that the options describe; without any, this process's user.
fn caller(options: &Explain) -> Result<Assumed, CommandFault> {
    let (uid, gid, mut groups) = match (&options.user, options.uid) {
        (Some(user), _) => {
            let unknown = || CommandFault::not_found(format!("this machine knows no user {user:?}"));
            let uid = names::uid_of(user).ok_or_else(unknown)?;
            let groups = names::groups_of(user).ok_or_else(unknown)?;
            (uid, groups.first().copied().unwrap_or(uid), groups)
        }
        // Of a bare uid no group is known: the one that no process can have stands for that.
        (None, Some(uid)) => (uid, u32::MAX, Vec::new()),
        (None, None) => (harden::own_uid(), harden::own_gid(), harden::own_groups()),
    };
    let given: Vec<u32> = options.group.iter().map(|group| group_id(group)).collect::<Result<_, _>>()?;
    let gid = given.first().copied().filter(|_| options.user.is_none()).unwrap_or(gid);
    groups.extend(given);
    let sha256 = match (&options.sha256, &options.exe) {
        (Some(text), _) => Some(
            Sha256Digest::parse(text)
                .ok_or_else(|| CommandFault::usage("--sha256 has 64 hexadecimal digits"))?,
        ),
        (None, Some(exe)) => digest_of(exe),
        (None, None) => None,
    };
    Ok(Assumed {
        uid,
        gid,
        groups,
        unit: options.unit.clone(),
        container: options.container.clone(),
        exe: options.exe.clone(),
        sha256,
        session: Session {
            id: options.session,
            login_uid: options.session.map(|_| options.login_uid.unwrap_or(uid)),
        },
        ..Assumed::default()
    })
}

fn group_id(text: &str) -> Result<u32, CommandFault> {
    if let Ok(gid) = text.parse() {
        return Ok(gid);
    }
    names::gid_of(text)
        .ok_or_else(|| CommandFault::not_found(format!("this machine knows no group {text:?}")))
}

/// The digest of a file that is there; what is not is judged by its path alone.
fn digest_of(path: &Path) -> Option<Sha256Digest> {
    let mut file = std::fs::File::open(path).ok()?;
    let mut hasher = Sha256::new();
    let mut block = vec![0; 64 * 1024];
    loop {
        match file.read(&mut block).ok()? {
            0 => return Some(Sha256Digest(hasher.finalize().into())),
            count => hasher.update(&block[..count]),
        }
    }
}

fn standing(text: &str) -> Result<Standing, CommandFault> {
    if text == "none" {
        return Ok(Standing::default());
    }
    Stage::named(text)
        .map(Standing::at)
        .ok_or_else(|| CommandFault::new(Kind::Usage, "--stage is current, previous, next or none"))
}
