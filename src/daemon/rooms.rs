//! The rooms in their order: configuration, audit log, stores, policy, gate.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::access::{Gate, Limits, Parts, Places};
use crate::audit::{self, Log, OpenFault, Opened, RefusalLimits};
use crate::config::{self, Config, Durability, KeySetting, LocalSettings, RemoteSettings, StoreKind};
use crate::control::{CommandFault, Kind, LocalStore};
use crate::document::Fault;
use crate::model::UnixTime;
use crate::policy::{self, Loaded, Policy, SystemNames};
use crate::store::{
    CacheFile, Dynamic, Grace, KeySource, Local, LocalOptions, Remote, RemoteOptions, Source, Store,
    StoreFault, Vault,
};
use crate::sys::{harden, names};

use super::Surroundings;
use super::dynamic;
use super::vault::vault_options;

/// How much longer than `retire_after` a version keeps its bytes: who was let open it at the last moment fetches them.
const OPENING_MAX: Duration = Duration::from_secs(1);

/// Everything that is opened before anyone is served.
pub struct Rooms {
    /// The door to values and changes.
    pub gate: Arc<Gate>,
    /// The embedded stores by name.
    pub locals: BTreeMap<String, LocalStore>,
    /// The remote stores, to be watched and left to a successor.
    pub remotes: Vec<Arc<Remote>>,
    /// The engines behind them, to be told of other logins.
    pub engines: Vec<(Arc<Vault>, Arc<Remote>)>,
    /// What is minted beside them, to be looked after.
    pub dynamics: Vec<Arc<Dynamic>>,
    /// What opening the audit log found.
    pub opened: Opened,
}

/// Why the rooms could not be opened.
pub enum OpenTrouble {
    /// Another process holds the store or the log: a running instance, or a command that will end soon.
    Busy(CommandFault),
    /// We may not open the files; an instance may do it for us.
    NotOurs(CommandFault),
    /// Anything else.
    Fault(CommandFault),
}

impl OpenTrouble {
    /// The fault, where nothing can be done about it.
    #[must_use]
    pub fn into_fault(self) -> CommandFault {
        match self {
            Self::Busy(fault) | Self::NotOurs(fault) | Self::Fault(fault) => fault,
        }
    }
}

/// Loads the configuration and checks who could have written what it names.
///
/// # Errors
/// Every fault, each with its line or file.
pub fn check(file: &std::path::Path) -> Result<Config, Vec<Fault>> {
    let config = Config::load(file)?;
    let lax = config::check_ownership(&config, owning_uid(&config)?);
    if lax.is_empty() { Ok(config) } else { Err(lax) }
}

/// Whom files may belong to, beside root.
fn owning_uid(config: &Config) -> Result<u32, Vec<Fault>> {
    let own = harden::own_uid();
    // Root serves an instance of somebody else's on his behalf: his files are his.
    if own == 0 { serving_uid(config).map_err(|fault| vec![fault]) } else { Ok(own) }
}

/// Whom the instance's files belong to, beside root: the worker's user, else the owner of the configuration.
///
/// # Errors
/// Where the machine knows no such user.
pub(super) fn serving_uid(config: &Config) -> Result<u32, Fault> {
    let Some(user) = &config.worker_user else { return Ok(config.owner_uid) };
    names::uid_of(user).ok_or_else(|| {
        Fault::of_file(
            &config.file,
            format!("worker.user names {user}, and this machine knows no such user"),
            format!("make it (useradd --system {user}), or take the line away"),
        )
    })
}

/// Loads the policy that the configuration names.
///
/// # Errors
/// Every fault.
pub fn load_policy(config: &Config) -> Result<Loaded, Vec<Fault>> {
    let mut loaded = Policy::load(&config.policy.paths, &policy_options(config), &SystemNames)?;
    let mut files = Vec::new();
    for (store, vault) in config.stores.iter().filter_map(|store| Some((store, store.vault()?))) {
        let logins = loaded.policy.logins_at(&store.name);
        files.extend(logins.flat_map(|(_, login)| login.files()));
        loaded.warnings.extend(vault.files().into_iter().filter_map(absent));
    }
    loaded.warnings.extend(files.iter().cloned().filter_map(absent));
    let lax = config::check_login_files(files, owning_uid(config)?);
    if lax.is_empty() { Ok(loaded) } else { Err(lax) }
}

