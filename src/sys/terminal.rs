//! A terminal that does not show what is typed.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

/// Echo is off while this lives.
pub struct Silent<'a> {
    terminal: BorrowedFd<'a>,
    before: libc::termios,
}

impl<'a> Silent<'a> {
    /// Turns the echo of `terminal` off; the end of a line is still shown.
    ///
    /// # Errors
    /// When it is no terminal.
    pub fn new(terminal: BorrowedFd<'a>) -> io::Result<Self> {
        // SAFETY: termios is plain data for which all-zero is valid; the kernel fills it.
        let mut before: libc::termios = unsafe { std::mem::zeroed() };
        // SAFETY: `before` lives through the call.
        if unsafe { libc::tcgetattr(terminal.as_raw_fd(), &raw mut before) } != 0 {
            return Err(io::Error::last_os_error());
        }
        let mut silent = before;
        silent.c_lflag &= !libc::ECHO;
        silent.c_lflag |= libc::ECHONL;
        // SAFETY: `silent` is a complete termios made from the terminal's own.
        if unsafe { libc::tcsetattr(terminal.as_raw_fd(), libc::TCSAFLUSH, &raw const silent) } != 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(Self { terminal, before })
    }
}

impl Drop for Silent<'_> {
    fn drop(&mut self) {
        // SAFETY: `before` is what tcgetattr filled. Nothing can be done where the terminal is gone.
        unsafe { libc::tcsetattr(self.terminal.as_raw_fd(), libc::TCSAFLUSH, &raw const self.before) };
    }
}
