//! Refusals that share records: a caller who asks a thousand times for what he may not have leaves one line with a
//! count, and whatever he does, the lines he causes are bounded. The sum of the counts stays exact.

use std::collections::HashMap;
use std::hash::{BuildHasher as _, RandomState};

use super::record::{self, Entry, Who};
use crate::model::{Operation, Outcome};

/// Bounds on what refused callers may cause.
#[derive(Debug, Clone, Copy)]
pub struct RefusalLimits {
    /// For how long equal refusals are gathered, in microseconds.
    pub gather_us: u64,
    /// How many different ones are kept apart per uid; more share one record per operation and outcome, without path.
    pub pending_per_uid_max: u32,
    /// How many uids are kept apart; more share one record per operation and outcome, without uid.
    pub uids_max: usize,
    /// Records of gathered refusals per uid: how many at once.
    pub gathered_burst: f64,
    /// Records of gathered refusals per uid: how many a second in the long run.
    pub gathered_per_second: f64,
    /// Records of single refused opens per uid: how many at once.
    pub single_burst: f64,
    /// Records of single refused opens per uid: how many a second in the long run.
    pub single_per_second: f64,
    /// The longest time between two records of what did not fit the bounds above, in microseconds.
    pub overflow_us_max: u64,
}

impl Default for RefusalLimits {
    fn default() -> Self {
        Self {
            gather_us: 1_000_000,
            pending_per_uid_max: 64,
            uids_max: 1_024,
            gathered_burst: 200.0,
            gathered_per_second: 5.0,
            single_burst: 1_000.0,
            single_per_second: 50.0,
            overflow_us_max: 60_000_000,
        }
    }
}

/// A bucket that fills with time.
struct Bucket {
    tokens: f64,
    at_us: u64,
}

impl Bucket {
    fn take(&mut self, now_us: u64, burst: f64, per_second: f64) -> bool {
        #[allow(clippy::cast_precision_loss, reason = "spans of microseconds are far below 2^52")]
        let passed_s = now_us.saturating_sub(self.at_us) as f64 / 1e6;
        self.tokens = (self.tokens + passed_s * per_second).min(burst);
        self.at_us = now_us;
        let has_one = self.tokens >= 1.0;
        if has_one {
            self.tokens -= 1.0;
        }
        has_one
    }
}

struct OfUid {
    pending: u32,
    gathered: Bucket,
    single: Bucket,
    last_us: u64,
}

struct Pending {
    uid: Option<u32>,
    body: Vec<u8>,
    count: u64,
    since_us: u64,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct OverflowKey {
    uid: Option<u32>,
    operation: Operation,
    outcome: Outcome,
}

struct Overflow {
    count: u64,
    due_us: u64,
    interval_us: u64,
}

/// A gathered refusal, taken out to be written.
pub(super) struct Gathered {
    /// The keys of the record, all but `count`.
    pub(super) body: Vec<u8>,
    /// How many there were.
    pub(super) count: u64,
    overflow: OverflowKey,
}

/// What waits to be written.
pub(super) struct Refusals {
    limits: RefusalLimits,
    hasher: RandomState,
    pending: HashMap<u64, (OverflowKey, Pending)>,
    uids: HashMap<u32, OfUid>,
    overflow: HashMap<OverflowKey, Overflow>,
}

impl Refusals {
    pub(super) fn new(limits: RefusalLimits) -> Self {
        Self {
            limits,
            hasher: RandomState::new(),
            pending: HashMap::new(),
            uids: HashMap::new(),
            overflow: HashMap::new(),
        }
    }

    /// How many refusals wait to be written.
    pub(super) fn waiting(&self) -> u64 {
        let pending = self.pending.values().map(|(_, pending)| pending.count).sum::<u64>();
        pending + self.overflow.values().map(|overflow| overflow.count).sum::<u64>()
    }

