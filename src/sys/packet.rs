//! Sockets that keep messages apart (SOCK_SEQPACKET) and carry descriptors: pairs, listeners, connections.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::Duration;

/// Most descriptors that come with one message.
pub const DESCRIPTORS_MAX: usize = 8;

/// One end of a connection.
#[derive(Debug)]
pub struct PacketSocket(OwnedFd);

/// One message, whole.
#[derive(Debug)]
pub struct Packet {
    /// Its bytes.
    pub bytes: Vec<u8>,
    /// What came with it, ours from now on, closed on exec.
    pub descriptors: Vec<OwnedFd>,
}

impl PacketSocket {
    /// Two ends of a connection.
    ///
    /// # Errors
    /// Where no descriptor is left.
    pub fn pair() -> io::Result<(Self, Self)> {
        let mut ends: [RawFd; 2] = [-1; 2];
        let kind = libc::SOCK_SEQPACKET | libc::SOCK_CLOEXEC;
        // SAFETY: the kernel writes two descriptors into an array of two.
        if unsafe { libc::socketpair(libc::AF_UNIX, kind, 0, ends.as_mut_ptr()) } != 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: both were just made for us and nobody else knows them.
        Ok(unsafe { (Self(OwnedFd::from_raw_fd(ends[0])), Self(OwnedFd::from_raw_fd(ends[1]))) })
    }

    /// Takes an end that somebody handed over.
    #[must_use]
    pub fn of(descriptor: OwnedFd) -> Self {
        Self(descriptor)
    }

    /// Connects to a listener.
    ///
    /// # Errors
    /// What connect(2) reports.
    pub fn connect(path: &Path) -> io::Result<Self> {
        let socket = unconnected()?;
        let (address, length) = address(path)?;
        // SAFETY: `address` is a sockaddr_un of `length` bytes that lives through the call.
        if unsafe { libc::connect(socket.as_raw_fd(), (&raw const address).cast(), length) } != 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(Self(socket))
    }

    /// Bounds how long [`Self::send`] and [`Self::receive`] wait; both are `WouldBlock` past it.
    ///
    /// # Errors
    /// None that an open socket is known to give.
    pub fn wait_at_most(&self, wait_max: Duration) -> io::Result<()> {
        let time = libc::timeval {
            tv_sec: libc::time_t::try_from(wait_max.as_secs()).unwrap_or(libc::time_t::MAX),
            tv_usec: wait_max.subsec_micros().into(),
        };
        let length = libc::socklen_t::try_from(size_of::<libc::timeval>()).unwrap_or(0);
        for option in [libc::SO_RCVTIMEO, libc::SO_SNDTIMEO] {
            // SAFETY: the value is one timeval of the length given.
            let result = unsafe {
                libc::setsockopt(
                    self.0.as_raw_fd(),
                    libc::SOL_SOCKET,
                    option,
                    (&raw const time).cast(),
                    length,
                )
            };
            if result != 0 {
                return Err(io::Error::last_os_error());
            }
        }
        Ok(())
    }

    /// Lets nothing be received any more: a read is the end of file. Sending goes on.
    ///
    /// # Errors
    /// As shutdown(2).
    pub fn end_receiving(&self) -> io::Result<()> {
        // SAFETY: shutdown takes integers alone.
        let result = unsafe { libc::shutdown(self.0.as_raw_fd(), libc::SHUT_RD) };
        if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }

    /// Sends one message, whole or not at all.
    ///
    /// # Errors
    /// `BrokenPipe` where nobody is at the other end; `WouldBlock` where it does not take it.
    pub fn send(&self, bytes: &[u8], descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
        self.send_with(bytes, descriptors, 0)
    }

    /// As [`Self::send`], and never waits.
    ///
    /// # Errors
    /// As [`Self::send`].
    pub fn send_now(&self, bytes: &[u8], descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
        self.send_with(bytes, descriptors, libc::MSG_DONTWAIT)
    }

