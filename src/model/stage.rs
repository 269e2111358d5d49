//! Versions and the names that move between them.

use std::fmt;
use std::num::NonZeroU32;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::UnixTime;

/// The number of a version: from 1, never reused within a secret's path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Version(NonZeroU32);

impl Version {
    /// Makes a version of a number; `None` for 0.
    #[must_use]
    pub const fn new(number: u32) -> Option<Self> {
        match NonZeroU32::new(number) {
            Some(number) => Some(Self(number)),
            None => None,
        }
    }

    /// The number.
    #[must_use]
    pub const fn get(self) -> u32 {
        self.0.get()
    }
}

impl fmt::Display for Version {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(formatter)
    }
}

impl FromStr for Version {
    type Err = ();
    /// Accepts exactly what [`fmt::Display`] writes: no sign, no leading zero, no space.
    fn from_str(text: &str) -> Result<Self, ()> {
        let plain = text.bytes().all(|byte| byte.is_ascii_digit()) && !text.starts_with('0');
        if !plain {
            return Err(());
        }
        text.parse().map(Self).map_err(|_| ())
    }
}

/// A name for a version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Stage {
    /// What readers get.
    Current,
    /// What readers got before.
    Previous,
    /// A candidate, staged.
    Next,
}

impl Stage {
    /// All stages, in the order they are listed.
    pub const ALL: [Self; 3] = [Self::Current, Self::Previous, Self::Next];

    /// The name, which is also the name of the symlink.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Current => "current",
            Self::Previous => "previous",
            Self::Next => "next",
        }
    }

    /// The stage of that name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|stage| stage.as_str() == name)
    }
}

impl fmt::Display for Stage {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.as_str())
    }
}

/// A set of stages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct StageSet(u8);

impl StageSet {
    /// No stage.
    pub const EMPTY: Self = Self(0);

    /// A set of one.
    #[must_use]
    pub const fn of(stage: Stage) -> Self {
        Self(1 << stage as u8)
    }

    /// This set and `stage`.
    #[must_use]
    pub const fn with(self, stage: Stage) -> Self {
        Self(self.0 | Self::of(stage).0)
    }

    /// What is in either.
    #[must_use]
    pub const fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// What is in both.
    #[must_use]
    pub const fn intersection(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    /// Whether `stage` is in it.
    #[must_use]
    pub const fn contains(self, stage: Stage) -> bool {
        self.0 & Self::of(stage).0 != 0
    }

    /// Whether nothing is in it.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// What is in it, in the order of [`Stage::ALL`].
    pub fn iter(self) -> impl Iterator<Item = Stage> {
        Stage::ALL.into_iter().filter(move |stage| self.contains(*stage))
    }
}

/// How one version stands towards the stages: what policy needs to know of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Standing {
    /// Stages that name it now.
    pub held: StageSet,
    /// Stages it lost and when; readers may finish with it for `retire_after` from then.
    pub lost: Option<(UnixTime, StageSet)>,
}

impl Standing {
    /// The standing of a version that `stage` names.
    #[must_use]
    pub const fn at(stage: Stage) -> Self {
        Self { held: StageSet::of(stage), lost: None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_one_way_of_writing_a_version_is_read() {
        assert_eq!("7".parse(), Ok(Version::new(7).unwrap()));
        for text in ["", "0", "07", "+7", " 7", "7 ", "4294967296", "-1", "x"] {
            assert_eq!(Version::from_str(text), Err(()), "{text:?}");
        }
    }

    #[test]
    fn a_set_lists_its_stages_in_order() {
        let set = StageSet::of(Stage::Next).with(Stage::Current);
        assert_eq!(set.iter().collect::<Vec<_>>(), [Stage::Current, Stage::Next]);
        assert!(set.intersection(StageSet::of(Stage::Previous)).is_empty());
    }
}
