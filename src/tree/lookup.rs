//! Finding a name in a directory, for one caller.

use std::sync::Arc;
use std::time::Duration;

use crate::access::Refusal;
use crate::caller::Caller;
use crate::model::{
    Facts, FieldInfo, FieldName, Operation, Outcome, Reason, Secret, SecretPath, Stage, Version, VersionInfo,
    decode_name, encode_name, is_reserved,
};
use crate::policy::{Listing, View};

use super::asking::Lookup;
use super::attributes::shown_path;
use super::inode::Inode;
use super::node::{FieldPlace, Node};
use super::visible::{Eyes, is_public};
use super::{Entry, Tree};

/// How long the attributes of a directory or symlink may be kept: `ls -l` asks in a burst.
const DIRECTORY_ATTRIBUTES: Duration = Duration::from_secs(1);

impl Tree {
    /// Finds `name` in the directory `parent` for `caller`, and counts the inode as held by the kernel.
    ///
    /// # Errors
    /// Hidden, for what does not exist and for what the caller may not list, alike; retired, for a version that the
    /// caller could have read until `retire_after` ago.
    pub fn lookup(&self, caller: &Caller<'_>, parent: Inode, name: &[u8]) -> Result<Entry, Refusal> {
        let parent = self.resolve(parent)?;
        let eyes = self.eyes(caller);
        self.found(&eyes, &parent, name, self.look(&eyes, &parent, name), caller)
    }

    /// The same, but a store that may know more than is known here is asked before a name is said not to exist.
    #[must_use]
    pub fn lookup_or_ask(&self, caller: &Caller<'_>, parent: Inode, name: &[u8]) -> Lookup {
        let parent = match self.resolve(parent) {
            Ok(parent) => parent,
            Err(refusal) => return Lookup::Done(Err(refusal)),
        };
        let eyes = self.eyes(caller);
        let mut looked = self.look(&eyes, &parent, name);
        if let Err(Refusal { outcome: Outcome::Hidden, .. }) = looked {
            if let Some(asking) = self.question(caller, &parent, name) {
                return Lookup::Asking(asking);
            }
            // There may be nothing left to ask because somebody else's question was answered since the look.
            if !self.gate.places().knows_all() {
                looked = self.look(&eyes, &parent, name);
            }
        }
        Lookup::Done(self.found(&eyes, &parent, name, looked, caller))
    }

    fn look(&self, eyes: &Eyes<'_>, parent: &Node, name: &[u8]) -> Result<Node, Refusal> {
        match std::str::from_utf8(name) {
            Ok(name) => self.find(eyes, parent, name),
            Err(_) => Err(Refusal::new(Outcome::Hidden, Reason::NotFound)),
        }
    }

    fn found(
        &self,
        eyes: &Eyes<'_>,
        parent: &Node,
        name: &[u8],
        looked: Result<Node, Refusal>,
        caller: &Caller<'_>,
    ) -> Result<Entry, Refusal> {
        let node = looked.map_err(|refusal| {
            let path = asked_path(parent, name);
            self.refuse(caller, Operation::Lookup, &path, refusal)
        })?;
        let entry = self.entry(eyes, &node)?;
        self.live.looked_up(&node);
        tracing::trace!(
            uid = caller.uid(),
            inode = entry.attributes.inode.0,
            path = shown_path(&node),
            "found"
        );
        Ok(entry)
    }

    /// The entry of a node that the caller may see.
    pub(super) fn entry(&self, eyes: &Eyes<'_>, node: &Node) -> Result<Entry, Refusal> {
        let attributes = self.attributes_of(eyes, node)?;
        let public = match node {
            Node::Directory(path) => is_public(&self.gate, &eyes.policy, path),
            _ => false,
        };
        let entry_lifetime = if public { self.options.public_entry_lifetime } else { Duration::ZERO };
        let attribute_lifetime = match node {
            // A limit is shown until the length is known, and is to be asked for again.
            Node::Field(_) | Node::View(..) if !attributes.is_size_exact => Duration::ZERO,
            Node::Field(_) | Node::View(..) => self.options.attribute_lifetime,
            Node::Notices => Duration::ZERO,
            _ => DIRECTORY_ATTRIBUTES.min(self.options.public_entry_lifetime),
        };
        Ok(Entry { attributes, entry_lifetime, attribute_lifetime })
    }

    fn find(&self, eyes: &Eyes<'_>, parent: &Node, name: &str) -> Result<Node, Refusal> {
        let not_found = Refusal::new(Outcome::Hidden, Reason::NotFound);
        let raw = decode_name(name).ok_or(not_found)?;
        let is_plain = encode_name(&raw) == name;
        match parent {
            Node::Directory(path) => self.find_in_directory(eyes, path, &raw, is_plain),
            Node::Versions(secret) => find_version(eyes, secret, name),
            Node::Version(secret, version) => {
                let field = FieldName::from_store(&raw).map_err(|_| not_found)?;
                let (secret_info, version) = visible_version(eyes, secret, *version)?;
                let version = secret_info.version(version).ok_or(not_found)?;
                find_field(eyes, secret, &secret_info, version, &field)
            }
            Node::Link(..) | Node::Field(_) | Node::View(..) | Node::Notices => Err(not_found),
        }
    }

