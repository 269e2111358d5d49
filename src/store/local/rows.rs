//! Reading and writing the rows of secrets, versions and values; each is proven when it is read.

use std::path::Path;
use std::sync::Arc;

use rusqlite::types::ValueRef;
use rusqlite::{Connection, OptionalExtension as _, Row, Statement, params};

use super::catalog::Catalog;
use super::commitment::{COMMITMENT_BYTES, VersionSum};
use super::database::{counters, fault};
use super::record::{Held, decode_version, encode_version};
use super::seal::{Code, Keys, same_code};
use crate::model::{SecretPath, State, Version, VersionInfo, Versions};
use crate::store::StoreFault;

/// A row of `secret` that does not prove itself.
pub(super) struct Damage {
    path: String,
    reason: String,
}

impl Damage {
    fn of(shown: &str, what: &str) -> Self {
        let reason = format!(
            "{} does not prove itself ({what} was changed, moved or damaged): restore a backup",
            shown.escape_debug()
        );
        Self { path: shown.to_owned(), reason }
    }
}

/// A secret as its row says, with the sum of its versions' rows.
pub(super) struct Summed {
    pub(super) held: Held,
    pub(super) sum: VersionSum,
}

/// Reads every secret and version and proves it. Damaged ones are set apart, by name.
pub(super) fn load(connection: &Connection, path: &Path, keys: &Keys) -> Result<Catalog, StoreFault> {
    let mut catalog = Catalog::default();
    let mut seen = (0_u64, 0_u64);
    let mut walk = || -> rusqlite::Result<()> {
        let mut secrets = connection.prepare("SELECT id, path, record, code FROM secret ORDER BY id")?;
        let mut versions = connection.prepare(VERSIONS_OF)?;
        let mut rows = secrets.query([])?;
        while let Some(row) = rows.next()? {
            let id: i64 = row.get(0)?;
            seen.0 += 1;
            let found = version_rows(id, &mut versions)?;
            seen.1 += found.len() as u64;
            match proven_secret(&shown_path(row, id)?, row, &found, keys) {
                Ok(held) if held.freed => catalog.load_freed(id, held.secret.path),
                Ok(held) => catalog.load(id, Arc::new(held.secret)),
                Err(damage) => {
                    catalog.damaged.insert(damage.path, damage.reason);
                }
            }
        }
        Ok(())
    };
    walk().map_err(|error| fault(path, &error))?;
    catalog.loaded();
    let versions: i64 = connection
        .query_row("SELECT count(*) FROM version", [], |row| row.get(0))
        .map_err(|error| fault(path, &error))?;
    let counted = counters(connection, path, keys);
    let counted_right =
        counted.is_ok_and(|counted| counted.secrets == seen.0 && counted.next_node > catalog.largest_node());
    catalog.incomplete = !counted_right || u64::try_from(versions) != Ok(seen.1);
    Ok(catalog)
}

/// The rows of a secret's versions, for [`version_rows`].
pub(super) const VERSIONS_OF: &str =
    "SELECT number, record, code FROM version WHERE secret = ?1 ORDER BY number";

/// A row of `version` as it is found; `None` where a column has another type than it should.
pub(super) type VersionRow = Option<(Version, Vec<u8>, Vec<u8>)>;

/// Reads the rows of a secret's versions.
pub(super) fn version_rows(id: i64, versions: &mut Statement<'_>) -> rusqlite::Result<Vec<VersionRow>> {
    let mut found = Vec::new();
    let mut rows = versions.query([id])?;
    while let Some(row) = rows.next()? {
        let number =
            row.get_ref(0)?.as_i64().ok().and_then(|number| Version::new(u32::try_from(number).ok()?));
        let (record, code) = (row.get_ref(1)?.as_blob(), row.get_ref(2)?.as_blob());
        found.push(match (number, record, code) {
            (Some(number), Ok(record), Ok(code)) => Some((number, record.to_vec(), code.to_vec())),
            _ => None,
        });
    }
    Ok(found)
}

