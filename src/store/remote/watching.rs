//! Requests that nobody waits for: secrets in use are asked about, names are listed, an engine that is away is probed. All
//! within a number of requests per minute, no two at the same moment, and none of it at once after a start.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::task::JoinSet;

use super::Remote;
use super::polling::{Budget, Intervals, due, is_in_use, jitter, micros};
use crate::model::SecretPath;
use crate::store::StoreFault;

/// How long an engine may go unasked before it is probed, so that `status` tells the truth.
const SILENCE_MAX_US: i64 = 10_000_000;
/// Polls under way at once.
const POLLS_MAX: usize = 4;
/// How often the time is written into the cache on disk.
const TICK_EVERY_US: i64 = 60_000_000;

/// Says that the engine is watched for as long as it lives.
struct Watching<'a>(&'a Remote);

impl Drop for Watching<'_> {
    fn drop(&mut self) {
        self.0.is_watched.store(false, Ordering::Release);
    }
}

impl Remote {
    /// Watches the engine until it is dropped.
    pub async fn watch_over(self: Arc<Self>) {
        self.is_watched.store(true, Ordering::Release);
        let _watching = Watching(&self);
        self.begin_spread();
        let mut budget = Budget::new(self.options.requests_per_minute_max, self.now_us());
        let mut polls = JoinSet::new();
        let (mut listed_us, mut ticked_us) = (None::<i64>, self.now_us());
        self.probe_once().await;
        loop {
            while polls.try_join_next().is_some() {}
            self.look_at_users();
            let now_us = self.now_us();
            budget.fill(now_us);
            if now_us - ticked_us >= TICK_EVERY_US {
                ticked_us = now_us;
                self.tick();
            }
            let wait_us = match self.breaker.try_at_us() {
                Some(try_at_us) if try_at_us <= now_us => {
                    self.probe_once().await;
                    continue;
                }
                Some(try_at_us) => try_at_us - now_us,
                // One request had no answer: a probe tells whether others will, so that they need not find out one by one.
                None if self.breaker.is_doubted() && budget.take() => {
                    self.probe_once().await;
                    continue;
                }
                None => {
                    let is_silent =
                        self.breaker.answered_us().is_none_or(|answered| now_us - answered >= SILENCE_MAX_US);
                    if is_silent && budget.take() {
                        self.probe_once().await;
                        continue;
                    }
                    let list_every_us = (micros(self.options.list_every) as f64 * jitter()) as i64;
                    if listed_us.is_none_or(|listed| now_us - listed >= list_every_us) {
                        listed_us = Some(now_us);
                        let mut folders = self.folders.lock();
                        if !folders.iter().any(|folder| folder.is_empty()) {
                            folders.push_back("".into());
                        }
                    }
                    self.begin_polls(&mut budget, &mut polls, now_us).await
                }
            };
            let wait =
                Duration::from_micros(u64::try_from(wait_us.clamp(1_000, 1_000_000)).unwrap_or(1_000_000));
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                () = self.wake.notified() => {}
                Some(_) = polls.join_next(), if !polls.is_empty() => {}
            }
        }
    }

    /// After a start: what was in use before is asked about one by one, spread over its interval.
    fn begin_spread(&self) {
        let now_us = self.now_us();
        let mut memory = self.memory.write();
        let used = memory.secrets.values().filter(|entry| entry.was_used()).count();
        let intervals =
            Intervals::of(used, 0, self.options.requests_per_minute_max, self.options.poll_every_min);
        let step = intervals.in_use_us / used.max(1) as f64;
        let all = memory.secrets.values_mut().filter(|entry| entry.was_used());
        for (at, entry) in all.enumerate() {
            entry.polled_us = now_us.saturating_sub((intervals.in_use_us - step * at as f64) as i64);
        }
    }

    fn tick(&self) {
        let mark = self.options.clocks.mark();
        if let Some(cache) = &self.cache {
            let mut cache = cache.lock();
            cache.tick(&mark);
            cache.shorten(&mark, &self.memory.read());
        }
    }

    /// Probes the engine. While it says nothing another probe is sent each `probe_every`: one that was swallowed by a black
    /// hole does not put off the first answer after it, and one that is merely slow counts all the same.
    pub(super) async fn probe_once(&self) {
        let mut probes = JoinSet::new();
        let probing = async {
            loop {
                self.requests.fetch_add(1, Ordering::Relaxed);
                let source = Arc::clone(&self.source);
                probes.spawn(async move { source.probe().await });
                tokio::select! {
                    Some(Ok(probed)) = probes.join_next() => return probed,
                    () = tokio::time::sleep(self.options.probe_every) => {}
                }
            }
        };
        let probed = tokio::time::timeout(self.options.answer_within, probing).await;
        let probed = probed.unwrap_or_else(|_| Err(StoreFault::Timeout.into()));
        self.tell_breaker(probed.as_ref().err(), true);
    }

    /// A secret's next interval begins now, give or take. `false`: it is not known any more.
    fn begin_interval(&self, path: &SecretPath, now_us: i64) -> bool {
        let spread = self.options.poll_every_min.as_micros() as f64 * (1.0 - jitter());
        let mut memory = self.memory.write();
        let entry = memory.secrets.get_mut(path);
        entry.map(|entry| entry.polled_us = now_us.saturating_sub(spread as i64)).is_some()
    }

    /// Begins what is due and may be begun; returns for how long nothing is.
    async fn begin_polls(self: &Arc<Self>, budget: &mut Budget, polls: &mut JoinSet<()>, now_us: i64) -> i64 {
        let in_use_for = self.options.in_use_for;
        let (due, next_us) = {
            let memory = self.memory.read();
            let used = memory.secrets.values().filter(|entry| entry.was_used());
            let (in_use, idle): (Vec<_>, Vec<_>) =
                used.partition(|entry| is_in_use(entry, in_use_for, now_us));
            let (per_minute, every) = (self.options.requests_per_minute_max, self.options.poll_every_min);
            due(&memory, Intervals::of(in_use.len(), idle.len(), per_minute, every), in_use_for, now_us)
        };
        let is_any_due = !due.is_empty();
        let mut due = due.into_iter();
        loop {
            let is_looks_turn = budget.is_turn_of_looks() || due.len() == 0;
            let looked_at = is_looks_turn.then(|| self.looked_at.lock().pop_front()).flatten();
            let Some((path, is_look)) =
                looked_at.map(|path| (path, true)).or_else(|| Some((due.next()?, false)))
            else {
                break;
            };
            if polls.len() >= POLLS_MAX || !budget.take() {
                if is_look {
                    self.looked_at.lock().push_front(path);
                }
                // Soon again: a poll ends, or the budget fills.
                return 50_000;
            }
            let remote = Arc::clone(self);
            if is_look {
                polls.spawn(async move { remote.describe_looked_at(&path).await });
            } else if self.begin_interval(&path, now_us) {
                polls.spawn(async move { remote.poll(&path).await });
            }
        }
        if !is_any_due && polls.len() < POLLS_MAX && !self.folders.lock().is_empty() && budget.take() {
            let folder = self.folders.lock().pop_front();
            if let Some(folder) = folder {
                let remote = Arc::clone(self);
                polls.spawn(async move { remote.list_deep(&folder).await });
                return 1_000;
            }
        }
        next_us.saturating_sub(now_us)
    }
}