    /// A name in a directory is, in this order: a child directory, a view, one of the secret's own names, a field.
    fn find_in_directory(
        &self,
        eyes: &Eyes<'_>,
        directory: &Arc<str>,
        raw: &str,
        is_plain: bool,
    ) -> Result<Node, Refusal> {
        let not_found = Refusal::new(Outcome::Hidden, Reason::NotFound);
        let child = join(directory, raw);
        // A child called like one of the tree's own names is encoded apart.
        let may_be_child = is_plain != is_reserved(raw);
        let child_or_view = child_or_view(eyes, &child);
        if may_be_child && let Some(node) = child_or_view {
            return Ok(node);
        }
        let secret_path = SecretPath::of_shared(directory).map_err(|_| not_found)?;
        let secret = eyes.secret(&secret_path).ok_or(not_found)?;
        if is_plain && is_reserved(raw) {
            return find_own_name(eyes, &secret_path, &secret, raw);
        }
        // A field called like a child, or like one of the tree's own names, is encoded apart.
        let must_be_apart = is_reserved(raw) || child_or_view.is_some();
        if is_plain == must_be_apart {
            return Err(not_found);
        }
        let field = FieldName::from_store(raw).map_err(|_| not_found)?;
        let current = secret.current.and_then(|current| secret.version(current)).ok_or(not_found)?;
        find_field(eyes, &secret_path, &secret, current, &field)
    }
}

fn child_or_view(eyes: &Eyes<'_>, child: &str) -> Option<Node> {
    if eyes.directory(child) {
        return Some(Node::Directory(child.into()));
    }
    let view = eyes.policy.views().get(child)?;
    let (secret, version) = eyes.view(view)?;
    view_node(eyes, view, &secret, version)
}

/// The node of a view. One that fixes neither owner nor group nor mode shows the field as the field shows itself.
pub(super) fn view_node(eyes: &Eyes<'_>, view: &View, secret: &Secret, version: Version) -> Option<Node> {
    let info = secret.version(version)?.field(&view.field)?;
    if view.is_plain() {
        return field_node(eyes, &view.secret, version, info);
    }
    let slot = eyes.gate.places().place(&view.secret)?.slot;
    let inode = Inode::of_view(view.path.as_str(), slot, info.node);
    let place = FieldPlace { secret: view.secret.clone(), version, field: view.field.clone(), inode };
    Some(Node::View(view.path.as_str().into(), place))
}

/// `versions`, or the symlink of a stage.
fn find_own_name(eyes: &Eyes<'_>, path: &SecretPath, secret: &Secret, name: &str) -> Result<Node, Refusal> {
    let not_found = Refusal::new(Outcome::Hidden, Reason::NotFound);
    let Some(stage) = Stage::named(name) else {
        return Ok(Node::Versions(path.clone()));
    };
    let version = secret.at(stage).and_then(|number| secret.version(number)).ok_or(not_found)?;
    match eyes.version(path, secret, version, None) {
        Listing::Visible => Ok(Node::Link(path.clone(), stage, version.number)),
        Listing::Retired | Listing::Hidden => Err(Refusal::new(Outcome::Hidden, Reason::StageNotGranted)),
    }
}

fn find_version(eyes: &Eyes<'_>, path: &SecretPath, name: &str) -> Result<Node, Refusal> {
    let number: Version = name.parse().map_err(|()| Refusal::new(Outcome::Hidden, Reason::NotFound))?;
    visible_version(eyes, path, number).map(|(_, number)| Node::Version(path.clone(), number))
}

fn visible_version(
    eyes: &Eyes<'_>,
    path: &SecretPath,
    number: Version,
) -> Result<(Arc<Secret>, Version), Refusal> {
    let not_found = Refusal::new(Outcome::Hidden, Reason::NotFound);
    let secret = eyes.secret(path).ok_or(not_found)?;
    let version = secret.version(number).ok_or(not_found)?;
    match eyes.version(path, &secret, version, None) {
        Listing::Visible => Ok((Arc::clone(&secret), number)),
        Listing::Retired => Err(Outcome::Retired.into()),
        Listing::Hidden => Err(Refusal::new(Outcome::Hidden, Reason::StageNotGranted)),
    }
}

fn find_field(
    eyes: &Eyes<'_>,
    path: &SecretPath,
    secret: &Secret,
    version: &VersionInfo,
    name: &FieldName,
) -> Result<Node, Refusal> {
    let not_found = Refusal::new(Outcome::Hidden, Reason::NotFound);
    let field = version.field(name).ok_or(not_found)?;
    match eyes.version(path, secret, version, Some(name)) {
        Listing::Visible => field_node(eyes, path, version.number, field).ok_or(not_found),
        Listing::Retired => Err(Outcome::Retired.into()),
        Listing::Hidden => Err(Refusal::new(Outcome::Hidden, Reason::FieldNotGranted)),
    }
}

/// The node of a field as it is shown to the caller.
pub(super) fn field_node(
    eyes: &Eyes<'_>,
    path: &SecretPath,
    version: Version,
    field: &FieldInfo,
) -> Option<Node> {
    let slot = eyes.gate.places().place(path)?.slot;
    let inode = Inode::of_field(eyes.facts.uid(), slot, field.node);
    Some(Node::Field(FieldPlace { secret: path.clone(), version, field: field.name.clone(), inode }))
}

/// The path of `name` in `directory`.
pub(super) fn join(directory: &str, name: &str) -> String {
    if directory.is_empty() { name.to_owned() } else { [directory, "/", name].concat() }
}

/// What was asked for, for the record: a path in the tree, as far as it can be said in UTF-8.
fn asked_path(parent: &Node, name: &[u8]) -> String {
    let name = String::from_utf8_lossy(name);
    match parent {
        Node::Directory(path) => join(path, &name),
        Node::Versions(secret) => format!("{secret}/versions/{name}"),
        Node::Version(secret, version) => format!("{secret}/versions/{version}/{name}"),
        Node::Link(..) | Node::Field(_) | Node::View(..) | Node::Notices => name.into_owned(),
    }
}
