//! A worker's end: what it is given, what it says, and what it is told. It holds no capability for any of it.

use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::caller::Executables;
use crate::fuse::Introduction;
use crate::fuse::notifier::{Order, Orders};
use crate::sys::memory_file;
use crate::sys::packet::{Packet, PacketSocket};
use crate::sys::peer::Peer;

use super::executables::Asking;
use super::wire::{BYTES_MAX, LEFT_BYTES_MAX, Message, PROTOCOL, from_keeper, from_worker};

/// How long the keeper may take to answer, while it makes the mount.
const ANSWER_WAIT: Duration = Duration::from_secs(20);
/// How long a keeper that is gone is waited for: systemd starts it again.
const RETURN_WAIT: Duration = Duration::from_secs(60);
const RETRY_EVERY: Duration = Duration::from_millis(50);

/// Where the keeper is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum From {
    /// At the other end of our standard input: it started us, and we end with it.
    StandardInput,
    /// At a socket: it comes back when it was replaced.
    Socket(PathBuf),
}

/// Why there is no keeper to work for.
#[derive(Debug, thiserror::Error)]
pub enum LinkFault {
    /// Nobody is there.
    #[error(
        "the keeper cannot be reached at {path}: {source}; start it with `credfs keeper`, or use `credfs mount`"
    )]
    Unreachable {
        /// Where it was looked for.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// It was not what we expect.
    #[error("the keeper does not answer as it should: {0}; use the credfs of the same version for both")]
    Protocol(String),
    /// It has ended, or does not want us.
    #[error("the keeper has ended, or another worker works for it already")]
    Gone,
}

/// What a worker goes on with.
pub struct Adopted {
    /// The device.
    pub device: OwnedFd,
    /// How its session was begun.
    pub introduction: Introduction,
    /// Where it is marked which files the kernel has pages of.
    pub pages: OwnedFd,
    /// What the worker before left, sealed.
    pub left: Option<Vec<u8>>,
    /// How many requests were answered with ETIMEDOUT while there was no worker.
    pub timed_out: u64,
}

/// What the keeper tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Told {
    /// End: the mount is being taken away.
    Stop,
    /// It is gone for good, and so is the mount.
    Gone,
}

/// The connection to the keeper.
pub struct Link {
    from: From,
    /// Guards the socket, which changes when the keeper is replaced.
    socket: Mutex<Arc<PacketSocket>>,
    asking: Arc<Asking>,
    helper: AtomicU32,
    keeper: AtomicU32,
    /// Who owns the mount: the keeper's user and group.
    owner: (AtomicU32, AtomicU32),
}

impl Link {
    /// Presents this process to the keeper, and is given the session. Nothing is read from it before [`Self::go`].
    ///
    /// # Errors
    /// [`LinkFault`].
    pub fn open(from: From, digests_max: usize) -> Result<(Arc<Self>, Adopted), LinkFault> {
        let socket = match &from {
            From::StandardInput => {
                let descriptor = io::stdin().as_fd().try_clone_to_owned();
                PacketSocket::of(descriptor.map_err(|error| LinkFault::Protocol(error.to_string()))?)
            }
            From::Socket(path) => connect(path)?,
        };
        let link = Self {
            from,
            socket: Mutex::new(Arc::new(socket)),
            asking: Arc::new(Asking::new(digests_max)),
            helper: AtomicU32::new(0),
            keeper: AtomicU32::new(0),
            owner: (AtomicU32::new(0), AtomicU32::new(0)),
        };
        let adopted = link.present()?;
        Ok((Arc::new(link), adopted))
    }

