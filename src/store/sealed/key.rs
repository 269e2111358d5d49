//! The key-encryption key: where it comes from, and its file.
//!
//! ```text
//! credfs-key-1:<43 base64 characters>=\n       32 random bytes, standard alphabet, padded; the newline may be absent
//! ```

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use zeroize::Zeroizing;

use super::{files, fill_random};
use crate::store::StoreFault;
use crate::sys::memory::LockedBytes;

/// Length of every key, in bytes.
pub(in crate::store) const KEY_BYTES: usize = 32;
const PREFIX: &str = "credfs-key-1:";
const LINE_BYTES: usize = PREFIX.len() + 44;

/// Where the key-encryption key comes from.
#[derive(Clone)]
pub enum KeySource {
    /// A file of its own, readable by its owner alone.
    File(PathBuf),
    /// A systemd credential, by its path. Systemd keeps others out of its directory; the group bits of the file
    /// show an access list's mask (systemd.exec(5), "Credentials"), so only those for everyone are refused.
    Credential(PathBuf),
    /// The key itself; for tests.
    Raw([u8; KEY_BYTES]),
}

impl std::fmt::Debug for KeySource {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(&self.describe())
    }
}

/// A key in locked memory.
pub struct Key(LockedBytes);

impl Key {
    /// A new random key.
    ///
    /// # Errors
    /// [`StoreFault::Io`] where the kernel gives no random bytes.
    pub fn generate() -> Result<Self, StoreFault> {
        let mut bytes = LockedBytes::zeroed(KEY_BYTES);
        fill_random(bytes.as_mut_slice())?;
        Ok(Self(bytes))
    }

    /// The key of these bytes.
    #[must_use]
    pub fn from_bytes(bytes: &[u8; KEY_BYTES]) -> Self {
        Self::of_slice(bytes)
    }

    /// Writes the key to a new file, mode 0600, stored for good, with its directory's owner where root makes it.
    ///
    /// # Errors
    /// [`StoreFault::Exists`] where there is a file already, [`StoreFault::Io`].
    pub fn write_new_file(&self, path: &Path) -> Result<(), StoreFault> {
        let mut text = Zeroizing::new(String::with_capacity(LINE_BYTES + 1));
        text.push_str(PREFIX);
        STANDARD.encode_string(self.expose(), &mut text);
        text.push('\n');
        let mut file = files::create_new(path)?;
        file.write_all(text.as_bytes())
            .and_then(|()| file.sync_all())
            .map_err(|error| files::fault(path, "cannot be written", &error))?;
        files::sync_directory(path)
    }

    /// A new random key in a new file.
    pub(super) fn make_file(path: &Path) -> Result<Self, StoreFault> {
        let key = Self::generate()?;
        key.write_new_file(path)?;
        Ok(key)
    }

    pub(in crate::store) fn of_slice(bytes: &[u8]) -> Self {
        let mut held = LockedBytes::zeroed(KEY_BYTES);
        held.as_mut_slice().copy_from_slice(bytes);
        Self(held)
    }

    pub(in crate::store) fn expose(&self) -> &[u8] {
        self.0.as_slice()
    }

    pub(in crate::store) fn array(&self) -> [u8; KEY_BYTES] {
        let mut out = [0; KEY_BYTES];
        out.copy_from_slice(self.expose());
        out
    }

    pub(in crate::store) fn duplicate(&self) -> Self {
        Self::of_slice(self.expose())
    }
}

impl KeySource {
    /// Reads the key.
    ///
    /// # Errors
    /// [`StoreFault::Sealed`] where there is none, [`StoreFault::Lax`], [`StoreFault::KeyFile`], [`StoreFault::Io`].
    pub fn read(&self) -> Result<Key, StoreFault> {
        match self {
            Self::File(path) => read_file(path, 0o077),
            Self::Credential(path) => read_file(path, 0o007),
            Self::Raw(bytes) => Ok(Key::of_slice(bytes)),
        }
    }

