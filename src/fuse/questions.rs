//! What may be asked of stores for one LOOKUP: so many questions, and all of them within the request's deadline.

use std::time::{Duration, Instant};

use crate::access::{Asking, Refusal};
use crate::model::{Outcome, Reason};

/// A secret, what lies in it, what is behind a view; and folder after folder, until one has something that the caller may
/// see.
const QUESTIONS_MAX: u32 = 32;

/// The questions of one LOOKUP.
#[derive(Clone)]
pub(super) struct Questions {
    deadline: Duration,
    /// When they must be answered, from the first one on: most names need none, and no look at the clock.
    until: Option<Instant>,
    left: u32,
}

impl Questions {
    pub(super) const fn of(deadline: Duration) -> Self {
        Self { deadline, until: None, left: QUESTIONS_MAX }
    }

    pub(super) const fn may_ask(&self) -> bool {
        self.left > 0
    }

    /// Waits for the answer, no longer than the request may take.
    pub(super) async fn put(&mut self, asking: Asking) -> Result<(), Refusal> {
        self.left -= 1;
        let until = *self.until.get_or_insert_with(|| Instant::now() + self.deadline);
        tokio::time::timeout_at(until.into(), asking)
            .await
            .unwrap_or(Err(Refusal::new(Outcome::Timeout, Reason::Deadline)))
    }
}
