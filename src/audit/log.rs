//! The log as the rest of the program sees it: one call that returns when there is a record, or says why not, and
//! that never waits long for anyone else.

use std::fs::File;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex, MutexGuard};

use super::keys::KeyFile;
use super::open::{self, OpenFault, Opened};
use super::record::{self, Entry, Moment};
use super::recorded::Recorded;
use super::refusals::Refusals;
use super::writer::{NotRecorded, Writer};
use super::{Durability, Fingerprint, Options, upkeep};
use crate::sys::process;

/// How often `wait_max` is waited for a holder that merely lacks the CPU.
const WAITS_MAX: u32 = 25;

thread_local! {
    static OWN_TID: u32 = process::own_tid();
}

/// The proof that a record was written. Only the log can make one.
#[derive(Debug, PartialEq, Eq)]
#[must_use]
pub struct Receipt {
    seq: u64,
}

impl Receipt {
    /// The number of the record, never 0.
    #[must_use]
    pub const fn seq(&self) -> u64 {
        self.seq
    }
}

/// How a log is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Health {
    /// The last record was written.
    Recording,
    /// The last record could not be written.
    Failing(NotRecorded),
}

/// What is known of a log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct State {
    /// Whether records are being written.
    pub health: Health,
    /// The root of the chain; `None` where its first record is gone.
    pub root: Option<Fingerprint>,
    /// The number of the next record; `None` while the log is stuck.
    pub next_seq: Option<u64>,
    /// Records that no key has signed yet; `None` while the log is stuck.
    pub unsealed: Option<u32>,
    /// How many records, from the first, were handed off the machine.
    pub checkpointed: u64,
    /// Refusals that wait to be written.
    pub refusals_waiting: u64,
    /// Whether so little space is left that refusals are only counted.
    pub is_space_low: bool,
}

/// Which bytes the disk has, for those who wait for it together.
pub(super) struct DiskState {
    pub(super) file: Arc<File>,
    /// How far the file was written when it was last looked at.
    pub(super) written_bytes: u64,
    /// How far the disk has it.
    pub(super) synced_bytes: u64,
    is_syncing: bool,
}

/// What all parts of a log share.
pub(super) struct Shared {
    pub(super) options: Options,
    writer: Mutex<Writer>,
    /// Since when someone holds the writer, in microseconds since boot; 0: nobody does.
    busy_since_us: AtomicU64,
    /// The thread that holds the writer, while someone does.
    holder: AtomicU32,
    pub(super) keys: KeyFile,
    /// One at a time: making keys, rotating, checkpointing, removing.
    pub(super) chores: Mutex<()>,
    pub(super) refusals: Mutex<Refusals>,
    pub(super) disk: Mutex<DiskState>,
    disk_changed: Condvar,
    pub(super) wake: Mutex<Wake>,
    pub(super) woken: Condvar,
    is_asked: AtomicBool,
    is_failing: AtomicBool,
    fault: Mutex<Option<NotRecorded>>,
    pub(super) is_space_low: AtomicBool,
    pub(super) checkpointed: AtomicU64,
    pub(super) root: Option<Fingerprint>,
}

/// What the upkeep thread is to do.
#[derive(Default)]
pub(super) struct Wake {
    pub(super) stop: bool,
    pub(super) work: bool,
    pub(super) is_done: bool,
}

/// The writer, held. While it is, others can see since when.
pub(super) struct Holding<'a> {
    writer: MutexGuard<'a, Writer>,
    busy_since_us: &'a AtomicU64,
    /// When it was taken.
    pub(super) since: Moment,
}

impl std::ops::Deref for Holding<'_> {
    type Target = Writer;
    fn deref(&self) -> &Writer {
        &self.writer
    }
}

impl std::ops::DerefMut for Holding<'_> {
    fn deref_mut(&mut self) -> &mut Writer {
        &mut self.writer
    }
}

