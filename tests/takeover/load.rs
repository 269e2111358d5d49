//! Eight readers, one who is refused, and rotations, for as long as a test takes; and what they found.

use std::io::{ErrorKind, Read as _};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::harness::Instance;

const READERS: usize = 8;
const ROTATE_EVERY: Duration = Duration::from_millis(150);
/// Reads longer than this are remembered.
const LONG: Duration = Duration::from_millis(1);
/// A read that begins so soon after a moment is one that the moment held up: each reader rests for less.
const SOON: Duration = Duration::from_millis(2);

/// What the readers found.
#[derive(Default)]
pub(crate) struct Found {
    pub(crate) opened: u64,
    pub(crate) refused: u64,
    pub(crate) faults: Vec<String>,
    /// When a long operation began, and how long it took.
    long: Vec<(Instant, Duration)>,
}

impl Found {
    fn add(&mut self, other: Self) {
        self.opened += other.opened;
        self.refused += other.refused;
        self.faults.extend(other.faults);
        self.long.extend(other.long);
    }

    /// The longest that anyone waited at each of these moments, shortest first.
    pub(crate) fn pauses(&self, moments: &[Instant]) -> Vec<Duration> {
        let mut pauses: Vec<Duration> = moments
            .iter()
            .map(|moment| {
                let hit =
                    self.long.iter().filter(|(begun, took)| begun <= moment && *begun + *took > *moment);
                hit.map(|(begun, took)| *begun + *took - *moment).max().unwrap_or_default()
            })
            .collect();
        pauses.sort();
        pauses
    }
}

/// An error by its name.
fn name_of(error: &std::io::Error) -> String {
    match error.raw_os_error() {
        Some(2) => "ENOENT".to_owned(),
        Some(103) => "ECONNABORTED".to_owned(),
        Some(107) => "ENOTCONN".to_owned(),
        Some(110) => "ETIMEDOUT".to_owned(),
        _ => error.to_string(),
    }
}

/// The value of version `number`: any piece of it names the version.
pub(crate) fn value(number: u64) -> Vec<u8> {
    format!("<{number}>").repeat(1 + usize::try_from(number % 90).unwrap()).into_bytes()
}

pub(crate) fn is_whole(bytes: &[u8]) -> bool {
    let text = String::from_utf8_lossy(bytes);
    let number = text.strip_prefix('<').and_then(|rest| rest.split_once('>')).map(|(number, _)| number);
    number.and_then(|number| number.parse().ok()).is_some_and(|number| value(number) == bytes)
}

/// Runs `act` under load; what the readers found meanwhile. A command that the worker was carrying out when it was killed
/// fails with exit code 5, where `puts_may_fail` says so.
pub(crate) fn under(instance: &Instance, puts_may_fail: bool, act: impl FnOnce()) -> Found {
    let stop = AtomicBool::new(false);
    let mut found = Found::default();
    std::thread::scope(|scope| {
        let readers: Vec<_> = (0..READERS).map(|_| scope.spawn(|| read_until(instance, &stop))).collect();
        let refused = scope.spawn(|| be_refused_until(instance, &stop));
        let rotating = scope.spawn(|| rotate_until(instance, puts_may_fail, &stop));
        // Whatever becomes of it, the others must end.
        let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(act));
        stop.store(true, Ordering::SeqCst);
        for reader in readers {
            found.add(reader.join().unwrap());
        }
        found.add(refused.join().unwrap());
        rotating.join().unwrap();
        if let Err(panic) = done {
            std::panic::resume_unwind(panic);
        }
    });
    found
}

fn read_until(instance: &Instance, stop: &AtomicBool) -> Found {
    let path = PathBuf::from(instance.path("prod/app/key"));
    let mut found = Found::default();
    while !stop.load(Ordering::SeqCst) {
        let begun = Instant::now();
        let mut bytes = Vec::new();
        let read = std::fs::File::open(&path).and_then(|mut file| {
            found.opened += 1;
            file.read_to_end(&mut bytes)
        });
        let took = begun.elapsed();
        if took > LONG {
            found.long.push((begun, took));
        }
        match read {
            Ok(_) if is_whole(&bytes) => {}
            Ok(_) => found.faults.push(format!("torn: {:?}", String::from_utf8_lossy(&bytes))),
            Err(error) => found.faults.push(format!("after {took:?}: {}", name_of(&error))),
        }
        std::thread::sleep(Duration::from_micros(500));
    }
    found
}

fn be_refused_until(instance: &Instance, stop: &AtomicBool) -> Found {
    let cases = [("seen/app/key", ErrorKind::PermissionDenied), ("hidden/app/key", ErrorKind::NotFound)];
    let mut found = Found::default();
    while !stop.load(Ordering::SeqCst) {
        for (path, wanted) in cases {
            match std::fs::File::open(instance.path(path)) {
                Err(error) if error.kind() == wanted => found.refused += 1,
                Err(error) => found.faults.push(format!("{path}: {}", name_of(&error))),
                Ok(_) => found.faults.push(format!("{path}: opened")),
            }
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    found
}

fn rotate_until(instance: &Instance, puts_may_fail: bool, stop: &AtomicBool) {
    let mut number = 1;
    while !stop.load(Ordering::SeqCst) {
        number += 1;
        let put = instance.program(&["put", "prod/app", "key"]).input(value(number)).run();
        let is_in_doubt = put.code == Some(5) && put.err.contains("may have been made");
        assert!(put.code == Some(0) || puts_may_fail && is_in_doubt, "{:?} {}", put.code, put.err);
        std::thread::sleep(ROTATE_EVERY);
    }
}

/// Stores what the readers look for.
pub(crate) fn fill(instance: &Instance) {
    instance.put("prod/app", &[("key", &value(1))]);
    instance.put("seen/app", &[("key", b"x")]);
    instance.put("hidden/app", &[("key", b"x")]);
}
