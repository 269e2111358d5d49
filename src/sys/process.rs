//! Other processes as the kernel shows them: pidfds of single threads, files below `/proc/TID`, file identities
//! with birth time.

use std::ffi::CStr;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;
use std::time::Duration;

/// `struct pidfd_info` as first published (`include/uapi/linux/pidfd.h`, `PIDFD_INFO_SIZE_VER0`, Linux 6.13). The
/// size is part of the ioctl's number, so that later kernels fill exactly this much.
#[repr(C)]
#[derive(Default)]
struct RawInfo {
    mask: u64,
    cgroup_id: u64,
    pid: u32,
    tgid: u32,
    ppid: u32,
    ruid: u32,
    rgid: u32,
    euid: u32,
    egid: u32,
    suid: u32,
    sgid: u32,
    fsuid: u32,
    fsgid: u32,
    exit_code: i32,
}

const _: () = assert!(size_of::<RawInfo>() == 64);

const INFO_PID: u64 = 1;
const INFO_CREDENTIALS: u64 = 1 << 1;
const INFO_CGROUP_ID: u64 = 1 << 2;
/// `_IOWR(0xFF, 11, struct pidfd_info)` in the encoding of `asm-generic/ioctl.h`.
const PIDFD_GET_INFO: u64 = (3 << 30) | (64 << 16) | (0xFF << 8) | 11;

/// What the kernel says of one living thread, all at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ThreadInfo {
    /// Inode number of its cgroup in the unified hierarchy; never reused while the machine runs.
    pub cgroup_id: u64,
    /// The thread.
    pub tid: u32,
    /// The process (thread group).
    pub tgid: u32,
    /// Real, effective and saved user.
    pub uids: [u32; 3],
    /// Real, effective and saved group.
    pub gids: [u32; 3],
    /// User for file access.
    pub fsuid: u32,
    /// Group for file access.
    pub fsgid: u32,
}

/// Whether a pidfd stands for one thread or for a whole process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// One thread, leader or not (`PIDFD_THREAD`, Linux 6.9).
    Thread,
    /// A process, by the id of its leader (Linux 5.3).
    Process,
}

/// A handle on a thread or process that can never come to mean another one.
#[derive(Debug)]
pub struct PidFd(OwnedFd);

impl PidFd {
    /// Opens the handle.
    ///
    /// # Errors
    /// `ESRCH` when there is none such (5.x says `EINVAL` for a thread that is no leader), `EINVAL` where the
    /// kernel does not know the scope, `EMFILE`.
    pub fn open(id: u32, scope: Scope) -> io::Result<Self> {
        let id = libc::pid_t::try_from(id).map_err(|_| io::Error::from_raw_os_error(libc::ESRCH))?;
        let flags = match scope {
            Scope::Thread => libc::O_EXCL,
            Scope::Process => 0,
        };
        // SAFETY: pidfd_open takes two integers and touches no memory of ours.
        let descriptor = unsafe { libc::syscall(libc::SYS_pidfd_open, id, flags) };
        let descriptor = i32::try_from(descriptor).unwrap_or(-1);
        if descriptor < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the kernel just gave us this descriptor (close-on-exec by definition) and nobody else has it.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(descriptor) }))
    }

    /// Ids, credentials and cgroup of the thread at this moment (Linux 6.13).
    ///
    /// # Errors
    /// `ESRCH` when the thread is gone, `ENOTTY` or `EINVAL` on older kernels, `EOPNOTSUPP` without cgroups.
    pub fn info(&self) -> io::Result<ThreadInfo> {
        let wanted = INFO_PID | INFO_CREDENTIALS | INFO_CGROUP_ID;
        let mut raw = RawInfo { mask: wanted, ..RawInfo::default() };
        // SAFETY: the ioctl's number says 64 bytes, which is what `raw` has, and the kernel writes no more.
        let done = unsafe { libc::ioctl(self.0.as_raw_fd(), PIDFD_GET_INFO as _, &raw mut raw) };
        if done != 0 {
            return Err(io::Error::last_os_error());
        }
        if raw.mask & wanted != wanted {
            return Err(io::Error::from_raw_os_error(libc::EOPNOTSUPP));
        }
        Ok(ThreadInfo {
            cgroup_id: raw.cgroup_id,
            tid: raw.pid,
            tgid: raw.tgid,
            uids: [raw.ruid, raw.euid, raw.suid],
            gids: [raw.rgid, raw.egid, raw.sgid],
            fsuid: raw.fsuid,
            fsgid: raw.fsgid,
        })
    }

    /// Ends the process for good, whatever it does (SIGKILL).
    ///
    /// # Errors
    /// `ESRCH` when it is gone, `EPERM`.
    pub fn kill(&self) -> io::Result<()> {
        self.signal(libc::SIGKILL)
    }

    /// Has the process read its configuration again (SIGHUP).
    ///
    /// # Errors
    /// `ESRCH` when it is gone, `EPERM`.
    pub fn hang_up(&self) -> io::Result<()> {
        self.signal(libc::SIGHUP)
    }

    fn signal(&self, number: libc::c_int) -> io::Result<()> {
        let null = std::ptr::null::<libc::siginfo_t>();
        // SAFETY: the descriptor is open, and without a siginfo no pointer is followed.
        let result =
            unsafe { libc::syscall(libc::SYS_pidfd_send_signal, self.0.as_raw_fd(), number, null, 0) };
        if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }

    /// The handle's inode number, unique to the thread or process since boot (pidfs, Linux 6.9, 64-bit).
    ///
    /// # Errors
    /// None that a living descriptor is known to give.
    pub fn inode(&self) -> io::Result<u64> {
        descriptor_inode(self.0.as_raw_fd())
    }
}

