//! How much one user may have under way, and how often a grant lets him read.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::model::{Outcome, Reason};
use crate::policy::RateLimit;

use super::Refusal;

/// Limits of the gate, each by name.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Fetches that one uid may have under way at once.
    pub in_flight_per_uid_max: usize,
    /// How long a fetch may take before its request is answered with ETIMEDOUT.
    pub request_deadline: Duration,
}

/// What is counted against the limits.
pub(super) struct Counters {
    limits: Limits,
    /// Guards the number of fetches under way by uid; a uid without any has no entry.
    in_flight: Arc<Mutex<HashMap<u32, usize>>>,
    /// Guards how full the bucket of each (rule, uid) is. Bounded by rules × uids that read under a limited rule;
    /// full buckets are dropped when there are many.
    buckets: Mutex<HashMap<(Box<str>, u32), Bucket>>,
}

struct Bucket {
    /// Reads that may still be made at once.
    left: f64,
    filled_at: Instant,
}

/// Buckets kept before full ones are looked for and dropped.
const BUCKETS_MAX: usize = 4096;

/// One fetch under way; it ends when this is dropped.
pub(super) struct InFlight {
    uid: u32,
    count: Arc<Mutex<HashMap<u32, usize>>>,
}

impl Drop for InFlight {
    fn drop(&mut self) {
        let mut count = self.count.lock();
        if let Some(number) = count.get_mut(&self.uid) {
            *number -= 1;
            if *number == 0 {
                count.remove(&self.uid);
            }
        }
    }
}

impl Counters {
    pub(super) fn new(limits: Limits) -> Self {
        Self { limits, in_flight: Arc::default(), buckets: Mutex::default() }
    }

    pub(super) fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Begins a fetch for `uid`, if it has not too many under way.
    pub(super) fn begin_fetch(&self, uid: u32) -> Result<InFlight, Refusal> {
        let mut count = self.in_flight.lock();
        let number = count.entry(uid).or_default();
        if *number >= self.limits.in_flight_per_uid_max {
            return Err(Refusal::new(Outcome::OverLimit, Reason::InFlight));
        }
        *number += 1;
        Ok(InFlight { uid, count: Arc::clone(&self.in_flight) })
    }

    /// Takes one read of `uid` under `rule` from its bucket, which holds a minute's worth and fills steadily.
    pub(super) fn take_read(
        &self,
        rule: &str,
        uid: u32,
        limit: RateLimit,
        now: Instant,
    ) -> Result<(), Refusal> {
        let most = f64::from(limit.reads_per_minute);
        let mut buckets = self.buckets.lock();
        if buckets.len() >= BUCKETS_MAX {
            buckets.retain(|_, bucket| now.duration_since(bucket.filled_at) < Duration::from_secs(60));
        }
        let bucket =
            buckets.entry((rule.into(), uid)).or_insert_with(|| Bucket { left: most, filled_at: now });
        let since = now.saturating_duration_since(bucket.filled_at).as_secs_f64();
        bucket.left = (bucket.left + since * most / 60.0).min(most);
        bucket.filled_at = now;
        if bucket.left < 1.0 {
            return Err(Refusal::new(Outcome::OverLimit, Reason::RateLimit));
        }
        bucket.left -= 1.0;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counters() -> Counters {
        Counters::new(Limits { in_flight_per_uid_max: 2, request_deadline: Duration::from_secs(5) })
    }

    #[test]
    fn one_uid_at_its_limit_leaves_the_others_theirs() {
        let counters = counters();
        let first = counters.begin_fetch(1).ok().unwrap();
        let _second = counters.begin_fetch(1).ok().unwrap();
        assert_eq!(counters.begin_fetch(1).err(), Some(Refusal::new(Outcome::OverLimit, Reason::InFlight)));
        assert!(counters.begin_fetch(2).is_ok());
        drop(first);
        assert!(counters.begin_fetch(1).is_ok());
    }

    #[test]
    fn a_rate_is_a_minutes_worth_at_once_and_then_steady() {
        let counters = counters();
        let limit = RateLimit { reads_per_minute: 60, grant: 0 };
        let start = Instant::now();
        for _ in 0..60 {
            assert!(counters.take_read("rule", 1, limit, start).is_ok());
        }
        assert!(counters.take_read("rule", 1, limit, start).is_err());
        assert!(counters.take_read("rule", 2, limit, start).is_ok(), "each uid has its own");
        assert!(counters.take_read("rule", 1, limit, start + Duration::from_millis(1100)).is_ok());
        assert!(counters.take_read("rule", 1, limit, start + Duration::from_millis(1200)).is_err());
    }
}
