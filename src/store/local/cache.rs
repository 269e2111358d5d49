//! Sealed values that were fetched lately: ciphertext only, within a bound.

use std::sync::Arc;

use lru::LruCache;

use super::database::SealedValue;
use crate::model::FieldNode;

/// What one entry takes beside its bytes, about.
const ENTRY_BYTES: usize = 128;

/// The most recently used sealed values.
pub(super) struct SealedCache {
    entries: LruCache<FieldNode, Arc<SealedValue>>,
    used_bytes: usize,
    bytes_max: usize,
}

impl SealedCache {
    pub(super) fn new(bytes_max: usize) -> Self {
        Self { entries: LruCache::unbounded(), used_bytes: 0, bytes_max }
    }

    pub(super) fn get(&mut self, node: FieldNode) -> Option<Arc<SealedValue>> {
        self.entries.get(&node).cloned()
    }

    pub(super) fn put(&mut self, node: FieldNode, value: Arc<SealedValue>) {
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

fn size_of(value: &SealedValue) -> usize {
    ENTRY_BYTES + value.key.len() + value.sealed.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_entries_leave_when_the_bound_is_passed() {
        let mut cache = SealedCache::new(3 * (ENTRY_BYTES + 100));
        let node = |number| FieldNode::new(number).unwrap();
        for number in 1..=10 {
            cache.put(node(number), Arc::new(SealedValue { key: vec![0; 50], sealed: vec![0; 50] }));
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