impl AsFd for PidFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Whether a call failed because this process or the machine has no file descriptor left.
#[must_use]
pub fn is_out_of_descriptors(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE))
}

/// The inode number of a pidfd that somebody else opened, such as `SO_PEERPIDFD`'s.
///
/// # Errors
/// None that a living descriptor is known to give.
pub fn pidfd_inode(pidfd: BorrowedFd<'_>) -> io::Result<u64> {
    descriptor_inode(pidfd.as_raw_fd())
}

/// Whether the process behind a pidfd still lives (a dead one is readable).
///
/// # Errors
/// As poll(2) gives them.
pub fn pidfd_is_alive(pidfd: BorrowedFd<'_>) -> io::Result<bool> {
    let mut poll = libc::pollfd { fd: pidfd.as_raw_fd(), events: libc::POLLIN, revents: 0 };
    // SAFETY: one pollfd, which lives across the call; the timeout 0 makes it return at once.
    match unsafe { libc::poll(&raw mut poll, 1, 0) } {
        0 => Ok(true),
        ready if ready > 0 => Ok(false),
        _ => Err(io::Error::last_os_error()),
    }
}

/// What the kernel says of the calling thread; fails where it does not answer [`PidFd::info`] for single threads.
///
/// # Errors
/// As [`PidFd::open`] and [`PidFd::info`] give them.
pub fn own_thread_info() -> io::Result<ThreadInfo> {
    PidFd::open(own_tid(), Scope::Thread)?.info()
}

/// The id of this process.
#[must_use]
pub fn own_pid() -> u32 {
    std::process::id()
}

/// The id of the calling thread.
#[must_use]
pub fn own_tid() -> u32 {
    // SAFETY: gettid takes nothing and cannot fail.
    u32::try_from(unsafe { libc::gettid() }).unwrap_or(0)
}

/// Time since boot, sleep included (`CLOCK_BOOTTIME`), which is what start times in `/proc` count from.
#[must_use]
pub fn since_boot() -> Duration {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the kernel writes one timespec into ours. The clock exists since Linux 2.6.39.
    unsafe { libc::clock_gettime(libc::CLOCK_BOOTTIME, &raw mut now) };
    Duration::new(u64::try_from(now.tv_sec).unwrap_or(0), u32::try_from(now.tv_nsec).unwrap_or(0))
}

