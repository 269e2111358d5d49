//! The one-time signing keys, in a small file beside the log that is also the lock of its one writer.
//!
//! Layout: a header of 128 bytes (magic, how far the log was checkpointed, check), then 64 slots of 128 bytes (number
//! of the key, private half, check). Key N signs segment N and lies in slot N mod 64, so that writing key N+64
//! erases key N in place. Many keys are prepared at a time because each batch costs one fsync, and a burst of records
//! uses up a key every few milliseconds. A slot whose check fails (a write that a power cut tore) is empty.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use ed25519_dalek::SigningKey;
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use crate::sys::file::{self, Access};

/// How many keys are kept: the one in use, those announced next, and those not erased yet.
pub(super) const KEYS_HELD: u64 = 64;

const BLOCK_BYTES: usize = 128;
const CHECK_AT: usize = 112;
const MAGIC: &[u8; 16] = b"credfs-audit-k1\n";

/// A signing key and its number.
pub(super) struct NumberedKey {
    pub(super) number: u64,
    pub(super) key: SigningKey,
}

impl NumberedKey {
    pub(super) fn public(&self) -> [u8; 32] {
        self.key.verifying_key().to_bytes()
    }
}

/// The key file, open.
pub(super) struct KeyFile {
    file: File,
    path: PathBuf,
}

/// Where the keys of the log at `log` lie: the same name with `.keys` added.
pub(super) fn path_beside(log: &Path) -> PathBuf {
    let mut name = log.as_os_str().to_owned();
    name.push(".keys");
    name.into()
}

impl KeyFile {
    /// Opens or makes the file; it is not locked yet.
    pub(super) fn open(path: PathBuf) -> io::Result<Self> {
        let file = match file::open_existing(&path, Access::Update) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let made = file::create_new(&path, Access::Update, 0o600);
                match made {
                    // Another process made it between the two calls.
                    Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                        file::open_existing(&path, Access::Update)?
                    }
                    other => other?,
                }
            }
            other => other?,
        };
        if !file::status_of(&file)?.is_regular {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"));
        }
        Ok(Self { file, path })
    }

    /// Takes the lock if nobody has it and the file still is the one that its path names.
    pub(super) fn try_lock(&self) -> io::Result<bool> {
        if !file::try_lock(&self.file)? {
            return Ok(false);
        }
        let named =
            file::open_existing(&self.path, Access::Read).and_then(|named| file::status_of(&named))?;
        let held = file::status_of(&self.file)?;
        Ok((named.device, named.inode) == (held.device, held.inode))
    }

    /// The keys that can be read, ordered by number.
    pub(super) fn keys(&self) -> io::Result<Vec<NumberedKey>> {
        read_keys(&self.file)
    }

    /// The number of the oldest key that was not erased.
    pub(super) fn oldest_number(&self) -> io::Result<Option<u64>> {
        Ok(read_private_halves(&self.file)?.iter().map(|(number, _)| *number).min())
    }

    /// Makes keys numbered `numbers`, over whatever their slots held, and has the disk remember them.
    pub(super) fn make(&self, numbers: std::ops::Range<u64>) -> io::Result<Vec<NumberedKey>> {
        let mut made = Vec::new();
        for number in numbers {
            let mut private = Zeroizing::new([0; 32]);
            getrandom::fill(private.as_mut())
                .map_err(|_| io::Error::other("the kernel gives no random bytes"))?;
            let mut block = Zeroizing::new([0; BLOCK_BYTES]);
            block[..8].copy_from_slice(&number.to_le_bytes());
            block[8..40].copy_from_slice(private.as_ref());
            seal_block(&mut block);
            self.file.write_all_at(block.as_ref(), slot_at(number))?;
            made.push(NumberedKey { number, key: SigningKey::from_bytes(&private) });
        }
        self.file.sync_all()?;
        Ok(made)
    }

    /// Erases every slot, for a new chain.
    pub(super) fn erase_all(&self) -> io::Result<()> {
        let zeroes = vec![0; BLOCK_BYTES * (1 + usize::try_from(KEYS_HELD).unwrap_or(0))];
        self.file.write_all_at(&zeroes, 0)?;
        self.file.sync_all()
    }

    /// How many records, from the first of the chain, were handed off the machine.
    pub(super) fn checkpointed(&self) -> u64 {
        let mut block = [0; BLOCK_BYTES];
        if self.file.read_exact_at(&mut block, 0).is_err() || !is_sealed(&block) || &block[..16] != MAGIC {
            return 0;
        }
        u64::from_le_bytes(block[16..24].try_into().unwrap_or([0; 8]))
    }

    /// Remembers how many records were handed off the machine.
    pub(super) fn set_checkpointed(&self, records: u64) -> io::Result<()> {
        let mut block = [0; BLOCK_BYTES];
        block[..16].copy_from_slice(MAGIC);
        block[16..24].copy_from_slice(&records.to_le_bytes());
        seal_block(&mut block);
        self.file.write_all_at(&block, 0)?;
        self.file.sync_all()
    }
}

