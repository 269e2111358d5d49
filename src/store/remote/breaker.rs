//! The circuit breaker of one engine: after so many requests without an answer nobody is made to wait for one, until a
//! probe is answered.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::Mutex;

use crate::store::StoreFault;

/// Longest that an engine is left alone because it asked for it.
const LEAVE_ALONE_MAX: Duration = Duration::from_secs(30);

pub(in crate::store) struct Breaker {
    failures_max: u32,
    probe_every_us: i64,
    /// Whether it is open, for a look without the lock.
    is_open: AtomicBool,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Requests in a row without an answer.
    failures: u32,
    open: Option<Open>,
    /// When the engine last answered anything.
    answered_us: Option<i64>,
}

struct Open {
    fault: StoreFault,
    /// When it is tried again.
    until_us: i64,
}

fn micros(span: Duration) -> i64 {
    i64::try_from(span.as_micros()).unwrap_or(i64::MAX)
}

impl Breaker {
    pub(in crate::store) fn new(failures_max: u32, probe_every: Duration) -> Self {
        Self {
            failures_max: failures_max.max(1),
            probe_every_us: micros(probe_every),
            is_open: AtomicBool::new(false),
            state: Mutex::default(),
        }
    }

    /// Why the engine is left alone; `None`: it is not.
    pub(in crate::store) fn fault(&self) -> Option<StoreFault> {
        if !self.is_open.load(Ordering::Acquire) {
            return None;
        }
        self.state.lock().open.as_ref().map(|open| open.fault.clone())
    }

    /// Why a request that is made now would not be let through; `None`: it would.
    pub(super) fn fault_now(&self, now_us: i64, is_probed: bool) -> Option<StoreFault> {
        if !self.is_open() {
            return None;
        }
        let state = self.state.lock();
        let open = state.open.as_ref().filter(|open| is_probed || now_us < open.until_us)?;
        Some(open.fault.clone())
    }

    /// Whether the engine is left alone.
    pub(in crate::store) fn is_open(&self) -> bool {
        self.is_open.load(Ordering::Acquire)
    }

    /// Whether the last request had no answer.
    pub(in crate::store) fn is_doubted(&self) -> bool {
        self.is_open() || self.state.lock().failures > 0
    }

    /// Lets a request through, or says why not. While the breaker is open one request in each interval is let through
    /// to try, unless somebody probes (`is_probed`).
    pub(in crate::store) fn admit(&self, now_us: i64, is_probed: bool) -> Result<(), StoreFault> {
        if !self.is_open() {
            return Ok(());
        }
        let mut state = self.state.lock();
        let Some(open) = &mut state.open else { return Ok(()) };
        if is_probed || now_us < open.until_us {
            return Err(open.fault.clone());
        }
        open.until_us = now_us.saturating_add(self.probe_every_us);
        Ok(())
    }

    /// When an open breaker is to be tried; `None`: it is closed.
    pub(in crate::store) fn try_at_us(&self) -> Option<i64> {
        self.state.lock().open.as_ref().map(|open| open.until_us)
    }

    /// When the engine last answered.
    pub(in crate::store) fn answered_us(&self) -> Option<i64> {
        self.state.lock().answered_us
    }

    /// The engine answered. Returns whether it had been given up.
    pub(in crate::store) fn answered(&self, now_us: i64) -> bool {
        let mut state = self.state.lock();
        state.failures = 0;
        state.answered_us = Some(now_us);
        self.is_open.store(false, Ordering::Release);
        state.open.take().is_some()
    }

    /// The engine gave no answer. `is_decisive`: one such is enough. Returns whether it is given up by this.
    pub(in crate::store) fn failed(
        &self,
        fault: &StoreFault,
        retry_after: Option<Duration>,
        is_decisive: bool,
        now_us: i64,
    ) -> bool {
        let mut state = self.state.lock();
        state.failures = state.failures.saturating_add(1);
        if !is_decisive && retry_after.is_none() && state.failures < self.failures_max && state.open.is_none()
        {
            return false;
        }
        let pause = retry_after.map_or(0, |span| micros(span.min(LEAVE_ALONE_MAX))).max(self.probe_every_us);
        let until_us = now_us.saturating_add(pause);
        self.is_open.store(true, Ordering::Release);
        let was_open = state.open.replace(Open { fault: fault.clone(), until_us }).is_some();
        !was_open
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn away() -> StoreFault {
        StoreFault::Away("test".into())
    }

    fn breaker() -> Breaker {
        Breaker::new(3, Duration::from_micros(100))
    }

    #[test]
    fn it_opens_after_failures_in_a_row_and_closes_on_an_answer() {
        let breaker = breaker();
        for now in 0..2 {
            assert!(!breaker.failed(&away(), None, false, now));
        }
        breaker.answered(2);
        for now in 3..5 {
            assert!(!breaker.failed(&away(), None, false, now), "an answer in between begins anew");
        }
        assert!(breaker.failed(&away(), None, false, 5));
        assert!(breaker.is_open() && breaker.fault().is_some());
        assert!(breaker.admit(6, false).is_err());
        assert!(breaker.answered(7) && !breaker.is_open() && breaker.admit(7, false).is_ok());
    }

    #[test]
    fn an_open_one_lets_one_try_through_in_each_interval_and_none_where_it_is_probed() {
        let breaker = breaker();
        breaker.failed(&away(), None, true, 0);
        let tries = (0..1000).filter(|now| breaker.admit(*now, false).is_ok()).count();
        assert_eq!(tries, 9);
        assert!((1000..3000).all(|now| breaker.admit(now, true).is_err()));
    }

    #[test]
    fn an_engine_that_asks_to_be_left_alone_is_but_not_for_ever() {
        let breaker = breaker();
        breaker.failed(&away(), Some(Duration::from_secs(5)), false, 0);
        assert!(breaker.admit(4_999_999, false).is_err());
        breaker.failed(&away(), Some(Duration::from_secs(86_400)), false, 0);
        assert_eq!(breaker.try_at_us(), Some(30_000_000));
    }
}
