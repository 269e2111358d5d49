//! Deciding. A grant that is about the path is looked at field and stage first, which cost nothing, then its
//! identities, cheapest first; the first that holds allows. Only what could still change the answer is read.

use std::sync::Arc;

use super::decision::{Action, Decision, Denial, DenialKind, Listing, Permit, Request};
use super::grant::{Grant, RateLimit, Reach, Verbs};
use super::identity::{CHEAP_MAX, Holds};
use super::memo::{Candidate, Candidates};
use super::{ADMINISTRATOR, Identity, Policy};
use crate::model::{Facts, FieldName, Reason, SecretPath, Standing, UnixTime};

/// The number of `everyone` in [`Policy::identities`].
pub(super) const EVERYONE_NUMBER: u32 = 0;
/// The number of `administrator`.
pub(super) const ADMINISTRATOR_NUMBER: u32 = 1;

const VISIBLE: Verbs = Verbs::READ.with(Verbs::LIST);

/// How one look through the candidates ended.
struct Looked {
    allowed: Option<Candidate>,
    /// A grant holds whose stage was lost too long ago.
    retired: bool,
    /// A grant holds but for the age of the process.
    too_old: bool,
    /// An identity could not be told.
    unknown: bool,
}

/// What is asked of each candidate.
struct Sought<'a> {
    verbs: Verbs,
    field: Option<&'a FieldName>,
    standing: Option<&'a Standing>,
    now: UnixTime,
    /// Whether limits on the age of the process count: for values, not for names.
    limited: bool,
}

impl Policy {
    /// Decides one request.
    pub fn decide(&self, facts: &dyn Facts, request: &Request<'_>, now: UnixTime) -> Decision {
        match request.action {
            Action::Admin => self.decide_admin(facts, request, now),
            Action::Read => self.decide_read(facts, request, now),
            Action::List => self.decide_list(facts, request, now),
        }
    }

    /// Whether the secret's directory is there for this caller.
    #[must_use]
    pub fn may_list(&self, facts: &dyn Facts, secret: &SecretPath) -> bool {
        // The clock matters to no directory: it shows nothing of any version.
        let sought = Sought::to_see(None, None, UnixTime::default());
        self.look(facts, &self.candidates(secret), &sought).allowed.is_some()
    }

    /// Whether a version (`field` is `None`) or a field of it is there for this caller.
    pub fn may_list_version(
        &self,
        facts: &dyn Facts,
        secret: &SecretPath,
        standing: &Standing,
        field: Option<&FieldName>,
        now: UnixTime,
    ) -> Listing {
        let looked = self.look(facts, &self.candidates(secret), &Sought::to_see(field, Some(standing), now));
        match looked {
            Looked { allowed: Some(_), .. } => Listing::Visible,
            Looked { retired: true, .. } => Listing::Retired,
            _ => Listing::Hidden,
        }
    }

    /// Whether every caller sees the secret's directory.
    #[must_use]
    pub fn visible_to_everyone(&self, secret: &SecretPath) -> bool {
        self.candidates(secret)
            .iter()
            .any(|candidate| candidate.verbs.any_of(VISIBLE) && candidate.identity == EVERYONE_NUMBER)
    }

    /// Whether any rule names executables by digest.
    #[must_use]
    pub fn names_digests(&self) -> bool {
        self.identities.iter().any(Identity::names_digests)
    }

    /// Whether a rule could need the digest of this caller's executable: all else that it asks holds.
    #[must_use]
    pub fn may_need_digest(&self, facts: &dyn Facts) -> bool {
        self.identities
            .iter()
            .any(|identity| identity.names_digests() && identity.holds_but_for_digest(facts))
    }

    /// Whether the caller is an administrator: uid 0 or the owner of the configuration.
    #[must_use]
    pub fn is_administrator(&self, facts: &dyn Facts) -> bool {
        self.holds(ADMINISTRATOR_NUMBER, facts) == Holds::Yes
    }

    pub(super) fn candidates(&self, secret: &SecretPath) -> Candidates {
        self.memo.candidates(secret, || self.find_candidates(secret))
    }

