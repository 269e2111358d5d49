//! What a keeper is given to keep, and how it comes to an end.

use std::ffi::OsString;
use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::time::Duration;

use crate::config::KeeperSettings;
use crate::sys::mount::MountFault;
use crate::sys::notify::Notify;

/// How workers come.
pub enum Launch {
    /// The keeper starts them.
    Start {
        /// The program.
        program: PathBuf,
        /// Its arguments.
        arguments: Vec<OsString>,
        /// As which user, with his groups, his own first.
        user: Option<(u32, Vec<u32>)>,
    },
    /// They come to a socket.
    Listen {
        /// Where.
        path: PathBuf,
        /// As which user they must come.
        uid: u32,
    },
}

/// What a keeper is given.
pub struct Keep<'a> {
    /// What it needs of the configuration.
    pub settings: KeeperSettings,
    /// How workers come.
    pub launch: Launch,
    /// Whether users other than the one who mounts are let in.
    pub allow_other: bool,
    /// Whether SIGHUP ends it, as where a terminal is closed, instead of being passed on.
    pub hangup_ends: bool,
    /// The service manager.
    pub notify: Notify,
    /// How often that wants to hear of us.
    pub watchdog: Option<Duration>,
    /// What it kept of the keeper before.
    pub kept: Vec<(String, OwnedFd)>,
    /// Called once, when everyone is served for the first time.
    pub ready: &'a mut dyn FnMut(),
}

/// How a keeper came to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// It was told to.
    Signal,
    /// Somebody else unmounted.
    Unmounted,
    /// Its first worker ended before it served, with this exit code.
    WorkerFailed(i32),
}

/// Why nothing is kept.
#[derive(Debug, thiserror::Error)]
pub enum KeepFault {
    /// The mount could not be made.
    #[error(transparent)]
    Mount(#[from] MountFault),
    /// The mount point could not be made.
    #[error("mount point {path} cannot be made: {source}; make it, or name another")]
    MountPoint {
        /// Where.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The kernel's side of the session failed.
    #[error("the session with the kernel could not be set up: {0}")]
    Kernel(io::Error),
    /// Another keeper, or something else, is at the socket.
    #[error("{path} cannot be listened at: {source}; stop what uses it, or name another")]
    Socket {
        /// Where.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The system has nothing left.
    #[error("the keeper cannot go on: {0}")]
    System(#[from] io::Error),
}
