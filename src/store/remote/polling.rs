//! Asking about secrets that are in use, before anybody asks for them: how often, how many, and what comes of it.

use std::sync::atomic::Ordering;
use std::time::Duration;

use super::Remote;
use super::held::{Entry, Memory};
use super::verdict::Saying;
use crate::model::SecretPath;
use crate::store::sealed::fill_random;
use crate::store::{Answer, Login, StoreFault};

/// Requests that may be made at once after a time without any.
const BURST: f64 = 10.0;
/// Of the polls, the part that goes to secrets that were not read for long.
const IDLE_SHARE: f64 = 0.2;
/// Of the requests that nobody waits for, one in so many goes to secrets that somebody looked at, if polls are due too.
const LOOKS_TURN: u64 = 5;
/// Secrets that were looked at and not asked about yet, at most.
const LOOKS_MAX: usize = 1024;
/// How long what was said of a secret is good enough for whoever looks at it.
const LOOK_AGAIN: Duration = Duration::from_secs(60);
/// Times by which the interval of a secret that cannot be described is doubled at most.
const DOUBLINGS_MAX: u32 = 6;

pub(super) fn micros(span: Duration) -> i64 {
    i64::try_from(span.as_micros()).unwrap_or(i64::MAX)
}

/// How many requests there may be.
pub(super) struct Budget {
    per_us: f64,
    left: f64,
    filled_us: i64,
    taken: u64,
}

impl Budget {
    pub(super) fn new(per_minute: u32, now_us: i64) -> Self {
        Self { per_us: f64::from(per_minute.max(1)) / 60_000_000.0, left: BURST, filled_us: now_us, taken: 0 }
    }

    pub(super) fn fill(&mut self, now_us: i64) {
        let since = now_us.saturating_sub(self.filled_us).max(0) as f64;
        self.left = (self.left + since * self.per_us).min(BURST);
        self.filled_us = now_us;
    }

    pub(super) fn take(&mut self) -> bool {
        let is_left = self.left >= 1.0;
        if is_left {
            self.left -= 1.0;
            self.taken += 1;
        }
        is_left
    }

    /// Whether the next request is that of somebody who looked at a secret, before those that are due.
    pub(super) const fn is_turn_of_looks(&self) -> bool {
        self.taken.is_multiple_of(LOOKS_TURN)
    }
}

/// How often a secret is asked about: `in_use` and `idle` are how many there are.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Intervals {
    pub(super) in_use_us: f64,
    pub(super) idle_us: f64,
}

impl Intervals {
    pub(super) fn of(in_use: usize, idle: usize, per_minute: u32, every_min: Duration) -> Self {
        let per_us = f64::from(per_minute.max(1)) / 60_000_000.0;
        let (of_used, of_idle) = match (in_use, idle) {
            (_, 0) => (1.0, 0.0),
            (0, _) => (0.0, 1.0),
            _ => (1.0 - IDLE_SHARE, IDLE_SHARE),
        };
        let least = every_min.as_micros() as f64;
        let spread = |count: usize, share: f64| {
            if count == 0 { least } else { (count as f64 / (per_us * share)).max(least) }
        };
        Self { in_use_us: spread(in_use, of_used), idle_us: spread(idle, of_idle).max(10.0 * least) }
    }
}

/// Between 0.9 and 1: secrets that were read in one moment are not asked about in one.
pub(super) fn jitter() -> f64 {
    let mut byte = [0];
    if fill_random(&mut byte).is_err() {
        return 1.0;
    }
    1.0 - f64::from(byte[0]) / 2560.0
}

/// The secrets that are to be asked about now, the one that waited longest first, and when the next one is.
pub(super) fn due(
    memory: &Memory,
    intervals: Intervals,
    in_use_for: Duration,
    now_us: i64,
) -> (Vec<SecretPath>, i64) {
    let mut due = Vec::new();
    let mut next_us = i64::MAX;
    for (path, entry) in memory.secrets.iter().filter(|(_, entry)| entry.was_used()) {
        let interval =
            if is_in_use(entry, in_use_for, now_us) { intervals.in_use_us } else { intervals.idle_us };
        let doubled = interval * f64::from(1_u32 << entry.failures.min(DOUBLINGS_MAX));
        let at_us = entry.polled_us.saturating_add(doubled as i64);
        if at_us <= now_us {
            due.push((at_us, path.clone()));
        } else {
            next_us = next_us.min(at_us);
        }
    }
    due.sort();
    (due.into_iter().map(|(_, path)| path).collect(), next_us)
}

pub(super) fn is_in_use(entry: &Entry, in_use_for: Duration, now_us: i64) -> bool {
    now_us.saturating_sub(entry.used_us.load(Ordering::Relaxed)) < micros(in_use_for)
}

impl Remote {
    /// Remembers that somebody looked at a secret of which the engine said nothing lately.
    pub(super) fn remember_look(&self, path: &SecretPath) {
        let now_us = self.now_us();
        let memory = self.memory.read();
        let Some(entry) = memory.get(path) else { return };
        let looked_us = entry.looked_us.load(Ordering::Relaxed);
        if entry.described_within(LOOK_AGAIN, now_us) || now_us.saturating_sub(looked_us) < micros(LOOK_AGAIN)
        {
            return;
        }
        let mut looked_at = self.looked_at.lock();
        if looked_at.len() < LOOKS_MAX {
            entry.looked_us.store(now_us, Ordering::Relaxed);
            looked_at.push_back(path.clone());
            drop(looked_at);
            self.wake.notify_one();
        }
    }

