//! The files that policy allows to run, by path: which one is there now, and which ones were. Paths are looked up
//! in this process's own mount namespace, so a bind mount in a caller's changes nothing.

use std::collections::{BTreeMap, VecDeque};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use parking_lot::Mutex;

use crate::model::UnixTime;
use crate::sys::process::{self, FileStatus, FileTime};

/// What tells a file from every other one, also from a later file with a used inode number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Identity {
    device: u64,
    inode: u64,
    born: Option<FileTime>,
}

impl Identity {
    fn of(status: &FileStatus) -> Self {
        Self { device: status.device, inode: status.inode, born: status.born }
    }
}

/// How long a look at a path serves for a file that has not changed since. A change of its own names shows in its
/// time of change; a directory above it that was renamed or mounted over shows in the next look.
const LOOK_SERVES: Duration = Duration::from_secs(1);

/// Whether a further change would show in the time of change: two within one tick of the kernel's clock (up to
/// 10 ms) have the same.
fn has_settled(status: &FileStatus) -> bool {
    let now = UnixTime::from(SystemTime::now()).micros() / 1_000_000;
    (status.changed.seconds + 1) < now
}

/// What was seen at one path.
#[derive(Default)]
struct Seen {
    /// The latest last.
    files: VecDeque<Identity>,
    /// When there was last a file, and when that file had last changed.
    looked: Option<(Instant, FileTime)>,
}

/// The registry: path → files seen there. Bounded in both directions.
pub(super) struct Watched {
    paths_max: usize,
    seen_max: usize,
    seen: Mutex<BTreeMap<PathBuf, Seen>>,
}

impl Watched {
    pub(super) fn new(paths_max: usize, seen_max: usize) -> Self {
        Self { paths_max, seen_max: seen_max.max(1), seen: Mutex::new(BTreeMap::new()) }
    }

    /// Makes `paths` the paths remembered, and looks at each. What was seen at those kept stays.
    pub(super) fn watch(&self, paths: &[PathBuf]) {
        self.seen.lock().retain(|path, _| paths.contains(path));
        for path in paths {
            self.look(path);
        }
    }

    /// Looks at every path again.
    pub(super) fn look_again(&self) {
        let paths: Vec<PathBuf> = self.seen.lock().keys().cloned().collect();
        for path in paths {
            self.look(&path);
        }
    }

    /// Whether `facts` is the file at `path` now, or was seen there. An earlier file counts only while some file is
    /// at the path, on the same device, and only with its birth time: an inode number is used again once the file
    /// is gone, and a device number once its file system is.
    pub(super) fn allows(&self, path: &Path, facts: &FileStatus) -> bool {
        let running = Identity::of(facts);
        if self.was_just_there(path, &running, facts) {
            return true;
        }
        let Some(now) = self.look(path) else { return false };
        if running == now {
            return true;
        }
        running.born.is_some()
            && running.device == now.device
            && self.seen.lock().get(path).is_some_and(|seen| seen.files.contains(&running))
    }

    /// Whether the last look at `path` found this very file, and it has been neither renamed nor unlinked since.
    fn was_just_there(&self, path: &Path, running: &Identity, facts: &FileStatus) -> bool {
        self.seen.lock().get(path).is_some_and(|seen| {
            seen.looked
                .is_some_and(|(when, changed)| changed == facts.changed && when.elapsed() < LOOK_SERVES)
                && running.born.is_some()
                && seen.files.back() == Some(running)
        })
    }

