//! Which inodes the kernel holds, and what the numbers of directories and symlinks stand for.
//!
//! A number is known from its LOOKUP until the kernel forgets it. After a change of process the table is empty:
//! what a number stood for is then found by working out the numbers of everything that exists.

use std::collections::BTreeMap;

use parking_lot::Mutex;

use super::inode::Inode;
use super::node::Node;
use crate::model::FieldNode;

/// The table of inodes that the kernel holds.
#[derive(Default)]
pub(super) struct Live {
    /// Guards what each number stands for and how many LOOKUPs the kernel has had answered with it.
    /// Ordered so that every inode of one field (its owners', its views') lies together.
    held: Mutex<BTreeMap<Place, Held>>,
}

/// An inode number with its halves exchanged: first what a field is (store slot and node), then whose.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Place(u64);

impl Place {
    fn of(inode: Inode) -> Self {
        Self(inode.0.rotate_left(32))
    }
}

struct Held {
    node: Node,
    lookups: u64,
}

impl Live {
    /// Counts one LOOKUP that was answered with `node`.
    pub(super) fn looked_up(&self, node: &Node) {
        let mut held = self.held.lock();
        held.entry(Place::of(node.inode()))
            .or_insert_with(|| Held { node: node.clone(), lookups: 0 })
            .lookups += 1;
    }

    /// Takes `count` LOOKUPs back; a number without any is forgotten.
    pub(super) fn forget(&self, inode: Inode, count: u64) {
        let mut held = self.held.lock();
        if let Some(entry) = held.get_mut(&Place::of(inode)) {
            entry.lookups = entry.lookups.saturating_sub(count);
            if entry.lookups == 0 {
                held.remove(&Place::of(inode));
            }
        }
    }

    /// What `inode` stands for, if the kernel holds it.
    pub(super) fn node(&self, inode: Inode) -> Option<Node> {
        self.held.lock().get(&Place::of(inode)).map(|held| held.node.clone())
    }

    /// Remembers what a search found, until the kernel forgets it.
    pub(super) fn adopt(&self, node: &Node) {
        let place = Place::of(node.inode());
        self.held.lock().entry(place).or_insert_with(|| Held { node: node.clone(), lookups: 1 });
    }

    /// Calls `visit` with every inode held and its LOOKUPs.
    pub(super) fn visit(&self, mut visit: impl FnMut(&Node, u64)) {
        for held in self.held.lock().values() {
            visit(&held.node, held.lookups);
        }
    }

    /// Puts back what the process before us knew.
    pub(super) fn restore(&self, node: &Node, lookups: u64) {
        self.held.lock().insert(Place::of(node.inode()), Held { node: node.clone(), lookups });
    }

    /// Every inode held of one field: as each owner sees it, and as views show it.
    pub(super) fn files_of(&self, slot: u8, node: FieldNode) -> Vec<Inode> {
        let first = Place::of(Inode::of_field(0, slot, node));
        let last = Place(first.0 | u64::from(u32::MAX));
        let held = self.held.lock();
        let those = held.range(first..=last).map(|(_, held)| &held.node);
        // A hash of a path may look like a field's number.
        those.filter(|node| matches!(node, Node::Field(_) | Node::View(..))).map(Node::inode).collect()
    }

    /// How many inodes the kernel holds.
    pub(super) fn count(&self) -> usize {
        self.held.lock().len()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::node::FieldPlace;
    use super::*;
    use crate::model::{FieldName, SecretPath, Version};

    #[test]
    fn the_files_of_a_field_are_found_for_every_owner_and_view_and_no_other() {
        let live = Live::default();
        let field = |number| FieldNode::new(number).unwrap();
        let place = |inode| FieldPlace {
            secret: SecretPath::parse("s").unwrap(),
            version: Version::new(1).unwrap(),
            field: FieldName::parse("f").unwrap(),
            inode,
        };
        let mut wanted = vec![Inode::of_view("v", 1, field(7))];
        live.looked_up(&Node::View(Arc::from("v"), place(wanted[0])));
        for uid in [0, 1, 24_001, u32::MAX >> 1] {
            live.looked_up(&Node::Field(place(Inode::of_field(uid, 1, field(7)))));
            wanted.push(Inode::of_field(uid, 1, field(7)));
            for (slot, number) in [(1, 6), (1, 8), (2, 7)] {
                live.looked_up(&Node::Field(place(Inode::of_field(uid, slot, field(number)))));
            }
        }
        live.looked_up(&Node::Directory("a/b".into()));
        let sorted = |mut inodes: Vec<Inode>| {
            inodes.sort();
            inodes.dedup();
            inodes
        };
        assert_eq!(sorted(live.files_of(1, field(7))), sorted(wanted.clone()));
        live.forget(wanted[0], 1);
        assert_eq!(sorted(live.files_of(1, field(7))), sorted(wanted[1..].to_vec()));
    }
}
