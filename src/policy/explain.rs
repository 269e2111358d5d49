//! Explaining a decision: by which rule, and what kept each other rule from holding. For people, not for requests.

use serde::Serialize;

use super::decision::{Action, Decision, DenialKind, Request};
use super::grant::{Grant, Reach, Verbs};
use super::identity::{Holds, Identity};
use super::memo::Candidate;
use super::{ADMINISTRATOR, Policy};
use crate::model::{Facts, Reason, UnixTime};

/// What policy says of one request, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Explanation {
    /// `allow`, `deny` or `hidden`.
    pub decision: &'static str,
    /// The rule that allows.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rule: Option<String>,
    /// The identity that the caller has by it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub identity: Option<String>,
    /// Why not, as records say it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<Reason>,
    /// The decision in a sentence.
    pub summary: String,
    /// Every rule that is about the path, and how it stands.
    pub considered: Vec<Considered>,
    /// Everyone who may do something with the path.
    pub readers: Vec<Reader>,
}

/// One rule and one of its identities, towards one request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Considered {
    /// Where it stands.
    pub rule: String,
    /// Whom it names.
    pub identity: String,
    /// How it stands, in words.
    pub verdict: String,
}

/// Who may do what with a path.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Reader {
    /// Whom a rule names.
    pub identity: String,
    /// What makes a caller that identity, in words.
    pub who: String,
    /// Where the rule stands.
    pub rule: String,
    /// `read`, `list`, `admin`.
    pub verbs: Vec<&'static str>,
    /// Which stages.
    pub stages: Vec<&'static str>,
    /// Which fields; absent: every one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fields: Option<Vec<String>>,
}

impl Policy {
    /// Explains what [`Policy::decide`] says of the same request.
    #[must_use]
    pub fn explain(&self, facts: &dyn Facts, request: &Request<'_>, now: UnixTime) -> Explanation {
        let candidates = self.candidates(request.secret);
        let considered: Vec<Considered> =
            candidates.iter().filter_map(|candidate| self.consider(candidate, facts, request, now)).collect();
        let readers = candidates.iter().filter_map(|candidate| self.reader(candidate)).collect();
        let base = Explanation {
            decision: "allow",
            rule: None,
            identity: None,
            reason: None,
            summary: String::new(),
            considered,
            readers,
        };
        match self.decide(facts, request, now) {
            Decision::Allow(permit) => Explanation {
                summary: format!("{} as {}, by {}", done(request.action), permit.identity(), permit.rule()),
                rule: Some(permit.rule().to_owned()),
                identity: Some(permit.identity().to_owned()),
                ..base
            },
            Decision::Deny(denial) => Explanation {
                decision: if denial.kind == DenialKind::Hidden { "hidden" } else { "deny" },
                reason: Some(denial.reason),
                summary: refusal(denial.kind, denial.reason),
                ..base
            },
        }
    }

    /// Everyone who may do something with a path, rule by rule.
    #[must_use]
    pub fn readers_of(&self, secret: &crate::model::SecretPath) -> Vec<Reader> {
        self.candidates(secret).iter().filter_map(|candidate| self.reader(candidate)).collect()
    }

    fn reader(&self, candidate: &Candidate) -> Option<Reader> {
        let (grant, identity) = (self.grant(candidate)?, self.identity(candidate.identity)?);
        Some(Reader {
            identity: identity.name.clone(),
            who: identity.describe(),
            rule: grant.rule.to_string(),
            verbs: candidate.verbs.words(),
            stages: grant.stages.words(),
            fields: grant.fields.clone(),
        })
    }

    fn consider(
        &self,
        candidate: &Candidate,
        facts: &dyn Facts,
        request: &Request<'_>,
        now: UnixTime,
    ) -> Option<Considered> {
        let (grant, identity) = (self.grant(candidate)?, self.identity(candidate.identity)?);
        let verdict = self
            .obstacle_of_grant(candidate.verbs, grant, request, now)
            .or_else(|| obstacle_of_identity(identity, facts))
            .or_else(|| obstacle_of_age(grant, facts, request))
            .unwrap_or_else(|| "holds".to_owned());
        Some(Considered { rule: grant.rule.to_string(), identity: identity.name.clone(), verdict })
    }

    fn obstacle_of_grant(
        &self,
        verbs: Verbs,
        grant: &Grant,
        request: &Request<'_>,
        now: UnixTime,
    ) -> Option<String> {
        let (needed, visible) = match request.action {
            Action::Read => (Verbs::READ, false),
            Action::Admin => (Verbs::ADMIN, false),
            Action::List => (Verbs::READ.with(Verbs::LIST), true),
        };
        if !verbs.any_of(needed) {
            return Some(format!("grants only {} here", verbs.words().join(" and ")));
        }
        match (request.field, &grant.fields) {
            (Some(field), Some(fields)) if !grant.lets_field(field.as_str()) => {
                return Some(format!("is about the fields {} only", fields.join(", ")));
            }
            (None, Some(fields)) if !visible => {
                return Some(format!(
                    "is about the fields {} only, not the secret as a whole",
                    fields.join(", ")
                ));
            }
            _ => {}
        }
        let standing = match request.action {
            Action::Admin => return None,
            Action::List => *request.standing?,
            Action::Read => request.standing.copied().unwrap_or_default(),
        };
        match grant.stages.reach(&standing, now, self.retire_after) {
            Reach::Yes => None,
            Reach::No => Some(format!("is about the stages {} only", grant.stages.words().join(", "))),
            Reach::Retired => {
                Some("let this version be read until its stage was lost too long ago".to_owned())
            }
        }
    }
}

fn obstacle_of_identity(identity: &Identity, facts: &dyn Facts) -> Option<String> {
    identity.conditions.iter().find_map(|condition| match condition.holds(facts) {
        Holds::Yes => None,
        Holds::No => Some(format!("does not hold, for it demands: {}", condition.describe())),
        Holds::Unknown => {
            Some(format!("does not hold, for it cannot be known whether {}", condition.describe()))
        }
    })
}

fn obstacle_of_age(grant: &Grant, facts: &dyn Facts, request: &Request<'_>) -> Option<String> {
    let within = grant.within.filter(|_| request.action == Action::Read)?;
    let limit = crate::model::format_span(within);
    match facts.age() {
        Ok(age) if age <= within => None,
        Ok(_) => Some(format!("held only within {limit} of the process's start")),
        Err(_) => Some(format!("holds only within {limit} of the process's start, which is not known")),
    }
}

const fn done(action: Action) -> &'static str {
    match action {
        Action::List => "may be listed",
        Action::Read => "may be read",
        Action::Admin => "may be administered",
    }
}

fn refusal(kind: DenialKind, reason: Reason) -> String {
    let look = match kind {
        DenialKind::Hidden => "does not exist for this caller",
        DenialKind::Denied => "is visible, but may not be used",
        DenialKind::Retired => "lost its stage longer ago than retire_after",
        DenialKind::TooOld => "could be read only soon after the process started",
    };
    let why = match reason {
        Reason::RootWithoutGrant => {
            format!(
                ": root has no grant of its own (administering needs \"{ADMINISTRATOR}\", reading a grant)"
            )
        }
        Reason::NoGrant => ": no grant holds".to_owned(),
        Reason::NoReadGrant => ": no grant lets it be read".to_owned(),
        Reason::FieldNotGranted => ": the grant that holds is about other fields".to_owned(),
        Reason::StageNotGranted => ": the grant that holds is about other stages".to_owned(),
        Reason::FactUnknown => ": a fact that a rule needs cannot be known".to_owned(),
        _ => String::new(),
    };
    format!("{look}{why}")
}
