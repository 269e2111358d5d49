//! What `stat` says.

use crate::access::Refusal;
use crate::caller::Caller;
use crate::model::{Facts, Operation, Outcome, Reason, SecretPath, UnixTime, Unknown, VALUE_BYTES_MAX};
use crate::policy::Listing;

use super::inode::{Inode, Parts};
use super::node::{FieldPlace, Node};
use super::visible::Eyes;
use super::{Entry, Tree};

/// What kind of file it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A directory.
    Directory,
    /// A symlink.
    Symlink,
    /// A regular file.
    File,
}

/// What `stat` says of a place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attributes {
    /// The inode number.
    pub inode: Inode,
    /// What kind of file it is.
    pub kind: Kind,
    /// Permission bits.
    pub mode: u16,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Size, in bytes.
    pub size_bytes: u64,
    /// Whether that is exact. Before a field was fetched a remote store may not say its length, and a limit is shown.
    pub is_size_exact: bool,
    /// Time of modification, change and access alike.
    pub time: UnixTime,
    /// Hard links: 1 for files, which cron demands; 1 for directories too, which says "not counted" (as btrfs does).
    pub links: u32,
}

impl Tree {
    /// What `stat` says of `inode` to `caller`.
    ///
    /// # Errors
    /// Hidden for what he may not list.
    pub fn attributes(&self, caller: &Caller<'_>, inode: Inode) -> Result<Entry, Refusal> {
        let node = self.resolve(inode)?;
        self.attributes_of_visible(caller, &node)
            .map_err(|refusal| self.refuse(caller, Operation::Stat, &shown_path(&node), refusal))
    }

    fn attributes_of_visible(&self, caller: &Caller<'_>, node: &Node) -> Result<Entry, Refusal> {
        let eyes = self.eyes(caller);
        match self.check_visible(&eyes, node) {
            // An open file keeps its version past `retire_after`, and fstat reaches us without its handle.
            Ok(()) | Err(Refusal { outcome: Outcome::Retired, .. }) => self.entry(&eyes, node),
            Err(refusal) => Err(refusal),
        }
    }

    /// Refuses what the caller may not list, by the policy in force now.
    pub(super) fn check_visible(&self, eyes: &Eyes<'_>, node: &Node) -> Result<(), Refusal> {
        let visible = match node {
            Node::Directory(path) => eyes.directory(path),
            Node::Versions(secret) => eyes.secret(secret).is_some(),
            Node::Version(secret, version) | Node::Link(secret, _, version) => {
                return version_listing(eyes, secret, *version, None);
            }
            Node::Field(place) | Node::View(_, place) => {
                return version_listing(eyes, &place.secret, place.version, Some(place));
            }
            // Whoever has its inode number is not the notifier: that one is answered elsewhere.
            Node::Notices => false,
        };
        if visible { Ok(()) } else { Err(Refusal::new(Outcome::Hidden, Reason::NoGrant)) }
    }

    pub(super) fn attributes_of(&self, eyes: &Eyes<'_>, node: &Node) -> Result<Attributes, Refusal> {
        let gone = Refusal::new(Outcome::Hidden, Reason::NotFound);
        let own = |kind, mode, size_bytes, time| Attributes {
            inode: node.inode(),
            kind,
            mode,
            uid: self.options.directory_uid,
            gid: self.options.directory_gid,
            size_bytes,
            is_size_exact: true,
            time,
            links: 1,
        };
        match node {
            Node::Directory(path) => Ok(own(Kind::Directory, 0o755, 0, self.directory_time(eyes, path))),
            Node::Versions(secret) => {
                Ok(own(Kind::Directory, 0o755, 0, self.directory_time(eyes, secret.as_str())))
            }
            Node::Version(secret, version) => {
                let known = eyes.gate.places().known(secret).ok_or(gone)?;
                let time = known.version(*version).ok_or(gone)?.shown_since();
                Ok(own(Kind::Directory, 0o755, 0, time))
            }
            Node::Link(secret, _, version) => {
                let known = eyes.gate.places().known(secret).ok_or(gone)?;
                let time = known.version(*version).ok_or(gone)?.shown_since();
                let size_bytes = link_target(*version).len() as u64;
                Ok(own(Kind::Symlink, 0o777, size_bytes, time))
            }
            Node::Field(place) => {
                let Parts::Field { owner, .. } = place.inode.parts() else { return Err(gone) };
                self.file_attributes(place, 0o400, owner, 0)
            }
            Node::View(path, place) => {
                let view = eyes.policy.views().get(&**path).ok_or(gone)?;
                {
                    let (uid, gid) = (view.uid.unwrap_or(self.options.directory_uid), view.gid.unwrap_or(0));
                    self.file_attributes(place, u16::try_from(view.mode).unwrap_or(0o400), uid, gid)
                }
            }
            Node::Notices => Ok(own(Kind::Directory, 0o700, 0, self.started)),
        }
    }

