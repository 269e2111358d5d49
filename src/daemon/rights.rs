//! What a worker gives up before it opens anything.

use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use crate::config::{Config, KeySetting, StoreSettings, VaultSettings};
use crate::control::CommandFault;
use crate::sys::harden;
use crate::sys::privilege::{self, Capability};

/// Gives up what a worker has no use for: at once all but what root may need to read the configuration, and then the rest.
/// Root keeps the right to open files of others where files of the instance are somebody else's, on whose behalf he serves;
/// and to lock memory, where the limit on that is low.
pub(super) fn give_up(config: Option<&Config>) -> Result<(), CommandFault> {
    let mut keep = Vec::new();
    let failed = |error| CommandFault::failed(format!("rights could not be given up: {error}"));
    if harden::own_uid() == 0 {
        if config.is_none_or(|config| !all_are_roots(config)) {
            keep.extend([Capability::DacOverride, Capability::Chown, Capability::Fowner]);
        }
        if harden::lockable_bytes().map_err(failed)?.is_some() {
            keep.push(Capability::IpcLock);
        }
    }
    privilege::keep_only(&keep).map_err(failed)
}

/// Whether everything that the instance reads and writes belongs to root, directories included.
fn all_are_roots(config: &Config) -> bool {
    let locals = || config.stores.iter().filter_map(StoreSettings::local);
    let keys = locals().filter_map(|store| match &store.key {
        KeySetting::File(path) => Some(path),
        KeySetting::Credential(_) => None,
    });
    let vaults: Vec<_> =
        config.stores.iter().filter_map(StoreSettings::vault).flat_map(VaultSettings::files).collect();
    let files = locals().map(|store| &store.path).chain(keys).chain(vaults.iter().map(|(file, _)| file));
    let files =
        files.chain(&config.policy.paths).chain([&config.file, &config.audit.path, &config.control.socket]);
    let is_roots = |path: &Path| std::fs::metadata(path).map_or(true, |found| found.uid() == 0);
    files.into_iter().all(|file| is_roots(file) && file.parent().is_none_or(is_roots))
}
