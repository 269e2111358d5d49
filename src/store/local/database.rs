//! The database file: opening it, its tables, its header, its log. All of the project's SQL is here, in `rows` and in
//! `format_1`.
//!
//! ```text
//! application_id 0x63726673 ("crfs")   user_version 2   journal_mode WAL   secure_delete on
//! meta    (name, value)                    store_id, check, metadata_key, counters (record | code)
//! secret  (id, path, record, code)         one row per path ever used
//! version (secret, number, record, code, key)   key: the wrapped data key; NULL once destroyed
//! value   (node, sealed)                   one row per field, by its node
//! ```

use std::path::Path;
use std::time::Duration;

use rusqlite::config::DbConfig;
use rusqlite::{Connection, ErrorCode, OpenFlags, OptionalExtension as _, params};

use super::record::Counters;
use super::seal::{CODE_BYTES, Header, Keys, StoreId, same_code};
use crate::store::StoreFault;
use crate::store::sealed::files;

/// `application_id` of our databases: "crfs".
const APPLICATION: i32 = 0x6372_6673;
/// The format that this code writes.
pub(super) const FORMAT: i32 = 2;

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

/// The format of the store; refuses what is none, or of a format that this code does not know.
pub(super) fn recognise(connection: &Connection, path: &Path) -> Result<i32, StoreFault> {
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
    Ok(format)
}

/// Says that the store has the format that this code writes.
pub(super) fn set_format(connection: &Connection) -> rusqlite::Result<()> {
    connection.pragma_update(None, "user_version", FORMAT)
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

/// Whether the database has no log, or an empty one. Its name in the directory may then not be durable.
pub(super) fn has_no_log(path: &Path) -> bool {
    std::fs::metadata(files::beside(path, "-wal")).map_or(true, |about| about.len() == 0)
}

/// Writes the beginning of an empty log, so that no change has to: it would cost the change an fsync of its own. What
/// is written says nothing new.
pub(super) fn begin_log(connection: &Connection) -> rusqlite::Result<()> {
    // Setting what is set already writes the page all the same.
    connection.execute_batch(&format!("BEGIN IMMEDIATE; PRAGMA user_version = {FORMAT}; COMMIT;"))
}

/// Makes the log of a database that has none, durable with its name: SQLite is built not to sync the directory at
/// each process's first change.
pub(super) fn make_log(path: &Path) -> Result<(), StoreFault> {
    let connection = connect(path, Duration::from_secs(1))?;
    use_log(&connection, path)?;
    begin_log(&connection).map_err(|error| fault(path, &error))?;
    files::sync_directory(path)
}

/// Moves all of the log into the database and begins it anew: no old page is left in it.
pub(super) fn erase_log(connection: &Connection) -> rusqlite::Result<()> {
    if checkpoint(connection, true)? { begin_log(connection) } else { Ok(()) }
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
