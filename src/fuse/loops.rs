//! Threads that take requests from the kernel: one, as long as it is never held up, and more when it is.
//!
//! A request on one CPU costs least when the same thread takes every one: with a second reader on the device, RELEASE
//! and the next LOOKUP wake two threads instead of one (measured: 26 µs against 35 µs for an open, fstat, read and
//! close). But a thread that is stuck in an audit sink or in `/proc` must not hold up the rest, so the watch thread
//! adds another reader when all are stuck; it rests as soon as one of the others can go on.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixDatagram;
use std::sync::Arc;
use std::thread::JoinHandle;

use fuser::{InitFlags, SessionACL, Version};
use parking_lot::Mutex;

use crate::sys::descriptor;

use super::adapter::{Adapter, Loop};
use super::pages::Pages;

/// Readers at most; more than this many stuck ones are answered by the clock.
const LOOPS_MAX: usize = 8;

/// What the kernel said at INIT, to be said again to a later reader.
#[derive(Debug, Clone, Copy)]
pub(super) struct Introduction {
    pub(super) version: Version,
    pub(super) capabilities: InitFlags,
}

/// The readers of one device.
pub(super) struct Loops {
    device: OwnedFd,
    adapter: Arc<Adapter>,
    /// Guards the threads; each ends when the kernel ends the session.
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl Loops {
    /// Answers the kernel's INIT and starts `count` readers.
    pub(super) fn start(device: OwnedFd, adapter: Arc<Adapter>, count: usize) -> io::Result<Arc<Self>> {
        let first = fuser::Session::from_fd(
            Loop { adapter: Arc::clone(&adapter), is_relief: false },
            device.try_clone()?,
            SessionACL::All,
            fuser::Config::default(),
        )?;
        let _ = adapter.pages.set(Pages::start(first.notifier())?);
        let loops = Arc::new(Self { device, adapter, threads: Mutex::default() });
        loops.run(first)?;
        for _ in 1..count.clamp(1, LOOPS_MAX) {
            loops.add(false)?;
        }
        Ok(loops)
    }

    /// Adds a reader for as long as the others are held up; does nothing where there are many already.
    pub(super) fn relieve(&self) -> io::Result<()> {
        self.add(true)
    }

    /// Adds a reader; does nothing where there are many already.
    ///
    /// fuser begins every session by waiting for INIT, which the kernel sends once. So the session begins on a socket
    /// where the same INIT lies, and is then given the device in its place.
    fn add(&self, is_relief: bool) -> io::Result<()> {
        if self.threads.lock().len() >= LOOPS_MAX {
            return Ok(());
        }
        let introduction = self.adapter.introduction.get().ok_or(io::ErrorKind::NotConnected)?;
        let (ours, theirs) = UnixDatagram::pair()?;
        ours.send(&init_request(*introduction))?;
        let adapter = Loop { adapter: Arc::clone(&self.adapter), is_relief };
        let session =
            fuser::Session::from_fd(adapter, theirs.into(), SessionACL::All, fuser::Config::default())?;
        descriptor::replace(session.as_fd(), self.device.as_fd())?;
        self.run(session)
    }

    fn run(&self, session: fuser::Session<Loop>) -> io::Result<()> {
        let mut threads = self.threads.lock();
        let name = format!("fuse-{}", threads.len());
        threads.push(std::thread::Builder::new().name(name).spawn(move || {
            // What fuser runs is a thread of its own, which this one waits for.
            if let Err(error) = session.run() {
                tracing::warn!(%error, "a reader of the FUSE device ended");
            }
        })?);
        Ok(())
    }

    /// Whether the kernel still sends requests: the first reader, which never rests, is the one to hear.
    pub(super) fn is_serving(&self) -> bool {
        self.threads.lock().first().is_some_and(|thread| !thread.is_finished())
    }

    /// Waits for every reader to end.
    pub(super) fn join(&self) {
        self.adapter.watch.let_go();
        for thread in self.threads.lock().drain(..) {
            if thread.join().is_err() {
                tracing::warn!("a reader of the FUSE device panicked");
            }
        }
    }
}

/// `struct fuse_in_header` and `struct fuse_init_in` (`include/uapi/linux/fuse.h`), as the kernel sends them.
fn init_request(introduction: Introduction) -> Vec<u8> {
    const INIT: u32 = 26;
    const LENGTH: usize = 40 + 64;
    let flags = introduction.capabilities.bits();
    let (low, high) = (flags as u32, (flags >> 32) as u32);
    let mut request = Vec::with_capacity(LENGTH);
    let length = u32::try_from(LENGTH).unwrap_or_default();
    for word in [length, INIT] {
        request.extend(word.to_ne_bytes());
    }
    request.extend(1_u64.to_ne_bytes());
    request.resize(40, 0);
    for word in [introduction.version.0, introduction.version.1, 0, low, high] {
        request.extend(word.to_ne_bytes());
    }
    request.resize(LENGTH, 0);
    request
}
