//! JSON that holds secrets: read from locked memory into locked memory, written in locked memory.

use std::borrow::Cow;
use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde::de::{MapAccess, Visitor};
use serde_json::value::RawValue;

use super::HttpFault;
use super::locked::Growing;
use crate::model::SecretBytes;

/// How deep a body may be nested.
const DEPTH_MAX: usize = 32;

/// Reads a body.
pub(super) fn parse<'a, T: Deserialize<'a>>(body: &'a [u8]) -> Result<T, HttpFault> {
    if depth_of(body) > DEPTH_MAX {
        return Err(HttpFault::Invalid);
    }
    serde_json::from_slice(body).map_err(|_| HttpFault::Invalid)
}

fn depth_of(body: &[u8]) -> usize {
    let (mut depth, mut deepest, mut in_string) = (0_usize, 0, false);
    let mut bytes = body.iter();
    while let Some(byte) = bytes.next() {
        match byte {
            b'"' => in_string = !in_string,
            b'\\' if in_string => drop(bytes.next()),
            b'{' | b'[' if !in_string => {
                depth += 1;
                deepest = deepest.max(depth);
            }
            b'}' | b']' if !in_string => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    deepest
}

/// An object whose values stay as they were written, in the order they came.
pub(in crate::store) struct Fields<'a>(pub(in crate::store) Vec<(Cow<'a, str>, &'a RawValue)>);

impl<'de: 'a, 'a> Deserialize<'de> for Fields<'a> {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visit;
        impl<'de> Visitor<'de> for Visit {
            type Value = Fields<'de>;
            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("an object")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut fields = Vec::new();
                while let Some(name) = map.next_key::<String>()? {
                    fields.push((Cow::Owned(name), map.next_value::<&'de RawValue>()?));
                }
                Ok(Fields(fields))
            }
        }
        deserializer.deserialize_map(Visit)
    }
}

/// The bytes that a value stands for: those of a string; what the base64 in an object `{"base64": "…"}` stands for; of
/// anything else its JSON text.
pub(in crate::store) fn bytes_of(value: &RawValue) -> Result<SecretBytes, HttpFault> {
    let text = value.get();
    if let Some(inner) = string_inside(text) {
        let length = unescape(inner, &mut |_| {}).ok_or(HttpFault::Invalid)?;
        return SecretBytes::filled_by(length, |into| {
            let mut at = 0;
            let mut put = |piece: &[u8]| {
                into[at..at + piece.len()].copy_from_slice(piece);
                at += piece.len();
            };
            unescape(inner, &mut put).map(drop).ok_or(HttpFault::Invalid)
        });
    }
    if let Some(bytes) = base64_inside(text) {
        return Ok(bytes);
    }
    SecretBytes::filled_by(text.len(), |into| {
        into.copy_from_slice(text.as_bytes());
        Ok(())
    })
}

fn string_inside(text: &str) -> Option<&[u8]> {
    text.strip_prefix('"')?.strip_suffix('"').map(str::as_bytes)
}

/// The bytes of `{"base64": "…"}` and of nothing else.
fn base64_inside(text: &str) -> Option<SecretBytes> {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Encoded<'a> {
        #[serde(borrow)]
        base64: &'a RawValue,
    }
    if !text.starts_with('{') {
        return None;
    }
    let encoded: Encoded<'_> = serde_json::from_str(text).ok()?;
    let digits = string_inside(encoded.base64.get())?;
    let length = base64::decoded_len_estimate(digits.len());
    let mut room = zeroize::Zeroizing::new(vec![0; length]);
    let length = STANDARD.decode_slice(digits, &mut room).ok()?;
    Some(SecretBytes::taken_from(&mut room[..length]))
}

/// Gives the bytes that the inside of a JSON string stands for, piece by piece; returns how many they are.
fn unescape(text: &[u8], put: &mut dyn FnMut(&[u8])) -> Option<usize> {
    let mut length = 0;
    let mut emit = |piece: &[u8]| {
        length += piece.len();
        put(piece);
    };
    let mut rest = text;
    while let Some(at) = memchr::memchr(b'\\', rest) {
        emit(&rest[..at]);
        let kind = *rest.get(at + 1)?;
        rest = &rest[at + 2..];
        let plain = match kind {
            b'"' | b'\\' | b'/' => kind,
            b'b' => 8,
            b'f' => 12,
            b'n' => b'\n',
            b'r' => b'\r',
            b't' => b'\t',
            b'u' => {
                let (character, taken) = unicode(rest)?;
                emit(character.encode_utf8(&mut [0; 4]).as_bytes());
                rest = &rest[taken..];
                continue;
            }
            _ => return None,
        };
        emit(&[plain]);
    }
    emit(rest);
    Some(length)
}

