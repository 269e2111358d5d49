//! What is done about leases without anybody asking: consumers are looked after, leases renewed, replaced before they end,
//! and ended when their consumer is gone.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;

use super::Dynamic;
use super::book::Note;
use super::minting::care_after;
use super::table::{Owner, Phase};
use super::view::version_of;
use crate::model::{Consumer, Reason};
use crate::store::vault::login::pace;
use crate::store::{Answer, LeaseEvent, LeaseHandle, LeftSession, Renewed, StoreFault, What};

/// Most requests at once that nobody waits for.
pub(super) const JOBS_MAX: usize = 16;
/// Longest pause between two tries.
const PAUSE_MAX: Duration = Duration::from_secs(60);

/// Something that is due.
enum Job {
    Renew(Arc<Owner>, u32, LeaseHandle, Duration),
    Replace(Arc<Owner>, u32),
    End(u32),
    EndSession(Arc<LeftSession>),
}

impl Dynamic {
    /// Looks after leases, until it is dropped. To be run on its own.
    pub async fn watch_over(self: Arc<Self>) {
        let mut jobs = JoinSet::new();
        loop {
            self.look_at_consumers();
            self.look_at_sessions();
            let mut due = self.due(JOBS_MAX.saturating_sub(jobs.len()));
            due.extend(self.sessions_to_end());
            for job in due {
                let dynamic = Arc::clone(&self);
                jobs.spawn(async move { dynamic.run(job).await });
            }
            self.tidy();
            // Where nothing is minted nobody is woken.
            let is_any = self.table.lock().has_minted() || !self.left.lock().is_empty();
            tokio::select! {
                () = tokio::time::sleep(self.options.look_every), if is_any => {}
                () = self.wake.notified() => {}
                Some(_) = jobs.join_next(), if !jobs.is_empty() => {}
            }
        }
    }

    /// Has the leases of consumers that are gone ended, and of what is declared no more.
    fn look_at_consumers(&self) {
        let mut consumers: HashMap<Arc<Consumer>, bool> = HashMap::new();
        {
            let table = self.table.lock();
            for (owner, holding) in &table.holdings {
                if holding.versions.iter().any(|minted| minted.phase == Phase::Live) {
                    consumers.insert(Arc::clone(&owner.consumer), true);
                }
            }
        }
        for (consumer, is_alive) in &mut consumers {
            *is_alive = (self.options.is_alive)(consumer);
        }
        let now_us = self.now_us();
        let mut ending = Vec::new();
        {
            let mut table = self.table.lock();
            let declared = Arc::clone(table.all_declared());
            let is_over = |owner: &Owner| {
                consumers.get(&owner.consumer) == Some(&false) || !declared.contains_key(&owner.path)
            };
            let owners: Vec<Arc<Owner>> =
                table.holdings.keys().filter(|owner| is_over(owner)).cloned().collect();
            for owner in owners {
                if let Some(holding) = table.holdings.get_mut(&owner) {
                    for minted in holding.versions.iter_mut().filter(|minted| minted.phase == Phase::Live) {
                        minted.phase = Phase::Ending { at_us: now_us, reason: Reason::ConsumerGone };
                        minted.tries = 0;
                        ending.push(minted.number);
                    }
                }
                table.touch(&owner);
            }
        }
        for number in ending {
            self.note(&Note::Ending { number });
        }
    }

    /// Keeps the sessions good on which leases hang; a lease whose session is at its end is replaced.
    fn look_at_sessions(&self) {
        let now_us = self.now_us();
        let mut table = self.table.lock();
        for holding in table.holdings.values_mut() {
            for minted in holding.versions.iter_mut().filter(|minted| minted.phase == Phase::Live) {
                let Some(tenure) = &minted.tenure else { continue };
                if !tenure.keep() && !minted.must_be_replaced {
                    minted.must_be_replaced = true;
                    let left = tenure.remaining().unwrap_or(Duration::ZERO);
                    minted.care_us = Some(now_us + super::micros(pace::between(left, 0.0, 0.3)));
                }
            }
        }
    }

