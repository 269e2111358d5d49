//! Signals: as something that can be waited for beside other descriptors, and as what wakes a thread of our own.

use std::fs::File;
use std::io::{self, Read as _};
use std::os::fd::{AsFd, BorrowedFd, FromRawFd};

/// What the signals mean that a process of ours waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signal {
    /// SIGTERM or SIGINT.
    End,
    /// SIGHUP.
    Hangup,
    /// SIGCHLD.
    Child,
}

const WAITED_FOR: [(libc::c_int, Signal); 4] = [
    (libc::SIGTERM, Signal::End),
    (libc::SIGINT, Signal::End),
    (libc::SIGHUP, Signal::Hangup),
    (libc::SIGCHLD, Signal::Child),
];

/// Wakes threads out of a system call and does nothing else.
const WAKING: libc::c_int = libc::SIGUSR1;

/// Signals that came and were not read yet.
#[derive(Debug)]
pub struct SignalQueue(File);

impl SignalQueue {
    /// Takes [`Signal`]s from now on instead of being ended by them. Call it before any thread is started: the others
    /// inherit it, and so does every program that does not begin with [`begin_without`].
    ///
    /// # Errors
    /// Where no descriptor is left.
    pub fn open() -> io::Result<Self> {
        // SAFETY: a signal set is plain data that sigemptyset fills; the calls take pointers to it alone.
        let descriptor = unsafe {
            let mut set: libc::sigset_t = std::mem::zeroed();
            libc::sigemptyset(&raw mut set);
            for (number, _) in WAITED_FOR {
                libc::sigaddset(&raw mut set, number);
            }
            libc::pthread_sigmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut());
            libc::signalfd(-1, &raw const set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK)
        };
        if descriptor < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the kernel just made this descriptor for us and nobody else knows it.
        Ok(Self(unsafe { File::from_raw_fd(descriptor) }))
    }

    /// The next signal; nothing where none waits.
    ///
    /// # Errors
    /// What the kernel reports.
    pub fn take(&mut self) -> io::Result<Option<Signal>> {
        let mut record = [0_u8; size_of::<libc::signalfd_siginfo>()];
        match self.0.read_exact(&mut record) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
            Err(error) => return Err(error),
        }
        // Its first word is the signal's number (signalfd(2)).
        let number = i32::from_ne_bytes([record[0], record[1], record[2], record[3]]);
        Ok(WAITED_FOR.iter().find(|(known, _)| *known == number).map(|(_, signal)| *signal))
    }
}

impl AsFd for SignalQueue {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Lets a program that is about to begin be reached by every signal. Async-signal-safe: for use between fork and exec.
pub fn begin_without() {
    // SAFETY: a signal set is plain data that sigemptyset fills; the calls take pointers to it alone.
    unsafe {
        let mut none: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut none);
        libc::pthread_sigmask(libc::SIG_SETMASK, &raw const none, std::ptr::null_mut());
    }
}

extern "C" fn nothing(_: libc::c_int) {}

/// Wakes every thread of this process whose name begins with `name` out of what it waits in: its system call returns
/// EINTR.
///
/// # Errors
/// Where /proc is not there.
pub fn wake_threads(name: &str) -> io::Result<()> {
    let handler: extern "C" fn(libc::c_int) = nothing;
    // SAFETY: sigaction is plain data for which all-zero is valid; without SA_RESTART a wait returns. The handler does
    // nothing, which is async-signal-safe.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = handler as libc::sighandler_t;
        if libc::sigaction(WAKING, &raw const action, std::ptr::null_mut()) != 0 {
            return Err(io::Error::last_os_error());
        }
    }
    for task in std::fs::read_dir("/proc/self/task")? {
        let task = task?;
        let is_wanted =
            std::fs::read_to_string(task.path().join("comm")).is_ok_and(|comm| comm.starts_with(name));
        let number = task.file_name().to_string_lossy().parse::<libc::pid_t>();
        if let (true, Ok(number)) = (is_wanted, number) {
            // SAFETY: takes integers alone; a thread that has ended meanwhile is ESRCH.
            unsafe { libc::syscall(libc::SYS_tgkill, libc::getpid(), number, WAKING) };
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsRawFd as _;

    #[test]
    fn a_thread_is_woken_by_its_name_and_no_other() {
        let (reader, _writer) = io::pipe().unwrap();
        let waiting = std::thread::Builder::new()
            .name("woken-here".into())
            .spawn(move || {
                let mut byte = 0_u8;
                // SAFETY: reads at most one byte into one byte.
                let count = unsafe { libc::read(reader.as_raw_fd(), (&raw mut byte).cast(), 1) };
                (count, io::Error::last_os_error().kind())
            })
            .unwrap();
        while !waiting.is_finished() {
            wake_threads("woken").unwrap();
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        assert_eq!(waiting.join().unwrap(), (-1, io::ErrorKind::Interrupted));
    }
}
