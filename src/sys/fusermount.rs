//! fusermount3, the setuid helper that mounts and unmounts for plain users.

use std::io::{self, Read};
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};

use super::mount::{MountFault, system};

/// Runs fusermount3 on a path, with the socket over which it hands back the device.
pub(super) fn fusermount(
    path: &Path,
    words: &[&str],
    socket: Option<BorrowedFd<'_>>,
) -> Result<(), MountFault> {
    let mut command = Command::new("fusermount3");
    command.args(words).arg("--").arg(path);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    if let Some(socket) = socket {
        let number = socket.as_raw_fd();
        command.env("_FUSE_COMMFD", number.to_string());
        // SAFETY: between fork and exec only fcntl is called, which is async-signal-safe, on a descriptor that the
        // caller keeps open until the child has ended.
        unsafe { command.pre_exec(move || super::descriptor::keep_over_exec(number)) };
    }
    let mut child = command.spawn().map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => MountFault::HelperMissing,
        _ => system("run fusermount3", path)(error),
    })?;
    let mut message = String::new();
    if let Some(stderr) = child.stderr.take() {
        // What it says is bounded: it is a few lines of a program we chose.
        stderr.take(4096).read_to_string(&mut message).map_err(system("run fusermount3", path))?;
    }
    if child.wait().map_err(system("run fusermount3", path))?.success() {
        return Ok(());
    }
    let message = message.trim().trim_start_matches("fusermount3: ").to_owned();
    Err(MountFault::HelperRefused { path: path.to_owned(), message })
}
