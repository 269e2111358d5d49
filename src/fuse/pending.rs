//! Replies that may have to be given by the clock: an audit sink or a store that blocks must hold nobody.
//!
//! A loop thread puts its reply into its slot before it does anything that may block, and takes it out again to
//! answer. A watch thread looks at the slots every few milliseconds while there is work, and answers for a thread
//! that is stuck. Whoever takes the reply out answers; the other finds nothing and answers nothing.

use std::cell::RefCell;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use fuser::{Errno, ReplyData, ReplyOpen};
use parking_lot::{Condvar, Mutex};

use crate::sys::process;

/// A reply that is owed.
pub(super) enum Owed {
    Open(ReplyOpen),
    Read(ReplyData),
}

impl Owed {
    pub(super) fn error(self, errno: Errno) {
        match self {
            Self::Open(reply) => reply.error(errno),
            Self::Read(reply) => reply.error(errno),
        }
    }
}

/// A place for one owed reply; a loop thread's own also says since when the thread is at work.
pub(super) struct Slot {
    /// Guards the reply and since when it is owed, in microseconds since the watch began.
    owed: Mutex<Option<(u64, Owed)>>,
    /// Microseconds since the watch began; 0 while the thread waits for the kernel.
    busy_since_us: AtomicU64,
    /// Whether the thread takes no requests, because others can.
    rests: AtomicBool,
    /// The loop thread, for `/proc/self/task`; `None` for a request that was handed on.
    thread: Option<u32>,
}

impl Slot {
    fn of_thread(thread: Option<u32>) -> Arc<Self> {
        Arc::new(Self {
            owed: Mutex::default(),
            busy_since_us: AtomicU64::new(0),
            rests: AtomicBool::new(false),
            thread,
        })
    }

    /// Takes the reply out; `None` if the clock has answered already.
    pub(super) fn take(&self) -> Option<Owed> {
        self.owed.lock().take().map(|(_, owed)| owed)
    }
}

/// A loop thread at work, until it is dropped.
pub(super) struct Busy(Arc<Slot>);

impl Busy {
    /// The thread's slot.
    pub(super) fn slot(&self) -> &Arc<Slot> {
        &self.0
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.busy_since_us.store(0, Ordering::Release);
    }
}

/// How long every loop thread must be held up before another is added.
const STUCK: Duration = Duration::from_millis(4);

fn micros(span: Duration) -> u64 {
    u64::try_from(span.as_micros()).unwrap_or(u64::MAX)
}

/// How often the slots are looked at while there is work.
const TICK: Duration = Duration::from_millis(5);
/// Ticks without work after which the watch thread sleeps until there is some.
const IDLE_TICKS: u32 = 200;

/// How long replies may be owed.
#[derive(Debug, Clone, Copy)]
pub(super) struct Patience {
    /// Where the audit sink blocks: then EIO.
    pub(super) audit: Duration,
    /// Else: then ETIMEDOUT.
    pub(super) request: Duration,
}

/// Every slot, and the thread that watches them.
pub(super) struct Watch {
    /// Guards the slots: one for each loop thread, and one for each request handed on to the runtime.
    slots: Mutex<Vec<Arc<Slot>>>,
    /// Counts requests begun, so that the watch thread can tell whether there is work.
    begun_count: AtomicU64,
    /// Adds a loop thread.
    add_loop: OnceLock<Box<dyn Fn() + Send + Sync>>,
    /// Guards how many resting loop threads are called to work.
    called: Mutex<usize>,
    calls: Condvar,
    epoch: Instant,
    /// Whether the watch thread sleeps until it is woken.
    sleeps: AtomicBool,
    /// Guards nothing: what the condition variable waits with.
    sleep: Mutex<()>,
    wake: Condvar,
    ends: AtomicBool,
    patience: Patience,
    /// Whether the audit sink is stuck in a system call.
    sink_is_stuck: Box<dyn Fn() -> bool + Send + Sync>,
}

thread_local! {
    static OWN_SLOT: RefCell<Option<Arc<Slot>>> = const { RefCell::new(None) };
}

