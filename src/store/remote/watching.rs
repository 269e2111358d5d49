//! Requests that nobody waits for: secrets in use are asked about, names are listed, an engine that is away is probed. All
//! within a number of requests per minute, no two at the same moment, and none of it at once after a start.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::task::JoinSet;

use super::Remote;
use super::held::{DEPTH_MAX, Entry, Memory, sighted, within};
use super::verdict::Saying;
use crate::model::SecretPath;
use crate::store::sealed::fill_random;
use crate::store::{Answer, Child, Login, StoreFault};

/// How long an engine may go unasked before it is probed, so that `status` tells the truth.
const SILENCE_MAX_US: i64 = 10_000_000;
/// Requests that may be made at once after a time without any.
const BURST: f64 = 10.0;
/// Polls under way at once.
const POLLS_MAX: usize = 4;
/// Of the polls, the part that goes to secrets that were not read for long.
const IDLE_SHARE: f64 = 0.2;
/// Times by which the interval of a secret that cannot be described is doubled at most.
const DOUBLINGS_MAX: u32 = 6;
/// How often the time is written into the cache on disk.
const TICK_EVERY_US: i64 = 60_000_000;

fn micros(span: Duration) -> i64 {
    i64::try_from(span.as_micros()).unwrap_or(i64::MAX)
}

/// How many requests there may be.
pub(super) struct Budget {
    per_us: f64,
    left: f64,
    filled_us: i64,
}

