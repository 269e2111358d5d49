//! The files of a log: the current one, the rotated ones `NAME.1`, `NAME.2` … (a larger number is younger), and
//! `NAME.seals`, which keeps the seals of those that were removed.

use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use crate::sys::file::{self, Access};

/// Longest line there can be, in bytes: far above what the limits on names allow.
pub(super) const LINE_BYTES_MAX: usize = 64 * 1024;

fn with_suffix(log: &Path, suffix: &str) -> PathBuf {
    let mut name = log.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

/// Where the rotated file of that number lies.
pub(super) fn rotated_path(log: &Path, number: u64) -> PathBuf {
    with_suffix(log, &format!(".{number}"))
}

/// Where the next file is made before it takes the log's name.
pub(super) fn coming_path(log: &Path) -> PathBuf {
    with_suffix(log, ".new")
}

/// Where the seals of removed files are kept.
pub(super) fn seals_path(log: &Path) -> PathBuf {
    with_suffix(log, ".seals")
}

/// The numbers of the rotated files, rising.
pub(super) fn rotated_numbers(log: &Path) -> io::Result<Vec<u64>> {
    let Some(name) = log.file_name() else { return Ok(Vec::new()) };
    let prefix = [name.as_encoded_bytes(), b"."].concat();
    let mut numbers = Vec::new();
    for entry in std::fs::read_dir(file::directory_of(log))? {
        let entry = entry?.file_name();
        let digits = entry.as_encoded_bytes().strip_prefix(prefix.as_slice());
        let Some(digits) = digits.and_then(|digits| std::str::from_utf8(digits).ok()) else { continue };
        // Only the one way we write a number: no sign, no leading zero.
        if let Ok(number) = digits.parse::<u64>()
            && number.to_string() == digits
        {
            numbers.push(number);
        }
    }
    numbers.sort_unstable();
    Ok(numbers)
}

/// One file of a log, open for reading.
pub(super) struct Part {
    pub(super) path: PathBuf,
    pub(super) file: File,
    pub(super) bytes: u64,
}

/// All files of a log, oldest first. The listing is made again when a rotation went on meanwhile, and a file that has
/// two names (a rotation that was interrupted) counts once.
pub(super) fn parts(log: &Path) -> io::Result<Vec<Part>> {
    for _ in 0..20 {
        let before = rotated_numbers(log)?;
        let paths = before.iter().map(|number| rotated_path(log, *number)).chain([log.to_owned()]);
        let opened: io::Result<Vec<_>> = paths.map(open_part).collect();
        let after = rotated_numbers(log)?;
        match opened {
            Ok(mut parts) if before == after => {
                let mut seen = Vec::new();
                parts.retain(|(_, id)| {
                    let is_new = !seen.contains(id);
                    seen.push(*id);
                    is_new
                });
                return Ok(parts.into_iter().map(|(part, _)| part).collect());
            }
            Err(error) if before == after => return Err(error),
            _ => {}
        }
    }
    Err(io::Error::new(io::ErrorKind::ResourceBusy, "the log is being rotated all the time"))
}

/// Opens one file of a log.
pub(super) fn part_at(path: PathBuf) -> io::Result<Part> {
    open_part(path).map(|(part, _)| part)
}

fn open_part(path: PathBuf) -> io::Result<(Part, (u64, u64))> {
    let file = file::open_existing(&path, Access::Read)
        .map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", path.display())))?;
    let found = file.metadata()?;
    if !found.is_file() {
        let message = format!("{}: not a regular file", path.display());
        return Err(io::Error::new(io::ErrorKind::InvalidInput, message));
    }
    let id = (found.dev(), found.ino());
    Ok((Part { path, file, bytes: found.len() }, id))
}

/// The line that begins at `offset`, without its newline; `None` at the end, or where no newline follows.
pub(super) fn line_at(file: &File, offset: u64) -> io::Result<Option<Vec<u8>>> {
    let mut line = vec![0; 2048];
    loop {
        let count = read_up_to(file, &mut line, offset)?;
        if let Some(end) = memchr::memchr(b'\n', &line[..count]) {
            line.truncate(end);
            return Ok(Some(line));
        }
        if count < line.len() || line.len() >= LINE_BYTES_MAX {
            return Ok(None);
        }
        line.resize(LINE_BYTES_MAX, 0);
    }
}

/// Reads until `buffer` is full or the file ends.
pub(super) fn read_up_to(file: &File, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match file.read_at(&mut buffer[filled..], offset + filled as u64) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

/// Where the first line begins that begins at or after `offset`.
pub(super) fn next_line_start(file: &File, offset: u64, bytes: u64) -> io::Result<u64> {
    if offset == 0 {
        return Ok(0);
    }
    let mut at = offset - 1;
    let mut block = [0; 1024];
    while at < bytes {
        let count = read_up_to(file, &mut block, at)?;
        if count == 0 {
            break;
        }
        if let Some(found) = memchr::memchr(b'\n', &block[..count]) {
            return Ok(at + found as u64 + 1);
        }
        at += count as u64;
    }
    Ok(bytes)
}

/// Reads a file's lines in large steps and hands out each complete one, without its newline.
pub(super) struct Lines<'a> {
    file: &'a File,
    offset: u64,
    buffer: Vec<u8>,
    start: usize,
    filled: usize,
    /// Bytes after the last newline, once the end was reached.
    pub(super) torn_bytes: u64,
}

impl<'a> Lines<'a> {
    pub(super) fn new(file: &'a File) -> Self {
        Self { file, offset: 0, buffer: vec![0; 1 << 20], start: 0, filled: 0, torn_bytes: 0 }
    }

    /// The next line; `None` at the end.
    pub(super) fn next_line(&mut self) -> io::Result<Option<&[u8]>> {
        let mut searched = 0;
        loop {
            let rest = &self.buffer[self.start + searched..self.filled];
            if let Some(end) = memchr::memchr(b'\n', rest) {
                let from = self.start;
                self.start += searched + end + 1;
                return Ok(Some(&self.buffer[from..self.start - 1]));
            }
            searched = self.filled - self.start;
            self.buffer.copy_within(self.start..self.filled, 0);
            (self.start, self.filled) = (0, searched);
            if self.filled == self.buffer.len() {
                self.buffer.resize(2 * self.buffer.len(), 0);
            }
            let count = read_up_to(self.file, &mut self.buffer[self.filled..], self.offset)?;
            if count == 0 {
                self.torn_bytes = self.filled as u64;
                return Ok(None);
            }
            self.filled += count;
            self.offset += count as u64;
        }
    }
}
