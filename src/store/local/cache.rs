//! Values that were fetched lately, in locked memory, within a bound.
//!
//! They lie open: whoever can read this process's memory finds the key that would open them anyway, and opening a
//! value anew at each read costs as much as all the rest of deciding about it.

use lru::LruCache;

use crate::model::{FieldNode, SecretBytes};

/// What one entry takes beside its bytes, about.
const ENTRY_BYTES: usize = 128;

/// The most recently used values.
pub(super) struct ValueCache {
    entries: LruCache<FieldNode, SecretBytes>,
    used_bytes: usize,
    bytes_max: usize,
}

impl ValueCache {
    pub(super) fn new(bytes_max: usize) -> Self {
        Self { entries: LruCache::unbounded(), used_bytes: 0, bytes_max }
    }

    /// The value, for one more holder.
    pub(super) fn get(&mut self, node: FieldNode) -> Option<SecretBytes> {
        self.entries.get(&node).map(SecretBytes::shared)
    }

    pub(super) fn put(&mut self, node: FieldNode, value: SecretBytes) {
        self.used_bytes += size_of(&value);
        if let Some(before) = self.entries.put(node, value) {
            self.used_bytes -= size_of(&before);
        }
        while self.used_bytes > self.bytes_max
            && let Some((_, oldest)) = self.entries.pop_lru()
        {
            self.used_bytes -= size_of(&oldest);
        }
    }

    pub(super) fn remove(&mut self, node: FieldNode) {
        if let Some(before) = self.entries.pop(&node) {
            self.used_bytes -= size_of(&before);
        }
    }

    pub(super) fn clear(&mut self) {
        self.entries.clear();
        self.used_bytes = 0;
    }
}

fn size_of(value: &SecretBytes) -> usize {
    ENTRY_BYTES + value.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_entries_leave_when_the_bound_is_passed() {
        let mut cache = ValueCache::new(3 * (ENTRY_BYTES + 100));
        let node = |number| FieldNode::new(number).unwrap();
        for number in 1..=10 {
            cache.put(node(number), SecretBytes::taken_from(&mut [0; 100]));
            assert!(cache.used_bytes <= cache.bytes_max);
        }
        assert!(cache.get(node(7)).is_none());
        assert!(cache.get(node(8)).is_some());
        cache.remove(node(8));
        cache.remove(node(9));
        cache.remove(node(10));
        assert_eq!(cache.used_bytes, 0);
    }
}
