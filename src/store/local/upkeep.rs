//! Making, opening, checking, copying and rekeying a store.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::{Mutex, RwLock};
use rusqlite::TransactionBehavior;

use super::cache::ValueCache;
use super::seal::{Header, HeaderFault, Keys};
use super::{Inner, Local, LocalOptions, database, format_1, rows};
use crate::model::State;
use crate::store::sealed::files::{self, Lock};
use crate::store::sealed::{Key, KeySource};
use crate::store::{StoreFault, Wanted};

/// How long a connection of ours waits for another one, for example a person with `sqlite3`.
const CONNECTION_WAIT: Duration = Duration::from_secs(2);

/// What a check of the whole store found.
#[derive(Debug, Clone, Default, serde::Serialize)]
pub struct Checked {
    /// Secrets that prove themselves.
    pub secrets: u64,
    /// Their versions.
    pub versions: u64,
    /// Values that were opened and are whole.
    pub values: u64,
    /// What is wrong, one sentence each; empty: nothing.
    pub faults: Vec<String>,
}

/// What a backup holds.
#[derive(Debug, Clone, serde::Serialize)]
pub struct Backup {
    /// Its size, in bytes.
    pub bytes: u64,
}

/// What a restore did.
#[derive(Debug, Clone, serde::Serialize)]
pub struct Restored {
    /// What was found in the restored store.
    pub checked: Checked,
    /// Where the database that was there before is now.
    pub replaced: Option<PathBuf>,
}

impl Local {
    /// Makes a new, empty store.
    ///
    /// # Errors
    /// [`StoreFault::Exists`] where there is a file already; what reading the key reports; [`StoreFault::Io`].
    pub fn create(path: &Path, key: &KeySource) -> Result<(), StoreFault> {
        if path.exists() {
            return Err(StoreFault::Exists(format!(
                "{} exists already and is not overwritten",
                path.display()
            )));
        }
        let (keys, header) = Keys::create(key.read()?)?;
        let _lock = Lock::take(path, Duration::ZERO)?;
        let made = files::beside(path, ".creating");
        files::remove_if_there(&made)?;
        let file = files::create_new(&made)?;
        database::create(&made, &header, &keys)?;
        file.sync_all().map_err(|error| files::fault(&made, "cannot be synced", &error))?;
        files::publish(&made, path)?;
        // If this fails, the first open does it.
        drop(database::make_log(path));
        Ok(())
    }

