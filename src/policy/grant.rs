//! Grants: which identities may do what with which paths, at which stages, for which fields, within which limits.

use std::sync::Arc;
use std::time::Duration;

use super::pattern::{Pattern, has_shape};
use crate::model::{SecretPath, Stage, StageSet, Standing, UnixTime};

/// What a grant lets its identities do with a path, as bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Verbs(u8);

impl Verbs {
    pub(super) const READ: Self = Self(1);
    pub(super) const LIST: Self = Self(2);
    pub(super) const ADMIN: Self = Self(4);

    pub(super) const fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    pub(super) const fn any_of(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }

    pub(super) const fn is_none(self) -> bool {
        self.0 == 0
    }

    /// The words of a policy file.
    pub(super) fn words(self) -> Vec<&'static str> {
        let all = [(Self::READ, "read"), (Self::LIST, "list"), (Self::ADMIN, "admin")];
        all.into_iter().filter(|(verb, _)| self.any_of(*verb)).map(|(_, word)| word).collect()
    }
}

/// Which versions a grant is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stages {
    pub(super) named: StageSet,
    /// Also versions that no stage names.
    pub(super) all: bool,
}

/// How a grant stands towards a version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reach {
    /// It lets it through.
    Yes,
    /// It did, longer ago than `retire_after`.
    Retired,
    /// It does not.
    No,
}

impl Default for Stages {
    fn default() -> Self {
        Self { named: StageSet::of(Stage::Current).with(Stage::Previous), all: false }
    }
}

impl Stages {
    pub(super) fn reach(self, standing: &Standing, now: UnixTime, retire_after: Duration) -> Reach {
        if self.all || !self.named.intersection(standing.held).is_empty() {
            return Reach::Yes;
        }
        let Some((when, lost)) = standing.lost else { return Reach::No };
        if self.named.intersection(lost).is_empty() {
            return Reach::No;
        }
        if now < when.plus(retire_after) { Reach::Yes } else { Reach::Retired }
    }

    pub(super) fn words(self) -> Vec<&'static str> {
        let all = self.all.then_some("all");
        self.named.iter().map(Stage::as_str).chain(all).collect()
    }
}

/// How often a grant may be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct RateLimit {
    /// Reads a minute, for each caller's uid.
    pub reads_per_minute: u32,
    /// Which grant, by its number in the policy from 0: what the reads are counted under.
    pub grant: u32,
}

/// One grant.
#[derive(Debug)]
pub(super) struct Grant {
    /// Numbers of identities.
    pub(super) to: Vec<usize>,
    pub(super) read: Vec<Pattern>,
    pub(super) list: Vec<Pattern>,
    pub(super) admin: Vec<Pattern>,
    pub(super) stages: Stages,
    /// `None`: every field.
    pub(super) fields: Option<Vec<String>>,
    pub(super) reads_per_minute: Option<u32>,
    pub(super) within: Option<Duration>,
    /// `policy.toml:12 (grant 3)`.
    pub(super) rule: Arc<str>,
}

impl Grant {
    /// What it lets its identities do with `path`.
    pub(super) fn verbs_on(&self, path: &SecretPath) -> Verbs {
        let kinds = [(Verbs::READ, &self.read), (Verbs::LIST, &self.list), (Verbs::ADMIN, &self.admin)];
        kinds
            .into_iter()
            .filter(|(_, patterns)| patterns.iter().any(|pattern| pattern.matches(path)))
            .fold(Verbs::default(), |so_far, (verb, _)| so_far.with(verb))
    }

    /// Whether it is about a field.
    pub(super) fn lets_field(&self, field: &str) -> bool {
        self.fields.as_ref().is_none_or(|shapes| shapes.iter().any(|shape| has_shape(shape, field)))
    }

    /// Fewer limits first: of two grants that both allow, the freer one counts.
    pub(super) fn strictness(&self) -> (bool, bool, u32) {
        let rate = self.reads_per_minute;
        (rate.is_some(), self.within.is_some(), rate.map_or(0, |reads| u32::MAX - reads))
    }

    /// Whether the two say the same, wherever they stand.
    pub(super) fn says_the_same(&self, other: &Self) -> bool {
        self.to == other.to
            && (&self.read, &self.list, &self.admin) == (&other.read, &other.list, &other.admin)
            && (self.stages, &self.fields) == (other.stages, &other.fields)
            && (self.reads_per_minute, self.within) == (other.reads_per_minute, other.within)
    }
}
