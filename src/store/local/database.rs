//! The database file: opening it, its tables, reading and writing rows. All of the project's SQL is here and in
//! `upkeep`.
//!
//! ```text
//! application_id 0x63726673 ("crfs")   user_version 1   journal_mode WAL   secure_delete on
//! meta    (name, value)                    store_id, check, metadata_key, counters (record | code)
//! secret  (id, path, record, code)         one row per path ever used
//! version (secret, number, record, code, key)   key: the wrapped data key; NULL once destroyed
//! value   (node, sealed)                   one row per field, by its node
//! ```

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rusqlite::config::DbConfig;
use rusqlite::{Connection, ErrorCode, OpenFlags, OptionalExtension as _, params};

use super::catalog::Catalog;
use super::record::{Counters, Held};
use super::seal::{CODE_BYTES, Header, Keys, StoreId, same_code};
use crate::model::{SecretPath, Version};
use crate::store::StoreFault;

/// `application_id` of our databases: "crfs".
const APPLICATION: i32 = 0x6372_6673;
/// The format that this code writes.
pub(super) const FORMAT: i32 = 1;

const TABLES: &str = "
    CREATE TABLE meta (name TEXT PRIMARY KEY, value BLOB NOT NULL) STRICT, WITHOUT ROWID;
    CREATE TABLE secret (id INTEGER PRIMARY KEY, path TEXT NOT NULL UNIQUE, record BLOB NOT NULL,
        code BLOB NOT NULL) STRICT;
    CREATE TABLE version (secret INTEGER NOT NULL REFERENCES secret(id), number INTEGER NOT NULL,
        record BLOB NOT NULL, code BLOB NOT NULL, key BLOB, PRIMARY KEY (secret, number)) STRICT, WITHOUT ROWID;
    CREATE TABLE value (node INTEGER PRIMARY KEY, sealed BLOB NOT NULL) STRICT;
";

/// A fault of SQLite in our words. Its text never holds a bound value.
pub(super) fn fault(path: &Path, error: &rusqlite::Error) -> StoreFault {
    let file = path.display();
    match error.sqlite_error_code() {
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => {
            StoreFault::Busy(format!("{file} is in use by another process: wait until it has ended"))
        }
        Some(ErrorCode::DiskFull) => {
            StoreFault::Io(format!("{file} cannot be written, the disk is full: free some space"))
        }
        Some(
            ErrorCode::SystemIoFailure
            | ErrorCode::CannotOpen
            | ErrorCode::ReadOnly
            | ErrorCode::PermissionDenied
            | ErrorCode::OutOfMemory,
        ) => StoreFault::Io(format!("{file}: {error}")),
        _ => StoreFault::Corrupt(format!("{file}: {error}: restore a backup with `credfs restore`")),
    }
}

/// Opens a connection to a database that is there.
pub(super) fn connect(path: &Path, busy_wait: Duration) -> Result<Connection, StoreFault> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    if !path.exists() {
        return Err(StoreFault::Io(format!("{} does not exist: make it with `credfs init`", path.display())));
    }
    let connection = Connection::open_with_flags(path, flags).map_err(|error| fault(path, &error))?;
    tune(&connection, busy_wait).map_err(|error| fault(path, &error))?;
    Ok(connection)
}

fn tune(connection: &Connection, busy_wait: Duration) -> rusqlite::Result<()> {
    connection.busy_timeout(busy_wait)?;
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_DEFENSIVE, true)?;
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_TRUSTED_SCHEMA, false)?;
    // A short command must not pay for moving the log into the database; `checkpoint` decides when that is due.
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
    connection.execute_batch(
        "PRAGMA synchronous = FULL; PRAGMA foreign_keys = ON; PRAGMA secure_delete = ON;
         PRAGMA cell_size_check = ON; PRAGMA wal_autocheckpoint = 0;",
    )
}

