//! The audit log: one line of JSON for each thing that happened, chained by hash, sealed by one-time keys, written
//! before anything is handed over. It may touch its own files, the clock and the kernel's random numbers; it knows
//! neither policy nor stores nor callers, only the words of the model.
//!
//! The files beside `NAME`: `NAME.1`, `NAME.2` … are older parts (a larger number is younger), `NAME.keys` holds the
//! signing keys and is the lock of the one writer, `NAME.seals` keeps the seals of parts that were removed, and
//! `NAME.new` exists for a moment while a part is begun.

#[cfg(test)]
mod blocking_tests;
mod chain;
mod checkpoint;
#[cfg(test)]
mod file_tests;
mod files;
mod keys;
mod log;
#[cfg(test)]
mod log_tests;
mod open;
#[cfg(test)]
mod proof_tests;
mod query;
mod record;
mod recorded;
mod refusals;
mod rotate;
mod sink;
#[cfg(test)]
mod testing;
mod upkeep;
mod verify;
mod writer;

use std::path::{Path, PathBuf};
use std::time::Duration;

pub use chain::Fingerprint;
pub use checkpoint::{Checkpoint, CheckpointFault};
pub use log::{Health, Log, Receipt, State};
pub use open::{OpenFault, Opened};
pub use query::{Filter, Records, find, query};
pub use record::{Entry, Moment, Who};
pub use recorded::Recorded;
pub use refusals::RefusalLimits;
pub use rotate::RotateFault;
pub use verify::{Fault, HeldKey, Verdict, verify, verify_with};
pub use writer::NotRecorded;

/// What a record has survived when [`Log::record`] returns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// The end of this process: it was given to the kernel. A power cut may take about the last second.
    ProcessSafe,
    /// A power cut: the disk has it. Recorders that arrive together share one `fdatasync(2)`.
    PowerSafe,
}

/// How a log is kept.
#[derive(Debug, Clone)]
pub struct Options {
    /// The current file.
    pub path: PathBuf,
    /// What a record survives.
    pub durability: Durability,
    /// From which length a file is rotated, in bytes. It is done beside the recording, so that a burst may go past it.
    pub segment_bytes: u64,
    /// What all files together may take, in bytes. Only what was checkpointed is removed for it.
    pub max_bytes: Option<u64>,
    /// How many records a segment has at most, its seal included.
    pub segment_records_max: u32,
    /// How old the first record of a segment gets before it is sealed.
    pub segment_age_max: Duration,
    /// How long a recorder waits for another that is stuck in the sink.
    pub wait_max: Duration,
    /// How long [`Log::open`] waits for another process to give the log up.
    pub lock_wait_max: Duration,
    /// Bounds on what refused callers may cause.
    pub refusals: RefusalLimits,
    /// Whether [`Log`] seals what is open when it is dropped. It costs two fsyncs.
    pub seal_on_close: bool,
    /// The clocks.
    pub clock: fn() -> Moment,
}

impl Options {
    /// The defaults, for a log at `path`.
    #[must_use]
    pub fn at(path: &Path) -> Self {
        Self {
            path: path.to_owned(),
            durability: Durability::ProcessSafe,
            segment_bytes: 16 * 1024 * 1024,
            max_bytes: None,
            segment_records_max: 1_000,
            segment_age_max: Duration::from_secs(60),
            wait_max: Duration::from_millis(40),
            lock_wait_max: Duration::ZERO,
            refusals: RefusalLimits::default(),
            seal_on_close: true,
            clock: Moment::now,
        }
    }
}
