//! The guard: a process that takes the mount away when its keeper has died, so that nobody finds it dead. It waits for the
//! end of its standard input and does nothing else. Where systemd keeps the keeper's descriptors there is none.

use std::ffi::OsString;
use std::io::{self, Read as _};
use std::os::fd::OwnedFd;
use std::process::{Child, ExitCode};

use crate::sys::mount;
use crate::sys::packet::PacketSocket;
use crate::sys::spawn;

use super::session::Session;

/// The hidden argument that makes this program the guard.
const ARGUMENT: &str = "credfs-guard";

/// The guard, and the socket whose end is its sign.
pub(super) struct Guard {
    child: Child,
    _socket: PacketSocket,
}

impl Guard {
    /// Starts it for the mount of `session`.
    pub(super) fn start(session: &Session) -> io::Result<Self> {
        let (ours, theirs) = PacketSocket::pair()?;
        let arguments = [ARGUMENT.into(), OsString::from(hexadecimal(&session.to_bytes()))];
        let child = spawn::program(spawn::Program {
            file: "/proc/self/exe".as_ref(),
            arguments: &arguments,
            user: None,
            socket: OwnedFd::from(theirs),
        })?;
        Ok(Self { child, _socket: ours })
    }

    /// Whether it has ended, which it does not do as long as we live.
    pub(super) fn has_ended(&mut self) -> bool {
        self.child.try_wait().is_ok_and(|ended| ended.is_some())
    }

    /// Lets it go, after the mount was taken away.
    pub(super) fn end(mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// Becomes the guard if this process was started as it; call it first in `main`.
#[must_use]
pub fn run_if_asked(arguments: impl IntoIterator<Item = OsString>) -> Option<ExitCode> {
    let mut arguments = arguments.into_iter().skip(1);
    if arguments.next()? != ARGUMENT {
        return None;
    }
    let session = arguments.next().and_then(|text| bytes(text.to_str()?));
    let Some(Ok(session)) = session.map(|bytes| Session::from_bytes(&bytes)) else {
        return Some(ExitCode::from(2));
    };
    // Whatever comes, nothing is sent: this returns at the keeper's end.
    drop(io::stdin().read(&mut [0]));
    // Already gone where the keeper ended in order.
    let done = mount::unmount(&session.handle);
    Some(if done.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn bytes(text: &str) -> Option<Vec<u8>> {
    let digits = text.as_bytes().chunks(2);
    digits.map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()).collect()
}
