//! Which file a thread runs, and its digest. Seeing another user's executable needs CAP_SYS_PTRACE, so this is an
//! interface that a more privileged process can answer; [`ProcExecutables`] answers in this one.

use std::fs::File;
use std::io::Read;
use std::num::NonZeroUsize;
use std::path::PathBuf;

use lru::LruCache;
use parking_lot::Mutex;
use sha2::{Digest, Sha256};

use crate::model::{Sha256Digest, Unknown};
use crate::sys::process::{self, FileStatus, FileTime, ProcDirectory};
use crate::sys::program_memory::ProgramMemory;

/// Where the kernel lists FUSE connections, by the minor number of their device.
const FUSE_CONNECTIONS: &str = "/sys/fs/fuse/connections";

/// What one look at a thread's executable gave.
#[derive(Debug)]
pub struct SeenExecutable {
    /// The file.
    pub facts: FileStatus,
    /// The memory in which the thread runs it: while that is in use, the thread runs nothing else. `None` where the
    /// kernel gives no such sign.
    pub memory: Option<ProgramMemory>,
}

/// Facts of executables. A separate process may answer; every answer is of the thread that has the id *now*, so the
/// caller of this interface must know that the thread lives on, as one waiting for an answer does.
pub trait Executables: Send + Sync {
    /// The file the thread runs.
    ///
    /// # Errors
    /// [`Unknown`] for kernel threads, the dead, and without the right to look.
    fn executable_of(&self, tid: u32) -> Result<SeenExecutable, Unknown>;

    /// The text of `/proc/TID/exe`: any user can forge it with a mount namespace. For people, never for rules.
    ///
    /// # Errors
    /// As [`Self::executable_of`].
    fn path_unproven_of(&self, tid: u32) -> Result<String, Unknown>;

    /// The digest of the file the thread runs, which must still be the one expected. Reads the whole file unless
    /// the digest is at hand: seconds for a large one.
    ///
    /// # Errors
    /// [`Unknown`] when the file is another by now, changes while it is read, is larger than the limit or lies on
    /// a FUSE file system, whose server could keep the reader waiting for ever.
    fn digest_of(&self, tid: u32, expected: &FileStatus) -> Result<Sha256Digest, Unknown>;

    /// The digest if it can be had without reading the file.
    fn digest_at_hand(&self, facts: &FileStatus) -> Option<Sha256Digest>;
}

/// What stands for one content: a change of any byte changes `ctime`, which no program can set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Key {
    device: u64,
    inode: u64,
    size_bytes: u64,
    changed: FileTime,
    modified: FileTime,
}

impl Key {
    fn of(status: &FileStatus) -> Self {
        Self {
            device: status.device,
            inode: status.inode,
            size_bytes: status.size_bytes,
            changed: status.changed,
            modified: status.modified,
        }
    }
}

/// Limits of [`ProcExecutables`].
#[derive(Debug, Clone, Copy)]
struct Limits {
    hashed_bytes_max: u64,
}

/// Reads `/proc` of this machine with this process's own rights.
pub struct ProcExecutables {
    limits: Limits,
    /// Guards nothing but itself; never held while a file is read.
    digests: Mutex<LruCache<Key, Sha256Digest>>,
}

impl ProcExecutables {
    /// Largest file that is hashed by default: 512 MiB.
    pub const HASHED_BYTES_MAX: u64 = 512 * 1024 * 1024;
    /// Digests remembered by default.
    pub const DIGESTS_MAX: usize = 1024;

    /// Hashes files up to `hashed_bytes_max` and remembers `digests_max` digests (at least one).
    #[must_use]
    pub fn new(hashed_bytes_max: u64, digests_max: usize) -> Self {
        let digests_max = NonZeroUsize::new(digests_max).unwrap_or(NonZeroUsize::MIN);
        Self { limits: Limits { hashed_bytes_max }, digests: Mutex::new(LruCache::new(digests_max)) }
    }
}

impl Default for ProcExecutables {
    fn default() -> Self {
        Self::new(Self::HASHED_BYTES_MAX, Self::DIGESTS_MAX)
    }
}

