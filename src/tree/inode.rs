//! Inode numbers: what they are made of, so that a successor process can read them.
//!
//! ```text
//! bit 63 62        32 31      28 27             0
//!      0  owner's uid  store slot  field node        a field, owned by whoever asked
//!      1 0  62 bits of SHA-256 of kind and path      a directory or a symlink
//!      1 1  30 bits of SHA-256 of the view's path, store slot, field node      a view
//! ```
//!
//! 1 is the root, which no field can be: slots count from 1. A field's number stands for one version's field for
//! ever, so no number is used twice.

use sha2::{Digest, Sha256};

use crate::model::{FieldNode, SecretPath, Stage, Version};

/// An inode number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Inode(pub u64);

const PATH_BIT: u64 = 1 << 63;
const VIEW_BIT: u64 = 1 << 62;
const VIEW_HASH_MASK: u64 = (1 << 30) - 1;
/// Shown as owner where a uid has no room: the kernel's `overflowuid`.
const OVERFLOW_UID: u32 = 65_534;

/// What an inode number says by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Parts {
    Root,
    /// A field shown to its owner.
    Field {
        owner: u32,
        slot: u8,
        node: FieldNode,
    },
    /// A view of a field; which view, the hash of its path tells.
    View {
        view_hash: u32,
        slot: u8,
        node: FieldNode,
    },
    /// A directory or a symlink; which, the table of what was looked up or a search tells.
    Path,
    /// Nothing that was ever handed out.
    Nothing,
}

impl Inode {
    /// The root of the mount.
    pub const ROOT: Self = Self(1);

    /// The inode of a field, as it is shown to `uid`.
    #[must_use]
    pub fn of_field(uid: u32, slot: u8, node: FieldNode) -> Self {
        let owner = shown_owner(uid);
        Self(u64::from(owner) << 32 | u64::from(slot) << 28 | u64::from(node.get()))
    }

    /// The inode of a field behind a view.
    #[must_use]
    pub fn of_view(view: &str, slot: u8, node: FieldNode) -> Self {
        let hash = u64::from(view_hash(view));
        Self(PATH_BIT | VIEW_BIT | hash << 32 | u64::from(slot) << 28 | u64::from(node.get()))
    }

    /// The inode of a directory of the tree.
    #[must_use]
    pub fn of_directory(path: &str) -> Self {
        if path.is_empty() { Self::ROOT } else { Self::of_path(b"directory", path, &[]) }
    }

    /// The inode of a secret's `versions`.
    #[must_use]
    pub fn of_versions(secret: &SecretPath) -> Self {
        Self::of_path(b"versions", secret.as_str(), &[])
    }

    /// The inode of `versions/N`.
    #[must_use]
    pub fn of_version(secret: &SecretPath, version: Version) -> Self {
        Self::of_path(b"version", secret.as_str(), &version.get().to_be_bytes())
    }

    /// The inode of a stage's symlink while it names `version`.
    #[must_use]
    pub fn of_link(secret: &SecretPath, stage: Stage, version: Version) -> Self {
        let mut extra = [0; 5];
        extra[..4].copy_from_slice(&version.get().to_be_bytes());
        extra[4] = stage as u8;
        Self::of_path(b"link", secret.as_str(), &extra)
    }

    /// The inode of the notifier's own directory.
    #[must_use]
    pub fn of_notices() -> Self {
        Self::of_path(b"notices", "", &[])
    }

    fn of_path(kind: &[u8], path: &str, extra: &[u8]) -> Self {
        let mut hash = Sha256::new();
        for part in [kind, path.as_bytes(), extra] {
            hash.update((part.len() as u64).to_be_bytes());
            hash.update(part);
        }
        let digest: [u8; 32] = hash.finalize().into();
        let mut first = [0; 8];
        first.copy_from_slice(&digest[..8]);
        Self(PATH_BIT | (u64::from_be_bytes(first) & !(PATH_BIT | VIEW_BIT)))
    }

    /// Takes the number apart.
    pub(super) fn parts(self) -> Parts {
        if self == Self::ROOT {
            return Parts::Root;
        }
        if self.0 & PATH_BIT != 0 && self.0 & VIEW_BIT == 0 {
            return Parts::Path;
        }
        let slot = u8::try_from(self.0 >> 28 & 0xF).unwrap_or_default();
        let number = u32::try_from(self.0 & u64::from(FieldNode::MAX)).unwrap_or_default();
        let (Some(node), 1..) = (FieldNode::new(number), slot) else { return Parts::Nothing };
        let upper = u32::try_from(self.0 >> 32 & 0x7FFF_FFFF).unwrap_or_default();
        if self.0 & PATH_BIT == 0 {
            Parts::Field { owner: upper, slot, node }
        } else {
            Parts::View { view_hash: upper & 0x3FFF_FFFF, slot, node }
        }
    }
}

/// The owner that a field shows to `uid`: himself, where his number has room in an inode number.
pub(super) fn shown_owner(uid: u32) -> u32 {
    if uid < 1 << 31 { uid } else { OVERFLOW_UID }
}

/// What of a view's path is in its inode numbers. Two views with the same are refused when policy is loaded.
#[must_use]
pub fn view_hash(view: &str) -> u32 {
    u32::try_from(Inode::of_path(b"view", view, &[]).0 & VIEW_HASH_MASK).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_says_what_it_was_made_of() {
        for uid in [0, 1, 1000, 65_534, 0x6FFF_FFFF, (1 << 31) - 1] {
            for slot in [1, 15] {
                for number in [1, 2, FieldNode::MAX] {
                    let node = FieldNode::new(number).unwrap();
                    let inode = Inode::of_field(uid, slot, node);
                    assert_eq!(inode.parts(), Parts::Field { owner: uid, slot, node });
                    let view = Inode::of_view("nginx/orders.pem", slot, node);
                    assert_eq!(
                        view.parts(),
                        Parts::View { view_hash: view_hash("nginx/orders.pem"), slot, node }
                    );
                }
            }
        }
        assert_eq!(Inode::of_directory("a/b").parts(), Parts::Path);
        assert_eq!(Inode::of_directory("").parts(), Parts::Root);
        assert_eq!(Inode(0).parts(), Parts::Nothing);
        assert_eq!(Inode(2).parts(), Parts::Nothing, "no store has slot 0");
    }

    #[test]
    fn a_uid_without_room_is_shown_as_the_overflow_uid_and_never_as_another_user() {
        let node = FieldNode::new(1).unwrap();
        assert_eq!(Inode::of_field(1 << 31, 1, node), Inode::of_field(OVERFLOW_UID, 1, node));
    }

    #[test]
    fn different_things_have_different_numbers() {
        let secret = SecretPath::parse("a/b").unwrap();
        let (one, two) = (Version::new(1).unwrap(), Version::new(2).unwrap());
        let mut numbers = vec![
            Inode::of_directory("a/b"),
            Inode::of_directory("a/b2"),
            Inode::of_versions(&secret),
            Inode::of_version(&secret, one),
            Inode::of_version(&secret, two),
            Inode::of_link(&secret, Stage::Current, one),
            Inode::of_link(&secret, Stage::Previous, one),
            Inode::of_link(&secret, Stage::Current, two),
            Inode::of_notices(),
        ];
        let count = numbers.len();
        numbers.sort();
        numbers.dedup();
        assert_eq!(numbers.len(), count);
    }
}