/// The path that a row of `secret` shows.
pub(super) fn shown_path(row: &Row<'_>, id: i64) -> rusqlite::Result<String> {
    Ok(match row.get_ref(1)? {
        ValueRef::Text(text) => String::from_utf8_lossy(text).into_owned(),
        _ => format!("row {id}"),
    })
}

/// Proves each version by its own code, and adds them up.
pub(super) fn proven_versions(
    shown: &str,
    rows: &[VersionRow],
    keys: &Keys,
) -> Result<(Versions, VersionSum), Damage> {
    let mut sum = VersionSum::default();
    let versions = rows.iter().map(|row| {
        let (number, record, stored) =
            row.as_ref().ok_or_else(|| Damage::of(shown, "one of its versions"))?;
        let code = keys.version_code(shown, number.get(), record);
        let version = decode_version(*number, record).filter(|_| same_code(stored, &code));
        sum = sum.with(keys, &code);
        version.ok_or_else(|| Damage::of(shown, &format!("version {number}")))
    });
    let versions = versions.collect::<Result<Versions, Damage>>()?;
    Ok((versions, sum))
}

fn proven_secret(shown: &str, row: &Row<'_>, versions: &[VersionRow], keys: &Keys) -> Result<Held, Damage> {
    let Summed { mut held, sum } = proven_row(shown, row, keys)?;
    let (versions, added) = proven_versions(shown, versions, keys)?;
    if added != sum {
        return Err(Damage::of(shown, "the set of its versions"));
    }
    held.secret.versions = versions;
    Ok(held)
}

/// Proves a row of `secret` by itself.
fn proven_row(shown: &str, row: &Row<'_>, keys: &Keys) -> Result<Summed, Damage> {
    let read = || {
        let (record, code) = (row.get_ref(2).ok()?.as_blob().ok()?, row.get_ref(3).ok()?.as_blob().ok()?);
        if !same_code(code, &keys.secret_code(shown, record)) {
            return None;
        }
        let (record, commitment) = record.split_last_chunk::<COMMITMENT_BYTES>()?;
        let held = Held::decode(SecretPath::from_store(shown).ok()?, record)?;
        Some(Summed { held, sum: VersionSum::of_commitment(keys, shown, commitment) })
    };
    read().ok_or_else(|| Damage::of(shown, "its row"))
}

/// Reads a secret's row again and proves it. Its versions are not read: what is known of them is proven already.
pub(super) fn secret_row(
    connection: &Connection,
    path: &Path,
    keys: &Keys,
    id: i64,
) -> Result<Option<Summed>, StoreFault> {
    let read = || -> rusqlite::Result<Option<Result<Summed, Damage>>> {
        let mut secret = connection.prepare("SELECT id, path, record, code FROM secret WHERE id = ?1")?;
        let mut rows = secret.query([id])?;
        let Some(row) = rows.next()? else { return Ok(None) };
        Ok(Some(proven_row(&shown_path(row, id)?, row, keys)))
    };
    match read().map_err(|error| fault(path, &error))? {
        None => Ok(None),
        Some(Ok(summed)) => Ok(Some(summed)),
        Some(Err(damage)) => Err(StoreFault::Corrupt(damage.reason)),
    }
}

/// Writes the row of a secret: a new one where `id` is `None`. Returns its number.
pub(super) fn set_secret(
    connection: &Connection,
    path: &Path,
    keys: &Keys,
    id: Option<i64>,
    summed: &Summed,
) -> Result<i64, StoreFault> {
    let shown = summed.held.secret.path.as_str();
    let mut record = summed.held.encode();
    record.extend_from_slice(&summed.sum.commit(keys, shown)?);
    let code = keys.secret_code(shown, &record);
    let set = || match id {
        Some(id) => connection
            .execute("UPDATE secret SET record = ?2, code = ?3 WHERE id = ?1", params![id, record, code])
            .map(|_| id),
        None => connection
            .execute(
                "INSERT INTO secret (path, record, code) VALUES (?1, ?2, ?3)",
                params![shown, record, code],
            )
            .map(|_| connection.last_insert_rowid()),
    };
    set().map_err(|error| fault(path, &error))
}

