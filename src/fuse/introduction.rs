//! INIT, by which the kernel and a daemon agree on a session: answered once for each mount, and said again to every
//! reader that takes the session over.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Arc, OnceLock};

use fuser::{Filesystem, InitFlags, KernelConfig, Request, SessionACL, Version};

/// The smallest the protocol allows: nothing is written through the mount, and a small buffer holds less.
const WRITE_BYTES_MAX: u32 = 64 * 1024;

/// What the kernel said at INIT.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Introduction {
    /// The protocol's version.
    version: (u32, u32),
    /// What the kernel can do.
    capabilities: InitFlags,
}

impl Introduction {
    /// As three numbers, to be kept.
    #[must_use]
    pub fn to_numbers(self) -> (u32, u32, u64) {
        (self.version.0, self.version.1, self.capabilities.bits())
    }

    /// From what [`Self::to_numbers`] gave.
    #[must_use]
    pub fn from_numbers((major, minor, capabilities): (u32, u32, u64)) -> Self {
        Self { version: (major, minor), capabilities: InitFlags::from_bits_retain(capabilities) }
    }

    /// Whether what was in flight can be asked for again (Linux 6.9).
    #[must_use]
    pub fn can_resend(self) -> bool {
        self.capabilities.contains(InitFlags::FUSE_HAS_RESEND)
    }

    /// `struct fuse_in_header` and `struct fuse_init_in` (`include/uapi/linux/fuse.h`), as the kernel sends them.
    pub(super) fn to_request(self) -> Vec<u8> {
        const INIT: u32 = 26;
        const LENGTH: usize = 40 + 64;
        let flags = self.capabilities.bits();
        let (low, high) = (flags as u32, (flags >> 32) as u32);
        let mut request = Vec::with_capacity(LENGTH);
        let length = u32::try_from(LENGTH).unwrap_or_default();
        for word in [length, INIT] {
            request.extend(word.to_ne_bytes());
        }
        request.extend(1_u64.to_ne_bytes());
        request.resize(40, 0);
        for word in [self.version.0, self.version.1, 0, low, high] {
            request.extend(word.to_ne_bytes());
        }
        request.resize(LENGTH, 0);
        request
    }
}

/// What we ask of the kernel, the same for whoever answers INIT.
pub(super) fn negotiate(config: &mut KernelConfig) {
    // One slow lookup in a directory must not hold the others.
    let _ = config.add_capabilities(InitFlags::FUSE_PARALLEL_DIROPS);
    // MAP_SHARED of a direct-I/O file (Java's FileChannel.map): from kernel 6.6.
    let _ = config.add_capabilities(InitFlags::FUSE_DIRECT_IO_ALLOW_MMAP);
    // A successor process may ask for what was in flight: from kernel 6.9.
    let _ = config.add_capabilities(InitFlags::FUSE_HAS_RESEND);
    let _ = config.set_max_write(WRITE_BYTES_MAX);
}

/// In the environment of a keeper: `resend` has it do as on a kernel before 6.9, to be tried on a newer one.
const KERNEL_WITHOUT: &str = "CREDFS_KERNEL_WITHOUT";

/// Whether what was in flight shall not be asked for again, though the kernel could send it.
#[must_use]
pub fn is_resend_switched_off() -> bool {
    std::env::var_os(KERNEL_WITHOUT).is_some_and(|without| without == "resend")
}

/// Answers INIT and nothing else.
struct Greeter(Arc<OnceLock<Introduction>>);

impl Filesystem for Greeter {
    fn init(&mut self, _request: &Request, config: &mut KernelConfig) -> io::Result<()> {
        negotiate(config);
        let Version(major, minor) = config.kernel_abi();
        let mut capabilities = config.capabilities();
        if is_resend_switched_off() {
            capabilities.remove(InitFlags::FUSE_HAS_RESEND);
        }
        let _ = self.0.set(Introduction { version: (major, minor), capabilities });
        Ok(())
    }
}

/// Answers the kernel's INIT, which lies unread in a fresh connection.
///
/// # Errors
/// Where the kernel speaks another protocol, or the connection is gone.
pub fn introduce(device: &OwnedFd) -> io::Result<Introduction> {
    let heard = Arc::new(OnceLock::new());
    let greeter = Greeter(Arc::clone(&heard));
    drop(fuser::Session::from_fd(greeter, device.try_clone()?, SessionACL::All, fuser::Config::default())?);
    heard.get().copied().ok_or_else(|| io::ErrorKind::NotConnected.into())
}