    /// Counts a refusal.
    pub(super) fn add(&mut self, entry: &Entry<'_>, now_us: u64) {
        let count = entry.count.unwrap_or(1);
        let uid = entry.who.map(|who| who.uid);
        let pid = entry.who.and_then(|who| who.pid);
        let is_open = matches!(entry.operation, Operation::Open | Operation::Read);
        // The hash is keyed at random, so nobody can make two callers meet on purpose.
        let hash = self.hasher.hash_one((uid, pid, entry.secret, entry.field, entry.outcome, is_open));
        if let Some((_, pending)) = self.pending.get_mut(&hash) {
            pending.count += count;
            return;
        }
        let mut key = OverflowKey { uid, operation: entry.operation, outcome: entry.outcome };
        if let Some(uid) = uid {
            let pending_max = self.limits.pending_per_uid_max;
            match self.of_uid(uid, now_us) {
                Some(known) if known.pending < pending_max => known.pending += 1,
                Some(_) => return self.overflow(key, count, now_us),
                None => {
                    key.uid = None;
                    return self.overflow(key, count, now_us);
                }
            }
        } else if self.pending.len() >= self.limits.uids_max {
            return self.overflow(key, count, now_us);
        }
        let mut body = Vec::with_capacity(256);
        record::body(&mut body, &Entry { count: None, ..entry.clone() });
        self.pending.insert(hash, (key, Pending { uid, body, count, since_us: now_us }));
    }

    /// Whether this refusal may have a record of its own.
    pub(super) fn may_stand_alone(&mut self, uid: Option<u32>, now_us: u64) -> bool {
        let (burst, per_second) = (self.limits.single_burst, self.limits.single_per_second);
        let Some(known) = uid.and_then(|uid| self.of_uid(uid, now_us)) else { return false };
        known.single.take(now_us, burst, per_second)
    }

    /// Takes out what is due; everything, where `all`.
    pub(super) fn take_due(&mut self, now_us: u64, all: bool) -> Vec<Gathered> {
        let limits = self.limits;
        let due: Vec<u64> = self
            .pending
            .iter()
            .filter(|(_, (_, pending))| all || now_us >= pending.since_us.saturating_add(limits.gather_us))
            .map(|(hash, _)| *hash)
            .collect();
        let mut taken = Vec::new();
        for hash in due {
            let Some((key, pending)) = self.pending.remove(&hash) else { continue };
            let known = pending.uid.and_then(|uid| self.uids.get_mut(&uid));
            let may_be_written = known.is_none_or(|known| {
                known.pending = known.pending.saturating_sub(1);
                known.gathered.take(now_us, limits.gathered_burst, limits.gathered_per_second)
            });
            if may_be_written {
                taken.push(Gathered { body: pending.body, count: pending.count, overflow: key });
            } else {
                self.overflow(key, pending.count, now_us);
            }
        }
        self.overflow.retain(|key, overflow| {
            let is_due = all || now_us >= overflow.due_us;
            if is_due && overflow.count > 0 {
                taken.push(Gathered { body: body_without_path(*key), count: overflow.count, overflow: *key });
                overflow.count = 0;
                // Whoever goes on and on gets a line less and less often.
                overflow.interval_us = (2 * overflow.interval_us).min(limits.overflow_us_max);
                overflow.due_us = now_us.saturating_add(overflow.interval_us);
                return true;
            }
            !is_due
        });
        let quiet_us = limits.overflow_us_max;
        self.uids.retain(|_, known| known.pending > 0 || now_us < known.last_us.saturating_add(quiet_us));
        taken
    }

    /// Takes back what could not be written. Its path is given up, its count is not.
    pub(super) fn put_back(&mut self, gathered: &Gathered, now_us: u64) {
        self.overflow(gathered.overflow, gathered.count, now_us);
    }

    fn of_uid(&mut self, uid: u32, now_us: u64) -> Option<&mut OfUid> {
        if self.uids.len() >= self.limits.uids_max && !self.uids.contains_key(&uid) {
            return None;
        }
        let limits = self.limits;
        let known = self.uids.entry(uid).or_insert_with(|| OfUid {
            pending: 0,
            gathered: Bucket { tokens: limits.gathered_burst, at_us: now_us },
            single: Bucket { tokens: limits.single_burst, at_us: now_us },
            last_us: now_us,
        });
        known.last_us = now_us;
        Some(known)
    }

