//! The end of a lease: by command, when its consumer is gone, or with the instance.

use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;

use super::Dynamic;
use super::book::Note;
use super::keeping::JOBS_MAX;
use super::table::{Owner, Phase};
use super::view::version_of;
use crate::model::{Reason, SecretPath, Version};
use crate::store::vault::login::pace;
use crate::store::{Answer, Changed, LeaseEvent, StoreFault, What};

impl Dynamic {
    /// Refuses a version from now on, and ends it at the server.
    pub(super) async fn revoke_by_command(
        &self,
        secret: &SecretPath,
        version: Version,
    ) -> Result<Changed, StoreFault> {
        let number = version.get();
        let (before, after) = {
            let mut table = self.table.lock();
            let before = table.whole(secret);
            let is_there = table.owner_of(number).is_some_and(|owner| owner.path == *secret);
            let minted = table.minted_mut(number).filter(|_| is_there);
            let minted = minted.ok_or_else(|| StoreFault::NoVersion(secret.clone(), version))?;
            minted.is_revoked = true;
            if minted.phase == Phase::Live {
                // It is done right here: nobody else begins with it meanwhile, so that its end is known when this returns.
                let at_us = self.now_us() + super::micros(self.options.answer_within);
                minted.phase = Phase::Ending { at_us, reason: Reason::Command };
            }
            (before, table.whole(secret))
        };
        self.note(&Note::Revoked { number });
        let changed = Changed {
            store: self.inner.name().into(),
            before,
            after,
            version: Some(version),
            carried: Vec::new(),
        };
        self.tell_watchers(&changed);
        match self.end_now(number).await {
            Ok(()) => Ok(changed),
            Err(fault) => Err(StoreFault::Away(format!(
                "version {version} of {secret} is refused here from now on, but its server could not be told, which is \
                 tried again until its lease ends: {}",
                fault.bare()
            ))),
        }
    }

    /// Ends every lease at the server, for at most `within`. What could not be ended by then is when we start again.
    /// Returns how many are left.
    pub async fn end_all(self: &Arc<Self>, within: Duration) -> usize {
        let at_us = self.now_us() + super::micros(within);
        let numbers: Vec<u32> = {
            let mut table = self.table.lock();
            let mut numbers = Vec::new();
            for holding in table.holdings.values_mut() {
                for minted in &mut holding.versions {
                    if minted.phase == Phase::Live {
                        minted.phase = Phase::Ending { at_us, reason: Reason::Shutdown };
                    }
                    if matches!(minted.phase, Phase::Ending { .. }) {
                        numbers.push(minted.number);
                    }
                }
            }
            numbers
        };
        for number in &numbers {
            self.note(&Note::Ending { number: *number });
        }
        let ending = async {
            let mut jobs = JoinSet::new();
            for number in numbers {
                if jobs.len() >= JOBS_MAX {
                    jobs.join_next().await;
                }
                let dynamic = Arc::clone(self);
                jobs.spawn(async move { dynamic.end_now(number).await });
            }
            while jobs.join_next().await.is_some() {}
        };
        drop(tokio::time::timeout(within, ending).await);
        self.table.lock().leases().len()
    }

    /// Ends a version at the server now, and notes it.
    pub(super) async fn end_now(&self, number: u32) -> Result<(), StoreFault> {
        let found = {
            let mut table = self.table.lock();
            let owner = table.owner_of(number).cloned();
            let minted = table.minted_mut(number).filter(|minted| !minted.is_busy);
            owner.zip(minted.map(|minted| {
                minted.is_busy = true;
                let reason = match minted.phase {
                    Phase::Ending { reason, .. } => reason,
                    _ => Reason::Command,
                };
                (minted.handle.clone(), reason)
            }))
        };
        // Somebody else is at it.
        let Some((owner, (handle, reason))) = found else { return Ok(()) };
        let asked = self.ask(self.source.revoke(&owner.login(), &handle)).await;
        self.ended(&owner, number, reason, asked)
    }

    fn ended(
        &self,
        owner: &Arc<Owner>,
        number: u32,
        reason: Reason,
        asked: Result<Answer<()>, (StoreFault, Option<String>)>,
    ) -> Result<(), StoreFault> {
        let now_us = self.now_us();
        let is_first_failure = {
            let mut table = self.table.lock();
            let Some(minted) = table.minted_mut(number) else { return Ok(()) };
            minted.is_busy = false;
            match &asked {
                Ok(_) => {
                    minted.phase = Phase::Ended { since_us: now_us };
                    minted.lost.get_or_insert((self.options.clocks.wall)());
                    false
                }
                Err(_) => {
                    let pause =
                        pace::pause(minted.tries + 1, Duration::from_secs(1), Duration::from_secs(60));
                    minted.phase = Phase::Ending { at_us: now_us + super::micros(pause), reason };
                    minted.tries = minted.tries.saturating_add(1);
                    minted.tries == 1
                }
            }
        };
        let (is_done, request_id) = match &asked {
            Ok(answer) => (true, answer.request_id.clone()),
            Err((_, request_id)) => (false, request_id.clone()),
        };
        if is_done {
            self.note(&Note::Gone { number });
            tracing::info!(path = %owner.path, version = number, consumer = %owner.consumer, "ended");
        }
        if is_done || is_first_failure {
            self.tell(&LeaseEvent {
                secret: owner.path.clone(),
                version: version_of(number),
                what: What::Revoked,
                is_done,
                reason: Some(reason),
                consumer: Arc::clone(&owner.consumer),
                request_id,
            });
        }
        self.wake.notify_one();
        asked.map(drop).map_err(|(fault, _)| {
            tracing::warn!(path = %owner.path, version = number, %fault, "a lease could not be ended; it is tried again");
            fault
        })
    }
}
