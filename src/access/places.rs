//! Which store answers for which part of the tree.

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::Arc;

use crate::model::{FieldNode, Secret, SecretPath};
use crate::store::{Declared, Login, Store, Wanted};

/// Stores by the prefix under which they appear; the longest prefix that fits a path answers for it.
pub struct Places {
    /// Ordered by prefix, longest first; slots count from 1 in the order the stores were given.
    mounts: Vec<Mount>,
    login: Login,
    /// Whether any store mints: else nothing more need be looked at.
    mints: bool,
}

struct Mount {
    slot: u8,
    prefix: String,
    store: Arc<dyn Store>,
}

/// A prefix that cannot be.
#[derive(Debug, thiserror::Error)]
pub enum PrefixFault {
    /// Two stores at one prefix.
    #[error("stores \"{0}\" and \"{1}\" have the same prefix: give one of them another")]
    Twice(String, String),
    /// More stores than an inode number has room for.
    #[error("more than 15 stores: an inode number has no room for more")]
    TooMany,
}

/// One secret's place: which store holds it, and under which path there.
pub struct Place<'a> {
    /// The store's number in inode numbers, from 1 to 15.
    pub slot: u8,
    /// The store.
    pub store: &'a Arc<dyn Store>,
    /// The path in the store.
    pub path: Cow<'a, SecretPath>,
}

impl Place<'_> {
    /// Whether the store may know more of it than is known here. Of what is minted all is known, and asking would mint it.
    #[must_use]
    pub fn is_to_be_asked(&self) -> bool {
        !self.store.knows_all() && self.store.declared(&self.path).is_none()
    }
}

impl Places {
    /// Arranges `stores`, each with its prefix (`""` for the root of the tree).
    ///
    /// # Errors
    /// [`PrefixFault`].
    pub fn new(stores: Vec<(String, Arc<dyn Store>)>) -> Result<Self, PrefixFault> {
        let mut seen: HashMap<String, String> = HashMap::new();
        let mut mounts = Vec::new();
        for (at, (prefix, store)) in stores.into_iter().enumerate() {
            let slot = u8::try_from(at + 1).ok().filter(|slot| *slot <= 15).ok_or(PrefixFault::TooMany)?;
            if let Some(other) = seen.insert(prefix.clone(), store.name().to_owned()) {
                return Err(PrefixFault::Twice(other, store.name().to_owned()));
            }
            mounts.push(Mount { slot, prefix, store });
        }
        mounts.sort_by_key(|mount| std::cmp::Reverse(mount.prefix.len()));
        let mints = mounts.iter().any(|mount| !mount.store.all_declared().is_empty());
        Ok(Self { mounts, login: Login::machine(), mints })
    }

    /// The login under which names and metadata are known.
    #[must_use]
    pub fn login(&self) -> &Login {
        &self.login
    }

    /// Every store, in the order of their slots.
    #[must_use]
    pub fn stores(&self) -> Vec<&Arc<dyn Store>> {
        let mut mounts: Vec<_> = self.mounts.iter().collect();
        mounts.sort_by_key(|mount| mount.slot);
        mounts.into_iter().map(|mount| &mount.store).collect()
    }

    /// Whether every store knows all there is in it.
    #[must_use]
    pub fn knows_all(&self) -> bool {
        self.mounts.iter().all(|mount| mount.store.knows_all())
    }

    /// The store that answers for `path`; `None` where none does, or where the path is the prefix itself.
    #[must_use]
    pub fn place<'a>(&'a self, path: &'a SecretPath) -> Option<Place<'a>> {
        for mount in &self.mounts {
            if mount.prefix.is_empty() {
                return Some(Place { slot: mount.slot, store: &mount.store, path: Cow::Borrowed(path) });
            }
            if let Some(inner) = path.below(&mount.prefix) {
                return Some(Place { slot: mount.slot, store: &mount.store, path: Cow::Owned(inner) });
            }
        }
        None
    }

    /// The store that answers for the names in a directory of the tree, and what the folder is called there. `None` above
    /// every prefix.
    #[must_use]
    pub fn folder(&self, directory: &str) -> Option<(&Arc<dyn Store>, String)> {
        self.mounts.iter().find_map(|mount| {
            let inner = if mount.prefix.is_empty() {
                directory
            } else if directory == mount.prefix {
                ""
            } else {
                below(directory, &mount.prefix)?
            };
            Some((&mount.store, inner.to_owned()))
        })
    }

    /// Every store that has something in a directory of the tree, or below it, and what the folder is called there.
    #[must_use]
    pub fn folders(&self, directory: &str) -> Vec<(&Arc<dyn Store>, String)> {
        let is_below = |mount: &&Mount| {
            mount.prefix != directory && (directory.is_empty() || below(&mount.prefix, directory).is_some())
        };
        let lower = self.mounts.iter().filter(is_below).map(|mount| (&mount.store, String::new()));
        self.folder(directory).into_iter().chain(lower).collect()
    }

