//! Files of a store: made private, owned like their directory, put in place whole, and locked.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::store::StoreFault;
use crate::sys::lock;

/// How often a held lock is tried again while we wait for it.
const LOCK_RETRY: Duration = Duration::from_millis(5);

/// A fault that names the file.
pub(in crate::store) fn fault(path: &Path, what: &str, error: &io::Error) -> StoreFault {
    if error.kind() == io::ErrorKind::AlreadyExists {
        return StoreFault::Exists(format!("{} exists already and is not overwritten", path.display()));
    }
    StoreFault::Io(format!("{} {what}: {error}", path.display()))
}

/// `path` with `suffix` behind its name.
pub(in crate::store) fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

fn directory_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

/// Makes a file that was not there: mode 0600, and its directory's owner where root makes it.
pub(in crate::store) fn create_new(path: &Path) -> Result<File, StoreFault> {
    let file = File::options()
        .read(true)
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .map_err(|error| fault(path, "cannot be made", &error))?;
    take_directory_owner(&file, path)?;
    Ok(file)
}

fn take_directory_owner(file: &File, path: &Path) -> Result<(), StoreFault> {
    let owners = || -> io::Result<()> {
        let (ours, theirs) = (file.metadata()?, fs::metadata(directory_of(path))?);
        // A sticky directory such as /tmp is everyone's: its owner has no claim on what others put there.
        let shared = theirs.mode() & 0o1000 != 0;
        if ours.uid() == 0 && !shared && (theirs.uid(), theirs.gid()) != (ours.uid(), ours.gid()) {
            std::os::unix::fs::fchown(file, Some(theirs.uid()), Some(theirs.gid()))?;
        }
        Ok(())
    };
    owners().map_err(|error| fault(path, "cannot be given its directory's owner", &error))
}

/// Makes the names in the directory of `path` durable.
pub(in crate::store) fn sync_directory(path: &Path) -> Result<(), StoreFault> {
    let directory = directory_of(path);
    File::open(directory)
        .and_then(|opened| opened.sync_all())
        .map_err(|error| fault(directory, "cannot be synced", &error))
}

/// Gives the finished file `made` the name `target`, unless there is one of that name.
pub(in crate::store) fn publish(made: &Path, target: &Path) -> Result<(), StoreFault> {
    match fs::hard_link(made, target) {
        Ok(()) => remove_if_there(made)?,
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            return Err(fault(target, "cannot be made", &error));
        }
        // A file system without hard links, as on a memory stick.
        Err(_) if !target.exists() => {
            fs::rename(made, target).map_err(|error| fault(target, "cannot be made", &error))?;
        }
        Err(error) => return Err(fault(target, "cannot be made", &error)),
    }
    sync_directory(target)
}

/// Removes a file; it is no fault if there is none.
pub(in crate::store) fn remove_if_there(path: &Path) -> Result<(), StoreFault> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(fault(path, "cannot be removed", &error))
        }
        _ => Ok(()),
    }
}

/// The right to use a database, held by one process at a time: `flock` on `<database>.lock`.
pub(in crate::store) struct Lock {
    _file: File,
}

impl Lock {
    /// Takes it, waiting for at most `wait`.
    pub(in crate::store) fn take(database: &Path, wait: Duration) -> Result<Self, StoreFault> {
        let path = beside(database, ".lock");
        let until = Instant::now() + wait;
        loop {
            let mut file = open_lock(&path)?;
            let ours =
                lock::try_exclusive(&file).map_err(|error| fault(&path, "cannot be locked", &error))?;
            if ours && is_still_at(&file, &path) {
                let pid = std::process::id();
                file.set_len(0)
                    .and_then(|()| writeln!(file, "{pid}"))
                    .map_err(|error| fault(&path, "cannot be written", &error))?;
                return Ok(Self { _file: file });
            }
            if Instant::now() >= until {
                return Err(held_by_another(database, &path));
            }
            // The kernel has no flock with a time limit.
            std::thread::sleep(LOCK_RETRY.min(until.saturating_duration_since(Instant::now())));
        }
    }
}

fn open_lock(path: &Path) -> Result<File, StoreFault> {
    match create_new(path) {
        Err(StoreFault::Exists(_)) => File::options()
            .read(true)
            .write(true)
            .open(path)
            .map_err(|error| fault(path, "cannot be opened", &error)),
        made => made,
    }
}

/// Whether the name still leads to the file that was locked: someone may have removed it in between.
fn is_still_at(file: &File, path: &Path) -> bool {
    match (file.metadata(), fs::metadata(path)) {
        (Ok(ours), Ok(named)) => (ours.dev(), ours.ino()) == (named.dev(), named.ino()),
        _ => false,
    }
}

fn held_by_another(database: &Path, lock: &Path) -> StoreFault {
    let holder = fs::read_to_string(lock).unwrap_or_default();
    let holder = match holder.trim().parse::<u32>() {
        Ok(pid) => format!("process {pid}"),
        Err(_) => "another process".into(),
    };
    StoreFault::Busy(format!(
        "{} is in use by {holder}: work through that instance, or wait until it has ended",
        database.display()
    ))
}
