//! Options of the commands on secrets.

use clap::{Args, ValueEnum};

use crate::control::Which;
use crate::model::{Impact, Reason, Stage, Version};

/// `put`.
#[derive(Args)]
pub(crate) struct Put {
    /// The secret, such as prod/orders/db.
    pub(crate) path: String,
    /// FIELD (asked for, or standard input), FIELD=@FILE or FIELD=- (standard input). A value itself is never taken
    /// from the command line, which every user of the machine can see.
    #[arg(value_name = "FIELD", conflicts_with = "fields_json")]
    pub(crate) fields: Vec<String>,
    /// Read all fields from standard input as one JSON object; a value that is not UTF-8 is {"base64":"…"}.
    #[arg(long)]
    pub(crate) fields_json: bool,
    /// Leave out the fields that are not named, instead of carrying them over.
    #[arg(long)]
    pub(crate) only: bool,
    /// Where the new version goes: current, or next to be promoted later.
    #[arg(long, value_name = "STAGE", default_value = "current", value_parser = put_stage)]
    pub(crate) stage: Stage,
    /// Who answers for the secret, in words.
    #[arg(long, value_name = "TEXT")]
    pub(crate) owner: Option<String>,
    /// What a leak would mean.
    #[arg(long, value_name = "CLASS")]
    pub(crate) impact: Option<ImpactClass>,
    /// How often it is to be replaced, such as 90d.
    #[arg(long, value_name = "SPAN", value_parser = span)]
    pub(crate) rotate_every: Option<std::time::Duration>,
    /// How long a value may be served after its store went away, such as 1h.
    #[arg(long, value_name = "SPAN", value_parser = span)]
    pub(crate) grace: Option<std::time::Duration>,
}

/// What a leak would mean.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum ImpactClass {
    /// An inconvenience.
    Low,
    /// A bad day.
    Medium,
    /// A very bad one.
    High,
}

impl From<ImpactClass> for Impact {
    fn from(class: ImpactClass) -> Self {
        match class {
            ImpactClass::Low => Self::Low,
            ImpactClass::Medium => Self::Medium,
            ImpactClass::High => Self::High,
        }
    }
}

/// `get`.
#[derive(Args)]
pub(crate) struct Getting {
    /// The secret.
    pub(crate) path: String,
    /// The field. It may be left out where the secret has only one, and with --json, which then prints all.
    pub(crate) field: Option<String>,
    /// A number, or current, previous or next.
    #[arg(long, value_name = "VERSION", default_value = "current", value_parser = which)]
    pub(crate) version: Which,
}

/// `rollback`.
#[derive(Args)]
pub(crate) struct Rollback {
    /// The secret.
    pub(crate) path: String,
    /// The version to make current; the previous one if it is left out.
    #[arg(long, value_name = "VERSION", value_parser = version)]
    pub(crate) to: Option<Version>,
}

/// `revoke`.
#[derive(Args)]
pub(crate) struct Revoking {
    /// The secret.
    pub(crate) path: String,
    /// The version.
    #[arg(long, value_name = "VERSION", value_parser = version)]
    pub(crate) version: Version,
    /// Why, for the audit log.
    #[arg(long, value_name = "REASON")]
    pub(crate) reason: Option<RevokeReason>,
}

/// Why a version is revoked.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum RevokeReason {
    /// Somebody else knows it.
    Compromised,
    /// A newer one is in use everywhere.
    Superseded,
    /// It was stored by mistake.
    Error,
    /// An exercise.
    Drill,
}

impl From<RevokeReason> for Reason {
    fn from(reason: RevokeReason) -> Self {
        match reason {
            RevokeReason::Compromised => Self::Compromised,
            RevokeReason::Superseded => Self::Superseded,
            RevokeReason::Error => Self::Error,
            RevokeReason::Drill => Self::Drill,
        }
    }
}

/// `delete` and `undelete`.
#[derive(Args)]
pub(crate) struct VersionOf {
    /// The secret.
    pub(crate) path: String,
    /// One version of it; the whole secret if it is left out.
    #[arg(long, value_name = "VERSION", value_parser = version)]
    pub(crate) version: Option<Version>,
}

/// `destroy`.
#[derive(Args)]
pub(crate) struct Destroying {
    /// What to erase.
    #[command(flatten)]
    pub(crate) what: VersionOf,
    /// Do not ask.
    #[arg(long, short)]
    pub(crate) yes: bool,
}

fn put_stage(text: &str) -> Result<Stage, String> {
    match Stage::named(text) {
        Some(stage @ (Stage::Current | Stage::Next)) => Ok(stage),
        _ => Err("a new version goes to current or next".to_owned()),
    }
}

fn which(text: &str) -> Result<Which, String> {
    if let Some(stage) = Stage::named(text) {
        return Ok(Which::Stage(stage));
    }
    text.parse()
        .map(Which::Number)
        .map_err(|()| "neither a number from 1 nor current, previous or next".to_owned())
}

fn version(text: &str) -> Result<Version, String> {
    text.parse().map_err(|()| "not a number from 1".to_owned())
}

fn span(text: &str) -> Result<std::time::Duration, String> {
    crate::model::parse_span(text)
        .ok_or_else(|| "a span needs a number and a unit, such as 30s, 12h or 90d".to_owned())
}