    /// Asks about a secret that somebody looked at. Its value is not asked for; of one without versions nothing else could
    /// be said.
    pub(super) async fn describe_looked_at(&self, path: &SecretPath) {
        let machine = Login::machine();
        let asked = self.next_asked();
        let said = match self.ask(self.source.describe(&machine, path)).await {
            Ok(Answer { content: Some(said), .. }) if said.versions.is_empty() => return,
            Ok(Answer { content, .. }) => content,
            Err(fault) if Saying::of(&fault) == Saying::Gone => None,
            Err(fault) => return tracing::debug!(store = &*self.name, %path, %fault, "not described"),
        };
        if let Err(fault) = self.learn_description(path, asked, said, Some(machine)) {
            tracing::debug!(store = &*self.name, %path, %fault, "not described");
        }
    }

    /// Asks about one secret in use. A new version is read before anybody hears of it, so that its names and lengths are
    /// known when it comes into force.
    pub(super) async fn poll(&self, path: &SecretPath) {
        let (reader, describer, is_numbered, epoch) = {
            let memory = self.memory.read();
            let Some(entry) = memory.get(path) else { return };
            (entry.reader.clone(), entry.describer.clone(), entry.is_numbered, entry.epoch)
        };
        // Nothing is asked under a login that nobody uses any more.
        let reader = reader.filter(|reader| self.is_used(reader));
        let describer = describer.filter(|login| self.is_used(login)).unwrap_or_else(Login::machine);
        let outcome = if let (false, Some(reader)) = (is_numbered, &reader) {
            self.read_version(reader, path, None, epoch).await.map(drop)
        } else {
            self.poll_numbered(path, &describer, reader.as_ref()).await
        };
        let mut memory = self.memory.write();
        if let Some(entry) = memory.secrets.get_mut(path) {
            match outcome {
                Ok(()) => entry.failures = 0,
                // No fault of the secret.
                Err(fault) if Saying::is_outage(&fault) => {}
                Err(_) => entry.failures = entry.failures.saturating_add(1),
            }
        }
    }

    async fn poll_numbered(
        &self,
        path: &SecretPath,
        describer: &Login,
        reader: Option<&Login>,
    ) -> Result<(), StoreFault> {
        let asked = self.next_asked();
        let said = match self.ask(self.source.describe(describer, path)).await {
            Ok(Answer { content, .. }) => content,
            Err(fault) if Saying::of(&fault) == Saying::Gone => None,
            // Another login may have the right, and one without versions is read as a whole.
            Err(fault) if Saying::of(&fault) == Saying::Refused => {
                return self.describe(reader.unwrap_or(describer), path, true).await;
            }
            Err(fault) => return Err(fault),
        };
        let new = said.as_ref().and_then(|said| said.current).filter(|current| {
            let memory = self.memory.read();
            memory.get(path).is_some_and(|entry| {
                entry.secret.current != Some(*current) && entry.secret.version(*current).is_none()
            })
        });
        if let (Some(new), Some(reader), Some(said)) = (new, reader, &said) {
            self.learn_ahead(path, reader, new, (asked, said)).await;
        }
        self.learn_description(path, asked, said, Some(describer.clone()))
    }
}

#[cfg(test)]
mod tests {
    use super::super::held::sighted;
    use super::*;

    const MINUTE_US: i64 = 60_000_000;

    /// How many requests polling makes in a minute, and how late the latest notice of a change is, in microseconds.
    fn simulate(in_use: usize, idle: usize, per_minute: u32) -> (usize, i64) {
        let mut memory = Memory::default();
        for number in 0..in_use + idle {
            let path = SecretPath::parse(&format!("s{number}")).unwrap();
            let mut entry = Entry::of(sighted(path.clone()));
            let used_us = if number < in_use { 0 } else { -2 * 3_600_000_000 };
            entry.used_us.store(used_us, Ordering::Relaxed);
            entry.polled_us = 0;
            memory.secrets.insert(path, entry);
        }
        let mut budget = Budget::new(per_minute, 0);
        let intervals = Intervals::of(in_use, idle, per_minute, Duration::from_secs(1));
        let (mut requests, mut worst) = (0, 0);
        for now_us in (0..3 * MINUTE_US).step_by(20_000) {
            budget.fill(now_us);
            let (due, _) = due(&memory, intervals, Duration::from_secs(3600), now_us);
            for path in due {
                if !budget.take() {
                    break;
                }
                let entry = memory.secrets.get_mut(&path).unwrap();
                if entry.used_us.load(Ordering::Relaxed) == 0 && now_us > MINUTE_US {
                    worst = worst.max(now_us - entry.polled_us);
                }
                entry.polled_us = now_us - (100_000.0 * jitter()) as i64;
                requests += usize::from(now_us >= 2 * MINUTE_US);
            }
        }
        (requests, worst)
    }

    #[test]
    fn a_new_version_is_seen_in_2_s_with_10_secrets_in_use_and_in_10_s_with_50_within_the_budget() {
        for (in_use, idle, within_s) in [(1, 0, 2), (10, 0, 2), (10, 500, 2), (50, 0, 10), (50, 1_000, 10)] {
            let (requests, worst) = simulate(in_use, idle, 450);
            assert!(worst <= within_s * 1_000_000, "{in_use} and {idle}: {worst} µs");
            assert!(requests <= 460, "{in_use} and {idle}: {requests} a minute");
        }
        let (requests, _) = simulate(1_000, 0, 450);
        assert!(requests <= 460, "{requests}");
        assert_eq!(simulate(0, 0, 450).0, 0);
    }
}
