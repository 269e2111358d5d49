//! Extended attributes: metadata for `getfattr`, never a value, never a fetch.

use crate::access::Refusal;
use crate::caller::Caller;
use crate::model::{Operation, Outcome, Secret, SecretPath, Version};

use super::Tree;
use super::attributes::shown_path;
use super::inode::Inode;
use super::node::Node;

/// The attributes there are, without `user.credfs.`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExtendedName {
    /// The version's number.
    Version,
    /// The stages that name it, comma-separated; empty without any.
    Stage,
    /// When it was stored, RFC 3339.
    Created,
    /// Who answers for the secret.
    Owner,
    /// What a leak would mean: low, medium or high.
    Impact,
    /// When it is due to be replaced, RFC 3339.
    RotateBy,
    /// `fresh`, or `stale` and for how long.
    Freshness,
    /// The name of its store.
    Store,
}

const PREFIX: &str = "user.credfs.";

impl ExtendedName {
    /// All of them, in the order they are listed.
    pub const ALL: [Self; 8] = [
        Self::Version,
        Self::Stage,
        Self::Created,
        Self::Owner,
        Self::Impact,
        Self::RotateBy,
        Self::Freshness,
        Self::Store,
    ];

    const fn suffix(self) -> &'static str {
        match self {
            Self::Version => "version",
            Self::Stage => "stage",
            Self::Created => "created",
            Self::Owner => "owner",
            Self::Impact => "impact",
            Self::RotateBy => "rotate_by",
            Self::Freshness => "freshness",
            Self::Store => "store",
        }
    }

    /// The whole name, such as `user.credfs.version`.
    #[must_use]
    pub fn full(self) -> String {
        format!("{PREFIX}{}", self.suffix())
    }

    /// The attribute of that whole name.
    #[must_use]
    pub fn named(name: &[u8]) -> Option<Self> {
        let suffix = std::str::from_utf8(name).ok()?.strip_prefix(PREFIX)?;
        Self::ALL.into_iter().find(|one| one.suffix() == suffix)
    }
}

impl Tree {
    /// The attributes that `inode` has, for `caller`.
    ///
    /// # Errors
    /// Hidden for what he may not list.
    pub fn extended_names(&self, caller: &Caller<'_>, inode: Inode) -> Result<Vec<ExtendedName>, Refusal> {
        let subject = self.extended_subject(caller, inode)?;
        Ok(ExtendedName::ALL.into_iter().filter(|name| self.value_of(&subject, *name).is_some()).collect())
    }

    /// The value of one attribute; `None` where `inode` has none of that name.
    ///
    /// # Errors
    /// Hidden for what he may not list.
    pub fn extended(
        &self,
        caller: &Caller<'_>,
        inode: Inode,
        name: Option<ExtendedName>,
    ) -> Result<Option<String>, Refusal> {
        let subject = self.extended_subject(caller, inode)?;
        Ok(name.and_then(|name| self.value_of(&subject, name)))
    }

    fn extended_subject(&self, caller: &Caller<'_>, inode: Inode) -> Result<Option<Subject>, Refusal> {
        let node = self.resolve(inode)?;
        let eyes = self.eyes(caller);
        match self.check_visible(&eyes, &node) {
            Ok(()) | Err(Refusal { outcome: Outcome::Retired, .. }) => {}
            Err(refusal) => {
                return Err(self.refuse(caller, Operation::Getxattr, &shown_path(&node), refusal));
            }
        }
        let of = |path: &SecretPath, version: Option<Version>| {
            let secret = eyes.secret(path)?;
            let version = version.or(secret.current)?;
            // A directory's attributes are its current version's, where that may be listed.
            let listing = eyes.version(path, &secret, secret.version(version)?, None);
            (listing != crate::policy::Listing::Hidden).then(|| Subject {
                path: path.clone(),
                secret,
                version,
            })
        };
        Ok(match &node {
            Node::Directory(path) => SecretPath::from_store(path).ok().and_then(|path| of(&path, None)),
            Node::Versions(path) => of(path, None),
            Node::Version(path, version) | Node::Link(path, _, version) => of(path, Some(*version)),
            Node::Field(place) | Node::View(_, place) => of(&place.secret, Some(place.version)),
            Node::Notices => None,
        })
    }

    fn value_of(&self, subject: &Option<Subject>, name: ExtendedName) -> Option<String> {
        let Subject { path, secret, version } = subject.as_ref()?;
        let info = secret.version(*version)?;
        match name {
            ExtendedName::Version => Some(version.to_string()),
            ExtendedName::Stage => {
                let stages: Vec<_> =
                    secret.stages_of(*version).iter().map(crate::model::Stage::as_str).collect();
                Some(stages.join(","))
            }
            ExtendedName::Created => Some(info.created.rfc3339()),
            ExtendedName::Owner => secret.ownership.owner.clone(),
            ExtendedName::Impact => secret.ownership.impact.map(|impact| impact.as_str().to_owned()),
            ExtendedName::RotateBy => {
                let every = secret.ownership.rotate_every?;
                Some(info.created.plus(every).rfc3339())
            }
            ExtendedName::Freshness => {
                let stale_for = self.gate().stale_for(path);
                Some(crate::access::freshness(stale_for).into_owned())
            }
            ExtendedName::Store => Some(self.gate().places().place(path)?.store.name().to_owned()),
        }
    }
}

struct Subject {
    path: SecretPath,
    secret: std::sync::Arc<Secret>,
    version: Version,
}
