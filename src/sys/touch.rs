//! Changes made to a tree held by one descriptor: a rename and a touch, by paths relative to it.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// Holds a directory by `O_PATH`, without asking its file system anything.
///
/// # Errors
/// When it is not there or not a directory.
pub fn hold(directory: &Path) -> io::Result<OwnedFd> {
    let path = text(directory)?;
    let flags = libc::O_PATH | libc::O_DIRECTORY | libc::O_CLOEXEC;
    // SAFETY: `path` is a C string that outlives the call.
    let descriptor = unsafe { libc::open(path.as_ptr(), flags) };
    if descriptor < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel just made this descriptor for us and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(descriptor) })
}

/// Renames within the tree.
///
/// # Errors
/// The kernel's, among them those that the file system answers.
pub fn rename(tree: BorrowedFd<'_>, from: &Path, to: &Path) -> io::Result<()> {
    let (from, to) = (text(from)?, text(to)?);
    // SAFETY: both paths are C strings that outlive the call.
    let result = unsafe { libc::renameat(tree.as_raw_fd(), from.as_ptr(), tree.as_raw_fd(), to.as_ptr()) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Sets both times of a file. fsnotify calls that ATTRIB; one time alone would be ACCESS or MODIFY. The times are
/// given outright since `UTIME_NOW` would need the right to write the file.
///
/// # Errors
/// The kernel's, among them those that the file system answers.
pub fn touch(tree: BorrowedFd<'_>, path: &Path) -> io::Result<()> {
    let path = text(path)?;
    let times = [libc::timespec { tv_sec: 0, tv_nsec: 0 }; 2];
    // SAFETY: `path` is a C string and `times` an array of two; both outlive the call.
    let result = unsafe {
        libc::utimensat(tree.as_raw_fd(), path.as_ptr(), times.as_ptr(), libc::AT_SYMLINK_NOFOLLOW)
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

fn text(path: &Path) -> io::Result<CString> {
    CString::new(path.as_os_str().as_bytes()).map_err(|_| io::ErrorKind::InvalidInput.into())
}
