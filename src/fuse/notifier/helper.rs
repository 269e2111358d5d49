//! The helper's own side: reads orders from standard input, carries them out in the tree, answers each with one byte.

use std::ffi::OsString;
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::process::ExitCode;

use super::command::{Step, read_step};
use crate::sys::{descriptor, privilege, touch};

/// The hidden argument that makes this program the helper.
pub(super) const ARGUMENT: &str = "credfs-notifier-helper";

/// Becomes the helper if this process was started as it (`ARGUMENT NUMBER`); call it first in `main`, before
/// arguments are parsed. Answers nothing in any other process.
#[must_use]
pub fn run_if_asked(arguments: impl IntoIterator<Item = OsString>) -> Option<ExitCode> {
    let mut arguments = arguments.into_iter().skip(1);
    if arguments.next()? != ARGUMENT {
        return None;
    }
    let tree = arguments.next().and_then(|number| number.to_str()?.parse().ok());
    Some(match tree.map(run) {
        Some(Ok(())) => ExitCode::SUCCESS,
        Some(Err(_)) => ExitCode::FAILURE,
        None => ExitCode::from(2),
    })
}

fn run(tree: i32) -> io::Result<()> {
    let tree: OwnedFd = descriptor::inherited(tree)?;
    // Whoever may rename through FUSE is the daemon's to say; no right of ours counts there.
    privilege::keep_only(&[])?;
    let mut socket = UnixStream::from(io::stdin().as_fd().try_clone_to_owned()?);
    while let Some(step) = read_step(&mut socket)? {
        socket.write_all(&[carry_out(tree.as_fd(), &step)])?;
    }
    Ok(())
}

/// 0, or the kernel's error number.
fn carry_out(tree: BorrowedFd<'_>, step: &Step) -> u8 {
    let result = match step {
        Step::Rename { from, to } => touch::rename(tree, from, to),
        Step::Touch { path } => touch::touch(tree, path),
    };
    match result {
        Ok(()) => 0,
        Err(error) => error.raw_os_error().and_then(|errno| u8::try_from(errno).ok()).unwrap_or(u8::MAX),
    }
}
