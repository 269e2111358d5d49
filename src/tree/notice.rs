//! What the notifier's process is shown: a hidden directory whose names stand for inodes to touch and for links to
//! be renamed into place. For everybody else it does not exist.

use crate::access::Refusal;
use crate::model::notice::{Alias, NOTICE_DIRECTORY};
use crate::model::{Outcome, Reason, SecretPath, Stage, VersionInfo, decode_name, encode_name};
use crate::store::Changed;

use super::attributes::Unseen;
use super::inode::Inode;
use super::list::child_file_name;
use super::lookup::join;
use super::node::Node;
use super::{Entry, Tree};

/// What watchers are to be told after a change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct News {
    /// The secret's directory, as a path of file names below the mount point.
    pub directory_path: String,
    /// Its inode; `None` where the kernel does not hold it, so that nobody can be watching.
    pub directory: Option<Inode>,
    /// Links that name another version than before.
    pub links: Vec<Stage>,
    /// Files that no longer show what their path shows.
    pub files: Vec<Inode>,
}

impl Tree {
    /// Finds a name for the notifier. Policy is not asked: nothing of what it is shown leaves its process, which is
    /// ours, and it opens nothing.
    ///
    /// # Errors
    /// Hidden for what does not exist, and for a link that is about to be replaced: a rename onto nothing is what
    /// watchers see as MOVED_TO alone.
    pub fn lookup_for_notifier(&self, parent: Inode, name: &[u8]) -> Result<Entry, Refusal> {
        let gone = Refusal::new(Outcome::Hidden, Reason::NotFound);
        let name = std::str::from_utf8(name).map_err(|_| gone)?;
        let node = match self.resolve(parent)? {
            Node::Directory(path) if path.is_empty() && name == NOTICE_DIRECTORY => Node::Notices,
            Node::Directory(path) => {
                let raw = decode_name(name).ok_or(gone)?;
                let child = join(&path, &raw);
                if encode_name(&raw) == name && Stage::named(&raw).is_some() || !self.has_directory(&child) {
                    return Err(gone);
                }
                Node::Directory(child.into())
            }
            Node::Notices => self.alias(&Alias::decode(name).ok_or(gone)?).ok_or(gone)?,
            _ => return Err(gone),
        };
        let entry = self.entry_for_notifier(&node)?;
        self.live.looked_up(&node);
        Ok(entry)
    }

    /// What `stat` says to the notifier.
    ///
    /// # Errors
    /// As [`Tree::lookup_for_notifier`].
    pub fn attributes_for_notifier(&self, inode: Inode) -> Result<Entry, Refusal> {
        self.entry_for_notifier(&self.resolve(inode)?)
    }

    fn entry_for_notifier(&self, node: &Node) -> Result<Entry, Refusal> {
        let nobody = Unseen;
        let eyes = super::Eyes::of(&self.gate, &nobody);
        self.entry(&eyes, node)
    }

    fn alias(&self, alias: &Alias) -> Option<Node> {
        match alias {
            Alias::Touch { inode } => self.resolve(Inode(*inode)).ok(),
            Alias::Swap { directory, link } => {
                let Node::Directory(path) = self.resolve(Inode(*directory)).ok()? else { return None };
                let path = SecretPath::from_store(&path).ok()?;
                let stage = Stage::named(link)?;
                let version = self.gate.places().known(&path)?.at(stage)?;
                Some(Node::Link(path, stage, version))
            }
        }
    }

    fn has_directory(&self, path: &str) -> bool {
        let mut found =
            SecretPath::from_store(path).is_ok_and(|path| self.gate.places().known(&path).is_some());
        self.gate.places().visit_below(path, &mut |_, _| {
            found = true;
            false
        });
        found
    }

    /// What watchers are to be told after `changed`; `None` where nothing that they can see has moved.
    #[must_use]
    pub fn news_of(&self, changed: &Changed) -> Option<News> {
        let (before, after) = (changed.before.as_deref()?, changed.after.as_deref());
        let path = self.gate.places().tree_path(&changed.store, &before.path)?;
        let at = |stage: Stage| after.and_then(|after| after.at(stage));
        let links: Vec<_> = Stage::ALL
            .into_iter()
            .filter(|stage| at(*stage).is_some() && at(*stage) != before.at(*stage))
            .collect();
        let moved = before.current.filter(|_| before.current != at(Stage::Current));
        let moved = moved.and_then(|number| before.version(number));
        let files = moved.map(|version| self.held_files_of(&path, version)).unwrap_or_default();
        if links.is_empty() && files.is_empty() {
            return None;
        }
        let node = Node::Directory(path.as_str().into());
        let directory = self.live.node(node.inode()).map(|node| node.inode());
        Some(News { directory_path: file_path(&path), directory, links, files })
    }

    /// Inodes of fields and views of a version that the kernel holds: those that someone may be watching.
    fn held_files_of(&self, secret: &SecretPath, version: &VersionInfo) -> Vec<Inode> {
        let Some(place) = self.gate.places().place(secret) else { return Vec::new() };
        version.fields.iter().flat_map(|field| self.live.files_of(place.slot, field.node)).collect()
    }
}

/// A secret's path as file names.
fn file_path(path: &SecretPath) -> String {
    path.components().map(child_file_name).collect::<Vec<_>>().join("/")
}
