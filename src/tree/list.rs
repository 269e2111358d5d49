//! What a directory shows to one caller.

use std::collections::BTreeMap;

use sha2::{Digest, Sha256};

use crate::access::Refusal;
use crate::caller::Caller;
use crate::model::{
    FieldName, Operation, Secret, SecretPath, Stage, VersionInfo, encode_name, encode_name_apart, is_reserved,
};
use crate::policy::Listing;

use super::attributes::{Kind, shown_path};
use super::inode::Inode;
use super::lookup::{field_node, join, view_node};
use super::node::Node;
use super::visible::Eyes;
use super::{Tree, parents};

/// One name in a directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DirectoryEntry {
    /// The file name, encoded.
    pub name: String,
    /// Its inode.
    pub inode: Inode,
    /// What kind of file it is.
    pub kind: Kind,
    /// Where a listing goes on after this entry: a hash of the name, so that a listing interrupted by a change (or by
    /// a change of process) neither repeats nor skips a name that stayed.
    pub cookie: u64,
}

impl Tree {
    /// The names in `inode` that `caller` may see, without `.` and `..`, ordered by cookie.
    ///
    /// # Errors
    /// Hidden for a directory he may not list; failed for what is none.
    pub fn list(&self, caller: &Caller<'_>, inode: Inode) -> Result<Vec<DirectoryEntry>, Refusal> {
        let node = self.resolve(inode)?;
        let eyes = self.eyes(caller);
        self.check_visible(&eyes, &node)
            .map_err(|refusal| self.refuse(caller, Operation::List, &shown_path(&node), refusal))?;
        let mut names = BTreeMap::new();
        match &node {
            Node::Directory(path) => {
                self.add_children(&eyes, path, &mut names);
                add_views(&eyes, path, &mut names);
                if let Ok(path) = SecretPath::from_store(path)
                    && let Some(secret) = eyes.secret(&path)
                {
                    self.gate().places().note_look(&path);
                    add_own_names(&eyes, &path, &secret, &mut names);
                }
            }
            Node::Versions(path) => {
                if let Some(secret) = eyes.secret(path) {
                    self.gate().places().note_look(path);
                    add_versions(&eyes, path, &secret, &mut names);
                }
            }
            Node::Version(path, number) => {
                if let Some(secret) = eyes.secret(path)
                    && let Some(version) = secret.version(*number)
                {
                    add_fields(&eyes, path, &secret, version, &mut names);
                }
            }
            Node::Link(..) | Node::Field(_) | Node::View(..) | Node::Notices => {}
        }
        tracing::trace!(uid = eyes.facts.uid(), path = shown_path(&node), names = names.len(), "listed");
        Ok(in_cookie_order(names))
    }

    /// Directories directly below `path`: of secrets that match a pattern the caller holds.
    fn add_children(&self, eyes: &Eyes<'_>, path: &str, names: &mut BTreeMap<String, (Inode, Kind)>) {
        let patterns = eyes.policy.list_patterns_below(eyes.facts, path);
        if patterns.is_empty() {
            return;
        }
        let skip = if path.is_empty() { 0 } else { path.len() + 1 };
        let (mut last_child, mut looked_at) = (String::new(), Vec::new());
        let places = self.gate().places();
        let knows_all = places.knows_all();
        places.visit_below(path, &mut |secret_path, secret| {
            let below = secret_path.as_str().get(skip..).unwrap_or_default();
            let child = below.split('/').next().unwrap_or_default();
            let is_new = child != last_child;
            if is_new && !secret.deleted && patterns.iter().any(|pattern| pattern.matches(secret_path)) {
                child.clone_into(&mut last_child);
                let inode = Inode::of_directory(&join(path, child));
                names.insert(child_file_name(child), (inode, Kind::Directory));
                if !knows_all && child.len() == below.len() {
                    looked_at.push(secret_path.clone());
                }
            }
            true
        });
        // Whoever is shown their names will look at them next.
        looked_at.iter().for_each(|path| places.note_look(path));
    }
}