/// A file that a login reads may come later, from whoever delivers it: that it is not there is no fault yet.
fn absent((file, _): (PathBuf, bool)) -> Option<Fault> {
    let is_absent = std::fs::symlink_metadata(&file).is_err_and(|error| error.kind() == ErrorKind::NotFound);
    is_absent.then(|| {
        let message = "is named for a login at a remote store, and is not there";
        Fault::of_file(
            &file,
            message,
            "put it there, with mode 0600 if it is a secret; until then that login fails",
        )
    })
}

fn policy_options(config: &Config) -> policy::Options {
    policy::Options { retire_after: config.policy.retire_after, owner_uid: config.owner_uid }
}

/// Opens audit log, stores and policy. With `policy` a faulty policy is a fault; without, it is replaced by an empty
/// one: the permissions of the files have decided who may administer.
///
/// # Errors
/// [`OpenTrouble`]; nothing stays open then.
pub fn open(
    config: &Config,
    surroundings: &Surroundings,
    policy: Option<Policy>,
    wait: Duration,
) -> Result<Rooms, OpenTrouble> {
    let policy = match policy {
        Some(policy) => policy,
        None => {
            load_policy(config)
                .map_or_else(|_| Policy::from_texts(&[], &policy_options(config), &SystemNames), Ok)
                .map_err(|faults| OpenTrouble::Fault(CommandFault::invalid(&faults)))?
                .policy
        }
    };
    let (log, opened) = Log::open(log_options(config, wait)).map_err(log_trouble)?;
    let (mut locals, mut remotes, mut engines, mut dynamics) =
        (BTreeMap::new(), Vec::new(), Vec::new(), Vec::new());
    let mut stores: Vec<(String, Arc<dyn Store>)> = Vec::new();
    for settings in &config.stores {
        match &settings.kind {
            StoreKind::Local(local) => {
                let options = local_options(config, &settings.name, local, surroundings, wait)?;
                let store =
                    Arc::new(Local::open(options).map_err(|fault| store_trouble(fault, &local.path))?);
                stores.push((settings.prefix.clone(), Arc::clone(&store) as Arc<dyn Store>));
                locals.insert(settings.name.clone(), LocalStore { store, path: local.path.clone() });
            }
            StoreKind::Vault(vault) => {
                let engine =
                    Arc::new(Vault::new(vault_options(&settings.name, vault, Some(&policy), surroundings)?));
                let options = remote_options(config, &vault.remote, surroundings, wait)?;
                let store = Remote::open(Arc::clone(&engine) as Arc<dyn Source>, options)
                    .map_err(|fault| store_trouble(fault, &vault.remote.state_file))?;
                let dynamic = dynamic::open(config, vault, &store, &engine, wait)
                    .map_err(|fault| store_trouble(fault, &dynamic::book_file(vault)))?;
                let front = match &dynamic {
                    Some(dynamic) => Arc::clone(dynamic) as Arc<dyn Store>,
                    None => Arc::clone(&store) as Arc<dyn Store>,
                };
                dynamics.extend(dynamic);
                stores.push((settings.prefix.clone(), front));
                engines.push((engine, Arc::clone(&store)));
                remotes.push(store);
            }
        }
    }
    let places = Places::new(stores)
        .map_err(|fault| OpenTrouble::Fault(CommandFault::new(Kind::Invalid, fault.to_string())))?;
    let gate = Arc::new(Gate::new(Parts {
        places,
        policy,
        log: Arc::new(log),
        limits: Limits {
            in_flight_per_uid_max: size(config.limits.in_flight_per_uid_max),
            request_deadline: config.limits.request_deadline,
        },
        clock: Box::new(|| UnixTime::from(std::time::SystemTime::now())),
    }));
    Ok(Rooms { gate, locals, remotes, engines, dynamics, opened })
}

/// A number of the configuration as a size in memory.
pub(super) fn size(number: u64) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}

pub(super) fn log_options(config: &Config, wait: Duration) -> audit::Options {
    audit::Options {
        durability: match config.audit.durability {
            Durability::ProcessSafe => audit::Durability::ProcessSafe,
            Durability::PowerSafe => audit::Durability::PowerSafe,
        },
        segment_bytes: config.audit.segment_bytes,
        max_bytes: Some(config.audit.max_bytes),
        wait_max: config.limits.audit_wait,
        lock_wait_max: wait,
        refusals: RefusalLimits {
            uids_max: size(config.limits.refusals_max),
            pending_per_uid_max: u32::try_from(config.limits.refusals_per_uid_max).unwrap_or(u32::MAX),
            ..RefusalLimits::default()
        },
        ..audit::Options::at(&config.audit.path)
    }
}

