//! The clock: every record is dated by it, and so is what is due for rotation.

use std::path::Path;
use std::time::{Duration, SystemTime};

use crate::sys::clock::{self, ClockState};

use super::Finding;

/// Before this credfs did not exist: 2026-01-01T00:00:00Z, in seconds since the epoch.
const EARLIEST_SECONDS: u64 = 1_767_225_600;
/// A file that is younger than now by more than this was written under another clock.
const FUTURE_MAX: Duration = Duration::from_secs(5);

/// Judges the clock, also by the audit log: it was written in the past.
pub(super) fn look(audit_log: Option<&Path>) -> Finding {
    let written = audit_log.and_then(|path| std::fs::metadata(path).ok()?.modified().ok());
    judge(SystemTime::now(), written, clock::state().ok())
}

fn judge(now: SystemTime, written: Option<SystemTime>, state: Option<ClockState>) -> Finding {
    let remedy = "set it, and keep it in step: systemd-timesyncd, chrony, or the hypervisor's clock";
    let since_epoch = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    if since_epoch.as_secs() < EARLIEST_SECONDS {
        return Finding::warning("clock", "it stands before 2026, so records are dated wrong", remedy);
    }
    if let Some(ahead) =
        written.and_then(|written| written.duration_since(now).ok()).filter(|by| *by > FUTURE_MAX)
    {
        return Finding::warning(
            "clock",
            format!("the audit log was written {} s from now: the clock was put back", ahead.as_secs()),
            remedy,
        );
    }
    match state {
        Some(state) if state.is_synchronised => Finding::ok("clock", "it is kept in step"),
        Some(state) => Finding::warning(
            "clock",
            format!(
                "nothing keeps it in step; it may be wrong by {} s or more",
                state.error_max_us / 1_000_000
            ),
            remedy,
        ),
        None => Finding::warning("clock", "whether it is kept in step cannot be told", "ask `timedatectl`"),
    }
}

#[cfg(test)]
mod tests {
    use super::super::Weight;
    use super::*;

    #[test]
    fn a_clock_that_is_wrong_put_back_or_left_alone_is_warned_of() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(EARLIEST_SECONDS + 1_000_000);
        let kept = Some(ClockState { is_synchronised: true, error_max_us: 1_000 });
        let left = Some(ClockState { is_synchronised: false, error_max_us: 16_000_000 });
        let hour = Duration::from_secs(3_600);
        for (now, written, state, weight, word) in [
            (now, Some(now - hour), kept, Weight::Ok, "in step"),
            (now, Some(now + Duration::from_secs(1)), kept, Weight::Ok, "in step"),
            (now, Some(now + hour), kept, Weight::Warning, "3600 s"),
            (SystemTime::UNIX_EPOCH + hour, None, kept, Weight::Warning, "2026"),
            (now, None, left, Weight::Warning, "16 s"),
            (now, None, None, Weight::Warning, "cannot be told"),
        ] {
            let found = judge(now, written, state);
            assert_eq!(found.weight, weight, "{}", found.found);
            assert!(found.found.contains(word), "{}", found.found);
        }
    }
}
