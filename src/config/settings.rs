//! What the configuration says, as plain values.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::{LimitSettings, VaultSettings};

/// Where the configuration is looked for unless `--config` or `CREDFS_CONFIG` says otherwise.
pub const DEFAULT_CONFIG: &str = "/etc/credfs/credfs.toml";
/// Where the mount is unless said otherwise.
pub(super) const DEFAULT_MOUNT_POINT: &str = "/run/credfs";
/// The control socket of the machine's own instance.
pub(super) const DEFAULT_CONTROL_SOCKET: &str = "/run/credfs-control/control.sock";
/// The control socket of a private instance, beside its configuration.
pub(super) const PRIVATE_CONTROL_SOCKET: &str = "control.sock";

/// The whole configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// The file it is from.
    pub file: PathBuf,
    /// Who owns that file: an administrator, like uid 0.
    pub owner_uid: u32,
    /// Where the tree is mounted. Default `/run/credfs`.
    pub mount_point: PathBuf,
    /// The stores, longest prefix first: the first whose prefix holds a path serves it.
    pub stores: Vec<StoreSettings>,
    /// The policy.
    pub policy: PolicySettings,
    /// The audit log.
    pub audit: AuditSettings,
    /// Every deadline, queue and size.
    pub limits: LimitSettings,
    /// The control socket.
    pub control: ControlSettings,
    /// As which user the worker runs: beside root the only one who may own the instance's files. Default: as whoever
    /// starts it, and files may belong to whoever owns the configuration.
    pub worker_user: Option<String>,
    /// Whether the text is TOML at all: else everything here is a default.
    pub(super) is_toml: bool,
}

impl Config {
    /// The store that serves a path: that with the longest prefix.
    #[must_use]
    pub fn store_of(&self, path: &str) -> Option<&StoreSettings> {
        self.stores.iter().find(|store| store.serves(path))
    }
}

/// One store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoreSettings {
    /// Its name.
    pub name: String,
    /// Where in the tree it appears, without slashes at its ends; empty: at the top.
    pub prefix: String,
    /// What is behind it.
    pub kind: StoreKind,
}

/// What is behind a store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StoreKind {
    /// A database of our own.
    Local(LocalSettings),
    /// A KV engine at Vault or OpenBao servers.
    Vault(Box<VaultSettings>),
}

/// An embedded store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LocalSettings {
    /// The database.
    pub path: PathBuf,
    /// Where the key comes from.
    pub key: KeySetting,
    /// How many versions of a secret are kept; 0: all. Default 0.
    pub keep_versions: u32,
}

impl StoreSettings {
    /// What there is of it on this machine, where it is embedded.
    #[must_use]
    pub fn local(&self) -> Option<&LocalSettings> {
        match &self.kind {
            StoreKind::Local(local) => Some(local),
            StoreKind::Vault(_) => None,
        }
    }

    /// How its servers are reached, where it is remote.
    #[must_use]
    pub fn vault(&self) -> Option<&VaultSettings> {
        match &self.kind {
            StoreKind::Vault(vault) => Some(vault),
            StoreKind::Local(_) => None,
        }
    }

    /// Whether `path` lies at or below the store's prefix.
    #[must_use]
    pub fn serves(&self, path: &str) -> bool {
        self.prefix.is_empty()
            || path.strip_prefix(&self.prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    }
}

/// Where the key-encryption key of a store comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeySetting {
    /// A file.
    File(PathBuf),
    /// A systemd credential of that name, below `$CREDENTIALS_DIRECTORY` (systemd.exec(5)).
    Credential(String),
}

/// The policy's files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PolicySettings {
    /// Files, and directories of `*.toml`. Default `policy.toml` beside the configuration.
    pub paths: Vec<PathBuf>,
    /// How long a version that lost its stage may still be read. Default 30 s.
    pub retire_after: Duration,
}

/// What a record must have survived before bytes are released.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Durability {
    /// The death of this process: written to the kernel.
    #[default]
    ProcessSafe,
    /// A loss of power: synchronised to the disk.
    PowerSafe,
}

/// The audit log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuditSettings {
    /// The file. Default `/var/log/credfs/audit.log`, and `audit.log` beside a private configuration.
    pub path: PathBuf,
    /// What a record must have survived. Default `process-safe`.
    pub durability: Durability,
    /// Size at which a new file is begun, in bytes. Default 16 MiB.
    pub segment_bytes: u64,
    /// Most that all files may take, in bytes: the oldest checkpointed are removed. Default 1 GiB.
    pub max_bytes: u64,
}

/// The control socket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ControlSettings {
    /// Where it is. Default `/run/credfs-control/control.sock` for the machine's own configuration, else
    /// `control.sock` beside the file.
    pub socket: PathBuf,
}

/// Whether a configuration file is that of the machine's own instance.
pub(super) fn is_default(file: &Path) -> bool {
    file == Path::new(DEFAULT_CONFIG)
}
