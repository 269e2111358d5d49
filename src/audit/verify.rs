//! Proving a log: every record chained to the one before, every segment signed by the key that the one before
//! announced, and the last announced key still held by the machine.
//!
//! What it can prove: nobody changed, removed, added or moved a record of a sealed segment, and, where the key file
//! can be read, that no sealed segment was cut off the end, for the keys announced there are erased once used.
//! What it cannot: that the open segment (`unsealed` records) is as it was written; its records are only chained.

use std::io;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::chain::{Fingerprint, Link, NOTHING, hash, is_signed};
use super::checkpoint::Checkpoint;
use super::files::{Lines, Part, parts, seals_path};
use super::keys::{path_beside, public_halves};
use crate::sys::file::{self, Access};

/// The first bad record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Fault {
    /// The file it is in.
    pub file: PathBuf,
    /// Its line there, from 1.
    pub line: u64,
    /// The number that the record there has, or should have.
    pub seq: u64,
    /// What is wrong.
    pub what: String,
}

/// Whether the machine holds the key that goes on with the chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum HeldKey {
    /// It does: no sealed segment was cut off.
    Held,
    /// It holds others: reported as a fault.
    Lost,
    /// The key file is not there or cannot be read, so a cut between two segments cannot be seen.
    Unknown,
}

/// What a verification found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Verdict {
    /// Whether everything fits.
    pub ok: bool,
    /// How many records were good, up to the first bad one.
    pub records: u64,
    /// The number of the first record there.
    pub first: Option<u64>,
    /// The number of the last good record.
    pub last: Option<u64>,
    /// The root of the chain; `None` where it could not be followed that far back.
    pub root: Option<Fingerprint>,
    /// Whether the root is the one that was given. Without, a whole new log could stand in its place.
    pub root_pinned: bool,
    /// How many seals were good.
    pub seals: u64,
    /// How many records at the end no seal covers yet.
    pub unsealed: u64,
    /// Bytes after the last newline: a record that was being written, or that a crash cut short.
    pub torn_bytes: u64,
    /// Whether the end is the end.
    pub held_key: HeldKey,
    /// The first bad record.
    pub fault: Option<Fault>,
}

/// Proves the log at `path`, from the root that was kept elsewhere.
///
/// # Errors
/// Where a file cannot be read; `NotFound` where there is no log.
pub fn verify(path: &Path, root: Option<&Fingerprint>) -> io::Result<Verdict> {
    verify_with(path, root, None)
}

/// Proves the log at `path`, from its root and up to a checkpoint that were kept elsewhere.
///
/// # Errors
/// Where a file cannot be read; `NotFound` where there is no log.
pub fn verify_with(
    path: &Path,
    root: Option<&Fingerprint>,
    checkpoint: Option<&Checkpoint>,
) -> io::Result<Verdict> {
    // Before the log: then the log reaches at least as far as the keys, however much is written meanwhile.
    let held = public_halves(&path_beside(path)).ok().filter(|keys| !keys.is_empty());
    let parts = parts(path)?;
    let mut walk = Walk::new(held, checkpoint);
    let mut at = Place { part: 0, line: 0 };
    let mut found = walk.follow(&parts, path, &mut at)?;
    if found.is_none() {
        found = walk.end(root, checkpoint).map(|what| (at, walk.next_seq, what));
    }
    let fault = found.map(|(at, seq, what)| Fault {
        file: parts.get(at.part).map_or_else(|| path.to_owned(), |part| part.path.clone()),
        line: at.line,
        seq,
        what,
    });
    Ok(Verdict {
        ok: fault.is_none(),
        records: walk.records,
        first: walk.first,
        last: walk.next_seq.checked_sub(1).filter(|_| walk.records > 0),
        root: walk.root,
        root_pinned: root.is_some() && walk.root.as_ref() == root,
        seals: walk.seals,
        unsealed: walk.unsealed,
        torn_bytes: walk.torn_bytes,
        held_key: walk.held_key(),
        fault,
    })
}

#[derive(Clone, Copy)]
struct Place {
    part: usize,
    line: u64,
}

type Found = (Place, u64, String);

struct Walk<'a> {
    held: Option<Vec<[u8; 32]>>,
    is_key_held: bool,
    checkpoint: Option<&'a Checkpoint>,
    is_checkpoint_met: bool,
    hash: [u8; 32],
    next_seq: u64,
    key: Option<[u8; 32]>,
    root: Option<Fingerprint>,
    first: Option<u64>,
    records: u64,
    seals: u64,
    unsealed: u64,
    torn_bytes: u64,
    segment_from: u64,
}

