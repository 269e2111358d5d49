//! The one type that holds a value. It has no Debug, Clone, PartialEq or Serialize, lies in locked memory that no
//! core dump holds, and is wiped when dropped.

use std::sync::Arc;

use secrecy::{ExposeSecret, SecretBox};

use crate::sys::memory::LockedBytes;

/// The largest value, in bytes: 1 MiB, what systemd allows a unit's credentials in all.
pub const VALUE_BYTES_MAX: usize = 1024 * 1024;

/// A value, or part of one.
pub struct SecretBytes(Arc<SecretBox<LockedBytes>>);

/// The value is larger than the limit that was set for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("larger than {limit_bytes} bytes")]
pub struct SecretFull {
    /// The limit, in bytes.
    pub limit_bytes: usize,
}

impl SecretBytes {
    /// Makes a value of `length` bytes by letting `fill` write them in place. They are zero before.
    pub fn filled_by<E>(length: usize, fill: impl FnOnce(&mut [u8]) -> Result<(), E>) -> Result<Self, E> {
        let mut bytes = LockedBytes::zeroed(length);
        fill(bytes.as_mut_slice())?;
        Ok(Self::locked(bytes))
    }

    /// Takes `bytes` over and wipes where they came from.
    #[must_use]
    pub fn taken_from(bytes: &mut [u8]) -> Self {
        let mut locked = LockedBytes::zeroed(bytes.len());
        locked.as_mut_slice().copy_from_slice(bytes);
        zeroize::Zeroize::zeroize(bytes);
        Self::locked(locked)
    }

    /// Reads to the end of `source`, without a copy in ordinary memory.
    ///
    /// # Errors
    /// Whatever `source` reports, and [`std::io::ErrorKind::FileTooLarge`] past `limit_bytes`.
    pub fn read_from(source: &mut impl std::io::Read, limit_bytes: usize) -> std::io::Result<Self> {
        let mut held = LockedBytes::zeroed(4096.min(limit_bytes + 1));
        let mut length = 0;
        loop {
            if length == held.len() {
                if length > limit_bytes {
                    return Err(std::io::Error::new(
                        std::io::ErrorKind::FileTooLarge,
                        SecretFull { limit_bytes },
                    ));
                }
                let mut larger = LockedBytes::zeroed((2 * held.len()).min(limit_bytes + 1).max(length + 1));
                larger.as_mut_slice()[..length].copy_from_slice(held.as_slice());
                held = larger;
            }
            match source.read(&mut held.as_mut_slice()[length..]) {
                Ok(0) => break,
                Ok(count) => length += count,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        if length > limit_bytes {
            return Err(std::io::Error::new(std::io::ErrorKind::FileTooLarge, SecretFull { limit_bytes }));
        }
        let mut exact = LockedBytes::zeroed(length);
        exact.as_mut_slice().copy_from_slice(&held.as_slice()[..length]);
        Ok(Self::locked(exact))
    }

    /// Its length, in bytes.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.expose_secret().len()
    }

    /// Whether it has no bytes.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The bytes. `tests/house.rs` lists the files that may call this.
    #[must_use]
    pub fn expose(&self) -> &[u8] {
        self.0.expose_secret().as_slice()
    }

    /// The same bytes for another holder. They are wiped when the last one drops them.
    #[must_use]
    pub fn shared(&self) -> Self {
        Self(Arc::clone(&self.0))
    }

    fn locked(bytes: LockedBytes) -> Self {
        Self(Arc::new(SecretBox::new(Box::new(bytes))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_is_read_whole_up_to_the_limit_and_refused_past_it() {
        for length in [0_usize, 1, 4095, 4096, 4097, 10_000] {
            let source = vec![7_u8; length];
            let value = SecretBytes::read_from(&mut source.as_slice(), 10_000).unwrap();
            assert_eq!(value.expose(), source);
        }
        let refused = SecretBytes::read_from(&mut vec![7_u8; 10_001].as_slice(), 10_000).err().unwrap();
        assert_eq!(refused.kind(), std::io::ErrorKind::FileTooLarge);
    }

    #[test]
    fn taking_bytes_over_wipes_where_they_came_from() {
        let mut source = *b"hunter2";
        let value = SecretBytes::taken_from(&mut source);
        assert_eq!(source, [0; 7]);
        assert_eq!(value.expose(), b"hunter2");
    }
}
