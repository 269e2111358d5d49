//! The keeper's one loop: it waits for signals and for its worker, and looks at the clock. Every step is short, and none of
//! them touches the mount.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::caller::ProcExecutables;
use crate::sys::notify::monotonic_us;
use crate::sys::packet::{PacketListener, PacketSocket};
use crate::sys::peer::Peer;
use crate::sys::poll::{self, Interest};
use crate::sys::signal::{Signal, SignalQueue};
use crate::sys::{memory_file, spawn};

use super::assignment::{Ended, Keep, KeepFault, Launch};
use super::guard::Guard;
use super::mounting::Kept;
use super::probe::Probe;
use super::stand_in::StandIn;
use super::wire::{LEFT_BYTES_MAX, Message, PROTOCOL, from_worker};
use super::worker::{Stage, Worker};

/// How often the clock is looked at when nothing happens.
const TICK: Duration = Duration::from_millis(500);
/// How long no worker may be there before the keeper answers itself. A take-over is over by then.
pub(super) const STAND_IN_AFTER: Duration = Duration::from_secs(1);
/// How soon the notifier's helper is looked for where it is not there yet.
const HELPER_WAIT: Duration = Duration::from_millis(10);
/// How long a worker that serves may look for the new keeper after a restart of ours.
const RETURN_WAIT: Duration = Duration::from_secs(5);
/// Longest wait between two starts of a worker that never comes to serve.
const BACK_OFF_MAX: Duration = Duration::from_secs(2);
/// So many ends of workers that served within ten seconds slow the next start down.
const ENDS_MAX: usize = 100;

/// Keeps a mount until a signal or an unmount ends it.
///
/// # Errors
/// [`KeepFault`]: nothing stays mounted then.
pub fn run(keep: Keep<'_>) -> Result<Ended, KeepFault> {
    let signals = SignalQueue::open()?;
    let mut keeper = Keeper::new(keep, signals)?;
    let ended = keeper.keep();
    keeper.leave_nothing();
    ended
}

pub(super) struct Keeper<'a> {
    pub(super) keep: Keep<'a>,
    pub(super) signals: SignalQueue,
    pub(super) listener: Option<PacketListener>,
    pub(super) kept: Option<Kept>,
    pub(super) guard: Option<Guard>,
    pub(super) worker: Option<Worker>,
    pub(super) executables: Arc<ProcExecutables>,
    /// What a worker left for the next, sealed.
    pub(super) left: Option<OwnedFd>,
    pub(super) stand_in: StandIn,
    /// Requests answered with ETIMEDOUT of which no worker was told.
    pub(super) timed_out: u64,
    /// Since when no worker serves.
    pub(super) alone_since: Instant,
    /// When the next worker is started.
    pub(super) start_at: Instant,
    /// Workers in a row that never served.
    pub(super) failures: u32,
    pub(super) ends: VecDeque<Instant>,
    pub(super) wedges: VecDeque<Instant>,
    pub(super) has_served: bool,
    pub(super) is_stopping: bool,
    /// Since when requests have been waiting, as far as was seen.
    pub(super) waiting_since: Option<Instant>,
    pub(super) asked: Instant,
    pub(super) probe: Option<Probe>,
    pub(super) watchdog_told: Instant,
    /// When the mount was last seen to be where it was made.
    pub(super) looked: Instant,
}

impl<'a> Keeper<'a> {
    fn new(mut keep: Keep<'a>, signals: SignalQueue) -> Result<Self, KeepFault> {
        let settings = &keep.settings;
        let now = Instant::now();
        let mut alone_since = now;
        let (mut listener, mut kept) = (None, None);
        if let Launch::Listen { path, uid } = &keep.launch {
            kept = Kept::adopt(&settings.mount_point, std::mem::take(&mut keep.kept));
            if kept.is_some() {
                tracing::info!("goes on with the mount of the keeper before");
                alone_since = now + RETURN_WAIT;
            } else {
                kept = Some(Kept::make(&settings.mount_point, keep.allow_other)?);
            }
            listener = Some(listen(path, *uid)?);
        }
        let wait_max = settings.request_deadline;
        let keeper = Self {
            executables: Arc::new(ProcExecutables::new(settings.executable_bytes_max, settings.digests_max)),
            stand_in: StandIn::new(wait_max.saturating_sub(STAND_IN_AFTER).max(wait_max / 2)),
            keep,
            signals,
            listener,
            kept,
            guard: None,
            worker: None,
            left: None,
            timed_out: 0,
            alone_since,
            start_at: now,
            failures: 0,
            ends: VecDeque::new(),
            wedges: VecDeque::new(),
            has_served: false,
            is_stopping: false,
            waiting_since: None,
            asked: now,
            probe: None,
            watchdog_told: now,
            looked: now,
        };
        if keeper.listener.is_some() {
            keeper.store();
            keeper.tell("READY=1");
        }
        Ok(keeper)
    }