/// Makes the tables of a new store in the empty file at `path`.
pub(super) fn create(path: &Path, header: &Header, keys: &Keys) -> Result<(), StoreFault> {
    let mut connection = connect(path, Duration::from_secs(1))?;
    let make = |connection: &mut Connection| -> rusqlite::Result<()> {
        // Written without a log, so that the file is whole by itself; `open` turns the log on.
        // Nor synced step by step: nobody knows the file before `Local::create` syncs it and gives it its name.
        connection.execute_batch("PRAGMA journal_mode = MEMORY; PRAGMA synchronous = OFF;")?;
        connection.pragma_update(None, "application_id", APPLICATION)?;
        connection.pragma_update(None, "user_version", FORMAT)?;
        let transaction = connection.transaction()?;
        transaction.execute_batch(TABLES)?;
        let set = "INSERT INTO meta (name, value) VALUES (?1, ?2)";
        transaction.execute(set, params!["store_id", header.store.0])?;
        transaction.execute(set, params!["check", header.check])?;
        transaction.execute(set, params!["metadata_key", header.metadata_key])?;
        transaction.execute(set, params!["counters", proven(keys, Counters { next_node: 1, secrets: 0 })])?;
        transaction.commit()
    };
    make(&mut connection).map_err(|error| fault(path, &error))
}

/// Refuses what is not a store of the format that this code knows.
pub(super) fn recognise(connection: &Connection, path: &Path) -> Result<(), StoreFault> {
    let number = |pragma: &str| {
        connection
            .pragma_query_value(None, pragma, |row| row.get::<_, i32>(0))
            .map_err(|error| fault(path, &error))
    };
    let file = path.display();
    if number("application_id")? != APPLICATION {
        return Err(StoreFault::Corrupt(format!("{file} is not a credfs store, or its header is damaged")));
    }
    let format = number("user_version")?;
    if format > FORMAT {
        return Err(StoreFault::Future(format!(
            "{file} has format {format} and this credfs knows up to {FORMAT}: \
             install the version of credfs that wrote it"
        )));
    }
    if format < 1 {
        return Err(StoreFault::Corrupt(format!("{file} has format {format}, which never was")));
    }
    Ok(())
}

/// Turns the write-ahead log on.
pub(super) fn use_log(connection: &Connection, path: &Path) -> Result<(), StoreFault> {
    let mode: String = connection
        .pragma_update_and_check(None, "journal_mode", "WAL", |row| row.get(0))
        .map_err(|error| fault(path, &error))?;
    if mode != "wal" {
        return Err(StoreFault::Io(format!("{}: no write-ahead log is possible there", path.display())));
    }
    Ok(())
}

/// Reads the header.
pub(super) fn header(connection: &Connection, path: &Path) -> Result<Header, StoreFault> {
    let store = meta(connection, path, "store_id")?;
    let Ok(store) = store.try_into() else {
        return Err(StoreFault::Corrupt(format!("{}: the store id is damaged", path.display())));
    };
    let (check, metadata_key) = (meta(connection, path, "check")?, meta(connection, path, "metadata_key")?);
    Ok(Header { store: StoreId(store), check, metadata_key })
}

fn meta(connection: &Connection, path: &Path, name: &str) -> Result<Vec<u8>, StoreFault> {
    connection
        .query_row("SELECT value FROM meta WHERE name = ?1", [name], |row| row.get(0))
        .optional()
        .map_err(|error| fault(path, &error))?
        .ok_or_else(|| StoreFault::Corrupt(format!("{}: its {name} is missing", path.display())))
}

fn proven(keys: &Keys, counters: Counters) -> Vec<u8> {
    let mut value = counters.encode();
    let code = keys.counters_code(&value);
    value.extend_from_slice(&code);
    value
}

/// Reads the counters.
pub(super) fn counters(connection: &Connection, path: &Path, keys: &Keys) -> Result<Counters, StoreFault> {
    let value = meta(connection, path, "counters")?;
    value
        .split_at_checked(value.len().saturating_sub(CODE_BYTES))
        .filter(|(record, code)| same_code(code, &keys.counters_code(record)))
        .and_then(|(record, _)| Counters::decode(record))
        .ok_or_else(|| {
            StoreFault::Corrupt(format!(
                "{}: the store's counters do not prove themselves: restore a backup",
                path.display()
            ))
        })
}

