//! Beginning a new file, and removing old ones within the budget.
//!
//! The log's name always stands for a file: the new one is made beside it with its first record, the old one gets its
//! second name (`NAME.N`), and one rename gives the new one the log's name. Each file but the last ends with a seal.
//!
//! In `power-safe` the old file is on the disk before the new one has the name, while recorders wait. In
//! `process-safe` nobody waits for the disk: almost all of the old file was synced before, and the rest is right
//! after. A power cut within these milliseconds can take the last records of the old file; the proof then says that
//! they are missing, and why that may be.

use std::fs::File;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use super::Durability;
use super::chain::Link;
use super::files::{
    Lines, coming_path, line_at, parts, read_up_to, rotated_numbers, rotated_path, seals_path,
};
use super::log::{Holding, Log, Shared};
use super::sink::FileSink;
use super::upkeep::refill_keys;
use super::writer::NotRecorded;
use crate::model::Reason;
use crate::sys::file::{self, Access};

/// Why no new file was begun.
#[derive(Debug, thiserror::Error)]
pub enum RotateFault {
    /// The log cannot be written.
    #[error("the old file could not be sealed: {0}")]
    NotRecorded(#[from] NotRecorded),
    /// No key is ready.
    #[error("no signing key could be made: look at the space and the mode of the audit log's directory")]
    NoKey,
    /// The system refused.
    #[error(
        "the new file could not be begun: {0}: look at the space and the mode of the audit log's directory"
    )]
    Io(#[from] io::Error),
}

impl Log {
    /// Begins a new file and returns where the old one is.
    ///
    /// It is also the administrator's remedy for a log that was deleted, renamed or replaced: what stands in its place is
    /// moved to `NAME.foreign-…`, and the records are saved from the file that is still held. Where they were
    /// cut from it, the chain goes on after a gap that [`super::verify()`] names from then on.
    ///
    /// # Errors
    /// [`RotateFault`]; the log is as it was.
    pub fn rotate(&self) -> Result<PathBuf, RotateFault> {
        refill_keys(&self.shared);
        let rotated = {
            let _one_at_a_time = self.shared.chores.lock();
            rotate(&self.shared, Reason::Command)
        };
        remove_within_budget(&self.shared);
        rotated
    }
}

/// Rotates by size, when the disk is quick: what is written to it while the log is held must not hold up readers.
pub(super) fn rotate_when_full(shared: &Shared) {
    let (file, bytes) = {
        let Ok(writer) = shared.hold() else { return };
        (writer.sink.file(), writer.head.bytes)
    };
    let full_bytes = shared.options.segment_bytes;
    if bytes < full_bytes {
        return;
    }
    let _one_at_a_time = shared.chores.lock();
    let is_quick = (0..2).all(|_| {
        let begun = Instant::now();
        file.sync_data().is_ok() && begun.elapsed() < shared.options.wait_max / 4
    });
    if is_quick || bytes >= full_bytes.saturating_mul(2) {
        // Tried again at the next round; the old file goes on meanwhile.
        drop(rotate(shared, Reason::Size));
    }
}

fn rotate(shared: &Shared, cause: Reason) -> Result<PathBuf, RotateFault> {
    let log = &shared.options.path;
    let coming = coming_path(log);
    remove_if_there(&coming)?;
    let file = file::create_new(&coming, Access::Append, 0o600)?;
    let number = rotated_numbers(log)?.last().map_or(1, |last| last + 1);
    let rotated = rotated_path(log, number);
    // The second name is given while nobody waits: two names of one file harm nobody, and are undone at open.
    let is_linked = shared.hold()?.settle().is_ok();
    if is_linked {
        std::fs::hard_link(log, &rotated)?;
    }
    let switched = switch(shared, cause, &file, &rotated, is_linked);
    if switched.is_err() {
        if is_linked {
            remove_if_there(&rotated)?;
        }
        remove_if_there(&coming)?;
    }
    switched.map(|()| rotated)
}

