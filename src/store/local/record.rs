//! What a row says, as bytes. All numbers are little endian; the code beside each row proves it (`seal`).
//!
//! ```text
//! secret.record   u8 flags (1 deleted, 2 freed: every version destroyed, the path may be used again)
//!                 u32 next number | u32 current | u32 previous | u32 next (0: none)
//!                 i64 changed | i64 last activation (µs since 1970)
//!                 owner text? | u8 impact (0 none, 1 low, 2 medium, 3 high) | rotate_every span? | grace span?
//!                 56 bytes: which versions there are (`commitment`)
//! version.record  u8 state (1 active, 2 revoked, 3 deleted, 4 destroyed) | u8 revoked (0, 1)
//!                 i64 created | activated time? | u8 lost (0, 1) [ i64 when | u8 stages (1 current, 2 previous, 4 next) ]
//!                 u32 count | per field: text name, u64 length in bytes, u32 node
//! meta counters   u32 next node | u64 rows in secret
//!
//! text = u32 length | UTF-8        x? = u8 0, or u8 1 and x        span = u64 seconds | u32 nanoseconds
//! ```

use std::time::Duration;

use crate::model::{
    FieldInfo, FieldName, FieldNode, Impact, Ownership, Secret, SecretPath, Stage, StageSet, State, UnixTime,
    Version, VersionInfo, Versions,
};
pub(super) use crate::store::semantics::Held;

impl Held {
    /// The row's record, but for what stands for the versions.
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(64);
        let number = |version: Option<Version>| version.map_or(0, Version::get);
        out.push(u8::from(self.secret.deleted) | u8::from(self.freed) << 1);
        for value in [
            self.next_number,
            number(self.secret.current),
            number(self.secret.previous),
            number(self.secret.next),
        ] {
            out.extend_from_slice(&value.to_le_bytes());
        }
        out.extend_from_slice(&self.secret.changed.micros().to_le_bytes());
        out.extend_from_slice(&self.activated_last.micros().to_le_bytes());
        let ownership = &self.secret.ownership;
        put_option(&mut out, ownership.owner.as_deref(), put_text);
        out.push(Impact::to_code(ownership.impact));
        put_option(&mut out, ownership.rotate_every, put_span);
        put_option(&mut out, ownership.grace, put_span);
        out
    }

    /// Reads what [`Self::encode`] made; `None` where it is not that. The versions are in rows of their own.
    pub(super) fn decode(path: SecretPath, record: &[u8]) -> Option<Self> {
        let mut from = Reader(record);
        let flags = from.u8()?;
        let next_number = from.u32()?;
        let (current, previous, next) =
            (Version::new(from.u32()?), Version::new(from.u32()?), Version::new(from.u32()?));
        let (changed, activated_last) = (from.time()?, from.time()?);
        let owner = from.option(|from| from.text().map(str::to_owned))?;
        let impact = Impact::from_code(from.u8()?)?;
        let (rotate_every, grace) = (from.option(Reader::span)?, from.option(Reader::span)?);
        let ownership = Ownership { owner, impact, rotate_every, grace };
        let (deleted, freed) = (flags & 1 != 0, flags & 2 != 0);
        let versions = Versions::default();
        let secret = Secret { path, versions, current, previous, next, deleted, changed, ownership };
        (from.0.is_empty() && flags < 4).then_some(Self { secret, freed, next_number, activated_last })
    }
}

/// The record of one version's row.
pub(super) fn encode_version(version: &VersionInfo) -> Vec<u8> {
    let mut out = Vec::with_capacity(96);
    out.push(match version.state {
        State::Active => 1,
        State::Revoked => 2,
        State::Deleted => 3,
        State::Destroyed => 4,
    });
    out.push(u8::from(version.revoked));
    out.extend_from_slice(&version.created.micros().to_le_bytes());
    put_option(&mut out, version.activated, put_time);
    put_option(&mut out, version.lost, |out, (when, stages)| {
        put_time(out, when);
        out.push(stages.iter().fold(0, |bits, stage| bits | stage_bit(stage)));
    });
    put_u32(&mut out, version.fields.len());
    for field in version.fields.iter() {
        put_text(&mut out, field.name.as_str());
        out.extend_from_slice(&field.bytes.unwrap_or(0).to_le_bytes());
        out.extend_from_slice(&field.node.get().to_le_bytes());
    }
    out
}

