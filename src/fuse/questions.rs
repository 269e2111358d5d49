//! What may be asked of stores for one LOOKUP: so many questions, and all of them within the request's deadline.

use std::time::{Duration, Instant};

use crate::access::{Asking, Refusal};
use crate::model::{Outcome, Reason};

/// A secret, what lies in it, and what is behind a view: no name needs more.
const QUESTIONS_MAX: u32 = 4;

/// The questions of one LOOKUP.
#[derive(Clone)]
pub(super) struct Questions {
    until: Instant,
    left: u32,
}

impl Questions {
    pub(super) fn of(deadline: Duration) -> Self {
        Self { until: Instant::now() + deadline, left: QUESTIONS_MAX }
    }

    pub(super) const fn may_ask(&self) -> bool {
        self.left > 0
    }

    /// Waits for the answer, no longer than the request may take.
    pub(super) async fn put(&mut self, asking: Asking) -> Result<(), Refusal> {
        self.left -= 1;
        tokio::time::timeout_at(self.until.into(), asking)
            .await
            .unwrap_or(Err(Refusal::new(Outcome::Timeout, Reason::Deadline)))
    }
}