    fn keep(&mut self) -> Result<Ended, KeepFault> {
        loop {
            let now = Instant::now();
            self.start_worker(now)?;
            self.look_after_worker(now)?;
            self.stand_in(now)?;
            self.look_after_helpers(now);
            if let Some(ended) = self.look_after_mount(now)? {
                return Ok(ended);
            }
            if let Some(ended) = self.wait(self.next_wake(now))? {
                return Ok(ended);
            }
        }
    }

    /// When something has to be done next, at the latest.
    fn next_wake(&self, now: Instant) -> Duration {
        let mut wait = TICK;
        let mut sooner = |at: Instant| wait = wait.min(at.saturating_duration_since(now));
        if self.worker.is_none() && matches!(self.keep.launch, Launch::Start { .. }) {
            sooner(self.start_at);
        }
        if let Some(due) = self.stand_in_due() {
            sooner(due);
        }
        if self.kept.as_ref().is_some_and(|kept| kept.helper() == 0) {
            sooner(now + HELPER_WAIT);
        }
        if let Some(due) = self.stand_in.next_due() {
            sooner(due);
        }
        wait
    }

    /// Waits for signals and the worker, and does what they ask for.
    fn wait(&mut self, wait_max: Duration) -> Result<Option<Ended>, KeepFault> {
        let mut watched = vec![(self.signals.as_fd(), Interest::Readable)];
        let at_worker = self.worker.as_ref().map(|worker| {
            watched.push((worker.socket(), Interest::Readable));
            watched.push((worker.process(), Interest::Readable));
            watched.len() - 2
        });
        let at_listener = self.listener.as_ref().map(|listener| {
            watched.push((listener.as_fd(), Interest::Readable));
            watched.len() - 1
        });
        if let (true, Some(kept)) = (self.stand_in.is_active(), &self.kept) {
            watched.push((kept.device.as_fd(), Interest::Readable));
        }
        let ready = poll::wait(&watched, wait_max)?;
        if ready[0].is_readable
            && let Some(ended) = self.take_signals()?
        {
            return Ok(Some(ended));
        }
        if let Some(at) = at_worker {
            // What it said last is heard before its end is seen.
            if ready[at].is_readable {
                self.hear()?;
            }
            if ready[at + 1].is_readable
                && let Some(ended) = self.worker_ended()?
            {
                return Ok(Some(ended));
            }
        }
        if at_listener.is_some_and(|at| ready[at].is_readable) {
            self.accept();
        }
        Ok(None)
    }

    fn take_signals(&mut self) -> Result<Option<Ended>, KeepFault> {
        while let Some(signal) = self.signals.take()? {
            match signal {
                Signal::End => return Ok(self.stop()),
                Signal::Hangup if self.keep.hangup_ends => return Ok(self.stop()),
                Signal::Hangup => {
                    self.tell(&format!("RELOADING=1\nMONOTONIC_USEC={}", monotonic_us()));
                    match self.worker.as_ref().filter(|worker| worker.stage == Stage::Serving) {
                        Some(worker) => worker.hang_up(),
                        // The next one reads everything anyway.
                        None => self.tell("READY=1"),
                    }
                }
                Signal::Child => {}
            }
        }
        Ok(None)
    }

    /// Begins the end: the worker finishes its commands, then the mount is taken away. A second time: at once.
    fn stop(&mut self) -> Option<Ended> {
        if !self.is_stopping {
            self.is_stopping = true;
            self.tell("STOPPING=1");
        }
        match &mut self.worker {
            Some(worker) if worker.stage != Stage::Starting => {
                worker.stop();
                None
            }
            _ => Some(Ended::Signal),
        }
    }

