//! The one that writes, under the log's lock: looks, formats, hashes, writes, and signs at the end of a segment.

use std::collections::VecDeque;
use std::io;

use super::chain::{hash, sign_line};
use super::keys::NumberedKey;
use super::record::{self, Entry, Moment, hex};
use super::sink::{Found, Sink};
use crate::model::{Operation, Outcome, Reason};

/// Why there is no record. Nothing may be released then. Each says where the remedy lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NotRecorded {
    /// Nothing is at the path.
    #[error(
        "the audit log was deleted or renamed: put it back, or begin a new file with credfs audit rotate"
    )]
    Missing,
    /// Another file is at the path.
    #[error(
        "the audit log was replaced by another file: put it back, or begin a new one with credfs audit rotate"
    )]
    Replaced,
    /// A directory, a FIFO, a symbolic link.
    #[error(
        "something that is not a regular file stands where the audit log was: remove it and put the log back"
    )]
    NotAFile,
    /// Truncated, or written to by someone else.
    #[error(
        "the audit log was changed from outside: put it back, or begin a new file with credfs audit rotate"
    )]
    Changed,
    /// No space, a quota, or a limit on file sizes.
    #[error("no space is left for the audit log: free some on its file system")]
    Full,
    /// Another record is stuck in the sink, or the sink answers too slowly.
    #[error("the audit log's file system does not answer: look for a stuck disk or server")]
    Blocked,
    /// The path cannot be looked at, or written to.
    #[error("the audit log cannot be written (system error {errno}): look at its file system")]
    Unwritable {
        /// The kernel's error number.
        errno: i32,
    },
}

impl NotRecorded {
    pub(super) fn of_io(error: &io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge => {
                Self::Full
            }
            _ => Self::Unwritable { errno: error.raw_os_error().unwrap_or(0) },
        }
    }
}

/// Where the chain stands.
#[derive(Debug, Clone)]
pub(super) struct Head {
    /// The number that the next record gets.
    pub(super) next_seq: u64,
    /// What the last line hashes to.
    pub(super) hash: [u8; 32],
    /// Length of the file as it was left.
    pub(super) bytes: u64,
    /// Length of the last line, its newline included.
    pub(super) last_line_bytes: usize,
    /// Records since the last seal.
    pub(super) segment_records: u32,
    /// When the first of them was written, on the clock since boot.
    pub(super) segment_since_us: u64,
}

pub(super) struct Writer {
    pub(super) sink: Box<dyn Sink>,
    pub(super) head: Head,
    /// The key of this segment, then those of the next ones.
    pub(super) ready: VecDeque<NumberedKey>,
    /// The first number of a key that was used and may not be erased from the key file yet.
    pub(super) unerased_from: u64,
    pub(super) boot_id: String,
    pub(super) segment_records_max: u32,
    /// Bytes written since the log was opened, over all files.
    pub(super) written_bytes: u64,
    line: Vec<u8>,
    /// The file was not as it was left: before the next record its last line must prove that it is again.
    suspect: bool,
    /// A write of ours ended in an unknown way: what is past the end as we know it is ours, to be cut back.
    unfinished: bool,
}

impl Writer {
    pub(super) fn new(
        sink: Box<dyn Sink>,
        head: Head,
        ready: VecDeque<NumberedKey>,
        boot_id: String,
        records_max: u32,
    ) -> Self {
        Self {
            sink,
            head,
            unerased_from: 0,
            ready,
            boot_id,
            segment_records_max: records_max.max(2),
            written_bytes: 0,
            line: Vec::with_capacity(1024),
            suspect: true,
            unfinished: false,
        }
    }

    /// Writes one record, and the seal after it where the segment is full.
    pub(super) fn record(
        &mut self,
        moment: Moment,
        body: &mut dyn FnMut(&mut Vec<u8>),
    ) -> Result<u64, NotRecorded> {
        let seq = self.append(moment, body)?;
        if self.head.segment_records == 0 {
            self.head.segment_since_us = moment.mono_us;
        }
        self.head.segment_records += 1;
        if self.head.segment_records + 1 >= self.segment_records_max {
            // The record stands. A seal that could not be written is tried again after the next one.
            self.seal_now_or_later(moment, Reason::Size);
        }
        Ok(seq)
    }

    /// Closes the segment. False: there was nothing to close, or no key is ready to be announced.
    pub(super) fn seal(&mut self, moment: Moment, reason: Reason) -> Result<bool, NotRecorded> {
        let [current, next] = [self.ready.pop_front(), self.ready.pop_front()];
        let sealed = match (&current, &next) {
            (Some(current), Some(next)) if self.head.segment_records > 0 => {
                let entry = Entry {
                    reason: Some(reason),
                    count: Some(self.head.segment_records.into()),
                    ..Entry::new(Operation::Seal, Outcome::Done)
                };
                let announced = next.public();
                let appended = self.append(moment, &mut |line| {
                    record::body(line, &entry);
                    announce(line, &announced);
                    sign_line(line, &current.key);
                });
                appended.map(|_| true)
            }
            _ => Ok(false),
        };
        if let Some(next) = next {
            self.ready.push_front(next);
        }
        if matches!(sealed, Ok(true)) {
            self.head.segment_records = 0;
        } else if let Some(current) = current {
            self.ready.push_front(current);
        }
        sealed
    }

