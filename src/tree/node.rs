//! What a place in the tree is.

use std::sync::Arc;

use crate::model::{FieldName, SecretPath, Stage, Version};

use super::inode::Inode;

/// A place in the tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Node {
    /// A directory by its path (`""` is the root): of secrets and views below it, of a secret, or of both.
    Directory(Arc<str>),
    /// A secret's `versions`.
    Versions(SecretPath),
    /// `versions/N`.
    Version(SecretPath, Version),
    /// A stage's symlink, naming a version.
    Link(SecretPath, Stage, Version),
    /// A field of a version.
    Field(FieldPlace),
    /// A view of a field of a version, by the view's path.
    View(Arc<str>, FieldPlace),
    /// The directory that only the notifier may see.
    Notices,
}

/// Which field of which version of which secret, and its inode.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FieldPlace {
    /// The secret.
    pub secret: SecretPath,
    /// The version.
    pub version: Version,
    /// The field.
    pub field: FieldName,
    /// The inode number, which holds the owner shown.
    pub inode: Inode,
}

impl Node {
    /// The inode number of this place.
    #[must_use]
    pub fn inode(&self) -> Inode {
        match self {
            Self::Directory(path) => Inode::of_directory(path),
            Self::Versions(secret) => Inode::of_versions(secret),
            Self::Version(secret, version) => Inode::of_version(secret, *version),
            Self::Link(secret, stage, version) => Inode::of_link(secret, *stage, *version),
            Self::Field(place) | Self::View(_, place) => place.inode,
            Self::Notices => Inode::of_notices(),
        }
    }

    /// Whether it is a directory.
    #[must_use]
    pub fn is_directory(&self) -> bool {
        match self {
            Self::Directory(_) | Self::Versions(_) | Self::Version(..) | Self::Notices => true,
            Self::Link(..) | Self::Field(_) | Self::View(..) => false,
        }
    }

    /// The secret it belongs to or names; `None` for a directory, which may be several things.
    #[must_use]
    pub fn secret(&self) -> Option<&SecretPath> {
        match self {
            Self::Directory(_) | Self::Notices => None,
            Self::Versions(secret) | Self::Version(secret, _) | Self::Link(secret, ..) => Some(secret),
            Self::Field(place) | Self::View(_, place) => Some(&place.secret),
        }
    }
}
