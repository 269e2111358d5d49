//! What one caller may see, asked of the policy in force for the length of one request.

use std::sync::Arc;

use crate::access::Gate;
use crate::model::{Facts, FieldName, Secret, SecretPath, State, UnixTime, VersionInfo};
use crate::policy::{Listing, Pattern, Policy, View};

/// One caller's eyes.
pub(super) struct Eyes<'a> {
    pub(super) gate: &'a Gate,
    pub(super) policy: Arc<Policy>,
    pub(super) facts: &'a dyn Facts,
    pub(super) now: UnixTime,
}

impl<'a> Eyes<'a> {
    pub(super) fn of(gate: &'a Gate, facts: &'a dyn Facts) -> Self {
        Self { gate, policy: gate.policy(), facts, now: gate.now() }
    }

    /// The secret at `path`, if it exists and the caller may list it. Policy is asked first.
    pub(super) fn secret(&self, path: &SecretPath) -> Option<Arc<Secret>> {
        if !self.policy.may_list(self.facts, path) {
            return None;
        }
        self.gate.known_to(&self.policy, self.facts, path).filter(|secret| !secret.deleted)
    }

    /// How `version` (or one field of it) appears.
    pub(super) fn version(
        &self,
        path: &SecretPath,
        secret: &Secret,
        version: &VersionInfo,
        field: Option<&FieldName>,
    ) -> Listing {
        if matches!(version.state, State::Deleted | State::Destroyed) {
            return Listing::Hidden;
        }
        self.policy.may_list_version(self.facts, path, &secret.standing(version), field, self.now)
    }

    /// Whether the directory `path` shows anything: itself a listable secret, or above one, or above a view.
    pub(super) fn directory(&self, path: &str) -> bool {
        if path.is_empty() {
            return true;
        }
        // Most names asked for are fields: nothing by that path, and policy need not be asked.
        let has_views = !self.policy.views().is_empty();
        if !self.gate.places().has_anything_at(path)
            && (!has_views || self.views_below(path).next().is_none())
        {
            return false;
        }
        if SecretPath::from_store(path).is_ok_and(|path| self.secret(&path).is_some()) {
            return true;
        }
        let patterns = self.policy.list_patterns_below(self.facts, path);
        patterns.iter().any(|pattern| something_matches(self.gate, path, pattern))
            || self.views_below(path).any(|view| self.view(view).is_some())
    }

    /// The secret and version behind a view, if the caller may list its field there.
    pub(super) fn view(&self, view: &View) -> Option<(Arc<Secret>, crate::model::Version)> {
        let secret = self.secret(&view.secret)?;
        let version = secret.version(secret.current?)?;
        version.field(&view.field)?;
        let listing = self.version(&view.secret, &secret, version, Some(&view.field));
        let number = version.number;
        (listing == Listing::Visible).then_some((secret, number))
    }

    /// Every view below a directory.
    pub(super) fn views_below(&self, path: &str) -> impl Iterator<Item = &View> {
        let prefix = if path.is_empty() { String::new() } else { format!("{path}/") };
        self.policy
            .views()
            .range(prefix.clone()..)
            .take_while(move |(path, _)| path.starts_with(&prefix))
            .map(|(_, view)| view)
    }
}

/// Whether everyone sees the directory `path`, whoever asks: then its entry may live for a moment.
pub(super) fn is_public(gate: &Gate, policy: &Policy, path: &str) -> bool {
    policy.everyone_patterns_below(path).iter().any(|pattern| something_matches(gate, path, pattern))
        || SecretPath::from_store(path).is_ok_and(|path| {
            policy.visible_to_everyone(&path)
                && gate.places().known(&path).is_some_and(|secret| !secret.deleted)
        })
}

/// Whether some existing secret below `directory` matches `pattern`.
fn something_matches(gate: &Gate, directory: &str, pattern: &Pattern) -> bool {
    // The literal beginning of a pattern narrows the search to where it can match at all.
    let literal = pattern.literal_prefix();
    let from = if literal.len() > directory.len() { literal } else { directory };
    if let Ok(path) = SecretPath::from_store(from)
        && from.len() > directory.len()
        && pattern.matches(&path)
        && gate.places().known(&path).is_some_and(|secret| !secret.deleted)
    {
        return true;
    }
    let mut found = false;
    gate.places().visit_below(from, &mut |path, secret| {
        found = !secret.deleted && pattern.matches(path);
        !found
    });
    found
}