impl Executables for ProcExecutables {
    fn executable_of(&self, tid: u32) -> Result<SeenExecutable, Unknown> {
        let directory = ProcDirectory::open(tid).map_err(|_| Unknown)?;
        // Opened before the look and in use after it: what was seen is what runs in it.
        let memory = ProgramMemory::open(&directory).ok();
        let facts = directory.target_status(c"exe").map_err(|_| Unknown)?;
        Ok(SeenExecutable { facts, memory: memory.filter(ProgramMemory::is_in_use) })
    }

    fn path_unproven_of(&self, tid: u32) -> Result<String, Unknown> {
        let directory = ProcDirectory::open(tid).map_err(|_| Unknown)?;
        Ok(directory.link_text(c"exe").map_err(|_| Unknown)?.to_string_lossy().into_owned())
    }

    fn digest_of(&self, tid: u32, expected: &FileStatus) -> Result<Sha256Digest, Unknown> {
        let directory = ProcDirectory::open(tid).map_err(|_| Unknown)?;
        let status = directory.target_status(c"exe").map_err(|_| Unknown)?;
        if !is_same_content(expected, &status)
            || status.size_bytes > self.limits.hashed_bytes_max
            || is_on_fuse(status.device)
        {
            return Err(Unknown);
        }
        if let Some(digest) = self.digest_at_hand(expected) {
            return Ok(digest);
        }
        let file = directory.open_file(c"exe").map_err(|_| Unknown)?;
        let digest = hash(&file, expected)?;
        self.digests.lock().put(Key::of(expected), digest);
        Ok(digest)
    }

    fn digest_at_hand(&self, facts: &FileStatus) -> Option<Sha256Digest> {
        self.digests.lock().get(&Key::of(facts)).copied()
    }
}

/// Whether a file still is the one that was seen, with every byte it had.
fn is_same_content(seen: &FileStatus, now: &FileStatus) -> bool {
    Key::of(seen) == Key::of(now) && seen.born == now.born && now.is_regular
}

/// Hashes exactly the file expected: looked at before and after, and never more bytes than it had.
fn hash(mut file: &File, expected: &FileStatus) -> Result<Sha256Digest, Unknown> {
    let is_expected =
        || process::open_file_status(file).is_ok_and(|status| is_same_content(expected, &status));
    if !is_expected() {
        return Err(Unknown);
    }
    let mut hasher = Sha256::new();
    let mut buffer = vec![0_u8; 256 * 1024];
    let mut read_bytes = 0;
    loop {
        let count = file.read(&mut buffer).map_err(|_| Unknown)?;
        read_bytes += count as u64;
        if count == 0 || read_bytes > expected.size_bytes {
            break;
        }
        hasher.update(&buffer[..count]);
    }
    if read_bytes != expected.size_bytes || !is_expected() {
        return Err(Unknown);
    }
    Ok(Sha256Digest(hasher.finalize().into()))
}

/// Whether a device is a FUSE mount, as fusectl lists them (`fs/fuse/control.c`). Where fusectl is not mounted
/// nothing is listed and the answer is no.
fn is_on_fuse(device: u64) -> bool {
    let (major, minor) = process::device_parts(device);
    major == 0 && PathBuf::from(FUSE_CONNECTIONS).join(minor.to_string()).exists()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_own_executable_has_the_digest_that_a_plain_read_gives() {
        let executables = ProcExecutables::default();
        let facts = executables.executable_of(process::own_pid()).unwrap().facts;
        assert_eq!(executables.digest_at_hand(&facts), None);
        let digest = executables.digest_of(process::own_pid(), &facts).unwrap();
        let bytes = std::fs::read(std::env::current_exe().unwrap()).unwrap();
        assert_eq!(digest, Sha256Digest(Sha256::digest(bytes).into()));
        assert_eq!(executables.digest_at_hand(&facts), Some(digest));
    }

    #[test]
    fn a_file_over_the_limit_or_other_than_expected_has_no_digest() {
        let executables = ProcExecutables::new(1000, 4);
        let facts = executables.executable_of(process::own_pid()).unwrap().facts;
        assert_eq!(executables.digest_of(process::own_pid(), &facts), Err(Unknown));
        let executables = ProcExecutables::default();
        let other = FileStatus { inode: facts.inode + 1, ..facts };
        assert_eq!(executables.digest_of(process::own_pid(), &other), Err(Unknown));
    }
}
