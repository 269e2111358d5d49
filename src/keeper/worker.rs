//! The keeper's view of its one worker: started or come by itself, how far it is, whether it lives.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::process::Child;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::caller::ProcExecutables;
use crate::sys::packet::{Packet, PacketSocket};
use crate::sys::peer::Peer;
use crate::sys::process::{PidFd, Scope};

use super::executables;
use super::mounting::Kept;
use super::wire::{BYTES_MAX, MESSAGE_BYTES, Message, PROTOCOL, from_keeper};

/// How long a worker that serves may be silent.
const SILENCE_MAX: Duration = Duration::from_secs(5);
/// How long a worker may take to be ready.
const START_MAX: Duration = Duration::from_secs(60);

/// How long one that was killed may take to be gone. Its requests are answered with a time-out meanwhile, which frees what
/// hangs in them.
const DYING_MAX: Duration = Duration::from_secs(10);

/// How far a worker is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    /// It reads its configuration and opens its files.
    Starting,
    /// The session is its own.
    Serving,
    /// It is ending in order.
    Ending,
    /// It was killed and is not gone: a thread of it hangs in the kernel, in a request of its own mount perhaps.
    Dying,
}

/// The worker.
pub(super) struct Worker {
    socket: PacketSocket,
    pub(super) pid: u32,
    process: PidFd,
    /// Where we started it.
    child: Option<Child>,
    pub(super) stage: Stage,
    /// When it entered that stage.
    pub(super) since: Instant,
    heard: Instant,
    /// Whether it has said that it answered all it took.
    pub(super) is_drained: bool,
    helper_told: u32,
    /// How many requests it was told of that were answered with ETIMEDOUT.
    pub(super) timed_out_told: u64,
}

impl Worker {
    /// One that we started, at the other end of `socket`.
    pub(super) fn started(child: Child, socket: PacketSocket) -> io::Result<Self> {
        let pid = child.id();
        // Ours and not waited for: the number is its own.
        let process = PidFd::open(pid, Scope::Process)?;
        Ok(Self::new(socket, pid, process, Some(child)))
    }

    /// One that came to our socket.
    pub(super) fn come(socket: PacketSocket, peer: &Peer) -> io::Result<Self> {
        let process = PidFd::open(peer.pid, Scope::Process)?;
        Ok(Self::new(socket, peer.pid, process, None))
    }

    fn new(socket: PacketSocket, pid: u32, process: PidFd, child: Option<Child>) -> Self {
        let now = Instant::now();
        Self {
            socket,
            pid,
            process,
            child,
            stage: Stage::Starting,
            since: now,
            heard: now,
            is_drained: false,
            helper_told: 0,
            timed_out_told: 0,
        }
    }

    pub(super) fn socket(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    pub(super) fn process(&self) -> BorrowedFd<'_> {
        self.process.as_fd()
    }

    pub(super) fn enter(&mut self, stage: Stage) {
        self.stage = stage;
        self.since = Instant::now();
        self.heard = self.since;
    }

    /// What it says next; `Ok(None)`: its end is closed.
    pub(super) fn receive(&mut self) -> io::Result<Option<Packet>> {
        let packet = self.socket.receive_now(BYTES_MAX)?;
        self.heard = Instant::now();
        Ok(packet)
    }

    /// Why it has to be replaced, if it has; `ending_max`: how long an orderly end may take.
    pub(super) fn fault(&self, now: Instant, ending_max: Duration) -> Option<&'static str> {
        match self.stage {
            Stage::Starting => (now - self.since > START_MAX).then_some("it is not ready after a minute"),
            Stage::Serving => (now - self.heard > SILENCE_MAX).then_some("it has been silent for too long"),
            Stage::Ending => (now - self.since > ending_max).then_some("it does not end"),
            Stage::Dying => (now - self.since > DYING_MAX).then_some("it does not die"),
        }
    }

    /// Gives it the session, and starts to answer its questions.
    pub(super) fn welcome(
        &mut self,
        kept: &Kept,
        left: Option<&OwnedFd>,
        executables: &Arc<ProcExecutables>,
        timed_out: u64,
    ) -> io::Result<()> {
        let (quick, quick_theirs) = PacketSocket::pair()?;
        let (digests, digests_theirs) = PacketSocket::pair()?;
        for (name, socket) in [("executables", quick), ("digests", digests)] {
            let executables = Arc::clone(executables);
            std::thread::Builder::new()
                .name(name.into())
                .spawn(move || executables::answer(&socket, &executables))?;
        }
        let (major, minor, capabilities) = kept.session.introduction.to_numbers();
        let mut message = Message::of(from_keeper::WELCOME, PROTOCOL);
        let connection = kept.session.handle.minor.into();
        let helper = kept.helper();
        message.words[..6].copy_from_slice(&[
            major.into(),
            minor.into(),
            capabilities,
            connection,
            helper.into(),
            timed_out,
        ]);
        (self.helper_told, self.timed_out_told) = (helper, timed_out);
        let mut descriptors =
            vec![kept.device.as_fd(), quick_theirs.as_fd(), digests_theirs.as_fd(), kept.pages.as_fd()];
        descriptors.extend(left.map(AsFd::as_fd));
        self.socket.send_now(&message.to_bytes(), &descriptors)
    }

    pub(super) fn go(&mut self) -> io::Result<()> {
        self.enter(Stage::Serving);
        self.say(Message::of(from_keeper::GO, 0))
    }

    /// Tells it of the notifier's helper, where that is another by now.
    pub(super) fn tell_helper(&mut self, helper: u32) {
        if self.stage == Stage::Serving && self.helper_told != helper {
            self.helper_told = helper;
            if let Err(error) = self.say(Message::of(from_keeper::HELPER, helper)) {
                tracing::debug!(%error, "the worker could not be told of the notifier");
            }
        }
    }

    pub(super) fn stop(&mut self) {
        if self.stage != Stage::Ending {
            self.enter(Stage::Ending);
        }
        if let Err(error) = self.say(Message::of(from_keeper::STOP, 0)) {
            tracing::debug!(%error, "the worker could not be told to stop");
        }
    }

    fn say(&self, message: Message) -> io::Result<()> {
        const { assert!(MESSAGE_BYTES < BYTES_MAX) };
        self.socket.send_now(&message.to_bytes(), &[])
    }

    /// Has it read its configuration again.
    pub(super) fn hang_up(&self) {
        if let Err(error) = self.process.hang_up() {
            tracing::warn!(%error, "the worker could not be told to reload");
        }
    }

    pub(super) fn kill(&self) {
        if let Err(error) = self.process.kill() {
            tracing::debug!(%error, "the worker could not be killed");
        }
    }

    /// How it ended, once its process has: its exit code, where we started it and it exited.
    pub(super) fn exit_code(&mut self) -> Option<i32> {
        self.child.as_mut()?.wait().ok()?.code()
    }
}
