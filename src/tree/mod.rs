//! The tree that callers walk: names, inodes, attributes, open files. It may touch the gate and what lies below it;
//! it knows no FUSE, and it holds no value but in an open file.
//!
//! **Invariant:** every answer that names something was permitted by policy for the caller that asked, at the moment
//! he asked; what he may not list is answered exactly as what does not exist.

mod asking;
mod attributes;
mod extended;
mod handles;
mod inode;
mod left;
mod list;
mod live;
mod lookup;
mod node;
mod notice;
mod open;
mod visible;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use crate::access::{Gate, Refusal};
use crate::caller::Caller;
use crate::model::{Operation, Outcome, Reason, State, UnixTime, VersionInfo, Versions};
use crate::store::Changed;

pub use asking::Lookup;
pub use attributes::{Attributes, Kind, Wants};
pub use extended::ExtendedName;
pub use inode::{Inode, view_hash};
pub use left::UnreadableLeft;
pub use list::DirectoryEntry;
pub use node::{FieldPlace, Node};
pub use notice::News;
pub use open::{Bytes, OpenFile, Opened, Reading};

use visible::Eyes;

/// How the tree behaves.
#[derive(Debug, Clone)]
pub struct Options {
    /// How long the kernel may keep an entry that everyone may list. Answers that depend on who asks are not kept.
    pub public_entry_lifetime: Duration,
    /// How long the kernel may keep a file's attributes, which belong to its inode's owner and never change.
    pub attribute_lifetime: Duration,
    /// Files that may be open at once.
    pub handles_max: usize,
    /// Owner of directories and symlinks: root, or the user of a private instance.
    pub directory_uid: u32,
    /// Group of directories and symlinks.
    pub directory_gid: u32,
}

/// The tree.
pub struct Tree {
    gate: Arc<Gate>,
    options: Options,
    live: live::Live,
    handles: handles::Handles,
    /// Guards what the process before us had open and nobody has read from since.
    left: Mutex<HashMap<u64, left::LeftHandle>>,
    /// Shown as the time of directories that belong to no secret.
    started: UnixTime,
}

/// What a LOOKUP answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The attributes, inode number included.
    pub attributes: Attributes,
    /// How long the entry may be kept.
    pub entry_lifetime: Duration,
    /// How long the attributes may be kept.
    pub attribute_lifetime: Duration,
}

/// What is open and held, for `status`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Counts {
    /// Inodes that the kernel holds.
    pub inodes: usize,
    /// Files that are open.
    pub handles: usize,
}

impl Tree {
    /// Builds the tree over `gate`.
    #[must_use]
    pub fn new(gate: Arc<Gate>, options: Options) -> Arc<Self> {
        let started = gate.now();
        let tree = Arc::new(Self {
            gate,
            options,
            live: live::Live::default(),
            handles: handles::Handles::default(),
            left: Mutex::default(),
            started,
        });
        for store in tree.gate.places().stores() {
            let watching = Arc::downgrade(&tree);
            store.watch(Box::new(move |changed| {
                if let Some(tree) = watching.upgrade() {
                    tree.store_changed(changed);
                }
            }));
        }
        tree
    }

    /// The gate below.
    #[must_use]
    pub fn gate(&self) -> &Arc<Gate> {
        &self.gate
    }

    /// What is open and held.
    #[must_use]
    pub fn counts(&self) -> Counts {
        Counts { inodes: self.live.count(), handles: self.handles.count() + self.left.lock().len() }
    }

    /// How often files were opened, closed or revoked so far: equal numbers mean that nothing new is to be left.
    #[must_use]
    pub fn changes(&self) -> u64 {
        self.handles.changes()
    }

    /// Takes back `count` lookups of `inode`.
    pub fn forget(&self, inode: Inode, count: u64) {
        self.live.forget(inode, count);
    }

