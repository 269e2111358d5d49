//! Making a change: one transaction, then memory, then those who watch.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use parking_lot::MutexGuard;
use rusqlite::{Connection, Transaction, TransactionBehavior};

use super::commitment::VersionSum;
use super::record::Held;
use super::rows::{self, Summed};
use super::seal::Keys;
use super::{Inner, Located, database, unseal};
use crate::model::{FieldName, FieldNode, Secret, SecretBytes, SecretPath, State, Version, VersionInfo};
use crate::store::sealed::Key;
use crate::store::semantics::{Around, Done, apply, retire};
use crate::store::{Change, Changed, StoreFault, Wanted};

/// How many secrets have versions erased in one transaction.
const RETIRED_TOGETHER_MAX: usize = 64;

/// One secret before and after a change.
struct Step {
    /// Its row; `None`: it gets one.
    row: Option<i64>,
    /// What was known of it; `None`: its path is new or was free.
    known: Option<Arc<Secret>>,
    before: Held,
    after: Held,
    /// Of the version rows as they were.
    sum: VersionSum,
}

/// What a change left in the database.
struct Written {
    id: i64,
    known: Option<Arc<Secret>>,
    after: Held,
    /// Nodes whose bytes are erased.
    erased: Vec<FieldNode>,
    /// About how many pages the log grew by.
    pages: u64,
}

impl Inner {
    /// Makes one change. Those who watch are called before it returns, in the order of changes.
    pub(super) fn make(&self, change: &Change) -> Result<Changed, StoreFault> {
        let path = change.secret();
        let mut writer = self.writer.lock();
        let (row, known) = {
            let catalog = self.catalog.read();
            (catalog.row_of(path)?, catalog.get(path).map(|(_, secret)| Arc::clone(secret)))
        };
        let keys = self.keys.read();
        let transaction = self.begin(&mut writer)?;
        let mut counters = database::counters(&transaction, &self.options.path, &keys)?;
        let counted = counters;
        let mut step = self.step(&transaction, &keys, path, row, known)?;
        let now = (self.options.clock)();
        let done = apply(&mut step.after, change, &mut Around { now, next_node: &mut counters.next_node })?;
        if step.after == step.before {
            return Ok(self.changed(step.known.clone(), step.known, done));
        }
        counters.secrets += u64::from(row.is_none());
        let source = Source { change, base: done.base };
        let written = self.write(&transaction, &keys, step, Some(&source))?;
        let failed = |error: rusqlite::Error| database::fault(&self.options.path, &error);
        if counters != counted {
            database::set_counters(&transaction, &keys, counters).map_err(failed)?;
        }
        transaction.commit().map_err(failed)?;
        drop(keys);
        let erases = !written.erased.is_empty() || matches!(change, Change::Destroy { .. });
        let (before, after) = self.put_in_force(written);
        if erases {
            self.erase_log(&writer);
        }
        let changed = self.changed(before, after, done);
        self.watchers.read().iter().for_each(|watcher| watcher(&changed));
        Ok(changed)
    }

    /// Erases versions beyond those to be kept that lost their last stage long enough ago. Returns how many secrets
    /// it did so for.
    pub(super) fn retire(&self) -> Result<u64, StoreFault> {
        let mut count = 0;
        // One at a time is enough: it goes on until nothing is due.
        let Some(_turn) = self.retiring.try_lock() else { return Ok(0) };
        loop {
            let retired = self.retire_some()?;
            if retired == 0 {
                return Ok(count);
            }
            count += retired;
        }
    }

    pub(super) fn has_versions_to_retire(&self) -> bool {
        let since = (self.options.clock)().minus(*self.erase_after.lock());
        self.catalog.read().retirement.is_due(since)
    }

