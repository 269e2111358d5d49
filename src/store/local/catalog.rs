//! What is known of every secret, in memory: read at open, kept in step by every change, free of values.

use std::borrow::Borrow;
use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::sync::Arc;

use super::retirement::Retirement;
use crate::model::{FieldNode, Secret, SecretPath, UnixTime, Version, VersionInfo, Versions};
use crate::store::{StoreFault, Wanted};

/// A secret, ordered and found by its path.
struct ByPath {
    id: i64,
    secret: Arc<Secret>,
}

impl Borrow<str> for ByPath {
    fn borrow(&self) -> &str {
        self.secret.path.as_str()
    }
}

impl PartialEq for ByPath {
    fn eq(&self, other: &Self) -> bool {
        self.secret.path == other.secret.path
    }
}

impl Eq for ByPath {}

impl PartialOrd for ByPath {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for ByPath {
    fn cmp(&self, other: &Self) -> Ordering {
        self.secret.path.as_str().cmp(other.secret.path.as_str())
    }
}

/// The nodes of one version are a run, in the order of its fields' names. Ordered by `first`: nodes only rise.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Run {
    first: u32,
    version: Version,
    id: i64,
}

/// All secrets of a store.
#[derive(Default)]
pub(super) struct Catalog {
    secrets: BTreeSet<ByPath>,
    by_id: BTreeMap<i64, Arc<Secret>>,
    runs: Vec<Run>,
    /// Paths that may be used again: their numbers go on.
    freed: BTreeMap<SecretPath, i64>,
    /// Rows that do not prove themselves: the path they show, and what is wrong.
    pub(super) damaged: BTreeMap<String, String>,
    /// Whether rows are missing, so that a path that is not found may have been one of them.
    pub(super) incomplete: bool,
    /// Secrets with versions to be erased.
    pub(super) retirement: Retirement,
}

impl Catalog {
    /// The secret at `path`, with its row.
    pub(super) fn get(&self, path: &SecretPath) -> Option<(i64, &Arc<Secret>)> {
        self.secrets.get(path.as_str()).map(|found| (found.id, &found.secret))
    }

    /// The row that goes with `path`: a secret's, or that of a freed path. A fault where damage hides the answer.
    pub(super) fn row_of(&self, path: &SecretPath) -> Result<Option<i64>, StoreFault> {
        if let Some((id, _)) = self.get(path) {
            return Ok(Some(id));
        }
        if let Some(id) = self.freed.get(path) {
            return Ok(Some(*id));
        }
        self.vouch_for_absence(path)?;
        Ok(None)
    }

    /// A fault where it cannot be said that `path` does not exist.
    pub(super) fn vouch_for_absence(&self, path: &SecretPath) -> Result<(), StoreFault> {
        if let Some(reason) = self.damaged.get(path.as_str()) {
            return Err(StoreFault::Corrupt(reason.clone()));
        }
        if !self.freed.contains_key(path) && (self.incomplete || !self.damaged.is_empty()) {
            return Err(StoreFault::Corrupt(format!(
                "{path} is not found, but other rows of the store are damaged or missing and it may be among them: \
                 see `credfs doctor`, and restore a backup"
            )));
        }
        Ok(())
    }

    /// Sets what is known of a row; `None`: its path is freed.
    pub(super) fn set(&mut self, id: i64, path: &SecretPath, secret: Option<Arc<Secret>>) {
        let none = Versions::default();
        let before = self.by_id.get(&id).cloned();
        let before = before.as_ref().map_or(&none, |before| &before.versions);
        let after = secret.as_ref().map_or(&none, |secret| &secret.versions);
        for (was, now) in before.differences(after) {
            let first = |version: &VersionInfo| version.fields.first().map(|field| field.node.get());
            match (was.and_then(first), now.and_then(first)) {
                (Some(gone), None) => self.forget_run(gone),
                (None, Some(first)) => now.into_iter().for_each(|now| self.note_run(id, now.number, first)),
                _ => {}
            }
        }
        self.retirement.note(id, secret.as_deref());
        self.secrets.remove(path.as_str());
        match secret {
            Some(secret) => {
                self.freed.remove(path);
                self.by_id.insert(id, Arc::clone(&secret));
                self.secrets.insert(ByPath { id, secret });
            }
            None => {
                self.by_id.remove(&id);
                self.freed.insert(path.clone(), id);
            }
        }
    }

