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

impl Witness {
    /// Length of [`Self::to_bytes`].
    pub const BYTES: usize = 8 + 1 + 4 + 8 + 24 + 16;

    /// For a successor process of this boot to compare with.
    #[must_use]
    pub fn to_bytes(&self) -> [u8; Self::BYTES] {
        let mut bytes = Vec::with_capacity(Self::BYTES);
        bytes.extend(self.uid.to_le_bytes());
        bytes.extend(self.gid.to_le_bytes());
        bytes.push(u8::from(self.process.is_some()));
        if let Some(mark) = &self.process {
            bytes.extend(mark.tgid.to_le_bytes());
            bytes.extend(mark.origin.to_le_bytes());
            bytes.extend(mark.uids.iter().chain(&mark.gids).flat_map(|id| id.to_le_bytes()));
            bytes.extend(mark.cgroup.to_le_bytes());
        }
        bytes.resize(Self::BYTES, 0);
        let mut whole = [0; Self::BYTES];
        whole.copy_from_slice(&bytes);
        whole
    }

    /// From what [`Self::to_bytes`] gave.
    #[must_use]
    pub fn from_bytes(bytes: &[u8; Self::BYTES]) -> Self {
        let word = |at: usize| {
            let mut word = [0; 4];
            word.copy_from_slice(&bytes[at..at + 4]);
            u32::from_le_bytes(word)
        };
        let long = |at: usize| u64::from(word(at)) | u64::from(word(at + 4)) << 32;
        let process = (bytes[8] != 0).then(|| ProcessMark {
            tgid: word(9),
            origin: long(13),
            uids: [word(21), word(25), word(29)],
            gids: [word(33), word(37), word(41)],
            cgroup: u128::from(long(45)) | u128::from(long(53)) << 64,
        });
        Self { uid: word(0), gid: word(4), process }
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_witness_is_the_same_after_it_was_kept_as_bytes() {
        let mark = ProcessMark {
            tgid: 1,
            origin: 2 << 40,
            uids: [3, 4, 5],
            gids: [6, 7, u32::MAX],
            cgroup: 9 << 100 | 10,
        };
        let witness = Witness { uid: 11, gid: 12, process: Some(mark) };
        assert_eq!(Witness::from_bytes(&witness.to_bytes()), witness);
        let nobody = Witness { process: None, ..witness };
        assert!(Witness::from_bytes(&nobody.to_bytes()).process.is_none());
    }
}