    fn start_worker(&mut self, now: Instant) -> Result<(), KeepFault> {
        let Launch::Start { program, arguments, user } = &self.keep.launch else { return Ok(()) };
        if self.worker.is_some() || self.is_stopping || now < self.start_at {
            return Ok(());
        }
        let (ours, theirs) = PacketSocket::pair()?;
        let user = user.as_ref().map(|(uid, groups)| (*uid, groups.as_slice()));
        let child = spawn::program(spawn::Program { file: program, arguments, user, socket: theirs.into() })?;
        self.worker = Some(Worker::started(child, ours)?);
        Ok(())
    }

    fn accept(&mut self) {
        let Launch::Listen { uid, .. } = &self.keep.launch else { return };
        let come = self.listener.as_ref().map(|listener| {
            let socket = listener.accept()?;
            let peer = Peer::of(socket.as_fd())?;
            if peer.uid != *uid {
                return Err(io::Error::new(
                    io::ErrorKind::PermissionDenied,
                    "it comes as another user than the worker's",
                ));
            }
            if self.worker.is_some() {
                return Err(io::Error::new(io::ErrorKind::AlreadyExists, "another worker works here"));
            }
            Worker::come(socket, &peer)
        });
        match come {
            Some(Ok(worker)) => self.worker = Some(worker),
            Some(Err(error)) => tracing::warn!(%error, "a worker was turned away"),
            None => {}
        }
    }

    /// Hears what the worker says, to the last word that lies there.
    fn hear(&mut self) -> Result<(), KeepFault> {
        while let Some(worker) = &mut self.worker {
            let packet = match worker.receive() {
                Ok(Some(packet)) => packet,
                // Its process tells of its end. One that closes its socket and lives on is of no use.
                Ok(None) => {
                    worker.kill();
                    self.wait_for_end();
                    return Ok(());
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) => {
                    tracing::warn!(%error, "the worker does not keep to the protocol");
                    worker.kill();
                    return Ok(());
                }
            };
            let Some((message, behind)) = Message::read(&packet.bytes) else {
                tracing::warn!("the worker does not keep to the protocol");
                worker.kill();
                return Ok(());
            };
            self.obey(message, behind, packet.descriptors)?;
        }
        Ok(())
    }

    fn obey(&mut self, message: Message, behind: &[u8], descriptors: Vec<OwnedFd>) -> Result<(), KeepFault> {
        let Some(worker) = &mut self.worker else { return Ok(()) };
        match message.kind {
            from_worker::HELLO if message.number == PROTOCOL => return self.welcome(),
            from_worker::HELLO => {
                tracing::warn!(version = message.number, "the worker speaks another version of the protocol");
                worker.kill();
            }
            from_worker::READY => {
                // It has recorded those.
                self.timed_out -= worker.timed_out_told.min(self.timed_out);
                // From here on the device has one reader again.
                if let Some(kept) = &self.kept {
                    self.timed_out += self.stand_in.hand_on(&kept.device)?;
                }
                worker.go()?;
            }
            from_worker::SERVING => self.served(),
            from_worker::LEAVES => {
                self.left = descriptors
                    .into_iter()
                    .next()
                    .filter(|left| memory_file::is_sealed(left, LEFT_BYTES_MAX));
            }
            from_worker::ORDER => {
                if let Some(kept) = &self.kept {
                    kept.order(behind);
                }
            }
            from_worker::DRAINED => worker.is_drained = message.number == 1,
            from_worker::RELOADED => self.tell("READY=1"),
            from_worker::ENDING => {
                worker.enter(Stage::Ending);
                if self.is_stopping {
                    self.take_away();
                }
            }
            // A beat: that it was heard is all.
            _ => {}
        }
        Ok(())
    }

    /// Gives a worker that has read its configuration the session; the first one has it made.
    fn welcome(&mut self) -> Result<(), KeepFault> {
        if self.kept.is_none() {
            let kept = Kept::make(&self.keep.settings.mount_point, self.keep.allow_other)?;
            self.guard = Some(Guard::start(&kept.session)?);
            self.kept = Some(kept);
            self.alone_since = Instant::now();
        }
        let (Some(kept), Some(worker)) = (&self.kept, &mut self.worker) else { return Ok(()) };
        let told = worker.welcome(kept, self.left.as_ref(), &self.executables, self.timed_out);
        match told {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {
                tracing::debug!("the worker went away before it was given the session");
            }
            Err(error) => {
                tracing::error!(%error, "the worker could not be given the session");
                worker.kill();
            }
        }
        Ok(())
    }

