//! What can be known of a caller. Policy asks; the `caller` room answers from the kernel, `explain` from options.

use std::fmt;
use std::path::Path;
use std::time::Duration;

use super::{Consumer, Sharing};

/// A fact that could not be had: the caller lives in a foreign pid namespace, is gone, or the kernel refused.
/// A rule that needs the fact does not hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the fact cannot be known of this caller")]
pub struct Unknown;

/// A SHA-256 digest.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Sha256Digest(pub [u8; 32]);

impl Sha256Digest {
    /// Reads 64 hexadecimal digits.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        if text.len() != 64 || !text.is_ascii() {
            return None;
        }
        let mut bytes = [0; 32];
        for (at, byte) in bytes.iter_mut().enumerate() {
            *byte = u8::from_str_radix(text.get(2 * at..2 * at + 2)?, 16).ok()?;
        }
        Some(Self(bytes))
    }
}

impl fmt::Display for Sha256Digest {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(formatter, "{byte:02x}"))
    }
}

impl fmt::Debug for Sha256Digest {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, formatter)
    }
}

/// The file a caller runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Executable {
    /// Device number (`st_dev`).
    pub device: u64,
    /// Inode number on that device.
    pub inode: u64,
    /// What `/proc/PID/exe` says. Any user can forge it with a mount namespace: for people, never for rules.
    pub path_unproven: std::sync::Arc<str>,
}

/// Login uid and audit session, as PAM set them at login; both absent for services.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Session {
    /// Who logged in (`/proc/PID/loginuid`).
    pub login_uid: Option<u32>,
    /// Which login (`/proc/PID/sessionid`).
    pub id: Option<u32>,
}

/// Facts of one caller at one moment, read when first asked for. The answers stay the same for the life of the
/// value, which is no longer than one unanswered request.
pub trait Facts {
    /// User of this very request (the kernel's `fsuid`).
    fn uid(&self) -> u32;
    /// Group of this very request (the kernel's `fsgid`).
    fn gid(&self) -> u32;
    /// Whether more than the uid can be known: false for pid 0, a foreign pid namespace.
    fn is_identified(&self) -> bool;
    /// Whether `gid` is the caller's group or one of its supplementary groups.
    ///
    /// # Errors
    /// [`Unknown`] where the caller is not identified.
    fn in_group(&self, gid: u32) -> Result<bool, Unknown>;
    /// The systemd unit, from the whole cgroup path; `None` outside any.
    ///
    /// # Errors
    /// [`Unknown`] where the caller is not identified.
    fn unit(&self) -> Result<Option<&str>, Unknown>;
    /// The container's id, from the whole cgroup path; `None` outside any.
    ///
    /// # Errors
    /// [`Unknown`] where the caller is not identified.
    fn container(&self) -> Result<Option<&str>, Unknown>;
    /// Whether the caller runs the file at `path`, or one that was seen there since the daemon started.
    ///
    /// # Errors
    /// [`Unknown`] where the caller is not identified.
    fn runs(&self, path: &Path) -> Result<bool, Unknown>;
    /// The digest of the file the caller runs.
    ///
    /// # Errors
    /// [`Unknown`] where the caller is not identified or the file is larger than the limit.
    fn executable_digest(&self) -> Result<Sha256Digest, Unknown>;
    /// Login uid and session.
    ///
    /// # Errors
    /// [`Unknown`] where the caller is not identified.
    fn session(&self) -> Result<Session, Unknown>;
    /// How long ago the process started.
    ///
    /// # Errors
    /// [`Unknown`] where the caller is not identified.
    fn age(&self) -> Result<Duration, Unknown>;
    /// Whom the caller stands for where something is minted for one consumer. Who is not asked through the kernel is nobody.
    fn consumer(&self, _sharing: Sharing) -> Consumer {
        Consumer::Nobody
    }
}