impl Drop for Holding<'_> {
    fn drop(&mut self) {
        self.busy_since_us.store(0, Ordering::Release);
    }
}

impl Shared {
    pub(super) fn new(options: Options, writer: Writer, keys: KeyFile, root: Option<Fingerprint>) -> Self {
        let disk =
            DiskState { file: writer.sink.file(), written_bytes: 0, synced_bytes: 0, is_syncing: false };
        Self {
            refusals: Mutex::new(Refusals::new(options.refusals)),
            options,
            writer: Mutex::new(writer),
            busy_since_us: AtomicU64::new(0),
            holder: AtomicU32::new(0),
            checkpointed: AtomicU64::new(keys.checkpointed()),
            keys,
            chores: Mutex::new(()),
            disk: Mutex::new(disk),
            disk_changed: Condvar::new(),
            wake: Mutex::new(Wake::default()),
            woken: Condvar::new(),
            is_asked: AtomicBool::new(false),
            is_failing: AtomicBool::new(false),
            fault: Mutex::new(None),
            is_space_low: AtomicBool::new(false),
            root,
        }
    }

    /// Takes the writer. Whoever finds it held waits `wait_max` at most, and not at all where the holder is already
    /// stuck for that long: a sink that blocks holds up the one caller who is in it, and nobody else.
    pub(super) fn hold(&self) -> Result<Holding<'_>, NotRecorded> {
        let writer = match self.writer.try_lock() {
            Some(writer) => writer,
            None => self.wait_for_writer()?,
        };
        self.holder.store(OWN_TID.with(|tid| *tid), Ordering::Release);
        let since = (self.options.clock)();
        self.busy_since_us.store(since.mono_us.max(1), Ordering::Release);
        Ok(Holding { writer, busy_since_us: &self.busy_since_us, since })
    }

    /// Waits for the writer. A holder that has the CPU taken from it is waited for a little longer: on a busy
    /// machine that takes tens of milliseconds, and no sink is to blame.
    fn wait_for_writer(&self) -> Result<MutexGuard<'_, Writer>, NotRecorded> {
        for _ in 0..WAITS_MAX {
            if self.is_stuck() {
                break;
            }
            if let Some(writer) = self.writer.try_lock_for(self.options.wait_max) {
                return Ok(writer);
            }
        }
        Err(NotRecorded::Blocked)
    }

    fn is_stuck(&self) -> bool {
        let since_us = self.busy_since_us.load(Ordering::Acquire);
        let wait_us = u64::try_from(self.options.wait_max.as_micros()).unwrap_or(u64::MAX);
        since_us != 0
            && (self.options.clock)().mono_us.saturating_sub(since_us) > wait_us
            && !process::is_own_thread_running(self.holder.load(Ordering::Acquire))
    }

    /// Writes one record and, in `power-safe`, waits until the disk has it.
    pub(super) fn write(&self, body: &mut dyn FnMut(&mut Vec<u8>)) -> Result<u64, NotRecorded> {
        let written = self.write_unsynced(body);
        self.note(written.err());
        written
    }

    fn write_unsynced(&self, body: &mut dyn FnMut(&mut Vec<u8>)) -> Result<u64, NotRecorded> {
        let mut writer = self.hold()?;
        let since = writer.since;
        let seq = writer.record(since, body)?;
        let has_work = writer.ready.len() < 48 || writer.head.bytes >= self.options.segment_bytes;
        let ticket = writer.written_bytes;
        if self.options.durability == Durability::PowerSafe {
            let mut disk = self.disk.lock();
            disk.written_bytes = ticket;
            disk.file = writer.sink.file();
        }
        drop(writer);
        if has_work {
            self.ask_for_upkeep();
        }
        if self.options.durability == Durability::PowerSafe {
            self.wait_for_disk(ticket)?;
        }
        Ok(seq)
    }

    /// Waits until the disk has the first `ticket` bytes; one of those who wait has it write for all.
    fn wait_for_disk(&self, ticket: u64) -> Result<(), NotRecorded> {
        // A disk needs longer than a lock: a rotating one that spins up, a queue that drains.
        let deadline = Instant::now() + self.options.wait_max.max(Duration::from_millis(40));
        let mut disk = self.disk.lock();
        while disk.synced_bytes < ticket {
            if disk.is_syncing {
                if self.disk_changed.wait_until(&mut disk, deadline).timed_out() {
                    return Err(NotRecorded::Blocked);
                }
                continue;
            }
            disk.is_syncing = true;
            let (file, written_bytes) = (Arc::clone(&disk.file), disk.written_bytes);
            let synced = MutexGuard::unlocked(&mut disk, || file.sync_data());
            disk.is_syncing = false;
            if synced.is_ok() {
                disk.synced_bytes = disk.synced_bytes.max(written_bytes);
            }
            self.disk_changed.notify_all();
            synced.map_err(|error| NotRecorded::of_io(&error))?;
        }
        Ok(())
    }

    /// The log goes on in another file; the disk has all of the old one.
    pub(super) fn switch_disk(&self, file: Arc<File>, written_bytes: u64) {
        let mut disk = self.disk.lock();
        disk.file = file;
        disk.written_bytes = written_bytes;
        disk.synced_bytes = disk.synced_bytes.max(written_bytes);
        self.disk_changed.notify_all();
    }

    fn note(&self, fault: Option<NotRecorded>) {
        if fault.is_some() || self.is_failing.load(Ordering::Relaxed) {
            *self.fault.lock() = fault;
            self.is_failing.store(fault.is_some(), Ordering::Relaxed);
        }
    }

    pub(super) fn ask_for_upkeep(&self) {
        if !self.is_asked.swap(true, Ordering::AcqRel) {
            self.wake.lock().work = true;
            self.woken.notify_one();
        }
    }

    pub(super) fn upkeep_begins(&self) {
        self.is_asked.store(false, Ordering::Release);
    }

    fn count_refusal(&self, entry: &Entry<'_>) {
        self.refusals.lock().add(entry, (self.options.clock)().mono_us);
    }
}

