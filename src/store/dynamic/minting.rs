//! Having a version minted: once for all who wait, to its end whoever stops waiting, and written down before anybody is
//! given it.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use super::Dynamic;
use super::book::{note_of, values_of};
use super::table::{Minted, Owner, Phase};
use super::view::version_of;
use crate::store::remote::Saying;
use crate::store::vault::login::pace;
use crate::store::{Answer, Changed, LeaseEvent, Leased, SourceFault, StoreFault, What};

impl Dynamic {
    /// Has version `number`, which `owner` was promised, minted, or waits for whoever has it minted already.
    pub(super) async fn join_minting(
        self: &Arc<Self>,
        owner: &Arc<Owner>,
        number: u32,
    ) -> Result<(), StoreFault> {
        let mut flight = {
            let mut table = self.table.lock();
            let replaced = || StoreFault::Replaced(owner.path.clone(), version_of(number));
            let holding = table.holdings.get_mut(owner).ok_or_else(replaced)?;
            match &holding.flight {
                Some(flight) => flight.clone(),
                // Minted between the look and this line.
                None if holding.minted(number).is_some() => return Ok(()),
                None if holding.promised.is_none_or(|(promised, _)| promised != number) => {
                    return Err(replaced());
                }
                None => {
                    let (tell, flight) = watch::channel(None);
                    holding.flight = Some(flight.clone());
                    let (dynamic, owner) = (Arc::clone(self), Arc::clone(owner));
                    // On its own: what was minted for somebody who stopped waiting would be known to nobody.
                    tokio::spawn(async move {
                        let minted = dynamic.mint(&owner, number).await;
                        if let Some(holding) = dynamic.table.lock().holdings.get_mut(&owner) {
                            holding.flight = None;
                        }
                        tell.send_replace(Some(minted));
                    });
                    flight
                }
            }
        };
        let told = flight.wait_for(Option::is_some).await;
        let outcome = told.ok().and_then(|told| (*told).clone());
        outcome.unwrap_or(Err(StoreFault::Timeout))
    }

    /// Asks the engine through the breaker, within a deadline.
    pub(super) async fn ask<T>(
        &self,
        asking: impl Future<Output = Result<Answer<T>, SourceFault>>,
    ) -> Result<Answer<T>, (StoreFault, Option<String>)> {
        self.breaker.admit(self.now_us(), false).map_err(|fault| (fault, None))?;
        let asked = tokio::time::timeout(self.options.answer_within, asking).await;
        let asked = asked.unwrap_or_else(|_| Err(StoreFault::Timeout.into()));
        match asked {
            Ok(answer) => {
                self.breaker.answered(self.now_us());
                Ok(answer)
            }
            Err(SourceFault { fault, request_id, retry_after }) => {
                if Saying::is_outage(&fault) || retry_after.is_some() {
                    let is_decisive = matches!(fault.bare(), StoreFault::Sealed(_));
                    self.breaker.failed(&fault, retry_after, is_decisive, self.now_us());
                } else {
                    self.breaker.answered(self.now_us());
                }
                let fault = match &request_id {
                    Some(id) => {
                        StoreFault::Answered { fault: Box::new(fault), request_id: id.as_str().into() }
                    }
                    None => fault,
                };
                Err((fault, request_id))
            }
        }
    }

