//! What a process leaves to the one that goes on in its place, and what is found of an earlier one.

use std::sync::atomic::Ordering;

use zeroize::Zeroizing;

use super::Remote;
use super::cache_file;
use super::codec::In;
use super::held::{Entry, sighted};
use super::merge::{Before, merged};
use super::record::{Reading, of_user};

/// Most that is left, in bytes.
const LEFT_BYTES_MAX: u64 = 16 * 1024 * 1024;

/// What is left could not be read: of another version, or cut short.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("what the process before left of a remote store is of another version")]
pub struct UnreadableMemory;

impl Remote {
    /// Writes down what a successor goes on with. It holds values.
    #[must_use]
    pub fn leave(&self) -> Zeroizing<Vec<u8>> {
        let mark = self.options.clocks.mark();
        let mut records: Vec<_> =
            self.users.lock().all().filter_map(|(login, who)| of_user(&mark, login, who)).collect();
        records.extend(cache_file::records(&mark, &self.memory.read(), LEFT_BYTES_MAX));
        let room = records.iter().map(|record| record.len() + 4).sum();
        let mut left = Zeroizing::new(Vec::with_capacity(room));
        for record in records {
            left.extend_from_slice(&u32::try_from(record.len()).unwrap_or(0).to_le_bytes());
            left.extend_from_slice(&record);
        }
        left
    }

    /// Goes on with what the process before us left, as [`Self::leave`] wrote it. Its values are given after their engine
    /// vouched for them again, or while it is away.
    ///
    /// # Errors
    /// [`UnreadableMemory`]; nothing of it is kept then.
    pub fn take_over(&self, left: &[u8]) -> Result<(), UnreadableMemory> {
        let mut reading = Reading::default();
        let mut from = In(left);
        while !from.0.is_empty() {
            let record = from.bytes().ok_or(UnreadableMemory)?;
            reading.read(record).ok_or(UnreadableMemory)?;
        }
        for (login, consumer) in std::mem::take(&mut reading.users) {
            self.note_user(&login, &consumer);
        }
        self.go_on_with(reading);
        Ok(())
    }

    /// Whether there is more to be left than when this was last the same number; and whether it is urgent, since something
    /// was dropped that may not be given any more.
    #[must_use]
    pub fn changes(&self) -> (u64, u64) {
        let users = self.users.lock().changes;
        (self.memory.read().changes + users, self.drops.load(Ordering::SeqCst))
    }

    pub(super) fn go_on_with(&self, mut reading: Reading) {
        let _order = self.order.lock();
        let now_us = self.now_us();
        let now = (self.options.clocks.wall)();
        let mut numbers = self.numbers.write();
        let mut memory = self.memory.write();
        for (path, read) in std::mem::take(&mut reading.secrets) {
            // What this process has heard itself is newer.
            if memory.get(&path).is_some_and(|entry| entry.is_described) {
                continue;
            }
            let mut entry = Entry::of(sighted(path.clone()));
            if read.is_described {
                let before = Before { secret: None, exact: &[] };
                match merged(&path, &before, &read.said, None, now, &mut numbers) {
                    Ok(merged) => entry.secret = merged.secret.into(),
                    Err(fault) => {
                        tracing::warn!(%fault, "a secret that was left could not be numbered");
                        continue;
                    }
                }
                entry.exact = read.exact;
            }
            entry.is_described = read.is_described;
            entry.is_numbered = read.is_numbered;
            entry.reader.clone_from(&read.reader);
            if read.reader.is_some() {
                entry.used_us.store(now_us, Ordering::Relaxed);
            }
            memory.secrets.insert(path, entry);
        }
        let bytes_max = self.options.value_cache_bytes_max;
        for (path, held) in reading.values_at(self.options.clocks.mark()) {
            let is_ours = memory.get(&path).is_some_and(|entry| {
                let is_readable = crate::store::readable::readable(&entry.secret, held.version).is_ok();
                is_readable && !entry.secret.deleted && entry.held(&held.login, held.version).is_none()
            });
            if is_ours {
                let reader = memory.get(&path).and_then(|entry| entry.reader.clone());
                memory.keep(&path, held, bytes_max);
                if let Some(entry) = memory.secrets.get_mut(&path) {
                    entry.reader = reader;
                }
            }
        }
    }

    /// Writes down how late it is: from here on the boot clock tells how much older everything becomes.
    pub(super) fn begin_line(&self) {
        self.note_in_cache(super::cache_file::Cache::tick);
    }

    /// Writes down how late it is, and has all that was noted survive a loss of power.
    pub fn close(&self) {
        if let Some(cache) = &self.cache {
            let mut cache = cache.lock();
            cache.tick(&self.options.clocks.mark());
            cache.sync();
        }
    }
}
