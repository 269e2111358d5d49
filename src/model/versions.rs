//! The versions of one secret, in pieces that copies share: a secret with thousands of them is changed at the price of
//! one piece.

use std::collections::BTreeMap;
use std::ops::Index;
use std::sync::Arc;

use super::{Version, VersionInfo};

/// How many versions one piece holds. A change copies a piece or two, and a list of pieces as long as the number of
/// versions over this.
const PIECE_LENGTH: usize = 64;

/// Versions, ordered by number. A copy shares every piece in which nothing is changed.
#[derive(Debug, Clone, Eq, Default)]
pub struct Versions {
    /// Each but the last has [`PIECE_LENGTH`] versions; none is empty.
    pieces: Vec<Arc<[VersionInfo]>>,
}

/// One version before and after a change; `None` where it was not there.
pub type Difference<'a> = (Option<&'a VersionInfo>, Option<&'a VersionInfo>);

impl Versions {
    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.pieces.last().map_or(0, |last| (self.pieces.len() - 1) * PIECE_LENGTH + last.len())
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.pieces.is_empty()
    }

    /// The version of that number.
    #[must_use]
    pub fn get(&self, number: Version) -> Option<&VersionInfo> {
        let (piece, at) = self.place(number)?;
        self.pieces.get(piece)?.get(at)
    }

    /// The version of that number, to be changed.
    pub fn get_mut(&mut self, number: Version) -> Option<&mut VersionInfo> {
        let (piece, at) = self.place(number)?;
        Arc::make_mut(self.pieces.get_mut(piece)?).get_mut(at)
    }

    fn place(&self, number: Version) -> Option<(usize, usize)> {
        let begins_before =
            |piece: &Arc<[VersionInfo]>| piece.first().is_some_and(|one| one.number <= number);
        let piece = self.pieces.partition_point(begins_before).checked_sub(1)?;
        let at = self.pieces.get(piece)?.binary_search_by(|one| one.number.cmp(&number)).ok()?;
        Some((piece, at))
    }

    /// Adds the newest version.
    pub fn push(&mut self, version: VersionInfo) {
        match self.pieces.last_mut() {
            Some(last) if last.len() < PIECE_LENGTH => {
                *last = last.iter().cloned().chain([version]).collect();
            }
            _ => self.pieces.push(Arc::new([version])),
        }
    }

    /// Forgets all.
    pub fn clear(&mut self) {
        self.pieces.clear();
    }

    /// From the oldest to the newest.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = &VersionInfo> {
        self.pieces.iter().flat_map(|piece| piece.iter())
    }

    /// What is another in `after`, by number. Pieces that both share are not looked into.
    #[must_use]
    pub fn differences<'a>(&'a self, after: &'a Self) -> Vec<Difference<'a>> {
        let mut found: BTreeMap<Version, Difference<'a>> = BTreeMap::new();
        for at in 0..self.pieces.len().max(after.pieces.len()) {
            let (old, new) = (self.pieces.get(at), after.pieces.get(at));
            if old.zip(new).is_some_and(|(old, new)| Arc::ptr_eq(old, new)) {
                continue;
            }
            for version in old.into_iter().flat_map(|piece| piece.iter()) {
                found.entry(version.number).or_default().0 = Some(version);
            }
            for version in new.into_iter().flat_map(|piece| piece.iter()) {
                found.entry(version.number).or_default().1 = Some(version);
            }
        }
        found.into_values().filter(|(old, new)| old != new).collect()
    }
}

impl PartialEq for Versions {
    /// Pieces that both share are not looked into: two states of one secret differ in a piece or two.
    fn eq(&self, other: &Self) -> bool {
        // `Arc<[T]>` itself compares element by element, also with itself.
        let same = |(ours, theirs): (&Arc<[VersionInfo]>, &Arc<[VersionInfo]>)| {
            Arc::ptr_eq(ours, theirs) || {
                #[cfg(test)]
                tests::LOOKED_INTO.set(tests::LOOKED_INTO.get() + 1);
                ours[..] == theirs[..]
            }
        };
        self.pieces.len() == other.pieces.len() && self.pieces.iter().zip(&other.pieces).all(same)
    }
}

impl Index<usize> for Versions {
    type Output = VersionInfo;

