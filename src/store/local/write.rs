//! Making a change: one transaction, then memory, then those who watch.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use rusqlite::{Connection, TransactionBehavior};

use super::key::Key;
use super::record::Held;
use super::seal::Keys;
use super::semantics::{Around, Done, apply};
use super::{Inner, Located, database, unseal};
use crate::model::{FieldNode, SecretBytes, State, Version, VersionInfo};
use crate::store::{Change, Changed, StoreFault, Wanted};

/// What a change left in the database.
struct Written {
    id: i64,
    after: Held,
    done: Done,
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
        let (row, before) = {
            let catalog = self.catalog.read();
            (catalog.row_of(path)?, catalog.get(path).map(|(_, secret)| Arc::clone(secret)))
        };
        let keys = self.keys.read();
        let held = self.reload(&writer, &keys, change, row, before.as_deref())?;
        let written = self.write(&mut writer, &keys, row, &held, change)?;
        drop(keys);
        let after = (!written.after.freed).then(|| Arc::new(written.after.secret));
        let changed = Changed {
            store: Arc::clone(&self.options.name),
            before: before.clone(),
            after: after.clone(),
            version: written.done.version,
            carried: written.done.carried,
        };
        if before == after {
            return Ok(changed);
        }
        {
            let mut catalog = self.catalog.write();
            catalog.set(written.id, path, after);
            let mut values = self.values.lock();
            written.erased.iter().for_each(|node| values.remove(*node));
        }
        self.log_pages.fetch_add(written.pages, Ordering::Relaxed);
        if !written.erased.is_empty() || matches!(change, Change::Destroy { .. }) {
            // The log still holds the pages as they were; erased means erased there too.
            match database::checkpoint(&writer, true) {
                Ok(_) => self.log_pages.store(0, Ordering::Relaxed),
                Err(error) => tracing::warn!(%error, "the log of the store still holds what was destroyed"),
            }
        }
        self.watchers.read().iter().for_each(|watcher| watcher(&changed));
        Ok(changed)
    }

    /// The secret as the database holds it, which must be as it is known.
    fn reload(
        &self,
        writer: &Connection,
        keys: &Keys,
        change: &Change,
        row: Option<i64>,
        known: Option<&crate::model::Secret>,
    ) -> Result<Held, StoreFault> {
        let path = change.secret();
        let Some(id) = row else { return Ok(Held::unused(path.clone())) };
        let held = database::load_one(writer, &self.options.path, keys, id)?;
        held.filter(|held| known.is_none_or(|known| *known == held.secret) && held.secret.path == *path)
            .ok_or_else(|| {
                StoreFault::Corrupt(format!("{path} was changed from outside while the store was open"))
            })
    }

    fn write(
        &self,
        writer: &mut Connection,
        keys: &Keys,
        row: Option<i64>,
        before: &Held,
        change: &Change,
    ) -> Result<Written, StoreFault> {
        let failed = |error: rusqlite::Error| database::fault(&self.options.path, &error);
        let transaction = writer.transaction_with_behavior(TransactionBehavior::Immediate).map_err(failed)?;
        let mut counters = database::counters(&transaction, &self.options.path, keys)?;
        let counted = counters;
        let mut after = before.clone();
        let mut around = Around {
            now: (self.options.clock)(),
            next_node: &mut counters.next_node,
            keep_versions: self.options.keep_versions,
        };
        let done = apply(&mut after, change, &mut around)?;
        let mut written = Written { id: row.unwrap_or(0), after, done, erased: Vec::new(), pages: 4 };
        if written.after == *before {
            return Ok(written);
        }
        counters.secrets += u64::from(row.is_none());
        written.id = database::set_secret(&transaction, keys, row, &written.after).map_err(failed)?;
        self.write_versions(&transaction, keys, before, change, &mut written)?;
        if counters != counted {
            database::set_counters(&transaction, keys, counters).map_err(failed)?;
        }
        transaction.commit().map_err(failed)?;
        Ok(written)
    }

    fn write_versions(
        &self,
        connection: &Connection,
        keys: &Keys,
        before: &Held,
        change: &Change,
        written: &mut Written,
    ) -> Result<(), StoreFault> {
        let failed = |error: rusqlite::Error| database::fault(&self.options.path, &error);
        let id = written.id;
        for version in &written.after.secret.versions {
            let was = before.secret.version(version.number);
            let revoked = |held: &Held| held.revoked.contains(&version.number);
            if was.is_none() {
                let source = Source { id, before, change, base: written.done.base };
                written.pages +=
                    add_version(connection, &self.options.path, keys, &written.after, version, &source)?;
            } else if was != Some(version) || revoked(before) != revoked(&written.after) {
                database::set_version(connection, keys, id, &written.after, version, None).map_err(failed)?;
            }
        }
        for was in &before.secret.versions {
            let now = written.after.secret.version(was.number);
            if now.is_some_and(|now| now.state != State::Destroyed || was.state == State::Destroyed) {
                continue;
            }
            for field in was.fields.iter() {
                database::remove_value(connection, field.node.get()).map_err(failed)?;
                written.erased.push(field.node);
            }
            if now.is_some() {
                database::set_key(connection, id, was.number, None).map_err(failed)?;
            } else {
                database::remove_version(connection, id, was.number).map_err(failed)?;
            }
        }
        Ok(())
    }
}

