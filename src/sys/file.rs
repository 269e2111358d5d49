//! Files, as far as std has no name for it: status without following links, advisory locks, free space, and the
//! clock that counts from boot.

use std::ffi::CStr;
use std::fs::{File, OpenOptions};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

/// What a name in the file system stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileStatus {
    /// Device number (`st_dev`).
    pub device: u64,
    /// Inode number on that device.
    pub inode: u64,
    /// Whether it is a regular file.
    pub is_regular: bool,
    /// How many names it has; 0 once it is deleted.
    pub links: u64,
    /// Its length, in bytes.
    pub bytes: u64,
}

/// The status of what `path` names, a symbolic link itself rather than its target (`fstatat(2)`,
/// `AT_SYMLINK_NOFOLLOW`). It takes a C string so that a caller on a hot path allocates none.
///
/// # Errors
/// Whatever the kernel reports; `NotFound` where nothing has that name.
///
/// Asks for no times: since Linux 6.13 a look at `ctime` makes the next write take a fine-grained time and dirty the
/// inode (`fs/stat.c`, `fill_mg_cmtime`), which on ext4 costs as much again as the look.
pub fn status_of_path(path: &CStr) -> io::Result<FileStatus> {
    const WANTED: libc::c_uint = libc::STATX_TYPE | libc::STATX_NLINK | libc::STATX_INO | libc::STATX_SIZE;
    let mut status = MaybeUninit::<libc::statx>::uninit();
    // SAFETY: `path` is a valid C string and `status` has room for one struct statx.
    let outcome = unsafe {
        libc::statx(libc::AT_FDCWD, path.as_ptr(), libc::AT_SYMLINK_NOFOLLOW, WANTED, status.as_mut_ptr())
    };
    if outcome != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: statx succeeded, so it filled the struct.
    let status = unsafe { status.assume_init() };
    Ok(FileStatus {
        device: libc::makedev(status.stx_dev_major, status.stx_dev_minor),
        inode: status.stx_ino,
        is_regular: u32::from(status.stx_mode) & libc::S_IFMT == libc::S_IFREG,
        links: status.stx_nlink.into(),
        bytes: status.stx_size,
    })
}

/// The status of an open file.
///
/// # Errors
/// Whatever the kernel reports.
pub fn status_of(file: &File) -> io::Result<FileStatus> {
    let found = file.metadata()?;
    Ok(FileStatus {
        device: found.dev(),
        inode: found.ino(),
        is_regular: found.is_file(),
        links: found.nlink(),
        bytes: found.len(),
    })
}

/// How a file that must not be a link is opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// To read only.
    Read,
    /// To read anywhere and to write at the end.
    Append,
    /// To read and write anywhere.
    Update,
}

/// Opens an existing file. A symbolic link is refused (`ELOOP`), and a FIFO does not wait for its other end.
///
/// # Errors
/// Whatever the kernel reports.
pub fn open_existing(path: &Path, access: Access) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).append(access == Access::Append).write(access == Access::Update);
    options.custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_CLOEXEC).open(path)
}

/// Makes a file that must not exist yet, for reading and for writing (at the end only, with [`Access::Append`]).
/// Made by root, it is given to the owner of its directory, so that whoever owns the directory can go on with it.
///
/// # Errors
/// `AlreadyExists` where the name is taken, by a link too; else whatever the kernel reports.
pub fn create_new(path: &Path, access: Access, mode: u32) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).create_new(true).append(access == Access::Append).write(true);
    let file = options.mode(mode).custom_flags(libc::O_NOFOLLOW | libc::O_CLOEXEC).open(path)?;
    // SAFETY: geteuid has no arguments and cannot fail.
    if unsafe { libc::geteuid() } == 0
        && let Ok(directory) = directory_of(path).metadata()
        && (directory.uid(), directory.gid()) != (0, 0)
    {
        std::os::unix::fs::fchown(&file, Some(directory.uid()), Some(directory.gid()))?;
    }
    Ok(file)
}

/// The directory that holds `path`.
#[must_use]
pub fn directory_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

/// Has the disk remember which names a directory holds.
///
/// # Errors
/// Whatever the kernel reports.
pub fn sync_directory(directory: &Path) -> io::Result<()> {
    File::open(directory)?.sync_all()
}

