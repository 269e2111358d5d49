//! Descriptors on their way between processes: over a socket, or kept open through exec.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

/// Receives one descriptor (SCM_RIGHTS) that comes with one byte, as fusermount3 sends it.
///
/// # Errors
/// When the other side closed without sending one.
pub fn receive(socket: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let mut byte = [0_u8; 1];
    let mut part = libc::iovec { iov_base: byte.as_mut_ptr().cast(), iov_len: 1 };
    // Room for one header and one descriptor, aligned as cmsghdr must be.
    let mut control = [0_u64; 8];
    // SAFETY: msghdr is plain data for which all-zero is valid.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = &raw mut part;
    message.msg_iovlen = 1;
    message.msg_control = control.as_mut_ptr().cast();
    // SAFETY: CMSG_SPACE only computes.
    message.msg_controllen = unsafe { libc::CMSG_SPACE(size_of::<RawFd>() as u32) } as _;
    let received = loop {
        // SAFETY: `message` points at buffers that live through the call, with their true lengths.
        let received = unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut message, libc::MSG_CMSG_CLOEXEC) };
        if received >= 0 || io::Error::last_os_error().kind() != io::ErrorKind::Interrupted {
            break received;
        }
    };
    if received < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel filled `message`; CMSG_FIRSTHDR answers null or a header inside `control`.
    let header = unsafe { libc::CMSG_FIRSTHDR(&raw const message).as_ref() };
    let Some(header) = header else {
        return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "no descriptor was handed over"));
    };
    if header.cmsg_level != libc::SOL_SOCKET || header.cmsg_type != libc::SCM_RIGHTS {
        return Err(io::Error::other("something other than a descriptor was handed over"));
    }
    // SAFETY: an SCM_RIGHTS header that fits `control` is followed by one descriptor, now ours alone.
    Ok(unsafe { OwnedFd::from_raw_fd(libc::CMSG_DATA(header).cast::<RawFd>().read_unaligned()) })
}

/// Lets one descriptor survive exec. Async-signal-safe: for use between fork and exec.
///
/// # Errors
/// When it is not open.
pub fn keep_over_exec(number: RawFd) -> io::Result<()> {
    // SAFETY: F_SETFD takes an integer and touches no memory.
    if unsafe { libc::fcntl(number, libc::F_SETFD, 0) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Takes over a descriptor that the parent process left open for us under this number.
///
/// # Errors
/// When it is not open.
pub fn inherited(number: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: F_SETFD takes an integer and touches no memory; it fails where nothing is open.
    if number <= 2 || unsafe { libc::fcntl(number, libc::F_SETFD, libc::FD_CLOEXEC) } < 0 {
        return Err(io::Error::from_raw_os_error(libc::EBADF));
    }
    // SAFETY: it is open, and by agreement with our parent it is for this caller alone.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

/// As [`replace`], for a number that its owner keeps open meanwhile.
///
/// # Errors
/// The kernel's (dup3(2)).
pub fn replace_number(target: RawFd, with: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: dup3 takes integers alone; that `target` is open is the caller's to say.
    let result = unsafe { libc::dup3(with.as_raw_fd(), target, libc::O_CLOEXEC) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Makes the number of `target` name the open file of `with` from now on; a thread already reading stays with the old
/// one until its call returns.
///
/// # Errors
/// The kernel's (dup3(2)).
pub fn replace(target: BorrowedFd<'_>, with: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: both numbers are open for the length of the call; the owner of `target` keeps owning its number.
    let result = unsafe { libc::dup3(with.as_raw_fd(), target.as_raw_fd(), libc::O_CLOEXEC) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