/// The code of a version's row.
pub(super) fn code_of(keys: &Keys, secret: &SecretPath, version: &VersionInfo) -> Code {
    keys.version_code(secret.as_str(), version.number.get(), &encode_version(version))
}

/// Adds the row of a version, with its wrapped key.
pub(super) fn add_version(
    connection: &Connection,
    keys: &Keys,
    id: i64,
    secret: &SecretPath,
    version: &VersionInfo,
    key: &[u8],
) -> rusqlite::Result<()> {
    let code = code_of(keys, secret, version);
    let add = "INSERT INTO version (secret, number, record, code, key) VALUES (?1, ?2, ?3, ?4, ?5)";
    connection.execute(add, params![id, version.number.get(), encode_version(version), code, key])?;
    Ok(())
}

/// Replaces the row of a version that must be as `was` says, and erases the key of one that is destroyed. False where
/// no such row is there.
pub(super) fn change_version(
    connection: &Connection,
    keys: &Keys,
    id: i64,
    secret: &SecretPath,
    was: &VersionInfo,
    now: &VersionInfo,
) -> rusqlite::Result<bool> {
    let (old, new) = (code_of(keys, secret, was), code_of(keys, secret, now));
    let set = if now.state == State::Destroyed {
        "UPDATE version SET record = ?4, code = ?5, key = NULL WHERE secret = ?1 AND number = ?2 AND code = ?3"
    } else {
        "UPDATE version SET record = ?4, code = ?5 WHERE secret = ?1 AND number = ?2 AND code = ?3"
    };
    let changed = connection.execute(set, params![id, now.number.get(), old, encode_version(now), new])?;
    Ok(changed == 1)
}

/// Removes the row of a version that must be as `was` says: its path is freed. False where no such row is there.
pub(super) fn remove_version(
    connection: &Connection,
    keys: &Keys,
    id: i64,
    secret: &SecretPath,
    was: &VersionInfo,
) -> rusqlite::Result<bool> {
    let remove = "DELETE FROM version WHERE secret = ?1 AND number = ?2 AND code = ?3";
    let old = code_of(keys, secret, was);
    Ok(connection.execute(remove, params![id, was.number.get(), old])? == 1)
}

/// Replaces the wrapped key of a version.
pub(super) fn set_key(
    connection: &Connection,
    id: i64,
    version: Version,
    key: &[u8],
) -> rusqlite::Result<()> {
    let set = "UPDATE version SET key = ?3 WHERE secret = ?1 AND number = ?2";
    connection.execute(set, params![id, version.get(), key])?;
    Ok(())
}

/// A sealed value and the wrapped data key of its version.
pub(super) struct SealedValue {
    pub(super) key: Vec<u8>,
    pub(super) sealed: Vec<u8>,
}

/// Reads a sealed value; `None` where a row is missing.
pub(super) fn sealed_value(
    connection: &Connection,
    id: i64,
    version: Version,
    node: u32,
) -> rusqlite::Result<Option<SealedValue>> {
    let key = "SELECT key FROM version WHERE secret = ?1 AND number = ?2";
    let key: Option<Option<Vec<u8>>> =
        connection.query_row(key, params![id, version.get()], |row| row.get(0)).optional()?;
    let sealed = "SELECT sealed FROM value WHERE node = ?1";
    let sealed = connection.query_row(sealed, [node], |row| row.get(0)).optional()?;
    Ok(key.flatten().zip(sealed).map(|(key, sealed)| SealedValue { key, sealed }))
}

/// Stores a sealed value.
pub(super) fn add_value(connection: &Connection, node: u32, sealed: &[u8]) -> rusqlite::Result<()> {
    connection.execute("INSERT INTO value (node, sealed) VALUES (?1, ?2)", params![node, sealed])?;
    Ok(())
}

/// Erases a sealed value.
pub(super) fn remove_value(connection: &Connection, node: u32) -> rusqlite::Result<()> {
    connection.execute("DELETE FROM value WHERE node = ?1", [node])?;
    Ok(())
}
