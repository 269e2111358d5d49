//! Commands that show: names, versions, and values.

use std::sync::Arc;

use crate::access::{Actor, Gate, Opening, Reader, Refusal, Target};
use crate::model::{FieldName, Outcome, Secret, SecretPath, Stage, Standing, Version, VersionInfo};
use crate::policy::{Action, Decision, Listing, Request};
use crate::store::{LeaseInfo, Store};

use super::super::fault::kind_of;
use super::super::{Answer, CommandFault, Instance, Kind, ListedField, Payload, VersionRow, Which};
use super::asking;

/// What someone may see of a secret.
pub(super) struct Sight<'a> {
    pub(super) gate: &'a Gate,
    pub(super) actor: &'a Actor<'a>,
}

impl Sight<'_> {
    pub(super) fn administers(&self, path: &SecretPath) -> bool {
        let Actor::Peer(caller) = self.actor else { return true };
        let request = Request { action: Action::Admin, secret: path, field: None, standing: None };
        matches!(self.gate.policy().decide(*caller, &request, self.gate.now()), Decision::Allow(_))
    }

    /// Whether the secret is there for the actor. One that is deleted is there for who may restore it.
    fn sees(&self, path: &SecretPath, secret: &Secret) -> bool {
        match self.actor {
            Actor::Owner(_) => true,
            Actor::Peer(_) if self.administers(path) => true,
            Actor::Peer(caller) => !secret.deleted && self.gate.policy().may_list(*caller, path),
        }
    }

    fn sees_version(&self, path: &SecretPath, standing: &Standing, field: Option<&FieldName>) -> bool {
        match self.actor {
            Actor::Owner(_) => true,
            Actor::Peer(_) if self.administers(path) => true,
            Actor::Peer(caller) => {
                let listing =
                    self.gate.policy().may_list_version(*caller, path, standing, field, self.gate.now());
                matches!(listing, Listing::Visible)
            }
        }
    }

    /// The secret, if it is there for the actor; what is hidden is answered exactly as what does not exist.
    fn secret(&self, path: &SecretPath) -> Result<Arc<Secret>, CommandFault> {
        // Of what is minted for each consumer, somebody at the socket is shown what is his.
        let known = match self.actor {
            Actor::Peer(caller) => self.gate.known_to(&self.gate.policy(), *caller, path),
            Actor::Owner(_) => self.gate.places().known(path),
        };
        let known = known.filter(|secret| self.sees(path, secret));
        known.ok_or_else(|| {
            CommandFault::not_found(format!("{path} does not exist: `credfs ls` shows what does"))
        })
    }
}

/// Paths of the secrets below `directory`; where it is a secret itself, its current fields come first.
pub(super) async fn list(
    instance: &Instance,
    actor: &Actor<'_>,
    directory: &str,
) -> Result<Answer, CommandFault> {
    let directory = directory.trim_matches('/');
    asking::about_directory(instance, actor, directory).await?;
    let gate = &*instance.gate;
    let sight = Sight { gate, actor };
    let mut names = Vec::new();
    let mut is_there = directory.is_empty();
    if !is_there {
        let path = SecretPath::from_store(directory)?;
        if let Ok(secret) = sight.secret(&path) {
            is_there = true;
            names.extend(visible_fields(&sight, &path, &secret));
        }
    }
    gate.places().visit_below(directory, &mut |path, secret| {
        // The predicate of a deleted secret is the same for all: only `versions` and `undelete` know it.
        if !secret.deleted && sight.sees(path, secret) {
            is_there = true;
            names.push(path.as_str().to_owned());
        }
        true
    });
    if is_there {
        Ok(Answer::Names { names })
    } else {
        Err(CommandFault::not_found(format!("{directory} does not exist: `credfs ls` shows what does")))
    }
}