    fn look(&self, path: &Path) -> Option<Identity> {
        let status = process::file_status(path).ok().filter(|status| status.is_regular);
        let now = status.as_ref().map(Identity::of);
        let mut seen = self.seen.lock();
        if !seen.contains_key(path) {
            if seen.len() >= self.paths_max {
                return now;
            }
            seen.insert(path.to_owned(), Seen::default());
        }
        if let Some(seen) = seen.get_mut(path) {
            seen.looked = status.filter(has_settled).map(|status| (Instant::now(), status.changed));
            if let Some(now) = now
                && seen.files.back() != Some(&now)
            {
                seen.files.retain(|earlier| *earlier != now);
                if seen.files.len() >= self.seen_max {
                    seen.files.pop_front();
                }
                seen.files.push_back(now);
            }
        }
        now
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts_of(path: &Path) -> FileStatus {
        process::file_status(path).unwrap()
    }

    fn directory(name: &str) -> PathBuf {
        let path = std::env::temp_dir().join(format!("credfs-watched-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        path
    }

    fn replace(path: &Path, content: &str) {
        let beside = path.with_extension("new");
        std::fs::write(&beside, content).unwrap();
        std::fs::rename(beside, path).unwrap();
    }

    #[test]
    fn what_was_seen_at_the_path_stays_allowed_and_what_was_not_never_is() {
        let directory = directory("seen");
        let path = directory.join("program");
        replace(&path, "one");
        let one = facts_of(&path);
        let watched = Watched::new(8, 8);
        assert!(watched.allows(&path, &one));
        // The old file is held open, so its inode number is not used again.
        let held = std::fs::File::open(&path).unwrap();
        replace(&path, "two");
        let two = facts_of(&path);
        assert!(watched.allows(&path, &one) && watched.allows(&path, &two));
        let other = directory.join("other");
        replace(&other, "x");
        assert!(!watched.allows(&path, &facts_of(&other)));
        let unseeing = Watched::new(8, 8);
        assert!(!unseeing.allows(&path, &one), "never seen there by this registry");
        std::fs::remove_file(&path).unwrap();
        assert!(!watched.allows(&path, &one), "no file at the path allows nothing");
        drop(held);
        std::fs::remove_dir_all(directory).unwrap();
    }

    #[test]
    fn a_used_inode_number_with_another_birth_time_is_another_file() {
        let directory = directory("inode");
        let path = directory.join("program");
        replace(&path, "one");
        let one = facts_of(&path);
        let watched = Watched::new(8, 8);
        watched.watch(std::slice::from_ref(&path));
        replace(&path, "two");
        let later = FileTime { seconds: one.born.unwrap().seconds + 1, nanoseconds: 0 };
        assert!(!watched.allows(&path, &FileStatus { born: Some(later), ..one }));
        assert!(!watched.allows(&path, &FileStatus { born: None, ..one }));
        assert!(!watched.allows(&path, &FileStatus { device: one.device + 1, ..one }));
        assert!(watched.allows(&path, &one));
        std::fs::remove_dir_all(directory).unwrap();
    }

    #[test]
    fn a_file_seen_without_birth_time_or_on_another_device_counts_only_while_it_is_there() {
        let directory = directory("device");
        let path = directory.join("program");
        replace(&path, "one");
        let facts = facts_of(&path);
        let watched = Watched::new(8, 8);
        watched.watch(std::slice::from_ref(&path));
        let unborn = FileStatus { inode: facts.inode + 1, born: None, ..facts };
        let foreign = FileStatus { device: facts.device + 1, ..facts };
        let known = FileStatus { inode: facts.inode + 2, ..facts };
        for earlier in [&unborn, &foreign, &known] {
            let identity = Identity { device: earlier.device, inode: earlier.inode, born: earlier.born };
            watched.seen.lock().get_mut(&path).unwrap().files.push_front(identity);
        }
        assert!(!watched.allows(&path, &unborn), "its inode number may be a later file's");
        assert!(!watched.allows(&path, &foreign), "its device number may be a later file system's");
        assert!(watched.allows(&path, &known));
        std::fs::remove_dir_all(directory).unwrap();
    }

    #[test]
    fn paths_and_files_remembered_are_bounded_and_the_file_there_now_always_counts() {
        let directory = directory("bound");
        let watched = Watched::new(1, 2);
        let path = directory.join("program");
        let mut files = Vec::new();
        let mut held = Vec::new();
        for content in ["a", "b", "c"] {
            replace(&path, content);
            held.push(std::fs::File::open(&path).unwrap());
            files.push(facts_of(&path));
            assert!(watched.allows(&path, &files[files.len() - 1]));
        }
        assert!(!watched.allows(&path, &files[0]) && watched.allows(&path, &files[1]));
        let second = directory.join("second");
        replace(&second, "x");
        assert!(watched.allows(&second, &facts_of(&second)));
        assert_eq!(watched.seen.lock().len(), 1);
        std::fs::remove_dir_all(directory).unwrap();
    }
}
