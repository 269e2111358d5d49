//! Numbers and texts as bytes, for what lies sealed on disk or with the keeper. All numbers are little endian.
//!
//! ```text
//! text, bytes = u32 length | bytes          x? = u8 0, or u8 1 and x
//! ```

use zeroize::Zeroizing;

use crate::model::{FieldName, SecretPath, UnixTime, Version};

/// Bytes being written. They may hold values: what a growing buffer leaves behind is wiped.
pub(super) struct Out(Zeroizing<Vec<u8>>);

impl Out {
    /// With room for `room_bytes`, and `kind` as its first byte.
    pub(super) fn of(kind: u8, room_bytes: usize) -> Self {
        let mut bytes = Vec::with_capacity(room_bytes + 64);
        bytes.push(kind);
        Self(Zeroizing::new(bytes))
    }

    pub(super) fn done(self) -> Zeroizing<Vec<u8>> {
        self.0
    }

    /// What was written, at the end of a chain of calls.
    pub(super) fn finished(&mut self) -> Zeroizing<Vec<u8>> {
        std::mem::take(&mut self.0)
    }

    fn append(&mut self, bytes: &[u8]) {
        if self.0.capacity() - self.0.len() < bytes.len() {
            let mut larger = Zeroizing::new(Vec::with_capacity(2 * self.0.capacity() + bytes.len()));
            larger.extend_from_slice(&self.0);
            self.0 = larger;
        }
        self.0.extend_from_slice(bytes);
    }

    pub(super) fn u8(&mut self, number: u8) -> &mut Self {
        self.append(&[number]);
        self
    }

    pub(super) fn u32(&mut self, number: u32) -> &mut Self {
        self.append(&number.to_le_bytes());
        self
    }

    /// So many bytes that the reader knows the number of.
    pub(super) fn array<const N: usize>(&mut self, bytes: &[u8; N]) -> &mut Self {
        self.append(bytes);
        self
    }

    pub(super) fn i64(&mut self, number: i64) -> &mut Self {
        self.append(&number.to_le_bytes());
        self
    }

    pub(super) fn bytes(&mut self, bytes: &[u8]) -> &mut Self {
        self.u32(u32::try_from(bytes.len()).unwrap_or(0));
        self.append(bytes);
        self
    }

    pub(super) fn text(&mut self, text: &str) -> &mut Self {
        self.bytes(text.as_bytes())
    }

    pub(super) fn time(&mut self, time: UnixTime) -> &mut Self {
        self.i64(time.micros())
    }

    pub(super) fn version(&mut self, version: Option<Version>) -> &mut Self {
        self.u32(version.map_or(0, Version::get))
    }

    pub(super) fn option<T>(
        &mut self,
        value: Option<T>,
        put: impl FnOnce(&mut Self, T) -> &mut Self,
    ) -> &mut Self {
        self.u8(u8::from(value.is_some()));
        if let Some(value) = value {
            put(self, value);
        }
        self
    }
}

/// Bytes being read; `None` where they end too soon or make no sense.
pub(super) struct In<'a>(pub(super) &'a [u8]);

impl<'a> In<'a> {
    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }

    pub(super) fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.take(N)?.try_into().ok()
    }

    pub(super) fn u8(&mut self) -> Option<u8> {
        self.array::<1>().map(|[byte]| byte)
    }

    pub(super) fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }

    pub(super) fn i64(&mut self) -> Option<i64> {
        self.array().map(i64::from_le_bytes)
    }

    pub(super) fn bytes(&mut self) -> Option<&'a [u8]> {
        let length = usize::try_from(self.u32()?).ok()?;
        self.take(length)
    }

    pub(super) fn text(&mut self) -> Option<&'a str> {
        std::str::from_utf8(self.bytes()?).ok()
    }

    pub(super) fn path(&mut self) -> Option<SecretPath> {
        SecretPath::from_store(self.text()?).ok()
    }

    pub(super) fn field(&mut self) -> Option<FieldName> {
        FieldName::from_store(self.text()?).ok()
    }

    pub(super) fn time(&mut self) -> Option<UnixTime> {
        self.i64().map(UnixTime::from_micros)
    }

    /// `Some(None)` for 0.
    pub(super) fn version(&mut self) -> Option<Option<Version>> {
        self.u32().map(Version::new)
    }

    pub(super) fn option<T>(&mut self, get: impl FnOnce(&mut Self) -> Option<T>) -> Option<Option<T>> {
        match self.u8()? {
            0 => Some(None),
            1 => get(self).map(Some),
            _ => None,
        }
    }
}
