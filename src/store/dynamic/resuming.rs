//! Going on with what an earlier process minted.

use std::sync::Arc;
use std::time::Duration;

use super::Dynamic;
use super::book::{self, Ends, Found};
use super::table::{Minted, Owner, Phase};
use crate::model::Reason;
use crate::store::{LeftSession, StoreFault};

/// A session that an earlier process began, and on which something hangs, or did.
pub(super) struct Left {
    pub(super) session: Arc<LeftSession>,
    /// When it ends by itself, as far as is known, by the boot clock.
    pub(super) until_us: Option<i64>,
    /// When its end is next tried.
    pub(super) at_us: i64,
    pub(super) tries: u32,
}

impl Dynamic {
    /// A moment written down earlier, by the clock of this boot.
    fn of_this_boot(&self, ends: Ends) -> Ends {
        if *ends.boot_id == *self.options.clocks.boot_id {
            return ends;
        }
        let left = ends.wall.micros().saturating_sub(self.wall().micros());
        Ends {
            boot_id: self.options.clocks.boot_id.to_string(),
            boot_us: self.now_us().saturating_add(left),
            ..ends
        }
    }

    /// Takes over what an earlier process minted: what its consumer may still use goes on, the rest is ended.
    pub(super) fn go_on_with(&self, found: Found) -> Result<(), StoreFault> {
        let now_us = self.now_us();
        let mut table = self.table.lock();
        let all_declared = Arc::clone(table.all_declared());
        let mut order: Vec<_> = found.kept.into_values().collect();
        order.sort_by_key(|kept| kept.note.shown);
        for kept in order {
            let note = kept.note;
            let is_same_boot = *note.boot_id == *self.options.clocks.boot_id;
            let is_wanted = is_same_boot
                && all_declared.contains_key(&note.path)
                && (self.options.is_alive)(&note.consumer);
            let ends = note.ends.map(|ends| self.of_this_boot(ends));
            let session_ends = note.session_ends.map(|ends| self.of_this_boot(ends));
            let owner = Arc::new(Owner {
                path: note.path,
                account: note.account.as_str().into(),
                consumer: Arc::new(note.consumer),
            });
            // Nobody keeps the session any more on which it hangs: another takes its place while that still lives.
            let first = ends.iter().chain(&session_ends).map(|ends| ends.boot_us).min();
            let care_us = first.map(|until| now_us + until.saturating_sub(now_us).max(0) / 2);
            let phase = if kept.is_ending || kept.is_revoked || !is_wanted {
                Phase::Ending { at_us: now_us, reason: Reason::ConsumerGone }
            } else {
                Phase::Live
            };
            let minted = Minted {
                number: note.number,
                fields: kept.fields,
                handle: note.handle,
                shown: note.shown,
                must_be_replaced: session_ends.is_some() || !note.is_renewable,
                ends,
                length: note.length_us.map(Duration::from_micros),
                is_renewable: note.is_renewable,
                care_us,
                lost: kept.lost,
                phase,
                is_revoked: kept.is_revoked,
                is_busy: false,
                tries: 0,
                tenure: None,
                session: kept.session.map(|session| self.left_session(session, session_ends.as_ref())),
                session_ends,
                request_id: note.request_id.map(Into::into),
            };
            let lost = minted.lost;
            let number = minted.number;
            table.put(&owner, minted, self.wall());
            if let Some(minted) = table.minted_mut(number) {
                minted.lost = lost;
            }
        }
        drop(table);
        self.shorten()
    }

    /// A session that an earlier process began, once for all that hangs on it: it is ended after that.
    fn left_session(&self, session: LeftSession, ends: Option<&Ends>) -> Arc<LeftSession> {
        let mut all = self.left.lock();
        if let Some(known) = all.iter().find(|known| known.session.accessor == session.accessor) {
            return Arc::clone(&known.session);
        }
        let session = Arc::new(session);
        let until_us = ends.map(|ends| ends.boot_us);
        all.push(Left { session: Arc::clone(&session), until_us, at_us: 0, tries: 0 });
        session
    }

    /// Writes the file anew with what is still to be known.
    pub(super) fn shorten(&self) -> Result<(), StoreFault> {
        let mut book = self.book.lock();
        let mut records = Vec::new();
        {
            let mut table = self.table.lock();
            records.push(book::below(table.note_all_below())?);
            for (owner, holding) in &table.holdings {
                let kept =
                    holding.versions.iter().filter(|minted| !matches!(minted.phase, Phase::Ended { .. }));
                for minted in kept {
                    records.extend(book::records_of(owner, &self.options.clocks.boot_id, minted)?);
                }
            }
        }
        book.replace(records)
    }
}
