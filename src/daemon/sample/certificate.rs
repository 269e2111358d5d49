//! A self-signed Ed25519 certificate and its key, written out in DER (RFC 5280, RFC 8410): small enough that no
//! library is needed for it.

use std::time::{Duration, SystemTime};

use ed25519_dalek::{Signer as _, SigningKey};
use zeroize::Zeroizing;

use crate::control::CommandFault;
use crate::model::{SecretBytes, UnixTime};

use super::pem;

/// A key pair as files want it.
pub(super) struct Pair {
    /// The certificate, PEM.
    pub(super) certificate: String,
    /// The key, PEM of PKCS #8.
    pub(super) key: SecretBytes,
}

const SEQUENCE: u8 = 0x30;
const SET: u8 = 0x31;
const INTEGER: u8 = 0x02;
const BIT_STRING: u8 = 0x03;
const OCTET_STRING: u8 = 0x04;
const OBJECT: u8 = 0x06;
const UTF8_TEXT: u8 = 0x0C;
const UTC_TIME: u8 = 0x17;
/// `[0]` and `[3]` of a certificate: its version and its extensions.
const VERSION: u8 = 0xA0;
const EXTENSIONS: u8 = 0xA3;
/// `[2]` of a general name: a name in the DNS.
const DNS_NAME: u8 = 0x82;

/// id-Ed25519, 1.3.101.112.
const ED25519: [u8; 3] = [0x2B, 0x65, 0x70];
/// id-at-commonName, 2.5.4.3.
const COMMON_NAME: [u8; 3] = [0x55, 0x04, 0x03];
/// id-ce-subjectAltName, 2.5.29.17.
const ALTERNATIVE_NAME: [u8; 3] = [0x55, 0x1D, 0x11];
/// What a PKCS #8 file of an Ed25519 key begins with (RFC 8410, section 7); the 32 bytes of the key follow.
const PKCS8_PREFIX: [u8; 16] =
    [0x30, 0x2E, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2B, 0x65, 0x70, 0x04, 0x22, 0x04, 0x20];

/// A new key and a certificate for `name`, valid from an hour ago for 30 days.
pub(super) fn self_signed(name: &str) -> Result<Pair, CommandFault> {
    let mut seed = Zeroizing::new([0; 32]);
    let mut serial = [0; 16];
    getrandom::fill(&mut *seed)
        .and_then(|()| getrandom::fill(&mut serial))
        .map_err(|error| CommandFault::failed(format!("the kernel gives no random bytes: {error}")))?;
    // Positive, and with no zero in front.
    serial[0] = serial[0] & 0x7F | 0x40;
    let signer = SigningKey::from_bytes(&seed);
    let now = UnixTime::from(SystemTime::now());
    let body = certificate_body(name, &serial, now, &signer.verifying_key().to_bytes());
    let signature = signer.sign(&body).to_bytes();
    let certificate = der(SEQUENCE, &[&body, &algorithm(), &bits(&signature)]);
    let file = Zeroizing::new([&PKCS8_PREFIX[..], &*seed].concat());
    let mut text = Zeroizing::new(std::mem::take(&mut *pem("PRIVATE KEY", &file)).into_bytes());
    Ok(Pair {
        certificate: std::mem::take(&mut *pem("CERTIFICATE", &certificate)),
        key: SecretBytes::taken_from(&mut text),
    })
}

fn certificate_body(name: &str, serial: &[u8], now: UnixTime, public: &[u8; 32]) -> Vec<u8> {
    let common_name = der(SEQUENCE, &[&der(OBJECT, &[&COMMON_NAME]), &der(UTF8_TEXT, &[name.as_bytes()])]);
    let who = der(SEQUENCE, &[&der(SET, &[&common_name])]);
    let from = now.minus(Duration::from_secs(3600));
    let until = now.plus(Duration::from_secs(30 * 86_400));
    let validity = der(SEQUENCE, &[&time(from), &time(until)]);
    let key = der(SEQUENCE, &[&algorithm(), &bits(public)]);
    let names = der(SEQUENCE, &[&der(DNS_NAME, &[name.as_bytes()])]);
    let alternative = der(SEQUENCE, &[&der(OBJECT, &[&ALTERNATIVE_NAME]), &der(OCTET_STRING, &[&names])]);
    let extensions = der(EXTENSIONS, &[&der(SEQUENCE, &[&alternative])]);
    let version_3 = der(VERSION, &[&der(INTEGER, &[&[2]])]);
    let serial = der(INTEGER, &[serial]);
    der(SEQUENCE, &[&version_3, &serial, &algorithm(), &who, &validity, &who, &key, &extensions])
}

fn algorithm() -> Vec<u8> {
    der(SEQUENCE, &[&der(OBJECT, &[&ED25519])])
}

fn bits(bytes: &[u8]) -> Vec<u8> {
    der(BIT_STRING, &[&[0], bytes])
}

/// `YYMMDDHHMMSSZ`, which RFC 5280 wants for years before 2050.
fn time(moment: UnixTime) -> Vec<u8> {
    let text: String = moment.rfc3339().chars().take(19).filter(char::is_ascii_digit).skip(2).collect();
    der(UTC_TIME, &[text.as_bytes(), b"Z"])
}

/// One value: tag, length, content.
fn der(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
    let length: usize = parts.iter().map(|part| part.len()).sum();
    let mut out = vec![tag];
    match u8::try_from(length) {
        Ok(short) if short < 0x80 => out.push(short),
        Ok(short) => out.extend([0x81, short]),
        // Nothing here comes near 64 KiB.
        Err(_) => out.extend([0x82, (length >> 8).to_le_bytes()[0], length.to_le_bytes()[0]]),
    }
    out.extend(parts.iter().copied().flatten());
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;
    use std::process::{Command, Stdio};

    fn openssl(arguments: &[&str], input: &[u8]) -> (bool, String) {
        let mut child = Command::new("openssl")
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("this test needs openssl: apt-get install openssl");
        child.stdin.take().unwrap().write_all(input).unwrap();
        let out = child.wait_with_output().unwrap();
        (
            out.status.success(),
            String::from_utf8_lossy(&out.stdout).into_owned() + &String::from_utf8_lossy(&out.stderr),
        )
    }

    #[test]
    fn openssl_reads_certificate_and_key_and_finds_that_they_belong_together() {
        let pair = self_signed("localhost").unwrap();
        let (ok, of_certificate) = openssl(&["x509", "-noout", "-pubkey"], pair.certificate.as_bytes());
        assert!(ok, "{of_certificate}");
        let (ok, of_key) = openssl(&["pkey", "-pubout"], pair.key.expose());
        assert!(ok);
        assert_eq!(of_certificate, of_key);
        let path = std::env::temp_dir().join(format!("credfs-certificate-{}.pem", std::process::id()));
        std::fs::write(&path, &pair.certificate).unwrap();
        let path_text = path.to_str().unwrap();
        let verify = ["verify", "-CAfile", path_text, "-verify_hostname", "localhost", path_text];
        let (ok, said) = openssl(&verify, b"");
        std::fs::remove_file(&path).unwrap();
        assert!(ok, "{said}");
    }
}
