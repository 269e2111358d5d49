//! Locked memory that grows: what comes in piece by piece, and what is put together to be sent.

use crate::model::SecretBytes;
use crate::sys::memory::LockedBytes;

/// Bytes in locked memory, appended to.
pub(super) struct Growing {
    held: LockedBytes,
    length: usize,
}

impl Growing {
    /// Begins with room for `expected` bytes.
    pub(super) fn with_room_for(expected: usize) -> Self {
        Self { held: LockedBytes::zeroed(expected.max(64)), length: 0 }
    }

    pub(super) fn len(&self) -> usize {
        self.length
    }

    pub(super) fn append(&mut self, bytes: &[u8]) {
        let needed = self.length + bytes.len();
        if needed > self.held.len() {
            let mut larger = LockedBytes::zeroed(needed.max(2 * self.held.len()));
            larger.as_mut_slice()[..self.length].copy_from_slice(&self.held.as_slice()[..self.length]);
            self.held = larger;
        }
        self.held.as_mut_slice()[self.length..needed].copy_from_slice(bytes);
        self.length = needed;
    }

    pub(super) fn finish(self) -> SecretBytes {
        let bytes = &self.held.as_slice()[..self.length];
        let copied = SecretBytes::filled_by(self.length, |into| {
            into.copy_from_slice(bytes);
            Ok::<(), std::convert::Infallible>(())
        });
        match copied {
            Ok(bytes) => bytes,
            Err(never) => match never {},
        }
    }
}
