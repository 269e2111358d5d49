//! Whom a caller stands for where something is minted for one consumer, and whether that consumer is still there.

use std::path::{Path, PathBuf};

use super::cgroup::Place;
use super::identifier::{cgroup_inode, find_cgroup_root};
use super::person::Known;
use super::proc_text;
use crate::model::Consumer;
use crate::sys::process::{PidFd, ProcDirectory, Scope};

/// Longest file of a cgroup that is read, in bytes.
const EVENTS_BYTES_MAX: u64 = 4096;
const STAT_BYTES_MAX: usize = 4096;

/// The group that a caller belongs to, if it is in one that can be seen.
pub(super) fn group(place: &Place, root: Option<&Path>) -> Option<Consumer> {
    let path = place.group.as_deref()?;
    let id = cgroup_inode(root?, path.as_bytes())?;
    let name = place.unit.as_deref().or(place.container.as_deref())?;
    Some(Consumer::Group { name: name.into(), is_container: place.unit.is_none(), path: path.into(), id })
}

/// The process alone.
pub(super) fn process(known: &Known, start_ticks: impl FnOnce() -> Option<u64>) -> Option<Consumer> {
    let origin = match known {
        Known::Kept { mark, .. } => *mark,
        Known::Read { .. } => start_ticks()?,
    };
    Some(Consumer::Process { pid: known.tgid(), origin })
}

/// Tells whether consumers are still there. Anybody may: cgroups and pidfds are open to all.
#[derive(Debug, Clone)]
pub struct Consumers {
    cgroup_root: Option<PathBuf>,
    /// Whether a process is told by its pidfd's inode.
    by_pidfd: bool,
}

impl Consumers {
    pub(super) fn new(cgroup_root: Option<PathBuf>, by_pidfd: bool) -> Self {
        Self { cgroup_root, by_pidfd }
    }

    /// As [`Identifier::consumers`](super::Identifier::consumers) of this machine gives them.
    #[must_use]
    pub fn of_machine() -> Self {
        let by_pidfd = crate::sys::process::own_thread_info().is_ok();
        Self::new(find_cgroup_root().or_else(usual_root), by_pidfd)
    }

    /// Whether a process of the consumer may still run. What cannot be told is taken for living: its lease ends by itself.
    #[must_use]
    pub fn is_alive(&self, consumer: &Consumer) -> bool {
        match consumer {
            Consumer::Group { path, id, .. } => self.is_populated(path, *id),
            Consumer::Process { pid, origin } => self.is_running(*pid, *origin),
            Consumer::Nobody => false,
        }
    }

    fn is_populated(&self, path: &str, id: u64) -> bool {
        let Some(root) = &self.cgroup_root else { return true };
        // One that was made anew under the name is another.
        if cgroup_inode(root, path.as_bytes()) != Some(id) {
            return false;
        }
        let events = root.join(path.trim_start_matches('/')).join("cgroup.events");
        match read_text(&events) {
            Ok(text) => !text.lines().any(|line| line == "populated 0"),
            Err(error) => error.kind() != std::io::ErrorKind::NotFound,
        }
    }

    fn is_running(&self, pid: u32, origin: u64) -> bool {
        if self.by_pidfd {
            let opened = PidFd::open(pid, Scope::Process).and_then(|pidfd| {
                let inode = pidfd.inode()?;
                Ok((inode, crate::sys::process::pidfd_is_alive(std::os::fd::AsFd::as_fd(&pidfd))?))
            });
            return match opened {
                Ok((inode, is_alive)) => inode == origin && is_alive,
                Err(error) => crate::sys::process::is_out_of_descriptors(&error),
            };
        }
        let stat = ProcDirectory::open(pid).and_then(|directory| directory.read(c"stat", STAT_BYTES_MAX));
        stat.is_ok_and(|text| proc_text::start_ticks(&text) == Some(origin) && !is_zombie(&text))
    }
}

fn read_text(path: &Path) -> std::io::Result<String> {
    let mut text = String::new();
    let mut file = std::io::Read::take(std::fs::File::open(path)?, EVENTS_BYTES_MAX);
    std::io::Read::read_to_string(&mut file, &mut text)?;
    Ok(text)
}

/// Whether a process has ended and only waits to be reaped: the word behind its name in `stat`.
fn is_zombie(stat: &[u8]) -> bool {
    let behind = stat.iter().rposition(|byte| *byte == b')').map_or(0, |at| at + 1);
    stat.get(behind..)
        .and_then(|rest| rest.trim_ascii_start().first())
        .is_some_and(|state| b"ZX".contains(state))
}

/// Where the unified hierarchy is, where the kernel does not say which cgroup we are in: a root that has its controllers.
pub(super) fn usual_root() -> Option<PathBuf> {
    let roots = ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"];
    roots.into_iter().map(PathBuf::from).find(|root| root.join("cgroup.controllers").exists())
}
