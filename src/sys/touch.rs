//! Changes made to a tree held by one descriptor: a rename and a touch, by paths relative to it. A path that would lead
//! out of the tree, by its own text or by a link that the tree shows, is refused by the kernel.

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
/// The kernel's, among them those that the file system answers; `EXDEV` or `ELOOP` for a path that leads out.
pub fn rename(tree: BorrowedFd<'_>, from: &Path, to: &Path) -> io::Result<()> {
    let (from, from_name) = within(tree, from)?;
    let (to, to_name) = within(tree, to)?;
    // SAFETY: both names are C strings that outlive the call.
    let result =
        unsafe { libc::renameat(from.as_raw_fd(), from_name.as_ptr(), to.as_raw_fd(), to_name.as_ptr()) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Sets both times of a file. fsnotify calls that ATTRIB; one time alone would be ACCESS or MODIFY. The times are
/// given outright since `UTIME_NOW` would need the right to write the file.
///
/// # Errors
/// As [`rename`].
pub fn touch(tree: BorrowedFd<'_>, path: &Path) -> io::Result<()> {
    let (directory, name) = within(tree, path)?;
    let times = [libc::timespec { tv_sec: 0, tv_nsec: 0 }; 2];
    // SAFETY: `name` is a C string and `times` an array of two; both outlive the call.
    let result = unsafe {
        libc::utimensat(directory.as_raw_fd(), name.as_ptr(), times.as_ptr(), libc::AT_SYMLINK_NOFOLLOW)
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// The directory that holds `path`, reached without a link and without leaving the tree or its file system, and the
/// last name (openat2(2), Linux 5.6).
fn within(tree: BorrowedFd<'_>, path: &Path) -> io::Result<(OwnedFd, CString)> {
    let (parent, name) = match (path.parent(), path.file_name()) {
        (Some(parent), Some(name)) if parent.as_os_str().is_empty() => (Path::new("."), Path::new(name)),
        (Some(parent), Some(name)) => (parent, Path::new(name)),
        // The root of the tree itself.
        _ if path == Path::new(".") => (path, path),
        _ => return Err(io::Error::from_raw_os_error(libc::EXDEV)),
    };
    let (parent, name) = (text(parent)?, text(name)?);
    // SAFETY: all-zero is a valid open_how.
    let mut how: libc::open_how = unsafe { std::mem::zeroed() };
    how.flags = (libc::O_PATH | libc::O_DIRECTORY | libc::O_CLOEXEC) as u64;
    how.resolve = libc::RESOLVE_BENEATH | libc::RESOLVE_NO_SYMLINKS | libc::RESOLVE_NO_XDEV;
    // SAFETY: the path is a C string and `how` of the size given; both outlive the call.
    let descriptor = unsafe {
        libc::syscall(
            libc::SYS_openat2,
            tree.as_raw_fd(),
            parent.as_ptr(),
            &raw const how,
            size_of::<libc::open_how>(),
        )
    };
    let descriptor = i32::try_from(descriptor).unwrap_or(-1);
    if descriptor < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel just made this descriptor for us and nobody else knows it.
    Ok((unsafe { OwnedFd::from_raw_fd(descriptor) }, name))
}

fn text(path: &Path) -> io::Result<CString> {
    CString::new(path.as_os_str().as_bytes()).map_err(|_| io::ErrorKind::InvalidInput.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd as _;

    #[test]
    fn nothing_outside_the_tree_is_changed_whatever_the_path_says() {
        let place = std::env::temp_dir().join(format!("credfs-touch-{}", std::process::id()));
        let tree = place.join("tree");
        std::fs::create_dir_all(tree.join("inner")).unwrap();
        std::fs::write(place.join("outside"), "x").unwrap();
        std::fs::write(tree.join("inner/file"), "x").unwrap();
        std::os::unix::fs::symlink(&place, tree.join("link")).unwrap();
        std::os::unix::fs::symlink("inner", tree.join("inside")).unwrap();
        let held = hold(&tree).unwrap();
        let absolute = place.join("outside");
        for path in [
            "../outside",
            "link/outside",
            "inside/file",
            "inner/../../outside",
            absolute.to_str().unwrap(),
            "..",
            "",
        ] {
            assert!(touch(held.as_fd(), Path::new(path)).is_err(), "{path:?}");
            assert!(rename(held.as_fd(), Path::new(path), Path::new("taken")).is_err(), "{path:?}");
            assert!(rename(held.as_fd(), Path::new("inner/file"), Path::new(path)).is_err(), "{path:?}");
        }
        // Another file system that is mounted inside the tree.
        let root = hold(Path::new("/")).unwrap();
        let other = touch(root.as_fd(), Path::new("proc/version")).unwrap_err();
        assert_eq!(other.raw_os_error(), Some(libc::EXDEV), "{other}");
        touch(held.as_fd(), Path::new("inner/file")).unwrap();
        touch(held.as_fd(), Path::new(".")).unwrap();
        rename(held.as_fd(), Path::new("inner/file"), Path::new("file")).unwrap();
        assert!(tree.join("file").exists() && absolute.exists());
        std::fs::remove_dir_all(&place).unwrap();
    }
}