    fn file_attributes(
        &self,
        place: &FieldPlace,
        mode: u16,
        uid: u32,
        gid: u32,
    ) -> Result<Attributes, Refusal> {
        let gone = Refusal::new(Outcome::Hidden, Reason::NotFound);
        let secret = self.gate.places().known(&place.secret).ok_or(gone)?;
        let version = secret.version(place.version).ok_or(gone)?;
        let bytes = version.field(&place.field).ok_or(gone)?.bytes;
        // While nobody knows it: never 0 for what is not empty.
        let size_bytes = bytes.unwrap_or(VALUE_BYTES_MAX as u64);
        let inode = place.inode;
        Ok(Attributes {
            inode,
            kind: Kind::File,
            mode,
            uid,
            gid,
            size_bytes,
            is_size_exact: bytes.is_some(),
            time: version.shown_since(),
            links: 1,
        })
    }

    /// A secret's directory shows when its current version became so, which never goes back; others show when this
    /// process started, so that nothing can be learnt from them of secrets that the caller may not see.
    fn directory_time(&self, eyes: &Eyes<'_>, path: &str) -> UnixTime {
        let secret = SecretPath::from_store(path).ok().and_then(|path| eyes.secret(&path));
        let current = secret.as_ref().and_then(|secret| secret.version(secret.current?));
        current.map_or(self.started, crate::model::VersionInfo::shown_since)
    }

    /// Where a symlink points, for `caller`.
    ///
    /// # Errors
    /// Hidden for what he may not list; failed for what is no symlink.
    pub fn link_target(&self, caller: &Caller<'_>, inode: Inode) -> Result<String, Refusal> {
        let node = self.resolve(inode)?;
        let Node::Link(_, _, version) = &node else { return Err(Outcome::Failed.into()) };
        self.check_visible(&self.eyes(caller), &node)
            .map_err(|refusal| self.refuse(caller, Operation::Readlink, &shown_path(&node), refusal))?;
        Ok(link_target(*version))
    }

    /// Whether `caller` may read (a file) or search (a directory); visible and refused is denied.
    ///
    /// # Errors
    /// Hidden or denied.
    pub fn access(&self, caller: &Caller<'_>, inode: Inode, wants: Wants) -> Result<(), Refusal> {
        let node = self.resolve(inode)?;
        let eyes = self.eyes(caller);
        let refused = |refusal| self.refuse(caller, Operation::Access, &shown_path(&node), refusal);
        self.check_visible(&eyes, &node).map_err(refused)?;
        if wants.execute && !node.is_directory() {
            return Err(refused(Refusal::new(Outcome::Denied, Reason::NoReadGrant)));
        }
        let (Node::Field(place) | Node::View(_, place), true) = (&node, wants.read) else { return Ok(()) };
        self.gate.may_read(caller, &self.target(caller, place)).map_err(refused)
    }
}

/// What access(2) asks for, beyond existence. Writing is refused before (EROFS).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wants {
    /// `R_OK`.
    pub read: bool,
    /// `X_OK`.
    pub execute: bool,
}

fn version_listing(
    eyes: &Eyes<'_>,
    path: &SecretPath,
    number: crate::model::Version,
    place: Option<&FieldPlace>,
) -> Result<(), Refusal> {
    let gone = Refusal::new(Outcome::Hidden, Reason::NotFound);
    let mut secret = eyes.secret(path).ok_or(Refusal::new(Outcome::Hidden, Reason::NoGrant))?;
    // An open file of what was minted for another consumer, who handed it over: policy decides, as it does for the read.
    if secret.version(number).is_none() && place.is_some() && eyes.gate.places().declared(path).is_some() {
        secret = eyes.gate.places().known(path).ok_or(gone)?;
    }
    let version = secret.version(number).ok_or(gone)?;
    match eyes.version(path, &secret, version, place.map(|place| &place.field)) {
        Listing::Visible => Ok(()),
        Listing::Retired => Err(Outcome::Retired.into()),
        Listing::Hidden => Err(Refusal::new(Outcome::Hidden, Reason::StageNotGranted)),
    }
}

fn link_target(version: crate::model::Version) -> String {
    format!("versions/{version}")
}

/// The path of a node, for records.
pub(super) fn shown_path(node: &Node) -> String {
    match node {
        Node::Directory(path) | Node::View(path, _) => path.to_string(),
        Node::Versions(secret) => format!("{secret}/versions"),
        Node::Version(secret, version) => format!("{secret}/versions/{version}"),
        Node::Link(secret, stage, _) => format!("{secret}/{stage}"),
        Node::Field(place) => format!("{}/{}", place.secret, place.field),
        Node::Notices => String::new(),
    }
}

/// The eyes of nobody: for answers to our own notifier, whose attributes depend on no caller.
pub(super) struct Unseen;

impl Facts for Unseen {
    fn uid(&self) -> u32 {
        u32::MAX
    }
    fn gid(&self) -> u32 {
        u32::MAX
    }
    fn is_identified(&self) -> bool {
        false
    }
    fn in_group(&self, _gid: u32) -> Result<bool, Unknown> {
        Err(Unknown)
    }
    fn unit(&self) -> Result<Option<&str>, Unknown> {
        Err(Unknown)
    }
    fn container(&self) -> Result<Option<&str>, Unknown> {
        Err(Unknown)
    }
    fn runs(&self, _path: &std::path::Path) -> Result<bool, Unknown> {
        Err(Unknown)
    }
    fn executable_digest(&self) -> Result<crate::model::Sha256Digest, Unknown> {
        Err(Unknown)
    }
    fn session(&self) -> Result<crate::model::Session, Unknown> {
        Err(Unknown)
    }
    fn age(&self) -> Result<std::time::Duration, Unknown> {
        Err(Unknown)
    }
}
