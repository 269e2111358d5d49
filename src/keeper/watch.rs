//! What the keeper does by the clock: looks whether its worker answers, answers for one that is not there, and sees to the
//! mount and to its helpers. The last resort is here: the connection is aborted, and mounted afresh.

use std::time::{Duration, Instant};

use crate::sys::connection;
use crate::sys::poll::{self, Interest};

use super::assignment::{Ended, KeepFault};
use super::guard::Guard;
use super::keep::{Keeper, STAND_IN_AFTER};
use super::mounting::Kept;
use super::probe::Probe;
use super::worker::Stage;

/// How often is looked whether the mount is where it was made.
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// How long requests must have waited before somebody is sent to ask.
const SUSPICION: Duration = Duration::from_secs(2);
/// How often is asked where the kernel does not say whether anything waits.
const ASK_EVERY: Duration = Duration::from_secs(5);
/// How long the end of a worker that was killed is waited for.
const KILL_WAIT: Duration = Duration::from_secs(2);
/// So many workers that had to be killed within the time are no accident: the connection is aborted.
const WEDGES_MAX: usize = 3;
const WEDGES_WITHIN: Duration = Duration::from_secs(60);
/// What a worker that ends in order may take beyond the deadline for commands.
const END_WAIT: Duration = Duration::from_secs(3);

