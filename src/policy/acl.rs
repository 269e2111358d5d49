//! Paths as Vault and OpenBao write them in a policy: `+` is one whole name, a `*` at the end is whatever follows. Of the rules
//! that match a path the server looks at one only, the most specific; so rights that come from several grants must stand
//! together in one rule. The order of rules is that of the servers' documentation ("Policies", priority matching).

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};

/// Most rules that one policy is worked out for.
const RULES_MAX: usize = 2000;

/// One name of a path.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Step {
    Name(Box<str>),
    Any,
}

/// A path of a rule: names, and where it goes on below them how the next name begins.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct AclPath {
    pub(super) steps: Vec<Step>,
    pub(super) glob: Option<Box<str>>,
}

/// What two paths have in common.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Common {
    Nothing,
    Path(AclPath),
    /// Something that no path of this kind describes.
    Undrawable,
}

pub(super) type Rights = BTreeSet<&'static str>;

/// Rules by their paths.
pub(super) type Rules = BTreeMap<AclPath, Rights>;

impl AclPath {
    pub(super) fn text(&self) -> String {
        let names: Vec<&str> = self
            .steps
            .iter()
            .map(|step| match step {
                Step::Name(name) => &**name,
                Step::Any => "+",
            })
            .collect();
        let mut text = names.join("/");
        if let Some(head) = &self.glob {
            text.push_str(&format!("/{head}*"));
        }
        text
    }

    pub(super) fn common(&self, other: &Self) -> Common {
        let (short, long) = if self.steps.len() <= other.steps.len() { (self, other) } else { (other, self) };
        let at_glob = short.steps.len();
        let mut steps = Vec::with_capacity(long.steps.len());
        for (one, two) in short.steps.iter().zip(&long.steps) {
            match (one, two) {
                (Step::Any, step) | (step, Step::Any) => steps.push(step.clone()),
                (one, two) if one == two => steps.push(one.clone()),
                _ => return Common::Nothing,
            }
        }
        if long.steps.len() == at_glob {
            return match (&short.glob, &long.glob) {
                (None, None) => Common::Path(Self { steps, glob: None }),
                (Some(one), Some(two)) if one.starts_with(&**two) => {
                    Common::Path(Self { steps, glob: Some(one.clone()) })
                }
                (Some(one), Some(two)) if two.starts_with(&**one) => {
                    Common::Path(Self { steps, glob: Some(two.clone()) })
                }
                _ => Common::Nothing,
            };
        }
        let Some(head) = &short.glob else { return Common::Nothing };
        match long.steps.get(at_glob) {
            Some(Step::Name(name)) if !name.starts_with(&**head) => return Common::Nothing,
            Some(Step::Any) if !head.is_empty() => return Common::Undrawable,
            _ => {}
        }
        steps.extend(long.steps.iter().skip(at_glob).cloned());
        Common::Path(Self { steps, glob: long.glob.clone() })
    }

    pub(super) fn covers(&self, other: &Self) -> bool {
        matches!(self.common(other), Common::Path(common) if common == *other)
    }

    /// Which of two rules that both match the server looks at: the greater.
    pub(super) fn rank(&self, other: &Self) -> Ordering {
        let key = |path: &Self| {
            let text = path.text();
            let is_prefix = path.glob.is_some();
            let text = if is_prefix { text[..text.len() - 1].to_owned() } else { text };
            let is_wild = text.starts_with('+') || text.contains("/+");
            let first = text.find('+').filter(|_| is_wild).unwrap_or(text.len());
            let is_exact = !is_wild && !is_prefix;
            let wild = path.steps.iter().filter(|step| **step == Step::Any).count();
            (is_exact, first, !is_prefix, usize::MAX - wild, text.len(), text)
        };
        key(self).cmp(&key(other))
    }

    /// The same paths as two rules, of which the second gives way to any rule that says more.
    fn split(&self) -> Option<[Self; 2]> {
        self.glob.as_ref().filter(|head| head.is_empty())?;
        let mut steps = self.steps.clone();
        steps.push(Step::Any);
        Some([Self { steps: steps.clone(), glob: None }, Self { steps, glob: self.glob.clone() }])
    }
}

/// The policy would have more rules than anyone could read.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct TooMany;

/// Makes the one rule that the server looks at say what all that match say together. Where that cannot be written the
/// rule says more: such paths are returned, with what they say beyond.
pub(super) fn settle(mut rules: Rules) -> Result<(Rules, Vec<(AclPath, AclPath)>), TooMany> {
    let mut wider = BTreeSet::new();
    while let Some(step) = next(&rules) {
        match step {
            Task::Add(path, rights) => rules.entry(path).or_default().extend(rights),
            Task::Widen(path, other, rights) => {
                rules.entry(path.clone()).or_default().extend(rights);
                wider.insert((path, other));
            }
            Task::Split(path, parts) => {
                let rights = rules.remove(&path).unwrap_or_default();
                for part in parts {
                    rules.entry(part).or_default().extend(rights.iter().copied());
                }
            }
        }
        if rules.len() > RULES_MAX {
            return Err(TooMany);
        }
    }
    prune(&mut rules);
    Ok((rules, wider.into_iter().collect()))
}

/// One thing that is left to do.
enum Task {
    Add(AclPath, Rights),
    Widen(AclPath, AclPath, Rights),
    Split(AclPath, [AclPath; 2]),
}

