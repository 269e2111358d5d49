//! A caller as someone imagines it: what `explain` is asked about.

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::model::{Facts, Session, Sha256Digest, Unknown};

/// Facts that were said rather than read. What is not said: no unit, no container, no session, only the group
/// given; an executable that is not said is unknown.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Assumed {
    /// User.
    pub uid: u32,
    /// Primary group.
    pub gid: u32,
    /// Supplementary groups.
    pub groups: Vec<u32>,
    /// Systemd unit.
    pub unit: Option<String>,
    /// Container's id.
    pub container: Option<String>,
    /// Full path of the executable.
    pub exe: Option<PathBuf>,
    /// Digest of the executable.
    pub sha256: Option<Sha256Digest>,
    /// Login uid and session.
    pub session: Session,
    /// How long ago the process started: by default just now.
    pub age: Duration,
    /// A caller of whom only the uid is known: pid 0.
    pub unidentified: bool,
}

impl Assumed {
    fn known<T>(&self, fact: T) -> Result<T, Unknown> {
        if self.unidentified { Err(Unknown) } else { Ok(fact) }
    }
}

impl Facts for Assumed {
    fn uid(&self) -> u32 {
        self.uid
    }

    fn gid(&self) -> u32 {
        self.gid
    }

    fn is_identified(&self) -> bool {
        !self.unidentified
    }

    fn in_group(&self, gid: u32) -> Result<bool, Unknown> {
        self.known(self.gid == gid || self.groups.contains(&gid))
    }

    fn unit(&self) -> Result<Option<&str>, Unknown> {
        self.known(self.unit.as_deref())
    }

    fn container(&self) -> Result<Option<&str>, Unknown> {
        self.known(self.container.as_deref())
    }

    fn runs(&self, path: &Path) -> Result<bool, Unknown> {
        let exe = self.exe.as_deref().ok_or(Unknown)?;
        self.known(exe == path || same_file(exe, path))
    }

    fn executable_digest(&self) -> Result<Sha256Digest, Unknown> {
        self.known(self.sha256.ok_or(Unknown)?)
    }

    fn session(&self) -> Result<Session, Unknown> {
        self.known(self.session)
    }

    fn age(&self) -> Result<Duration, Unknown> {
        self.known(self.age)
    }
}

/// Whether two paths lead to one file: `/bin/x` and `/usr/bin/x` are the same program.
fn same_file(one: &Path, other: &Path) -> bool {
    match (std::fs::canonicalize(one), std::fs::canonicalize(other)) {
        (Ok(one), Ok(other)) => one == other,
        _ => false,
    }
}
