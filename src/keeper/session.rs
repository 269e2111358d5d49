//! What is kept of a session beside its descriptor, for the keeper's own successor: how it was begun and where it is mounted.
//!
//! ```text
//! "credfsS" format(1 byte) | major u32 | minor u32 | capabilities u64 | connection u32 | mount id u64 | mount point
//! ```

use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::PathBuf;

use crate::fuse::Introduction;
use crate::sys::mount::MountHandle;

const MAGIC: &[u8; 7] = b"credfsS";
/// This way of writing. A keeper of another version makes a fresh mount.
const FORMAT: u8 = 1;
const HEAD_BYTES: usize = 8 + 4 + 4 + 8 + 4 + 8;

/// A session that goes on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Session {
    /// How it was begun.
    pub introduction: Introduction,
    /// The mount.
    pub handle: MountHandle,
}

/// A saved session that cannot be gone on with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SessionFault {
    /// Written by another version.
    #[error("the saved session was written by another version of credfs: a fresh mount takes its place")]
    OtherVersion,
    /// Not a saved session.
    #[error("the saved session cannot be read: a fresh mount takes its place")]
    Unreadable,
}

impl Session {
    /// As bytes.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let (major, minor, capabilities) = self.introduction.to_numbers();
        let mut bytes = MAGIC.to_vec();
        bytes.push(FORMAT);
        bytes.extend(major.to_le_bytes());
        bytes.extend(minor.to_le_bytes());
        bytes.extend(capabilities.to_le_bytes());
        bytes.extend(self.handle.minor.to_le_bytes());
        bytes.extend(self.handle.id.to_le_bytes());
        bytes.extend(self.handle.mount_point.as_os_str().as_bytes());
        bytes
    }

    /// From what [`Self::to_bytes`] gave.
    ///
    /// # Errors
    /// [`SessionFault`].
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, SessionFault> {
        let rest = bytes.strip_prefix(MAGIC).ok_or(SessionFault::Unreadable)?;
        if rest.first() != Some(&FORMAT) {
            return Err(SessionFault::OtherVersion);
        }
        let (head, path) = bytes.split_at_checked(HEAD_BYTES).ok_or(SessionFault::Unreadable)?;
        let number = |from: usize, to: usize| {
            head[from..to].iter().rev().fold(0_u64, |number, byte| number << 8 | u64::from(*byte))
        };
        let half = |from: usize| u32::try_from(number(from, from + 4)).unwrap_or(0);
        let mount_point = PathBuf::from(OsString::from_vec(path.to_vec()));
        if !mount_point.is_absolute() {
            return Err(SessionFault::Unreadable);
        }
        Ok(Self {
            introduction: Introduction::from_numbers((half(8), half(12), number(16, 24))),
            handle: MountHandle { mount_point, minor: half(24), id: number(28, 36) },
        })
    }
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
        assert_eq!(Session::from_bytes(&bytes), Ok(session));
        let mut newer = bytes.clone();
        newer[7] = FORMAT + 1;
        assert_eq!(Session::from_bytes(&newer), Err(SessionFault::OtherVersion));
        for cut in 0..HEAD_BYTES {
            assert!(Session::from_bytes(&bytes[..cut]).is_err(), "{cut}");
        }
    }
}
