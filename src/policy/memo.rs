//! Which grants are about a path, remembered: the same few paths are asked for again and again.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::RwLock;

use super::grant::Verbs;
use crate::model::SecretPath;

/// Most that the paths remembered may take, in bytes. Forgotten all at once when full: the working set is back
/// after one look each.
const BYTES_MAX: usize = 1024 * 1024;
/// What an entry takes beside its text and candidates, in bytes, roughly.
const ENTRY_BYTES: usize = 96;

/// One identity that one grant names, for a path that the grant is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Candidate {
    pub(super) grant: u32,
    pub(super) identity: u32,
    pub(super) verbs: Verbs,
}

/// In the order of asking: freer grants first, then cheaper identities, then the order of the files.
pub(super) type Candidates = Arc<[Candidate]>;

#[derive(Debug, Default)]
struct Remembered {
    by_path: HashMap<SecretPath, Candidates>,
    bytes: usize,
}

/// The memory. Guards: nothing but itself; losing it costs only time.
#[derive(Debug, Default)]
pub(super) struct Memo(RwLock<Remembered>);

impl Memo {
    /// What is remembered of `path`, else what `find` says, remembered unless it is empty: names that nobody is
    /// granted are countless, and would drive out those that are.
    pub(super) fn candidates(&self, path: &SecretPath, find: impl FnOnce() -> Vec<Candidate>) -> Candidates {
        if let Some(known) = self.0.read().by_path.get(path) {
            return Arc::clone(known);
        }
        let found: Candidates = find().into();
        if !found.is_empty() {
            let bytes = path.as_str().len() + size_of_val(&*found) + ENTRY_BYTES;
            let mut remembered = self.0.write();
            if remembered.bytes + bytes > BYTES_MAX {
                *remembered = Remembered::default();
            }
            if remembered.by_path.insert(path.clone(), Arc::clone(&found)).is_none() {
                remembered.bytes += bytes;
            }
        }
        found
    }

    #[cfg(test)]
    pub(super) fn bytes(&self) -> usize {
        self.0.read().bytes
    }
}
