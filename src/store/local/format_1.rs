//! A store of format 1 becomes one of format 2, once, in one transaction.
//!
//! In format 1 a secret's code was made over the codes of all its version rows; in format 2 its record ends with a
//! commitment to them (`commitment`). Nothing else differs: no version, key or value is written anew.

use std::path::Path;

use rusqlite::{Connection, Row, TransactionBehavior};

use super::database::{self, fault};
use super::record::Held;
use super::rows::{self, Summed, VersionRow};
use super::seal::{Keys, same_code};
use crate::model::SecretPath;
use crate::store::StoreFault;

/// Rewrites every secret's row that proves itself. One that does not is left as it is, and is as damaged afterwards.
pub(super) fn upgrade(connection: &mut Connection, path: &Path, keys: &Keys) -> Result<(), StoreFault> {
    let failed = |error: rusqlite::Error| fault(path, &error);
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate).map_err(failed)?;
    for (id, summed) in proven(&transaction, keys).map_err(failed)? {
        rows::set_secret(&transaction, path, keys, Some(id), &summed)?;
    }
    database::set_format(&transaction).map_err(failed)?;
    transaction.commit().map_err(failed)
}

fn proven(connection: &Connection, keys: &Keys) -> rusqlite::Result<Vec<(i64, Summed)>> {
    let mut found = Vec::new();
    let mut secrets = connection.prepare("SELECT id, path, record, code FROM secret ORDER BY id")?;
    let mut versions = connection.prepare(rows::VERSIONS_OF)?;
    let mut all = secrets.query([])?;
    while let Some(row) = all.next()? {
        let id: i64 = row.get(0)?;
        let shown = rows::shown_path(row, id)?;
        let version_rows = rows::version_rows(id, &mut versions)?;
        found.extend(proven_secret(&shown, row, &version_rows, keys).map(|summed| (id, summed)));
    }
    Ok(found)
}

fn proven_secret(shown: &str, row: &Row<'_>, versions: &[VersionRow], keys: &Keys) -> Option<Summed> {
    let (record, code) = (row.get_ref(2).ok()?.as_blob().ok()?, row.get_ref(3).ok()?.as_blob().ok()?);
    let codes: Vec<u8> = versions.iter().flatten().flat_map(|(_, _, code)| code).copied().collect();
    if !same_code(code, &keys.secret_code_1(shown, record, &codes)) {
        return None;
    }
    let held = Held::decode(SecretPath::from_store(shown).ok()?, record)?;
    let (_, sum) = rows::proven_versions(shown, versions, keys).ok()?;
    Some(Summed { held, sum })
}
