//! Where lines go: one file, at the end, after a look whether its path still names it.

use std::ffi::CString;
use std::fs::File;
use std::io::{self, Seek as _, SeekFrom, Write as _};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::files::read_up_to;
use crate::sys::file::{self, Access, FileStatus};
use crate::sys::inotify::NameWatch;

/// What lies at the log's path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Found {
    /// The file that is held, with this many bytes.
    Ours {
        /// Its length.
        bytes: u64,
    },
    /// Nothing.
    Nothing,
    /// Another regular file.
    Another,
    /// A directory, a FIFO, a symbolic link …
    NotAFile,
}

/// What the log writes to. One implementation is a file; tests put one that blocks in its place.
pub(super) trait Sink: Send {
    /// What the path names now.
    fn look(&mut self) -> io::Result<Found>;
    /// Writes at the end, in one system call; how much was written.
    fn append(&mut self, line: &[u8]) -> io::Result<usize>;
    /// Cuts the file back.
    fn cut(&mut self, bytes: u64) -> io::Result<()>;
    /// The last `count` bytes before `end`.
    fn tail(&self, end: u64, count: usize) -> io::Result<Vec<u8>>;
    /// Holds the regular file at the path from now on, if it has `bytes` bytes and ends with `tail`.
    fn adopt(&mut self, bytes: u64, tail: &dyn Fn(&[u8]) -> bool, tail_bytes: usize) -> io::Result<bool>;
    /// The file, to have the disk remember it without holding up who writes.
    fn file(&self) -> Arc<File>;
}

/// How long the kernel's silence about the path is trusted: something mounted over a directory above it goes without
/// a note.
const SILENCE: Duration = Duration::from_millis(100);

/// A file at a path.
pub(super) struct FileSink {
    path: CString,
    file: Arc<File>,
    held: FileStatus,
    /// Where the kernel notes what happens to the names; `None` where it does not, and each look is a whole one.
    names: Option<NameWatch>,
    /// When the path was last seen to name the file that is held.
    seen: Option<Instant>,
}

impl FileSink {
    /// Holds `file`, which was opened at `path`.
    pub(super) fn new(path: &Path, file: File) -> io::Result<Self> {
        let held = file::status_of(&file)?;
        let names = NameWatch::of(&file, path).ok();
        Ok(Self {
            path: CString::new(path.as_os_str().as_bytes())?,
            file: Arc::new(file),
            held,
            names,
            seen: None,
        })
    }

    /// Whether nothing has happened to the names since the path was last seen to be right.
    fn is_undisturbed(&self) -> bool {
        self.seen.is_some_and(|seen| seen.elapsed() < SILENCE)
            && self.names.as_ref().is_some_and(|names| !names.has_news())
    }

    /// Looks at the path itself.
    fn look_at_path(&mut self) -> io::Result<Found> {
        self.seen = None;
        if let Some(names) = &self.names {
            // What is noted from here on happened after this look.
            names.has_news();
        }
        let found = match file::status_of_path(&self.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Found::Nothing),
            other => other?,
        };
        Ok(if !found.is_regular {
            Found::NotAFile
        } else if (found.device, found.inode) != (self.held.device, self.held.inode) || found.links == 0 {
            Found::Another
        } else {
            self.seen = Some(Instant::now());
            Found::Ours { bytes: found.bytes }
        })
    }
}

fn tail_of(file: &File, end: u64, count: usize) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; count];
    let read = read_up_to(file, &mut bytes, end.saturating_sub(count as u64))?;
    bytes.truncate(read);
    Ok(bytes)
}

impl Sink for FileSink {
    fn look(&mut self) -> io::Result<Found> {
        if self.is_undisturbed() {
            return Ok(Found::Ours { bytes: (&*self.file).seek(SeekFrom::End(0))? });
        }
        self.look_at_path()
    }

    fn append(&mut self, line: &[u8]) -> io::Result<usize> {
        loop {
            match (&*self.file).write(line) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                other => return other,
            }
        }
    }

    fn cut(&mut self, bytes: u64) -> io::Result<()> {
        self.file.set_len(bytes)
    }

    fn tail(&self, end: u64, count: usize) -> io::Result<Vec<u8>> {
        tail_of(&self.file, end, count)
    }

    fn adopt(&mut self, bytes: u64, tail: &dyn Fn(&[u8]) -> bool, tail_bytes: usize) -> io::Result<bool> {
        let path = Path::new(std::ffi::OsStr::from_bytes(self.path.as_bytes()));
        let file = file::open_existing(path, Access::Append)?;
        let found = file::status_of(&file)?;
        if !found.is_regular || found.bytes != bytes || !tail(&tail_of(&file, bytes, tail_bytes)?) {
            return Ok(false);
        }
        self.names = NameWatch::of(&file, path).ok();
        (self.file, self.held, self.seen) = (Arc::new(file), found, None);
        Ok(true)
    }

    fn file(&self) -> Arc<File> {
        Arc::clone(&self.file)
    }
}
