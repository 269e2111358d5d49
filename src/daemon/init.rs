//! A new instance: every file made once, none overwritten.

use std::fs;
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use crate::audit::{self, Fingerprint, Log};
use crate::config::{DEFAULT_CONFIG, InitialPaths, config_text, policy_text};
use crate::control::{CommandFault, Kind};
use crate::store::{Key, KeySource, Local};
use crate::sys::harden;

/// Where everything of a new instance lies.
#[derive(Debug, Clone)]
pub struct Layout {
    /// The configuration.
    pub config: PathBuf,
    /// The mount point.
    pub mount_point: PathBuf,
    store: PathBuf,
    key: PathBuf,
    policy: PathBuf,
    policy_directory: Option<PathBuf>,
    audit: PathBuf,
}

/// A new instance, laid down.
#[derive(Debug, Clone)]
pub struct Laid {
    /// Where.
    pub layout: Layout,
    /// The root of its audit log, to be kept elsewhere.
    pub fingerprint: Option<Fingerprint>,
}

impl Layout {
    /// The machine's own instance, where `config` is the usual file; else everything beside that file.
    ///
    /// # Errors
    /// Where the working directory cannot be told.
    pub fn of(config: &Path, mount_point: Option<&Path>) -> io::Result<Self> {
        let config = std::path::absolute(config)?;
        let mount_point = mount_point.map(std::path::absolute).transpose()?;
        if config == Path::new(DEFAULT_CONFIG) {
            return Ok(Self {
                config,
                mount_point: mount_point.unwrap_or_else(|| "/run/credfs".into()),
                store: "/var/lib/credfs/store.db".into(),
                key: "/etc/credfs/store.key".into(),
                policy: "/etc/credfs/policy.toml".into(),
                policy_directory: Some("/etc/credfs/policy.d".into()),
                audit: "/var/log/credfs/audit.log".into(),
            });
        }
        let beside = |name: &str| config.with_file_name(name);
        Ok(Self {
            mount_point: mount_point.unwrap_or_else(|| beside("mnt")),
            store: beside("store.db"),
            key: beside("store.key"),
            policy: beside("policy.toml"),
            policy_directory: None,
            audit: beside("audit.log"),
            config,
        })
    }

    /// Makes it all. `policy` replaces the text of a policy that grants nothing.
    ///
    /// # Errors
    /// [`Kind::Exists`] where any of the files is there already: then nothing is made.
    pub fn make(self, policy: Option<&str>) -> Result<Laid, CommandFault> {
        self.refuse_existing()?;
        for file in [&self.config, &self.store, &self.key, &self.policy, &self.audit] {
            make_directory_of(file)?;
        }
        if let Some(directory) = &self.policy_directory {
            make_directory(directory)?;
        }
        make_mount_point(&self.mount_point)?;
        let key = KeySource::File(self.key.clone());
        Key::generate()?.write_new_file(&self.key)?;
        Local::create(&self.store, &key)?;
        let (log, opened) = Log::open(audit::Options::at(&self.audit))
            .map_err(|fault| CommandFault::new(Kind::Audit, fault.to_string()))?;
        drop(log);
        let text = policy.map_or_else(|| policy_text(&self.config), str::to_owned);
        write_new(&self.policy, &text, 0o640)?;
        let paths = InitialPaths {
            mount_point: &self.mount_point,
            store: &self.store,
            key: &self.key,
            policy: &self.policy,
            policy_directory: self.policy_directory.as_deref(),
            audit: &self.audit,
            control: None,
        };
        // Last: an instance whose configuration is there is whole. Others may read it, to find the socket.
        write_new(&self.config, &config_text(&paths), 0o644)?;
        Ok(Laid { layout: self, fingerprint: opened.new_chain })
    }

    fn refuse_existing(&self) -> Result<(), CommandFault> {
        let files = [&self.config, &self.key, &self.store, &self.policy, &self.audit];
        let found: Vec<String> = files
            .into_iter()
            .filter(|file| fs::symlink_metadata(file).is_ok())
            .map(|file| file.display().to_string())
            .collect();
        if found.is_empty() {
            return Ok(());
        }
        Err(CommandFault::new(
            Kind::Exists,
            format!(
                "{} exists already, and nothing is overwritten: use that instance, move the files away, or name \
                 another configuration with --config",
                found.join(", ")
            ),
        ))
    }

    /// The policy file.
    #[must_use]
    pub fn policy(&self) -> &Path {
        &self.policy
    }

    /// The key file.
    #[must_use]
    pub fn key(&self) -> &Path {
        &self.key
    }
}

/// Makes the directory that `file` shall lie in, and what is missing above it.
pub(super) fn make_directory_of(file: &Path) -> Result<(), CommandFault> {
    make_directory(directory_of(file))
}

/// Whether `path` names a policy file, and not a directory of them, that is not there.
pub(super) fn policy_is_missing(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "toml") && fs::symlink_metadata(path).is_err()
}

/// Writes a policy that grants nothing.
pub(super) fn write_policy(path: &Path, config: &Path) -> Result<(), CommandFault> {
    make_directory_of(path)?;
    write_new(path, &policy_text(config), 0o640)
}

fn directory_of(file: &Path) -> &Path {
    match file.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

fn cannot(what: &str, path: &Path) -> impl FnOnce(io::Error) -> CommandFault {
    let text = format!("{} cannot be {what}", path.display());
    move |error| match error.kind() {
        io::ErrorKind::AlreadyExists => {
            CommandFault::new(Kind::Exists, format!("{text}: it exists already; move it away"))
        }
        _ => CommandFault::failed(format!("{text}: {error}; see to the directory's owner and mode")),
    }
}

/// Makes `path` and what is missing above it, owned like what they lie in.
fn make_directory(path: &Path) -> Result<(), CommandFault> {
    if path.is_dir() {
        return Ok(());
    }
    make_directory(directory_of(path))?;
    fs::DirBuilder::new().mode(0o755).create(path).map_err(cannot("made", path))?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).map_err(cannot("made", path))?;
    own_like_directory(path)
}

/// Makes the mount point if it is missing. One that is there, even as a dead mount, stays as it is.
fn make_mount_point(path: &Path) -> Result<(), CommandFault> {
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => make_directory(path),
        _ => Ok(()),
    }
}

fn write_new(path: &Path, text: &str, mode: u32) -> Result<(), CommandFault> {
    let cannot_write = || cannot("written", path);
    let mut file =
        fs::File::options().write(true).create_new(true).mode(mode).open(path).map_err(cannot_write())?;
    file.set_permissions(fs::Permissions::from_mode(mode)).map_err(cannot_write())?;
    file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).map_err(cannot_write())?;
    own_like_directory(path)?;
    fs::File::open(directory_of(path)).and_then(|directory| directory.sync_all()).map_err(cannot_write())
}

/// What root makes belongs to whom the directory belongs to. A sticky directory is everyone's: its owner has no claim.
fn own_like_directory(path: &Path) -> Result<(), CommandFault> {
    if harden::own_uid() != 0 {
        return Ok(());
    }
    let directory = fs::metadata(directory_of(path)).map_err(cannot("given its directory's owner", path))?;
    if directory.mode() & 0o1000 != 0 || directory.uid() == 0 {
        return Ok(());
    }
    std::os::unix::fs::lchown(path, Some(directory.uid()), Some(directory.gid()))
        .map_err(cannot("given its directory's owner", path))
}
