//! Processes of ours: a helper, which inherits its end of a socket and one descriptor and dies with us; and programs
//! that have their end of a socket as standard input and outlive us.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

/// A helper and our end of its socket. When our end is closed the helper reads end of file.
#[derive(Debug)]
pub struct Helper {
    /// The process, to be waited for.
    pub child: Child,
    /// Our end; the helper has the other as standard input.
    pub socket: UnixStream,
}

/// Starts `program ARGUMENT [NUMBER]`, where NUMBER is the number under which it finds `inherit`. The environment is
/// empty, every other descriptor is closed, standard output and error are /dev/null.
///
/// The helper is killed when the *thread* that calls this ends (PR_SET_PDEATHSIG): call it from one that stays.
///
/// # Errors
/// When the process cannot be made.
pub fn helper(program: &Path, argument: &OsStr, inherit: Option<BorrowedFd<'_>>) -> io::Result<Helper> {
    let (ours, theirs) = UnixStream::pair()?;
    let mut command = Command::new(program);
    command.arg(argument).env_clear().current_dir("/");
    command.stdin(Stdio::from(OwnedFd::from(theirs))).stdout(Stdio::null()).stderr(Stdio::null());
    let number = inherit.map(|descriptor| descriptor.as_raw_fd());
    if let Some(number) = number {
        command.arg(number.to_string());
    }
    let parent = std::process::id();
    // SAFETY: between fork and exec only async-signal-safe system calls are made.
    unsafe { command.pre_exec(move || prepare(parent, number)) };
    Ok(Helper { child: command.spawn()?, socket: ours })
}

/// How a program is started by [`program`].
#[derive(Debug)]
pub struct Program<'a> {
    /// The file.
    pub file: &'a Path,
    /// Its arguments.
    pub arguments: &'a [OsString],
    /// As which user, with which groups, his own first; `None`: as who starts it.
    pub user: Option<(u32, &'a [u32])>,
    /// What it has as standard input.
    pub socket: OwnedFd,
}

/// Starts a program whose standard input is a socket of ours. It has our standard error and our environment, without what
/// systemd says to this process alone; it belongs to no terminal's foreground; every other descriptor is closed.
///
/// # Errors
/// When the process cannot be made.
pub fn program(program: Program<'_>) -> io::Result<Child> {
    let mut command = Command::new(program.file);
    command.args(program.arguments).stdin(Stdio::from(program.socket)).stdout(Stdio::null());
    for name in
        ["NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", "LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES"]
    {
        command.env_remove(name);
    }
    command.process_group(0);
    let user = program.user.map(|(uid, groups)| (uid, groups.to_vec()));
    let become_user = move || {
        super::signal::begin_without();
        // SAFETY: a bare system call that takes integers only.
        if unsafe { libc::syscall(libc::SYS_close_range, 3, libc::c_uint::MAX, libc::CLOSE_RANGE_CLOEXEC) }
            != 0
        {
            return Err(io::Error::last_os_error());
        }
        user.as_ref().map_or(Ok(()), |(uid, groups)| super::privilege::become_user(*uid, groups))
    };
    // SAFETY: between fork and exec only async-signal-safe system calls are made.
    unsafe { command.pre_exec(become_user) };
    command.spawn()
}

/// A copy of this process that does nothing until it is ended; it is, when this is dropped.
#[derive(Debug)]
pub(super) struct WaitingCopy(libc::pid_t);

/// Makes a copy of this process that waits to be ended.
///
/// # Errors
/// When no process can be made.
pub(super) fn waiting_copy() -> io::Result<WaitingCopy> {
    // SAFETY: the child makes async-signal-safe system calls alone, and never returns from here. It dies with the
    // thread that made it, or sees that it came too late for that.
    let child = unsafe {
        let parent = libc::getpid();
        let child = libc::fork();
        if child == 0 {
            // A lock of ours must not be held by it.
            libc::syscall(libc::SYS_close_range, 0, libc::c_uint::MAX, 0);
            libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
            while libc::getppid() == parent {
                libc::pause();
            }
            libc::_exit(0);
        }
        child
    };
    if child < 0 { Err(io::Error::last_os_error()) } else { Ok(WaitingCopy(child)) }
}

impl WaitingCopy {
    /// The number of its process.
    pub(super) fn id(&self) -> u32 {
        self.0.cast_unsigned()
    }

    /// Ends it and waits for its end.
    pub(super) fn end(&mut self) -> io::Result<()> {
        let child = std::mem::take(&mut self.0);
        if child == 0 {
            return Ok(());
        }
        // SAFETY: the child is ours and was not waited for yet, so its number is its own.
        unsafe {
            libc::kill(child, libc::SIGKILL);
            while libc::waitpid(child, std::ptr::null_mut(), 0) < 0 {
                let error = io::Error::last_os_error();
                if error.kind() != io::ErrorKind::Interrupted {
                    return Err(error);
                }
            }
        }
        Ok(())
    }
}

impl Drop for WaitingCopy {
    fn drop(&mut self) {
        let _ended = self.end();
    }
}

fn prepare(parent: u32, keep: Option<i32>) -> io::Result<()> {
    super::signal::begin_without();
    // SAFETY: bare system calls that take integers only.
    let result = unsafe {
        if libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) != 0 {
            return Err(io::Error::last_os_error());
        }
        // The parent may have died before the line above.
        if u32::try_from(libc::getppid()) != Ok(parent) {
            return Err(io::Error::from_raw_os_error(libc::ESRCH));
        }
        // Closed on exec, not now: std still needs the one on which it reports a failed exec. (Kernel 5.11.)
        libc::syscall(libc::SYS_close_range, 3, libc::c_uint::MAX, libc::CLOSE_RANGE_CLOEXEC)
    };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    keep.map_or(Ok(()), super::descriptor::keep_over_exec)
}
