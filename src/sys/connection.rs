//! FUSE connections from outside, by the minor number of their device: fusectl.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::path::PathBuf;

/// How many requests of a connection are not answered yet (`waiting` in fusectl). `None`: nobody mounted fusectl.
#[must_use]
pub fn waiting_requests(minor: u32) -> Option<u64> {
    let text = std::fs::read_to_string(format!("/sys/fs/fuse/connections/{minor}/waiting")).ok()?;
    text.trim().parse().ok()
}

/// Ends a connection by force: every request waiting on it fails at once. The last resort against a wedged daemon.
///
/// # Errors
/// When the connection is gone, or we may not (another user's, or no fusectl and not root).
pub fn abort(minor: u32) -> io::Result<()> {
    match std::fs::write(format!("/sys/fs/fuse/connections/{minor}/abort"), "1") {
        Err(error) if error.kind() == io::ErrorKind::NotFound => abort_unmounted(minor),
        result => result,
    }
}

/// As [`abort`] on a machine where nobody mounted fusectl: through a mount of it that has no place.
fn abort_unmounted(minor: u32) -> io::Result<()> {
    const FSOPEN_CLOEXEC: libc::c_uint = 1;
    const FSCONFIG_CMD_CREATE: libc::c_uint = 6;
    const FSMOUNT_CLOEXEC: libc::c_uint = 1;
    // SAFETY: the name is a C string; no other pointer is passed.
    let context = unsafe { libc::syscall(libc::SYS_fsopen, c"fusectl".as_ptr(), FSOPEN_CLOEXEC) };
    let context = owned(context)?;
    let null = std::ptr::null::<libc::c_char>();
    // SAFETY: this command takes no key and no value.
    let created =
        unsafe { libc::syscall(libc::SYS_fsconfig, context.as_raw_fd(), FSCONFIG_CMD_CREATE, null, null, 0) };
    if created != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor is open; no pointer is passed.
    let tree = unsafe { libc::syscall(libc::SYS_fsmount, context.as_raw_fd(), FSMOUNT_CLOEXEC, 0) };
    let tree = owned(tree)?;
    std::fs::write(
        PathBuf::from(format!("/proc/self/fd/{}", tree.as_raw_fd())).join(format!("{minor}/abort")),
        "1",
    )
}

fn owned(descriptor: libc::c_long) -> io::Result<OwnedFd> {
    if descriptor < 0 {
        return Err(io::Error::last_os_error());
    }
    let descriptor = RawFd::try_from(descriptor).map_err(io::Error::other)?;
    // SAFETY: the kernel just made this descriptor for us and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(descriptor) })
}
