//! Opening a log: take the lock, cut back what a crash tore, prove the open segment, find the key that goes on.
//!
//! A process can die between any two steps of writing; each leaves something that is recognised here. A torn last
//! line was never acknowledged and is cut off. A key that was used but not erased is erased later. A rotation that
//! had not yet given the new file its name has not happened.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::chain::{Fingerprint, Link, hash};
use super::files::{
    coming_path, line_at, next_line_start, parts, read_up_to, rotated_numbers, rotated_path, seals_path,
};
use super::keys::{KEYS_HELD, KeyFile, NumberedKey, path_beside};
use super::sink::FileSink;
use super::writer::{Head, Writer, genesis};
use super::{Moment, Options};
use crate::sys::file::{self, Access};

/// What opening a log found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Opened {
    /// The root of the chain that was begun now; `None` where one was continued. To be kept somewhere else.
    pub new_chain: Option<Fingerprint>,
    /// The root of the chain; `None` where its first record is gone.
    pub root: Option<Fingerprint>,
    /// The number of the next record.
    pub next_seq: u64,
    /// How many bytes of an unfinished last line were cut off.
    pub cut_bytes: u64,
}

/// Why a log cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenFault {
    /// Another process writes it.
    #[error("{path}: another process holds the audit log: ask it to do this, or stop it first")]
    Held {
        /// The key file, which is the lock.
        path: PathBuf,
    },
    /// A link, a directory, a FIFO.
    #[error("{path}: the audit log must be a regular file and no symbolic link: remove what stands there")]
    NotAFile {
        /// The log.
        path: PathBuf,
    },
    /// The end of the log is not what its writer left.
    #[error(
        "{path}: the last records do not fit together: run credfs audit verify, then move the log and its keys away \
         to begin a new chain"
    )]
    Damaged {
        /// The log.
        path: PathBuf,
    },
    /// The key file does not hold the key that the log announces.
    #[error(
        "{path}: the key that the last seal announces is not held: the log was cut or its keys are lost; restore both \
         together, or move both away to begin a new chain"
    )]
    KeyLost {
        /// The key file.
        path: PathBuf,
    },
    /// The system refused.
    #[error("{path}: {source}: see to the directory's owner, mode and space")]
    Io {
        /// What was being opened.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

fn io_at(path: &Path) -> impl FnOnce(io::Error) -> OpenFault + '_ {
    move |source| OpenFault::Io { path: path.to_owned(), source }
}

/// A log that was opened: who writes it, its keys, and what was found.
pub(super) struct Ready {
    pub(super) writer: Writer,
    pub(super) keys: KeyFile,
    pub(super) opened: Opened,
}

/// Opens the log of `options`, whose path is absolute.
pub(super) fn open(options: &Options) -> Result<Ready, OpenFault> {
    let log = &options.path;
    let keys_path = path_beside(log);
    let keys = lock(&keys_path, options.lock_wait_max)?;
    let boot_id = file::boot_id().map_err(io_at(Path::new("/proc/sys/kernel/random/boot_id")))?;
    undo_unfinished_rotation(log).map_err(io_at(log))?;
    let found = match file::open_existing(log, Access::Append) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(_) if std::fs::symlink_metadata(log).is_ok_and(|found| !found.is_file()) => {
            return Err(OpenFault::NotAFile { path: log.clone() });
        }
        other => Some(other.map_err(io_at(log))?),
    };
    let tail = match &found {
        Some(file) => {
            if !file::status_of(file).map_err(io_at(log))?.is_regular {
                return Err(OpenFault::NotAFile { path: log.clone() });
            }
            read_tail(file, (options.clock)()).map_err(io_at(log))?
        }
        None => Tail { cut_bytes: 0, end: End::Empty },
    };
    let (file, head, ready, new_chain) = match (found, tail.end) {
        (_, End::Damaged) => return Err(OpenFault::Damaged { path: log.clone() }),
        (Some(file), End::Known { head, announced }) => {
            let ready = keys_from(&keys, &announced, &keys_path)?;
            (file, head, ready, None)
        }
        (found, End::Empty) => {
            let begun = begin_chain(log, found, &keys, &boot_id, (options.clock)()).map_err(io_at(log))?;
            (begun.file, begun.head, begun.ready, Some(begun.root))
        }
        (None, End::Known { .. }) => return Err(OpenFault::Damaged { path: log.clone() }),
    };
    let opened = Opened {
        new_chain,
        root: new_chain.or_else(|| root_of(log)),
        next_seq: head.next_seq,
        cut_bytes: tail.cut_bytes,
    };
    let sink = Box::new(FileSink::new(log, file).map_err(io_at(log))?);
    let mut writer = Writer::new(sink, head, ready, boot_id, options.segment_records_max);
    let first = writer.ready.front().map_or(0, |key| key.number);
    let oldest = keys.oldest_number().map_err(io_at(&keys_path))?;
    writer.unerased_from = oldest.unwrap_or(first).min(first);
    Ok(Ready { writer, keys, opened })
}

