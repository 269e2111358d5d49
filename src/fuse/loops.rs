//! Threads that take requests from the kernel: one, as long as it is never held up, and more when it is.
//!
//! A request on one CPU costs least when the same thread takes every one: with a second reader on the device, RELEASE
//! and the next LOOKUP wake two threads instead of one (measured: 26 µs against 35 µs for an open, fstat, read and
//! close). But a thread that is stuck in an audit sink or in `/proc` must not hold up the rest, so the watch thread
//! adds another reader when all are stuck; it rests as soon as one of the others can go on.
//!
//! All readers share one description of the device, which whoever made the mount holds too: what one of them had read
//! when its process died is not lost.

use std::fs::File;
use std::io::{self, Write as _};
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use fuser::SessionACL;
use parking_lot::Mutex;

use crate::sys::packet::PacketSocket;
use crate::sys::{descriptor, signal};

use super::Options;
use super::adapter::{Adapter, Loop, Role};
use super::introduction::Introduction;
use super::pages::Pages;
use super::spin::Spin;

/// Readers at most; more than this many stuck ones are answered by the clock.
const LOOPS_MAX: usize = 8;
/// How fuser names the threads that read.
const READER_NAME: &str = "fuser-";
/// The longest reply: a READ of 128 KiB and its header, with room to spare.
const REPLY_BYTES_MAX: usize = 256 * 1024;

/// The readers of one device.
pub(super) struct Loops {
    device: OwnedFd,
    introduction: Introduction,
    adapter: Arc<Adapter>,
    /// Guards the readers; each ends when the kernel ends the session.
    readers: Mutex<Vec<Reader>>,
    is_draining: Arc<AtomicBool>,
    spin_max: Duration,
}

struct Reader {
    thread: JoinHandle<()>,
    /// The number under which fuser has the device.
    number: RawFd,
    /// Keeps that number open, and this reader's.
    _keep_open: fuser::Notifier,
}

impl Loops {
    /// Starts the readers in the session that was begun with `introduction`, and has the kernel send again what
    /// a reader of an earlier process took and did not answer.
    pub(super) fn start(
        device: OwnedFd,
        introduction: Introduction,
        pages: OwnedFd,
        adapter: Arc<Adapter>,
        options: &Options,
    ) -> io::Result<Arc<Self>> {
        let loops = Arc::new(Self {
            device,
            introduction,
            adapter,
            readers: Mutex::default(),
            is_draining: Arc::default(),
            spin_max: options.spin_max,
        });
        // Over a descriptor of its own, since a reader's is given up at a hand-over.
        let notifier = loops.session(Role::Once)?.notifier();
        let _ = loops.adapter.pages.set(Pages::start(notifier, pages.into())?);
        if introduction.can_resend() {
            resend(&loops.device)?;
        }
        for _ in 0..options.loop_threads.clamp(1, LOOPS_MAX) {
            loops.add(Role::Standing(loops.spin()?))?;
        }
        Ok(loops)
    }

    /// Adds a reader for as long as the others are held up; does nothing where there are many already.
    pub(super) fn relieve(&self) -> io::Result<()> {
        self.add(Role::Relief)
    }

    fn spin(&self) -> io::Result<Spin> {
        Ok(Spin::new(self.device.try_clone()?, self.spin_max))
    }

    /// A session on the device, as if it had just begun.
    ///
    /// fuser begins every session by waiting for INIT, which the kernel sends once. So the session begins on a socket
    /// where the same INIT lies, and is then given the device in its place.
    fn session(&self, role: Role) -> io::Result<fuser::Session<Loop>> {
        let (ours, theirs) = PacketSocket::pair()?;
        ours.send(&self.introduction.to_request(), &[])?;
        let adapter = Loop { adapter: Arc::clone(&self.adapter), role };
        let session =
            fuser::Session::from_fd(adapter, theirs.into(), SessionACL::All, fuser::Config::default())?;
        descriptor::replace(session.as_fd(), self.device.as_fd())?;
        Ok(session)
    }