    /// Opens a store and proves everything but the values.
    ///
    /// # Errors
    /// [`StoreFault::Busy`] where another process has it open, [`StoreFault::Future`], [`StoreFault::WrongKey`],
    /// [`StoreFault::Corrupt`] where it cannot be read at all, what reading the key reports, [`StoreFault::Io`].
    pub fn open(options: LocalOptions) -> Result<Self, StoreFault> {
        let path = options.path.as_path();
        if !path.exists() {
            return Err(StoreFault::Io(format!(
                "{} does not exist: make it with `credfs init`",
                path.display()
            )));
        }
        let lock = Lock::take(path, Duration::from_millis(options.busy_wait_ms))?;
        let log_is_new = database::has_no_log(path);
        let mut writer = database::connect(path, CONNECTION_WAIT)?;
        let format = database::recognise(&writer, path)?;
        database::use_log(&writer, path)?;
        let header = database::header(&writer, path)?;
        let keys = open_header(&header, &options.key, path)?;
        if log_is_new {
            files::sync_directory(path)?;
        }
        if format < database::FORMAT {
            format_1::upgrade(&mut writer, path, &keys)?;
        } else if log_is_new {
            // If this fails, as on a full disk, the first change does it.
            drop(database::begin_log(&writer));
        }
        let mut catalog = rows::load(&writer, path, &keys)?;
        catalog.keep(options.keep_versions);
        let reader = database::connect(path, CONNECTION_WAIT)?;
        let log_bytes = fs::metadata(files::beside(path, "-wal")).map_or(0, |about| about.len());
        let values = Mutex::new(ValueCache::new(options.value_cache_bytes));
        let inner = Inner {
            keys: RwLock::new(keys),
            catalog: RwLock::new(catalog),
            writer: Mutex::new(writer),
            reader: Mutex::new(reader),
            values,
            watchers: RwLock::new(Vec::new()),
            log_pages: AtomicU64::new(log_bytes / 4096),
            erase_after: Mutex::new(options.erase_after),
            retiring: Mutex::new(()),
            _lock: lock,
            options,
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// Moves the write-ahead log into the database, as far as no reader stands in the way.
    ///
    /// # Errors
    /// [`StoreFault::Io`].
    pub fn checkpoint(&self) -> Result<(), StoreFault> {
        self.inner.checkpoint()
    }

    /// Erases versions that are beyond [`LocalOptions::keep_versions`], have no stage, and lost the last one longer
    /// than [`LocalOptions::erase_after`] ago. To be called now and then: nothing else erases them. Returns for how
    /// many secrets it did so.
    ///
    /// # Errors
    /// [`StoreFault`], where the rest is left to the next call.
    pub fn retire(&self) -> Result<u64, StoreFault> {
        self.inner.retire()
    }

    /// Whether [`Self::retire`] has something to do. Never waits for the disk.
    #[must_use]
    pub fn has_versions_to_retire(&self) -> bool {
        self.inner.has_versions_to_retire()
    }

    /// Changes [`LocalOptions::erase_after`].
    pub fn set_erase_after(&self, span: Duration) {
        *self.inner.erase_after.lock() = span;
    }

    /// Secrets that are set apart because their rows do not prove themselves, and what is wrong.
    #[must_use]
    pub fn damaged(&self) -> Vec<(String, String)> {
        let catalog = self.inner.catalog.read();
        catalog.damaged.iter().map(|(path, reason)| (path.clone(), reason.clone())).collect()
    }

    /// Proves everything: the file, every row, and every value by opening it.
    ///
    /// # Errors
    /// Only where the check itself cannot be made.
    pub fn check(&self) -> Result<Checked, StoreFault> {
        self.inner.check()
    }

    /// Writes a copy of the store, still sealed with the same key, to a new file.
    ///
    /// # Errors
    /// [`StoreFault::Exists`] where there is a file already; [`StoreFault::Io`].
    pub fn backup(&self, file: &Path) -> Result<Backup, StoreFault> {
        if file.exists() {
            return Err(StoreFault::Exists(format!(
                "{} exists already and is not overwritten",
                file.display()
            )));
        }
        let made = files::beside(file, ".partial");
        let held = files::create_new(&made)?;
        let copied = database::copy(&self.inner.reader.lock(), &made).and_then(|()| {
            held.sync_all().map_err(|error| files::fault(&made, "cannot be synced", &error))?;
            files::publish(&made, file)
        });
        if copied.is_err() {
            files::remove_if_there(&made)?;
        }
        copied?;
        let bytes = held.metadata().map_or(0, |about| about.len());
        Ok(Backup { bytes })
    }

    /// Puts the backup `file` in the place of the database of `options`, after proving every row and value of it.
    /// A database that is there is kept beside, and only replaced if `replace` is set.
    ///
    /// # Errors
    /// [`StoreFault::Exists`], [`StoreFault::Corrupt`] where the backup is not whole; what opening reports.
    pub fn restore(file: &Path, options: &LocalOptions, replace: bool) -> Result<Restored, StoreFault> {
        let path = options.path.as_path();
        if path.exists() && !replace {
            return Err(StoreFault::Exists(format!(
                "{} exists already: ask for it to be replaced, it is kept beside",
                path.display()
            )));
        }
        let _lock = Lock::take(path, Duration::from_millis(options.busy_wait_ms))?;
        let made = files::beside(path, ".restoring");
        for leftover in ["", "-wal", "-shm", ".lock"] {
            files::remove_if_there(&files::beside(&made, leftover))?;
        }
        let outcome = copy_in(file, &made, options).and_then(|checked| {
            let replaced = if path.exists() { Some(set_aside(path, options)?) } else { None };
            fs::rename(&made, path).map_err(|error| files::fault(path, "cannot be replaced", &error))?;
            files::sync_directory(path)?;
            // If this fails, the first open does it.
            drop(database::make_log(path));
            Ok(Restored { checked, replaced })
        });
        for leftover in ["", "-wal", "-shm", ".lock"] {
            files::remove_if_there(&files::beside(&made, leftover))?;
        }
        outcome
    }

    /// Seals every data key anew under `new`. With a key file, `new` takes its place: it is written beside, the
    /// database is changed, the file is renamed. Killed at any point, `open` finds the one that fits.
    ///
    /// # Errors
    /// [`StoreFault::Corrupt`] where a data key does not open: nothing is changed then. [`StoreFault::Io`].
    pub fn rekey(&self, new: &Key) -> Result<(), StoreFault> {
        self.inner.rekey(new)
    }
}

/// Opens the header with the key, or with the one that a rekeying left beside it.
fn open_header(header: &Header, source: &KeySource, path: &Path) -> Result<Keys, StoreFault> {
    let first = source.read().and_then(|key| opened(header, key, source, path));
    let Err(fault) = first else { return first };
    let Some(successor) = source.successor() else { return Err(fault) };
    let Ok(key) = successor.read() else { return Err(fault) };
    let Ok(keys) = opened(header, key, &successor, path) else { return Err(fault) };
    // A rekeying was cut off between the database and the file: finish it.
    take_place(&successor, source)?;
    Ok(keys)
}

fn opened(header: &Header, key: Key, source: &KeySource, path: &Path) -> Result<Keys, StoreFault> {
    Keys::open(header, key).map_err(|fault| match fault {
        HeaderFault::Random(fault) => fault,
        HeaderFault::Damaged => {
            StoreFault::Corrupt(format!("{}: its header is damaged: restore a backup", path.display()))
        }
        HeaderFault::WrongKey => StoreFault::WrongKey(format!(
            "{} was sealed with another key than that in {}: give the key it was made with, or restore a backup",
            path.display(),
            source.describe()
        )),
    })
}

fn take_place(successor: &KeySource, source: &KeySource) -> Result<(), StoreFault> {
    let (KeySource::File(from), KeySource::File(to)) = (successor, source) else { return Ok(()) };
    fs::rename(from, to).map_err(|error| files::fault(to, "cannot be replaced", &error))?;
    files::sync_directory(to)
}

fn copy_in(file: &Path, made: &Path, options: &LocalOptions) -> Result<Checked, StoreFault> {
    let mut from = File::open(file).map_err(|error| files::fault(file, "cannot be opened", &error))?;
    let mut to = files::create_new(made)?;
    std::io::copy(&mut from, &mut to).map_err(|error| files::fault(made, "cannot be written", &error))?;
    let copy = Local::open(LocalOptions { path: made.to_owned(), ..options.clone() })?;
    let checked = copy.check()?;
    if let Some(first) = checked.faults.first() {
        return Err(StoreFault::Corrupt(format!("the backup is not whole, nothing was restored: {first}")));
    }
    let emptied = database::checkpoint(&copy.inner.writer.lock(), true);
    emptied.map_err(|error| database::fault(made, &error))?;
    drop(copy);
    to.sync_all().map_err(|error| files::fault(made, "cannot be synced", &error))?;
    Ok(checked)
}

/// Keeps the database at `path` under another name too, and leaves no log behind that could be taken for the new
/// one's.
fn set_aside(path: &Path, options: &LocalOptions) -> Result<PathBuf, StoreFault> {
    // Best effort: a database too damaged for this is kept together with its log.
    if let Ok(old) = database::connect(path, CONNECTION_WAIT) {
        drop(database::checkpoint(&old, true));
    }
    let moment = (options.clock)().micros();
    let kept = files::beside(path, &format!(".replaced-{moment}"));
    fs::hard_link(path, &kept).map_err(|error| files::fault(&kept, "cannot be made", &error))?;
    let log = files::beside(path, "-wal");
    if fs::metadata(&log).is_ok_and(|about| about.len() > 0) {
        let kept_log = files::beside(&kept, "-wal");
        fs::hard_link(&log, &kept_log).map_err(|error| files::fault(&kept_log, "cannot be made", &error))?;
    }
    files::sync_directory(path)?;
    files::remove_if_there(&log)?;
    files::remove_if_there(&files::beside(path, "-shm"))?;
    files::sync_directory(path)?;
    Ok(kept)
}

impl Inner {
    pub(super) fn log_is_long(&self) -> bool {
        self.log_pages.load(Ordering::Relaxed) > self.options.log_pages_max
    }

    pub(super) fn checkpoint(&self) -> Result<(), StoreFault> {
        let path = self.options.path.as_path();
        self.log_pages.store(0, Ordering::Relaxed);
        // A connection of its own, so that neither changes nor fetches wait for the copying.
        let connection = database::connect(path, CONNECTION_WAIT)?;
        let checkpoint = || {
            database::checkpoint(&connection, false)?;
            // What was written meanwhile is little, and nobody writes now: without this second look a log that is
            // always written to would never be moved as a whole, and would grow for ever.
            let writer = self.writer.lock();
            if database::checkpoint(&connection, false)? {
                // The next frame begins the log anew: it shall not be that of a change.
                database::begin_log(&writer)?;
            }
            Ok(())
        };
        checkpoint().map_err(|error| database::fault(path, &error))
    }

    fn check(&self) -> Result<Checked, StoreFault> {
        let path = self.options.path.as_path();
        // No change in between: what is compared must be of one moment.
        let writer = self.writer.lock();
        let mut checked = Checked::default();
        let (found, value_rows) =
            database::examine(&writer).map_err(|error| database::fault(path, &error))?;
        checked.faults = found.into_iter().map(|line| format!("{}: {line}", path.display())).collect();
        let fresh = rows::load(&writer, path, &self.keys.read())?;
        checked.faults.extend(fresh.damaged.values().cloned());
        if fresh.incomplete {
            checked.faults.push(format!("{}: rows are missing, or its counters are wrong", path.display()));
        }
        (checked.secrets, checked.versions) = fresh.count();
        let mut expected = 0;
        for (id, secret) in fresh.all() {
            for version in secret.versions.iter().filter(|version| version.state != State::Destroyed) {
                for field in version.fields.iter() {
                    expected += 1;
                    let wanted = Wanted {
                        secret: secret.path.clone(),
                        version: version.number,
                        field: field.name.clone(),
                    };
                    let located = super::Located { id, node: field.node, bytes: field.bytes };
                    let sealed = rows::sealed_value(&writer, id, version.number, field.node.get())
                        .map_err(|error| database::fault(path, &error))?;
                    let outcome = match sealed {
                        None => Err(super::damaged(&wanted, "is missing")),
                        Some(sealed) => {
                            super::unseal(&self.keys.read(), &wanted, &located, &sealed).map(drop)
                        }
                    };
                    match outcome {
                        Ok(()) => checked.values += 1,
                        Err(fault) => checked.faults.push(fault.to_string()),
                    }
                }
            }
        }
        if fresh.damaged.is_empty() && value_rows != expected {
            checked.faults.push(format!("{}: {value_rows} values where {expected} belong", path.display()));
        }
        Ok(checked)
    }

    fn rekey(&self, new: &Key) -> Result<(), StoreFault> {
        let path = self.options.path.as_path();
        let mut writer = self.writer.lock();
        let mut keys = self.keys.write();
        let (fresh, header) = keys.rekeyed(new.duplicate())?;
        let successor = self.options.key.successor();
        if let Some(KeySource::File(file)) = &successor {
            files::remove_if_there(file)?;
            new.write_new_file(file)?;
        }
        let failed = |error: rusqlite::Error| database::fault(path, &error);
        let transaction = writer.transaction_with_behavior(TransactionBehavior::Immediate).map_err(failed)?;
        database::set_header(&transaction, &header).map_err(failed)?;
        let catalog = rows::load(&transaction, path, &keys)?;
        if let Some(reason) = catalog.damaged.values().next() {
            return Err(StoreFault::Corrupt(format!("nothing was rekeyed: {reason}")));
        }
        for (id, secret) in catalog.all() {
            for version in secret.versions.iter().filter(|version| version.state != State::Destroyed) {
                let Some(first) = version.fields.first() else { continue };
                let wrapped = rows::sealed_value(&transaction, id, version.number, first.node.get())
                    .map_err(failed)?
                    .and_then(|found| keys.unwrap_key(&secret.path, version.number, &found.key))
                    .ok_or_else(|| {
                        StoreFault::Corrupt(format!(
                            "nothing was rekeyed: the data key of version {} of {} does not open",
                            version.number, secret.path
                        ))
                    })?;
                let wrapped = fresh.wrap(&secret.path, version.number, &wrapped)?;
                rows::set_key(&transaction, id, version.number, &wrapped).map_err(failed)?;
            }
        }
        transaction.commit().map_err(failed)?;
        *keys = fresh;
        self.values.lock().clear();
        drop(keys);
        // The log must not hold keys wrapped by the old one.
        database::checkpoint(&writer, true).map_err(failed)?;
        self.log_pages.store(0, Ordering::Relaxed);
        successor.map_or(Ok(()), |successor| take_place(&successor, &self.options.key))
    }
}