/// The file name of a child directory: encoded apart where the tree uses its name itself.
pub(super) fn child_file_name(child: &str) -> String {
    if is_reserved(child) { encode_name_apart(child) } else { encode_name(child).into_owned() }
}

/// Views directly below `path`, and the directories that lead to deeper ones.
fn add_views(eyes: &Eyes<'_>, path: &str, names: &mut BTreeMap<String, (Inode, Kind)>) {
    for view in eyes.views_below(path) {
        let Some((secret, version)) = eyes.view(view) else { continue };
        let skip = if path.is_empty() { 0 } else { path.len() + 1 };
        let below = &view.path.as_str()[skip..];
        let entry = if let Some(directory) = parents(below).next() {
            (child_file_name(directory), (Inode::of_directory(&join(path, directory)), Kind::Directory))
        } else {
            let Some(node) = view_node(eyes, view, &secret, version) else { continue };
            (encode_name(below).into_owned(), (node.inode(), Kind::File))
        };
        // A secret's directory of the same name keeps it.
        names.entry(entry.0).or_insert(entry.1);
    }
}

/// A secret's own names: `versions`, its stages, and the fields of its current version.
fn add_own_names(
    eyes: &Eyes<'_>,
    path: &SecretPath,
    secret: &Secret,
    names: &mut BTreeMap<String, (Inode, Kind)>,
) {
    if let Some(current) = secret.current.and_then(|current| secret.version(current)) {
        add_fields(eyes, path, secret, current, names);
    }
    names.insert("versions".to_owned(), (Inode::of_versions(path), Kind::Directory));
    for stage in Stage::ALL {
        let version = secret.at(stage).and_then(|number| secret.version(number));
        if let Some(version) = version
            && eyes.version(path, secret, version, None) == Listing::Visible
        {
            let inode = Inode::of_link(path, stage, version.number);
            names.insert(stage.as_str().to_owned(), (inode, Kind::Symlink));
        }
    }
}

fn add_versions(
    eyes: &Eyes<'_>,
    path: &SecretPath,
    secret: &Secret,
    names: &mut BTreeMap<String, (Inode, Kind)>,
) {
    for version in secret.versions.iter() {
        if eyes.version(path, secret, version, None) == Listing::Visible {
            let inode = Inode::of_version(path, version.number);
            names.insert(version.number.to_string(), (inode, Kind::Directory));
        }
    }
}

fn add_fields(
    eyes: &Eyes<'_>,
    path: &SecretPath,
    secret: &Secret,
    version: &VersionInfo,
    names: &mut BTreeMap<String, (Inode, Kind)>,
) {
    for field in version.fields.iter() {
        if eyes.version(path, secret, version, Some(&field.name)) != Listing::Visible {
            continue;
        }
        let Some(node) = field_node(eyes, path, version.number, field) else { continue };
        let name = field_file_name(&field.name, |taken| names.contains_key(taken));
        names.insert(name, (node.inode(), Kind::File));
    }
}

/// The file name of a field: encoded apart where the tree or a child has its name.
fn field_file_name(field: &FieldName, is_taken: impl Fn(&str) -> bool) -> String {
    let plain = encode_name(field.as_str());
    if is_reserved(field.as_str()) || is_taken(&plain) {
        encode_name_apart(field.as_str())
    } else {
        plain.into_owned()
    }
}

fn in_cookie_order(names: BTreeMap<String, (Inode, Kind)>) -> Vec<DirectoryEntry> {
    let mut entries: Vec<_> = names
        .into_iter()
        .map(|(name, (inode, kind))| DirectoryEntry { cookie: cookie_of(&name), name, inode, kind })
        .collect();
    entries.sort_by(|one, other| one.cookie.cmp(&other.cookie).then_with(|| one.name.cmp(&other.name)));
    entries
}

/// From 3 (1 and 2 are `.` and `..`) to the largest offset a signed 64-bit number holds.
fn cookie_of(name: &str) -> u64 {
    let digest: [u8; 32] = Sha256::digest(name.as_bytes()).into();
    let mut first = [0; 8];
    first.copy_from_slice(&digest[..8]);
    (u64::from_be_bytes(first) >> 1).max(3)
}
