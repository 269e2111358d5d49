//! Tells watchers (inotify) of a rotation, through a process that may block where the daemon may not.
//!
//! Nothing a FUSE daemon does inside FUSE reaches fsnotify; only a change that comes through the VFS does, and that
//! comes back to the daemon as requests. So a helper makes it: it holds a tree in which the kernel lets it write, and
//! takes orders over a socket. The daemon only ever puts an order into a bounded queue.

mod command;
mod helper;

use std::collections::{HashSet, VecDeque};
use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use crate::sys::mount::WritableTree;
use crate::sys::spawn;

pub use command::{Command, Order};
pub use helper::run_if_asked;

/// How the notifier works.
#[derive(Clone, Debug)]
pub struct Options {
    /// The program that becomes the helper: this very one, which must call [`run_if_asked`] first.
    pub program: PathBuf,
    /// How many orders may wait. One more is dropped and counted.
    pub queue_max: usize,
    /// How long [`Notifier::stop`] waits for the helper to end.
    pub stop_max: Duration,
    /// The least time between two starts of a helper that keeps dying.
    pub restart_after: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            program: PathBuf::from("/proc/self/exe"),
            queue_max: 4096,
            stop_max: Duration::from_secs(1),
            restart_after: Duration::from_secs(1),
        }
    }
}

/// What has become of the orders, for `status` and metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Carried out.
    pub done: u64,
    /// Answered with an error, or lost with a helper that died.
    pub failed: u64,
    /// Not taken, since too many were waiting.
    pub dropped: u64,
}

#[derive(Default)]
struct Queue {
    waiting: VecDeque<Order>,
    /// The same orders, to find one again at once.
    known: HashSet<Order>,
    /// Our end of the living helper's socket, to wake the courier from a helper that hangs.
    socket: Option<UnixStream>,
    stopping: bool,
    ended: bool,
}

struct Shared {
    /// Orders not yet handed over. Held for a push or a pop, never over I/O.
    queue: Mutex<Queue>,
    changed: Condvar,
    pid: AtomicU32,
    done: AtomicU64,
    failed: AtomicU64,
    dropped: AtomicU64,
}

/// Who takes orders, in this process or in another. Giving one never blocks.
pub trait Orders: Send + Sync {
    /// Gives an order. It may be lost: watchers then learn of the change with the next one.
    fn order(&self, order: Order);

    /// The helper's process, for whom alone the hidden directory exists. Nothing while none runs.
    fn helper_pid(&self) -> Option<u32>;
}

impl Orders for Notifier {
    fn order(&self, order: Order) {
        self.notify(order);
    }

    fn helper_pid(&self) -> Option<u32> {
        Notifier::helper_pid(self)
    }
}

/// The end of who holds the tree. Giving an order never blocks.
pub struct Notifier {
    shared: Arc<Shared>,
    courier: Option<JoinHandle<()>>,
    options: Options,
}

impl Notifier {
    /// Starts the helper, which holds `tree` from then on.
    ///
    /// # Errors
    /// When the system has no thread to spare.
    pub fn start(tree: WritableTree, options: Options) -> std::io::Result<Self> {
        let shared = Arc::new(Shared {
            queue: Mutex::default(),
            changed: Condvar::new(),
            pid: AtomicU32::new(0),
            done: AtomicU64::new(0),
            failed: AtomicU64::new(0),
            dropped: AtomicU64::new(0),
        });
        let courier = Courier { shared: Arc::clone(&shared), tree, options: options.clone() };
        // The helper lives no longer than the thread that started it, so that thread is the courier.
        let courier =
            std::thread::Builder::new().name("notifier".to_owned()).spawn(move || courier.work())?;
        Ok(Self { shared, courier: Some(courier), options })
    }

    /// Gives an order. One that waits already is not queued twice.
    pub fn notify(&self, order: impl Into<Order>) {
        let order = order.into();
        let mut queue = self.shared.queue.lock();
        if queue.stopping || queue.known.contains(&order) {
            return;
        }
        if queue.waiting.len() >= self.options.queue_max {
            self.shared.dropped.fetch_add(1, Ordering::Relaxed);
            return;
        }
        queue.known.insert(order.clone());
        queue.waiting.push_back(order);
        self.shared.changed.notify_all();
    }

