//! A file to which sealed records are added, and which survives a crash at any byte: what was added is there, or the
//! file ends before it.
//!
//! ```text
//! "credfsR1" | 16 random bytes | record …        record = u32 length, little endian | sealed(plain)
//! bound to each record: purpose | the 16 bytes | its index (u64, little endian), the first being "credfs" under 0
//! ```

use std::fs::{self, File};
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::files::{self, Lock};
use super::{Key, SEAL_BYTES, fill_random};
use crate::store::StoreFault;

const MAGIC: &[u8; 8] = b"credfsR1";
const HEAD_BYTES: usize = 24;
const CHECK: &[u8] = b"credfs";
/// Longest record, in bytes: every field of one version at its largest is less.
const RECORD_BYTES_MAX: usize = 300 * 1024 * 1024;

/// An open file of sealed records. One process has it at a time.
pub(in crate::store) struct SealedLog {
    path: PathBuf,
    purpose: &'static [u8],
    key: Key,
    id: [u8; 16],
    file: File,
    /// The index of the next record.
    next: u64,
    /// How long the file is, in bytes.
    bytes: u64,
    _lock: Lock,
}

/// What was found in a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(in crate::store) struct Found {
    /// Whether records before its end did not prove themselves, so that those after them are lost.
    pub(in crate::store) is_damaged: bool,
}

impl SealedLog {
    /// Opens the file at `path`, made where there is none, and has `read` read each record in order. An end that was
    /// cut short by a crash is taken off.
    ///
    /// # Errors
    /// [`StoreFault::WrongKey`], [`StoreFault::Busy`], [`StoreFault::Io`].
    pub(in crate::store) fn open(
        path: &Path,
        key: Key,
        purpose: &'static [u8],
        wait: Duration,
        read: &mut dyn FnMut(&[u8]),
    ) -> Result<(Self, Found), StoreFault> {
        let lock = Lock::take(path, wait)?;
        if !path.exists() {
            let (file, id, bytes) = begin(path, &key, purpose)?;
            files::sync_directory(path)?;
            let log = Self { path: path.into(), purpose, key, id, file, next: 1, bytes, _lock: lock };
            return Ok((log, Found::default()));
        }
        let at = |error: std::io::Error| files::fault(path, "cannot be read", &error);
        let mut file = File::options().read(true).write(true).open(path).map_err(at)?;
        let length = file.metadata().map_err(at)?.len();
        let mut head = [0; HEAD_BYTES];
        let mut id = [0; 16];
        if length < HEAD_BYTES as u64 || file.read_exact(&mut head).is_err() || head[..8] != MAGIC[..] {
            return Err(StoreFault::Corrupt(format!(
                "{} is no file of credfs: remove it, it is made anew",
                path.display()
            )));
        }
        id.copy_from_slice(&head[8..]);
        let mut log = Self {
            path: path.into(),
            purpose,
            key,
            id,
            file,
            next: 0,
            bytes: HEAD_BYTES as u64,
            _lock: lock,
        };
        let found = log.read_all(length, read)?;
        log.file.set_len(log.bytes).map_err(at)?;
        Ok((log, found))
    }

    fn read_all(&mut self, length: u64, read: &mut dyn FnMut(&[u8])) -> Result<Found, StoreFault> {
        let mut frame = Vec::new();
        loop {
            let left = length - self.bytes;
            let mut size = [0; 4];
            if left < 4 || self.file.read_exact(&mut size).is_err() {
                break;
            }
            let size = u32::from_le_bytes(size) as usize;
            if !(SEAL_BYTES..=RECORD_BYTES_MAX).contains(&size) || left - 4 < size as u64 {
                break;
            }
            frame.resize(size, 0);
            if self.file.read_exact(&mut frame).is_err() {
                break;
            }
            let is_last = left - 4 == size as u64;
            let Some(plain) = super::open(&self.key, &self.binding(self.next), &frame) else {
                if self.next == 0 {
                    return Err(StoreFault::WrongKey(format!(
                        "{} was sealed under another key: give that key, or remove the file",
                        self.path.display()
                    )));
                }
                return Ok(Found { is_damaged: !is_last });
            };
            if self.next > 0 {
                read(plain.expose());
            }
            self.next += 1;
            self.bytes += 4 + size as u64;
        }
        if self.next == 0 {
            return Err(StoreFault::Corrupt(format!(
                "{} was cut short at its beginning: remove it, it is made anew",
                self.path.display()
            )));
        }
        Ok(Found::default())
    }

