//! The keeper's side of an instance: in the foreground, where it starts its worker, and as a service of its own.

use std::ffi::OsString;
use std::path::Path;
use std::time::Duration;

use crate::config::{KeeperSettings, check_owner};
use crate::control::{CommandFault, Instance};
use crate::keeper::{self, Ended, Keep, Launch};
use crate::sys::notify::{Notify, kept_descriptors};
use crate::sys::{harden, names};

use super::Surroundings;
use super::rooms::{self, Rooms, check};

/// How an instance is kept in the foreground.
pub struct Mounting<'a> {
    /// The configuration file.
    pub config: &'a Path,
    /// What systemd said.
    pub surroundings: &'a Surroundings,
    /// How much the worker says on standard error.
    pub log_level: Option<&'a str>,
    /// Whether SIGHUP ends it, as where a terminal is closed, instead of reloading.
    pub hangup_ends: bool,
    /// Called when everyone is served.
    pub ready: &'a mut dyn FnMut(),
}

/// How a mount is kept for a worker that another unit starts.
pub struct Keeping<'a> {
    /// The configuration file.
    pub config: &'a Path,
    /// What systemd said.
    pub surroundings: &'a Surroundings,
    /// Where the worker comes to.
    pub socket: &'a Path,
}

/// Starts a worker, mounts when it has read its configuration, and keeps the mount until a signal or an unmount.
///
/// # Errors
/// [`CommandFault`]: nothing stays mounted then. A first worker that fails has said why: its exit code is in [`Ended`].
pub fn mount(mounting: Mounting<'_>) -> Result<Ended, CommandFault> {
    let settings = settings(mounting.config)?;
    let user = worker_user(&settings)?;
    let program = std::env::current_exe()
        .map_err(|error| CommandFault::failed(format!("this program cannot be found: {error}")))?;
    let config = std::path::absolute(mounting.config).unwrap_or_else(|_| mounting.config.to_owned());
    let mut arguments: Vec<OsString> = vec!["worker".into(), "--config".into(), config.into()];
    if let Some(level) = mounting.log_level {
        arguments.extend(["--log-level".into(), level.into()]);
    }
    let ended = keeper::run(Keep {
        allow_other: harden::own_uid() == 0 || users_may_allow_others(),
        launch: Launch::Start { program, arguments, user },
        hangup_ends: mounting.hangup_ends,
        notify: Notify::to(mounting.surroundings.notify_socket.as_deref()),
        watchdog: watchdog(mounting.surroundings),
        kept: Vec::new(),
        ready: mounting.ready,
        settings,
    });
    finished(ended, mounting.config)
}

/// Mounts at once, and keeps the mount for whichever worker comes.
///
/// # Errors
/// As [`mount`].
pub fn keep(keeping: Keeping<'_>) -> Result<Ended, CommandFault> {
    let [pid, count, names] = &keeping.surroundings.listen;
    let kept = kept_descriptors(pid.as_deref(), count.as_deref(), names.as_deref());
    let settings = settings(keeping.config)?;
    let uid = worker_user(&settings)?.map_or_else(harden::own_uid, |(uid, _)| uid);
    let ended = keeper::run(Keep {
        allow_other: harden::own_uid() == 0 || users_may_allow_others(),
        launch: Launch::Listen { path: keeping.socket.to_owned(), uid },
        hangup_ends: false,
        notify: Notify::to(keeping.surroundings.notify_socket.as_deref()),
        watchdog: watchdog(keeping.surroundings),
        kept,
        ready: &mut || {},
        settings,
    });
    finished(ended, keeping.config)
}

/// Opens an instance that does not serve, for one thing that is done before it does.
///
/// # Errors
/// Where it cannot be opened, and what `act` fails with.
pub fn with_instance(
    config: &Path,
    surroundings: &Surroundings,
    act: impl FnOnce(&Instance, &tokio::runtime::Runtime) -> Result<(), CommandFault>,
) -> Result<(), CommandFault> {
    let config = check(config).map_err(|faults| CommandFault::invalid(&faults))?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| CommandFault::failed(format!("no threads could be started: {error}")))?;
    let Rooms { gate, locals, .. } =
        rooms::open(&config, surroundings, None, Duration::ZERO).map_err(rooms::OpenTrouble::into_fault)?;
    act(&Instance { gate, locals, running: None }, &runtime)
}

fn settings(config: &Path) -> Result<KeeperSettings, CommandFault> {
    let settings = KeeperSettings::load(config).map_err(|faults| CommandFault::invalid(&faults))?;
    let own = harden::own_uid();
    // As for the rest of the configuration, which the worker checks.
    let uid = if own == 0 { settings.owner_uid } else { own };
    let lax = check_owner(config, uid);
    if lax.is_empty() { Ok(settings) } else { Err(CommandFault::invalid(&lax)) }
}

/// The user the worker runs as, with his groups; `None`: as this process.
fn worker_user(settings: &KeeperSettings) -> Result<Option<(u32, Vec<u32>)>, CommandFault> {
    let Some(name) = &settings.worker_user else { return Ok(None) };
    let found = names::uid_of(name).zip(names::groups_of(name));
    let Some((uid, groups)) = found else {
        return Err(CommandFault::failed(format!(
            "worker.user names {name:?}, whom this machine does not know: make that user, or name another"
        )));
    };
    match harden::own_uid() {
        own if own == uid => Ok(None),
        0 => Ok(Some((uid, groups))),
        _ => Err(CommandFault::failed(format!(
            "worker.user names {name:?}, and only root can start the worker as another user: leave it out, or start \
             this as root"
        ))),
    }
}

fn finished(ended: Result<Ended, keeper::KeepFault>, config: &Path) -> Result<Ended, CommandFault> {
    match ended.map_err(|fault| CommandFault::failed(fault.to_string()))? {
        Ended::Unmounted => Err(CommandFault::failed(format!(
            "the mount of {} was taken away by somebody else: start the instance again",
            config.display()
        ))),
        ended => Ok(ended),
    }
}

fn watchdog(surroundings: &Surroundings) -> Option<Duration> {
    surroundings.watchdog_usec.map(Duration::from_micros)
}

/// Whether fusermount3 lets a plain user share his mount (fuse.conf(5)).
fn users_may_allow_others() -> bool {
    let text = std::fs::read_to_string("/etc/fuse.conf").unwrap_or_default();
    text.lines().any(|line| line.trim() == "user_allow_other")
}
