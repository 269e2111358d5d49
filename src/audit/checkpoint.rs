//! Checkpoints: a few lines of text that say how far the log goes, to be kept off the machine.

use std::fmt;
use std::str::FromStr;
use std::sync::atomic::Ordering;

use super::chain::{Fingerprint, hex_text, is_checkpoint_signed, sign_checkpoint};
use super::log::{Log, Shared};
use super::record::{self, Entry, unhex};
use super::rotate::remove_within_budget;
use super::upkeep::refill_keys;
use super::writer::NotRecorded;
use crate::model::{Operation, Outcome, Reason, UnixTime};

const TITLE: &str = "credfs audit checkpoint 1";

/// How far a log goes, signed by the key that the last seal announced. As text: a title and six lines of
/// `name value`; [`super::verify_with`] holds a log against it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checkpoint {
    /// The root of the chain, if its first record is still known.
    pub root: Option<Fingerprint>,
    /// How many records there are, from the first.
    pub records: u64,
    /// What the last of them hashes to.
    pub(super) head: [u8; 32],
    /// When it was made.
    pub time: UnixTime,
    /// The public key that signs it.
    pub(super) key: [u8; 32],
    signature: [u8; 64],
}

/// Why no checkpoint was made, or a text is none.
#[derive(Debug, thiserror::Error)]
pub enum CheckpointFault {
    /// The log cannot be written.
    #[error("no checkpoint could be made: {0}")]
    NotRecorded(#[from] NotRecorded),
    /// No key is ready.
    #[error("no signing key could be made: look at the space and the mode of the audit log's directory")]
    NoKey,
    /// The system refused.
    #[error("the checkpoint could not be remembered: {0}: look at the disk of the audit log")]
    Io(#[from] std::io::Error),
    /// The text is not a checkpoint.
    #[error("this is no checkpoint: give the whole text that credfs audit checkpoint printed")]
    NoCheckpoint,
    /// The signature does not fit.
    #[error("the checkpoint was changed: its signature does not fit its text")]
    Forged,
}

impl Checkpoint {
    fn signed_part(&self) -> String {
        let root = self.root.map_or_else(|| "unknown".to_owned(), |root| root.to_string());
        let (head, key) = (hex_text(&self.head), hex_text(&self.key));
        let time = self.time.rfc3339();
        format!("{TITLE}\nroot {root}\nrecords {}\nhead {head}\ntime {time}\nkey {key}\n", self.records)
    }
}

impl fmt::Display for Checkpoint {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(formatter, "{}signature {}", self.signed_part(), hex_text(&self.signature))
    }
}

impl FromStr for Checkpoint {
    type Err = CheckpointFault;
    fn from_str(text: &str) -> Result<Self, CheckpointFault> {
        let mut lines = text.trim().lines().map(str::trim);
        if lines.next() != Some(TITLE) {
            return Err(CheckpointFault::NoCheckpoint);
        }
        let mut value = |name: &str| {
            let line = lines.next()?.strip_prefix(name)?;
            line.strip_prefix(' ')
        };
        let mut read = || {
            let root = value("root")?;
            Some(Self {
                root: if root == "unknown" { None } else { Some(Fingerprint::parse(root)?) },
                records: value("records")?.parse().ok()?,
                head: unhex(value("head")?)?,
                time: UnixTime::parse_rfc3339(value("time")?)?,
                key: unhex(value("key")?)?,
                signature: unhex(value("signature")?)?,
            })
        };
        let read = read().ok_or(CheckpointFault::NoCheckpoint)?;
        if is_checkpoint_signed(read.signed_part().as_bytes(), &read.signature, &read.key) {
            Ok(read)
        } else {
            Err(CheckpointFault::Forged)
        }
    }
}

impl Log {
    /// Seals what is open, and says how far the log goes. From then on its records up to there count as handed
    /// off the machine and may be removed for the budget.
    ///
    /// # Errors
    /// [`CheckpointFault`].
    pub fn checkpoint(&self) -> Result<Checkpoint, CheckpointFault> {
        let shared = &self.shared;
        refill_keys(shared);
        let checkpoint = {
            let _one_at_a_time = shared.chores.lock();
            let checkpoint = make(shared)?;
            shared.keys.set_checkpointed(checkpoint.records)?;
            shared.checkpointed.store(checkpoint.records, Ordering::Relaxed);
            checkpoint
        };
        let entry =
            Entry { count: Some(checkpoint.records), ..Entry::new(Operation::Checkpoint, Outcome::Done) };
        shared.write(&mut |line| record::body(line, &entry))?;
        remove_within_budget(shared);
        Ok(checkpoint)
    }
}

fn make(shared: &Shared) -> Result<Checkpoint, CheckpointFault> {
    let mut writer = shared.hold()?;
    writer.settle()?;
    let now = (shared.options.clock)();
    if writer.head.segment_records > 0 && !writer.seal(now, Reason::Command)? {
        return Err(CheckpointFault::NoKey);
    }
    let signer = writer.ready.front().ok_or(CheckpointFault::NoKey)?;
    let mut checkpoint = Checkpoint {
        root: shared.root,
        records: writer.head.next_seq,
        head: writer.head.hash,
        time: now.time,
        key: signer.public(),
        signature: [0; 64],
    };
    checkpoint.signature = sign_checkpoint(checkpoint.signed_part().as_bytes(), &signer.key);
    let file = writer.sink.file();
    drop(writer);
    // What is said to be in the log must not be lost to a power cut.
    file.sync_data()?;
    Ok(checkpoint)
}