    /// The key of `sealed`, a file that is made where it is not there: then so is a key file that is not there either.
    ///
    /// # Errors
    /// As [`Self::read`] and [`Key::write_new_file`].
    pub(in crate::store) fn read_or_make_for(&self, sealed: &Path) -> Result<Key, StoreFault> {
        match (self, self.read()) {
            (Self::File(path), Err(StoreFault::Sealed(_))) if !sealed.exists() => Key::make_file(path),
            (_, read) => read,
        }
    }

    /// The file that `rekey` writes beside the key file before it replaces it.
    pub(in crate::store) fn successor(&self) -> Option<Self> {
        match self {
            Self::File(path) => Some(Self::File(files::beside(path, ".new"))),
            _ => None,
        }
    }

    pub(in crate::store) fn describe(&self) -> String {
        match self {
            Self::File(path) | Self::Credential(path) => path.display().to_string(),
            Self::Raw(_) => "the given key".into(),
        }
    }
}

fn read_file(path: &Path, refused_bits: u32) -> Result<Key, StoreFault> {
    let missing = |error: std::io::Error| {
        if error.kind() == std::io::ErrorKind::NotFound {
            StoreFault::Sealed(format!("{} does not exist: put the store's key there", path.display()))
        } else {
            files::fault(path, "cannot be opened", &error)
        }
    };
    // Looked at before it is opened: opening a FIFO in the key's place would wait for ever.
    if !std::fs::metadata(path).map_err(missing)?.is_file() {
        return Err(StoreFault::KeyFile(format!("{} is not a regular file", path.display())));
    }
    let mut file = File::open(path).map_err(missing)?;
    let about = file.metadata().map_err(|error| files::fault(path, "cannot be examined", &error))?;
    if about.mode() & refused_bits != 0 {
        return Err(StoreFault::Lax(format!(
            "{} has mode {:04o} and others than its owner may use it: chmod 0600 it",
            path.display(),
            about.mode() & 0o7777
        )));
    }
    let mut line = LockedBytes::zeroed(LINE_BYTES + 2);
    let mut length = 0;
    while length < line.len() {
        match file.read(&mut line.as_mut_slice()[length..]) {
            Ok(0) => break,
            Ok(count) => length += count,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(files::fault(path, "cannot be read", &error)),
        }
    }
    parse(&line.as_slice()[..length]).ok_or_else(|| {
        StoreFault::KeyFile(format!(
            "{} is not a key file: it must hold one line, \"{PREFIX}\" and 44 base64 characters",
            path.display()
        ))
    })
}

fn parse(line: &[u8]) -> Option<Key> {
    let text = line.strip_prefix(PREFIX.as_bytes())?;
    let text = text.strip_suffix(b"\n").unwrap_or(text);
    let mut bytes = Zeroizing::new([0; 48]);
    let length = STANDARD.decode_slice(text, &mut *bytes).ok()?;
    (length == KEY_BYTES).then(|| Key::of_slice(&bytes[..KEY_BYTES]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_one_way_of_writing_a_key_is_read() {
        let good = format!("{PREFIX}{}", STANDARD.encode([7; 32]));
        assert_eq!(parse(good.as_bytes()).unwrap().expose(), [7; 32]);
        assert_eq!(parse(format!("{good}\n").as_bytes()).unwrap().expose(), [7; 32]);
        for bad in [
            String::new(),
            STANDARD.encode([7; 32]),
            format!("{PREFIX}{}", STANDARD.encode([7; 31])),
            format!("{PREFIX}{}", STANDARD.encode([7; 33])),
            format!("{good}\n\n"),
            format!(" {good}"),
            good.replace('=', ""),
            good.replace("-1:", "-2:"),
        ] {
            assert!(parse(bad.as_bytes()).is_none(), "{bad:?}");
        }
    }
}
