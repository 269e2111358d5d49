//! Names of users and groups, resolved once, when a policy is loaded.

use crate::sys::names;

/// Who knows names. Asked at load time only: no name service stands on the path of a request.
pub trait Names {
    /// The uid of a user.
    fn uid(&self, user: &str) -> Option<u32>;
    /// The gid of a group.
    fn gid(&self, group: &str) -> Option<u32>;
}

/// The machine's own name service.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemNames;

impl Names for SystemNames {
    fn uid(&self, user: &str) -> Option<u32> {
        names::uid_of(user)
    }

    fn gid(&self, group: &str) -> Option<u32> {
        names::gid_of(group)
    }
}