    /// What is known of the secret at `path`.
    #[must_use]
    pub fn known(&self, path: &SecretPath) -> Option<Arc<Secret>> {
        let place = self.place(path)?;
        place.store.known(&self.login, &place.path)
    }

    /// What is known of the secret at `path`, as it is shown under `login`.
    #[must_use]
    pub fn known_as(&self, login: &Login, path: &SecretPath) -> Option<Arc<Secret>> {
        let place = self.place(path)?;
        place.store.known(login, &place.path)
    }

    /// What is declared of the secret at `path`, where it is minted for each consumer.
    #[must_use]
    pub fn declared(&self, path: &SecretPath) -> Option<(Arc<Declared>, Arc<dyn Store>)> {
        let place = self.mints.then(|| self.place(path))??;
        Some((place.store.declared(&place.path)?, Arc::clone(place.store)))
    }

    /// Tells the store of a secret that somebody looks at it.
    pub fn note_look(&self, path: &SecretPath) {
        if let Some(place) = self.place(path) {
            place.store.note_look(&place.path);
        }
    }

    /// Calls `visit` with the path of every known secret below the directory `directory` (`""` is the root), and
    /// the secret, until it returns false.
    pub fn visit_below(&self, directory: &str, visit: &mut dyn FnMut(&SecretPath, &Arc<Secret>) -> bool) {
        for mount in &self.mounts {
            let Some(inner_prefix) = mount.search_prefix(directory) else { continue };
            let mut goes_on = true;
            mount.store.visit_known(&self.login, &inner_prefix, &mut |secret| {
                let Some(path) = mount.tree_path(secret) else { return true };
                // A longer prefix answers for its paths alone.
                let ours = self.place(&path).is_some_and(|place| place.slot == mount.slot);
                goes_on = !ours || visit(&path, secret);
                goes_on
            });
            if !goes_on {
                return;
            }
        }
    }

    /// Whether a secret is known at `path` or below it.
    #[must_use]
    pub fn has_anything_at(&self, path: &str) -> bool {
        if !self.mounts.iter().any(|mount| mount.may_have_anything_at(path, &self.login)) {
            return false;
        }
        if SecretPath::from_store(path).is_ok_and(|path| self.known(&path).is_some()) {
            return true;
        }
        let mut found = false;
        self.visit_below(path, &mut |_, _| {
            found = true;
            false
        });
        found
    }

    /// The path in the tree, and what is known, of what `node` of the store `slot` stands for.
    #[must_use]
    pub fn node(&self, slot: u8, node: FieldNode) -> Option<(SecretPath, Wanted)> {
        let mount = self.mounts.iter().find(|mount| mount.slot == slot)?;
        let wanted = mount.store.node(node)?;
        let path = mount.join(&wanted.secret)?;
        Some((path, wanted))
    }

    /// The path in the tree of a secret of the store called `store`.
    #[must_use]
    pub fn tree_path(&self, store: &str, inner: &SecretPath) -> Option<SecretPath> {
        self.mounts.iter().find(|mount| mount.store.name() == store)?.join(inner)
    }
}

impl Mount {
    fn join(&self, inner: &SecretPath) -> Option<SecretPath> {
        if self.prefix.is_empty() {
            return Some(inner.clone());
        }
        SecretPath::from_store(&format!("{}/{inner}", self.prefix)).ok()
    }

    fn tree_path(&self, secret: &Secret) -> Option<SecretPath> {
        self.join(&secret.path)
    }

    /// Whether the store knows any path that begins with the letters of `path`, so that no more than a look need be
    /// taken for most names, which are those of fields.
    fn may_have_anything_at(&self, path: &str, login: &Login) -> bool {
        let inner = match below(path, &self.prefix) {
            _ if self.prefix.is_empty() => path,
            Some(inner) => inner,
            None => return self.prefix == path || below(&self.prefix, path).is_some(),
        };
        let mut found = false;
        self.store.visit_known(login, inner, &mut |_| {
            found = true;
            false
        });
        found
    }

    /// What the store's own paths begin with, for those below `directory`; `None` where there can be none.
    fn search_prefix(&self, directory: &str) -> Option<String> {
        if directory.is_empty() || below(&self.prefix, directory).is_some() || self.prefix == directory {
            return Some(String::new());
        }
        if self.prefix.is_empty() {
            return Some(format!("{directory}/"));
        }
        below(directory, &self.prefix).map(|rest| format!("{rest}/"))
    }
}

/// What of `path` lies below `directory`.
fn below<'a>(path: &'a str, directory: &str) -> Option<&'a str> {
    path.strip_prefix(directory)?.strip_prefix('/')
}
