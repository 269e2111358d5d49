//! When the next try is made: later each time, and never at the same moment on all machines.

use std::time::Duration;

/// A span of between `least` and `most` times `span`.
pub(in crate::store) fn between(span: Duration, least: f64, most: f64) -> Duration {
    let mut bytes = [0_u8; 4];
    // Without random bytes it is the middle.
    let share = match getrandom::fill(&mut bytes) {
        Ok(()) => f64::from(u32::from_le_bytes(bytes)) / f64::from(u32::MAX),
        Err(_) => 0.5,
    };
    span.mul_f64(least + (most - least) * share)
}

/// How long to wait after the `tries`-th failure in a row: `first`, doubled each time, up to `most`.
pub(in crate::store) fn pause(tries: u32, first: Duration, most: Duration) -> Duration {
    let doubled = first.saturating_mul(1 << tries.saturating_sub(1).min(16));
    between(doubled.min(most), 0.75, 1.25)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_their_bound_and_differ() {
        let (first, most) = (Duration::from_secs(1), Duration::from_secs(60));
        for (tries, about) in [(1, 1.0), (2, 2.0), (3, 4.0), (10, 60.0), (u32::MAX, 60.0)] {
            let pause = pause(tries, first, most).as_secs_f64();
            assert!((0.74 * about..1.26 * about).contains(&pause), "{tries}: {pause}");
        }
        let all: std::collections::BTreeSet<_> = (0..20).map(|_| between(most, 0.5, 1.0)).collect();
        assert!(all.len() > 10);
    }
}