fn lock(path: &Path, wait_max: Duration) -> Result<KeyFile, OpenFault> {
    let deadline = Instant::now() + wait_max;
    loop {
        let keys = KeyFile::open(path.to_owned()).map_err(io_at(path))?;
        if keys.try_lock().map_err(io_at(path))? {
            return Ok(keys);
        }
        if Instant::now() >= deadline {
            return Err(OpenFault::Held { path: path.to_owned() });
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Takes a rotation back that stopped before the new file had the log's name: until then both names are one file.
fn undo_unfinished_rotation(log: &Path) -> io::Result<()> {
    match std::fs::remove_file(coming_path(log)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let Some(number) = rotated_numbers(log)?.pop() else { return Ok(()) };
    let youngest = rotated_path(log, number);
    let same = |a: io::Result<file::FileStatus>, b: io::Result<file::FileStatus>| match (a, b) {
        (Ok(a), Ok(b)) => (a.device, a.inode) == (b.device, b.inode),
        _ => false,
    };
    let status =
        |path: &Path| file::open_existing(path, Access::Read).and_then(|file| file::status_of(&file));
    if same(status(log), status(&youngest)) {
        std::fs::remove_file(&youngest)?;
    }
    Ok(())
}

enum End {
    /// No record at all.
    Empty,
    /// The chain stands here, and this key signs.
    Known { head: Head, announced: [u8; 32] },
    /// The records of the open segment do not fit together.
    Damaged,
}

struct Tail {
    cut_bytes: u64,
    end: End,
}

/// Reads the segment that is open, and cuts off what follows the last newline.
fn read_tail(file: &File, now: Moment) -> io::Result<Tail> {
    let bytes = file::status_of(file)?.bytes;
    let mut window = 1_u64 << 20;
    loop {
        let start = next_line_start(file, bytes.saturating_sub(window), bytes)?;
        let mut text = vec![0; usize::try_from(bytes - start).unwrap_or(usize::MAX)];
        let count = read_up_to(file, &mut text, start)?;
        text.truncate(count);
        let complete = memchr::memrchr(b'\n', &text).map_or(0, |at| at + 1);
        let announced_at = memchr::memmem::rfind(&text[..complete], b",\"next_key\":\"");
        if announced_at.is_none() && start > 0 {
            window *= 4;
            continue;
        }
        let cut_bytes = (text.len() - complete) as u64;
        if cut_bytes > 0 {
            file.set_len(start + complete as u64)?;
        }
        text.truncate(complete);
        let end = match announced_at {
            _ if complete == 0 => End::Empty,
            None => End::Damaged,
            Some(at) => {
                let from = memchr::memrchr(b'\n', &text[..at]).map_or(0, |newline| newline + 1);
                walk(&text[from..], start + complete as u64, now).unwrap_or(End::Damaged)
            }
        };
        return Ok(Tail { cut_bytes, end });
    }
}

/// Follows the chain from the line that announces the key of the open segment to the last one.
fn walk(text: &[u8], bytes: u64, now: Moment) -> Option<End> {
    let mut lines = text.split_inclusive(|byte| *byte == b'\n');
    let first = lines.next()?;
    let link = Link::read(first)?;
    let announced = link.next_key()?;
    let mut head = Head {
        next_seq: link.seq.checked_add(1)?,
        hash: hash(first.strip_suffix(b"\n")?),
        bytes,
        last_line_bytes: first.len(),
        segment_records: u32::from(!link.is_seal()),
        segment_since_us: now.mono_us,
    };
    for line in lines {
        let link = Link::read(line)?;
        if link.seq != head.next_seq || link.prev()? != head.hash {
            return None;
        }
        head.next_seq = link.seq.checked_add(1)?;
        head.hash = hash(line.strip_suffix(b"\n")?);
        head.last_line_bytes = line.len();
        head.segment_records += 1;
    }
    Some(End::Known { head, announced })
}

/// The key that was announced and those that follow it without a gap.
fn keys_from(keys: &KeyFile, announced: &[u8; 32], path: &Path) -> Result<VecDeque<NumberedKey>, OpenFault> {
    let mut ready: VecDeque<NumberedKey> = VecDeque::new();
    for key in keys.keys().map_err(io_at(path))? {
        match ready.back() {
            None if key.public() == *announced => ready.push_back(key),
            Some(last) if key.number == last.number + 1 => ready.push_back(key),
            _ => {}
        }
    }
    let Some(first) = ready.front() else { return Err(OpenFault::KeyLost { path: path.to_owned() }) };
    if ready.len() < 2 {
        let next = first.number + 1;
        ready.extend(keys.make(next..next + KEYS_HELD / 2).map_err(io_at(path))?);
    }
    Ok(ready)
}

struct Begun {
    file: File,
    head: Head,
    ready: VecDeque<NumberedKey>,
    root: Fingerprint,
}

/// Begins a chain. The keys are on the disk before the first of them is announced.
fn begin_chain(
    log: &Path,
    empty: Option<File>,
    keys: &KeyFile,
    boot_id: &str,
    now: Moment,
) -> io::Result<Begun> {
    keys.erase_all()?;
    let ready: VecDeque<_> = keys.make(0..KEYS_HELD)?.into();
    let public = ready.front().map(NumberedKey::public).unwrap_or_default();
    let file = match empty {
        Some(file) => file,
        None => file::create_new(log, Access::Append, 0o600)?,
    };
    let line = genesis(boot_id, now, public);
    (&file).write_all(&line)?;
    file.sync_all()?;
    file::sync_directory(file::directory_of(log))?;
    let head = Head {
        next_seq: 1,
        hash: hash(line.strip_suffix(b"\n").unwrap_or(&line)),
        bytes: line.len() as u64,
        last_line_bytes: line.len(),
        segment_records: 1,
        segment_since_us: now.mono_us,
    };
    Ok(Begun { file, head, ready, root: Fingerprint::of_key(&public) })
}

/// The root that the first record announces, wherever it is now.
fn root_of(log: &Path) -> Option<Fingerprint> {
    let of_line = |line: Vec<u8>| {
        let link = Link::read(&line)?;
        if link.is_genesis() { link.next_key().map(|key| Fingerprint::of_key(&key)) } else { None }
    };
    let oldest = parts(log).ok()?.into_iter().next()?;
    line_at(&oldest.file, 0).ok()?.and_then(of_line).or_else(|| {
        let seals = file::open_existing(&seals_path(log), Access::Read).ok()?;
        of_line(line_at(&seals, 0).ok()??)
    })
}
