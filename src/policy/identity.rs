//! Identities: what must be true of a caller for a name to be theirs. Every condition must hold; in one, any value does.

use std::collections::BTreeMap;
use std::path::PathBuf;

use super::login::LoginSpec;
use super::pattern::has_shape;
use crate::model::{Facts, Sha256Digest};

/// The identity that every caller has.
pub const EVERYONE: &str = "everyone";
/// The identity of uid 0 and of the owner of the configuration, which may administer everything.
pub const ADMINISTRATOR: &str = "administrator";

/// Whether something is true of a caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Holds {
    Yes,
    No,
    /// The fact cannot be had; nothing is granted for it.
    Unknown,
}

/// What one condition looks at. The order is the order of asking: from what the request carries to what must be
/// read and hashed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Condition {
    /// A user that does not exist here: never true.
    Nobody,
    Uid(Vec<u32>),
    Unit(Vec<String>),
    Container(Vec<String>),
    Group(Vec<u32>),
    Session(Vec<SessionRule>),
    Exe(Vec<PathBuf>),
    Sha256(Vec<Sha256Digest>),
}

/// Which audit session a caller is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum SessionRule {
    /// Any login session.
    Any,
    /// None: a service.
    None,
    /// This one.
    Id(u32),
}

/// Where a rule's cost begins to be more than a look at the request and the cgroup.
pub(super) const CHEAP_MAX: u8 = 3;

impl Condition {
    /// What it costs to know, as a rank: 0 is free.
    pub(super) const fn cost(&self) -> u8 {
        match self {
            Self::Nobody => 0,
            Self::Uid(_) => 1,
            Self::Unit(_) => 2,
            Self::Container(_) => CHEAP_MAX,
            Self::Group(_) => 4,
            Self::Session(_) => 5,
            Self::Exe(_) => 6,
            Self::Sha256(_) => 7,
        }
    }

    pub(super) fn holds(&self, facts: &dyn Facts) -> Holds {
        if let Self::Uid(uids) = self {
            return yes_if(uids.contains(&facts.uid()));
        }
        if matches!(self, Self::Nobody) {
            return Holds::No;
        }
        // A caller in a foreign pid namespace is known by its uid and nothing else.
        if !facts.is_identified() {
            return Holds::Unknown;
        }
        match self {
            Self::Nobody | Self::Uid(_) => Holds::No,
            Self::Group(gids) => {
                if gids.contains(&facts.gid()) {
                    return Holds::Yes;
                }
                any(gids.iter().map(|gid| facts.in_group(*gid)))
            }
            Self::Unit(units) => facts.unit().map_or(Holds::Unknown, |unit| {
                yes_if(unit.is_some_and(|unit| units.iter().any(|rule| unit_matches(rule, unit))))
            }),
            Self::Container(ids) => facts.container().map_or(Holds::Unknown, |container| {
                yes_if(container.is_some_and(|id| ids.iter().any(|prefix| id.starts_with(prefix.as_str()))))
            }),
            Self::Session(rules) => facts.session().map_or(Holds::Unknown, |session| {
                yes_if(rules.iter().any(|rule| match rule {
                    SessionRule::Any => session.id.is_some(),
                    SessionRule::None => session.id.is_none(),
                    SessionRule::Id(id) => session.id == Some(*id),
                }))
            }),
            Self::Exe(paths) => any(paths.iter().map(|path| facts.runs(path))),
            Self::Sha256(digests) => {
                facts.executable_digest().map_or(Holds::Unknown, |digest| yes_if(digests.contains(&digest)))
            }
        }
    }

