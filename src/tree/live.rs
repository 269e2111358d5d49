//! Which inodes the kernel holds, and what the numbers of directories and symlinks stand for.
//!
//! A number is known from its LOOKUP until the kernel forgets it. After a change of process the table is empty:
//! what a number stood for is then found by working out the numbers of everything that exists.

use std::collections::HashMap;

use parking_lot::Mutex;

use super::inode::Inode;
use super::node::Node;

/// The table of inodes that the kernel holds.
#[derive(Default)]
pub(super) struct Live {
    /// Guards what each number stands for and how many LOOKUPs the kernel has had answered with it.
    held: Mutex<HashMap<Inode, Held>>,
}

struct Held {
    node: Node,
    lookups: u64,
}

impl Live {
    /// Counts one LOOKUP that was answered with `node`.
    pub(super) fn looked_up(&self, node: &Node) {
        let mut held = self.held.lock();
        held.entry(node.inode()).or_insert_with(|| Held { node: node.clone(), lookups: 0 }).lookups += 1;
    }

    /// Takes `count` LOOKUPs back; a number without any is forgotten.
    pub(super) fn forget(&self, inode: Inode, count: u64) {
        let mut held = self.held.lock();
        if let Some(entry) = held.get_mut(&inode) {
            entry.lookups = entry.lookups.saturating_sub(count);
            if entry.lookups == 0 {
                held.remove(&inode);
            }
        }
        // A burst of lookups (one `find`) must not hold its memory for ever.
        if held.capacity() > 4096 && held.len() * 4 < held.capacity() {
            held.shrink_to_fit();
        }
    }

    /// What `inode` stands for, if the kernel holds it.
    pub(super) fn node(&self, inode: Inode) -> Option<Node> {
        self.held.lock().get(&inode).map(|held| held.node.clone())
    }

    /// Remembers what a search found, until the kernel forgets it.
    pub(super) fn adopt(&self, node: &Node) {
        self.held.lock().entry(node.inode()).or_insert_with(|| Held { node: node.clone(), lookups: 1 });
    }

    /// Every inode held for which `is_wanted` answers true.
    pub(super) fn select(&self, is_wanted: impl Fn(&Node) -> bool) -> Vec<Inode> {
        self.held.lock().values().filter(|held| is_wanted(&held.node)).map(|held| held.node.inode()).collect()
    }

    /// How many inodes the kernel holds.
    pub(super) fn count(&self) -> usize {
        self.held.lock().len()
    }
}
