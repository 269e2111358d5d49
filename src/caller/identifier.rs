//! From a request's header to a [`Caller`], and what may be remembered between requests.

use std::ffi::OsStr;
use std::io;
use std::num::NonZeroUsize;
use std::os::fd::BorrowedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use lru::LruCache;
use parking_lot::Mutex;

use super::cgroup::Place;
use super::consumer::{Consumers, usual_root};
use super::executable::Executables;
use super::person::{Caller, Known};
use super::watched::Watched;
use super::{Asker, SelfAccess, proc_text};
use crate::model::Unknown;
use crate::sys::process::{self, FileStatus, PidFd, ProcDirectory, Scope, ThreadInfo};
use crate::sys::program_memory::ProgramMemory;

/// Longest `/proc` file that is read: a status line with 65,536 groups (`NGROUPS_MAX`) is the longest.
pub(super) const PROC_BYTES_MAX: usize = 1024 * 1024;
/// How often a read is repeated when the caller is moved to another cgroup meanwhile.
const MOVES_MAX: usize = 8;

/// Where facts of processes come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// `PIDFD_GET_INFO` on a kept pidfd: one ioctl a request (Linux 6.13).
    Pidfd,
    /// `/proc/TID/status`, `cgroup` and `stat` at each request.
    Proc,
}

/// What an [`Identifier`] may use.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// The mode to use; `None` takes the best that the kernel has.
    pub mode: Option<Mode>,
    /// Threads whose pidfd is kept, one descriptor each, and one more where a rule names an executable. Raise `RLIMIT_NOFILE` accordingly.
    pub threads_max: usize,
    /// Cgroups whose path is remembered.
    pub cgroups_max: usize,
    /// Executable paths that are remembered.
    pub executables_max: usize,
    /// Files remembered for each of those.
    pub executables_seen_max: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            mode: None,
            threads_max: 512,
            cgroups_max: 1024,
            executables_max: 1024,
            executables_seen_max: 32,
        }
    }
}

/// A thread that asked before. The pidfd means this thread for ever, so nothing here can become wrong.
#[derive(Debug)]
pub(super) struct Thread {
    pub(super) pidfd: PidFd,
    /// The inode number of the process's (not the thread's) pidfd.
    process_inode: u64,
    /// Guards the text of the executable's link, and the file it was the text for.
    executable_text: Mutex<Option<(FileStatus, Arc<str>)>>,
    /// Guards what the thread was last seen to run.
    program: Mutex<Option<Program>>,
}

/// What a thread was seen to run.
#[derive(Debug)]
struct Program {
    file: FileStatus,
    memory: ProgramMemory,
    seen: Instant,
}

/// How long a look at a thread's executable serves while the memory in which it runs is in use. That alone would do, but
/// for those who keep a program's memory in use beyond its end ([`ProgramMemory`] names them).
const LOOK_SERVES: Duration = Duration::from_secs(1);

impl Thread {
    /// The file that the thread was seen to run, where it cannot run another by now.
    pub(super) fn program(&self) -> Option<FileStatus> {
        let program = self.program.lock();
        let program = program.as_ref()?;
        (program.seen.elapsed() < LOOK_SERVES && program.memory.is_in_use()).then_some(program.file)
    }

    /// Remembers what the thread was seen to run.
    pub(super) fn keep_program(&self, file: FileStatus, memory: Option<ProgramMemory>) {
        *self.program.lock() = memory.map(|memory| Program { file, memory, seen: Instant::now() });
    }

    /// The text of the executable's link, read anew when the thread runs another file or the file changed.
    pub(super) fn executable_text(&self, facts: &FileStatus, read: impl FnOnce() -> Arc<str>) -> Arc<str> {
        let mut kept = self.executable_text.lock();
        match &*kept {
            Some((of, text)) if of == facts => Arc::clone(text),
            _ => {
                let text = read();
                *kept = Some((*facts, Arc::clone(&text)));
                text
            }
        }
    }
}