/// The character after `\u`, and how many bytes it takes: two of them make one outside of the first plane (RFC 8259, 7).
fn unicode(rest: &[u8]) -> Option<(char, usize)> {
    let unit = |at: usize| {
        let digits = std::str::from_utf8(rest.get(at..at + 4)?).ok()?;
        digits.bytes().all(|digit| digit.is_ascii_hexdigit()).then(|| u32::from_str_radix(digits, 16).ok())?
    };
    let high = unit(0)?;
    if !(0xD800..0xDC00).contains(&high) {
        return Some((char::from_u32(high)?, 4));
    }
    let low = (rest.get(4..6)? == b"\\u").then(|| unit(6))?.filter(|low| (0xDC00..0xE000).contains(low))?;
    Some((char::from_u32(0x10000 + ((high - 0xD800) << 10) + (low - 0xDC00))?, 10))
}

/// A JSON text, put together in locked memory.
pub(in crate::store) struct JsonText(Growing);

impl JsonText {
    pub(in crate::store) fn new() -> Self {
        Self(Growing::with_room_for(512))
    }

    /// JSON as it stands.
    pub(in crate::store) fn raw(&mut self, text: &str) -> &mut Self {
        self.0.append(text.as_bytes());
        self
    }

    /// A string.
    pub(in crate::store) fn string(&mut self, text: &str) -> &mut Self {
        self.0.append(b"\"");
        for byte in text.as_bytes() {
            match byte {
                b'"' => self.0.append(b"\\\""),
                b'\\' => self.0.append(b"\\\\"),
                b'\n' => self.0.append(b"\\n"),
                0..=0x1F => self.0.append(format!("\\u{byte:04x}").as_bytes()),
                _ => self.0.append(std::slice::from_ref(byte)),
            }
        }
        self.0.append(b"\"");
        self
    }

    /// What [`bytes_of`] reads these bytes from.
    pub(in crate::store) fn value(&mut self, value: &SecretBytes) -> &mut Self {
        let bytes = value.expose();
        if let Ok(text) = std::str::from_utf8(bytes) {
            return self.string(text);
        }
        let mut digits = zeroize::Zeroizing::new(vec![0; bytes.len().div_ceil(3) * 4]);
        let length = STANDARD.encode_slice(bytes, &mut digits).unwrap_or(0);
        self.0.append(b"{\"base64\":\"");
        self.0.append(&digits[..length]);
        self.0.append(b"\"}");
        self
    }

    pub(in crate::store) fn finish(self) -> SecretBytes {
        self.0.finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(json: &str) -> Result<Vec<u8>, HttpFault> {
        bytes_of(parse::<&RawValue>(json.as_bytes())?).map(|bytes| bytes.expose().to_vec())
    }

    #[test]
    fn strings_are_read_as_an_independent_reader_reads_them() {
        for json in [
            r#""""#,
            r#""plain""#,
            r#""a\"b\\c\/d\be\ff\ng\rh\ti""#,
            r#""\u0000\u001f\u00e9\u65e5\uD83D\uDE00é日😀""#,
        ] {
            let theirs: String = serde_json::from_str(json).unwrap();
            assert_eq!(read(json).unwrap(), theirs.as_bytes(), "{json}");
        }
        for json in [r#""\ud83d""#, r#""\ud83dx""#, r#""\udc00""#, r#""\ud83d\u0041""#] {
            assert!(read(json).is_err(), "{json}");
        }
    }

    #[test]
    fn what_is_written_is_read_again_and_by_others() {
        for bytes in [b"".as_slice(), b"x", "é\"\\\n\u{1}/日".as_bytes(), &[0, 255, 10], &[0xC3]] {
            let mut text = JsonText::new();
            text.value(&SecretBytes::taken_from(&mut bytes.to_vec()));
            let text = text.finish();
            let json = std::str::from_utf8(text.expose()).unwrap();
            assert_eq!(read(json).unwrap(), bytes);
            if let Ok(plain) = std::str::from_utf8(bytes) {
                assert_eq!(serde_json::from_str::<String>(json).unwrap(), plain);
            }
        }
    }

    #[test]
    fn other_values_are_their_text_and_only_base64_alone_is_bytes() {
        for json in [
            "7",
            "1.50",
            "true",
            "null",
            "[1, 2]",
            r#"{"a":1}"#,
            r#"{"base64":"AP8K","x":1}"#,
            r#"{"base64":7}"#,
            r#"{"base64":"?"}"#,
        ] {
            assert_eq!(read(json).unwrap(), json.as_bytes());
        }
        assert_eq!(read(r#"{"base64":"AP8K"}"#).unwrap(), [0, 255, 10]);
        assert_eq!(read(r#""{\"base64\":\"AP8K\"}""#).unwrap(), br#"{"base64":"AP8K"}"#);
    }

    #[test]
    fn a_body_that_is_nested_too_deeply_is_refused_before_it_is_read() {
        let nested = |depth: usize| format!("{}1{}", "[".repeat(depth), "]".repeat(depth));
        assert!(parse::<&RawValue>(nested(DEPTH_MAX).as_bytes()).is_ok());
        assert_eq!(parse::<&RawValue>(nested(DEPTH_MAX + 1).as_bytes()).unwrap_err(), HttpFault::Invalid);
        assert_eq!(parse::<&RawValue>(nested(1_000_000).as_bytes()).unwrap_err(), HttpFault::Invalid);
        let quoted = format!("\"{}\"", "[".repeat(100));
        assert!(parse::<&RawValue>(quoted.as_bytes()).is_ok());
    }
}
