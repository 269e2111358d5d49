//! What a directory may show: the patterns that could match something below it, for one caller or for everyone.

use super::decide::EVERYONE_NUMBER;
use super::grant::Grant;
use super::identity::Holds;
use super::{Pattern, Policy};
use crate::model::Facts;

impl Policy {
    /// The patterns of list and read grants of this caller that could match something below `directory` (`""`: the
    /// top). Facts are read only for grants that have such a pattern.
    #[must_use]
    pub fn list_patterns_below<'a>(&'a self, facts: &dyn Facts, directory: &str) -> Vec<&'a Pattern> {
        self.patterns_below(directory, |grant| {
            grant.to.iter().any(|identity| {
                u32::try_from(*identity).is_ok_and(|identity| self.holds(identity, facts) == Holds::Yes)
            })
        })
    }

    /// The patterns of list and read grants to everyone that could match something below `directory`.
    #[must_use]
    pub fn everyone_patterns_below<'a>(&'a self, directory: &str) -> Vec<&'a Pattern> {
        self.patterns_below(directory, |grant| grant.to.contains(&(EVERYONE_NUMBER as usize)))
    }

    fn patterns_below<'a>(&'a self, directory: &str, is_mine: impl Fn(&Grant) -> bool) -> Vec<&'a Pattern> {
        let mut found = Vec::new();
        for grant in &self.grants {
            let before = found.len();
            let patterns = grant.read.iter().chain(&grant.list);
            found.extend(patterns.filter(|pattern| pattern.possible_below(directory)));
            if found.len() > before && !is_mine(grant) {
                found.truncate(before);
            }
        }
        found
    }
}