/// For how long a version without a stage keeps its bytes.
pub(super) fn erase_after(config: &Config) -> Duration {
    config.policy.retire_after + OPENING_MAX
}

/// How the local store of `settings` is opened.
///
/// # Errors
/// Where its key is a credential and systemd gave none.
pub fn local_options(
    config: &Config,
    name: &str,
    settings: &LocalSettings,
    surroundings: &Surroundings,
    wait: Duration,
) -> Result<LocalOptions, OpenTrouble> {
    let key = match &settings.key {
        KeySetting::File(path) => KeySource::File(path.clone()),
        KeySetting::Credential(name) => KeySource::Credential(credential(name, surroundings)?),
    };
    Ok(LocalOptions {
        keep_versions: settings.keep_versions,
        erase_after: erase_after(config),
        busy_wait_ms: u64::try_from(wait.as_millis()).unwrap_or(u64::MAX),
        value_cache_bytes: size(config.limits.cache_bytes_max),
        ..LocalOptions::new(name, settings.path.clone(), key)
    })
}

/// How the memory in front of a remote store is opened.
///
/// # Errors
/// Where the key of its cache is a credential and systemd gave none.
fn remote_options(
    config: &Config,
    settings: &RemoteSettings,
    surroundings: &Surroundings,
    wait: Duration,
) -> Result<RemoteOptions, OpenTrouble> {
    let cache_file = match &settings.cache {
        None => None,
        Some(cache) => Some(CacheFile {
            path: cache.path.clone(),
            key: match &cache.key {
                KeySetting::File(path) => KeySource::File(path.clone()),
                KeySetting::Credential(name) => KeySource::Credential(credential(name, surroundings)?),
            },
            bytes_max: cache.bytes_max,
        }),
    };
    Ok(RemoteOptions {
        fresh_for: settings.fresh_for,
        grace: Grace {
            unclassified: settings.grace,
            low: settings.grace_low,
            medium: settings.grace_medium,
            high: settings.grace_high,
        },
        // What is within grace can still be given when a request had no answer.
        answer_within: settings.answer_within.min(config.limits.request_deadline * 3 / 5),
        failures_max: settings.failures_max,
        probe_every: settings.probe_every,
        requests_per_minute_max: settings.requests_per_minute_max,
        poll_every_min: settings.poll_every_min,
        in_use_for: settings.in_use_for,
        list_every: settings.list_every,
        value_cache_bytes_max: size(config.limits.cache_bytes_max),
        cache_file,
        lock_wait: wait,
        needs_own_login: settings.needs_own_login,
        is_alive: Some(dynamic::liveness()),
        ..RemoteOptions::new(&settings.state_file)
    })
}

pub(super) fn credential(name: &str, surroundings: &Surroundings) -> Result<PathBuf, OpenTrouble> {
    let directory = surroundings.credentials_directory.as_ref().ok_or_else(|| {
        OpenTrouble::NotOurs(CommandFault::failed(format!(
            "a key or login is the systemd credential {name:?}, and systemd gave this process none: ask the running \
             instance, or add LoadCredential= to the unit"
        )))
    })?;
    Ok(directory.join(name))
}

pub(super) fn log_trouble(fault: OpenFault) -> OpenTrouble {
    let message = fault.to_string();
    match fault {
        OpenFault::Held { .. } => OpenTrouble::Busy(CommandFault::new(Kind::Audit, message)),
        OpenFault::Io { source, .. } if source.kind() == std::io::ErrorKind::PermissionDenied => {
            OpenTrouble::NotOurs(CommandFault::new(Kind::Audit, message))
        }
        _ => OpenTrouble::Fault(CommandFault::new(Kind::Audit, message)),
    }
}

fn store_trouble(fault: StoreFault, file: &std::path::Path) -> OpenTrouble {
    let is_ours = std::fs::File::options().read(true).write(true).open(file).map(drop);
    match fault {
        StoreFault::Busy(_) => OpenTrouble::Busy(fault.into()),
        StoreFault::Io(_)
            if is_ours.is_err_and(|error| error.kind() == std::io::ErrorKind::PermissionDenied) =>
        {
            OpenTrouble::NotOurs(fault.into())
        }
        _ => OpenTrouble::Fault(fault.into()),
    }
}