fn visible_fields(sight: &Sight<'_>, path: &SecretPath, secret: &Secret) -> Vec<String> {
    let Some(version) = secret.current.and_then(|number| secret.version(number)) else { return Vec::new() };
    let standing = secret.standing(version);
    version
        .fields
        .iter()
        .filter(|field| sight.sees_version(path, &standing, Some(&field.name)))
        .map(|field| field.name.as_str().to_owned())
        .collect()
}

/// The versions that are there for the actor.
pub(super) async fn versions(
    gate: &Gate,
    actor: &Actor<'_>,
    path: &SecretPath,
    fields_of: Option<Which>,
) -> Result<Answer, CommandFault> {
    asking::about_secret(gate, actor, path).await?;
    let sight = Sight { gate, actor };
    let mut secret = sight.secret(path)?;
    if let Some(number) = fields_of.and_then(|which| numbered(&secret, which)) {
        asking::about_fields(gate, actor, path, number).await?;
        secret = sight.secret(path)?;
    }
    if let Some((_, store)) = gate.places().declared(path) {
        let rows = minted_rows(&sight, path, &secret, store.as_ref());
        return Ok(Answer::Versions { secret: path.clone(), versions: rows });
    }
    let rows = secret
        .versions
        .iter()
        .filter(|version| sight.sees_version(path, &secret.standing(version), None))
        .map(|version| row(&sight, path, &secret, version))
        .collect();
    Ok(Answer::Versions { secret: path.clone(), versions: rows })
}

/// What was minted at `path`: all of it for who administers it, else what is the actor's own.
fn minted_rows(
    sight: &Sight<'_>,
    path: &SecretPath,
    own: &Arc<Secret>,
    store: &dyn Store,
) -> Vec<VersionRow> {
    let administers = sight.administers(path);
    let whole = if administers { sight.gate.places().known(path) } else { None };
    let shown = whole.as_ref().unwrap_or(own);
    let leases = store.leases();
    let mut rows = Vec::new();
    for version in shown.versions.iter() {
        let of_this = |lease: &&LeaseInfo| {
            lease.version == version.number
                && sight.gate.places().tree_path(store.name(), &lease.secret).as_ref() == Some(path)
        };
        let lease = leases.iter().find(of_this);
        // A number that was promised is no version yet.
        let is_minted = lease.is_some() || version.revoked;
        if !is_minted || !(administers || sight.sees_version(path, &own.standing(version), None)) {
            continue;
        }
        rows.push(VersionRow {
            stages: lease.and_then(|lease| lease.stage).into_iter().collect(),
            consumer: lease.map(|lease| lease.consumer.clone()),
            expires: lease.and_then(|lease| lease.expires).map(crate::model::UnixTime::rfc3339),
            ..row(sight, path, shown, version)
        });
    }
    rows
}

fn row(sight: &Sight<'_>, path: &SecretPath, secret: &Secret, version: &VersionInfo) -> VersionRow {
    let standing = secret.standing(version);
    let fields = version
        .fields
        .iter()
        .filter(|field| sight.sees_version(path, &standing, Some(&field.name)))
        .map(|field| ListedField { name: field.name.clone(), bytes: field.bytes })
        .collect();
    VersionRow {
        version: version.number,
        stages: standing.held.iter().collect(),
        created: version.created.rfc3339(),
        state: if secret.deleted && version.state == crate::model::State::Active {
            crate::model::State::Deleted
        } else {
            version.state
        },
        fields,
        consumer: None,
        expires: None,
    }
}

fn numbered(secret: &Secret, which: Which) -> Option<Version> {
    match which {
        Which::Number(number) => Some(number),
        Which::Stage(stage) => secret.at(stage),
    }
}

