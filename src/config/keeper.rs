//! What the keeper needs of the configuration: as little as can be, so that a fault elsewhere does not keep it from keeping.

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::document::Fault;

use super::Config;

/// What the keeper needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeeperSettings {
    /// Where the tree is mounted.
    pub mount_point: PathBuf,
    /// As which user the worker runs; `None`: as whoever starts it.
    pub worker_user: Option<String>,
    /// Who owns the configuration.
    pub owner_uid: u32,
    /// How long a request of the kernel may take.
    pub request_deadline: Duration,
    /// How long commands may go on at the end.
    pub shutdown_deadline: Duration,
    /// Largest executable whose digest is taken, in bytes.
    pub executable_bytes_max: u64,
    /// How many digests are remembered.
    pub digests_max: usize,
}

impl KeeperSettings {
    /// Reads the mount point and the worker's user, and limits as far as they are not at fault.
    ///
    /// # Errors
    /// Where the file cannot be read or is no TOML, so that nobody can say where to mount.
    pub fn load(file: &Path) -> Result<Self, Vec<Fault>> {
        let (config, faults) = Config::load_with_faults(file).map_err(|fault| vec![fault])?;
        if !config.is_toml {
            return Err(faults);
        }
        Ok(Self {
            mount_point: config.mount_point,
            worker_user: config.worker_user,
            owner_uid: config.owner_uid,
            request_deadline: config.limits.request_deadline,
            shutdown_deadline: config.limits.shutdown_deadline,
            executable_bytes_max: config.limits.executable_bytes_max,
            digests_max: usize::try_from(config.limits.executables_max).unwrap_or(usize::MAX),
        })
    }
}
