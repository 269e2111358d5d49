//! The sealed cache on disk: what a machine that boots in an outage goes on with. Each value is added as it is given, and
//! each that may not be given any more is taken out before anybody hears so.

use std::collections::HashMap;
use std::time::Duration;

use super::clocks::Mark;
use super::held::{Held, Memory};
use super::options::CacheFile;
use super::record::{self, Reading, Record};
use crate::model::{SecretPath, Version};
use crate::store::sealed::SealedLog;
use crate::store::{Login, StoreFault};

/// How often a value that is given again and again is noted as vouched for: what a reboot takes from its grace at most.
const VOUCH_EVERY_US: i64 = 60_000_000;
/// The file is written anew when it is twice as long as it was after the last time, and this much.
const SLACK_BYTES: u64 = 256 * 1024;

/// The open file.
pub(super) struct Cache {
    log: SealedLog,
    path: std::path::PathBuf,
    bytes_max: u64,
    /// How long it was when it was last written whole.
    compact_bytes: u64,
    /// When each value was last noted as vouched for, by the boot clock.
    noted_us: HashMap<(SecretPath, Login, Version), i64>,
    /// Whether it failed in a way that it may not be used after.
    is_given_up: bool,
}

impl Cache {
    /// Opens the file, and reads what it holds. Where neither it nor its key's file is there, both are made.
    pub(super) fn open(file: &CacheFile, wait: Duration, reading: &mut Reading) -> Result<Self, StoreFault> {
        let key = file.key.read_or_make_for(&file.path)?;
        let mut is_readable = true;
        let (log, found) = SealedLog::open(&file.path, key, b"credfs remote cache 1", wait, &mut |bytes| {
            is_readable &= reading.read(bytes).is_some();
        })?;
        if found.is_damaged || !is_readable {
            // What came after the damage may have been a refusal: nothing of it can be given.
            tracing::warn!(file = %file.path.display(), "the cache is damaged, and begun anew");
            *reading = Reading::default();
        }
        let mut cache = Self {
            compact_bytes: log.bytes(),
            log,
            path: file.path.clone(),
            bytes_max: file.bytes_max,
            noted_us: HashMap::new(),
            is_given_up: false,
        };
        if found.is_damaged || !is_readable {
            cache.log.replace(&mut std::iter::empty())?;
        }
        Ok(cache)
    }

    /// Notes what is known of a secret.
    pub(super) fn note_secret(&mut self, record: &Record) {
        self.add(record, false);
    }

    /// Notes a value that was given anew.
    pub(super) fn note_value(&mut self, mark: &Mark, path: &SecretPath, held: &Held) {
        let key = (path.clone(), held.login.clone(), held.version);
        let is_due = self.noted_us.get(&key).is_none_or(|noted| held.vouched_us - noted >= VOUCH_EVERY_US);
        if !is_due {
            return;
        }
        let record = match self.noted_us.insert(key, held.vouched_us) {
            None => record::of_value(mark, path, held),
            Some(_) => record::of_vouched(mark, path, held),
        };
        self.add(&record, false);
    }

    /// Takes values out, for good: a loss of power does not bring them back.
    pub(super) fn note_dropped(
        &mut self,
        mark: &Mark,
        login: Option<&Login>,
        path: &SecretPath,
        version: Option<Version>,
    ) {
        self.noted_us.retain(|(at, of, number), _| {
            at != path
                || login.is_some_and(|login| login != of)
                || version.is_some_and(|version| version != *number)
        });
        self.add(&record::of_dropped(mark, login, path, version), true);
    }

    /// Takes a secret out, for good.
    pub(super) fn note_gone(&mut self, mark: &Mark, path: &SecretPath) {
        self.noted_us.retain(|(at, ..), _| at != path);
        self.add(&record::of_gone(mark, path), true);
    }

    /// Notes how late it is.
    pub(super) fn tick(&mut self, mark: &Mark) {
        self.add(&record::of_tick(mark), false);
    }

    fn add(&mut self, record: &Record, is_durable: bool) {
        if self.is_given_up || (self.log.bytes() >= self.bytes_max && !is_durable) {
            return;
        }
        let Err(fault) = self.log.add(record, is_durable) else { return };
        tracing::warn!(%fault, "the cache on disk cannot be written");
        // A value of which it cannot be said that it was refused must not be found after a reboot.
        if is_durable {
            self.give_up();
        }
    }

    fn give_up(&mut self) {
        self.is_given_up = true;
        if self.log.replace(&mut std::iter::empty()).is_err()
            && let Err(error) = std::fs::remove_file(&self.path)
        {
            tracing::error!(file = %self.path.display(), %error, "the cache on disk can neither be written nor removed");
        }
    }

    /// Writes the file anew where it has become too long for what it says.
    pub(super) fn shorten(&mut self, mark: &Mark, memory: &Memory) {
        let is_long =
            self.log.bytes() > 2 * self.compact_bytes + SLACK_BYTES || self.log.bytes() >= self.bytes_max;
        if self.is_given_up || !is_long {
            return;
        }
        let records = records(mark, memory, self.bytes_max);
        match self.log.replace(&mut records.into_iter()) {
            Ok(()) => {
                self.noted_us.clear();
                for (path, entry) in &memory.secrets {
                    self.noted_us.extend(
                        entry
                            .values
                            .iter()
                            .map(|held| ((path.clone(), held.login.clone(), held.version), held.vouched_us)),
                    );
                }
                self.compact_bytes = self.log.bytes();
            }
            Err(fault) => {
                tracing::warn!(%fault, "the cache on disk could not be written anew");
                self.compact_bytes = self.log.bytes();
            }
        }
    }

    /// Has all of it survive a loss of power.
    pub(super) fn sync(&self) {
        if let Err(fault) = self.log.sync() {
            tracing::warn!(%fault, "the cache on disk could not be synced");
        }
    }
}

/// Everything that is remembered, within about `bytes_max`: what is known first, then values, the latest given first.
pub(super) fn records(mark: &Mark, memory: &Memory, bytes_max: u64) -> Vec<Record> {
    let mut records = Vec::new();
    let mut bytes = 0;
    let mut add = |record: Record| {
        bytes += record.len() as u64 + 64;
        if bytes <= bytes_max {
            records.push(record);
        }
    };
    let mut values: Vec<(i64, &SecretPath, &Held)> = Vec::new();
    for (path, entry) in &memory.secrets {
        add(record::of_secret(mark, entry));
        values.extend(
            entry
                .values
                .iter()
                .map(|held| (held.used_us.load(std::sync::atomic::Ordering::Relaxed), path, held)),
        );
    }
    values.sort_by_key(|(used_us, ..)| std::cmp::Reverse(*used_us));
    for (_, path, held) in values {
        add(record::of_value(mark, path, held));
    }
    records
}