    fn retire_some(&self) -> Result<u64, StoreFault> {
        let mut writer = self.writer.lock();
        let now = (self.options.clock)();
        let since = now.minus(*self.erase_after.lock());
        let due = self.catalog.read().due(since, RETIRED_TOGETHER_MAX);
        if due.is_empty() {
            return Ok(0);
        }
        let keys = self.keys.read();
        let transaction = self.begin(&mut writer)?;
        let mut all = Vec::with_capacity(due.len());
        for (id, secret) in due {
            let written = self
                .step(&transaction, &keys, &secret.path, Some(id), Some(Arc::clone(&secret)))
                .and_then(|mut step| {
                    retire(&mut step.after, self.options.keep_versions, since, now);
                    self.write(&transaction, &keys, step, None)
                });
            match written {
                Ok(written) => all.push(written),
                Err(fault) => {
                    // It must not keep the others from being erased, at the next try.
                    self.catalog.write().retirement.forget(id);
                    return Err(fault);
                }
            }
        }
        transaction.commit().map_err(|error| database::fault(&self.options.path, &error))?;
        drop(keys);
        let count = all.len() as u64;
        let all: Vec<_> = all.into_iter().map(|written| self.put_in_force(written)).collect();
        self.erase_log(&writer);
        for (before, after) in all {
            let changed = self.changed(before, after, Done::default());
            self.watchers.read().iter().for_each(|watcher| watcher(&changed));
        }
        Ok(count)
    }

    fn begin<'a>(&self, writer: &'a mut MutexGuard<'_, Connection>) -> Result<Transaction<'a>, StoreFault> {
        let begun = writer.transaction_with_behavior(TransactionBehavior::Immediate);
        begun.map_err(|error| database::fault(&self.options.path, &error))
    }

    fn changed(&self, before: Option<Arc<Secret>>, after: Option<Arc<Secret>>, done: Done) -> Changed {
        Changed {
            store: Arc::clone(&self.options.name),
            before,
            after,
            version: done.version,
            carried: done.carried,
        }
    }

    /// The secret as the database holds it, which must be as it is known. Its versions are taken as known: each row
    /// that is changed must be the known one, and the others stay in the sum as they were when they were proven.
    fn step(
        &self,
        connection: &Connection,
        keys: &Keys,
        path: &SecretPath,
        row: Option<i64>,
        known: Option<Arc<Secret>>,
    ) -> Result<Step, StoreFault> {
        let Some(id) = row else {
            let before = Held::unused(path.clone());
            return Ok(Step { row, known, after: before.clone(), before, sum: VersionSum::default() });
        };
        let found = rows::secret_row(connection, &self.options.path, keys, id)?;
        let Some(Summed { held: mut before, sum }) = found else { return Err(changed_outside(path)) };
        match &known {
            Some(known) => before.secret.versions = known.versions.clone(),
            None if before.freed => {}
            None => return Err(changed_outside(path)),
        }
        let is_as_known = known.as_deref().is_none_or(|known| *known == before.secret);
        if !is_as_known || before.secret.path != *path {
            return Err(changed_outside(path));
        }
        Ok(Step { row, known, after: before.clone(), before, sum })
    }

    /// Writes what differs. What a new version holds comes from `source`.
    fn write(
        &self,
        connection: &Connection,
        keys: &Keys,
        step: Step,
        source: Option<&Source<'_>>,
    ) -> Result<Written, StoreFault> {
        let file = self.options.path.as_path();
        let failed = |error: rusqlite::Error| database::fault(file, &error);
        let Step { row, known, before, after, mut sum } = step;
        let path = after.secret.path.clone();
        let now_there = after.secret.versions.clone();
        let differences = before.secret.versions.differences(&now_there);
        for (was, now) in &differences {
            sum = was.map_or(sum, |was| sum.without(keys, &rows::code_of(keys, &path, was)));
            sum = now.map_or(sum, |now| sum.with(keys, &rows::code_of(keys, &path, now)));
        }
        let summed = Summed { held: after, sum };
        let id = rows::set_secret(connection, file, keys, row, &summed)?;
        let (mut erased, mut pages) = (Vec::new(), 4);
        for (was, now) in differences {
            let is_as_known = match (was, now) {
                (None, Some(now)) => {
                    pages += add_version(connection, file, keys, id, &before.secret, now, source)?;
                    true
                }
                (Some(was), Some(now)) => {
                    rows::change_version(connection, keys, id, &path, was, now).map_err(failed)?
                }
                (Some(was), None) => {
                    rows::remove_version(connection, keys, id, &path, was).map_err(failed)?
                }
                (None, None) => true,
            };
            if !is_as_known {
                return Err(changed_outside(&path));
            }
            if let Some(was) = was.filter(|_| now.is_none_or(|now| now.state == State::Destroyed)) {
                for field in was.fields.iter() {
                    rows::remove_value(connection, field.node.get()).map_err(failed)?;
                    erased.push(field.node);
                }
            }
        }
        Ok(Written { id, known, after: summed.held, erased, pages })
    }