    /// Adds a secret while everything is loaded; [`Self::loaded`] ends that.
    pub(super) fn load(&mut self, id: i64, secret: Arc<Secret>) {
        for version in secret.versions.iter() {
            if let Some(field) = version.fields.first() {
                self.runs.push(Run { first: field.node.get(), version: version.number, id });
            }
        }
        self.by_id.insert(id, Arc::clone(&secret));
        self.secrets.insert(ByPath { id, secret });
    }

    /// Adds a freed path while everything is loaded.
    pub(super) fn load_freed(&mut self, id: i64, path: SecretPath) {
        self.freed.insert(path, id);
    }

    /// Puts in order what was loaded in the order of rows.
    pub(super) fn loaded(&mut self) {
        self.runs.sort_unstable();
        self.runs.shrink_to_fit();
    }

    /// Keeps only so many versions of each secret from now on (0: all).
    pub(super) fn keep(&mut self, versions: u32) {
        self.retirement = Retirement::keeping(versions);
        self.by_id.iter().for_each(|(id, secret)| self.retirement.note(*id, Some(secret)));
    }

    /// Secrets with a version to be erased that lost its last stage before `since`.
    pub(super) fn due(&self, since: UnixTime, count_max: usize) -> Vec<(i64, Arc<Secret>)> {
        let due = self.retirement.due(since, count_max).into_iter();
        due.filter_map(|id| Some((id, Arc::clone(self.by_id.get(&id)?)))).collect()
    }

    fn note_run(&mut self, id: i64, version: Version, first: u32) {
        // A new version's nodes are the largest yet, so this is an append.
        if let Err(at) = self.runs.binary_search_by_key(&first, |run| run.first) {
            self.runs.insert(at, Run { first, version, id });
        }
    }

    fn forget_run(&mut self, first: u32) {
        if let Ok(at) = self.runs.binary_search_by_key(&first, |run| run.first) {
            self.runs.remove(at);
        }
    }

    /// What a node stands for.
    pub(super) fn node(&self, node: FieldNode) -> Option<Wanted> {
        let after = self.runs.partition_point(|run| run.first <= node.get());
        let run = self.runs.get(after.checked_sub(1)?)?;
        let secret = self.by_id.get(&run.id)?;
        let version = secret.version(run.version)?;
        let at = version.fields.binary_search_by_key(&node, |field| field.node).ok()?;
        let field = version.fields.get(at)?.name.clone();
        Some(Wanted { secret: secret.path.clone(), version: run.version, field })
    }

    /// The largest node there is; 0 if there is none.
    pub(super) fn largest_node(&self) -> u32 {
        let last = self.runs.last().and_then(|run| self.by_id.get(&run.id)?.version(run.version));
        last.and_then(|version| version.fields.last()).map_or(0, |field| field.node.get())
    }

    /// Visits in byte order of paths, from `prefix` on and while it holds.
    pub(super) fn visit(&self, prefix: &str, visit: &mut dyn FnMut(&Arc<Secret>) -> bool) {
        for found in self.secrets.range::<str, _>((Bound::Included(prefix), Bound::Unbounded)) {
            if !found.secret.path.as_str().starts_with(prefix) || !visit(&found.secret) {
                return;
            }
        }
    }

    /// How many secrets and versions there are.
    pub(super) fn count(&self) -> (u64, u64) {
        let versions = self.by_id.values().map(|secret| secret.versions.len() as u64).sum();
        (self.by_id.len() as u64, versions)
    }

    /// Every secret with its row.
    pub(super) fn all(&self) -> Vec<(i64, Arc<Secret>)> {
        self.by_id.iter().map(|(id, secret)| (*id, Arc::clone(secret))).collect()
    }
}