/// Clock ticks a second, the unit of start times in `/proc/PID/stat`; never 0.
#[must_use]
pub fn ticks_per_second() -> u64 {
    // SAFETY: sysconf takes a number and returns one.
    u64::try_from(unsafe { libc::sysconf(libc::_SC_CLK_TCK) }).ok().filter(|ticks| *ticks > 0).unwrap_or(100)
}

/// A moment as file systems write it: seconds and nanoseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FileTime {
    /// Seconds since 1970.
    pub seconds: i64,
    /// Nanoseconds within the second.
    pub nanoseconds: u32,
}

/// What tells one file from another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct FileStatus {
    /// Device number, as `st_dev` has it.
    pub device: u64,
    /// Inode number.
    pub inode: u64,
    /// When the inode was made; absent where the file system does not keep it.
    pub born: Option<FileTime>,
    /// Size in bytes.
    pub size_bytes: u64,
    /// Last change of inode or content.
    pub changed: FileTime,
    /// Last change of content.
    pub modified: FileTime,
    /// Names that lead to it; 0 for a deleted file or a memfd.
    pub link_count: u32,
    /// Whether it is a regular file.
    pub is_regular: bool,
}

/// The file at a path, symbolic links followed.
///
/// # Errors
/// As statx(2) gives them.
pub fn file_status(path: &Path) -> io::Result<FileStatus> {
    let path = std::ffi::CString::new(path.as_os_str().as_bytes())?;
    status_at(libc::AT_FDCWD, &path, libc::AT_NO_AUTOMOUNT)
}

/// An open file's identity.
///
/// # Errors
/// As statx(2) gives them.
pub fn open_file_status(file: &File) -> io::Result<FileStatus> {
    status_at(file.as_raw_fd(), c"", libc::AT_EMPTY_PATH)
}

fn status_at(directory: i32, path: &CStr, flags: i32) -> io::Result<FileStatus> {
    // SAFETY: all-zero is a valid statx; the kernel fills it.
    let mut raw: libc::statx = unsafe { std::mem::zeroed() };
    let mask = libc::STATX_BASIC_STATS | libc::STATX_BTIME;
    // SAFETY: `path` ends in NUL and `raw` has the size the kernel writes; both live across the call.
    if unsafe { libc::statx(directory, path.as_ptr(), flags, mask, &raw mut raw) } != 0 {
        return Err(io::Error::last_os_error());
    }
    let time = |stamp: &libc::statx_timestamp| FileTime { seconds: stamp.tv_sec, nanoseconds: stamp.tv_nsec };
    Ok(FileStatus {
        device: libc::makedev(raw.stx_dev_major, raw.stx_dev_minor),
        inode: raw.stx_ino,
        born: (raw.stx_mask & libc::STATX_BTIME != 0).then(|| time(&raw.stx_btime)),
        size_bytes: raw.stx_size,
        changed: time(&raw.stx_ctime),
        modified: time(&raw.stx_mtime),
        link_count: raw.stx_nlink,
        is_regular: u32::from(raw.stx_mode) & libc::S_IFMT == libc::S_IFREG,
    })
}

/// Major and minor of a device number.
#[must_use]
pub fn device_parts(device: u64) -> (u32, u32) {
    (libc::major(device), libc::minor(device))
}

/// `/proc/TID`, opened: everything read below it is of that one thread; once it is gone, reads give `ESRCH`.
#[derive(Debug)]
pub struct ProcDirectory(OwnedFd);

impl ProcDirectory {
    /// Opens the directory of a thread, leader or not.
    ///
    /// # Errors
    /// `ENOENT` when there is none such, or procfs hides it.
    pub fn open(tid: u32) -> io::Result<Self> {
        let path = std::ffi::CString::new(format!("/proc/{tid}"))?;
        open_at(libc::AT_FDCWD, &path, libc::O_PATH | libc::O_DIRECTORY).map(Self)
    }