    fn send_with(&self, bytes: &[u8], descriptors: &[BorrowedFd<'_>], flags: i32) -> io::Result<()> {
        send_message(self.0.as_fd(), bytes, descriptors, flags)
    }

    /// Waits for a message. Nothing: the other end is closed.
    ///
    /// # Errors
    /// `InvalidData` for one longer than `bytes_max` or with more descriptors than we take; `WouldBlock` past the
    /// time of [`Self::wait_at_most`].
    pub fn receive(&self, bytes_max: usize) -> io::Result<Option<Packet>> {
        self.receive_with(bytes_max, 0)
    }

    /// As [`Self::receive`], and never waits.
    ///
    /// # Errors
    /// As [`Self::receive`].
    pub fn receive_now(&self, bytes_max: usize) -> io::Result<Option<Packet>> {
        self.receive_with(bytes_max, libc::MSG_DONTWAIT)
    }

    fn receive_with(&self, bytes_max: usize, flags: i32) -> io::Result<Option<Packet>> {
        let mut bytes = vec![0_u8; bytes_max];
        let mut part = libc::iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: bytes.len() };
        // Room for one header and its descriptors, aligned as cmsghdr must be.
        let mut control = [0_u64; 8];
        // SAFETY: msghdr is plain data for which all-zero is valid.
        let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
        message.msg_iov = &raw mut part;
        message.msg_iovlen = 1;
        message.msg_control = control.as_mut_ptr().cast();
        message.msg_controllen = size_of_val(&control) as _;
        let flags = flags | libc::MSG_CMSG_CLOEXEC;
        let received = loop {
            // SAFETY: `message` points at buffers that live through the call, with their true lengths.
            let received = unsafe { libc::recvmsg(self.0.as_raw_fd(), &raw mut message, flags) };
            if received >= 0 || io::Error::last_os_error().kind() != io::ErrorKind::Interrupted {
                break received;
            }
        };
        let Ok(length) = usize::try_from(received) else { return Err(io::Error::last_os_error()) };
        let descriptors = taken_from(&message);
        if message.msg_flags & (libc::MSG_TRUNC | libc::MSG_CTRUNC) != 0 {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "a message is longer than agreed"));
        }
        if length == 0 && descriptors.is_empty() {
            return Ok(None);
        }
        bytes.truncate(length);
        Ok(Some(Packet { bytes, descriptors }))
    }
}

impl AsFd for PacketSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl From<PacketSocket> for OwnedFd {
    fn from(socket: PacketSocket) -> Self {
        socket.0
    }
}

/// Takes every descriptor out of a received message, so that none stays open unseen.
fn taken_from(message: &libc::msghdr) -> Vec<OwnedFd> {
    let mut taken = Vec::new();
    // SAFETY: the kernel filled `message`; CMSG_FIRSTHDR answers null or a header inside its control buffer.
    let mut header = unsafe { libc::CMSG_FIRSTHDR(message) };
    while !header.is_null() {
        // SAFETY: not null, so it points at a header inside the control buffer, which lives on.
        let (level, kind, length) =
            unsafe { ((*header).cmsg_level, (*header).cmsg_type, (*header).cmsg_len as usize) };
        if level == libc::SOL_SOCKET && kind == libc::SCM_RIGHTS {
            // SAFETY: CMSG_LEN only computes.
            let empty = unsafe { libc::CMSG_LEN(0) } as usize;
            for at in 0..length.saturating_sub(empty) / size_of::<RawFd>() {
                // SAFETY: the header says that so many descriptors follow it; each is ours alone now.
                taken.push(unsafe {
                    OwnedFd::from_raw_fd(libc::CMSG_DATA(header).cast::<RawFd>().add(at).read_unaligned())
                });
            }
        }
        // SAFETY: both point into the one message.
        header = unsafe { libc::CMSG_NXTHDR(message, header) };
    }
    taken
}