/// Tells who asks. One for the daemon.
pub struct Identifier {
    mode: Mode,
    own_pid: u32,
    /// Where the unified hierarchy is mounted, if it can be seen from here.
    cgroup_root: Option<PathBuf>,
    /// Where consumers' groups are looked at: also where the kernel does not say which cgroup we are in.
    consumer_root: Option<PathBuf>,
    threads: Mutex<LruCache<u32, Arc<Thread>>>,
    places: Mutex<LruCache<u64, Arc<Place>>>,
    pub(super) watched: Watched,
    pub(super) executables: Arc<dyn Executables>,
}

impl Identifier {
    /// Finds out what the kernel can do.
    ///
    /// # Errors
    /// When neither pidfds nor `/proc` can be read, or the forced mode is not there.
    pub fn new(options: Options, executables: Arc<dyn Executables>) -> io::Result<Self> {
        let mode = match options.mode {
            Some(Mode::Pidfd) if process::own_thread_info().is_err() => {
                return Err(io::Error::from(io::ErrorKind::Unsupported));
            }
            Some(mode) => mode,
            None if process::own_thread_info().is_ok() => Mode::Pidfd,
            None => Mode::Proc,
        };
        ProcDirectory::open(process::own_pid())?.read(c"status", PROC_BYTES_MAX)?;
        let bound = |count| NonZeroUsize::new(count).unwrap_or(NonZeroUsize::MIN);
        Ok(Self {
            mode,
            own_pid: process::own_pid(),
            consumer_root: find_cgroup_root().or_else(usual_root),
            cgroup_root: find_cgroup_root(),
            threads: Mutex::new(LruCache::new(bound(options.threads_max))),
            places: Mutex::new(LruCache::new(bound(options.cgroups_max))),
            watched: Watched::new(options.executables_max, options.executables_seen_max),
            executables,
        })
    }

    /// Tells whether the consumers that callers stand for are still there.
    #[must_use]
    pub fn consumers(&self) -> Consumers {
        Consumers::new(self.consumer_root.clone(), self.mode == Mode::Pidfd)
    }

    pub(super) fn consumer_root(&self) -> Option<&Path> {
        self.consumer_root.as_deref()
    }

    /// Where facts come from, for `doctor`.
    #[must_use]
    pub fn mode(&self) -> Mode {
        self.mode
    }

    /// Makes these the paths that rules on executables name, and remembers which files are there now. To be called
    /// at start and at each reload; none may lie on the daemon's own mount.
    pub fn watch_executables(&self, paths: &[PathBuf]) {
        self.watched.watch(paths);
    }

    /// Looks again at the paths watched. A file that comes and goes between two looks, with no decision on its path
    /// in between, is never seen: called from a timer this keeps upgrades in quick succession valid.
    pub fn look_at_executables(&self) {
        self.watched.look_again();
    }