    /// At most so many things that are due, marked as being done.
    fn due(&self, room: usize) -> Vec<Job> {
        let (now_us, wall) = (self.now_us(), self.wall());
        let mut jobs = Vec::new();
        let mut table = self.table.lock();
        let owners: Vec<Arc<Owner>> = table.holdings.keys().cloned().collect();
        for owner in owners {
            table.settle(&owner, now_us, wall);
            let Some(holding) = table.holdings.get_mut(&owner) else { continue };
            let is_being_minted = holding.flight.is_some();
            for minted in holding.versions.iter_mut().filter(|minted| !minted.is_busy) {
                if jobs.len() >= room {
                    return jobs;
                }
                match minted.phase {
                    Phase::Ending { at_us, .. } if at_us <= now_us => jobs.push(Job::End(minted.number)),
                    Phase::Live
                        if minted.lost.is_none() && minted.care_us.is_some_and(|care| care <= now_us) =>
                    {
                        if !minted.must_be_replaced {
                            minted.is_busy = true;
                            let length = minted.length.unwrap_or(Duration::from_secs(3600));
                            let handle = minted.handle.clone();
                            jobs.push(Job::Renew(Arc::clone(&owner), minted.number, handle, length));
                        } else if !is_being_minted {
                            minted.is_busy = true;
                            jobs.push(Job::Replace(Arc::clone(&owner), minted.number));
                        }
                    }
                    _ => {}
                }
            }
        }
        jobs
    }

    /// Sessions of earlier processes on which nothing hangs any more.
    fn sessions_to_end(&self) -> Vec<Job> {
        let now_us = self.now_us();
        let table = self.table.lock();
        let mut jobs = Vec::new();
        let mut all = self.left.lock();
        all.retain(|left| left.until_us.is_none_or(|until_us| until_us > now_us));
        for left in all.iter_mut() {
            if left.at_us <= now_us && !table.hangs_on(&left.session.accessor) {
                left.tries = left.tries.saturating_add(1);
                // Nobody else begins with it meanwhile.
                let pause = pace::pause(left.tries, self.options.answer_within, PAUSE_MAX);
                left.at_us = now_us + super::micros(self.options.answer_within + pause);
                jobs.push(Job::EndSession(Arc::clone(&left.session)));
            }
        }
        jobs
    }

    async fn end_session(&self, session: &LeftSession) {
        let asked = self.ask(self.source.end_session(session)).await;
        match &asked {
            Err((fault, _)) if !matches!(fault.bare(), StoreFault::Refused(_) | StoreFault::Invalid(_)) => {
                tracing::warn!(login = %session.login, %fault, "a session that was left could not be ended; it is tried again");
                return;
            }
            Err((fault, _)) => {
                tracing::warn!(login = %session.login, %fault, "a session that was left was not ended");
            }
            Ok(_) => tracing::info!(login = %session.login, "ended the session that was left"),
        }
        self.left.lock().retain(|left| left.session.accessor != session.accessor);
    }

    async fn run(self: Arc<Self>, job: Job) {
        match job {
            Job::EndSession(session) => self.end_session(&session).await,
            Job::End(number) => drop(self.end_now(number).await),
            Job::Replace(owner, number) => self.replace(&owner, number).await,
            Job::Renew(owner, number, handle, length) => self.renew(&owner, number, &handle, length).await,
        }
    }

