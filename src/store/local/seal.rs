//! The envelope: keys that wrap keys, sealed values, and the codes by which rows prove themselves.
//!
//! ```text
//! key-encryption key (32 bytes, from KeySource; never stored in the database)
//!  ├─ seals  "check"         meta.check         sealed("credfs", bound("check"))
//!  ├─ seals  metadata key    meta.metadata_key  sealed(32 random bytes, bound("metadata-key"))
//!  │          ├─ HKDF-SHA256(salt none, info "credfs local store 1 metadata") → HMAC-SHA256 key of every code
//!  │          └─ HKDF-SHA256(salt none, info "credfs local store 2 members")  → HMAC-SHA256 key of `commitment`
//!  └─ seals  data key        version.key        sealed(32 random bytes, bound("data-key", path, number))
//!             └─ seals value value.sealed       sealed(value, bound("value", path, number, field))
//!
//! sealed(plain, ad): see `store::sealed`
//! bound(purpose, parts…) = each of: "credfs local store 1", purpose, store id (16 bytes), parts…
//!                          as length (u32, little endian) | bytes          number = u32, little endian
//! code = HMAC-SHA256(key, bound(purpose, parts…))
//!        purpose "secret-2": path, record (which holds the commitment to the version rows)
//!        purpose "secret":   path, record, all codes of its versions in order of number, joined: format 1
//!        purpose "version":  path, number, record
//!        purpose "versions": path, nonce (see `commitment`)
//!        purpose "counters": record
//! ```

use hmac::{Hmac, KeyInit as _, Mac};
use sha2::Sha256;

use crate::model::{FieldName, SecretBytes, SecretPath, Version};
use crate::store::StoreFault;
use crate::store::sealed::{KEY_BYTES, Key, fill_random, open, seal};
use crate::sys::memory::LockedBytes;

const DOMAIN: &[u8] = b"credfs local store 1";
/// Length of a code, in bytes.
pub(super) const CODE_BYTES: usize = 32;
const CHECK: &[u8] = b"credfs";

/// Proof of one row.
pub(super) type Code = [u8; CODE_BYTES];

/// Random at creation, bound into everything: a row of another store never opens here.
#[derive(Clone, Copy)]
pub(super) struct StoreId(pub(super) [u8; 16]);

/// The header of a store, as `meta` holds it.
pub(super) struct Header {
    pub(super) store: StoreId,
    pub(super) check: Vec<u8>,
    pub(super) metadata_key: Vec<u8>,
}

/// How a header did not open.
pub(super) enum HeaderFault {
    /// Neither part opens: another key.
    WrongKey,
    /// One part opens and the other does not.
    Damaged,
    /// The kernel gave no random bytes.
    Random(StoreFault),
}

/// Every key of an open store.
pub(super) struct Keys {
    store: StoreId,
    wrapping: Key,
    metadata: Key,
    coder: Hmac<Sha256>,
    members: Hmac<Sha256>,
}

impl Keys {
    /// Makes the keys of a new store.
    pub(super) fn create(wrapping: Key) -> Result<(Self, Header), StoreFault> {
        let mut id = [0; 16];
        fill_random(&mut id)?;
        Self::with(StoreId(id), wrapping, Key::generate()?)
    }

    /// The same store under another key-encryption key.
    pub(super) fn rekeyed(&self, wrapping: Key) -> Result<(Self, Header), StoreFault> {
        Self::with(self.store, wrapping, self.metadata.duplicate())
    }

    fn with(store: StoreId, wrapping: Key, metadata: Key) -> Result<(Self, Header), StoreFault> {
        let check = seal(&wrapping, &bound(&store, "check", &[]), CHECK)?;
        let metadata_key = seal(&wrapping, &bound(&store, "metadata-key", &[]), metadata.expose())?;
        let keys = Self::of_parts(store, wrapping, metadata)?;
        Ok((keys, Header { store, check, metadata_key }))
    }

