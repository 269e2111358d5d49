//! Who could have written what we trust: owner and mode of every file, and of every directory and link on the way.

use std::ffi::OsString;
use std::fs::{self, Metadata};
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Component, Path, PathBuf};

use super::{Config, KeySetting, LocalSettings, StoreKind};
use crate::document::Fault;

/// Most links that one path may lead through: as many as the kernel follows (path_resolution(7)).
const LINKS_MAX: usize = 40;

/// How much a file may be seen by others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trusted {
    /// Others may read it, none may write it.
    Unwritable,
    /// Nobody else may touch it: a key.
    Private,
}

/// Checks every file that the configuration names, itself first: each must belong to root or to `uid`, and neither
/// it nor any directory or link on the way to it may be written by others. What does not exist yet is checked as far
/// as it does. Returns each laxness by name; empty: all is well.
#[must_use]
pub fn check_ownership(config: &Config, uid: u32) -> Vec<Fault> {
    let mut wanted = vec![(config.file.clone(), Trusted::Unwritable)];
    for path in &config.policy.paths {
        wanted.push((path.clone(), Trusted::Unwritable));
        wanted.extend(policy_files_in(path).into_iter().map(|file| (file, Trusted::Unwritable)));
    }
    for store in &config.stores {
        match &store.kind {
            StoreKind::Local(local) => wanted.extend(files_of(local)),
            StoreKind::Vault(vault) => {
                wanted.extend(vault.files().into_iter().map(trusted));
                wanted.extend(vault.remote.files());
            }
        }
    }
    wanted.push((config.audit.path.clone(), Trusted::Unwritable));
    let mut faults = Vec::new();
    for (path, trusted) in wanted {
        for fault in Trusted::check(trusted, &path, uid) {
            if !faults.contains(&fault) {
                faults.push(fault);
            }
        }
    }
    faults
}

/// Checks files that logins read, as [`check_ownership`] does: each with whether it is a secret.
#[must_use]
pub fn check_login_files(files: impl IntoIterator<Item = (PathBuf, bool)>, uid: u32) -> Vec<Fault> {
    files.into_iter().map(trusted).flat_map(|(path, trusted)| trusted.check(&path, uid)).collect()
}

fn trusted((file, is_secret): (PathBuf, bool)) -> (PathBuf, Trusted) {
    (file, if is_secret { Trusted::Private } else { Trusted::Unwritable })
}

fn files_of(local: &LocalSettings) -> Vec<(PathBuf, Trusted)> {
    let mut wanted = Vec::new();
    if let KeySetting::File(key) = &local.key {
        wanted.push((key.clone(), Trusted::Private));
    }
    wanted.push((local.path.clone(), Trusted::Unwritable));
    // SQLite's own files beside a database in WAL mode (sqlite.org/wal.html).
    for suffix in ["-wal", "-shm"] {
        let mut beside = OsString::from(&local.path);
        beside.push(suffix);
        wanted.push((PathBuf::from(beside), Trusted::Unwritable));
    }
    wanted
}

/// Checks the configuration file alone, as [`check_ownership`] does.
#[must_use]
pub fn check_owner(file: &Path, uid: u32) -> Vec<Fault> {
    Trusted::check(Trusted::Unwritable, file, uid)
}

fn policy_files_in(path: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(path) else { return Vec::new() };
    let mut files: Vec<PathBuf> = entries
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "toml"))
        .collect();
    files.sort();
    files
}

impl Trusted {
    /// Checks one path and everything on the way to it, as far as it exists.
    #[must_use]
    pub fn check(self, path: &Path, uid: u32) -> Vec<Fault> {
        let mut walk = Walk { uid, faults: Vec::new(), links: 0 };
        if let Err(error) = walk.to(path, self) {
            walk.faults.push(Fault::of_file(
                path,
                format!("who could have written it cannot be told: {}", error.kind()),
                "make the path and its directories readable for this process",
            ));
        }
        walk.faults
    }
}

struct Walk {
    uid: u32,
    faults: Vec<Fault>,
    links: usize,
}

impl Walk {
    /// Walks from the root, a name at a time, as the kernel would; checks whatever it steps on.
    fn to(&mut self, path: &Path, trusted: Trusted) -> io::Result<()> {
        let path = std::path::absolute(path)?;
        let mut left: Vec<OsString> = names_of(&path);
        let mut here = PathBuf::from("/");
        self.check(&here, &fs::symlink_metadata(&here)?, Trusted::Unwritable);
        while let Some(name) = left.pop() {
            if name == ".." {
                here.pop();
                continue;
            }
            let next = here.join(&name);
            let metadata = match fs::symlink_metadata(&next) {
                Ok(metadata) => metadata,
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
                Err(error) => return Err(error),
            };
            if metadata.file_type().is_symlink() {
                self.links += 1;
                if self.links > LINKS_MAX {
                    return Err(io::Error::from(io::ErrorKind::InvalidInput));
                }
                self.check_owner(&next, &metadata);
                let target = fs::read_link(&next)?;
                if target.is_absolute() {
                    here = PathBuf::from("/");
                }
                left.extend(names_of(&target));
                continue;
            }
            let last = left.is_empty();
            self.check(&next, &metadata, if last { trusted } else { Trusted::Unwritable });
            here = next;
        }
        Ok(())
    }

    fn check(&mut self, path: &Path, metadata: &Metadata, trusted: Trusted) {
        self.check_owner(path, metadata);
        let mode = metadata.mode() & 0o7777;
        // In a sticky directory of root's, as /tmp, others can add files but not replace ours.
        let sticky = metadata.is_dir() && metadata.uid() == 0 && mode & 0o1000 != 0;
        if trusted == Trusted::Private && !metadata.is_dir() {
            if mode & 0o077 != 0 {
                self.faults.push(Fault::of_file(
                    path,
                    format!("mode {mode:04o} lets others than its owner use this key"),
                    format!("chmod 0600 {}", shell_quoted(path)),
                ));
            }
        } else if mode & 0o022 != 0 && !sticky {
            self.faults.push(Fault::of_file(
                path,
                format!("mode {mode:04o} lets others than its owner write it"),
                format!("chmod go-w {}", shell_quoted(path)),
            ));
        }
    }

    fn check_owner(&mut self, path: &Path, metadata: &Metadata) {
        let owner = metadata.uid();
        if owner != 0 && owner != self.uid {
            self.faults.push(Fault::of_file(
                path,
                format!("it belongs to uid {owner}, who could change it, not to root or uid {}", self.uid),
                format!("chown {} {}", self.uid, shell_quoted(path)),
            ));
        }
    }
}

/// The names of a path, last first, to be taken one at a time.
fn names_of(path: &Path) -> Vec<OsString> {
    path.components()
        .rev()
        .filter_map(|part| match part {
            Component::Normal(name) => Some(name.to_owned()),
            Component::ParentDir => Some(OsString::from("..")),
            _ => None,
        })
        .collect()
}

/// A path as it can be pasted into a shell.
fn shell_quoted(path: &Path) -> String {
    let bytes = path.as_os_str().as_bytes();
    if bytes.iter().all(|byte| byte.is_ascii_alphanumeric() || b"/._-+@:".contains(byte)) {
        return path.display().to_string();
    }
    format!("'{}'", path.display().to_string().replace('\'', "'\\''"))
}