    fn present(&self) -> Result<Adopted, LinkFault> {
        let socket = self.socket();
        let peer = Peer::of(socket.as_fd()).map_err(|_| LinkFault::Gone)?;
        self.keeper.store(peer.pid, Ordering::Relaxed);
        self.owner.0.store(peer.uid, Ordering::Relaxed);
        self.owner.1.store(peer.gid, Ordering::Relaxed);
        let protocol = |error: io::Error| LinkFault::Protocol(error.to_string());
        socket.wait_at_most(ANSWER_WAIT).map_err(protocol)?;
        send(&socket, Message::of(from_worker::HELLO, PROTOCOL)).map_err(|_| LinkFault::Gone)?;
        let packet = socket.receive(BYTES_MAX).map_err(protocol)?.ok_or(LinkFault::Gone)?;
        let (welcome, _) =
            Message::read(&packet.bytes).ok_or_else(|| LinkFault::Protocol("a short message".to_owned()))?;
        if (welcome.kind, welcome.number) != (from_keeper::WELCOME, PROTOCOL) {
            return Err(LinkFault::Protocol(format!("it speaks version {} of the protocol", welcome.number)));
        }
        self.adopt(welcome, packet)
    }

    fn adopt(&self, welcome: Message, packet: Packet) -> Result<Adopted, LinkFault> {
        let mut descriptors = packet.descriptors.into_iter();
        let mut next = || descriptors.next();
        let (Some(device), Some(quick), Some(digests), Some(pages)) = (next(), next(), next(), next()) else {
            return Err(LinkFault::Protocol("descriptors are missing".to_owned()));
        };
        self.asking
            .connect(PacketSocket::of(quick), PacketSocket::of(digests))
            .map_err(|error| LinkFault::Protocol(error.to_string()))?;
        let left =
            descriptors.next().and_then(|left| match memory_file::read_sealed(&left, LEFT_BYTES_MAX) {
                Ok(left) => Some(left),
                Err(error) => {
                    tracing::warn!(%error, "what the worker before left cannot be read");
                    None
                }
            });
        let [major, minor, capabilities, _connection, helper, timed_out, ..] = welcome.words;
        let half = |word: u64| u32::try_from(word).unwrap_or(0);
        self.helper.store(half(helper), Ordering::Release);
        let introduction = Introduction::from_numbers((half(major), half(minor), capabilities));
        Ok(Adopted { device, introduction, pages, left, timed_out })
    }

    /// Says that everything is open, and waits until the session is ours.
    ///
    /// # Errors
    /// [`LinkFault::Gone`].
    pub fn go(&self) -> Result<(), LinkFault> {
        let socket = self.socket();
        send(&socket, Message::of(from_worker::READY, 0)).map_err(|_| LinkFault::Gone)?;
        loop {
            let packet = socket.receive(BYTES_MAX).map_err(|_| LinkFault::Gone)?.ok_or(LinkFault::Gone)?;
            match Message::read(&packet.bytes) {
                Some((Message { kind: from_keeper::GO, .. }, _)) => return Ok(()),
                Some((Message { kind: from_keeper::HELPER, number, .. }, _)) => {
                    self.helper.store(number, Ordering::Release);
                }
                _ => return Err(LinkFault::Gone),
            }
        }
    }

    /// Waits for what the keeper tells. One that comes back is presented to anew, and goes on with the session that we
    /// serve meanwhile.
    #[must_use]
    pub fn next_told(&self) -> Told {
        loop {
            let socket = self.socket();
            match socket.receive(BYTES_MAX) {
                Ok(Some(packet)) => match Message::read(&packet.bytes) {
                    Some((Message { kind: from_keeper::STOP, .. }, _)) => return Told::Stop,
                    Some((Message { kind: from_keeper::HELPER, number, .. }, _)) => {
                        self.helper.store(number, Ordering::Release);
                    }
                    _ => {}
                },
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Ok(None) | Err(_) => {
                    if !self.find_again() {
                        return Told::Gone;
                    }
                }
            }
        }
    }

