//! Both of the machine's clocks. How old something is, the clock that counts from boot says: whoever sets the wall clock
//! changes no age. Between two boots there is only the wall clock, and of it only what went forward counts.

use std::sync::Arc;

use crate::model::UnixTime;
use crate::store::Clock;
use crate::sys::file;

/// Tells the time by both clocks; tests pass their own.
#[derive(Clone)]
pub struct Clocks {
    /// The wall clock.
    pub wall: Clock,
    /// Microseconds since boot, suspended time included.
    pub boot_us: Arc<dyn Fn() -> u64 + Send + Sync>,
    /// The kernel's name for this boot.
    pub boot_id: Arc<str>,
}

impl Clocks {
    /// Those of this machine.
    #[must_use]
    pub fn of_machine() -> Self {
        Self {
            wall: Arc::new(|| std::time::SystemTime::now().into()),
            boot_us: Arc::new(file::boot_time_us),
            // Without /proc every process is a boot of its own: ages then go by the wall clock.
            boot_id: file::boot_id().unwrap_or_else(|_| format!("process {}", std::process::id())).into(),
        }
    }

    /// Microseconds since boot. Signed: what is older than this boot lies before it.
    pub(in crate::store) fn now_us(&self) -> i64 {
        i64::try_from((self.boot_us)()).unwrap_or(i64::MAX)
    }

    /// This moment on both clocks, to be written down.
    pub(super) fn mark(&self) -> Mark {
        Mark { boot_id: self.boot_id.as_bytes().into(), boot_us: self.now_us(), wall: (self.wall)() }
    }
}

/// A moment on both clocks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Mark {
    pub(super) boot_id: Box<[u8]>,
    pub(super) boot_us: i64,
    pub(super) wall: UnixTime,
}

impl Mark {
    /// How much later `later` is, in microseconds; never less than nothing. Within one boot the boot clock tells, else
    /// what the wall clock went forward.
    pub(super) fn until_us(&self, later: &Self) -> i64 {
        let span = if self.boot_id == later.boot_id {
            later.boot_us.saturating_sub(self.boot_us)
        } else {
            later.wall.micros().saturating_sub(self.wall.micros())
        };
        span.max(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mark(boot: &str, boot_s: i64, wall_s: i64) -> Mark {
        Mark {
            boot_id: boot.as_bytes().into(),
            boot_us: boot_s * 1_000_000,
            wall: UnixTime::from_micros(wall_s * 1_000_000),
        }
    }

    #[test]
    fn a_wall_clock_that_is_set_changes_no_age_within_a_boot() {
        for wall in [-3600, 0, 3600, 1_000_000] {
            assert_eq!(mark("a", 10, 1000).until_us(&mark("a", 25, 1015 + wall)), 15_000_000);
        }
    }

    #[test]
    fn between_boots_time_goes_forward_or_stands() {
        assert_eq!(mark("a", 10, 1000).until_us(&mark("b", 3, 1060)), 60_000_000);
        assert_eq!(mark("a", 10, 1000).until_us(&mark("b", 3, 100)), 0, "set back an hour");
    }
}