/// Takes the exclusive advisory lock of an open file (`flock(2)`) if nobody has it. It is given back when every
/// copy of the descriptor is closed, at the latest when the process ends.
///
/// # Errors
/// Whatever the kernel reports, other than that another holds the lock: that is `Ok(false)`.
pub fn try_lock(file: &File) -> io::Result<bool> {
    // SAFETY: flock takes a descriptor, which `file` keeps open, and no memory.
    if unsafe { libc::flock(file.as_raw_fd(), libc::LOCK_EX | libc::LOCK_NB) } == 0 {
        return Ok(true);
    }
    let error = io::Error::last_os_error();
    if error.kind() == io::ErrorKind::WouldBlock { Ok(false) } else { Err(error) }
}

/// Room on a file system, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Space {
    /// What there is in all.
    pub total_bytes: u64,
    /// What an ordinary user may still write.
    pub free_bytes: u64,
}

/// The room on the file system that holds an open file (`fstatvfs(3)`).
///
/// # Errors
/// Whatever the kernel reports.
#[allow(clippy::unnecessary_cast, reason = "the widths of these fields differ between architectures")]
pub fn space_around(file: &File) -> io::Result<Space> {
    let mut found = MaybeUninit::<libc::statvfs>::uninit();
    // SAFETY: the descriptor is open and `found` has room for one struct statvfs.
    if unsafe { libc::fstatvfs(file.as_raw_fd(), found.as_mut_ptr()) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: fstatvfs succeeded, so it filled the struct.
    let found = unsafe { found.assume_init() };
    let block = found.f_frsize as u64;
    Ok(Space {
        total_bytes: (found.f_blocks as u64).saturating_mul(block),
        free_bytes: (found.f_bavail as u64).saturating_mul(block),
    })
}

/// Microseconds since boot, suspended time included (`CLOCK_BOOTTIME`). It never goes back while `boot_id` stays.
#[must_use]
pub fn boot_time_us() -> u64 {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `now` is a valid timespec to write to; the clock exists since Linux 2.6.39, so the call cannot fail.
    unsafe {
        libc::clock_gettime(libc::CLOCK_BOOTTIME, &raw mut now);
    }
    u64::try_from(now.tv_sec).unwrap_or(0) * 1_000_000 + u64::try_from(now.tv_nsec).unwrap_or(0) / 1_000
}

/// The kernel's random name for this boot (`/proc/sys/kernel/random/boot_id`), 36 characters.
///
/// # Errors
/// Where /proc is not mounted.
pub fn boot_id() -> io::Result<String> {
    Ok(std::fs::read_to_string("/proc/sys/kernel/random/boot_id")?.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::ffi::CString;

    #[test]
    fn a_link_is_seen_as_itself_and_never_opened() {
        let directory = std::env::temp_dir().join(format!("credfs-sys-file-{}", std::process::id()));
        std::fs::create_dir_all(&directory).unwrap();
        let (target, link) = (directory.join("target"), directory.join("link"));
        std::fs::write(&target, b"four").unwrap();
        std::os::unix::fs::symlink(&target, &link).unwrap();
        let name = |path: &Path| CString::new(path.to_str().unwrap()).unwrap();

        assert!(!status_of_path(&name(&link)).unwrap().is_regular);
        assert!(open_existing(&link, Access::Append).is_err());
        assert!(create_new(&link, Access::Append, 0o600).is_err());
        let file = open_existing(&target, Access::Read).unwrap();
        assert_eq!(status_of_path(&name(&target)).unwrap(), status_of(&file).unwrap());
        assert_eq!(status_of(&file).unwrap().bytes, 4);
        std::fs::remove_dir_all(&directory).unwrap();
        assert_eq!(status_of(&file).unwrap().links, 0);
    }

    #[test]
    fn a_lock_has_one_holder() {
        let path = std::env::temp_dir().join(format!("credfs-sys-lock-{}", std::process::id()));
        let first = create_new(&path, Access::Update, 0o600).unwrap();
        let second = open_existing(&path, Access::Update).unwrap();
        assert!(try_lock(&first).unwrap());
        assert!(!try_lock(&second).unwrap());
        drop(first);
        assert!(try_lock(&second).unwrap());
        std::fs::remove_file(&path).unwrap();
    }

    #[test]
    fn the_clock_and_the_boot_have_a_name_and_go_forward() {
        assert_eq!(boot_id().unwrap().len(), 36);
        let first = boot_time_us();
        assert!(first > 0 && boot_time_us() >= first);
        let space = space_around(&File::open("/").unwrap()).unwrap();
        assert!(space.total_bytes >= space.free_bytes);
    }
}
