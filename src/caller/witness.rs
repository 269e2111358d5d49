//! What is kept of an opener, to tell later whether a reader is the same.

use crate::sys::process::FileTime;

/// A process at one moment, without reading more than [`Identifier::identify`](super::Identifier::identify) did.
///
/// Equal witnesses mean: the same process (never a later one with its number), the same request uid and gid, the
/// same real, effective and saved uids and gids of the asking thread, and the same cgroup. They say nothing of
/// `exec` without a change of these, of supplementary groups, capabilities or memory: a handle that was opened
/// under a rule on the executable needs [`ExecFingerprint`] beside it, one opened under a rule on supplementary
/// groups needs the rule again. The witness of a caller who is not identified equals none, not even itself.
#[derive(Debug, Clone, Copy)]
pub struct Witness {
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) process: Option<ProcessMark>,
}

/// The part that needs an identified caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ProcessMark {
    pub(super) tgid: u32,
    /// The pidfs inode number of the process, or its start in ticks since boot on kernels before 6.13: two processes
    /// with one number in one tick (10 ms) are then taken for one.
    pub(super) origin: u64,
    pub(super) uids: [u32; 3],
    pub(super) gids: [u32; 3],
    /// The cgroup's id, or half a digest of its path on kernels before 6.13.
    pub(super) cgroup: u128,
}

impl PartialEq for Witness {
    fn eq(&self, other: &Self) -> bool {
        self.process.is_some()
            && self.process == other.process
            && self.uid == other.uid
            && self.gid == other.gid
    }
}

/// The file a process ran when it was asked; equal ones mean that it runs the same file (perhaps started anew).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ExecFingerprint {
    pub(super) device: u64,
    pub(super) inode: u64,
    pub(super) born: Option<FileTime>,
}
