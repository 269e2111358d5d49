//! The FUSE side: the session with the kernel, the adapter from its requests to the tree, the errno contract, and
//! the notifier. It may touch the tree and what lies below it; fuser is named here and nowhere else.

mod adapter;
mod deferred;
mod directories;
mod errno;
mod loops;
mod notices;
pub mod notifier;
mod pace;
mod pages;
mod pending;
mod read_only;
mod reading;
mod translate;

use std::io;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use crate::caller::Identifier;
use crate::sys::mount::{self, MountFault, MountHandle, MountOptions};
use crate::tree::Tree;

pub use pace::PaceLimits;

use adapter::Adapter;
use loops::Loops;
use pending::{Patience, Watch};

/// How to serve.
#[derive(Debug, Clone)]
pub struct Options {
    /// Where.
    pub mount_point: PathBuf,
    /// Whether users other than the one who mounts are let in.
    pub allow_other: bool,
    /// Threads that take requests from the kernel; more are added when all are held up.
    pub loop_threads: usize,
    /// How long an audit sink may block an open before it is answered with EIO.
    pub audit_wait: Duration,
    /// How long any request may take before it is answered with ETIMEDOUT.
    pub request_deadline: Duration,
    /// How fast one user may be refused.
    pub pace: PaceLimits,
}

/// Why nothing is served.
#[derive(Debug, thiserror::Error)]
pub enum SessionFault {
    /// The mount could not be made.
    #[error(transparent)]
    Mount(#[from] MountFault),
    /// The kernel's side of the session failed.
    #[error("the session with the kernel could not be set up: {0}")]
    Kernel(#[from] io::Error),
}

/// A mount that is being served.
pub struct Session {
    handle: MountHandle,
    loops: Arc<Loops>,
    watch: Arc<Watch>,
    /// Dropped before unmounting: its process holds the tree.
    notices: Option<Arc<notices::Notices>>,
}

/// What the clock leaves whoever times a request itself, so that he can record and answer.
const GRACE: Duration = Duration::from_millis(200);

/// How long the end of a session is waited for before its connection is aborted.
const END_WAIT: Duration = Duration::from_millis(500);

impl Session {
    /// Mounts and serves. Requests are answered when this returns.
    ///
    /// # Errors
    /// [`SessionFault`]; nothing is left mounted then.
    pub fn mount(
        tree: &Arc<Tree>,
        identifier: Arc<Identifier>,
        runtime: tokio::runtime::Handle,
        options: &Options,
    ) -> Result<Self, SessionFault> {
        let mounted = mount::mount(
            &options.mount_point,
            &MountOptions { allow_other: options.allow_other, ..MountOptions::default() },
        )?;
        let handle = mounted.handle.clone();
        match Self::serve(tree, identifier, runtime, options, mounted) {
            Ok(session) => Ok(session),
            Err(fault) => {
                let _ = mount::unmount(&handle);
                Err(fault)
            }
        }
    }

    fn serve(
        tree: &Arc<Tree>,
        identifier: Arc<Identifier>,
        runtime: tokio::runtime::Handle,
        options: &Options,
        mounted: mount::Mounted,
    ) -> Result<Self, SessionFault> {
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
            pace: pace::Pace::new(options.pace),
            directories: directories::Directories::default(),
            runtime,
            notices: OnceLock::new(),
            pages: OnceLock::new(),
            introduction: OnceLock::new(),
        });
        let loops = Loops::start(mounted.device, Arc::clone(&adapter), options.loop_threads)?;
        let adding = Arc::downgrade(&loops);
        watch.when_all_are_stuck(Box::new(move || {
            if let Some(loops) = adding.upgrade()
                && let Err(error) = loops.relieve()
            {
                tracing::warn!(%error, "no further reader of the FUSE device could be started");
            }
        }));
        let notices = notices::Notices::start(tree, mounted.tree)?;
        let _ = adapter.notices.set(Arc::downgrade(&notices));
        Ok(Self { handle: mounted.handle, loops, watch, notices: Some(notices) })
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

    /// Unmounts, waits a moment for what is in flight, and ends the session by force where files stay open.
    pub fn unmount(mut self) {
        drop(self.notices.take());
        if let Err(fault) = mount::unmount(&self.handle) {
            tracing::warn!(%fault, "could not unmount");
        }
        let begun = Instant::now();
        while self.is_serving() && begun.elapsed() < END_WAIT {
            std::thread::sleep(Duration::from_millis(5));
        }
        if self.is_serving() {
            tracing::info!("files are still open: their connection is ended");
            if let Err(error) = mount::abort(self.handle.minor) {
                tracing::warn!(%error, "could not end the connection");
            }
        }
        self.loops.join();
        self.watch.end();
    }
}