impl<'a> Walk<'a> {
    fn new(held: Option<Vec<[u8; 32]>>, checkpoint: Option<&'a Checkpoint>) -> Self {
        Self {
            held,
            is_key_held: false,
            checkpoint,
            is_checkpoint_met: false,
            hash: NOTHING,
            next_seq: 0,
            key: None,
            root: None,
            first: None,
            records: 0,
            seals: 0,
            unsealed: 0,
            torn_bytes: 0,
            segment_from: 0,
        }
    }

    fn held_key(&self) -> HeldKey {
        match &self.held {
            None => HeldKey::Unknown,
            Some(_) if self.is_key_held => HeldKey::Held,
            Some(_) => HeldKey::Lost,
        }
    }

    /// Goes through all lines of all files; the first bad one.
    fn follow(&mut self, parts: &[Part], log: &Path, at: &mut Place) -> io::Result<Option<Found>> {
        let mut before = Place { part: 0, line: 0 };
        for (index, part) in parts.iter().enumerate() {
            let mut lines = Lines::new(&part.file);
            *at = Place { part: index, line: 0 };
            while let Some(line) = lines.next_line()? {
                at.line += 1;
                let Some(link) = Link::read(line) else {
                    return Ok(Some((*at, self.next_seq, "this is no record".into())));
                };
                if self.first.is_none() {
                    if let Some(what) = self.begin(&link, log)? {
                        return Ok(Some((*at, link.seq, what)));
                    }
                } else if link.prev() != Some(self.hash) || link.seq != self.next_seq {
                    let (seq, is_linked) = (link.seq, link.prev() == Some(self.hash));
                    let is_seal_good = self.key.is_some_and(|key| link.is_seal() && is_signed(line, &key));
                    let own = hash(line);
                    let is_intact = is_seal_good || follows(&mut lines, parts.get(index + 1), seq, &own)?;
                    let is_first_of_part = index > 0 && at.line == 1;
                    let mut found = self.judge(*at, before, seq, is_linked, is_intact);
                    if is_first_of_part && seq > self.next_seq && is_intact {
                        found.2.push_str(", at the end of the file before: cut off, or lost in a power cut");
                    }
                    return Ok(Some(found));
                }
                if let Some(what) = self.accept(line, &link) {
                    return Ok(Some((*at, link.seq, what)));
                }
                before = *at;
            }
            self.torn_bytes = lines.torn_bytes;
            if lines.torn_bytes > 0 && index + 1 < parts.len() {
                at.line += 1;
                return Ok(Some((*at, self.next_seq, "the file ends within a record".into())));
            }
        }
        Ok(None)
    }

    /// Which of two records that do not fit together is the bad one.
    fn judge(&self, at: Place, before: Place, seq: u64, is_linked: bool, is_intact: bool) -> Found {
        if seq > self.next_seq && !is_linked && is_intact {
            let missing = format!("records {} to {} are missing here", self.next_seq, seq - 1);
            return (at, self.next_seq, missing);
        }
        if seq == self.next_seq && is_intact {
            let what = "the record was changed: the next one does not follow from it".into();
            return (before, seq.saturating_sub(1), what);
        }
        if seq == self.next_seq {
            return (at, seq, "the record was changed: it does not follow from the one before".into());
        }
        (at, self.next_seq, format!("record {seq} stands where record {} belongs", self.next_seq))
    }

    /// The first record there is: of the chain, or of a file that goes on with a removed one.
    fn begin(&mut self, link: &Link<'_>, log: &Path) -> io::Result<Option<String>> {
        self.first = Some(link.seq);
        if link.is_genesis() {
            self.hash = NOTHING;
            return Ok(None);
        }
        let Some(before) = read_seals(log, link.seq)? else {
            return Ok(Some("the records before this one are missing, and so are their seals".into()));
        };
        let fits = link.prev() == Some(before.hash)
            && link.seq == before.next_seq
            && link.is_continuation()
            && link.next_key() == Some(before.key);
        if !fits {
            return Ok(Some("the record does not follow from the seals of the records before it".into()));
        }
        (self.root, self.key) = (Some(before.root), Some(before.key));
        (self.next_seq, self.segment_from) = (link.seq, link.seq);
        Ok(None)
    }

