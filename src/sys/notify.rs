//! Telling systemd how a service is: sd_notify(3), which is one datagram.

use std::io;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};

/// Where the service manager listens.
#[derive(Debug, Clone)]
pub struct Notify(Option<SocketAddr>);

impl Notify {
    /// The address in `NOTIFY_SOCKET`: a path, or an abstract name behind `@`. `None`: nobody wants to know.
    #[must_use]
    pub fn to(address: Option<&str>) -> Self {
        Self(address.and_then(|address| match address.strip_prefix('@') {
            Some(name) => SocketAddr::from_abstract_name(name).ok(),
            None if address.starts_with('/') => SocketAddr::from_pathname(address).ok(),
            None => None,
        }))
    }

    /// Sends `state`, such as `READY=1`.
    ///
    /// # Errors
    /// What the kernel reports.
    pub fn send(&self, state: &str) -> io::Result<()> {
        let Some(address) = &self.0 else { return Ok(()) };
        UnixDatagram::unbound()?.send_to_addr(state.as_bytes(), address).map(|_| ())
    }
}

/// Microseconds on the clock by which systemd dates a reload (`CLOCK_MONOTONIC`).
#[must_use]
pub fn monotonic_us() -> u64 {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the kernel writes one timespec into ours.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut now) };
    u64::try_from(now.tv_sec).unwrap_or(0) * 1_000_000 + u64::try_from(now.tv_nsec).unwrap_or(0) / 1_000
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_reaches_a_socket_with_a_path_and_one_with_a_name() {
        let path = std::env::temp_dir().join(format!("credfs-notify-{}", std::process::id()));
        let name = format!("credfs-notify-{}", std::process::id());
        let by_path = UnixDatagram::bind(&path).unwrap();
        let by_name = UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
        for (socket, address) in [(by_path, path.to_str().unwrap().to_owned()), (by_name, format!("@{name}"))]
        {
            Notify::to(Some(&address)).send("READY=1").unwrap();
            let mut buffer = [0; 32];
            let length = socket.recv(&mut buffer).unwrap();
            assert_eq!(&buffer[..length], b"READY=1");
        }
        Notify::to(None).send("READY=1").unwrap();
        std::fs::remove_file(path).unwrap();
    }
}
