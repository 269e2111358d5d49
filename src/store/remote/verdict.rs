//! Whether a value that is held may be given: the whole of it, as two small functions without clock, lock or engine.
//!
//! ```text
//!                       engine answers             engine is known to be away
//! fresh                 given                      given
//! stale, within grace   the engine is asked        given, marked
//! older, or none        the engine is asked        refused: away
//!
//! the engine, when asked:  a value    → given          no to this login → refused, and what is held is dropped
//!                          it is gone → refused        no answer at all → within grace given, marked; else refused
//! ```

use std::time::Duration;

use crate::store::StoreFault;

/// How a held value stands against the limits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Age {
    /// Vouched for so lately that nobody need be asked.
    Fresh,
    /// Fresh until so long ago, and within grace.
    Stale(Duration),
    /// Beyond grace.
    Spent,
}

impl Age {
    /// Of a value that was vouched for `age` ago. One that an earlier process left is never fresh: what was refused
    /// after it had been left must be heard before it is given.
    #[must_use]
    pub fn of(age: Duration, is_left: bool, fresh_for: Duration, grace: Duration) -> Self {
        let stale = age.saturating_sub(fresh_for);
        if age < fresh_for && !is_left {
            Self::Fresh
        } else if stale < grace {
            Self::Stale(stale)
        } else {
            Self::Spent
        }
    }
}

/// What is done before anybody is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AtHand {
    /// It is given, stale for so long.
    Give(Duration),
    /// The engine is asked.
    Ask,
    /// Nothing is given: the engine is away.
    Refuse,
}

/// What is done with what is held before anybody is asked.
#[must_use]
pub fn at_hand(held: Option<Age>, is_away: bool) -> AtHand {
    match (held, is_away) {
        (Some(Age::Fresh), _) => AtHand::Give(Duration::ZERO),
        (Some(Age::Stale(span)), true) => AtHand::Give(span),
        (Some(Age::Stale(_) | Age::Spent) | None, false) => AtHand::Ask,
        (Some(Age::Spent) | None, true) => AtHand::Refuse,
    }
}

/// What a fault of the engine says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Saying {
    /// No to this login.
    Refused,
    /// The version or the secret is not to be read by anyone.
    Gone,
    /// Nothing: no answer, or none that makes sense.
    Silent,
}

impl Saying {
    /// What `fault` says.
    #[must_use]
    pub fn of(fault: &StoreFault) -> Self {
        match fault.bare() {
            StoreFault::Refused(_) => Self::Refused,
            StoreFault::NoSecret(_)
            | StoreFault::NoVersion(..)
            | StoreFault::NoField(..)
            | StoreFault::NoStage(..)
            | StoreFault::Deleted(..)
            | StoreFault::Destroyed(..)
            | StoreFault::Revoked(..)
            | StoreFault::Replaced(..)
            | StoreFault::SecretDeleted(_) => Self::Gone,
            _ => Self::Silent,
        }
    }

    /// Whether `fault` says that the whole engine cannot answer now, and not that it failed at one thing.
    #[must_use]
    pub fn is_outage(fault: &StoreFault) -> bool {
        matches!(
            fault.bare(),
            StoreFault::Away(_) | StoreFault::Timeout | StoreFault::Sealed(_) | StoreFault::Busy(_)
        )
    }
}

/// For how long a held value that is given now has been stale, after the engine was asked in vain. `None`: it is not given.
#[must_use]
pub fn given_in_spite(held: Option<Age>, saying: Saying) -> Option<Duration> {
    match (saying, held) {
        (Saying::Silent, Some(Age::Fresh)) => Some(Duration::ZERO),
        (Saying::Silent, Some(Age::Stale(span))) => Some(span),
        (Saying::Silent, Some(Age::Spent) | None) | (Saying::Refused | Saying::Gone, _) => None,
    }
}