    fn find_candidates(&self, secret: &SecretPath) -> Vec<Candidate> {
        let mut found = Vec::new();
        for (number, grant) in self.grants.iter().enumerate() {
            let verbs = grant.verbs_on(secret);
            if verbs.is_none() {
                continue;
            }
            let number = u32::try_from(number).unwrap_or(u32::MAX);
            let each = grant.to.iter().filter_map(|identity| u32::try_from(*identity).ok());
            found.extend(each.map(|identity| Candidate { grant: number, identity, verbs }));
        }
        found.sort_by_key(|candidate| {
            let strictness = self.grant(candidate).map(Grant::strictness);
            (strictness, self.cost(candidate.identity), candidate.grant)
        });
        found
    }

    pub(super) fn grant(&self, candidate: &Candidate) -> Option<&Grant> {
        self.grants.get(usize::try_from(candidate.grant).ok()?)
    }

    fn cost(&self, identity: u32) -> u8 {
        self.identity(identity).map_or(u8::MAX, super::Identity::cost)
    }

    pub(super) fn identity(&self, number: u32) -> Option<&super::Identity> {
        self.identities.get(usize::try_from(number).ok()?)
    }

    pub(super) fn holds(&self, identity: u32, facts: &dyn Facts) -> Holds {
        self.identity(identity).map_or(Holds::No, |identity| identity.holds(facts))
    }

    fn decide_list(&self, facts: &dyn Facts, request: &Request<'_>, now: UnixTime) -> Decision {
        let candidates = self.candidates(request.secret);
        let looked = self.look(facts, &candidates, &Sought::to_see(request.field, request.standing, now));
        if let Some(candidate) = looked.allowed {
            return self.permit(request, &candidate);
        }
        if looked.retired {
            return deny(DenialKind::Retired, Reason::StageNotGranted);
        }
        deny(DenialKind::Hidden, self.why_hidden(facts, request, &candidates, looked.unknown))
    }

    fn decide_read(&self, facts: &dyn Facts, request: &Request<'_>, now: UnixTime) -> Decision {
        // A version of which nothing is known is one that no stage names: only "all" reaches it.
        let standing = request.standing.copied().unwrap_or_default();
        let candidates = self.candidates(request.secret);
        let reading = Sought {
            verbs: Verbs::READ,
            field: request.field,
            standing: Some(&standing),
            now,
            limited: true,
        };
        let read = self.look(facts, &candidates, &reading);
        if let Some(candidate) = read.allowed {
            return self.permit(request, &candidate);
        }
        if read.too_old {
            return deny(DenialKind::TooOld, Reason::ProcessTooOld);
        }
        if read.retired {
            return deny(DenialKind::Retired, Reason::StageNotGranted);
        }
        let seen = self.look(facts, &candidates, &Sought::to_see(request.field, Some(&standing), now));
        if seen.allowed.is_some() {
            let reason = if read.unknown { Reason::FactUnknown } else { Reason::NoReadGrant };
            return deny(DenialKind::Denied, reason);
        }
        if seen.retired {
            return deny(DenialKind::Retired, Reason::StageNotGranted);
        }
        let unknown = read.unknown || seen.unknown;
        deny(DenialKind::Hidden, self.why_hidden(facts, request, &candidates, unknown))
    }

    fn decide_admin(&self, facts: &dyn Facts, request: &Request<'_>, now: UnixTime) -> Decision {
        if self.is_administrator(facts) {
            return Decision::Allow(Permit {
                rule: Arc::from("built in (administrator)"),
                identity: Arc::from(ADMINISTRATOR),
                limit: None,
                ..self.bare_permit(request)
            });
        }
        let candidates = self.candidates(request.secret);
        let looked = self.look(facts, &candidates, &Sought::to_administer(request.field, now));
        if let Some(candidate) = looked.allowed {
            return self.permit(request, &candidate);
        }
        let reason = if looked.unknown { Reason::FactUnknown } else { Reason::NoGrant };
        let seen = self.look(facts, &candidates, &Sought::to_see(None, None, now));
        let kind = if seen.allowed.is_some() { DenialKind::Denied } else { DenialKind::Hidden };
        deny(kind, reason)
    }

