//! The envelope in which a process leaves values to its successor: sealed under a key that lies in a file of its own, so
//! that whoever carries it in between learns nothing.

use std::path::Path;

use super::{Key, KeySource};
use crate::store::StoreFault;

/// Bound into what is sealed: nothing else under this key opens as it.
const BINDING: &[u8] = b"credfs left to a successor 1";

/// Seals and opens what is left.
pub struct Envelope(Key);

impl Envelope {
    /// With the key in the file at `path`, which is made with a fresh one where there is none.
    ///
    /// # Errors
    /// [`StoreFault`]: it cannot be read or made, others may read it, it is no key.
    pub fn open_key(path: &Path) -> Result<Self, StoreFault> {
        let source = KeySource::File(path.to_owned());
        match source.read() {
            Err(StoreFault::Sealed(_)) => Key::make_file(path).map(Self),
            found => found.map(Self),
        }
    }

    /// Seals.
    ///
    /// # Errors
    /// Where the kernel gives no random bytes.
    pub fn seal(&self, plain: &[u8]) -> Result<Vec<u8>, StoreFault> {
        super::seal(&self.0, BINDING, plain)
    }

    /// Opens, and has `read` read it; `None` where it is damaged or was sealed under another key.
    pub fn open<T>(&self, sealed: &[u8], read: impl FnOnce(&[u8]) -> T) -> Option<T> {
        super::open(&self.0, BINDING, sealed).map(|plain| read(plain.expose()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_opens_under_the_same_key_and_no_other() {
        let path = std::env::temp_dir().join(format!("credfs-envelope-{}", std::process::id()));
        let other = path.with_extension("other");
        let sealed = Envelope::open_key(&path).unwrap().seal(b"hunter2").unwrap();
        assert!(!sealed.windows(7).any(|part| part == b"hunter2"));
        let again = Envelope::open_key(&path).unwrap();
        assert_eq!(again.open(&sealed, <[u8]>::to_vec).unwrap(), b"hunter2");
        assert!(Envelope::open_key(&other).unwrap().open(&sealed, |_| ()).is_none());
        let mut damaged = sealed.clone();
        damaged[30] ^= 1;
        assert!(again.open(&damaged, |_| ()).is_none() && again.open(&[], |_| ()).is_none());
        std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o644)).unwrap();
        assert!(Envelope::open_key(&path).is_err(), "a key that others may read is none");
        std::fs::remove_file(path).unwrap();
        std::fs::remove_file(other).unwrap();
    }
}