/// The public halves of the keys in the file at `path`, each derived from its private half, so that they prove
/// possession.
pub(super) fn public_halves(path: &Path) -> io::Result<Vec<[u8; 32]>> {
    let file = file::open_existing(path, Access::Read)?;
    Ok(read_keys(&file)?.iter().map(NumberedKey::public).collect())
}

fn read_keys(file: &File) -> io::Result<Vec<NumberedKey>> {
    let halves = read_private_halves(file)?;
    let key = |(number, half): &(u64, Zeroizing<[u8; 32]>)| NumberedKey {
        number: *number,
        key: SigningKey::from_bytes(half),
    };
    let mut keys: Vec<_> = halves.iter().map(key).collect();
    keys.sort_by_key(|key| key.number);
    Ok(keys)
}

fn read_private_halves(file: &File) -> io::Result<Vec<(u64, Zeroizing<[u8; 32]>)>> {
    let mut halves = Vec::new();
    for slot in 0..KEYS_HELD {
        let mut block = Zeroizing::new([0; BLOCK_BYTES]);
        match file.read_exact_at(block.as_mut(), slot_at(slot)) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => continue,
            other => other?,
        }
        let number = u64::from_le_bytes(block[..8].try_into().unwrap_or([0; 8]));
        if is_sealed(&block) && number % KEYS_HELD == slot {
            let private = Zeroizing::new(<[u8; 32]>::try_from(&block[8..40]).unwrap_or([0; 32]));
            halves.push((number, private));
        }
    }
    Ok(halves)
}

fn slot_at(number: u64) -> u64 {
    (1 + number % KEYS_HELD) * BLOCK_BYTES as u64
}

fn check_of(block: &[u8; BLOCK_BYTES]) -> [u8; 32] {
    Sha256::digest(&block[..CHECK_AT]).into()
}

fn seal_block(block: &mut [u8; BLOCK_BYTES]) {
    let check = check_of(block);
    block[CHECK_AT..].copy_from_slice(&check[..BLOCK_BYTES - CHECK_AT]);
}

fn is_sealed(block: &[u8; BLOCK_BYTES]) -> bool {
    block[CHECK_AT..] == check_of(block)[..BLOCK_BYTES - CHECK_AT]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audit::testing::Scratch;

    #[test]
    fn a_key_is_found_again_until_its_slot_is_written_over() {
        let scratch = Scratch::new();
        let keys = KeyFile::open(scratch.path("k")).unwrap();
        let made = keys.make(0..KEYS_HELD).unwrap();
        let old = *made[3].key.as_bytes();
        let held = |keys: &KeyFile| std::fs::read(&keys.path).unwrap().windows(32).any(|bytes| bytes == old);
        assert!(held(&keys));
        assert_eq!(keys.keys().unwrap().len(), 64);
        keys.make(67..68).unwrap();
        assert!(!held(&keys), "the private half is gone from the file");
        let numbers: Vec<_> = keys.keys().unwrap().iter().map(|key| key.number).collect();
        assert!(!numbers.contains(&3) && numbers.contains(&67));
    }

    #[test]
    fn a_torn_slot_or_header_counts_as_empty() {
        let scratch = Scratch::new();
        let keys = KeyFile::open(scratch.path("k")).unwrap();
        keys.make(0..2).unwrap();
        keys.set_checkpointed(77).unwrap();
        assert_eq!(keys.checkpointed(), 77);
        for at in [20, 130] {
            keys.file.write_all_at(&[0xFF], at).unwrap();
        }
        assert_eq!(keys.checkpointed(), 0);
        assert_eq!(keys.keys().unwrap().len(), 1);
    }
}
