//! What keeper and worker say to one another: messages of one fixed size, some with descriptors, one with an order behind.
//!
//! ```text
//! bytes 0..4    kind                  4..8  number (meaning by kind)
//!       8..80   up to nine words of 64 bits (meaning by kind), zero where unused
//!       80..    an order for the notifier's helper, behind `Order` alone
//! ```
//!
//! All little endian. The first message of either side says the protocol's version: another one is refused.

use crate::fuse::notifier::Order;
use crate::sys::process::{FileStatus, FileTime};

/// Version of this protocol. A worker and a keeper of different versions do not work together.
pub(super) const PROTOCOL: u32 = 2;
/// Length of every message but an order's, in bytes.
pub(super) const MESSAGE_BYTES: usize = 80;
/// The longest message, in bytes.
pub(super) const BYTES_MAX: usize = MESSAGE_BYTES + Order::BYTES_MAX;
/// Most that a worker may leave to its successor, in bytes.
pub(super) const LEFT_BYTES_MAX: u64 = 80 * 1024 * 1024;

/// One message without what comes with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Message {
    pub(super) kind: u32,
    pub(super) number: u32,
    pub(super) words: [u64; 9],
}

/// What a worker says.
pub(super) mod from_worker {
    /// First: `number` is the protocol. Asks for [`WELCOME`](super::from_keeper::WELCOME).
    pub(crate) const HELLO: u32 = 1;
    /// Everything is open; asks for [`GO`](super::from_keeper::GO).
    pub(crate) const READY: u32 = 2;
    /// It lives.
    pub(crate) const BEAT: u32 = 3;
    /// With a descriptor: what its successor is to be given, instead of what was left before.
    pub(crate) const LEAVES: u32 = 4;
    /// With an order behind it.
    pub(crate) const ORDER: u32 = 5;
    /// It serves.
    pub(crate) const SERVING: u32 = 6;
    /// It takes no more requests and has answered all it took (`number` 1), or not all (0); its end follows.
    pub(crate) const DRAINED: u32 = 7;
    /// A reload that SIGHUP asked for is done.
    pub(crate) const RELOADED: u32 = 8;
    /// It ends in order: silence is no fault for a while.
    pub(crate) const ENDING: u32 = 9;
}

/// What the keeper says.
pub(super) mod from_keeper {
    /// Answers HELLO: `number` is the protocol; words: major, minor and capabilities of INIT, the connection's minor,
    /// the helper's pid, how many requests were answered with ETIMEDOUT since a worker was last told. With descriptors: the
    /// device, the socket for questions about executables, the one for digests, the marks of pages, and what the worker before
    /// left, if anything.
    pub(crate) const WELCOME: u32 = 101;
    /// The session is the worker's from now on.
    pub(crate) const GO: u32 = 102;
    /// `number` is the process of the notifier's helper.
    pub(crate) const HELPER: u32 = 103;
    /// End: the mount is being taken away. A second one: at once.
    pub(crate) const STOP: u32 = 104;
}

/// What is asked about executables: `number` is the thread; word 0 counts the questions, and is in the answer.
pub(super) mod question {
    /// Answered by the facts.
    pub(crate) const FACTS: u32 = 201;
    /// Answered by the text, behind the message.
    pub(crate) const PATH: u32 = 202;
    /// With the facts expected; answered by the digest in words 1 to 4.
    pub(crate) const DIGEST: u32 = 203;
    /// The answer where nothing is known.
    pub(crate) const UNKNOWN: u32 = 299;
}

impl Message {
    pub(super) fn of(kind: u32, number: u32) -> Self {
        Self { kind, number, words: [0; 9] }
    }

    pub(super) fn to_bytes(self) -> [u8; MESSAGE_BYTES] {
        let mut bytes = [0; MESSAGE_BYTES];
        bytes[..4].copy_from_slice(&self.kind.to_le_bytes());
        bytes[4..8].copy_from_slice(&self.number.to_le_bytes());
        for (place, word) in bytes[8..].chunks_exact_mut(8).zip(self.words) {
            place.copy_from_slice(&word.to_le_bytes());
        }
        bytes
    }

    /// The message, and what is behind it; `None` for one that is too short.
    pub(super) fn read(bytes: &[u8]) -> Option<(Self, &[u8])> {
        let (head, behind) = bytes.split_at_checked(MESSAGE_BYTES)?;
        let half = |at: usize| u32::from_le_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
        let mut message = Self::of(half(0), half(4));
        for (word, place) in message.words.iter_mut().zip(head[8..].chunks_exact(8)) {
            *word = place.iter().rev().fold(0, |word, byte| word << 8 | u64::from(*byte));
        }
        Some((message, behind))
    }
}

/// Puts facts into the words 1 to 8. Nanoseconds have 30 bits: above those of the birth time, bit 31 says that it is
/// there, and bit 30 that the file is a regular one.
pub(super) fn write_facts(message: &mut Message, facts: &FileStatus) {
    let born = facts.born.unwrap_or(FileTime { seconds: 0, nanoseconds: 0 });
    message.words[1..].copy_from_slice(&[
        facts.device,
        facts.inode,
        facts.size_bytes,
        facts.changed.seconds.cast_unsigned(),
        facts.modified.seconds.cast_unsigned(),
        born.seconds.cast_unsigned(),
        u64::from(facts.changed.nanoseconds) | u64::from(facts.modified.nanoseconds) << 32,
        u64::from(born.nanoseconds)
            | u64::from(facts.is_regular) << 30
            | u64::from(facts.born.is_some()) << 31
            | u64::from(facts.link_count) << 32,
    ]);
}

pub(super) fn read_facts(message: &Message) -> FileStatus {
    let [_, device, inode, size_bytes, changed, modified, born, fractions, rest] = message.words;
    let low = |word: u64| u32::try_from(word & 0xFFFF_FFFF).unwrap_or(0);
    let time = |seconds: u64, nanoseconds: u32| FileTime { seconds: seconds.cast_signed(), nanoseconds };
    FileStatus {
        device,
        inode,
        born: (rest >> 31 & 1 == 1).then(|| time(born, low(rest) & 0x3FFF_FFFF)),
        size_bytes,
        changed: time(changed, low(fractions)),
        modified: time(modified, low(fractions >> 32)),
        link_count: low(rest >> 32),
        is_regular: rest >> 30 & 1 == 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_read_as_it_was_written_and_a_short_one_is_none() {
        let message = Message { kind: 1, number: u32::MAX, words: [0, 1, 2, 3, u64::MAX, 5, 6, 7, 1 << 63] };
        let mut bytes = message.to_bytes().to_vec();
        bytes.extend(b"behind");
        assert_eq!(Message::read(&bytes), Some((message, &b"behind"[..])));
        assert_eq!(Message::read(&bytes[..MESSAGE_BYTES - 1]), None);
    }

    #[test]
    fn facts_survive_the_way() {
        let time = |seconds, nanoseconds| FileTime { seconds, nanoseconds };
        let facts = FileStatus {
            device: 7,
            inode: u64::MAX,
            born: Some(time(-1, 999_999_999)),
            size_bytes: 1 << 40,
            changed: time(1, 999_999_998),
            modified: time(i64::MIN, 3),
            link_count: u32::MAX,
            is_regular: true,
        };
        for facts in [facts, FileStatus { born: None, link_count: 0, is_regular: false, ..facts }] {
            let mut message = Message::of(question::FACTS, 1);
            write_facts(&mut message, &facts);
            assert_eq!(read_facts(&message), facts);
        }
    }
}