    /// Takes a record that follows from the one before; what is wrong with it by itself.
    fn accept(&mut self, line: &[u8], link: &Link<'_>) -> Option<String> {
        self.unsealed += 1;
        if link.is_genesis() {
            self.key = link.next_key();
            let Some(key) = self.key else { return Some("the first record announces no key".into()) };
            self.root = Some(Fingerprint::of_key(&key));
        } else if link.is_seal() {
            if !self.key.is_some_and(|key| is_signed(line, &key)) {
                return Some(format!(
                    "the seal of records {} to {} is not by the announced key: one of them was changed",
                    self.segment_from, link.seq
                ));
            }
            self.key = link.next_key();
            self.seals += 1;
            self.unsealed = 0;
            self.segment_from = link.seq + 1;
        } else if link.is_continuation() && link.next_key() != self.key {
            return Some("the record repeats another key than the announced one".into());
        }
        self.is_key_held |= self.held.as_ref().zip(self.key).is_some_and(|(held, key)| held.contains(&key));
        self.hash = hash(line);
        self.next_seq = link.seq + 1;
        self.records += 1;
        if let Some(checkpoint) = self.checkpoint
            && checkpoint.records == self.next_seq
        {
            if checkpoint.head != self.hash || Some(checkpoint.key) != self.key {
                return Some("the record is not the one that the checkpoint was made of".into());
            }
            self.is_checkpoint_met = true;
        }
        None
    }

    /// What is wrong with the log as a whole.
    fn end(&self, root: Option<&Fingerprint>, checkpoint: Option<&Checkpoint>) -> Option<String> {
        if self.first.is_none() {
            return Some("there is no record".into());
        }
        if root.is_some() && self.root.as_ref() != root {
            return Some("the chain does not begin with the root that was given: it is another log".into());
        }
        if let Some(checkpoint) = checkpoint {
            let is_removed = self.first.is_some_and(|first| first >= checkpoint.records);
            if checkpoint.root.is_some() && self.root.is_some() && checkpoint.root != self.root {
                return Some("the checkpoint is one of another log".into());
            }
            if !self.is_checkpoint_met && !is_removed {
                return Some(format!("the log was cut: the checkpoint knows {} records", checkpoint.records));
            }
        }
        (self.held_key() == HeldKey::Lost).then(|| {
            "the log was cut here, or its keys were replaced: the key announced last is not held".into()
        })
    }
}

/// Whether the next line follows from the line with this number and hash.
fn follows(lines: &mut Lines<'_>, next: Option<&Part>, seq: u64, own: &[u8; 32]) -> io::Result<bool> {
    let is_next = |line: &[u8]| {
        Link::read(line).is_some_and(|link| Some(link.seq) == seq.checked_add(1) && link.prev() == Some(*own))
    };
    if let Some(line) = lines.next_line()? {
        return Ok(is_next(line));
    }
    let Some(next) = next else { return Ok(false) };
    Ok(Lines::new(&next.file).next_line()?.is_some_and(is_next))
}

/// Where the kept seals of removed files lead to.
struct Before {
    hash: [u8; 32],
    next_seq: u64,
    key: [u8; 32],
    root: Fingerprint,
}

/// Follows the kept seals from the root to the record before `end`; `None` where they do not lead there.
fn read_seals(log: &Path, end: u64) -> io::Result<Option<Before>> {
    let file = match file::open_existing(&seals_path(log), Access::Read) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        other => other?,
    };
    let mut lines = Lines::new(&file);
    let mut before: Option<Before> = None;
    while let Some(line) = lines.next_line()? {
        let Some(link) = Link::read(line) else { return Ok(None) };
        // A file whose seals were kept but which was not removed after all.
        if link.seq >= end {
            break;
        }
        let (hash, next_seq) = (hash(line), link.seq + 1);
        before = match before {
            None if link.is_genesis() => {
                link.next_key().map(|key| Before { hash, next_seq, key, root: Fingerprint::of_key(&key) })
            }
            Some(known) if link.seq < known.next_seq => return Ok(None),
            Some(known) if link.is_seal() && is_signed(line, &known.key) => {
                link.next_key().map(|key| Before { hash, next_seq, key, root: known.root })
            }
            Some(known) if !link.is_seal() => Some(Before { hash, next_seq, ..known }),
            _ => return Ok(None),
        };
        if before.is_none() {
            return Ok(None);
        }
    }
    Ok(before)
}