    fn binding(&self, index: u64) -> Vec<u8> {
        binding(self.purpose, &self.id, index)
    }

    /// Adds one record; `is_durable`: a loss of power right after this cannot take it away.
    ///
    /// # Errors
    /// [`StoreFault::Io`]; nothing was added then.
    pub(in crate::store) fn add(&mut self, plain: &[u8], is_durable: bool) -> Result<(), StoreFault> {
        let sealed = super::seal(&self.key, &self.binding(self.next), plain)?;
        let size = u32::try_from(sealed.len()).map_err(|_| StoreFault::Io("a record is too long".into()))?;
        let mut frame = Vec::with_capacity(4 + sealed.len());
        frame.extend_from_slice(&size.to_le_bytes());
        frame.extend_from_slice(&sealed);
        let written = self
            .file
            .seek(SeekFrom::Start(self.bytes))
            .and_then(|_| self.file.write_all(&frame))
            .and_then(|()| if is_durable { self.file.sync_data() } else { Ok(()) });
        if let Err(error) = written {
            // What was written of it must not stand before the next one.
            drop(self.file.set_len(self.bytes));
            return Err(files::fault(&self.path, "cannot be written", &error));
        }
        self.next += 1;
        self.bytes += frame.len() as u64;
        Ok(())
    }

    /// Replaces the whole file by one with these records, in one step.
    ///
    /// # Errors
    /// [`StoreFault::Io`]; the file is as it was then.
    pub(in crate::store) fn replace(
        &mut self,
        records: &mut dyn Iterator<Item = zeroize::Zeroizing<Vec<u8>>>,
    ) -> Result<(), StoreFault> {
        let made = files::beside(&self.path, ".new");
        files::remove_if_there(&made)?;
        let (mut file, id, mut bytes) = begin(&made, &self.key, self.purpose)?;
        let mut next = 1;
        let failed = |error: std::io::Error| files::fault(&made, "cannot be written", &error);
        for record in records {
            let sealed = super::seal(&self.key, &binding(self.purpose, &id, next), &record)?;
            let size =
                u32::try_from(sealed.len()).map_err(|_| StoreFault::Io("a record is too long".into()))?;
            file.write_all(&size.to_le_bytes()).and_then(|()| file.write_all(&sealed)).map_err(failed)?;
            next += 1;
            bytes += 4 + sealed.len() as u64;
        }
        file.sync_all().map_err(failed)?;
        fs::rename(&made, &self.path)
            .map_err(|error| files::fault(&self.path, "cannot be replaced", &error))?;
        files::sync_directory(&self.path)?;
        (self.file, self.id, self.next, self.bytes) = (file, id, next, bytes);
        Ok(())
    }

    /// Has everything that was added survive a loss of power.
    ///
    /// # Errors
    /// [`StoreFault::Io`].
    pub(in crate::store) fn sync(&self) -> Result<(), StoreFault> {
        self.file.sync_data().map_err(|error| files::fault(&self.path, "cannot be synced", &error))
    }

    /// How long the file is, in bytes.
    pub(in crate::store) fn bytes(&self) -> u64 {
        self.bytes
    }
}

/// A new file with its head and its first record, and how long it is.
fn begin(path: &Path, key: &Key, purpose: &[u8]) -> Result<(File, [u8; 16], u64), StoreFault> {
    let mut id = [0; 16];
    fill_random(&mut id)?;
    let check = super::seal(key, &binding(purpose, &id, 0), CHECK)?;
    let size = u32::try_from(check.len()).unwrap_or(0);
    let whole = [&MAGIC[..], &id, &size.to_le_bytes(), &check].concat();
    let made = files::beside(path, ".creating");
    files::remove_if_there(&made)?;
    let mut file = files::create_new(&made)?;
    file.write_all(&whole)
        .and_then(|()| file.sync_all())
        .and_then(|()| fs::rename(&made, path))
        .map_err(|error| files::fault(path, "cannot be made", &error))?;
    Ok((file, id, whole.len() as u64))
}

