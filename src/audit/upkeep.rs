//! What happens beside the recording, in a thread of its own: gathered refusals, sealing by age, fsync, keys,
//! rotation, space. Everything here may fail and is tried again a second later.

use std::sync::atomic::Ordering;
use std::time::Duration;

use super::files::{rotated_numbers, rotated_path};
use super::keys::KEYS_HELD;
use super::log::Shared;
use super::{record, rotate};
use crate::model::Reason;
use crate::sys::file;

const TICK: Duration = Duration::from_secs(1);

/// The thread.
pub(super) fn run(shared: &Shared) {
    loop {
        {
            let mut wake = shared.wake.lock();
            if !wake.stop && !wake.work {
                shared.woken.wait_for(&mut wake, TICK);
            }
            wake.work = false;
            if wake.stop {
                break;
            }
        }
        shared.upkeep_begins();
        tick(shared);
    }
    close(shared);
    shared.wake.lock().is_done = true;
    shared.woken.notify_all();
}

/// One round.
pub(super) fn tick(shared: &Shared) {
    look_at_space(shared);
    flush_refusals(shared, false);
    seal_by_age(shared);
    refill_keys(shared);
    sync(shared);
    rotate::rotate_when_full(shared);
    rotate::remove_within_budget(shared);
}

fn close(shared: &Shared) {
    flush_refusals(shared, true);
    if shared.options.seal_on_close
        && let Ok(mut writer) = shared.hold()
    {
        // What cannot be sealed now is sealed by whoever opens the log next.
        writer.seal_now_or_later((shared.options.clock)(), Reason::Shutdown);
    }
    sync(shared);
    refill_keys(shared);
}

/// Writes gathered refusals, unless so little space is left that it belongs to reads.
pub(super) fn flush_refusals(shared: &Shared, all: bool) {
    if shared.is_space_low.load(Ordering::Relaxed) {
        return;
    }
    let now_us = (shared.options.clock)().mono_us;
    let due = shared.refusals.lock().take_due(now_us, all);
    for gathered in due {
        let written = shared.write(&mut |line| {
            line.extend_from_slice(&gathered.body);
            record::number(line, "count", Some(gathered.count));
        });
        if written.is_err() {
            shared.refusals.lock().put_back(&gathered, now_us);
        }
    }
}

fn seal_by_age(shared: &Shared) {
    let Ok(mut writer) = shared.hold() else { return };
    let now = (shared.options.clock)();
    let age_us = u128::from(now.mono_us.saturating_sub(writer.head.segment_since_us));
    if writer.head.segment_records > 0 && age_us >= shared.options.segment_age_max.as_micros() {
        // Tried again at the next round.
        writer.seal_now_or_later(now, Reason::Age);
    }
}

/// Erases used keys and makes as many new ones.
///
/// A key is erased only once the disk has the seal that it signed: else a power cut could leave a log whose last
/// announced key no longer exists, which looks like a truncated one.
pub(super) fn refill_keys(shared: &Shared) {
    let _one_at_a_time = shared.chores.lock();
    let (file, erase_from, current, end) = {
        let Ok(writer) = shared.hold() else { return };
        let (Some(first), Some(last)) = (writer.ready.front(), writer.ready.back()) else { return };
        (writer.sink.file(), writer.unerased_from, first.number, last.number + 1)
    };
    let wanted_end = current + KEYS_HELD;
    if end >= wanted_end || (erase_from < current && file.sync_data().is_err()) {
        return;
    }
    // Key N lies in the slot of key N - 64, so making keys up to `current + 64` erases all before `current`.
    let Ok(made) = shared.keys.make(end..wanted_end) else { return };
    if let Ok(mut writer) = shared.hold() {
        writer.ready.extend(made);
        writer.unerased_from = current;
    }
}

/// Has the disk remember what was written, so that a power cut takes at most about a second.
fn sync(shared: &Shared) {
    let (file, written_bytes) = {
        let Ok(writer) = shared.hold() else { return };
        (writer.sink.file(), writer.written_bytes)
    };
    if shared.disk.lock().synced_bytes < written_bytes && file.sync_data().is_ok() {
        let mut disk = shared.disk.lock();
        disk.synced_bytes = disk.synced_bytes.max(written_bytes);
    }
}

/// Sees whether a tenth of the space, or of the budget, is left.
fn look_at_space(shared: &Shared) {
    let (file, bytes) = {
        let Ok(writer) = shared.hold() else { return };
        (writer.sink.file(), writer.head.bytes)
    };
    let is_disk_low = file::space_around(&file).is_ok_and(|space| space.free_bytes < space.total_bytes / 10);
    let is_budget_low = shared
        .options
        .max_bytes
        .is_some_and(|max_bytes| bytes + rotated_bytes(shared) > max_bytes - max_bytes / 10);
    shared.is_space_low.store(is_disk_low || is_budget_low, Ordering::Relaxed);
}

fn rotated_bytes(shared: &Shared) -> u64 {
    let log = &shared.options.path;
    let numbers = rotated_numbers(log).unwrap_or_default();
    numbers
        .iter()
        .filter_map(|number| rotated_path(log, *number).metadata().ok())
        .map(|found| found.len())
        .sum()
}