/// Reads the record of one version; `None` where it is not one.
pub(super) fn decode_version(number: Version, record: &[u8]) -> Option<VersionInfo> {
    let mut from = Reader(record);
    let state = match from.u8()? {
        1 => State::Active,
        2 => State::Revoked,
        3 => State::Deleted,
        4 => State::Destroyed,
        _ => return None,
    };
    let revoked = from.u8()? != 0;
    let created = from.time()?;
    let activated = from.option(Reader::time)?;
    let lost = from.option(|from| {
        let when = from.time()?;
        let bits = from.u8()?;
        let stages = Stage::ALL.into_iter().filter(|stage| bits & stage_bit(*stage) != 0);
        Some((when, stages.fold(StageSet::EMPTY, StageSet::with)))
    })?;
    let count = from.u32()?;
    let mut fields = Vec::with_capacity(count.min(super::FIELDS_MAX) as usize);
    for _ in 0..count {
        let name = FieldName::from_store(from.text()?).ok()?;
        let bytes = Some(from.u64()?);
        fields.push(FieldInfo { name, bytes, node: FieldNode::new(from.u32()?)? });
    }
    let fields = fields.into();
    from.0.is_empty().then_some(VersionInfo { number, created, activated, lost, state, revoked, fields })
}

/// What the store counts.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Counters {
    /// The next field's node; may be one past the largest.
    pub(super) next_node: u32,
    /// Rows in `secret`, so that one that disappears is missed.
    pub(super) secrets: u64,
}

impl Counters {
    pub(super) fn encode(self) -> Vec<u8> {
        let mut out = self.next_node.to_le_bytes().to_vec();
        out.extend_from_slice(&self.secrets.to_le_bytes());
        out
    }

    pub(super) fn decode(record: &[u8]) -> Option<Self> {
        let mut from = Reader(record);
        let counters = Self { next_node: from.u32()?, secrets: from.u64()? };
        from.0.is_empty().then_some(counters)
    }
}

const fn stage_bit(stage: Stage) -> u8 {
    match stage {
        Stage::Current => 1,
        Stage::Previous => 2,
        Stage::Next => 4,
    }
}

fn put_u32(out: &mut Vec<u8>, count: usize) {
    out.extend_from_slice(&u32::try_from(count).unwrap_or(u32::MAX).to_le_bytes());
}

fn put_text(out: &mut Vec<u8>, text: &str) {
    put_u32(out, text.len());
    out.extend_from_slice(text.as_bytes());
}

fn put_time(out: &mut Vec<u8>, time: UnixTime) {
    out.extend_from_slice(&time.micros().to_le_bytes());
}

fn put_span(out: &mut Vec<u8>, span: Duration) {
    out.extend_from_slice(&span.as_secs().to_le_bytes());
    out.extend_from_slice(&span.subsec_nanos().to_le_bytes());
}

fn put_option<T>(out: &mut Vec<u8>, value: Option<T>, put: impl FnOnce(&mut Vec<u8>, T)) {
    out.push(u8::from(value.is_some()));
    if let Some(value) = value {
        put(out, value);
    }
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.take(N)?.try_into().ok()
    }

    fn u8(&mut self) -> Option<u8> {
        self.array::<1>().map(|[byte]| byte)
    }

    fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }

    fn time(&mut self) -> Option<UnixTime> {
        self.array().map(i64::from_le_bytes).map(UnixTime::from_micros)
    }

    fn span(&mut self) -> Option<Duration> {
        let (seconds, nanos) = (self.u64()?, self.u32()?);
        (nanos < 1_000_000_000).then(|| Duration::new(seconds, nanos))
    }

    fn text(&mut self) -> Option<&'a str> {
        let length = self.u32()?;
        std::str::from_utf8(self.take(length as usize)?).ok()
    }

    fn option<T>(&mut self, read: impl FnOnce(&mut Self) -> Option<T>) -> Option<Option<T>> {
        match self.u8()? {
            0 => Some(None),
            1 => read(self).map(Some),
            _ => None,
        }
    }
}