    fn served(&mut self) {
        if let Some(worker) = &self.worker {
            let took_ms = self.alone_since.elapsed().as_millis();
            tracing::info!(worker = worker.pid, took_ms, "served");
        }
        self.failures = 0;
        self.waiting_since = None;
        if !self.has_served {
            self.has_served = true;
            if self.listener.is_none() {
                self.tell("READY=1");
            }
            (self.keep.ready)();
        }
    }

    pub(super) fn is_served(&self) -> bool {
        self.worker.as_ref().is_some_and(|worker| worker.stage == Stage::Serving)
    }

    /// What is done when a worker's process has ended.
    fn worker_ended(&mut self) -> Result<Option<Ended>, KeepFault> {
        let Some(mut worker) = self.worker.take() else { return Ok(None) };
        let code = worker.exit_code();
        if self.is_stopping {
            return Ok(Some(Ended::Signal));
        }
        let now = Instant::now();
        let is_started_here = matches!(self.keep.launch, Launch::Start { .. });
        if is_started_here && !self.has_served {
            return Ok(Some(Ended::WorkerFailed(code.unwrap_or(1))));
        }
        self.probe = None;
        self.waiting_since = None;
        if worker.stage == Stage::Starting {
            // One that was killed from outside says nothing against the next.
            self.failures += u32::from(code.is_some());
            let back_off = Duration::from_millis(50) * 2_u32.saturating_pow(self.failures.min(10));
            self.start_at = now + back_off.min(BACK_OFF_MAX);
            tracing::warn!(
                failures = self.failures,
                "a worker ended before it served: another is tried soon"
            );
            return Ok(None);
        }
        self.alone_since = now;
        self.ends.retain(|end| now - *end < Duration::from_secs(10));
        self.ends.push_back(now);
        self.start_at = if self.ends.len() > ENDS_MAX { now + Duration::from_millis(200) } else { now };
        if worker.is_drained {
            tracing::info!(worker = worker.pid, "a worker handed over");
        } else {
            tracing::warn!(worker = worker.pid, "a worker ended without handing over");
            let can_resend = self.kept.as_ref().is_some_and(|kept| kept.session.introduction.can_resend());
            if !can_resend {
                // What it had taken would never be answered.
                self.mount_afresh()?;
            }
        }
        Ok(None)
    }

    /// After the loop: no mount, no worker, no socket.
    fn leave_nothing(&mut self) {
        self.take_away();
        if let Some(worker) = &mut self.worker {
            worker.kill();
            self.wait_for_end();
        }
        if let Some(mut worker) = self.worker.take() {
            worker.exit_code();
        }
        if let (Some(_), Launch::Listen { path, .. }) = (&self.listener, &self.keep.launch) {
            drop(std::fs::remove_file(path));
        }
    }

    /// Has systemd keep the descriptors for our successor. In the foreground nobody does.
    pub(super) fn store(&self) {
        if let (Some(_), Some(kept)) = (&self.listener, &self.kept)
            && let Err(error) = kept.store(&self.keep.notify)
        {
            tracing::warn!(%error, "systemd does not keep the mount: it will not survive this process");
        }
    }

    pub(super) fn tell(&self, state: &str) {
        if let Err(error) = self.keep.notify.send(state) {
            tracing::warn!(%error, "systemd could not be told");
        }
    }
}

/// Listens where no other keeper does, for the worker's user alone.
fn listen(path: &Path, uid: u32) -> Result<PacketListener, KeepFault> {
    let at = |source: io::Error| KeepFault::Socket { path: path.to_owned(), source };
    match PacketSocket::connect(path) {
        Ok(_) => {
            return Err(at(io::Error::new(io::ErrorKind::AddrInUse, "another keeper listens there")));
        }
        // Left behind by a keeper that is gone.
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            std::fs::remove_file(path).map_err(at)?;
        }
        Err(_) => {}
    }
    if let Some(directory) = path.parent().filter(|directory| !directory.exists()) {
        std::fs::create_dir_all(directory).map_err(at)?;
    }
    let listener = PacketListener::bind(path).map_err(at)?;
    if uid != crate::sys::harden::own_uid() {
        std::os::unix::fs::chown(path, Some(uid), None).map_err(at)?;
    }
    Ok(listener)
}