fn binding(purpose: &[u8], id: &[u8; 16], index: u64) -> Vec<u8> {
    [purpose, id, &index.to_le_bytes()].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    const WAIT: Duration = Duration::from_secs(1);

    struct Place(PathBuf);

    impl Place {
        fn new(name: &str) -> Self {
            let directory = std::env::temp_dir().join(format!("credfs-log-{name}-{}", std::process::id()));
            drop(fs::remove_dir_all(&directory));
            fs::create_dir(&directory).unwrap();
            Self(directory)
        }

        fn open(&self, key: u8) -> Result<(SealedLog, Vec<Vec<u8>>, Found), StoreFault> {
            let mut records = Vec::new();
            let read = &mut |plain: &[u8]| records.push(plain.to_vec());
            let (log, found) =
                SealedLog::open(&self.0.join("log"), Key::from_bytes(&[key; 32]), b"test", WAIT, read)?;
            Ok((log, records, found))
        }
    }

    impl Drop for Place {
        fn drop(&mut self) {
            drop(fs::remove_dir_all(&self.0));
        }
    }

    #[test]
    fn a_file_cut_at_any_byte_holds_what_was_whole_and_takes_more() {
        let place = Place::new("cut");
        let mut ends = Vec::new();
        {
            let (mut log, ..) = place.open(1).unwrap();
            ends.push(log.bytes());
            for record in [&b"one"[..], b"", b"three"] {
                log.add(record, false).unwrap();
                ends.push(log.bytes());
            }
        }
        let whole = fs::read(place.0.join("log")).unwrap();
        assert!(!whole.windows(5).any(|part| part == b"three"), "it lies open");
        for cut in usize::try_from(ends[0]).unwrap()..=whole.len() {
            fs::write(place.0.join("log"), &whole[..cut]).unwrap();
            let (mut log, records, found) = place.open(1).unwrap();
            let expected = ends[1..].iter().filter(|end| **end <= cut as u64).count();
            assert_eq!((records.len(), found.is_damaged), (expected, false), "{cut}");
            log.add(b"more", true).unwrap();
            drop(log);
            assert_eq!(place.open(1).unwrap().1.len(), expected + 1, "{cut}");
        }
    }

    #[test]
    fn a_record_elsewhere_changed_or_under_another_key_does_not_open() {
        let place = Place::new("tamper");
        {
            let (mut log, ..) = place.open(1).unwrap();
            for record in [b"1111", b"2222", b"3333"] {
                log.add(record, false).unwrap();
            }
        }
        let file = place.0.join("log");
        let whole = fs::read(&file).unwrap();
        assert!(matches!(place.open(2), Err(StoreFault::WrongKey(_))));
        let one = 4 + SEAL_BYTES + 4;
        let first = whole.len() - 3 * one;
        let mut swapped = whole.clone();
        swapped[first..first + one].copy_from_slice(&whole[first + one..first + 2 * one]);
        swapped[first + one..first + 2 * one].copy_from_slice(&whole[first..first + one]);
        fs::write(&file, &swapped).unwrap();
        let (_log, records, found) = place.open(1).unwrap();
        assert_eq!((records.len(), found.is_damaged), (0, true));
    }

    #[test]
    fn a_replaced_file_holds_the_new_records_alone_and_goes_on() {
        let place = Place::new("replace");
        let (mut log, ..) = place.open(1).unwrap();
        log.add(b"old", false).unwrap();
        let new = [b"a".to_vec(), b"b".to_vec()].into_iter().map(zeroize::Zeroizing::new);
        log.replace(&mut new.into_iter()).unwrap();
        log.add(b"c", false).unwrap();
        assert!(matches!(
            SealedLog::open(
                &place.0.join("log"),
                Key::from_bytes(&[1; 32]),
                b"test",
                Duration::ZERO,
                &mut |_| ()
            ),
            Err(StoreFault::Busy(_))
        ));
        drop(log);
        assert_eq!(place.open(1).unwrap().1, [b"a".to_vec(), b"b".to_vec(), b"c".to_vec()]);
    }
}
