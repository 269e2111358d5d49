//! Changes go to the engine, and are in force when it has acknowledged them: what was acknowledged is what the next open
//! sees.

use std::sync::Arc;

use super::Remote;
use super::learning::{News, next_number};
use super::merge::{self, Fields};
use super::numbers::Content;
use crate::model::{FieldName, SecretPath, Version};
use crate::store::change::{check_count, check_count_max, check_put};
use crate::store::{Answer, Change, Changed, Login, Made, StoreFault};

/// How many times longer than a read a change may take: it may be several requests of its engine.
const CHANGE_TIMES: u32 = 4;

/// Whatever becomes of a change: what was known of the secret before it is not taken for true after it.
struct Unsettled<'a> {
    remote: &'a Remote,
    path: &'a SecretPath,
    is_settled: bool,
}

impl Drop for Unsettled<'_> {
    fn drop(&mut self) {
        if self.is_settled {
            return;
        }
        let _order = self.remote.order.lock();
        let mut memory = self.remote.memory.write();
        if let Some(entry) = memory.secrets.get_mut(self.path) {
            entry.epoch += 1;
            entry.described_us = i64::MIN;
            entry.polled_us = i64::MIN;
        }
        drop(memory);
        self.remote.wake.notify_one();
    }
}

impl Remote {
    pub(super) async fn make(&self, login: &Login, change: Change) -> Result<Changed, StoreFault> {
        let path = change.secret().clone();
        let given = given_of(&change, &path)?;
        self.breaker.admit(self.now_us(), self.is_watched.load(std::sync::atomic::Ordering::Acquire))?;
        let mut unsettled = Unsettled { remote: self, path: &path, is_settled: false };
        self.requests.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let making = self.source.change(login, change);
        let answer = tokio::time::timeout(self.options.answer_within * CHANGE_TIMES, making)
            .await
            .unwrap_or_else(|_| Err(StoreFault::Timeout.into()));
        self.tell_breaker(answer.as_ref().err(), false);
        let Answer { content: made, .. } = answer.map_err(|fault| fault.fault)?;
        let changed = self.put_in_force(&path, given, made)?;
        unsettled.is_settled = true;
        Ok(changed)
    }

    fn put_in_force(
        &self,
        path: &SecretPath,
        given: Option<Fields>,
        made: Made,
    ) -> Result<Changed, StoreFault> {
        let order = self.order.lock();
        let Made { version, carried, description } = made;
        let is_numbered = description.as_ref().is_none_or(|said| !said.versions.is_empty());
        let is_put = given.is_some();
        let (version, description) = match (is_numbered, is_put, description) {
            (false, true, Some(said)) => {
                let content = self.renumber(path)?;
                (Some(content.current.0), Some(merge::numbered(&content, &said)))
            }
            (false, false, Some(said)) => (version, Some(self.with_numbers(path, said))),
            (_, _, said) => (version, said),
        };
        let fields = given.map(|given| self.with_carried(path, given, &carried));
        let learned = version.zip(fields.as_ref());
        {
            let mut memory = self.memory.write();
            if let Some(entry) = memory.secrets.get_mut(path) {
                entry.epoch += 1;
                entry.polled_us = self.now_us();
            }
            // What its engine held before is not there any more.
            if !is_numbered {
                memory.drop_where(path, |held| Some(held.version) == version);
            }
        }
        let asked = self.next_asked();
        let news = News { asked, said: description, describer: None, learned, is_numbered };
        let learned = self.learn(&order, path, news)?;
        {
            let now_us = self.now_us();
            let mut memory = self.memory.write();
            if let Some(entry) = memory.secrets.get_mut(path) {
                entry.described_us = now_us;
            }
        }
        let (before, after) = (learned.before, learned.after);
        let changed = Changed { store: Arc::clone(&self.name), before, after, version, carried };
        for watcher in self.watchers.read().iter() {
            watcher(&changed);
        }
        Ok(changed)
    }

    /// A new number for what an engine that numbers nothing was just given.
    fn renumber(&self, path: &SecretPath) -> Result<Content, StoreFault> {
        let now = (self.options.clocks.wall)();
        let mut numbers = self.numbers.write();
        let known = numbers.content(path);
        // What was destroyed is nobody's previous version; numbers go on from it all the same.
        let is_there = self.memory.read().get(path).is_some();
        let first = Version::new(1).ok_or_else(|| StoreFault::Invalid("no first version".into()))?;
        let number = known.map_or(Ok(first), |known| next_number(known.current.0))?;
        let previous = known.filter(|_| is_there).map(|known| known.current);
        let content = Content { current: (number, now), fingerprint: None, previous };
        numbers.set_content(path, content)?;
        Ok(content)
    }

    /// All fields of what was put: those given, and those carried over, as long as they were.
    fn with_carried(&self, path: &SecretPath, mut fields: Fields, carried: &[FieldName]) -> Fields {
        let memory = self.memory.read();
        let secret = memory.get(path).map(|entry| &entry.secret);
        for name in carried {
            // From the version that was staged, or else from the current one: where both say the same length it is that.
            let lengths = secret.into_iter().flat_map(|secret| {
                [secret.next, secret.current]
                    .into_iter()
                    .flatten()
                    .filter_map(|number| secret.version(number)?.field(name)?.bytes)
            });
            let mut lengths: Vec<u64> = lengths.collect();
            lengths.dedup();
            let bytes = match lengths[..] {
                [bytes] => Some(bytes),
                _ => None,
            };
            fields.push((name.clone(), bytes));
        }
        fields.sort();
        fields
    }
}

/// The fields that are put, checked before the engine hears of them; `None` for another change.
fn given_of(change: &Change, path: &SecretPath) -> Result<Option<Fields>, StoreFault> {
    let Change::Put { fields, stage, only, .. } = change else { return Ok(None) };
    let (lengths, _) = check_put(fields, *stage)?;
    // Without a field of its own a version has those that are carried over.
    if *only {
        check_count(path, lengths.len())?
    } else {
        check_count_max(lengths.len())?
    }
    Ok(Some(lengths.into_iter().map(|(name, bytes)| (name, Some(bytes))).collect()))
}