    fn of_parts(store: StoreId, wrapping: Key, metadata: Key) -> Result<Self, StoreFault> {
        let coder = derived(&metadata, b"credfs local store 1 metadata")?;
        let members = derived(&metadata, b"credfs local store 2 members")?;
        Ok(Self { store, wrapping, metadata, coder, members })
    }

    /// Opens a header.
    pub(super) fn open(header: &Header, wrapping: Key) -> Result<Self, HeaderFault> {
        let store = header.store;
        let check = open(&wrapping, &bound(&store, "check", &[]), &header.check);
        let metadata = open(&wrapping, &bound(&store, "metadata-key", &[]), &header.metadata_key);
        match (check, metadata) {
            (Some(check), Some(metadata)) if check.expose() == CHECK && metadata.len() == KEY_BYTES => {
                let metadata = Key::of_slice(metadata.expose());
                Self::of_parts(store, wrapping, metadata).map_err(HeaderFault::Random)
            }
            (None, None) => Err(HeaderFault::WrongKey),
            _ => Err(HeaderFault::Damaged),
        }
    }

    /// A fresh data key for one version, open and wrapped.
    pub(super) fn new_data_key(
        &self,
        path: &SecretPath,
        version: Version,
    ) -> Result<(Key, Vec<u8>), StoreFault> {
        let key = Key::generate()?;
        let wrapped = self.wrap(path, version, &key)?;
        Ok((key, wrapped))
    }

    /// Wraps the data key of one version.
    pub(super) fn wrap(&self, path: &SecretPath, version: Version, key: &Key) -> Result<Vec<u8>, StoreFault> {
        seal(&self.wrapping, &self.data_key_binding(path, version), key.expose())
    }

    /// Opens the data key of one version.
    pub(super) fn unwrap_key(&self, path: &SecretPath, version: Version, wrapped: &[u8]) -> Option<Key> {
        let opened = open(&self.wrapping, &self.data_key_binding(path, version), wrapped)?;
        (opened.len() == KEY_BYTES).then(|| Key::of_slice(opened.expose()))
    }

    fn data_key_binding(&self, path: &SecretPath, version: Version) -> Vec<u8> {
        bound(&self.store, "data-key", &[path.as_str().as_bytes(), &version.get().to_le_bytes()])
    }

    /// Seals one value.
    pub(super) fn seal_value(
        &self,
        key: &Key,
        path: &SecretPath,
        version: Version,
        field: &FieldName,
        value: &SecretBytes,
    ) -> Result<Vec<u8>, StoreFault> {
        seal(key, &self.value_binding(path, version, field), value.expose())
    }

    /// Opens one value.
    pub(super) fn open_value(
        &self,
        key: &Key,
        path: &SecretPath,
        version: Version,
        field: &FieldName,
        sealed: &[u8],
    ) -> Option<SecretBytes> {
        open(key, &self.value_binding(path, version, field), sealed)
    }

    fn value_binding(&self, path: &SecretPath, version: Version, field: &FieldName) -> Vec<u8> {
        let number = version.get().to_le_bytes();
        bound(&self.store, "value", &[path.as_str().as_bytes(), &number, field.as_str().as_bytes()])
    }

    /// The code of a version's row.
    pub(super) fn version_code(&self, path: &str, number: u32, record: &[u8]) -> Code {
        self.code("version", &[path.as_bytes(), &number.to_le_bytes(), record])
    }

    /// The code of a secret's row.
    pub(super) fn secret_code(&self, path: &str, record: &[u8]) -> Code {
        self.code("secret-2", &[path.as_bytes(), record])
    }

    /// The code of a secret's row in format 1, over the codes of all its versions.
    pub(super) fn secret_code_1(&self, path: &str, record: &[u8], versions: &[u8]) -> Code {
        self.code("secret", &[path.as_bytes(), record, versions])
    }

    /// What the version row that `code` proves counts for in its secret's sum. Never to be stored.
    pub(super) fn member(&self, code: &Code) -> Code {
        let mut coder = self.members.clone();
        coder.update(code);
        coder.finalize().into_bytes().into()
    }

