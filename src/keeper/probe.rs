//! Whether requests are answered: asked from outside, by a process that may hang where we may not.

use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::mpsc::{Receiver, TryRecvError, channel};
use std::time::Duration;

use crate::sys::mount::MountHandle;
use crate::sys::probe::{Answer, ask};
use crate::sys::touch;

/// How long an answer may take. The attributes of the root are answered from memory.
const WAIT_MAX: Duration = Duration::from_secs(5);

/// A question that is being asked.
pub(super) struct Probe(Receiver<bool>);

impl Probe {
    /// Asks for the attributes of the root of the mount.
    pub(super) fn start(handle: &MountHandle) -> std::io::Result<Self> {
        let root: OwnedFd = touch::hold(&handle.mount_point)?;
        let (tell, answer) = channel();
        std::thread::Builder::new().name("probe".into()).spawn(move || {
            let is_answered = !matches!(ask(root.as_fd(), None, WAIT_MAX), Ok(Answer::Silent));
            // Who does not wait any more does not need it.
            let _ = tell.send(is_answered);
        })?;
        Ok(Self(answer))
    }

    /// Whether it was answered; `None` while it is not known.
    pub(super) fn answer(&self) -> Option<bool> {
        match self.0.try_recv() {
            Ok(is_answered) => Some(is_answered),
            Err(TryRecvError::Empty) => None,
            Err(TryRecvError::Disconnected) => Some(true),
        }
    }
}
