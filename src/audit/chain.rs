//! The chain: what a line hashes to, what a seal signs, and what a reader of lines must understand of them.

use std::borrow::Cow;
use std::fmt;

use ed25519_dalek::{Signature, Signer as _, SigningKey, VerifyingKey};
use serde::Deserialize;
use sha2::{Digest, Sha256};

use super::record::{hex, unhex};

/// What `prev` of the first record of a chain holds.
pub(super) const NOTHING: [u8; 32] = [0; 32];

/// Keeps a signature over a seal from ever being one over something else.
const SEAL_DOMAIN: &[u8] = b"credfs audit seal 1\n";
/// The same for checkpoints.
const CHECKPOINT_DOMAIN: &[u8] = b"credfs audit checkpoint 1\n";

/// The root of a chain: SHA-256 of the 32 bytes of the first Ed25519 public key (RFC 8032, 5.1.5), which the record
/// with `seq` 0 announces as `next_key`. Written as 64 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(into = "String")]
pub struct Fingerprint([u8; 32]);

impl Fingerprint {
    pub(super) fn of_key(public: &[u8; 32]) -> Self {
        Self(hash(public))
    }

    /// Reads what [`fmt::Display`] writes; letters of either case.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        unhex(&text.trim().to_ascii_lowercase()).map(Self)
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&hex_text(&self.0))
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, formatter)
    }
}

impl From<Fingerprint> for String {
    fn from(fingerprint: Fingerprint) -> Self {
        fingerprint.to_string()
    }
}

/// What a line hashes to: SHA-256 of its bytes without the newline.
pub(super) fn hash(line: &[u8]) -> [u8; 32] {
    Sha256::digest(line).into()
}

pub(super) fn hex_text(bytes: &[u8]) -> String {
    let mut text = Vec::with_capacity(2 * bytes.len());
    hex(&mut text, bytes);
    String::from_utf8(text).unwrap_or_default()
}

/// What a seal adds to its line after everything else, and what it signs is the line up to there.
const SIGNATURE_KEY: &[u8] = b",\"signature\":\"";

/// Signs the line written so far and appends the signature. The line holds `prev`, so that the signature covers the
/// whole chain up to the seal, and `next_key`, so that only the holder of this key could announce the next.
pub(super) fn sign_line(line: &mut Vec<u8>, key: &SigningKey) {
    let signature = sign(SEAL_DOMAIN, line, key);
    line.extend_from_slice(SIGNATURE_KEY);
    hex(line, &signature);
    line.push(b'"');
}

/// Whether `line` ends with a signature of `key` over what stands before it.
pub(super) fn is_signed(line: &[u8], key: &[u8; 32]) -> bool {
    let Some(at) = memchr::memmem::rfind(line, SIGNATURE_KEY) else { return false };
    let Some(digits) = line[at + SIGNATURE_KEY.len()..].strip_suffix(b"\"}") else { return false };
    let Some(signature) = std::str::from_utf8(digits).ok().and_then(unhex::<64>) else { return false };
    is_signature(SEAL_DOMAIN, &line[..at], &signature, key)
}

pub(super) fn sign_checkpoint(text: &[u8], key: &SigningKey) -> [u8; 64] {
    sign(CHECKPOINT_DOMAIN, text, key)
}

pub(super) fn is_checkpoint_signed(text: &[u8], signature: &[u8; 64], key: &[u8; 32]) -> bool {
    is_signature(CHECKPOINT_DOMAIN, text, signature, key)
}

fn sign(domain: &[u8], text: &[u8], key: &SigningKey) -> [u8; 64] {
    key.sign(&[domain, text].concat()).to_bytes()
}

fn is_signature(domain: &[u8], text: &[u8], signature: &[u8; 64], key: &[u8; 32]) -> bool {
    // Strict: RFC 8032 leaves room for signatures and keys of small order that hold for several messages.
    VerifyingKey::from_bytes(key).is_ok_and(|key| {
        key.verify_strict(&[domain, text].concat(), &Signature::from_bytes(signature)).is_ok()
    })
}

/// What the chain needs to know of a line.
#[derive(Debug, Deserialize)]
pub(super) struct Link<'a> {
    pub(super) seq: u64,
    #[serde(borrow)]
    prev: Cow<'a, str>,
    #[serde(borrow)]
    pub(super) op: Cow<'a, str>,
    #[serde(borrow)]
    next_key: Option<Cow<'a, str>>,
    #[serde(borrow)]
    signature: Option<Cow<'a, str>>,
}

impl<'a> Link<'a> {
    /// Reads a line; `None` if it is no record.
    pub(super) fn read(line: &'a [u8]) -> Option<Self> {
        serde_json::from_slice(line).ok()
    }

    pub(super) fn prev(&self) -> Option<[u8; 32]> {
        unhex(&self.prev)
    }

    /// The key that signs from here on, where the line announces one.
    pub(super) fn next_key(&self) -> Option<[u8; 32]> {
        unhex(self.next_key.as_deref()?)
    }

    /// Whether it is the first record of a chain.
    pub(super) fn is_genesis(&self) -> bool {
        self.op == "seal" && self.signature.is_none() && self.seq == 0 && self.prev() == Some(NOTHING)
    }

    /// Whether it closes a segment.
    pub(super) fn is_seal(&self) -> bool {
        self.op == "seal" && !self.is_genesis()
    }

    /// Whether it opens a file that goes on with the chain of the one before.
    pub(super) fn is_continuation(&self) -> bool {
        self.op == "rotate" && self.next_key.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signature_covers_every_byte_before_it_and_no_other_purpose() {
        let key = SigningKey::from_bytes(&[7; 32]);
        let public = key.verifying_key().to_bytes();
        let mut line = br#"{"seq":9,"op":"seal""#.to_vec();
        sign_line(&mut line, &key);
        line.push(b'}');
        assert!(is_signed(&line, &public));
        assert!(Link::read(&line).is_none(), "prev is missing");
        for at in 0..line.len() {
            let mut changed = line.clone();
            changed[at] ^= 1;
            assert!(!is_signed(&changed, &public), "byte {at}");
        }
        let signed = sign_checkpoint(b"text", &key);
        assert!(is_checkpoint_signed(b"text", &signed, &public));
        assert!(!is_signature(SEAL_DOMAIN, b"text", &signed, &public));
    }
}
