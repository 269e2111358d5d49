//! Slows down who asks again and again for what he may not have, so that his asking costs nobody else his share.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// How many refusals one uid gets at full speed.
#[derive(Debug, Clone, Copy)]
pub struct PaceLimits {
    /// Refusals a second, steadily.
    pub refusals_per_second: u32,
    /// Refusals at once before that counts.
    pub refusals_burst: u32,
    /// The longest a refusal is held back.
    pub delay_max: Duration,
}

/// Counts refusals by uid.
pub(super) struct Pace {
    limits: PaceLimits,
    /// Guards when each uid's next refusal would be due at the steady rate. Dropped when the uid is quiet.
    due: Mutex<HashMap<u32, Instant>>,
}

/// Uids kept before quiet ones are looked for.
const UIDS_MAX: usize = 1024;

impl Pace {
    pub(super) fn new(limits: PaceLimits) -> Self {
        Self { limits, due: Mutex::default() }
    }

    /// How long to hold back a refusal given to `uid` at `now`; `None` while he is within his rate.
    pub(super) fn delay(&self, uid: u32, now: Instant) -> Option<Duration> {
        let each = Duration::from_secs(1) / self.limits.refusals_per_second.max(1);
        let burst = each * self.limits.refusals_burst;
        let mut due = self.due.lock();
        if due.len() >= UIDS_MAX {
            due.retain(|_, due| *due > now);
        }
        let next = due.entry(uid).or_insert(now);
        // A virtual clock (GCRA): it never lags behind the real one, and runs ahead by one step a refusal.
        *next = (*next).max(now) + each;
        let ahead = *next - now;
        let delay = ahead.checked_sub(burst)?.min(self.limits.delay_max);
        // Who waits is answered later, not counted for ever.
        *next = (*next).min(now + burst + self.limits.delay_max);
        (!delay.is_zero()).then_some(delay)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pace() -> Pace {
        Pace::new(PaceLimits {
            refusals_per_second: 1000,
            refusals_burst: 100,
            delay_max: Duration::from_millis(50),
        })
    }

    #[test]
    fn a_burst_is_free_and_what_follows_is_held_to_the_rate() {
        let (pace, start) = (pace(), Instant::now());
        for _ in 0..100 {
            assert_eq!(pace.delay(1, start), None);
        }
        assert_eq!(pace.delay(1, start), Some(Duration::from_millis(1)));
        assert_eq!(pace.delay(1, start), Some(Duration::from_millis(2)));
        assert_eq!(pace.delay(2, start), None, "another uid is not held back");
        for _ in 0..10_000 {
            pace.delay(1, start);
        }
        assert_eq!(pace.delay(1, start), Some(Duration::from_millis(50)), "never longer than the limit");
        assert_eq!(
            pace.delay(1, start + Duration::from_secs(1)),
            None,
            "quiet for a while, and it is forgotten"
        );
    }
}