/// A log, open for writing. Send and Sync; dropping it flushes, seals and ends its thread.
pub struct Log {
    pub(super) shared: Arc<Shared>,
    upkeep: Option<JoinHandle<()>>,
}

impl Log {
    /// Opens the log, or begins a chain where no file is. Only one process can hold it.
    ///
    /// # Errors
    /// [`OpenFault`], with the path and the remedy.
    pub fn open(mut options: Options) -> Result<(Self, Opened), OpenFault> {
        options.path = std::path::absolute(&options.path)
            .map_err(|source| OpenFault::Io { path: options.path.clone(), source })?;
        let ready = open::open(&options)?;
        let opened = ready.opened;
        Ok((Self::start(Shared::new(options, ready.writer, ready.keys, opened.root))?, opened))
    }

    pub(super) fn start(shared: Shared) -> Result<Self, OpenFault> {
        let shared = Arc::new(shared);
        let path = shared.options.path.clone();
        let upkeep = std::thread::Builder::new()
            .name("audit-upkeep".into())
            .spawn({
                let shared = Arc::clone(&shared);
                move || upkeep::run(&shared)
            })
            .map_err(|source| OpenFault::Io { path, source })?;
        Ok(Self { shared, upkeep: Some(upkeep) })
    }

    /// Writes one record. It is in the log when this returns, and survives what the durability says.
    ///
    /// # Errors
    /// [`NotRecorded`]: nothing may be released. The next call tries again, so that the log recovers by itself.
    pub fn record(&self, entry: &Entry<'_>) -> Result<Receipt, NotRecorded> {
        let seq = self.shared.write(&mut |line| record::body(line, entry))?;
        Ok(Receipt { seq })
    }