    /// Goes through the candidates in their order until one allows.
    fn look(&self, facts: &dyn Facts, candidates: &[Candidate], sought: &Sought<'_>) -> Looked {
        let mut looked = Looked { allowed: None, retired: false, too_old: false, unknown: false };
        for candidate in candidates.iter().filter(|candidate| candidate.verbs.any_of(sought.verbs)) {
            let Some(grant) = self.grant(candidate) else { continue };
            let reach = sought.reach(grant, self.retire_after);
            if reach == Reach::No || (reach == Reach::Retired && looked.retired) {
                continue;
            }
            match self.holds(candidate.identity, facts) {
                Holds::No => continue,
                Holds::Unknown => {
                    looked.unknown = true;
                    continue;
                }
                Holds::Yes => {}
            }
            if reach == Reach::Retired {
                looked.retired = true;
                continue;
            }
            match grant.within.filter(|_| sought.limited).map(|within| facts.age().map(|age| age <= within)) {
                None | Some(Ok(true)) => {
                    looked.allowed = Some(*candidate);
                    return looked;
                }
                Some(Ok(false)) => looked.too_old = true,
                Some(Err(_)) => looked.unknown = true,
            }
        }
        looked
    }

    /// Why something is hidden, as far as cheap facts tell: nothing is read for the sake of a reason.
    fn why_hidden(
        &self,
        facts: &dyn Facts,
        request: &Request<'_>,
        candidates: &[Candidate],
        unknown: bool,
    ) -> Reason {
        if unknown {
            return Reason::FactUnknown;
        }
        let mut mine = candidates
            .iter()
            .filter(|one| one.verbs.any_of(VISIBLE) && self.cost(one.identity) <= CHEAP_MAX)
            .filter(|one| self.holds(one.identity, facts) == Holds::Yes)
            .filter_map(|one| self.grant(one))
            .peekable();
        if mine.peek().is_some() {
            let lets_field =
                mine.any(|grant| request.field.is_none_or(|field| grant.lets_field(field.as_str())));
            return if lets_field { Reason::StageNotGranted } else { Reason::FieldNotGranted };
        }
        if facts.uid() == 0 { Reason::RootWithoutGrant } else { Reason::NoGrant }
    }

    fn permit(&self, request: &Request<'_>, candidate: &Candidate) -> Decision {
        let (Some(grant), Some(identity)) =
            (self.grant(candidate), self.identity_names.get(candidate.identity as usize))
        else {
            return deny(DenialKind::Hidden, Reason::NoGrant);
        };
        let limit = grant
            .reads_per_minute
            .filter(|_| request.action == Action::Read)
            .map(|reads_per_minute| RateLimit { reads_per_minute, grant: candidate.grant });
        Decision::Allow(Permit {
            rule: Arc::clone(&grant.rule),
            identity: Arc::clone(identity),
            limit,
            ..self.bare_permit(request)
        })
    }

    fn bare_permit(&self, request: &Request<'_>) -> Permit {
        Permit {
            action: request.action,
            secret: request.secret.clone(),
            field: request.field.cloned(),
            rule: Arc::clone(&self.digest.0),
            identity: Arc::clone(&self.digest.0),
            policy: self.digest.clone(),
            limit: None,
        }
    }
}

impl<'a> Sought<'a> {
    const fn to_see(field: Option<&'a FieldName>, standing: Option<&'a Standing>, now: UnixTime) -> Self {
        Self { verbs: VISIBLE, field, standing, now, limited: false }
    }

    const fn to_administer(field: Option<&'a FieldName>, now: UnixTime) -> Self {
        Self { verbs: Verbs::ADMIN, field, standing: None, now, limited: false }
    }

    fn reach(&self, grant: &Grant, retire_after: std::time::Duration) -> Reach {
        let lets_field = match self.field {
            Some(field) => grant.lets_field(field.as_str()),
            // Who is granted some fields only may see the secret, not read or change it as a whole.
            None => self.verbs == VISIBLE || grant.fields.is_none(),
        };
        if !lets_field {
            return Reach::No;
        }
        self.standing.map_or(Reach::Yes, |standing| grant.stages.reach(standing, self.now, retire_after))
    }
}

const fn deny(kind: DenialKind, reason: Reason) -> Decision {
    Decision::Deny(Denial { kind, reason })
}