/// Sends one message over any connected Unix socket.
///
/// # Errors
/// As sendmsg(2); `InvalidInput` for more than [`DESCRIPTORS_MAX`] descriptors.
pub(super) fn send_message(
    socket: BorrowedFd<'_>,
    bytes: &[u8],
    descriptors: &[BorrowedFd<'_>],
    flags: i32,
) -> io::Result<()> {
    if descriptors.len() > DESCRIPTORS_MAX {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let mut part = libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
    let mut control = [0_u64; 8];
    // SAFETY: msghdr is plain data for which all-zero is valid.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = &raw mut part;
    message.msg_iovlen = 1;
    if !descriptors.is_empty() {
        let data_bytes = u32::try_from(size_of_val(descriptors)).unwrap_or(u32::MAX);
        message.msg_control = control.as_mut_ptr().cast();
        // SAFETY: CMSG_SPACE only computes; at most four descriptors fit the buffer.
        message.msg_controllen = unsafe { libc::CMSG_SPACE(data_bytes) } as _;
        // SAFETY: the control buffer has room for the header and all descriptors, and is aligned for it.
        unsafe {
            let header = libc::CMSG_FIRSTHDR(&raw const message);
            (*header).cmsg_level = libc::SOL_SOCKET;
            (*header).cmsg_type = libc::SCM_RIGHTS;
            (*header).cmsg_len = libc::CMSG_LEN(data_bytes) as _;
            for (at, descriptor) in descriptors.iter().enumerate() {
                let place = libc::CMSG_DATA(header).cast::<RawFd>().add(at);
                place.write_unaligned(descriptor.as_raw_fd());
            }
        }
    }
    loop {
        // SAFETY: `message` points at buffers that live through the call, with their true lengths.
        let sent =
            unsafe { libc::sendmsg(socket.as_raw_fd(), &raw const message, flags | libc::MSG_NOSIGNAL) };
        if sent >= 0 {
            return Ok(());
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
}

/// Where connections are made.
#[derive(Debug)]
pub struct PacketListener(OwnedFd);

impl PacketListener {
    /// Listens at `path`, where nothing may be; mode 0600 for whoever made it.
    ///
    /// # Errors
    /// `AddrInUse` where something is there already, else what bind(2) reports.
    pub fn bind(path: &Path) -> io::Result<Self> {
        let socket = unconnected()?;
        let (address, length) = address(path)?;
        // SAFETY: `address` is a sockaddr_un of `length` bytes that lives through the call.
        if unsafe { libc::bind(socket.as_raw_fd(), (&raw const address).cast(), length) } != 0 {
            return Err(io::Error::last_os_error());
        }
        let private = std::os::unix::fs::PermissionsExt::from_mode(0o600);
        std::fs::set_permissions(path, private)?;
        // SAFETY: listen takes integers alone.
        if unsafe { libc::listen(socket.as_raw_fd(), 8) } != 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(Self(socket))
    }

    /// Takes the next connection, which must be waiting.
    ///
    /// # Errors
    /// What accept4(2) reports.
    pub fn accept(&self) -> io::Result<PacketSocket> {
        // SAFETY: no address is asked for, so no pointer is passed.
        let accepted = unsafe {
            libc::accept4(self.0.as_raw_fd(), std::ptr::null_mut(), std::ptr::null_mut(), libc::SOCK_CLOEXEC)
        };
        if accepted < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the kernel just made this descriptor for us and nobody else knows it.
        Ok(PacketSocket(unsafe { OwnedFd::from_raw_fd(accepted) }))
    }
}

impl AsFd for PacketListener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

fn unconnected() -> io::Result<OwnedFd> {
    // SAFETY: socket takes integers alone.
    let socket = unsafe { libc::socket(libc::AF_UNIX, libc::SOCK_SEQPACKET | libc::SOCK_CLOEXEC, 0) };
    if socket < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel just made this descriptor for us and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(socket) })
}

fn address(path: &Path) -> io::Result<(libc::sockaddr_un, libc::socklen_t)> {
    // SAFETY: sockaddr_un is plain data for which all-zero is valid.
    let mut address: libc::sockaddr_un = unsafe { std::mem::zeroed() };
    address.sun_family = libc::sa_family_t::try_from(libc::AF_UNIX).unwrap_or(1);
    let bytes = path.as_os_str().as_bytes();
    // sun_path of unix(7) ends with a NUL.
    if bytes.is_empty() || bytes.len() >= address.sun_path.len() || bytes.contains(&0) {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "a socket's path has 1 to 107 bytes and no NUL",
        ));
    }
    for (place, byte) in address.sun_path.iter_mut().zip(bytes) {
        *place = byte.cast_signed();
    }
    let length = std::mem::offset_of!(libc::sockaddr_un, sun_path) + bytes.len() + 1;
    Ok((address, libc::socklen_t::try_from(length).unwrap_or(0)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;

    #[test]
    fn messages_stay_apart_and_descriptors_arrive_open() {
        let (one, other) = PacketSocket::pair().unwrap();
        let (mut pipe_in, pipe_out) = std::io::pipe().map(|(reader, writer)| (writer, reader)).unwrap();
        one.send(b"first", &[pipe_out.as_fd()]).unwrap();
        one.send(b"second", &[]).unwrap();
        drop(pipe_out);
        let first = other.receive(16).unwrap().unwrap();
        assert_eq!((first.bytes.as_slice(), first.descriptors.len()), (&b"first"[..], 1));
        assert_eq!(other.receive(16).unwrap().unwrap().bytes, b"second");
        pipe_in.write_all(b"x").unwrap();
        assert_eq!(other.receive_now(16).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        drop(one);
        assert!(other.receive(16).unwrap().is_none());
    }

    #[test]
    fn a_message_longer_than_agreed_is_refused_and_its_descriptors_are_closed() {
        let (one, other) = PacketSocket::pair().unwrap();
        one.send(&[7; 32], &[one.as_fd()]).unwrap();
        assert_eq!(other.receive(16).unwrap_err().kind(), io::ErrorKind::InvalidData);
        drop(one);
        assert!(other.receive(16).unwrap().is_none(), "no copy of the other end is left open");
    }

    #[test]
    fn a_listener_takes_connections_and_an_end_without_receiving_still_sends() {
        let path = std::env::temp_dir().join(format!("credfs-packet-{}", std::process::id()));
        let listener = PacketListener::bind(&path).unwrap();
        let here = PacketSocket::connect(&path).unwrap();
        let there = listener.accept().unwrap();
        here.end_receiving().unwrap();
        assert!(here.receive(8).unwrap().is_none());
        here.send(b"x", &[]).unwrap();
        assert_eq!(there.receive(8).unwrap().unwrap().bytes, b"x");
        assert!(PacketListener::bind(&path).is_err());
        std::fs::remove_file(&path).unwrap();
        assert!(address(Path::new(&"x".repeat(108))).is_err());
    }
}