    /// By place, the oldest first.
    fn index(&self, at: usize) -> &VersionInfo {
        &self.pieces[at / PIECE_LENGTH][at % PIECE_LENGTH]
    }
}

impl FromIterator<VersionInfo> for Versions {
    /// `versions` must be in the order of their numbers.
    fn from_iter<I: IntoIterator<Item = VersionInfo>>(versions: I) -> Self {
        let mut pieces = Vec::new();
        let mut piece = Vec::new();
        for version in versions {
            piece.push(version);
            if piece.len() == PIECE_LENGTH {
                pieces.push(piece.drain(..).collect());
            }
        }
        if !piece.is_empty() {
            pieces.push(piece.into());
        }
        pieces.shrink_to_fit();
        Self { pieces }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;
    use crate::model::{State, UnixTime};

    thread_local! {
        /// Pieces that comparisons had to look into.
        pub(super) static LOOKED_INTO: Cell<usize> = const { Cell::new(0) };
    }

    fn number(number: usize) -> Version {
        Version::new(u32::try_from(number).unwrap()).unwrap()
    }

    fn info(at: usize) -> VersionInfo {
        VersionInfo {
            number: number(at),
            created: UnixTime::from_micros(7),
            activated: None,
            lost: None,
            state: State::Active,
            revoked: false,
            fields: [].into(),
        }
    }

    #[test]
    fn pieces_hold_what_a_plain_list_holds() {
        for first in [1, 90] {
            for length in [0, 1, 63, 64, 65, 128, 200] {
                let all: Vec<_> = (first..first + length).map(info).collect();
                let mut pushed = Versions::default();
                all.iter().cloned().for_each(|version| pushed.push(version));
                let collected: Versions = all.iter().cloned().collect();
                assert_eq!(pushed, collected);
                assert_eq!((pushed.len(), pushed.is_empty()), (length, length == 0));
                assert!(pushed.iter().eq(all.iter()));
                assert!(pushed.iter().rev().eq(all.iter().rev()));
                for (at, version) in all.iter().enumerate() {
                    assert_eq!(&pushed[at], version);
                    assert_eq!(pushed.get(version.number), Some(version));
                }
                assert!(pushed.get(number(first + length)).is_none());
                assert!(first == 1 || pushed.get(number(first - 1)).is_none());
            }
        }
    }

    #[test]
    fn comparing_two_states_of_a_secret_looks_into_what_was_touched_alone() {
        let before: Versions = (1..=2_000).map(info).collect();
        let mut after = before.clone();
        assert_eq!(before, after);
        assert_eq!(LOOKED_INTO.take(), 0);
        after.get_mut(number(1_000)).unwrap().revoked = false;
        assert_eq!(before, after);
        assert_eq!(LOOKED_INTO.take(), 1);
        after.get_mut(number(1_000)).unwrap().revoked = true;
        assert_ne!(before, after);
        let alike: Versions = (1..=2_000).map(info).collect();
        assert_eq!(before, alike);
        after.push(info(2_001));
        assert_ne!(before, after);
    }

    #[test]
    fn differences_are_what_changed_came_and_went_and_the_rest_is_shared() {
        let before: Versions = (1..=200).map(info).collect();
        let mut after = before.clone();
        assert!(before.differences(&after).is_empty());
        after.get_mut(number(3)).unwrap().state = State::Revoked;
        // Written and the same again is no difference.
        after.get_mut(number(150)).unwrap().state = State::Active;
        after.push(info(201));
        assert_eq!(before.get(number(3)).unwrap().state, State::Active, "a copy is changed alone");
        let numbers = |found: Vec<Difference<'_>>| -> Vec<(Option<Version>, Option<Version>)> {
            found
                .into_iter()
                .map(|(old, new)| (old.map(|one| one.number), new.map(|one| one.number)))
                .collect()
        };
        let (third, last) = (Some(number(3)), Some(number(201)));
        assert_eq!(numbers(before.differences(&after)), [(third, third), (None, last)]);
        assert_eq!(numbers(after.differences(&before)), [(third, third), (last, None)]);
        let shared =
            before.pieces.iter().zip(&after.pieces).filter(|(old, new)| Arc::ptr_eq(old, new)).count();
        assert_eq!(shared, 1, "of four pieces, three were touched");
        assert_eq!(before.differences(&Versions::default()).len(), 200);
    }
}