impl Budget {
    pub(super) fn new(per_minute: u32, now_us: i64) -> Self {
        Self { per_us: f64::from(per_minute.max(1)) / 60_000_000.0, left: BURST, filled_us: now_us }
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
        }
        is_left
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
fn jitter() -> f64 {
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

fn is_in_use(entry: &Entry, in_use_for: Duration, now_us: i64) -> bool {
    now_us.saturating_sub(entry.used_us.load(Ordering::Relaxed)) < micros(in_use_for)
}

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

    async fn probe_once(&self) {
        self.requests.fetch_add(1, Ordering::Relaxed);
        let probed = tokio::time::timeout(self.options.answer_within, self.source.probe()).await;
        let probed = probed.unwrap_or_else(|_| Err(StoreFault::Timeout.into()));
        self.tell_breaker(probed.as_ref().err(), true);
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
        for path in due {
            if polls.len() >= POLLS_MAX || !budget.take() {
                // Soon again: a poll ends, or the budget fills.
                return 50_000;
            }
            {
                let mut memory = self.memory.write();
                let Some(entry) = memory.secrets.get_mut(&path) else { continue };
                let spread = self.options.poll_every_min.as_micros() as f64 * (1.0 - jitter());
                entry.polled_us = now_us.saturating_sub(spread as i64);
            }
            let remote = Arc::clone(self);
            polls.spawn(async move { remote.poll(&path).await });
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

    /// Asks about one secret in use. A new version is read before anybody hears of it, so that its names and lengths are
    /// known when it comes into force.
    async fn poll(&self, path: &SecretPath) {
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

    async fn list_deep(&self, folder: &str) {
        // What the listing finds below goes to the end of the queue.
        let listed = self.list_now(&Login::machine(), folder).await;
        match listed {
            Ok(below) if folder.matches('/').count() < DEPTH_MAX => self.folders.lock().extend(below),
            Ok(_) => {}
            Err(fault) => tracing::debug!(store = &*self.name, folder, %fault, "not listed"),
        }
    }

    /// Lists a folder, and those in it, until something new is known below it or there is nothing more to list. A folder
    /// in it that may not be listed has nothing to show.
    pub(super) async fn look_below(&self, login: &Login, folder: &str) -> Result<(), StoreFault> {
        let below = within(folder);
        let count = || self.memory.read().beginning_with(&below).count();
        let known = count();
        let mut since_us = self.absent_since_us();
        loop {
            let Some(next) = self.memory.read().unlisted(folder, since_us) else { return Ok(()) };
            match self.list(login, &next).await {
                Err(fault) if *next != *folder && Saying::of(&fault) == Saying::Refused => {
                    self.memory.write().note_listed(&next, &[], self.now_us());
                }
                listed => listed?,
            }
            if count() > known {
                return Ok(());
            }
            // One that took long is not begun again.
            since_us = i64::MIN;
        }
    }

    /// Lists one folder, or waits for whoever lists it already.
    pub(super) async fn list(&self, login: &Login, folder: &str) -> Result<(), StoreFault> {
        let listing = async {
            match self.list_now(&Login::machine(), folder).await {
                Err(fault) if Saying::of(&fault) == Saying::Refused && *login != Login::machine() => {
                    self.list_now(login, folder).await.map(drop)
                }
                Err(fault) if Saying::of(&fault) == Saying::Gone => Ok(()),
                listed => listed.map(drop),
            }
        };
        self.listings.join(folder.into(), listing).await
    }

    /// Lists one folder; returns the folders in it.
    async fn list_now(&self, login: &Login, folder: &str) -> Result<Vec<Box<str>>, StoreFault> {
        let asked = self.next_asked();
        let children = match self.ask(self.source.list(login, folder)).await {
            Ok(answer) => answer.content,
            Err(fault) if Saying::of(&fault) == Saying::Gone => Vec::new(),
            Err(fault) => return Err(fault),
        };
        Ok(self.hear_listing(folder, asked, children))
    }

    fn hear_listing(&self, folder: &str, asked: u64, children: Vec<Child>) -> Vec<Box<str>> {
        let _order = self.order.lock();
        let join = |name: &str| if folder.is_empty() { name.to_owned() } else { format!("{folder}/{name}") };
        let mut folders = Vec::new();
        let mut names = std::collections::BTreeSet::new();
        for child in children {
            let path = join(&child.name);
            if child.is_folder {
                folders.push(path.into_boxed_str());
            } else if let Ok(path) = SecretPath::from_store(&path) {
                names.insert(path);
            } else {
                tracing::debug!(store = &*self.name, folder, "a name that no path can have is left out");
            }
        }
        let mut memory = self.memory.write();
        memory.note_listed(folder, &folders, self.now_us());
        // What is listed no more, and was known by its name alone, is not there; of more the engine is asked.
        let below = within(folder);
        let missing: Vec<SecretPath> = memory
            .beginning_with(&below)
            .filter(|(path, entry)| {
                !path.as_str()[below.len()..].contains('/') && !names.contains(*path) && entry.asked < asked
            })
            .map(|(path, _)| path.clone())
            .collect();
        for path in missing {
            if memory.get(&path).is_some_and(|entry| !entry.is_described) {
                memory.secrets.remove(&path);
            } else if let Some(entry) = memory.secrets.get_mut(&path) {
                entry.polled_us = i64::MIN;
            }
        }
        for path in names {
            if memory.get(&path).is_none() && !memory.removed_after(&path, asked) {
                memory.secrets.insert(path.clone(), Entry::of(sighted(path)));
            }
        }
        folders
    }

    /// Asks again about one secret, or about all.
    pub(super) async fn ask_again(
        &self,
        login: &Login,
        path: Option<&SecretPath>,
    ) -> Result<usize, StoreFault> {
        if self.breaker.is_open() {
            self.probe_once().await;
        }
        if let Some(path) = path {
            self.describe(login, path, false).await?;
            return Ok(usize::from(self.memory.read().get(path).is_some()));
        }
        let mut folders = vec![Box::<str>::from("")];
        while let Some(folder) = folders.pop() {
            match self.list_now(login, &folder).await {
                Ok(below) if folder.matches('/').count() < DEPTH_MAX => folders.extend(below),
                Ok(_) => {}
                // Names that the machine may not list are known by being asked for.
                Err(fault) if Saying::of(&fault) == Saying::Refused => {}
                Err(fault) => return Err(fault),
            }
        }
        let described: Vec<SecretPath> = {
            let memory = self.memory.read();
            let known = memory.secrets.iter().filter(|(_, entry)| entry.is_described);
            known.map(|(path, _)| path.clone()).collect()
        };
        for path in described {
            match self.describe(login, &path, false).await {
                Err(fault) if Saying::of(&fault) == Saying::Silent => return Err(fault),
                _ => {}
            }
        }
        Ok(self.memory.read().secrets.len())
    }
}

#[cfg(test)]
mod tests {
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