    /// The helper's process, for whom alone the hidden directory exists. Nothing while none runs.
    #[must_use]
    pub fn helper_pid(&self) -> Option<u32> {
        Some(self.shared.pid.load(Ordering::Acquire)).filter(|pid| *pid != 0)
    }

    /// What has become of the orders.
    #[must_use]
    pub fn counts(&self) -> Counts {
        Counts {
            done: self.shared.done.load(Ordering::Relaxed),
            failed: self.shared.failed.load(Ordering::Relaxed),
            dropped: self.shared.dropped.load(Ordering::Relaxed),
        }
    }

    /// Ends the helper, which lets go of the tree. Orders still waiting are forgotten. Answers false if the helper
    /// hangs in the kernel longer than `stop_max`: it ends when the request it waits for is answered or aborted.
    pub fn stop(mut self) -> bool {
        self.end()
    }

    fn end(&mut self) -> bool {
        let Some(courier) = self.courier.take() else { return true };
        let deadline = Instant::now() + self.options.stop_max;
        let mut queue = self.shared.queue.lock();
        queue.stopping = true;
        if let Some(socket) = &queue.socket {
            // It fails only where the helper is gone already.
            socket.shutdown(Shutdown::Both).ok();
        }
        self.shared.changed.notify_all();
        while !queue.ended {
            if self.shared.changed.wait_until(&mut queue, deadline).timed_out() {
                return false;
            }
        }
        drop(queue);
        courier.join().is_ok()
    }
}

impl Drop for Notifier {
    fn drop(&mut self) {
        self.end();
    }
}

/// Carries orders to the helper, one at a time, and starts it anew when it has died.
struct Courier {
    shared: Arc<Shared>,
    tree: WritableTree,
    options: Options,
}

impl Courier {
    fn work(self) {
        while !self.shared.queue.lock().stopping {
            let started = Instant::now();
            match self.start_helper() {
                Ok(helper) => self.serve(helper),
                Err(error) => tracing::warn!(%error, "the notifier's helper could not be started"),
            }
            self.pause_until(started + self.options.restart_after);
        }
        drop(self.tree);
        self.shared.queue.lock().ended = true;
        self.shared.changed.notify_all();
    }

    fn start_helper(&self) -> std::io::Result<spawn::Helper> {
        let path: OwnedFd;
        let tree = match &self.tree {
            WritableTree::Detached(tree) => tree.as_fd(),
            WritableTree::Path(mount_point) => {
                path = crate::sys::touch::hold(mount_point)?;
                path.as_fd()
            }
        };
        spawn::helper(&self.options.program, helper::ARGUMENT.as_ref(), Some(tree))
    }

    fn serve(&self, mut helper: spawn::Helper) {
        self.shared.pid.store(helper.child.id(), Ordering::Release);
        match helper.socket.try_clone() {
            Ok(socket) => self.shared.queue.lock().socket = Some(socket),
            Err(error) => tracing::warn!(%error, "the notifier's helper cannot be woken"),
        }
        while let Some(order) = self.next() {
            let mut answer = [0_u8];
            let sent = helper.socket.write_all(order.as_bytes());
            if sent.and_then(|()| helper.socket.read_exact(&mut answer)).is_err() {
                self.shared.failed.fetch_add(1, Ordering::Relaxed);
                break;
            }
            match answer[0] {
                0 => self.shared.done.fetch_add(1, Ordering::Relaxed),
                errno => {
                    tracing::debug!(errno, "watchers could not be told");
                    self.shared.failed.fetch_add(1, Ordering::Relaxed)
                }
            };
        }
        self.shared.queue.lock().socket = None;
        drop(helper.socket);
        // It has read end of file, or died, or hangs in the kernel; killed it ends no later than that lets it.
        helper.child.kill().ok();
        if let Err(error) = helper.child.wait() {
            tracing::warn!(%error, "the notifier's helper could not be waited for");
        }
        self.shared.pid.store(0, Ordering::Release);
    }

    fn next(&self) -> Option<Order> {
        let mut queue = self.shared.queue.lock();
        loop {
            if queue.stopping {
                return None;
            }
            if let Some(order) = queue.waiting.pop_front() {
                queue.known.remove(&order);
                return Some(order);
            }
            self.shared.changed.wait(&mut queue);
        }
    }

    fn pause_until(&self, moment: Instant) {
        let mut queue = self.shared.queue.lock();
        while !queue.stopping && !self.shared.changed.wait_until(&mut queue, moment).timed_out() {}
    }
}
