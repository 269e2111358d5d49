//! Looking for the next request before sleeping until it comes. A reader that sleeps has to be woken, and where its
//! processor sleeps too that takes as long as answering; whoever opens a file sends the next request at once.

use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::sys::poll;

/// How often looking may fail in a row before it is given up; each time it finds something makes up for two.
const CREDIT_MAX: u32 = 8;
/// After how many requests it is tried once more then.
const REST: u32 = 64;

/// One reader's looking. On one processor a look finds nothing, since whoever would send the request waits for it: so
/// only what has paid lately is done again.
pub(super) struct Spin {
    device: OwnedFd,
    most: Duration,
    /// Guards what came of looking lately. The reader alone uses it.
    habit: Mutex<Habit>,
}

#[derive(Debug, Default)]
struct Habit {
    credit: u32,
    /// Requests since the last look.
    rested: u32,
}

impl Habit {
    fn is_worth_it(&mut self) -> bool {
        self.rested += 1;
        self.credit > 0 || self.rested >= REST
    }

    fn learn(&mut self, has_found: bool) {
        self.rested = 0;
        self.credit =
            if has_found { (self.credit + 2).min(CREDIT_MAX) } else { self.credit.saturating_sub(1) };
    }
}

impl Spin {
    /// Looks for `most` at the longest; zero: never.
    pub(super) fn new(device: OwnedFd, most: Duration) -> Self {
        Self { device, most, habit: Mutex::default() }
    }

    /// Returns as soon as a request is there, or when it is time to sleep.
    pub(super) fn look(&self) {
        if self.most.is_zero() || !self.habit.lock().is_worth_it() {
            return;
        }
        // What is there already says nothing of looking: where reader and caller share a processor, the caller may have
        // sent two requests before the reader got its turn.
        if poll::is_ready(self.device.as_fd()) {
            return;
        }
        let begun = Instant::now();
        let has_found = loop {
            std::hint::spin_loop();
            // A session that is over is found by whoever reads next.
            if poll::is_ready(self.device.as_fd()) {
                break true;
            }
            if begun.elapsed() >= self.most {
                break false;
            }
        };
        self.habit.lock().learn(has_found);
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn looking_that_finds_nothing_is_given_up_and_tried_now_and_then() {
        let mut habit = Habit { credit: CREDIT_MAX, rested: 0 };
        let mut looked = 0;
        for _ in 0..1_000 + 64 * 10 {
            if habit.is_worth_it() {
                looked += 1;
                habit.learn(false);
            }
        }
        assert!(looked <= CREDIT_MAX + 1_640 / REST, "{looked} of 1640");
    }

    #[test]
    fn looking_that_finds_three_of_four_goes_on() {
        let mut habit = Habit::default();
        let looked = (0..REST + 4_000).filter(|request| {
            let is_worth_it = habit.is_worth_it();
            if is_worth_it {
                habit.learn(request % 4 != 0);
            }
            is_worth_it
        });
        assert!(looked.count() >= 3_990);
    }

    #[test]
    fn a_look_ends_when_something_came_and_when_its_time_is_over() {
        let (mut one, other) = UnixStream::pair().unwrap();
        let spin = Spin::new(other.try_clone().unwrap().into(), Duration::from_millis(20));
        *spin.habit.lock() = Habit { credit: 2, rested: 0 };
        spin.look();
        assert_eq!(spin.habit.lock().credit, 1);
        one.write_all(b"x").unwrap();
        spin.look();
        assert_eq!(spin.habit.lock().credit, 1, "it was there before");
        (&other).read_exact(&mut [0]).unwrap();
        let patient = Spin::new(other.try_clone().unwrap().into(), Duration::from_secs(60));
        *patient.habit.lock() = Habit { credit: 1, rested: 0 };
        let writing = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(20));
            one.write_all(b"x").unwrap();
            one
        });
        patient.look();
        assert_eq!(patient.habit.lock().credit, 3);
        let _one = writing.join().unwrap();
        (&other).read_exact(&mut [0]).unwrap();
        let never = Spin::new(other.into(), Duration::ZERO);
        *never.habit.lock() = Habit { credit: 2, rested: 0 };
        never.look();
        assert_eq!(never.habit.lock().credit, 2, "not even once");
    }
}