/// Gives the new file the log's name and goes on in it.
fn switch(
    shared: &Shared,
    cause: Reason,
    file: &File,
    rotated: &Path,
    is_linked: bool,
) -> Result<(), RotateFault> {
    let log = &shared.options.path;
    let is_power_safe = shared.options.durability == Durability::PowerSafe;
    let mut writer = shared.hold()?;
    let in_place = writer.settle();
    if in_place.is_ok() != is_linked {
        return Err(in_place.err().unwrap_or(NotRecorded::Changed).into());
    }
    match in_place {
        Ok(()) => {
            if writer.head.segment_records > 0 && !writer.seal((shared.options.clock)(), cause)? {
                return Err(RotateFault::NoKey);
            }
            if is_power_safe {
                writer.sink.file().sync_data()?;
            }
        }
        // A log that cannot be written for want of space, or that does not answer, is no log to be replaced.
        Err(fault @ (NotRecorded::Full | NotRecorded::Blocked | NotRecorded::Unwritable { .. })) => {
            return Err(fault.into());
        }
        Err(_) if cause != Reason::Command => return Err(NotRecorded::Missing.into()),
        Err(_) => {}
    }
    let reason = if in_place.is_ok() { cause } else { Reason::LogReplaced };
    let line = writer.continuation((shared.options.clock)(), reason);
    let mut new = file;
    new.write_all(&line)?;
    if is_power_safe {
        file.sync_all()?;
    }
    if !is_linked {
        save_what_is_held(&writer, log, rotated)?;
    }
    let sink = Box::new(FileSink::new(log, file.try_clone()?)?);
    std::fs::rename(coming_path(log), log)?;
    let old = writer.sink.file();
    writer.continue_in(sink, &line);
    let new = writer.sink.file();
    let written_bytes = writer.written_bytes;
    if is_power_safe {
        shared.switch_disk(Arc::clone(&new), written_bytes);
    }
    drop(writer);
    // The rotation stands. What the disk has not got by now, the next round of upkeep sees to.
    if !is_power_safe && old.sync_data().is_ok() && new.sync_all().is_ok() {
        shared.switch_disk(new, written_bytes);
    }
    file::sync_directory(file::directory_of(log)).ok();
    Ok(())
}

/// Copies the records from the file that is held, if they are still in it, and moves away what took its place.
fn save_what_is_held(writer: &Holding<'_>, log: &Path, rotated: &Path) -> io::Result<()> {
    if writer.holds_our_tail() {
        let held = writer.sink.file();
        let copy = file::create_new(rotated, Access::Append, 0o600)?;
        let mut buffer = vec![0; 1 << 20];
        let mut at = 0;
        while at < writer.head.bytes {
            let want = usize::try_from(writer.head.bytes - at).unwrap_or(usize::MAX).min(buffer.len());
            let count = read_up_to(&held, &mut buffer[..want], at)?;
            if count == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            (&copy).write_all(&buffer[..count])?;
            at += count as u64;
        }
        copy.sync_all()?;
    }
    let mut foreign = log.as_os_str().to_owned();
    foreign.push(format!(".foreign-{}", writer.head.next_seq));
    match std::fs::rename(log, PathBuf::from(foreign)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn remove_if_there(path: &Path) -> io::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Removes the oldest files until the rest fits the budget, as far as their records were handed off the machine.
pub(super) fn remove_within_budget(shared: &Shared) {
    let Some(max_bytes) = shared.options.max_bytes else { return };
    let _one_at_a_time = shared.chores.lock();
    let checkpointed = shared.checkpointed.load(Ordering::Relaxed);
    let log = &shared.options.path;
    loop {
        let Ok(parts) = parts(log) else { return };
        let total: u64 = parts.iter().map(|part| part.bytes).sum();
        let [oldest, younger, ..] = parts.as_slice() else { return };
        if total <= max_bytes || oldest.path == *log {
            return;
        }
        let first_kept = line_at(&younger.file, 0).ok().flatten();
        let first_kept = first_kept.and_then(|line| Link::read(&line).map(|link| link.seq));
        if first_kept.is_none_or(|seq| seq > checkpointed)
            || keep_seals(log, &oldest.file).is_err()
            || std::fs::remove_file(&oldest.path).is_err()
        {
            return;
        }
    }
}

/// Appends to `NAME.seals` what is needed to prove, without the file, that the keys of the next one descend from the
/// root: the first record of the chain, every seal, and the last record. Half a kilobyte for a thousand records.
fn keep_seals(log: &Path, removed: &File) -> io::Result<()> {
    let path = seals_path(log);
    let kept = match file::open_existing(&path, Access::Append) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            file::create_new(&path, Access::Append, 0o600)?
        }
        other => other?,
    };
    // A crash may have left half a line, or the seals of a file that was not removed after all.
    let mut lines = Lines::new(&kept);
    let (mut last_seq, mut bytes) = (None, 0);
    while let Some(line) = lines.next_line()? {
        last_seq = Link::read(line).map(|link| link.seq).or(last_seq);
        bytes += line.len() as u64 + 1;
    }
    kept.set_len(bytes)?;
    let is_new = |seq: u64| last_seq.is_none_or(|last| seq > last);
    let mut text = Vec::new();
    let mut last_line = Vec::new();
    let mut is_last_kept = true;
    let mut lines = Lines::new(removed);
    while let Some(line) = lines.next_line()? {
        let has_key = memchr::memmem::find(line, b",\"next_key\":\"").is_some();
        is_last_kept = false;
        last_line.clear();
        last_line.extend_from_slice(line);
        if has_key
            && let Some(link) = Link::read(line)
            && (link.is_seal() || link.is_genesis())
        {
            is_last_kept = true;
            if is_new(link.seq) {
                text.extend_from_slice(line);
                text.push(b'\n');
            }
        }
    }
    if !is_last_kept && Link::read(&last_line).is_some_and(|link| is_new(link.seq)) {
        text.extend_from_slice(&last_line);
        text.push(b'\n');
    }
    (&kept).write_all(&text)?;
    kept.sync_all()
}
