//! Sealing under a key that only this machine has: the cipher, keys and where they come from, private files, and
//! logs of sealed records. What is sealed, and what it is bound to, its users decide.
//!
//! ```text
//! sealed(plain, ad) = nonce (24 random bytes) | ciphertext (as long as plain) | tag (16 bytes)
//!                     XChaCha20-Poly1305, draft-irtf-cfrg-xchacha-03
//! ```

mod envelope;
pub(super) mod files;
mod key;
mod log;

use chacha20poly1305::aead::inout::InOutBuf;
use chacha20poly1305::{AeadInOut, KeyInit, Tag, XChaCha20Poly1305, XNonce};

use super::StoreFault;
use crate::model::SecretBytes;

pub use envelope::Envelope;
pub(super) use key::KEY_BYTES;
pub use key::{Key, KeySource};
pub(super) use log::SealedLog;

const NONCE_BYTES: usize = 24;
const TAG_BYTES: usize = 16;
/// What sealing adds, in bytes.
pub(super) const SEAL_BYTES: usize = NONCE_BYTES + TAG_BYTES;

/// Fills `bytes` with random ones from the kernel.
pub(super) fn fill_random(bytes: &mut [u8]) -> Result<(), StoreFault> {
    getrandom::fill(bytes)
        .map_err(|error| StoreFault::Io(format!("the kernel gives no random bytes: {error}")))
}

fn cipher_of(key: &Key) -> XChaCha20Poly1305 {
    XChaCha20Poly1305::new(&key.array().into())
}

pub(super) fn seal(key: &Key, binding: &[u8], plain: &[u8]) -> Result<Vec<u8>, StoreFault> {
    let mut out = vec![0; NONCE_BYTES + plain.len() + TAG_BYTES];
    let (nonce, rest) = out.split_at_mut(NONCE_BYTES);
    let (body, tag_out) = rest.split_at_mut(plain.len());
    fill_random(nonce)?;
    let failed = |_| StoreFault::Io("a value could not be sealed".into());
    let nonce =
        XNonce::try_from(&*nonce).map_err(|_| StoreFault::Io("a value could not be sealed".into()))?;
    // From the caller's locked memory straight to ciphertext: no copy in ordinary memory.
    let buffer =
        InOutBuf::new(plain, body).map_err(|_| StoreFault::Io("a value could not be sealed".into()))?;
    let tag = cipher_of(key).encrypt_inout_detached(&nonce, binding, buffer).map_err(failed)?;
    tag_out.copy_from_slice(&tag);
    Ok(out)
}

pub(super) fn open(key: &Key, binding: &[u8], sealed: &[u8]) -> Option<SecretBytes> {
    let body_bytes = sealed.len().checked_sub(SEAL_BYTES)?;
    let nonce = XNonce::try_from(&sealed[..NONCE_BYTES]).ok()?;
    let body = &sealed[NONCE_BYTES..NONCE_BYTES + body_bytes];
    let tag = Tag::try_from(&sealed[NONCE_BYTES + body_bytes..]).ok()?;
    SecretBytes::filled_by(body_bytes, |out| {
        let buffer = InOutBuf::new(body, out).map_err(|_| ())?;
        cipher_of(key).decrypt_inout_detached(&nonce, binding, buffer, &tag).map_err(|_| ())
    })
    .ok()
}