    /// What an inode number stands for, whether the kernel was given it by this process or by the one before.
    ///
    /// # Errors
    /// ESTALE's refusal for a number that stands for nothing.
    pub fn resolve(&self, inode: Inode) -> Result<Node, Refusal> {
        let found = match inode.parts() {
            inode::Parts::Root => Some(Node::Directory("".into())),
            // What the process before us left says it where the store does not know yet.
            inode::Parts::Field { slot, node, .. } => {
                self.place_of(slot, node, inode).map(Node::Field).or_else(|| self.live.node(inode))
            }
            inode::Parts::View { view_hash, slot, node } => self.view_of(view_hash, slot, node, inode),
            inode::Parts::Path => self.live.node(inode).or_else(|| self.search(inode)),
            inode::Parts::Nothing => None,
        };
        found.ok_or(Refusal::new(Outcome::Retired, Reason::NotFound))
    }

    fn place_of(&self, slot: u8, node: crate::model::FieldNode, inode: Inode) -> Option<FieldPlace> {
        let (secret, wanted) = self.gate.places().node(slot, node)?;
        Some(FieldPlace { secret, version: wanted.version, field: wanted.field, inode })
    }

    fn view_of(&self, hash: u32, slot: u8, node: crate::model::FieldNode, inode: Inode) -> Option<Node> {
        let place = self.place_of(slot, node, inode)?;
        let policy = self.gate.policy();
        let view = policy.views().values().find(|view| view_hash(view.path.as_str()) == hash)?;
        Some(Node::View(view.path.as_str().into(), place))
    }

    /// Finds the directory or symlink of a number that this process did not hand out, by working out the numbers
    /// of all that exist.
    fn search(&self, inode: Inode) -> Option<Node> {
        let mut found = None;
        let mut consider = |node: Node| {
            if node.inode() == inode {
                found = Some(node);
            }
            found.is_none()
        };
        for view in self.gate.policy().views().values() {
            for parent in parents(view.path.as_str()) {
                consider(Node::Directory(parent.into()));
            }
        }
        self.gate.places().visit_below("", &mut |path, secret| {
            let mut directories = parents(path.as_str()).chain([path.as_str()]);
            directories.all(|directory| consider(Node::Directory(directory.into())))
                && consider(Node::Versions(path.clone()))
                && secret.versions.iter().all(|version| {
                    consider(Node::Version(path.clone(), version.number))
                        && crate::model::Stage::ALL
                            .into_iter()
                            .all(|stage| consider(Node::Link(path.clone(), stage, version.number)))
                })
        });
        if let Some(node) = &found {
            self.live.adopt(node);
        }
        found
    }

    fn store_changed(&self, changed: &Changed) {
        let Some(secret) = changed.after.as_ref().or(changed.before.as_ref()) else { return };
        let Some(path) = self.gate.places().tree_path(&changed.store, &secret.path) else { return };
        let none = Versions::default();
        let before = changed.before.as_ref().map_or(&none, |secret| &secret.versions);
        let after = changed.after.as_ref().map_or(&none, |secret| &secret.versions);
        let is_revoked = |version: &VersionInfo| version.state == State::Revoked;
        for (was, now) in before.differences(after) {
            if let Some(version) = now.filter(|now| is_revoked(now) && !was.is_some_and(is_revoked)) {
                self.handles.revoke(&path, version.number);
            }
        }
    }

    /// Records a refused lookup, stat or listing (coalesced) and passes the refusal on.
    fn refuse(&self, caller: &Caller<'_>, operation: Operation, path: &str, refusal: Refusal) -> Refusal {
        self.gate.note_refusal(caller, operation, path, refusal);
        refusal
    }

    fn eyes<'a>(&'a self, caller: &'a Caller<'_>) -> Eyes<'a> {
        Eyes::of(&self.gate, caller)
    }
}

/// The directories above `path`, outermost first.
fn parents(path: &str) -> impl Iterator<Item = &str> {
    path.match_indices('/').map(|(at, _)| &path[..at])
}