    /// Closes the segment if that is possible now; it is tried again at the next occasion.
    pub(super) fn seal_now_or_later(&mut self, moment: Moment, reason: Reason) {
        self.seal(moment, reason).ok();
    }

    /// Writes one line, all or nothing.
    fn append(&mut self, moment: Moment, body: &mut dyn FnMut(&mut Vec<u8>)) -> Result<u64, NotRecorded> {
        self.settle()?;
        let seq = self.head.next_seq;
        record::begin(&mut self.line, seq, &self.head.hash, &self.boot_id, moment);
        body(&mut self.line);
        self.line.push(b'}');
        let hash = hash(&self.line);
        self.line.push(b'\n');
        let count = match self.sink.append(&self.line) {
            Ok(count) => count,
            Err(error) => {
                (self.suspect, self.unfinished) = (true, true);
                return Err(NotRecorded::of_io(&error));
            }
        };
        if count < self.line.len() {
            if self.sink.cut(self.head.bytes).is_err() {
                (self.suspect, self.unfinished) = (true, true);
            }
            return Err(NotRecorded::Full);
        }
        self.written_bytes += count as u64;
        self.head.next_seq += 1;
        self.head.hash = hash;
        self.head.bytes += count as u64;
        self.head.last_line_bytes = count;
        Ok(seq)
    }

    /// Sees to it that the path names the file that is held, as it was left.
    pub(super) fn settle(&mut self) -> Result<(), NotRecorded> {
        let found = self.sink.look().map_err(|error| NotRecorded::of_io(&error))?;
        if found == (Found::Ours { bytes: self.head.bytes }) && !self.suspect {
            return Ok(());
        }
        self.suspect = true;
        match found {
            Found::Nothing => Err(NotRecorded::Missing),
            Found::NotAFile => Err(NotRecorded::NotAFile),
            Found::Another => {
                let (hash, line_bytes) = (self.head.hash, self.head.last_line_bytes);
                let is_ours = |tail: &[u8]| ends_chain(tail, &hash);
                match self.sink.adopt(self.head.bytes, &is_ours, line_bytes) {
                    Ok(true) => {
                        (self.suspect, self.unfinished) = (false, false);
                        Ok(())
                    }
                    _ => Err(NotRecorded::Replaced),
                }
            }
            Found::Ours { mut bytes } => {
                if bytes > self.head.bytes && self.unfinished {
                    self.sink.cut(self.head.bytes).map_err(|error| NotRecorded::of_io(&error))?;
                    bytes = self.head.bytes;
                }
                if bytes != self.head.bytes || !self.holds_our_tail() {
                    return Err(NotRecorded::Changed);
                }
                (self.suspect, self.unfinished) = (false, false);
                Ok(())
            }
        }
    }

    /// Whether the file that is held, whatever its name now, still ends with the last line.
    pub(super) fn holds_our_tail(&self) -> bool {
        let tail = self.sink.tail(self.head.bytes, self.head.last_line_bytes);
        tail.is_ok_and(|tail| tail.len() == self.head.last_line_bytes && ends_chain(&tail, &self.head.hash))
    }

    /// Goes on in another file, which begins with `line`, the record that [`Self::continuation`] made.
    pub(super) fn continue_in(&mut self, sink: Box<dyn Sink>, line: &[u8]) {
        self.sink = sink;
        self.head.next_seq += 1;
        self.head.hash = hash(line.strip_suffix(b"\n").unwrap_or(line));
        self.head.bytes = line.len() as u64;
        self.head.last_line_bytes = line.len();
        self.head.segment_records += 1;
        self.written_bytes += line.len() as u64;
        (self.suspect, self.unfinished) = (false, false);
    }

    /// The first line of a file that goes on with this chain: it repeats the key in use, so that the file can be
    /// read without the one before.
    pub(super) fn continuation(&self, moment: Moment, reason: Reason) -> Vec<u8> {
        let entry = Entry { reason: Some(reason), ..Entry::new(Operation::Rotate, Outcome::Done) };
        let key = self.ready.front().map(NumberedKey::public);
        first_line(self.head.next_seq, &self.head.hash, &self.boot_id, moment, &entry, key)
    }
}

/// The first line of a chain.
pub(super) fn genesis(boot_id: &str, moment: Moment, key: [u8; 32]) -> Vec<u8> {
    let entry = Entry::new(Operation::Seal, Outcome::Done);
    first_line(0, &super::chain::NOTHING, boot_id, moment, &entry, Some(key))
}

fn first_line(
    seq: u64,
    prev: &[u8; 32],
    boot_id: &str,
    moment: Moment,
    entry: &Entry<'_>,
    key: Option<[u8; 32]>,
) -> Vec<u8> {
    let mut line = Vec::new();
    record::begin(&mut line, seq, prev, boot_id, moment);
    record::body(&mut line, entry);
    if let Some(key) = key {
        announce(&mut line, &key);
    }
    line.extend_from_slice(b"}\n");
    line
}

fn announce(line: &mut Vec<u8>, key: &[u8; 32]) {
    line.extend_from_slice(b",\"next_key\":\"");
    hex(line, key);
    line.push(b'"');
}

fn ends_chain(tail: &[u8], expected: &[u8; 32]) -> bool {
    tail.strip_suffix(b"\n").is_some_and(|line| hash(line) == *expected)
}
