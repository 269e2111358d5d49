//! Open directories: what the opener was shown, kept so that a long listing is worked out once.
//!
//! Nothing here need outlive the process: a handle that is not known, or that somebody else reads from, is listed
//! anew for whoever asks.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use fuser::{FileType, INodeNo};
use parking_lot::Mutex;

use crate::access::Refusal;
use crate::caller::{Caller, Witness};
use crate::policy::Policy;
use crate::tree::{DirectoryEntry, Inode, Tree};

use super::translate;

#[derive(Default)]
pub(super) struct Directories {
    next: AtomicU64,
    /// Guards what each handle shows and to whom.
    open: Mutex<HashMap<u64, Shown>>,
}

struct Shown {
    to: Witness,
    /// The policy by which it was worked out: under another one it is worked out again.
    policy: Arc<Policy>,
    entries: Arc<Vec<DirectoryEntry>>,
}

/// Directories kept at once; one opened past that is worked out at every call.
const DIRECTORIES_MAX: usize = 1024;

impl Directories {
    pub(super) fn open(&self, tree: &Tree, caller: &Caller<'_>, inode: Inode) -> Result<u64, Refusal> {
        let policy = tree.gate().policy();
        let entries = Arc::new(tree.list(caller, inode)?);
        let handle = self.next.fetch_add(1, Ordering::Relaxed) + 1;
        let mut open = self.open.lock();
        if open.len() < DIRECTORIES_MAX {
            open.insert(handle, Shown { to: caller.witness(), policy, entries });
        }
        Ok(handle)
    }

    pub(super) fn list(
        &self,
        tree: &Tree,
        caller: &Caller<'_>,
        inode: Inode,
        handle: u64,
    ) -> Result<Arc<Vec<DirectoryEntry>>, Refusal> {
        let witness = caller.witness();
        let policy = tree.gate().policy();
        if let Some(shown) = self.open.lock().get(&handle)
            && shown.to == witness
            && Arc::ptr_eq(&shown.policy, &policy)
        {
            return Ok(Arc::clone(&shown.entries));
        }
        tree.list(caller, inode).map(Arc::new)
    }

    pub(super) fn close(&self, handle: u64) {
        self.open.lock().remove(&handle);
    }
}

/// Adds what follows `offset` until `add` says that there is no more room. Offsets 1 and 2 are `.` and `..`.
pub(super) fn fill(
    own: INodeNo,
    entries: &[DirectoryEntry],
    offset: u64,
    mut add: impl FnMut(INodeNo, u64, FileType, &OsStr) -> bool,
) {
    let dots = [(1, "."), (2, "..")];
    for (cookie, name) in dots.into_iter().filter(|(cookie, _)| *cookie > offset) {
        if add(own, cookie, FileType::Directory, OsStr::new(name)) {
            return;
        }
    }
    let from = entries.partition_point(|entry| entry.cookie <= offset);
    for entry in &entries[from..] {
        if add(INodeNo(entry.inode.0), entry.cookie, translate::kind(entry.kind), OsStr::new(&entry.name)) {
            return;
        }
    }
}
