//! Open files: each keeps the bytes of the version it was opened with.
//!
//! A handle's number is the sequence number of the record that released it, so that a successor process finds in
//! the log who opened it and what.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use parking_lot::{Mutex, RwLock};

use crate::access::Released;
use crate::caller::Witness;
use crate::model::{SecretPath, Standing, Version};

use super::node::FieldPlace;

/// One open file.
pub(super) struct Handle {
    /// What was opened.
    pub(super) place: FieldPlace,
    /// How the version stood when it was opened: a handle outlives its stage.
    pub(super) standing: Standing,
    /// The bytes, and the proof that they were recorded.
    pub(super) released: Released,
    /// Who opened it; `None` after a change of process, when every reader is recorded anew.
    pub(super) opener: Option<Witness>,
    /// Set for good when the version is revoked.
    revoked: AtomicBool,
    /// Guards who else has read from it, each recorded once.
    readers: Mutex<Vec<Witness>>,
}

/// Processes that may share one handle and be remembered; a further one is recorded at every read.
const READERS_MAX: usize = 64;

impl Handle {
    pub(super) fn new(
        place: FieldPlace,
        standing: Standing,
        released: Released,
        opener: Option<Witness>,
    ) -> Self {
        Self { place, standing, released, opener, revoked: AtomicBool::new(false), readers: Mutex::default() }
    }

    pub(super) fn is_revoked(&self) -> bool {
        self.revoked.load(Ordering::Acquire)
    }

    /// Refuses every further read.
    pub(super) fn revoke(&self) {
        self.revoked.store(true, Ordering::Release);
    }

    /// Readers beside the opener whom a record names.
    pub(super) fn recorded_readers(&self) -> Vec<Witness> {
        self.readers.lock().clone()
    }

    /// Whether a record names this reader already.
    pub(super) fn is_recorded(&self, reader: Witness) -> bool {
        self.opener == Some(reader) || self.readers.lock().contains(&reader)
    }

    /// Remembers that a record names this reader.
    pub(super) fn recorded(&self, reader: Witness) {
        let mut readers = self.readers.lock();
        if readers.len() < READERS_MAX {
            readers.push(reader);
        }
    }
}

/// The table of open files.
#[derive(Default)]
pub(super) struct Handles {
    /// Guards which handles are open.
    open: RwLock<HashMap<u64, Arc<Handle>>>,
    changes: AtomicU64,
}

impl Handles {
    /// Keeps `handle` under its number, which it returns.
    pub(super) fn keep(&self, handle: Handle) -> u64 {
        let number = handle.released.receipt().seq();
        self.open.write().insert(number, Arc::new(handle));
        self.changes.fetch_add(1, Ordering::Relaxed);
        number
    }

    /// Keeps `handle` under a number that the process before us gave out.
    pub(super) fn adopt(&self, number: u64, handle: Handle) -> Arc<Handle> {
        self.changes.fetch_add(1, Ordering::Relaxed);
        Arc::clone(self.open.write().entry(number).or_insert_with(|| Arc::new(handle)))
    }

    pub(super) fn get(&self, number: u64) -> Option<Arc<Handle>> {
        self.open.read().get(&number).cloned()
    }

    /// Forgets a handle; its bytes are wiped when the last read under way has ended.
    pub(super) fn close(&self, number: u64) {
        self.open.write().remove(&number);
        self.changes.fetch_add(1, Ordering::Relaxed);
    }

    /// Refuses every further read of a version.
    pub(super) fn revoke(&self, secret: &SecretPath, version: Version) {
        for handle in self.open.read().values() {
            if handle.place.version == version && handle.place.secret == *secret {
                handle.revoke();
            }
        }
        self.changes.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn changes(&self) -> u64 {
        self.changes.load(Ordering::Relaxed)
    }

    /// Every open file, with its number.
    pub(super) fn all(&self) -> Vec<(u64, Arc<Handle>)> {
        self.open.read().iter().map(|(number, handle)| (*number, Arc::clone(handle))).collect()
    }

    pub(super) fn count(&self) -> usize {
        self.open.read().len()
    }
}
