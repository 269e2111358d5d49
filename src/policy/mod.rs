//! Who may do what: grants only, denied by default. Facts in, decision out. It may touch no file but those
//! [`Policy::load`] is given, resolves names only there, and never asks a clock.

mod acl;
mod assumed;
mod below;
mod decide;
mod decision;
mod explain;
mod grant;
mod identity;
mod interpreter;
mod learn;
mod load;
mod login;
mod memo;
mod names;
mod pattern;
mod read_grant;
mod read_identity;
mod server;
mod server_minted;
mod view;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

pub use assumed::Assumed;
pub use decision::{Action, Decision, Denial, DenialKind, Listing, Permit, PolicyDigest, Request};
pub use explain::{Considered, Explanation, Reader};
pub use grant::RateLimit;
pub use identity::{ADMINISTRATOR, EVERYONE};
pub use learn::{Refused, propose};
pub use load::{Loaded, Options};
pub use login::{LoginFile, LoginMethod, LoginSpec};
pub use names::{Names, SystemNames};
pub use pattern::{Pattern, PatternFault};
pub use server::{ServerPolicy, ServerPolicyFault, ServerRule, ServerStore};
pub use server_minted::{Minted, MintedKind};
pub use view::View;

use grant::Grant;
use identity::Identity;
use memo::Memo;

/// The policy in force: immutable; a reload makes another.
#[derive(Debug)]
pub struct Policy {
    /// The built-in ones first, then those of the files.
    identities: Vec<Identity>,
    /// Their names, to be shared by permits.
    identity_names: Vec<Arc<str>>,
    grants: Vec<Grant>,
    views: BTreeMap<String, View>,
    retire_after: Duration,
    digest: PolicyDigest,
    memo: Memo,
}

impl Policy {
    /// The digest of files and resolved names: the same for the same policy.
    #[must_use]
    pub const fn digest(&self) -> &PolicyDigest {
        &self.digest
    }

    /// How many grants there are.
    #[must_use]
    pub fn grant_count(&self) -> usize {
        self.grants.len()
    }

    /// How long a version that lost its stage may still be read.
    #[must_use]
    pub const fn retire_after(&self) -> Duration {
        self.retire_after
    }

    /// The views, by their path below the mount point.
    #[must_use]
    pub const fn views(&self) -> &BTreeMap<String, View> {
        &self.views
    }

    /// The executables that rules name.
    #[must_use]
    pub fn executables(&self) -> Vec<std::path::PathBuf> {
        let conditions = self.identities.iter().flat_map(|identity| &identity.conditions);
        let named = conditions.filter_map(|condition| match condition {
            identity::Condition::Exe(paths) => Some(paths),
            _ => None,
        });
        named.flatten().cloned().collect()
    }

    /// The logins that identities bring to a store, by the identities' names.
    pub fn logins_at<'a>(&'a self, store: &'a str) -> impl Iterator<Item = (&'a str, &'a LoginSpec)> {
        self.identities.iter().filter_map(move |one| Some((one.name.as_str(), one.logins.get(store)?)))
    }

    /// The login that an identity brings to a store.
    #[must_use]
    pub fn login_of(&self, identity: &str, store: &str) -> Option<&LoginSpec> {
        self.identities.iter().find(|one| one.name == identity)?.logins.get(store)
    }
}

#[cfg(test)]
mod tests;