    /// A whole small file; longer ones than `bytes_max` are refused, since half a file may lie.
    ///
    /// # Errors
    /// `ESRCH` or `ENOENT` when the thread is gone, `EFBIG` when the file is too long.
    pub fn read(&self, name: &CStr, bytes_max: usize) -> io::Result<Vec<u8>> {
        let file = self.open_file(name)?;
        let mut bytes = Vec::with_capacity(4096);
        file.take(bytes_max as u64 + 1).read_to_end(&mut bytes)?;
        if bytes.len() > bytes_max {
            return Err(io::Error::from_raw_os_error(libc::EFBIG));
        }
        Ok(bytes)
    }

    /// Opens a file below it to read, links (also `exe`) followed.
    ///
    /// # Errors
    /// As openat(2) gives them.
    pub fn open_file(&self, name: &CStr) -> io::Result<File> {
        open_at(self.0.as_raw_fd(), name, libc::O_RDONLY | libc::O_NONBLOCK | libc::O_NOCTTY).map(File::from)
    }

    /// The identity of what a link below it leads to. Asks no file server: a caller may run a program from a FUSE
    /// mount of his own, which must not be able to keep us waiting.
    ///
    /// # Errors
    /// `EACCES` without the right to trace the process, `ENOENT` for kernel threads.
    pub fn target_status(&self, name: &CStr) -> io::Result<FileStatus> {
        status_at(self.0.as_raw_fd(), name, libc::AT_NO_AUTOMOUNT | libc::AT_STATX_DONT_SYNC)
    }

    /// The text of a link below it.
    ///
    /// # Errors
    /// As readlinkat(2) gives them.
    pub fn link_text(&self, name: &CStr) -> io::Result<std::ffi::OsString> {
        let mut buffer = vec![0_u8; 4096];
        // SAFETY: the kernel writes at most the length given, which is the buffer's.
        let length = unsafe {
            libc::readlinkat(self.0.as_raw_fd(), name.as_ptr(), buffer.as_mut_ptr().cast(), buffer.len())
        };
        buffer.truncate(usize::try_from(length).map_err(|_| io::Error::last_os_error())?);
        Ok(std::ffi::OsString::from_vec(buffer))
    }
}

fn open_at(directory: i32, path: &CStr, flags: i32) -> io::Result<OwnedFd> {
    // SAFETY: `path` ends in NUL and lives across the call.
    let descriptor = unsafe { libc::openat(directory, path.as_ptr(), flags | libc::O_CLOEXEC) };
    if descriptor < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel just gave us this descriptor and nobody else has it.
    Ok(unsafe { OwnedFd::from_raw_fd(descriptor) })
}

fn descriptor_inode(descriptor: i32) -> io::Result<u64> {
    // SAFETY: all-zero is a valid stat; the kernel fills it.
    let mut raw: libc::stat = unsafe { std::mem::zeroed() };
    // SAFETY: the kernel writes one stat into ours.
    if unsafe { libc::fstat(descriptor, &raw mut raw) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(raw.st_ino)
}

/// Whether a thread of this process runs or waits for a CPU only: state `R` of proc_pid_stat(5).
#[must_use]
pub fn is_own_thread_running(tid: u32) -> bool {
    let Ok(stat) = std::fs::read_to_string(format!("/proc/self/task/{tid}/stat")) else { return false };
    stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('R'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_threads_handle_tells_its_own_ids_and_its_process() {
        let (tid, info, by_process) = std::thread::spawn(|| {
            let own = PidFd::open(own_tid(), Scope::Thread).unwrap();
            (own_tid(), own.info().unwrap(), PidFd::open(own_tid(), Scope::Process).is_err())
        })
        .join()
        .unwrap();
        assert_eq!((info.tid, info.tgid), (tid, own_pid()));
        assert_ne!(tid, own_pid());
        assert!(by_process, "a thread that is no leader has no process handle of its own");
    }

    #[test]
    fn a_handle_of_a_reaped_child_says_that_it_is_gone() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let handle = PidFd::open(child.id(), Scope::Thread).unwrap();
        assert_eq!(handle.info().unwrap().tgid, child.id());
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(handle.info().unwrap_err().raw_os_error(), Some(libc::ESRCH));
    }
}
