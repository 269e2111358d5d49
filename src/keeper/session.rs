//! What is kept of a session beside its descriptor, for the keeper's own successor: how it was begun and where it is mounted.
//!
//! ```text
//! "credfsS" format(1 byte) | connection u32 | mount id u64 | length u16, mount point
//! in this format, behind that: major u32 | minor u32 | capabilities u64
//! ```
//!
//! The first line is the same in every format: an older keeper finds the mount of a newer one, and takes it away.

use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::PathBuf;

use crate::fuse::Introduction;
use crate::sys::mount::MountHandle;

const MAGIC: &[u8; 7] = b"credfsS";
/// This way of writing. A keeper of another version makes a fresh mount.
const FORMAT: u8 = 1;
/// As far as the mount point's length, in bytes.
const HEAD_BYTES: usize = 8 + 4 + 8 + 2;
/// What is behind the mount point, in bytes.
const TAIL_BYTES: usize = 4 + 4 + 8;

/// A session that goes on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Session {
    /// How it was begun.
    pub introduction: Introduction,
    /// The mount.
    pub handle: MountHandle,
}

/// A saved session that cannot be gone on with.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SessionFault {
    /// Written by another version, which had this mount.
    #[error("the saved session was written by another version of credfs: a fresh mount takes its place")]
    OtherVersion(MountHandle),
    /// Not a saved session.
    #[error("the saved session cannot be read: a fresh mount takes its place")]
    Unreadable,
}

impl Session {
    /// As bytes.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mount_point = self.handle.mount_point.as_os_str().as_bytes();
        let (major, minor, capabilities) = self.introduction.to_numbers();
        let mut bytes = MAGIC.to_vec();
        bytes.push(FORMAT);
        bytes.extend(self.handle.minor.to_le_bytes());
        bytes.extend(self.handle.id.to_le_bytes());
        // No path that the kernel takes is longer (PATH_MAX).
        bytes.extend(u16::try_from(mount_point.len()).unwrap_or(0).to_le_bytes());
        bytes.extend(mount_point);
        bytes.extend(major.to_le_bytes());
        bytes.extend(minor.to_le_bytes());
        bytes.extend(capabilities.to_le_bytes());
        bytes
    }

    /// From what [`Self::to_bytes`] gave.
    ///
    /// # Errors
    /// [`SessionFault`].
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, SessionFault> {
        let read = || {
            let (head, rest) = bytes.strip_prefix(MAGIC).and(bytes.split_at_checked(HEAD_BYTES))?;
            let length = usize::try_from(number(&head[20..])).ok()?;
            let (mount_point, tail) = rest.split_at_checked(length)?;
            let mount_point = PathBuf::from(OsString::from_vec(mount_point.to_vec()));
            let minor = u32::try_from(number(&head[8..12])).ok()?;
            let handle = MountHandle { mount_point, minor, id: number(&head[12..20]) };
            handle.mount_point.is_absolute().then_some((head[7], handle, tail))
        };
        let (format, handle, tail) = read().ok_or(SessionFault::Unreadable)?;
        if format != FORMAT {
            return Err(SessionFault::OtherVersion(handle));
        }
        if tail.len() != TAIL_BYTES {
            return Err(SessionFault::Unreadable);
        }
        let half = |from: usize| u32::try_from(number(&tail[from..from + 4])).unwrap_or(0);
        Ok(Self { introduction: Introduction::from_numbers((half(0), half(4), number(&tail[8..]))), handle })
    }
}

fn number(bytes: &[u8]) -> u64 {
    bytes.iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_is_read_as_it_was_saved_and_one_of_another_version_is_told_apart() {
        let session = Session {
            introduction: Introduction::from_numbers((7, 45, 1 << 39 | 3)),
            handle: MountHandle { mount_point: "/run/credfs".into(), minor: 77, id: 1 << 40 },
        };
        let bytes = session.to_bytes();
        assert_eq!(Session::from_bytes(&bytes), Ok(session.clone()));
        let mut newer = bytes.clone();
        newer[7] = FORMAT + 1;
        newer.extend(b"more than we know");
        assert_eq!(Session::from_bytes(&newer), Err(SessionFault::OtherVersion(session.handle)));
        for cut in 0..bytes.len() {
            assert!(Session::from_bytes(&bytes[..cut]).is_err(), "{cut}");
        }
    }
}