    fn overflow(&mut self, key: OverflowKey, count: u64, now_us: u64) {
        let gather_us = self.limits.gather_us;
        let due_us = now_us.saturating_add(gather_us);
        let overflow =
            self.overflow.entry(key).or_insert(Overflow { count: 0, due_us, interval_us: gather_us });
        overflow.count += count;
    }
}

fn body_without_path(key: OverflowKey) -> Vec<u8> {
    let mut body = Vec::new();
    record::body(&mut body, &Entry::new(key.operation, key.outcome));
    let who = key.uid.map(|uid| Who { uid, ..Who::default() });
    record::number(&mut body, "uid", who.map(|who| who.uid.into()));
    body
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refuse(refusals: &mut Refusals, uid: u32, secret: &str, now_us: u64) {
        let who = Who { uid, pid: Some(9), ..Who::default() };
        let entry =
            Entry { secret: Some(secret), who: Some(&who), ..Entry::new(Operation::Lookup, Outcome::Hidden) };
        refusals.add(&entry, now_us);
    }

    #[test]
    fn equal_refusals_share_one_record_and_the_count_is_exact() {
        let mut refusals = Refusals::new(RefusalLimits::default());
        for _ in 0..1_000 {
            refuse(&mut refusals, 1, "a", 0);
        }
        refuse(&mut refusals, 1, "b", 0);
        refuse(&mut refusals, 2, "a", 0);
        assert!(refusals.take_due(999_999, false).is_empty(), "nothing is due within the second");
        let mut counts: Vec<_> =
            refusals.take_due(1_000_000, false).iter().map(|gathered| gathered.count).collect();
        counts.sort_unstable();
        assert_eq!(counts, [1, 1, 1_000]);
        assert_eq!(refusals.waiting(), 0);
    }

    #[test]
    fn however_many_names_are_asked_for_the_lines_are_bounded_and_the_sum_is_exact() {
        let mut refusals = Refusals::new(RefusalLimits::default());
        let (mut asked, mut lines, mut counted) = (0_u64, 0, 0);
        for second in 0..100_u64 {
            for at in 0..5_000_u32 {
                refuse(&mut refusals, at % 3, &format!("hidden/{second}/{at}"), second * 1_000_000);
                asked += 1;
            }
            for gathered in refusals.take_due(second * 1_000_000 + 999_999, second == 99) {
                lines += 1;
                counted += gathered.count;
            }
            assert!(refusals.pending.len() <= 3 * 64);
        }
        assert_eq!(counted + refusals.waiting(), asked);
        // Three uids: a burst of 200 each, 5 a second for 100 s, and a few for what did not fit.
        assert!(lines < 3 * (200 + 500 + 20), "{lines} lines");
    }

    #[test]
    fn more_uids_than_are_kept_apart_share_a_record_that_names_none() {
        let mut refusals = Refusals::new(RefusalLimits::default());
        for uid in 0..5_000 {
            refuse(&mut refusals, uid, "a", 0);
        }
        let taken = refusals.take_due(0, true);
        assert_eq!(taken.len(), 1_025);
        assert_eq!(taken.iter().map(|gathered| gathered.count).sum::<u64>(), 5_000);
        let shared = taken.iter().find(|gathered| gathered.count > 1).unwrap();
        assert_eq!(shared.body, br#","op":"lookup","outcome":"hidden""#);
    }

    #[test]
    fn single_records_are_rationed_per_uid() {
        let mut refusals = Refusals::new(RefusalLimits::default());
        let alone = |refusals: &mut Refusals, uid, now_us| {
            (0..2_000).filter(|_| refusals.may_stand_alone(Some(uid), now_us)).count()
        };
        assert_eq!(alone(&mut refusals, 1, 0), 1_000);
        assert_eq!(alone(&mut refusals, 2, 0), 1_000);
        assert_eq!(alone(&mut refusals, 1, 1_000_000), 50);
    }
}
