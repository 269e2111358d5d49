//! Who is at the other end of a Unix socket, as the kernel noted when it connected.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

/// `SO_PEERPIDFD` of `include/uapi/asm-generic/socket.h`, from Linux 6.5.
const SO_PEERPIDFD: libc::c_int = 77;

/// The process that connected.
#[derive(Debug)]
pub struct Peer {
    /// Its user, when it connected.
    pub uid: u32,
    /// Its group, when it connected.
    pub gid: u32,
    /// Its process id; 0 where it lives in a foreign pid namespace.
    pub pid: u32,
    /// The process itself, so that its number cannot come to mean another. `None`: the kernel has no such thing.
    process: Option<OwnedFd>,
}

impl Peer {
    /// Asks the kernel who connected `socket`.
    ///
    /// # Errors
    /// What the kernel reports; a peer that is gone already is `NotFound`.
    pub fn of(socket: BorrowedFd<'_>) -> io::Result<Self> {
        let mut found = libc::ucred { pid: 0, uid: 0, gid: 0 };
        option(socket, libc::SO_PEERCRED, &mut found)?;
        let mut descriptor: libc::c_int = -1;
        let process = match option(socket, SO_PEERPIDFD, &mut descriptor) {
            // SAFETY: the kernel has just made this descriptor for us alone.
            Ok(()) => Some(unsafe { OwnedFd::from_raw_fd(descriptor) }),
            Err(error) if error.raw_os_error() == Some(libc::ENOPROTOOPT) => None,
            Err(error) if error.raw_os_error() == Some(libc::ESRCH) => {
                return Err(io::Error::new(io::ErrorKind::NotFound, "the peer is gone"));
            }
            // A peer outside our pid namespace has no process that could be named here.
            Err(_) => None,
        };
        Ok(Self { uid: found.uid, gid: found.gid, pid: u32::try_from(found.pid).unwrap_or(0), process })
    }

    /// The process itself, where the kernel says (Linux 6.5).
    #[must_use]
    pub fn process(&self) -> Option<BorrowedFd<'_>> {
        self.process.as_ref().map(AsFd::as_fd)
    }
}

fn option<T: Copy>(socket: BorrowedFd<'_>, name: libc::c_int, value: &mut T) -> io::Result<()> {
    let mut length = libc::socklen_t::try_from(size_of::<T>()).unwrap_or(0);
    // SAFETY: `value` is plain data of exactly `length` bytes that the kernel may overwrite whole.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            name,
            std::ptr::from_mut(value).cast(),
            &raw mut length,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixStream;

    #[test]
    fn the_other_end_of_a_pair_is_this_process() {
        let (one, _other) = UnixStream::pair().unwrap();
        let peer = Peer::of(one.as_fd()).unwrap();
        assert_eq!(peer.pid, std::process::id());
    }
}