fn next(rules: &Rules) -> Option<Task> {
    let all: Vec<(&AclPath, &Rights)> = rules.iter().collect();
    for (at, (one, its)) in all.iter().enumerate() {
        for (other, others) in &all[at + 1..] {
            match one.common(other) {
                Common::Nothing => {}
                Common::Path(common) => {
                    let both: Rights = its.union(others).copied().collect();
                    if rules.get(&common).is_none_or(|rights| !rights.is_superset(&both)) {
                        return Some(Task::Add(common, both));
                    }
                    for whole in [*one, *other] {
                        if *whole == common || whole.rank(&common) == Ordering::Less {
                            continue;
                        }
                        let rights = rules.get(&common)?;
                        match whole.split() {
                            _ if rules.get(whole).is_some_and(|own| own == rights) => {}
                            Some(parts) => return Some(Task::Split(whole.clone(), parts)),
                            None => return Some(Task::Widen(whole.clone(), common, rights.clone())),
                        }
                    }
                }
                Common::Undrawable => {
                    let (winner, loser) =
                        if one.rank(other) == Ordering::Greater { (one, other) } else { (other, one) };
                    let (has, lacks) = (rules.get(*winner)?, rules.get(*loser)?);
                    if !has.is_superset(lacks) {
                        return Some(Task::Widen((*winner).clone(), (*loser).clone(), lacks.clone()));
                    }
                }
            }
        }
    }
    None
}

/// Leaves out what the next rule says as well.
fn prune(rules: &mut Rules) {
    let paths: Vec<AclPath> = rules.keys().cloned().collect();
    for path in paths {
        let others = || rules.keys().filter(|other| **other != path);
        let overlaps = |other: &&AclPath| {
            other.common(&path) != Common::Nothing && !other.covers(&path) && !path.covers(other)
        };
        if others().any(|other| overlaps(&other)) {
            continue;
        }
        let above = others().filter(|other| other.covers(&path)).max_by(|one, other| one.rank(other));
        if above.is_some_and(|above| rules.get(above) == rules.get(&path)) {
            rules.remove(&path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(text: &str) -> AclPath {
        let mut names: Vec<&str> = text.split('/').collect();
        let glob = text.ends_with('*').then(|| names.pop().unwrap().trim_end_matches('*').into());
        let step = |name: &str| if name == "+" { Step::Any } else { Step::Name(name.into()) };
        AclPath { steps: names.into_iter().map(step).collect(), glob }
    }

    /// Whether a rule is about a path, as plainly as possible.
    fn matches(rule: &AclPath, path: &[&str]) -> bool {
        let is_long_enough =
            if rule.glob.is_some() { path.len() > rule.steps.len() } else { path.len() == rule.steps.len() };
        is_long_enough
            && rule.steps.iter().zip(path).all(|(step, name)| match step {
                Step::Any => true,
                Step::Name(own) => **own == **name,
            })
            && rule.glob.as_ref().is_none_or(|head| path[rule.steps.len()].starts_with(&**head))
    }

    fn texts() -> Vec<&'static str> {
        vec!["a", "a/b", "a/*", "+/b", "+/*", "a/+", "a/+/*", "+/b/*", "a/+/c", "+/+", "*", "a/b/c", "+/+/c"]
    }

    #[test]
    fn the_one_rule_that_counts_says_what_all_that_match_say() {
        let names = ["a", "b", "c"];
        let mut paths: Vec<Vec<&str>> = vec![];
        let mut last: Vec<Vec<&str>> = vec![vec![]];
        for _ in 0..4 {
            last = last.iter().flat_map(|one| names.map(|name| [&one[..], &[name]].concat())).collect();
            paths.extend(last.iter().cloned());
        }
        let texts = texts();
        for one in &texts {
            for two in &texts {
                for three in &texts {
                    let mut rules = Rules::new();
                    for (text, right) in [(one, "read"), (two, "list"), (three, "update")] {
                        rules.entry(path(text)).or_default().insert(right);
                    }
                    let (settled, wider) = settle(rules.clone()).unwrap();
                    assert!(wider.is_empty(), "{one} {two} {three}: {wider:?}");
                    for asked in &paths {
                        let meant: Rights = rules
                            .iter()
                            .filter(|(rule, _)| matches(rule, asked))
                            .flat_map(|(_, rights)| rights.iter().copied())
                            .collect();
                        let looked_at = settled
                            .iter()
                            .filter(|(rule, _)| matches(rule, asked))
                            .max_by(|one, other| one.0.rank(other.0));
                        let said = looked_at.map(|(_, rights)| rights.clone()).unwrap_or_default();
                        assert_eq!(
                            said, meant,
                            "{one} read, {two} list, {three} update: {asked:?} in {settled:?}"
                        );
                    }
                }
            }
        }
    }

    #[test]
    fn what_cannot_be_written_is_wider_and_said_to_be() {
        let rules =
            Rules::from([(path("p/db-*"), Rights::from(["read"])), (path("p/+"), Rights::from(["list"]))]);
        let (settled, wider) = settle(rules).unwrap();
        assert_eq!(settled[&path("p/db-*")], Rights::from(["list", "read"]));
        assert_eq!(settled[&path("p/+")], Rights::from(["list"]));
        assert_eq!(wider, [(path("p/db-*"), path("p/+"))]);
    }
}