    /// Whether the keeper came back.
    fn find_again(&self) -> bool {
        let From::Socket(path) = &self.from else { return false };
        tracing::warn!("the keeper is gone: waiting for its successor");
        self.helper.store(0, Ordering::Release);
        let until = Instant::now() + RETURN_WAIT;
        while Instant::now() < until {
            std::thread::sleep(RETRY_EVERY);
            let Ok(socket) = PacketSocket::connect(path) else { continue };
            *self.socket.lock() = Arc::new(socket);
            // It has the same device from systemd's store: ours serves on, the one it sends is dropped.
            if self.present().is_ok() && self.go().is_ok() && self.serving().is_ok() {
                tracing::info!("the keeper is back");
                return true;
            }
        }
        false
    }

    /// Says that requests are being answered.
    ///
    /// # Errors
    /// Where the keeper is gone.
    pub fn serving(&self) -> io::Result<()> {
        self.say(Message::of(from_worker::SERVING, 0))
    }

    /// Says that this process lives.
    ///
    /// # Errors
    /// Where the keeper is gone.
    pub fn beat(&self) -> io::Result<()> {
        self.say(Message::of(from_worker::BEAT, 0))
    }

    /// Says that this process ends in order, so that its silence is no fault.
    pub fn ending(&self) {
        drop(self.say(Message::of(from_worker::ENDING, 0)));
    }

    /// Says that no request is being answered here any more, and whether all that were taken have been.
    pub fn drained(&self, all: bool) {
        drop(self.say(Message::of(from_worker::DRAINED, u32::from(all))));
    }

    /// Says that a reload which SIGHUP asked for is done.
    pub fn reloaded(&self) {
        drop(self.say(Message::of(from_worker::RELOADED, 0)));
    }

    /// Leaves `sealed` to a successor, in the place of what was left before.
    ///
    /// # Errors
    /// Where there is no memory, or no keeper.
    pub fn leave(&self, sealed: &[u8]) -> io::Result<()> {
        let file = memory_file::sealed(c"credfs-left", sealed)?;
        self.socket().send(&Message::of(from_worker::LEAVES, 0).to_bytes(), &[file.as_fd()])
    }

    /// Which file a thread runs, as the keeper sees it.
    #[must_use]
    pub fn executables(&self) -> Arc<dyn Executables> {
        Arc::clone(&self.asking) as Arc<dyn Executables>
    }

    /// The keeper's process.
    #[must_use]
    pub fn keeper_pid(&self) -> Option<u32> {
        Some(self.keeper.load(Ordering::Relaxed)).filter(|pid| *pid != 0)
    }

    /// The keeper's user and group, to whom the directories of the mount belong.
    #[must_use]
    pub fn keeper_owner(&self) -> (u32, u32) {
        (self.owner.0.load(Ordering::Relaxed), self.owner.1.load(Ordering::Relaxed))
    }

    fn socket(&self) -> Arc<PacketSocket> {
        Arc::clone(&self.socket.lock())
    }

    fn say(&self, message: Message) -> io::Result<()> {
        send(&self.socket(), message)
    }
}

impl Orders for Link {
    fn order(&self, order: Order) {
        let mut bytes = Message::of(from_worker::ORDER, 0).to_bytes().to_vec();
        bytes.extend(order.as_bytes());
        if let Err(error) = self.socket().send_now(&bytes, &[]) {
            tracing::debug!(%error, "watchers could not be told");
        }
    }

    fn helper_pid(&self) -> Option<u32> {
        Some(self.helper.load(Ordering::Acquire)).filter(|pid| *pid != 0)
    }
}

fn send(socket: &PacketSocket, message: Message) -> io::Result<()> {
    socket.send(&message.to_bytes(), &[])
}

fn connect(path: &Path) -> Result<PacketSocket, LinkFault> {
    let until = Instant::now() + ANSWER_WAIT;
    loop {
        match PacketSocket::connect(path) {
            Ok(socket) => return Ok(socket),
            // It may be starting, or being replaced.
            Err(_) if Instant::now() < until => std::thread::sleep(RETRY_EVERY),
            Err(source) => return Err(LinkFault::Unreachable { path: path.to_owned(), source }),
        }
    }
}
