//! Which secrets have versions that wait to be erased, because more are kept than asked for.

use std::collections::{BTreeMap, BTreeSet};

use crate::model::{Secret, UnixTime};
use crate::store::semantics::surplus;

/// The secrets that have a version too many, by when the first of those lost its last stage.
#[derive(Default)]
pub(super) struct Retirement {
    /// How many versions with bytes to keep; 0: all.
    keep: u32,
    since: BTreeMap<i64, UnixTime>,
    order: BTreeSet<(UnixTime, i64)>,
}

impl Retirement {
    pub(super) fn keeping(keep: u32) -> Self {
        Self { keep, ..Self::default() }
    }

    /// Takes note of what the secret of row `id` is now; `None`: gone.
    pub(super) fn note(&mut self, id: i64, secret: Option<&Secret>) {
        if self.keep == 0 {
            return;
        }
        self.forget(id);
        let first =
            secret.and_then(|secret| surplus(secret, self.keep).into_iter().map(|(_, lost)| lost).min());
        if let Some(lost) = first {
            self.since.insert(id, lost);
            self.order.insert((lost, id));
        }
    }

    /// Stops waiting for a secret, until it changes.
    pub(super) fn forget(&mut self, id: i64) {
        if let Some(lost) = self.since.remove(&id) {
            self.order.remove(&(lost, id));
        }
    }

    /// Whether [`Self::due`] finds anything.
    pub(super) fn is_due(&self, since: UnixTime) -> bool {
        self.order.first().is_some_and(|(lost, _)| *lost < since)
    }

    /// The rows of secrets with a version to be erased that lost its last stage before `since`; the first `count_max`.
    pub(super) fn due(&self, since: UnixTime, count_max: usize) -> Vec<i64> {
        let before = self.order.range(..(since, i64::MIN));
        before.map(|(_, id)| *id).take(count_max).collect()
    }
}
