//! What a configuration names and is not there yet: keys, empty stores, an empty audit log. What is there stays.

use std::path::{Path, PathBuf};

use crate::audit::{Fingerprint, Log};
use crate::config::{Config, KeySetting, LocalSettings};
use crate::control::{CommandFault, Kind};
use crate::store::{Key, KeySource, Local};

use super::init::{make_directory_of, policy_is_missing, write_policy};
use super::rooms::{check, local_options, log_options, log_trouble};
use super::{OpenTrouble, Surroundings};

/// What was made, and what was there.
#[derive(Debug, Clone, Default)]
pub struct Completed {
    /// Files that were made.
    pub made: Vec<PathBuf>,
    /// The root of the audit log, where a new chain was begun: to be kept elsewhere.
    pub fingerprint: Option<Fingerprint>,
}

/// Makes what the configuration at `file` names and is missing. Nothing that exists is touched, so it may be done
/// again at any time; also while an instance runs, which misses nothing then.
///
/// # Errors
/// Where the configuration is faulty, where a store is there and its key is not, where a file cannot be made.
pub fn complete(file: &Path, surroundings: &Surroundings) -> Result<Completed, CommandFault> {
    let config = check(file).map_err(|faults| CommandFault::invalid(&faults))?;
    let mut completed = Completed::default();
    for settings in &config.stores {
        // What a remote store needs on this machine is given by its administrators.
        if let Some(local) = settings.local() {
            complete_store(&config, &settings.name, local, surroundings, &mut completed)?;
        }
    }
    for policy in config.policy.paths.iter().filter(|path| policy_is_missing(path)) {
        write_policy(policy, &config.file)?;
        completed.made.push(policy.clone());
    }
    if !exists(&config.audit.path)? {
        make_directory_of(&config.audit.path)?;
        let options = log_options(&config, std::time::Duration::ZERO);
        let (log, opened) = Log::open(options).map_err(log_trouble).map_err(OpenTrouble::into_fault)?;
        drop(log);
        completed.fingerprint = opened.new_chain;
        completed.made.push(config.audit.path.clone());
    }
    Ok(completed)
}

fn complete_store(
    config: &Config,
    name: &str,
    settings: &LocalSettings,
    surroundings: &Surroundings,
    completed: &mut Completed,
) -> Result<(), CommandFault> {
    if exists(&settings.path)? {
        return match &settings.key {
            KeySetting::File(key) if !exists(key)? => Err(CommandFault::failed(format!(
                "{} is there and its key {} is not: put the key back from its copy; a new one would open nothing",
                settings.path.display(),
                key.display()
            ))),
            _ => Ok(()),
        };
    }
    let source = match &settings.key {
        KeySetting::File(key) => {
            if !exists(key)? {
                make_directory_of(key)?;
                Key::generate()?.write_new_file(key)?;
                completed.made.push(key.clone());
            }
            KeySource::File(key.clone())
        }
        // systemd hands it to the instance alone: without it this says what to do.
        KeySetting::Credential(_) => {
            local_options(config, name, settings, surroundings, std::time::Duration::ZERO)
                .map_err(OpenTrouble::into_fault)?
                .key
        }
    };
    make_directory_of(&settings.path)?;
    Local::create(&settings.path, &source)?;
    completed.made.push(settings.path.clone());
    Ok(())
}

/// Whether there is a file, or anything else, of that name.
fn exists(path: &Path) -> Result<bool, CommandFault> {
    match std::fs::symlink_metadata(path) {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(CommandFault::new(
            Kind::Failed,
            format!("{} cannot be looked at: {error}; run this as its owner or as root", path.display()),
        )),
    }
}
