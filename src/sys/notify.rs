//! Telling systemd how a service is: sd_notify(3), which is one datagram.

use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::fs::MetadataExt as _;
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

impl Notify {
    /// Gives a descriptor to systemd's store under `name`, to be handed to this service's next process. What was kept
    /// under that name is let go first (sd_pid_notify_with_fds(3)).
    ///
    /// # Errors
    /// What the kernel reports.
    pub fn store(&self, name: &str, descriptor: BorrowedFd<'_>) -> io::Result<()> {
        let Some(address) = &self.0 else { return Ok(()) };
        let socket = UnixDatagram::unbound()?;
        socket.connect_addr(address)?;
        socket.send(format!("FDSTOREREMOVE=1\nFDNAME={name}").as_bytes())?;
        let text = format!("FDSTORE=1\nFDNAME={name}");
        super::packet::send_message(socket.as_fd(), text.as_bytes(), &[descriptor], 0)
    }
}

/// The descriptors that systemd kept for this service, with their names (sd_listen_fds(3)). Call it once, before
/// anything else is opened.
#[must_use]
pub fn kept_descriptors(
    pid: Option<&str>,
    count: Option<&str>,
    names: Option<&str>,
) -> Vec<(String, OwnedFd)> {
    let is_ours = pid.and_then(|pid| pid.parse().ok()) == Some(std::process::id());
    let count: i32 = count.and_then(|count| count.parse().ok()).unwrap_or(0);
    if !is_ours {
        return Vec::new();
    }
    // SD_LISTEN_FDS_START.
    let numbers = 3..3_i32.saturating_add(count.clamp(0, 1024));
    let names = names.unwrap_or_default().split(':');
    numbers
        .zip(names)
        .filter_map(|(number, name)| Some((name.to_owned(), super::descriptor::inherited(number).ok()?)))
        .collect()
}

/// Whether standard error goes to the journal: `JOURNAL_STREAM` names the device and inode of the stream that systemd
/// connected (systemd.exec(5)); a child that writes elsewhere inherits the variable all the same.
#[must_use]
pub fn standard_error_is_the_journal(stream: Option<String>) -> bool {
    let Ok(descriptor) = io::stderr().as_fd().try_clone_to_owned() else { return false };
    stream.is_some_and(|stream| is_stream(&std::fs::File::from(descriptor), &stream))
}

fn is_stream(file: &std::fs::File, stream: &str) -> bool {
    file.metadata().is_ok_and(|found| stream == format!("{}:{}", found.dev(), found.ino()))
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
    fn the_journal_is_known_by_device_and_inode_and_not_by_the_variable_alone() {
        let file = std::fs::File::open("/proc/self/status").unwrap();
        let found = file.metadata().unwrap();
        assert!(is_stream(&file, &format!("{}:{}", found.dev(), found.ino())));
        for other in ["", "1", &format!("{}:{}", found.dev(), found.ino() + 1)] {
            assert!(!is_stream(&file, other), "{other}");
        }
        assert!(!standard_error_is_the_journal(None));
    }

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