impl Keeper<'_> {
    /// Replaces a worker that does not answer.
    pub(super) fn look_after_worker(&mut self, now: Instant) -> Result<(), KeepFault> {
        let ending_max = self.keep.settings.shutdown_deadline + END_WAIT;
        let Some(worker) = &mut self.worker else { return Ok(()) };
        let mut fault = worker.fault(now, ending_max);
        if worker.stage == Stage::Serving && fault.is_none() {
            if let Some(kept) = &self.kept {
                worker.tell_helper(kept.helper());
            }
            if self.probe.as_ref().and_then(Probe::answer) == Some(false) {
                fault = Some("it does not answer requests");
            }
        }
        let Some(fault) = fault else {
            self.ask_where_suspicious(now);
            return Ok(());
        };
        tracing::error!(worker = worker.pid, fault, "the worker is replaced");
        let was_dying = worker.stage == Stage::Dying;
        worker.kill();
        if !self.wait_for_end()
            && let Some(worker) = &mut self.worker
        {
            worker.enter(Stage::Dying);
            self.alone_since = now;
        }
        if was_dying {
            self.mount_afresh()?;
            return Ok(());
        }
        self.wedges.retain(|wedge| now - *wedge < WEDGES_WITHIN);
        self.wedges.push_back(now);
        if self.wedges.len() >= WEDGES_MAX {
            self.wedges.clear();
            tracing::error!("workers keep getting stuck: the connection is aborted and mounted afresh");
            self.mount_afresh()?;
        }
        Ok(())
    }

    /// Waits a moment for a worker that was killed; whether it is gone.
    pub(super) fn wait_for_end(&self) -> bool {
        let Some(worker) = &self.worker else { return true };
        match poll::wait(&[(worker.process(), Interest::Readable)], KILL_WAIT) {
            Ok(ready) => ready[0].is_readable,
            Err(error) => {
                tracing::warn!(%error, "the end of the worker could not be waited for");
                false
            }
        }
    }

    /// Sends somebody to ask where requests seem not to be answered.
    pub(super) fn ask_where_suspicious(&mut self, now: Instant) {
        if let Some(probe) = &self.probe {
            if probe.answer() == Some(true) {
                self.probe = None;
                self.waiting_since = None;
            }
            return;
        }
        let Some(kept) = self.kept.as_ref().filter(|_| self.is_served()) else { return };
        let is_suspicious = match connection::waiting_requests(kept.session.handle.minor) {
            Some(0) => {
                self.waiting_since = None;
                false
            }
            Some(_) => now - *self.waiting_since.get_or_insert(now) > SUSPICION,
            None => now - self.asked > ASK_EVERY,
        };
        if is_suspicious {
            self.asked = now;
            match Probe::start(&kept.session.handle) {
                Ok(probe) => self.probe = Some(probe),
                Err(error) => {
                    tracing::warn!(%error, "nobody could be sent to ask whether requests are answered")
                }
            }
        }
    }

    /// When to begin to answer for a worker; `None` where nothing speaks for it.
    pub(super) fn stand_in_due(&self) -> Option<Instant> {
        // One that ends in order still reads the device.
        let is_alone =
            self.worker.as_ref().is_none_or(|worker| matches!(worker.stage, Stage::Starting | Stage::Dying));
        (is_alone && !self.stand_in.is_active() && self.kept.is_some())
            .then(|| self.alone_since + STAND_IN_AFTER)
    }

    /// Answers for a worker that is not there.
    pub(super) fn stand_in(&mut self, now: Instant) -> Result<(), KeepFault> {
        let is_due = self.stand_in_due().is_some_and(|due| now >= due);
        let Some(kept) = &self.kept else { return Ok(()) };
        if is_due {
            tracing::warn!("no worker is ready: requests are answered with ETIMEDOUT at their deadline");
            self.stand_in.begin(&kept.device, kept.session.introduction.can_resend())?;
        }
        let done = self
            .stand_in
            .take(&kept.device, now)
            .and_then(|()| self.stand_in.answer_overdue(&kept.device, now));
        match done {
            Ok(count) => self.timed_out += count,
            // The connection is gone: seen to elsewhere.
            Err(error) => tracing::debug!(%error, "requests could not be answered for a worker"),
        }
        Ok(())
    }

    pub(super) fn look_after_helpers(&mut self, now: Instant) {
        if self.guard.as_mut().is_some_and(Guard::has_ended)
            && let Some(kept) = &self.kept
        {
            tracing::warn!("the guard has ended: another takes its place");
            self.guard = Guard::start(&kept.session).ok();
        }
        if let Some(every) = self.keep.watchdog
            && now - self.watchdog_told >= every / 2
        {
            self.watchdog_told = now;
            self.tell("WATCHDOG=1");
        }
    }

    /// Whether the mount is still ours to keep. One that was aborted is made afresh, one that was unmounted is the end.
    pub(super) fn look_after_mount(&mut self, now: Instant) -> Result<Option<Ended>, KeepFault> {
        let Some(kept) = self.kept.as_ref().filter(|_| !self.is_stopping) else { return Ok(None) };
        let has_ended = kept.has_ended();
        if !has_ended && now - self.looked < LOOK_EVERY {
            return Ok(None);
        }
        self.looked = now;
        if !kept.is_there() {
            return Ok(Some(Ended::Unmounted));
        }
        if has_ended {
            tracing::error!("the connection was aborted: a fresh mount takes its place");
            self.mount_afresh()?;
        }
        Ok(None)
    }

    /// The last resort: every request that waits fails, every open file with it, and a fresh mount takes the place.
    pub(super) fn mount_afresh(&mut self) -> Result<(), KeepFault> {
        if let Some(worker) = &self.worker {
            worker.kill();
        }
        self.stand_in.end();
        self.left = None;
        if let Some(kept) = &self.kept {
            // What waits shall not wait for what can end by itself no more, nor the place stay empty meanwhile.
            kept.abort();
        }
        self.take_away();
        let kept = Kept::make(&self.keep.settings.mount_point, self.keep.allow_other)?;
        if self.listener.is_none() {
            self.guard = Some(Guard::start(&kept.session)?);
        }
        self.kept = Some(kept);
        self.store();
        self.alone_since = Instant::now();
        Ok(())
    }

    pub(super) fn take_away(&mut self) {
        if let Some(kept) = self.kept.take() {
            kept.take_away();
        }
        if let Some(guard) = self.guard.take() {
            guard.end();
        }
    }
}
