//! Whether a version may be read at all, by what is known of its secret.

use super::StoreFault;
use crate::model::{Secret, State, Version, VersionInfo};

/// The version, or why it may not be read.
pub(super) fn readable(secret: &Secret, number: Version) -> Result<&VersionInfo, StoreFault> {
    let path = || secret.path.clone();
    let version = secret.version(number).ok_or_else(|| StoreFault::NoVersion(path(), number))?;
    match version.state {
        State::Active => Ok(version),
        State::Revoked => Err(StoreFault::Revoked(path(), number)),
        State::Deleted => Err(StoreFault::Deleted(path(), number)),
        State::Destroyed => Err(StoreFault::Destroyed(path(), number)),
    }
}