    async fn renew(&self, owner: &Arc<Owner>, number: u32, handle: &LeaseHandle, length: Duration) {
        let asked_us = self.now_us();
        let asked = self.ask(self.source.renew(&owner.login(), handle, length)).await;
        let (mut renewed, mut failure) = (None, None);
        {
            let now_us = self.now_us();
            let mut table = self.table.lock();
            let Some(minted) = table.minted_mut(number) else { return };
            minted.is_busy = false;
            match &asked {
                Ok(Answer { content: Renewed::For { length: granted, is_renewable }, .. }) => {
                    let ends = self.ends(asked_us, *granted);
                    minted.tries = 0;
                    // Near its end a lease is given what is left of it, and no more: another takes its place.
                    minted.must_be_replaced = !is_renewable || *granted < length / 2;
                    let care = if minted.must_be_replaced { *granted / 2 } else { care_after(*granted) };
                    minted.care_us = Some(asked_us + super::micros(care));
                    minted.ends = Some(ends.clone());
                    renewed = Some(ends);
                }
                Ok(Answer { content: Renewed::Gone, request_id }) => {
                    // Somebody ended it at the server: what its consumer holds works no more.
                    minted.must_be_replaced = true;
                    minted.care_us = Some(now_us);
                    failure = Some(request_id.clone());
                }
                Err((fault, request_id)) => {
                    let is_no = matches!(fault.bare(), StoreFault::Refused(_) | StoreFault::Invalid(_));
                    minted.must_be_replaced |= is_no;
                    minted.tries = minted.tries.saturating_add(1);
                    let left = minted.ends.as_ref().map_or(0, |ends| (ends.boot_us - now_us).max(0));
                    let most = Duration::from_micros(u64::try_from(left / 4).unwrap_or(0)).min(PAUSE_MAX);
                    let pause = pace::pause(
                        minted.tries,
                        Duration::from_secs(1),
                        most.max(Duration::from_millis(200)),
                    );
                    minted.care_us = Some(now_us + super::micros(pause));
                    if minted.tries == 1 {
                        failure = Some(request_id.clone());
                    }
                    tracing::warn!(path = %owner.path, version = number, %fault, "a lease was not renewed");
                }
            }
        }
        if let Some(ends) = renewed {
            self.note(&Note::Renewed { number, ends });
        }
        if let Some(request_id) = failure {
            self.tell(&LeaseEvent {
                secret: owner.path.clone(),
                version: version_of(number),
                what: What::Renewed,
                is_done: false,
                reason: None,
                consumer: Arc::clone(&owner.consumer),
                request_id,
            });
        }
        self.wake.notify_one();
    }

    /// Mints a version ahead of the end of `number`, and puts it in its place.
    async fn replace(self: &Arc<Self>, owner: &Arc<Owner>, number: u32) {
        let promised = {
            let mut table = self.table.lock();
            table.promise_ahead(owner)
        };
        let minted = match promised {
            Ok((next, to_note)) => {
                if let Some(number) = to_note {
                    self.note(&Note::Below { number });
                }
                let minted = self.mint(owner, next).await;
                if minted.is_err() {
                    self.table.lock().give_back(next);
                }
                minted
            }
            Err(fault) => Err(fault),
        };
        let mut table = self.table.lock();
        let now_us = self.now_us();
        let Some(old) = table.minted_mut(number) else { return };
        old.is_busy = false;
        if minted.is_err() {
            old.tries = old.tries.saturating_add(1);
            let left = old.ends.as_ref().map_or(PAUSE_MAX, |ends| {
                Duration::from_micros(u64::try_from((ends.boot_us - now_us).max(0) / 4).unwrap_or(0))
            });
            let most = left.clamp(Duration::from_millis(200), PAUSE_MAX);
            old.care_us = Some(now_us + super::micros(pace::pause(old.tries, Duration::from_secs(1), most)));
        }
    }

    /// Forgets what is done with.
    fn tidy(&self) {
        let (ended, live) = {
            let mut table = self.table.lock();
            let owners: Vec<Arc<Owner>> = table.holdings.keys().cloned().collect();
            let is_gone = |owner: &Owner| !(self.options.is_alive)(&owner.consumer);
            let done: Vec<Arc<Owner>> = owners
                .into_iter()
                .filter(|owner| {
                    table.holdings.get(owner).is_some_and(|holding| {
                        !holding.versions.is_empty()
                            && holding
                                .versions
                                .iter()
                                .all(|minted| matches!(minted.phase, Phase::Ended { .. }))
                    }) && is_gone(owner)
                })
                .collect();
            done.iter().for_each(|owner| table.forget_if_done(owner));
            (table.take_ended(), table.leases().len())
        };
        self.note_gone(&ended);
        let is_long = self.book.lock().is_long(live);
        if is_long && let Err(fault) = self.shorten() {
            tracing::warn!(%fault, "the file of leases could not be shortened");
        }
    }
}