impl Watch {
    /// Starts the watch thread.
    pub(super) fn start(
        patience: Patience,
        sink_is_stuck: Box<dyn Fn() -> bool + Send + Sync>,
    ) -> std::io::Result<Arc<Self>> {
        let watch = Arc::new(Self {
            slots: Mutex::default(),
            begun_count: AtomicU64::new(0),
            add_loop: OnceLock::new(),
            called: Mutex::default(),
            calls: Condvar::new(),
            epoch: Instant::now(),
            sleeps: AtomicBool::new(false),
            sleep: Mutex::default(),
            wake: Condvar::new(),
            ends: AtomicBool::new(false),
            patience,
            sink_is_stuck,
        });
        let watching = Arc::clone(&watch);
        std::thread::Builder::new().name("deadlines".into()).spawn(move || watching.run())?;
        Ok(watch)
    }

    /// Ends the watch thread; replies still owed are answered by their owners.
    pub(super) fn end(&self) {
        self.ends.store(true, Ordering::Release);
        self.rouse();
        self.let_go();
    }

    /// Calls every resting loop thread, which then hears from the kernel that the session is over.
    pub(super) fn let_go(&self) {
        *self.called.lock() = usize::MAX;
        self.calls.notify_all();
    }

    /// Has this thread, which was added to relieve others, take no further request until all are held up again.
    ///
    /// Two readers of one device cost more than one: the RELEASE of one file and the LOOKUP of the next wake both.
    /// So a reader that is not needed stays away from the device instead of waiting at it.
    pub(super) fn rest(&self) {
        let own = self.own_slot();
        let (now, stuck) = (self.now_us(), micros(STUCK));
        let is_needed = !self.slots.lock().iter().any(|slot| {
            let since = slot.busy_since_us.load(Ordering::Acquire);
            let is_working = slot.thread.is_some() && !slot.rests.load(Ordering::Acquire);
            is_working && !Arc::ptr_eq(slot, &own) && (since == 0 || now.saturating_sub(since) <= stuck)
        });
        if is_needed {
            return;
        }
        let mut called = self.called.lock();
        own.rests.store(true, Ordering::Release);
        while *called == 0 {
            self.calls.wait(&mut called);
        }
        own.rests.store(false, Ordering::Release);
        if *called != usize::MAX {
            *called -= 1;
        }
    }

    /// The loop threads that have taken a request.
    pub(super) fn loop_threads(&self) -> Vec<u32> {
        self.slots.lock().iter().filter_map(|slot| slot.thread).collect()
    }

    fn now_us(&self) -> u64 {
        micros(self.epoch.elapsed())
    }

    /// Has `add_loop` called whenever all loop threads are held up.
    pub(super) fn when_all_are_stuck(&self, add_loop: Box<dyn Fn() + Send + Sync>) {
        let _ = self.add_loop.set(add_loop);
    }

    /// Notes that this thread is at work, until what is returned is dropped, and puts the reply that it owes where the
    /// clock can answer it: it answers or hands on before it takes its next request.
    pub(super) fn begin(&self, owed: Option<Owed>) -> Busy {
        let slot = self.own_slot();
        let since = self.now_us().max(1);
        slot.busy_since_us.store(since, Ordering::Release);
        if let Some(owed) = owed {
            *slot.owed.lock() = Some((since, owed));
        }
        self.begun_count.fetch_add(1, Ordering::Relaxed);
        if self.sleeps.load(Ordering::Acquire) {
            self.rouse();
        }
        Busy(slot)
    }

    /// Runs `act`, which answers a request, on a thread that takes none from the kernel: it counts as no reader.
    pub(super) fn elsewhere(&self, act: impl FnOnce()) {
        let slot = Slot::of_thread(None);
        self.slots.lock().push(Arc::clone(&slot));
        let before = OWN_SLOT.with(|own| own.borrow_mut().replace(Arc::clone(&slot)));
        act();
        OWN_SLOT.with(|own| *own.borrow_mut() = before);
        self.finished(&slot);
    }

