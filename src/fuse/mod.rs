//! The FUSE side: the session with the kernel, the adapter from its requests to the tree, the errno contract, and
//! the notifier. It may touch the tree and what lies below it; fuser is named here and nowhere else.

mod adapter;
mod deferred;
mod directories;
mod errno;
mod introduction;
mod loops;
mod notices;
pub mod notifier;
mod pace;
mod pages;
mod pending;
mod questions;
mod read_only;
mod reading;
mod spin;
mod translate;

use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use crate::caller::Identifier;
use crate::tree::Tree;

pub use introduction::{Introduction, introduce, is_resend_switched_off};
pub use loops::resend;
pub use pace::PaceLimits;
pub use pages::MARKS_BYTES;

use adapter::Adapter;
use loops::Loops;
use notifier::Orders;
use pending::{Patience, Watch};

/// How to serve.
#[derive(Debug, Clone)]
pub struct Options {
    /// Threads that take requests from the kernel; more are added when all are held up.
    pub loop_threads: usize,
    /// How long each of them looks for the next request before it sleeps; zero: not at all.
    pub spin_max: Duration,
    /// How long an audit sink may block an open before it is answered with EIO.
    pub audit_wait: Duration,
    /// How long any request may take before it is answered with ETIMEDOUT.
    pub request_deadline: Duration,
    /// How fast one user may be refused.
    pub pace: PaceLimits,
}

/// A session with the kernel that somebody began, and holds.
pub struct Connection {
    /// The device. Its description is shared with whoever began the session, and with those who will go on with it.
    pub device: OwnedFd,
    /// How it was begun.
    pub introduction: Introduction,
    /// Where it is marked which files the kernel has pages of: [`MARKS_BYTES`] long, kept by who keeps the device.
    pub pages: OwnedFd,
    /// Who tells inotify's watchers.
    pub orders: Arc<dyn Orders>,
}

/// A session that is being served.
pub struct Session {
    loops: Arc<Loops>,
    watch: Arc<Watch>,
    /// Told of changes by the stores for as long as it is here.
    notices: Option<Arc<notices::Notices>>,
}

/// What the clock leaves whoever times a request itself, so that he can record and answer.
const GRACE: Duration = Duration::from_millis(200);

impl Session {
    /// Serves a session, from its beginning or from where another process left it.
    ///
    /// # Errors
    /// Where threads or descriptors are lacking, or the connection is gone.
    pub fn serve(
        tree: &Arc<Tree>,
        identifier: Arc<Identifier>,
        runtime: tokio::runtime::Handle,
        options: &Options,
        connection: Connection,
    ) -> io::Result<Self> {
        let log = Arc::clone(tree.gate().log());
        let patience = Patience { audit: options.audit_wait, request: options.request_deadline + GRACE };
        let watch = Watch::start(patience, Box::new(move || log.is_stuck()))?;
        let adapter = Arc::new(Adapter {
            tree: Arc::clone(tree),
            deferred: deferred::Deferred::new(
                Arc::clone(&identifier),
                Arc::clone(&watch),
                runtime.clone(),
                options.request_deadline,
            ),
            identifier,
            watch: Arc::clone(&watch),
            request_deadline: options.request_deadline,
            pace: pace::Pace::new(options.pace),
            directories: directories::Directories::default(),
            runtime,
            notices: OnceLock::new(),
            pages: OnceLock::new(),
        });
        let notices = notices::Notices::start(tree, connection.orders);
        let _ = adapter.notices.set(Arc::downgrade(&notices));
        let Connection { device, introduction, pages, .. } = connection;
        let loops = Loops::start(device, introduction, pages, adapter, options)?;
        let adding = Arc::downgrade(&loops);
        watch.when_all_are_stuck(Box::new(move || {
            if let Some(loops) = adding.upgrade()
                && let Err(error) = loops.relieve()
            {
                tracing::warn!(%error, "no further reader of the FUSE device could be started");
            }
        }));
        Ok(Self { loops, watch, notices: Some(notices) })
    }

    /// Whether the kernel still sends requests: false after somebody unmounted.
    #[must_use]
    pub fn is_serving(&self) -> bool {
        self.loops.is_serving()
    }

    /// The ids of the threads that have taken requests from the kernel: one, unless it was held up at some time.
    #[must_use]
    pub fn readers(&self) -> Vec<u32> {
        self.watch.loop_threads()
    }

    /// Takes no more requests, and answers those that were taken, `within` at most. The session goes on: requests wait
    /// in the kernel for the next who serves it. Answers whether all were answered.
    pub fn hand_over(mut self, within: Duration) -> bool {
        drop(self.notices.take());
        let all = self.loops.drain(within).unwrap_or_else(|error| {
            tracing::warn!(%error, "the readers of the FUSE device could not be stopped in order");
            false
        });
        self.watch.end();
        all
    }

    /// Waits for the session to end, `within` at most: for after it was unmounted. Answers whether it has.
    #[must_use]
    pub fn ends(&self, within: Duration) -> bool {
        let until = Instant::now() + within;
        while self.is_serving() && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(2));
        }
        !self.is_serving()
    }

    /// Waits for the readers, whose session has ended.
    pub fn join(mut self) {
        drop(self.notices.take());
        self.loops.join();
        self.watch.end();
    }
}