    /// Mints a version and puts it in its place.
    pub(super) async fn mint(self: &Arc<Self>, owner: &Arc<Owner>, number: u32) -> Result<(), StoreFault> {
        let declared = self.table.lock().declared(&owner.path).cloned();
        let declared = declared.ok_or_else(|| StoreFault::NoSecret(owner.path.clone()))?;
        let (login, asked_us) = (owner.login(), self.now_us());
        let event = |is_done: bool, request_id: Option<String>| LeaseEvent {
            secret: owner.path.clone(),
            version: version_of(number),
            what: What::Minted,
            is_done,
            reason: None,
            consumer: Arc::clone(&owner.consumer),
            request_id,
        };
        let Answer { content, request_id } = match self.ask(self.source.mint(&login, &declared.engine)).await
        {
            Ok(answer) => answer,
            Err((fault, request_id)) => {
                tracing::warn!(path = %owner.path, consumer = %owner.consumer, %fault, "nothing was minted");
                self.tell(&event(false, request_id));
                return Err(fault);
            }
        };
        let shown = {
            let table = self.table.lock();
            let promised = table.holdings.get(owner).and_then(|holding| holding.promised);
            promised.filter(|(promised, _)| *promised == number).map(|(_, since)| since)
        };
        let is_ahead = shown.is_none();
        let minted =
            self.minted(number, content, asked_us, shown.unwrap_or_else(|| self.wall()), request_id.clone());
        if let Err(fault) = self.write_down(owner, &minted).await {
            tracing::error!(path = %owner.path, %fault, "a lease that cannot be written down is not handed out");
            self.tell(&event(false, request_id));
            // Nobody has it. That it could not be ended either is said, and it ends by itself.
            if let Err((fault, _)) = self.ask(self.source.revoke(&login, &minted.handle)).await {
                tracing::warn!(path = %owner.path, %fault, "a lease that nobody has could not be ended");
            }
            return Err(fault);
        }
        // The record comes before anybody can be given it.
        self.tell(&event(true, request_id));
        tracing::info!(path = %owner.path, version = number, consumer = %owner.consumer, "minted");
        self.put_in_place(owner, minted, is_ahead);
        self.wake.notify_one();
        Ok(())
    }

    fn minted(
        &self,
        number: u32,
        leased: Leased,
        asked_us: i64,
        shown: crate::model::UnixTime,
        request_id: Option<String>,
    ) -> Minted {
        let ends = leased.length.map(|length| self.ends(asked_us, length));
        let session = leased.tenure.as_ref().and_then(|tenure| tenure.remaining());
        Minted {
            number,
            fields: leased.fields.into(),
            handle: leased.handle,
            shown,
            care_us: leased.length.map(|length| asked_us.saturating_add(super::micros(care_after(length)))),
            ends,
            length: leased.length,
            is_renewable: leased.is_renewable,
            must_be_replaced: !leased.is_renewable,
            lost: None,
            phase: Phase::Live,
            is_revoked: false,
            is_busy: false,
            tries: 0,
            session_ends: session.map(|span| self.ends(self.now_us(), span)),
            session: leased.tenure.as_ref().and_then(|tenure| tenure.leave()).map(Arc::new),
            tenure: leased.tenure,
            request_id: request_id.map(Into::into),
        }
    }

    async fn write_down(self: &Arc<Self>, owner: &Arc<Owner>, minted: &Minted) -> Result<(), StoreFault> {
        let note = note_of(owner, &self.options.clocks.boot_id, minted);
        let copied = values_of(minted);
        let dynamic = Arc::clone(self);
        let written =
            tokio::task::spawn_blocking(move || dynamic.book.lock().add_minted(&note, &copied)).await;
        written.unwrap_or_else(|_| Err(StoreFault::Io("the writing of a lease was given up".into())))
    }

    fn put_in_place(&self, owner: &Arc<Owner>, minted: Minted, is_ahead: bool) {
        let (number, wall) = (minted.number, self.wall());
        let (before, after, replaced) = {
            let mut table = self.table.lock();
            let before = table.view(owner);
            let replaced = table.put(owner, minted, wall);
            (before, table.view(owner), replaced)
        };
        if let Some(replaced) = replaced {
            self.note(&super::Note::Lost { number: replaced, when: wall });
        }
        if is_ahead {
            let version = Some(version_of(number));
            self.tell_watchers(&Changed {
                store: self.inner.name().into(),
                before,
                after,
                version,
                carried: Vec::new(),
            });
        }
    }
}

/// When a lease of this length needs care: not at the same moment for all.
pub(super) fn care_after(length: Duration) -> Duration {
    pace::between(length, 0.5, 0.7)
}