    /// Records a refused open or read by itself, as long as its uid stays within its ration and space is not low;
    /// past that it is counted with its like (`None`).
    ///
    /// # Errors
    /// [`NotRecorded`]: it could not be written now; it is counted and written later.
    pub fn record_refusal(&self, entry: &Entry<'_>) -> Result<Option<Receipt>, NotRecorded> {
        let now_us = (self.shared.options.clock)().mono_us;
        let uid = entry.who.map(|who| who.uid);
        if self.shared.is_space_low.load(Ordering::Relaxed)
            || !self.shared.refusals.lock().may_stand_alone(uid, now_us)
        {
            self.shared.count_refusal(entry);
            return Ok(None);
        }
        match self.record(entry) {
            Ok(receipt) => Ok(Some(receipt)),
            Err(fault) => {
                self.shared.count_refusal(entry);
                Err(fault)
            }
        }
    }

    /// Counts a refused lookup, stat or listing. About a second later one record tells of all its like (same uid and
    /// process, secret, field and outcome); its `time` is when it was written, and the count is exact. Never fails.
    pub fn refused(&self, entry: &Entry<'_>) {
        self.shared.count_refusal(entry);
    }

    /// Writes what [`Self::refused`] gathered, without waiting for its second.
    pub fn flush_refusals(&self) {
        upkeep::flush_refusals(&self.shared, true);
    }

    /// Whether a recorder is stuck in the sink.
    #[must_use]
    pub fn is_stuck(&self) -> bool {
        self.shared.is_stuck()
    }

    /// Whether a record could be written now, as far as can be told without writing one.
    ///
    /// # Errors
    /// [`NotRecorded`]: why it could not.
    pub fn check(&self) -> Result<(), NotRecorded> {
        self.shared.hold()?.settle()
    }

    /// The record numbered `seq`, parsed; `None` where there is none, or it cannot be read.
    #[must_use]
    pub fn find(&self, seq: u64) -> Option<Recorded> {
        let line = super::query::find(&self.shared.options.path, seq).ok()??;
        serde_json::from_str(&line).ok()
    }

    /// The proof of the record numbered `seq`, which an earlier process may have written; `None` where the log has none.
    #[must_use]
    pub fn receipt_of(&self, seq: u64) -> Option<Receipt> {
        self.find(seq).map(|_| Receipt { seq })
    }

    /// How the log is. Waits for nobody.
    #[must_use]
    pub fn state(&self) -> State {
        let shared = &self.shared;
        let head = shared.writer.try_lock_for(Duration::from_millis(5)).map(|writer| writer.head.clone());
        let health = match *shared.fault.lock() {
            _ if shared.is_stuck() => Health::Failing(NotRecorded::Blocked),
            Some(fault) => Health::Failing(fault),
            None => Health::Recording,
        };
        State {
            health,
            root: shared.root,
            next_seq: head.as_ref().map(|head| head.next_seq),
            unsealed: head.map(|head| head.segment_records),
            checkpointed: shared.checkpointed.load(Ordering::Relaxed),
            refusals_waiting: shared.refusals.lock().waiting(),
            is_space_low: shared.is_space_low.load(Ordering::Relaxed),
        }
    }

    /// Does at once what the upkeep thread does in its own time: flushes and seals by age, has the disk remember the
    /// log, erases used keys, makes new ones, rotates and removes.
    pub fn settle(&self) {
        upkeep::tick(&self.shared);
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        self.shared.wake.lock().stop = true;
        self.shared.woken.notify_one();
        let deadline = Instant::now() + Duration::from_secs(2);
        let mut wake = self.shared.wake.lock();
        while !wake.is_done {
            // A disk that does not answer must not keep a process from ending.
            if self.shared.woken.wait_until(&mut wake, deadline).timed_out() {
                return;
            }
        }
        drop(wake);
        if let Some(upkeep) = self.upkeep.take() {
            drop(upkeep.join());
        }
    }
}