    fn own_slot(&self) -> Arc<Slot> {
        OWN_SLOT.with(|own| {
            let mut own = own.borrow_mut();
            Arc::clone(own.get_or_insert_with(|| {
                let slot = Slot::of_thread(Some(process::own_tid()));
                self.slots.lock().push(Arc::clone(&slot));
                slot
            }))
        })
    }

    /// Moves a reply from the slot of this thread into one of its own, since the request goes on elsewhere.
    pub(super) fn hand_on(&self, slot: &Arc<Slot>) -> Option<Arc<Slot>> {
        let (since, owed) = slot.owed.lock().take()?;
        let own = Slot::of_thread(None);
        *own.owed.lock() = Some((since, owed));
        self.slots.lock().push(Arc::clone(&own));
        Some(own)
    }

    /// Drops the slot of a request that was handed on and has been answered.
    pub(super) fn finished(&self, slot: &Arc<Slot>) {
        self.slots.lock().retain(|one| !Arc::ptr_eq(one, slot));
    }

    fn rouse(&self) {
        let _guard = self.sleep.lock();
        self.sleeps.store(false, Ordering::Release);
        self.wake.notify_all();
    }

    fn run(&self) {
        let (mut seen, mut idle_ticks) = (0, 0);
        while !self.ends.load(Ordering::Acquire) {
            std::thread::sleep(TICK);
            self.answer_overdue();
            self.relieve();
            let count = self.begun_count.load(Ordering::Relaxed);
            let has_work = count != seen || self.slots.lock().iter().any(|slot| slot.owed.lock().is_some());
            seen = count;
            idle_ticks = if has_work { 0 } else { idle_ticks + 1 };
            if idle_ticks >= IDLE_TICKS {
                self.sleep_until_work(seen);
                idle_ticks = 0;
            }
        }
    }

    fn sleep_until_work(&self, seen: u64) {
        let mut guard = self.sleep.lock();
        self.sleeps.store(true, Ordering::SeqCst);
        // A reply put before the flag was up did not wake us; the count says so.
        while self.sleeps.load(Ordering::SeqCst) && self.begun_count.load(Ordering::SeqCst) == seen {
            if self.ends.load(Ordering::Acquire) {
                break;
            }
            // Bounded, so that a wake lost between the flag and the wait costs a second and not a reply.
            self.wake.wait_for(&mut guard, Duration::from_secs(1));
        }
        self.sleeps.store(false, Ordering::SeqCst);
    }

    /// Calls a resting loop thread, or adds one, where every other is held up. One that merely waits for a CPU is
    /// not held up.
    fn relieve(&self) {
        let (now, stuck) = (self.now_us(), micros(STUCK));
        let slots: Vec<_> = self.slots.lock().clone();
        let (resting, working): (Vec<_>, Vec<_>) = slots
            .iter()
            .filter_map(|slot| Some((slot, slot.thread?)))
            .partition(|(slot, _)| slot.rests.load(Ordering::Acquire));
        let all_stuck = !working.is_empty()
            && working.iter().all(|(slot, thread)| {
                let since = slot.busy_since_us.load(Ordering::Acquire);
                since != 0 && now.saturating_sub(since) > stuck && !process::is_own_thread_running(*thread)
            });
        if !all_stuck {
            return;
        }
        if !resting.is_empty() {
            *self.called.lock() = 1;
            self.calls.notify_one();
        } else if let Some(add_loop) = self.add_loop.get() {
            add_loop();
        }
    }

    fn answer_overdue(&self) {
        let slots: Vec<_> = self.slots.lock().clone();
        let now = self.now_us();
        let mut stuck = None;
        for slot in slots {
            let mut owed = slot.owed.lock();
            let Some((since, _)) = &*owed else { continue };
            let waited = Duration::from_micros(now.saturating_sub(*since));
            let errno = if waited >= self.patience.request {
                Errno::ETIMEDOUT
            } else if waited >= self.patience.audit && *stuck.get_or_insert_with(|| (self.sink_is_stuck)()) {
                Errno::EIO
            } else {
                continue;
            };
            if let Some((_, reply)) = owed.take() {
                drop(owed);
                tracing::warn!(waited_ms = waited.as_millis(), errno = errno.code(), "answered by the clock");
                reply.error(errno);
            }
        }
    }
}
