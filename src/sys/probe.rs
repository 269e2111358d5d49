//! Asks a mounted file system whether anyone serves it, in a child that may hang in our stead.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::time::Duration;

/// What the mount said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// ENOTCONN: the kernel knows that the daemon is gone.
    Dead,
    /// Any answer of a daemon, also a refusal.
    Alive,
    /// None within the time.
    Silent,
}

/// Asks for fresh attributes of a directory held by `O_PATH`, as the given user and group where asked to, and waits
/// no longer than `wait_max`. A child that still hangs then is killed; the kernel may take until its daemon answers.
///
/// # Errors
/// When no child can be made.
pub fn ask(
    directory: BorrowedFd<'_>,
    as_owner: Option<(u32, u32)>,
    wait_max: Duration,
) -> io::Result<Answer> {
    // SAFETY: the child calls only async-signal-safe functions and leaves by _exit.
    let child = unsafe { libc::fork() };
    match child {
        -1 => Err(io::Error::last_os_error()),
        0 => child_asks(directory.as_raw_fd(), as_owner),
        child => {
            let answer = wait_for(child, wait_max);
            if !matches!(answer, Ok(Answer::Dead | Answer::Alive)) {
                give_up(child);
            }
            answer
        }
    }
}

fn child_asks(directory: RawFd, as_owner: Option<(u32, u32)>) -> ! {
    // SAFETY: every call is a bare system call on valid arguments; statx writes into `found`, which is large enough.
    // FORCE_SYNC asks the daemon even where the kernel still remembers attributes of a dead one.
    unsafe {
        libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
        if let Some((user, group)) = as_owner {
            libc::syscall(libc::SYS_setresgid, group, group, group);
            libc::syscall(libc::SYS_setresuid, user, user, user);
        }
        let mut found: libc::statx = std::mem::zeroed();
        let flags = libc::AT_EMPTY_PATH | libc::AT_STATX_FORCE_SYNC;
        let result = libc::statx(directory, c"".as_ptr(), flags, libc::STATX_BASIC_STATS, &raw mut found);
        let dead = result != 0 && *libc::__errno_location() == libc::ENOTCONN;
        libc::_exit(i32::from(dead));
    }
}

fn wait_for(child: libc::pid_t, wait_max: Duration) -> io::Result<Answer> {
    // SAFETY: pidfd_open takes two integers; the child is not reaped yet, so the number is its own.
    let descriptor = unsafe { libc::syscall(libc::SYS_pidfd_open, child, 0) };
    if descriptor < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel just made this descriptor for us.
    let descriptor = unsafe { OwnedFd::from_raw_fd(RawFd::try_from(descriptor).map_err(io::Error::other)?) };
    let mut poll = libc::pollfd { fd: descriptor.as_raw_fd(), events: libc::POLLIN, revents: 0 };
    let wait_ms = libc::c_int::try_from(wait_max.as_millis()).unwrap_or(libc::c_int::MAX);
    // SAFETY: one pollfd, which lives through the call.
    let ready = unsafe { libc::poll(&raw mut poll, 1, wait_ms) };
    if ready <= 0 {
        return Ok(Answer::Silent);
    }
    let mut status = 0;
    // SAFETY: `child` is our own unreaped child and `status` lives through the call.
    if unsafe { libc::waitpid(child, &raw mut status, 0) } != child {
        return Err(io::Error::last_os_error());
    }
    if libc::WIFEXITED(status) && libc::WEXITSTATUS(status) == 1 {
        return Ok(Answer::Dead);
    }
    Ok(if libc::WIFEXITED(status) { Answer::Alive } else { Answer::Silent })
}

/// Kills the child and reaps it if it goes at once; one that hangs in the kernel is left to our own parent.
fn give_up(child: libc::pid_t) {
    // SAFETY: `child` is our own unreaped child, so the number cannot be another process's.
    unsafe {
        libc::kill(child, libc::SIGKILL);
        libc::waitpid(child, std::ptr::null_mut(), libc::WNOHANG);
    }
}
