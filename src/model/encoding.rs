//! Names as file names, and back: percent-encoding of what a file system cannot bear.
//!
//! A byte is encoded as `%` and two capital hexadecimal digits. Encoded are `%` itself, `/`, control characters
//! (Unicode's too), the first dot of `.` and `..`, and, where the tree uses the name itself or a child has it, the
//! first byte. Every file name that is a name's encoding is the encoding of that name alone.

use std::borrow::Cow;
use std::fmt::Write as _;

/// The file name of `name`, where nothing else in the directory has that name.
#[must_use]
pub fn encode_name(name: &str) -> Cow<'_, str> {
    let is_simple = is_printable_ascii(name) && !name.bytes().any(|byte| byte == b'%' || byte == b'/');
    let plain = name != "." && name != ".." && (is_simple || !name.chars().any(needs_encoding));
    if plain { Cow::Borrowed(name) } else { Cow::Owned(encode(name, name == "." || name == "..")) }
}

/// The file name of `name` where something else in the directory has that name: its first byte is encoded too.
#[must_use]
pub fn encode_name_apart(name: &str) -> String {
    encode(name, true)
}

/// The name whose encoding is `file_name`, by either rule; `None` where it is no encoding of anything.
#[must_use]
pub fn decode_name(file_name: &str) -> Option<Cow<'_, str>> {
    if !file_name.contains('%') {
        return (encode_name(file_name) == file_name).then_some(Cow::Borrowed(file_name));
    }
    let mut bytes = Vec::with_capacity(file_name.len());
    let mut rest = file_name.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        if *first == b'%' {
            let digits = after.get(..2)?;
            bytes.push(u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?);
            rest = &after[2..];
        } else {
            bytes.push(*first);
            rest = after;
        }
    }
    let name = String::from_utf8(bytes).ok()?;
    let canonical = encode_name(&name) == file_name || encode_name_apart(&name) == file_name;
    canonical.then_some(Cow::Owned(name))
}

/// Whether every byte is a printable character of ASCII: most names are, and then bytes tell what characters would.
pub(super) fn is_printable_ascii(name: &str) -> bool {
    name.bytes().all(|byte| (0x20..0x7F).contains(&byte))
}

fn needs_encoding(character: char) -> bool {
    character == '%' || character == '/' || character.is_control()
}

fn encode(name: &str, first_too: bool) -> String {
    let mut out = String::with_capacity(name.len() + 8);
    for (at, character) in name.char_indices() {
        if needs_encoding(character) || (first_too && at == 0) {
            let mut buffer = [0; 4];
            for byte in character.encode_utf8(&mut buffer).bytes() {
                write!(out, "%{byte:02X}")
                    .unwrap_or_else(|_| unreachable!("writing to a String cannot fail"));
            }
        } else {
            out.push(character);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_comes_back_and_no_encoding_needs_what_a_file_name_cannot_hold() {
        let awkward = [
            "a", ".", "..", "...", "%", "%41", "a/b", "a\0b", "\n", "ü/%", "日本", "current", "\u{85}", ".x",
        ];
        for name in awkward {
            for file_name in [encode_name(name).into_owned(), encode_name_apart(name)] {
                assert_eq!(decode_name(&file_name).as_deref(), Some(name), "{name:?} as {file_name:?}");
                assert!(!file_name.contains(['/', '\0', '\n']) && file_name != "." && file_name != "..");
            }
        }
    }

    #[test]
    fn a_file_name_that_is_no_encoding_is_nothing() {
        for file_name in ["%", "%4", "%zz", "%2f", "%41b%", "a%41", "%FF", ".", "..", "%C3", "%+1"] {
            assert_eq!(decode_name(file_name), None, "{file_name:?}");
        }
        assert_eq!(decode_name("%41").as_deref(), Some("A"), "a name encoded apart");
    }

    #[test]
    fn two_names_never_share_an_encoding() {
        let alphabet = ['a', '%', '/', '.', '4', '1', '\n'];
        let mut names = vec![String::new()];
        for _ in 0..4 {
            names = names
                .iter()
                .flat_map(|name| alphabet.iter().map(move |c| format!("{name}{c}")).chain([name.clone()]))
                .collect();
        }
        names.sort();
        names.dedup();
        names.retain(|name| !name.is_empty());
        let mut seen = std::collections::HashMap::new();
        for name in &names {
            for file_name in [encode_name(name).into_owned(), encode_name_apart(name)] {
                let before = seen.insert(file_name.clone(), name.clone());
                assert!(before.is_none_or(|before| before == *name), "{file_name:?} stands for two names");
            }
        }
    }
}