/// Where the values of a new version come from.
struct Source<'a> {
    id: i64,
    before: &'a Held,
    change: &'a Change,
    base: Option<Version>,
}

impl Source<'_> {
    fn given(&self, field: &crate::model::FieldName) -> Option<&SecretBytes> {
        let Change::Put { fields, .. } = self.change else { return None };
        fields.iter().find(|(name, _)| name == field).map(|(_, value)| value)
    }

    /// Opens a value of the version before, to be sealed anew.
    fn carried(
        &self,
        connection: &Connection,
        path: &Path,
        keys: &Keys,
        field: &crate::model::FieldName,
    ) -> Result<SecretBytes, StoreFault> {
        let secret = &self.before.secret;
        let found = self
            .base
            .and_then(|base| secret.version(base))
            .and_then(|base| base.field(field).map(|info| (base.number, info.node, info.bytes)));
        let Some((version, node, bytes)) = found else {
            return Err(StoreFault::Corrupt(format!("{path:?}: a field to carry over is missing")));
        };
        let wanted = Wanted { secret: secret.path.clone(), version, field: field.clone() };
        let sealed = database::sealed_value(connection, self.id, version, node.get())
            .map_err(|error| database::fault(path, &error))?
            .ok_or_else(|| super::damaged(&wanted, "is missing"))?;
        let located = Located { id: self.id, node, bytes };
        unseal(keys, &wanted, &located, &sealed)
    }
}

/// Stores a new version; returns about how many pages its values take.
fn add_version(
    connection: &Connection,
    path: &Path,
    keys: &Keys,
    after: &Held,
    version: &VersionInfo,
    source: &Source<'_>,
) -> Result<u64, StoreFault> {
    let failed = |error: rusqlite::Error| database::fault(path, &error);
    let secret = &after.secret.path;
    let (key, wrapped): (Key, _) = keys.new_data_key(secret, version.number)?;
    database::set_version(connection, keys, source.id, after, version, Some(&wrapped)).map_err(failed)?;
    let mut pages = 0;
    for field in version.fields.iter() {
        let carried;
        let value = if let Some(given) = source.given(&field.name) {
            given
        } else {
            carried = source.carried(connection, path, keys, &field.name)?;
            &carried
        };
        let sealed = keys.seal_value(&key, secret, version.number, &field.name, value)?;
        pages += sealed.len() as u64 / 4096;
        database::add_value(connection, field.node.get(), &sealed).map_err(failed)?;
    }
    Ok(pages)
}