/// Hands out one field or all: to an administrator, else to whom policy lets read. Each is recorded first.
pub(super) async fn get(
    gate: &Arc<Gate>,
    actor: &Actor<'_>,
    path: &SecretPath,
    field: Option<FieldName>,
    which: Which,
) -> Result<(Answer, Payload), CommandFault> {
    asking::about_secret(gate, actor, path).await?;
    let sight = Sight { gate, actor };
    let mut secret = sight.secret(path)?;
    // One answer for a version that is not there, one that is hidden and one without the field.
    let absent = |field: Option<&FieldName>| {
        let version = match which {
            Which::Number(number) => format!("version {number}"),
            Which::Stage(stage) => format!("{stage} version"),
        };
        let field = field
            .map_or_else(String::new, |field| format!(" with a field {}", field.as_str().escape_debug()));
        CommandFault::not_found(format!(
            "{path} has no {version}{field} that you may read: `credfs versions {path}` shows what there is"
        ))
    };
    let number = numbered(&secret, which);
    if let (Some(number), None) = (number, &field) {
        asking::about_fields(gate, actor, path, number).await?;
        secret = sight.secret(path)?;
    }
    let Some(version) = number.and_then(|number| secret.version(number)) else {
        return Err(absent(field.as_ref()));
    };
    let standing = secret.standing(version);
    let wanted: Vec<FieldName> = match field {
        Some(field) => vec![field],
        None => version
            .fields
            .iter()
            .map(|field| field.name.clone())
            .filter(|field| sight.sees_version(path, &standing, Some(field)))
            .collect(),
    };
    if wanted.is_empty() {
        return Err(absent(None));
    }
    let mut values = Vec::with_capacity(wanted.len());
    for field in &wanted {
        let target = Target {
            secret: path.clone(),
            version: version.number,
            field: field.clone(),
            stage: Stage::ALL.into_iter().find(|stage| standing.held.contains(*stage)),
            standing,
            state: Some(version.state),
            deleted: secret.deleted,
        };
        // Which fields a version has is not known everywhere before it is read.
        let may_be_there = || gate.places().place(path).is_some_and(|place| !place.store.knows_all());
        let released = if version.field(field).is_some() || matches!(actor, Actor::Peer(_)) || may_be_there()
        {
            release(gate, actor, target).await
        } else {
            Err(Refusal::HIDDEN)
        };
        let value = released.map_err(|refusal| match kind_of(refusal.outcome) {
            Kind::NotFound if refusal.outcome != Outcome::Destroyed => absent(Some(field)),
            kind => refused(path, version.number, field, refusal, kind),
        })?;
        values.push(value.into_value());
    }
    Ok((
        Answer::Values { secret: path.clone(), version: version.number, fields: wanted },
        Payload::Values(values),
    ))
}

async fn release(
    gate: &Arc<Gate>,
    actor: &Actor<'_>,
    target: Target,
) -> Result<crate::access::Released, Refusal> {
    let Actor::Peer(caller) = actor else { return gate.get(actor, None, &target).await };
    if let Some(permit) = gate.administers(caller, &target) {
        return gate.get(actor, Some(&permit), &target).await;
    }
    match gate.open(caller, target, Reader::Command) {
        Opening::Released(released) => Ok(released),
        Opening::Refused(refusal) => Err(refusal),
        Opening::Waiting(releasing) => releasing.await,
    }
}

fn refused(
    path: &SecretPath,
    number: crate::model::Version,
    field: &FieldName,
    refusal: Refusal,
    kind: Kind,
) -> CommandFault {
    let field = field.as_str().escape_debug();
    let message = match refusal.outcome {
        Outcome::NoAudit => {
            "the audit log cannot be written, so nothing was handed out: `credfs doctor` says why".to_owned()
        }
        Outcome::Revoked => format!("version {number} of {path} is revoked: put or roll back to another"),
        Outcome::Destroyed => format!("version {number} of {path} is destroyed: its bytes are gone"),
        Outcome::Denied => {
            format!("policy does not let you read {field} of {path}: `credfs explain {path}` says why")
        }
        Outcome::Failed => {
            format!(
                "{field} of version {number} of {path} is damaged or cannot be read: `credfs doctor` says more"
            )
        }
        _ if kind == Kind::StoreAway => {
            format!("the store of {path} gives nothing now: `credfs status` says more")
        }
        _ => format!("{field} of {path} was refused: `credfs explain {path}` says why"),
    };
    CommandFault::new(kind, message)
}
