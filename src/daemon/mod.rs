//! Builds the rooms in order and runs them: an instance that serves, or files opened for one command. It may touch
//! every room below; it knows no command line and reads no environment: what it needs of either is handed in.

mod complete;
mod dynamic;
mod foreground;
mod harden;
mod init;
mod left;
mod reload;
mod remote_check;
mod restore;
mod rights;
mod rooms;
mod sample;
mod serve;
mod socket;
mod vault;

pub use complete::{Completed, complete};
pub use foreground::{Keeping, Mounting, keep, mount, with_instance};
pub use harden::harden;
pub use init::{Laid, Layout};
pub use remote_check::{RemoteFinding, RemoteTrouble, ask_kv_version, check_remote};
pub use restore::restore;
pub use rooms::{OpenTrouble, Rooms, check, load_policy, local_options, open};
pub use sample::Sandbox;
pub use serve::{Working, log_out, work};

use std::path::PathBuf;

/// What a process is told by its surroundings, read once at the top.
#[derive(Debug, Clone, Default)]
pub struct Surroundings {
    /// `NOTIFY_SOCKET` of systemd.
    pub notify_socket: Option<String>,
    /// `WATCHDOG_USEC` of systemd, in microseconds.
    pub watchdog_usec: Option<u64>,
    /// `CREDENTIALS_DIRECTORY` of systemd.
    pub credentials_directory: Option<PathBuf>,
    /// `LISTEN_PID`, `LISTEN_FDS` and `LISTEN_FDNAMES` of systemd.
    pub listen: [Option<String>; 3],
}

/// What is known of this process itself, for records: what an instance would say of it, if it asked one.
#[must_use]
pub fn ourselves() -> crate::caller::Described {
    crate::caller::ourselves(crate::sys::harden::own_uid(), crate::sys::harden::own_gid())
}