    /// Adds a reader; does nothing where there are many already.
    fn add(&self, role: Role) -> io::Result<()> {
        let mut readers = self.readers.lock();
        if readers.len() >= LOOPS_MAX || self.is_draining.load(Ordering::Acquire) {
            return Ok(());
        }
        let session = self.session(role)?;
        let (number, keep_open) = (session.as_fd().as_raw_fd(), session.notifier());
        let is_draining = Arc::clone(&self.is_draining);
        let name = format!("fuse-{}", readers.len());
        let thread = std::thread::Builder::new().name(name).spawn(move || {
            // What fuser runs is a thread of its own, which this one waits for.
            if let Err(error) = session.run()
                && !is_draining.load(Ordering::Acquire)
            {
                tracing::warn!(%error, "a reader of the FUSE device ended");
            }
        })?;
        readers.push(Reader { thread, number, _keep_open: keep_open });
        Ok(())
    }

    /// Whether the kernel still sends requests: the first reader, which never rests, is the one to hear.
    pub(super) fn is_serving(&self) -> bool {
        self.readers.lock().first().is_some_and(|reader| !reader.thread.is_finished())
    }

    /// Takes no more requests and waits until every one that was taken is answered, `within` at most. The session goes
    /// on for whoever reads the device next. Answers whether all were answered.
    ///
    /// A reader's device is replaced by a socket on which nothing comes any more; what is written to it, the replies
    /// still owed, is carried to the device until the last of them is gone.
    pub(super) fn drain(&self, within: Duration) -> io::Result<bool> {
        self.is_draining.store(true, Ordering::Release);
        let until = Instant::now() + within;
        let readers: Vec<Reader> = self.readers.lock().drain(..).collect();
        let mut carriers = Vec::new();
        for reader in &readers {
            let (ours, theirs) = PacketSocket::pair()?;
            theirs.end_receiving()?;
            descriptor::replace_number(reader.number, theirs.as_fd())?;
            let device = File::from(self.device.try_clone()?);
            carriers.push(
                std::thread::Builder::new().name("replies".into()).spawn(move || carry(&ours, &device))?,
            );
        }
        self.adapter.watch.let_go();
        // A reader that waits at the device holds it until it is woken.
        while readers.iter().any(|reader| !reader.thread.is_finished()) && Instant::now() < until {
            signal::wake_threads(READER_NAME)?;
            std::thread::sleep(Duration::from_millis(1));
        }
        drop(readers);
        while carriers.iter().any(|carrier| !carrier.is_finished()) && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(carriers.iter().all(JoinHandle::is_finished))
    }

    /// Waits for every reader to end.
    pub(super) fn join(&self) {
        self.adapter.watch.let_go();
        for reader in self.readers.lock().drain(..) {
            if reader.thread.join().is_err() {
                tracing::warn!("a reader of the FUSE device panicked");
            }
        }
    }
}

fn carry(replies: &PacketSocket, mut device: &File) {
    while let Ok(Some(reply)) = replies.receive(REPLY_BYTES_MAX) {
        if let Err(error) = device.write_all(&reply.bytes) {
            tracing::debug!(%error, "a reply came too late");
        }
    }
}

/// Has the kernel send again what was read and not answered: `FUSE_NOTIFY_RESEND`, a `struct fuse_out_header` without a
/// body (`include/uapi/linux/fuse.h`). Such a request comes with bit 63 of its number set.
///
/// # Errors
/// `InvalidInput` from a kernel that cannot (before 6.9).
pub fn resend(device: &OwnedFd) -> io::Result<()> {
    const NOTIFY_RESEND: i32 = 7;
    let mut notification = [0_u8; 16];
    notification[..4].copy_from_slice(&16_u32.to_ne_bytes());
    notification[4..8].copy_from_slice(&NOTIFY_RESEND.to_ne_bytes());
    File::from(device.try_clone()?).write_all(&notification)
}
