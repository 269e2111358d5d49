//! Who shares what was minted for him alone: a unit, a container, or one process.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Who shares one lease, as the configuration says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Sharing {
    /// All processes of a systemd unit, else of a container; a process outside of both stands for itself.
    Unit,
    /// The threads of one process.
    Process,
}

/// One consumer. Equal ones are the same: a unit that was started anew, or a process with a used number, is another.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Consumer {
    /// The processes of a cgroup, which systemd or a container engine made for them.
    Group {
        /// What people call it: the unit's name, or the container's id.
        name: Box<str>,
        /// Whether it is a container and no unit.
        is_container: bool,
        /// The cgroup, from the root of the unified hierarchy as this process sees it.
        path: Box<str>,
        /// The cgroup's number, which no other has until the next boot.
        id: u64,
    },
    /// One process.
    Process {
        /// Its number.
        pid: u32,
        /// What tells it from others with that number: its pidfd's inode, or its start in ticks since boot.
        origin: u64,
    },
    /// Somebody of whom nothing can be known. He has nothing, and gets nothing.
    Nobody,
}

impl fmt::Display for Consumer {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Group { name, is_container: false, .. } => write!(formatter, "unit {name}"),
            Self::Group { name, .. } => write!(formatter, "container {name}"),
            Self::Process { pid, .. } => write!(formatter, "process {pid}"),
            Self::Nobody => formatter.write_str("nobody"),
        }
    }
}