/// Writes the counters.
pub(super) fn set_counters(connection: &Connection, keys: &Keys, counters: Counters) -> rusqlite::Result<()> {
    connection.execute("UPDATE meta SET value = ?1 WHERE name = 'counters'", [proven(keys, counters)])?;
    Ok(())
}

/// Replaces the parts of the header that the key seals.
pub(super) fn set_header(connection: &Connection, header: &Header) -> rusqlite::Result<()> {
    let set = "UPDATE meta SET value = ?2 WHERE name = ?1";
    connection.execute(set, params!["check", header.check])?;
    connection.execute(set, params!["metadata_key", header.metadata_key])?;
    Ok(())
}

/// A row of `secret` that does not prove itself.
struct Damage {
    path: String,
    reason: String,
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
            match held_of(row, id, &mut versions, keys, &mut seen.1)? {
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

const VERSIONS_OF: &str = "SELECT number, record, code FROM version WHERE secret = ?1 ORDER BY number";

/// Reads one secret again and proves it.
pub(super) fn load_one(
    connection: &Connection,
    path: &Path,
    keys: &Keys,
    id: i64,
) -> Result<Option<Held>, StoreFault> {
    let read = || -> rusqlite::Result<Option<Result<Held, Damage>>> {
        let mut secret = connection.prepare("SELECT id, path, record, code FROM secret WHERE id = ?1")?;
        let mut versions = connection.prepare(VERSIONS_OF)?;
        let mut rows = secret.query([id])?;
        let Some(row) = rows.next()? else { return Ok(None) };
        held_of(row, id, &mut versions, keys, &mut 0).map(Some)
    };
    match read().map_err(|error| fault(path, &error))? {
        None => Ok(None),
        Some(Ok(held)) => Ok(Some(held)),
        Some(Err(damage)) => Err(StoreFault::Corrupt(damage.reason)),
    }
}

fn held_of(
    row: &rusqlite::Row<'_>,
    id: i64,
    versions: &mut rusqlite::Statement<'_>,
    keys: &Keys,
    seen: &mut u64,
) -> rusqlite::Result<Result<Held, Damage>> {
    let shown = match row.get_ref(1)? {
        rusqlite::types::ValueRef::Text(text) => String::from_utf8_lossy(text).into_owned(),
        _ => format!("row {id}"),
    };
    let damage = |what: &str| Damage {
        reason: format!(
            "{} does not prove itself ({what} was changed, moved or damaged): restore a backup",
            shown.escape_debug()
        ),
        path: shown.clone(),
    };
    let (record, code) = (row.get_ref(2)?.as_blob(), row.get_ref(3)?.as_blob());
    let held = SecretPath::from_store(&shown).ok().zip(record.ok());
    let mut held = held.and_then(|(path, record)| Held::decode(path, record).map(|held| (held, record)));
    let mut codes = Vec::new();
    let mut broken = None;
    let mut rows = versions.query([id])?;
    while let Some(row) = rows.next()? {
        *seen += 1;
        let Some((held, _)) = &mut held else { continue };
        let number = row.get_ref(0)?.as_i64().ok().and_then(|number| u32::try_from(number).ok());
        let parts = (number.and_then(Version::new), row.get_ref(1)?.as_blob(), row.get_ref(2)?.as_blob());
        let (Some(number), Ok(record), Ok(code)) = parts else {
            broken = Some("one of its versions".to_owned());
            continue;
        };
        let proves = same_code(code, &keys.version_code(&shown, number.get(), record));
        if !proves || held.decode_version(number, record).is_none() {
            broken = Some(format!("version {number}"));
        }
        codes.extend_from_slice(code);
    }
    let Some((held, record)) = held else { return Ok(Err(damage("its row"))) };
    if let Some(broken) = broken {
        return Ok(Err(damage(&broken)));
    }
    let proves = code.is_ok_and(|code| same_code(code, &keys.secret_code(&shown, record, &codes)));
    Ok(if proves { Ok(held) } else { Err(damage("its row or the set of its versions")) })
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

/// Writes the row of a secret: a new one where `id` is `None`. Returns its number.
pub(super) fn set_secret(
    connection: &Connection,
    keys: &Keys,
    id: Option<i64>,
    held: &Held,
) -> rusqlite::Result<i64> {
    let path = held.secret.path.as_str();
    let mut codes = Vec::with_capacity(held.secret.versions.len() * CODE_BYTES);
    for version in &held.secret.versions {
        let record = held.encode_version(version);
        codes.extend_from_slice(&keys.version_code(path, version.number.get(), &record));
    }
    let record = held.encode();
    let code = keys.secret_code(path, &record, &codes);
    if let Some(id) = id {
        let set = "UPDATE secret SET record = ?2, code = ?3 WHERE id = ?1";
        connection.execute(set, params![id, record, code])?;
        return Ok(id);
    }
    let set = "INSERT INTO secret (path, record, code) VALUES (?1, ?2, ?3)";
    connection.execute(set, params![path, record, code])?;
    Ok(connection.last_insert_rowid())
}

/// Writes the row of a version: a new one where a wrapped key is given.
pub(super) fn set_version(
    connection: &Connection,
    keys: &Keys,
    id: i64,
    held: &Held,
    version: &crate::model::VersionInfo,
    key: Option<&[u8]>,
) -> rusqlite::Result<()> {
    let record = held.encode_version(version);
    let number = version.number.get();
    let code = keys.version_code(held.secret.path.as_str(), number, &record);
    let set = if key.is_some() {
        "INSERT INTO version (secret, number, record, code, key) VALUES (?1, ?2, ?3, ?4, ?5)"
    } else {
        "UPDATE version SET record = ?3, code = ?4, key = coalesce(?5, key) WHERE secret = ?1 AND number = ?2"
    };
    connection.execute(set, params![id, number, record, code, key])?;
    Ok(())
}

/// Replaces the wrapped key of a version; `None` erases it.
pub(super) fn set_key(
    connection: &Connection,
    id: i64,
    version: Version,
    key: Option<&[u8]>,
) -> rusqlite::Result<()> {
    let set = "UPDATE version SET key = ?3 WHERE secret = ?1 AND number = ?2";
    connection.execute(set, params![id, version.get(), key])?;
    Ok(())
}

/// Removes the row of a version whose path is freed.
pub(super) fn remove_version(connection: &Connection, id: i64, version: Version) -> rusqlite::Result<()> {
    let remove = "DELETE FROM version WHERE secret = ?1 AND number = ?2";
    connection.execute(remove, params![id, version.get()])?;
    Ok(())
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

/// Moves the log into the database. `erase`: and cuts it to nothing, so that no old page is left in it.
pub(super) fn checkpoint(connection: &Connection, erase: bool) -> rusqlite::Result<bool> {
    let how = if erase { "PRAGMA wal_checkpoint(TRUNCATE)" } else { "PRAGMA wal_checkpoint(PASSIVE)" };
    connection.query_row(how, [], |row| {
        let (busy, pages, moved): (i64, i64, i64) = (row.get(0)?, row.get(1)?, row.get(2)?);
        Ok(busy == 0 && pages == moved)
    })
}

/// What SQLite itself finds wrong, and how many values there are.
pub(super) fn examine(connection: &Connection) -> rusqlite::Result<(Vec<String>, u64)> {
    let mut check = connection.prepare("PRAGMA integrity_check(100)")?;
    let found: Vec<String> = check.query_map([], |row| row.get(0))?.collect::<Result<_, _>>()?;
    let values: i64 = connection.query_row("SELECT count(*) FROM value", [], |row| row.get(0))?;
    Ok((found.into_iter().filter(|line| line != "ok").collect(), values.unsigned_abs()))
}

/// Copies the whole database into the empty file at `target`, as one file without a log.
pub(super) fn copy(connection: &Connection, target: &Path) -> Result<(), StoreFault> {
    let mut copy = Connection::open_with_flags(target, OpenFlags::SQLITE_OPEN_READ_WRITE)
        .map_err(|error| fault(target, &error))?;
    rusqlite::backup::Backup::new(connection, &mut copy)
        .and_then(|backup| backup.run_to_completion(4096, Duration::ZERO, None))
        .and_then(|()| copy.execute_batch("PRAGMA journal_mode = DELETE;"))
        .map_err(|error| fault(target, &error))
}