    /// Has readers see what was committed. Returns what is known of the secret before and after.
    fn put_in_force(&self, written: Written) -> (Option<Arc<Secret>>, Option<Arc<Secret>>) {
        let Written { id, known, after, erased, pages } = written;
        let path = after.secret.path.clone();
        let after = (!after.freed).then(|| Arc::new(after.secret));
        {
            let mut catalog = self.catalog.write();
            catalog.set(id, &path, after.clone());
            let mut values = self.values.lock();
            erased.iter().for_each(|node| values.remove(*node));
        }
        self.log_pages.fetch_add(pages, Ordering::Relaxed);
        (known, after)
    }

    /// The log still holds the pages as they were; erased means erased there too.
    fn erase_log(&self, writer: &Connection) {
        match database::erase_log(writer) {
            Ok(()) => self.log_pages.store(0, Ordering::Relaxed),
            Err(error) => tracing::warn!(%error, "the log of the store still holds what was destroyed"),
        }
    }
}

fn changed_outside(path: &SecretPath) -> StoreFault {
    StoreFault::Corrupt(format!("{path} was changed from outside while the store was open"))
}

/// Where the values of a new version come from.
struct Source<'a> {
    change: &'a Change,
    base: Option<Version>,
}

impl Source<'_> {
    fn given(&self, field: &FieldName) -> Option<&SecretBytes> {
        let Change::Put { fields, .. } = self.change else { return None };
        fields.iter().find(|(name, _)| name == field).map(|(_, value)| value)
    }
}

/// Opens a value of the version before, to be sealed anew.
fn carried(
    connection: &Connection,
    path: &Path,
    keys: &Keys,
    id: i64,
    before: &Secret,
    base: Option<Version>,
    field: &FieldName,
) -> Result<SecretBytes, StoreFault> {
    let found = base
        .and_then(|base| before.version(base))
        .and_then(|base| base.field(field).map(|info| (base.number, info.node, info.bytes)));
    let Some((version, node, bytes)) = found else {
        return Err(StoreFault::Corrupt(format!("{path:?}: a field to carry over is missing")));
    };
    let wanted = Wanted { secret: before.path.clone(), version, field: field.clone() };
    let sealed = rows::sealed_value(connection, id, version, node.get())
        .map_err(|error| database::fault(path, &error))?
        .ok_or_else(|| super::damaged(&wanted, "is missing"))?;
    let located = Located { id, node, bytes };
    unseal(keys, &wanted, &located, &sealed)
}

/// Stores a new version; returns about how many pages its values take.
fn add_version(
    connection: &Connection,
    path: &Path,
    keys: &Keys,
    id: i64,
    before: &Secret,
    version: &VersionInfo,
    source: Option<&Source<'_>>,
) -> Result<u64, StoreFault> {
    let failed = |error: rusqlite::Error| database::fault(path, &error);
    let secret = &before.path;
    let (key, wrapped): (Key, _) = keys.new_data_key(secret, version.number)?;
    rows::add_version(connection, keys, id, secret, version, &wrapped).map_err(failed)?;
    let mut pages = 0;
    for field in version.fields.iter() {
        let base = source.and_then(|source| source.base);
        let carried_over;
        let value = if let Some(given) = source.and_then(|source| source.given(&field.name)) {
            given
        } else {
            carried_over = carried(connection, path, keys, id, before, base, &field.name)?;
            &carried_over
        };
        let sealed = keys.seal_value(&key, secret, version.number, &field.name, value)?;
        pages += sealed.len() as u64 / 4096;
        rows::add_value(connection, field.node.get(), &sealed).map_err(failed)?;
    }
    Ok(pages)
}
