//! Requests that wait for the digest of an executable, apart from the threads that serve everyone else.
//!
//! Where a rule names an executable by digest, the first request of a process that runs a large one needs the whole
//! file read: half a second and more. Its reply is put by here, a thread of its own reads the file, and then the
//! request is answered as if it had just come. Its caller waits for us all the while, so nothing about him changes.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::caller::{Asker, Identifier};
use crate::sys::process::FileStatus;

use super::pending::Watch;

/// Executables of callers of one uid that are read at once; what is asked by one of a further file is decided
/// without its digest, which grants nothing.
const FILES_PER_UID_MAX: usize = 4;
/// Requests that wait for one file at most; one past that is decided without its digest.
const WAITING_MAX: usize = 1024;

/// Answers a request that was put by.
pub(super) type Act = Box<dyn FnOnce() + Send>;

/// The executables that are being read, and who waits for them.
pub(super) struct Deferred {
    identifier: Arc<Identifier>,
    watch: Arc<Watch>,
    runtime: tokio::runtime::Handle,
    /// How long a request waits before it is decided without the digest.
    patience: Duration,
    /// Guards the files under way.
    reading: Mutex<Vec<Reading>>,
}

struct Reading {
    file: FileStatus,
    uid: u32,
    waiting: VecDeque<Waiting>,
}

struct Waiting {
    asker: Asker,
    since: Instant,
    act: Act,
}

impl Deferred {
    pub(super) fn new(
        identifier: Arc<Identifier>,
        watch: Arc<Watch>,
        runtime: tokio::runtime::Handle,
        patience: Duration,
    ) -> Arc<Self> {
        Arc::new(Self { identifier, watch, runtime, patience, reading: Mutex::default() })
    }

    /// Has `act` done when the digest of `file`, which `asker` runs, is at hand; at once where too much is under way.
    pub(super) fn wait(self: &Arc<Self>, file: FileStatus, asker: Asker, act: Act) {
        let waiting = Waiting { asker, since: Instant::now(), act };
        let refused = {
            let mut reading = self.reading.lock();
            let of_uid = reading.iter().filter(|one| one.uid == asker.uid).count();
            match reading.iter_mut().find(|one| one.file == file) {
                Some(one) if one.waiting.len() < WAITING_MAX => {
                    one.waiting.push_back(waiting);
                    None
                }
                None if of_uid < FILES_PER_UID_MAX => {
                    reading.push(Reading { file, uid: asker.uid, waiting: [waiting].into() });
                    drop(reading);
                    self.begin(file);
                    None
                }
                Some(_) | None => Some(waiting),
            }
        };
        match refused {
            Some(waiting) => (waiting.act)(),
            None => self.give_up_in_time(file),
        }
    }

    fn begin(self: &Arc<Self>, file: FileStatus) {
        let this = Arc::clone(self);
        let begun = std::thread::Builder::new().name("digest".into()).spawn(move || this.read(&file));
        if let Err(error) = begun {
            tracing::warn!(%error, "no thread could be started to read an executable");
            while let Some(waiting) = self.next(&file) {
                (waiting.act)();
            }
        }
    }

    /// Reads the file through whoever waits for it, and answers one after the other. One who was killed meanwhile
    /// shows it no more; the next one does.
    fn read(&self, file: &FileStatus) {
        loop {
            let asker = self.reading.lock().iter().find(|one| one.file == *file).and_then(Reading::first);
            if let Some(Ok(caller)) = asker.map(|asker| self.identifier.identify(asker)) {
                caller.take_digest();
            }
            match self.next(file) {
                Some(waiting) => self.watch.elsewhere(waiting.act),
                None => return,
            }
        }
    }

    /// Takes out the first who waits for `file`; where nobody does, it is no longer under way.
    fn next(&self, file: &FileStatus) -> Option<Waiting> {
        let mut reading = self.reading.lock();
        let at = reading.iter().position(|one| one.file == *file)?;
        let first = reading[at].waiting.pop_front();
        if first.is_none() {
            reading.swap_remove(at);
        }
        first
    }

    /// Answers those who have waited for too long, while the file is still being read.
    fn give_up_in_time(self: &Arc<Self>, file: FileStatus) {
        let this = Arc::clone(self);
        self.runtime.spawn(async move {
            tokio::time::sleep(this.patience).await;
            let overdue: Vec<Waiting> = {
                let mut reading = this.reading.lock();
                let one = reading.iter_mut().find(|one| one.file == file);
                one.map_or_else(Vec::new, |one| one.overdue(this.patience))
            };
            for waiting in overdue {
                tracing::warn!(
                    uid = waiting.asker.uid,
                    "the executable of a caller could not be read in time"
                );
                let this = Arc::clone(&this);
                this.runtime.clone().spawn_blocking(move || this.watch.elsewhere(waiting.act));
            }
        });
    }
}

impl Reading {
    fn first(&self) -> Option<Asker> {
        self.waiting.front().map(|waiting| waiting.asker)
    }

    fn overdue(&mut self, patience: Duration) -> Vec<Waiting> {
        let count = self.waiting.iter().take_while(|waiting| waiting.since.elapsed() >= patience).count();
        self.waiting.drain(..count).collect()
    }
}