    /// The condition in words.
    pub(super) fn describe(&self) -> String {
        fn list<T: ToString>(what: &str, values: &[T]) -> String {
            let values: Vec<String> = values.iter().map(ToString::to_string).collect();
            format!("{what} is {}", values.join(" or "))
        }
        match self {
            Self::Nobody => "the user or group it names does not exist on this machine".to_owned(),
            Self::Uid(uids) => list("uid", uids),
            Self::Unit(units) => list("unit", units),
            Self::Container(ids) => format!("container begins with {}", ids.join(" or ")),
            Self::Group(gids) => list("a group", gids),
            Self::Session(rules) => {
                let rules: Vec<String> = rules
                    .iter()
                    .map(|rule| match rule {
                        SessionRule::Any => "any".to_owned(),
                        SessionRule::None => "none".to_owned(),
                        SessionRule::Id(id) => id.to_string(),
                    })
                    .collect();
                list("session", &rules)
            }
            Self::Exe(paths) => {
                list("executable", &paths.iter().map(|path| path.display()).collect::<Vec<_>>())
            }
            Self::Sha256(digests) => list("executable's sha256", digests),
        }
    }
}

const fn yes_if(true_of_caller: bool) -> Holds {
    if true_of_caller { Holds::Yes } else { Holds::No }
}

fn any<E>(answers: impl Iterator<Item = Result<bool, E>>) -> Holds {
    let mut so_far = Holds::No;
    for answer in answers {
        match answer {
            Ok(true) => return Holds::Yes,
            Ok(false) => {}
            Err(_) => so_far = Holds::Unknown,
        }
    }
    so_far
}

/// Whether `unit` is what `rule` names. A `*` in a rule stands only for an instance, after the `@`.
fn unit_matches(rule: &str, unit: &str) -> bool {
    rule == unit || (rule.contains('*') && has_shape(rule, unit))
}

/// A named set of conditions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Identity {
    pub(super) name: String,
    /// Cheapest first. All must hold; none (`everyone`) always does.
    pub(super) conditions: Vec<Condition>,
    /// Where it is defined: `policy.toml:12`; `built in` for the two that are.
    pub(super) place: String,
    /// Its own logins, by store.
    pub(super) logins: BTreeMap<String, LoginSpec>,
}

impl Identity {
    /// Everyone.
    pub(super) fn everyone() -> Self {
        Self::built_in(EVERYONE, Vec::new())
    }

    /// Whoever may administer: uid 0 and `owner_uid`.
    pub(super) fn administrator(owner_uid: u32) -> Self {
        let mut uids = vec![0];
        if owner_uid != 0 {
            uids.push(owner_uid);
        }
        Self::built_in(ADMINISTRATOR, vec![Condition::Uid(uids)])
    }

    fn built_in(name: &str, conditions: Vec<Condition>) -> Self {
        Self { name: name.to_owned(), conditions, place: "built in".to_owned(), logins: BTreeMap::new() }
    }

    pub(super) fn names_digests(&self) -> bool {
        self.conditions.iter().any(|condition| matches!(condition, Condition::Sha256(_)))
    }

    /// Whether everything holds that is asked before the digest, which is the dearest.
    pub(super) fn holds_but_for_digest(&self, facts: &dyn Facts) -> bool {
        let before = self.conditions.iter().take_while(|one| !matches!(one, Condition::Sha256(_)));
        before.into_iter().all(|condition| condition.holds(facts) == Holds::Yes)
    }

    /// Whether all conditions hold, asking no further than the first that does not.
    pub(super) fn holds(&self, facts: &dyn Facts) -> Holds {
        self.conditions
            .iter()
            .map(|condition| condition.holds(facts))
            .find(|holds| *holds != Holds::Yes)
            .unwrap_or(Holds::Yes)
    }

    /// What it costs to know in full.
    pub(super) fn cost(&self) -> u8 {
        self.conditions.last().map_or(0, Condition::cost)
    }

    /// The conditions in words.
    pub(super) fn describe(&self) -> String {
        if self.conditions.is_empty() {
            return "every caller".to_owned();
        }
        let all: Vec<String> = self.conditions.iter().map(Condition::describe).collect();
        all.join(", and ")
    }
}