    /// What hides a secret's sum.
    pub(super) fn blinding_code(&self, path: &str, nonce: &[u8]) -> Code {
        self.code("versions", &[path.as_bytes(), nonce])
    }

    /// The code of the store's counters.
    pub(super) fn counters_code(&self, record: &[u8]) -> Code {
        self.code("counters", &[record])
    }

    fn code(&self, purpose: &str, parts: &[&[u8]]) -> Code {
        let mut coder = self.coder.clone();
        coder.update(&bound(&self.store, purpose, parts));
        coder.finalize().into_bytes().into()
    }
}

/// Whether two codes are the same, in a time that does not depend on where they differ.
pub(super) fn same_code(stored: &[u8], computed: &Code) -> bool {
    stored.len() == CODE_BYTES && stored.iter().zip(computed).fold(0, |all, (a, b)| all | (a ^ b)) == 0
}

fn derived(metadata: &Key, info: &[u8]) -> Result<Hmac<Sha256>, StoreFault> {
    let mut derived = LockedBytes::zeroed(KEY_BYTES);
    hkdf::Hkdf::<Sha256>::new(None, metadata.expose())
        .expand(info, derived.as_mut_slice())
        .map_err(|_| StoreFault::Io("no key can be derived for metadata".into()))?;
    Hmac::<Sha256>::new_from_slice(derived.as_slice())
        .map_err(|_| StoreFault::Io("no key can be derived for metadata".into()))
}

fn bound(store: &StoreId, purpose: &str, parts: &[&[u8]]) -> Vec<u8> {
    let length = parts.iter().map(|part| part.len() + 4).sum::<usize>() + 64;
    let mut out = Vec::with_capacity(length);
    for part in [DOMAIN, purpose.as_bytes(), &store.0].into_iter().chain(parts.iter().copied()) {
        out.extend_from_slice(&u32::try_from(part.len()).unwrap_or(u32::MAX).to_le_bytes());
        out.extend_from_slice(part);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::sealed::SEAL_BYTES;

    #[test]
    fn a_sealed_value_opens_only_where_it_was_bound_to() {
        let (keys, _) = Keys::create(Key::generate().unwrap()).unwrap();
        let (other, _) = Keys::create(keys.wrapping.duplicate()).unwrap();
        let path = |text| SecretPath::parse(text).unwrap();
        let field = |text| FieldName::parse(text).unwrap();
        let one = Version::new(1).unwrap();
        let (key, wrapped) = keys.new_data_key(&path("a/b"), one).unwrap();
        let value = SecretBytes::taken_from(&mut b"hunter2".to_vec());
        let sealed = keys.seal_value(&key, &path("a/b"), one, &field("c"), &value).unwrap();
        assert_eq!(sealed.len(), 7 + SEAL_BYTES);
        let opened = keys.open_value(&key, &path("a/b"), one, &field("c"), &sealed).unwrap();
        assert_eq!(opened.expose(), b"hunter2");
        assert!(keys.open_value(&key, &path("a/b"), one, &field("d"), &sealed).is_none());
        assert!(keys.open_value(&key, &path("a"), one, &field("b"), &sealed).is_none());
        assert!(
            keys.open_value(&key, &path("a/b"), Version::new(2).unwrap(), &field("c"), &sealed).is_none()
        );
        assert!(other.open_value(&key, &path("a/b"), one, &field("c"), &sealed).is_none());
        assert!(keys.unwrap_key(&path("a/c"), one, &wrapped).is_none());
        assert!(keys.unwrap_key(&path("a/b"), one, &wrapped).is_some());
        for at in 0..sealed.len() {
            let mut changed = sealed.clone();
            changed[at] ^= 1;
            assert!(keys.open_value(&key, &path("a/b"), one, &field("c"), &changed).is_none());
            assert!(keys.open_value(&key, &path("a/b"), one, &field("c"), &sealed[..at]).is_none());
        }
    }
}
