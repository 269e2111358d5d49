//! Waiting for several descriptors at once: poll(2).

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::time::Duration;

/// What is to be waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Interest {
    /// That something can be read, or that it has ended.
    Readable,
    /// That it has ended.
    End,
}

/// What a descriptor was found to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Ready {
    /// Something can be read, or the end of file.
    pub is_readable: bool,
    /// It has ended: the other side is gone, or the connection was aborted.
    pub has_ended: bool,
}

/// Waits until one of the descriptors is ready, or `wait_max` is over; how each is, in order.
///
/// # Errors
/// What poll(2) reports. A signal is no error.
pub fn wait(descriptors: &[(BorrowedFd<'_>, Interest)], wait_max: Duration) -> io::Result<Vec<Ready>> {
    let mut entries: Vec<libc::pollfd> = descriptors
        .iter()
        .map(|(descriptor, interest)| libc::pollfd {
            fd: descriptor.as_raw_fd(),
            events: if *interest == Interest::Readable { libc::POLLIN } else { 0 },
            revents: 0,
        })
        .collect();
    let count = libc::nfds_t::try_from(entries.len()).unwrap_or(0);
    // Rounded up, so that a wait of less than a millisecond is not a busy loop.
    let wait_ms = libc::c_int::try_from(wait_max.as_micros().div_ceil(1000)).unwrap_or(libc::c_int::MAX);
    // SAFETY: `entries` has `count` entries and lives through the call.
    if unsafe { libc::poll(entries.as_mut_ptr(), count, wait_ms) } < 0 {
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
        return Ok(vec![Ready::default(); entries.len()]);
    }
    let ready = |entry: &libc::pollfd| Ready {
        is_readable: entry.revents & (libc::POLLIN | libc::POLLHUP) != 0,
        has_ended: entry.revents & (libc::POLLERR | libc::POLLHUP | libc::POLLNVAL) != 0,
    };
    Ok(entries.iter().map(ready).collect())
}

/// Whether a read would not wait: something is there, or it has ended. One system call, which never waits.
#[must_use]
pub fn is_ready(descriptor: BorrowedFd<'_>) -> bool {
    let mut entry = libc::pollfd { fd: descriptor.as_raw_fd(), events: libc::POLLIN, revents: 0 };
    // SAFETY: one entry, which lives through the call; the timeout 0 makes it return at once.
    unsafe { libc::poll(&raw mut entry, 1, 0) != 0 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixStream;

    #[test]
    fn what_can_be_read_and_what_has_ended_are_told_apart() {
        let (one, other) = UnixStream::pair().unwrap();
        let look = |interest| wait(&[(one.as_fd(), interest)], Duration::from_millis(5)).unwrap()[0];
        assert_eq!(look(Interest::Readable), Ready::default());
        assert!(!is_ready(one.as_fd()));
        std::io::Write::write_all(&mut &other, b"x").unwrap();
        assert_eq!(look(Interest::Readable), Ready { is_readable: true, has_ended: false });
        assert_eq!(look(Interest::End), Ready::default());
        assert!(is_ready(one.as_fd()));
        drop(other);
        assert!(look(Interest::End).has_ended);
    }
}