    /// Who asks. The thread must wait for our answer until the [`Caller`] is dropped. For a thread that asked before
    /// nothing is read until some fact is asked for, and then one ioctl proves that it is still the same thread; a
    /// thread not known costs four system calls at once. A caller who cannot be identified is no error: he has a uid
    /// and a gid and nothing else.
    ///
    /// # Errors
    /// [`SelfAccess`] when the asker is a thread of this process.
    pub fn identify(&self, asker: Asker) -> Result<Caller<'_>, SelfAccess> {
        if self.mode == Mode::Pidfd
            && let Some(kept) = self.threads.lock().get(&asker.tid)
        {
            // Only foreign threads are kept. That a thread of our own has taken the number since is noticed as soon
            // as any fact is asked for, and harms no more than our own wait.
            return Ok(Caller::unread(self, asker, Arc::clone(kept)));
        }
        let known = self.know(asker.tid, None);
        if known.as_ref().is_some_and(|known| known.tgid() == self.own_pid) {
            self.threads.lock().pop(&asker.tid);
            return Err(SelfAccess);
        }
        Ok(Caller::new(self, asker, known))
    }

    /// Who is at the other end of a Unix socket: `SO_PEERCRED`'s values, and `SO_PEERPIDFD`'s where the kernel has
    /// it (Linux 6.5). The peer does not wait for us and may have exited: without its pidfd a process that took its
    /// number since, under the same uid and gid, cannot be told from it. A mismatch leaves him not identified.
    ///
    /// # Errors
    /// [`SelfAccess`] when the peer is this process.
    pub fn identify_peer(
        &self,
        uid: u32,
        gid: u32,
        pid: u32,
        pidfd: Option<BorrowedFd<'_>>,
    ) -> Result<Caller<'_>, SelfAccess> {
        if pid == self.own_pid {
            return Err(SelfAccess);
        }
        let known = self.know(pid, None).filter(|known| {
            let (euid, egid) = known.effective();
            let same_process = match (known, pidfd) {
                (_, None) => true,
                (Known::Kept { mark, .. }, Some(peer)) => {
                    process::pidfd_inode(peer).is_ok_and(|inode| inode == *mark)
                }
                // /proc/PID was opened before this: if the peer lives still, that was the peer's.
                (Known::Read { .. }, Some(peer)) => process::pidfd_is_alive(peer).unwrap_or(false),
            };
            known.tgid() == pid && (euid, egid) == (uid, gid) && same_process
        });
        Ok(Caller::new(self, Asker { uid, gid, tid: pid, is_resent: false }, known))
    }

    /// What is known of a thread; `kept` is what was kept of it, where the caller of this has that at hand.
    pub(super) fn know(&self, tid: u32, kept: Option<&Arc<Thread>>) -> Option<Known> {
        if tid == 0 {
            return None;
        }
        match self.mode {
            Mode::Pidfd => {
                let (thread, info) = self.thread(tid, kept)?;
                let mark = thread.process_inode;
                Some(Known::Kept { thread, info, mark })
            }
            Mode::Proc => {
                let directory = ProcDirectory::open(tid).ok()?;
                let status = proc_text::status(&directory.read(c"status", PROC_BYTES_MAX).ok()?)?;
                Some(Known::Read { directory: Arc::new(directory), status: Arc::new(status) })
            }
        }
    }

    /// The thread's kept pidfd, proven to be of a living thread by the ioctl that also says who it is.
    fn thread(&self, tid: u32, kept: Option<&Arc<Thread>>) -> Option<(Arc<Thread>, ThreadInfo)> {
        let kept = kept.cloned().or_else(|| self.threads.lock().get(&tid).cloned());
        if let Some(thread) = kept
            && let Ok(info) = thread.pidfd.info()
            && info.tid == tid
        {
            return Some((thread, info));
        }
        let opened = self.open_thread(tid);
        let mut threads = self.threads.lock();
        match &opened {
            Some((thread, _)) => threads.put(tid, Arc::clone(thread)),
            None => threads.pop(&tid),
        };
        opened
    }

    fn open_thread(&self, tid: u32) -> Option<(Arc<Thread>, ThreadInfo)> {
        let pidfd = self.open_pidfd(tid, Scope::Thread)?;
        let info = pidfd.info().ok().filter(|info| info.tid == tid)?;
        let process_inode = if info.tgid == tid {
            pidfd.inode().ok()?
        } else {
            let inode = self.open_pidfd(info.tgid, Scope::Process)?.inode().ok()?;
            // The thread still lives, so the process's number was its own when it was opened.
            pidfd.info().ok().filter(|again| again.tgid == info.tgid)?;
            inode
        };
        let (executable_text, program) = Default::default();
        Some((Arc::new(Thread { pidfd, process_inode, executable_text, program }), info))
    }

    /// Opens a pidfd, giving up kept ones when descriptors run out: identity comes before speed.
    fn open_pidfd(&self, id: u32, scope: Scope) -> Option<PidFd> {
        match PidFd::open(id, scope) {
            Err(error) if process::is_out_of_descriptors(&error) => {
                let mut threads = self.threads.lock();
                for _ in 0..16 {
                    threads.pop_lru();
                }
                drop(threads);
                PidFd::open(id, scope).ok()
            }
            opened => opened.ok(),
        }
    }

    /// The place of a thread in the cgroup tree, remembered by the id of its cgroup.
    pub(super) fn place(&self, known: &Known, directory: &ProcDirectory) -> Result<Arc<Place>, Unknown> {
        let Known::Kept { thread, info, .. } = known else {
            return Ok(Arc::new(Place::of(&read_cgroup(directory)?)?));
        };
        let mut id = info.cgroup_id;
        for _ in 0..MOVES_MAX {
            let path = read_cgroup(directory)?;
            let after = thread.pidfd.info().map_err(|_| Unknown)?.cgroup_id;
            if after == id && self.may_have_id(&path, id) {
                let place = Arc::new(Place::of(&path)?);
                self.places.lock().put(id, Arc::clone(&place));
                return Ok(place);
            }
            id = after;
        }
        Err(Unknown)
    }

    /// Whether the cgroup at `path` has this id: an id is the directory's inode number. The same id before and after
    /// the path was read leaves a move there and back, which would tie an id to a foreign path for good. Where the
    /// hierarchy cannot be seen the answer is yes: who is not root can make such moves within one unit only.
    fn may_have_id(&self, path: &[u8], id: u64) -> bool {
        self.cgroup_root.as_deref().and_then(|root| cgroup_inode(root, path)).is_none_or(|inode| inode == id)
    }

    /// The remembered place of the cgroup the caller is in, if any.
    pub(super) fn place_at_hand(&self, known: &Known) -> Option<Arc<Place>> {
        let Known::Kept { info, .. } = known else { return None };
        self.places.lock().get(&info.cgroup_id).cloned()
    }
}

fn read_cgroup(directory: &ProcDirectory) -> Result<Vec<u8>, Unknown> {
    let text = directory.read(c"cgroup", PROC_BYTES_MAX).map_err(|_| Unknown)?;
    proc_text::unified_cgroup(&text).map(<[u8]>::to_vec).ok_or(Unknown)
}

pub(super) fn cgroup_inode(root: &Path, path: &[u8]) -> Option<u64> {
    let inner = OsStr::from_bytes(path.strip_prefix(b"/")?);
    process::file_status(&root.join(inner)).ok().map(|status| status.inode)
}

/// Where the unified hierarchy is: of the two usual places (`file-hierarchy(7)`), the one at which this process's
/// own cgroup has the id that the kernel says.
pub(super) fn find_cgroup_root() -> Option<PathBuf> {
    let id = process::own_thread_info().ok()?.cgroup_id;
    let path = read_cgroup(&ProcDirectory::open(process::own_tid()).ok()?).ok()?;
    let mut roots = ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"].into_iter().map(PathBuf::from);
    // The root of any file system may have the number that the root of the hierarchy has.
    let is_one = |root: &Path| root.join("cgroup.controllers").exists();
    roots.find(|root| is_one(root) && cgroup_inode(root, &path) == Some(id))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::caller::ProcExecutables;

    #[test]
    fn a_path_of_another_cgroup_is_not_taken_for_this_ids() {
        let identifier = Identifier::new(Options::default(), Arc::new(ProcExecutables::default())).unwrap();
        let root = identifier.cgroup_root.clone().expect("this test needs the unified cgroup hierarchy");
        let name = format!("credfs-test-{}-identifier", process::own_pid());
        std::fs::create_dir(root.join(&name)).expect("this test needs root");
        let path = format!("/{name}").into_bytes();
        let id = process::file_status(&root.join(&name)).unwrap().inode;
        let own = process::own_thread_info().unwrap().cgroup_id;
        let (own_is_refused, its_own_is_taken) =
            (!identifier.may_have_id(&path, own), identifier.may_have_id(&path, id));
        std::fs::remove_dir(root.join(&name)).unwrap();
        assert!(own_is_refused && its_own_is_taken);
    }

    #[test]
    fn kept_threads_stay_within_their_bound() {
        let options = Options { threads_max: 2, ..Options::default() };
        let identifier = Identifier::new(options, Arc::new(ProcExecutables::default())).unwrap();
        let mut children: Vec<_> =
            (0..4).map(|_| std::process::Command::new("sleep").arg("60").spawn().unwrap()).collect();
        for child in &children {
            assert!(identifier.know(child.id(), None).is_some());
        }
        assert_eq!(identifier.threads.lock().len(), 2);
        for child in &mut children {
            child.kill().unwrap();
            child.wait().unwrap();
        }
        assert!(identifier.know(children[3].id(), None).is_none());
        assert_eq!(identifier.threads.lock().len(), 1, "a dead thread's descriptor is given back");
    }
}
