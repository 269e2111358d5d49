//! Names of secrets and fields: what a store may hold, checked once, at the border.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::encode_name;
use super::encoding::is_printable_ascii;

/// Longest component of a path, in bytes: `NAME_MAX` of Linux (`include/uapi/linux/limits.h`).
pub const NAME_BYTES_MAX: usize = 255;
/// Longest path of a secret, in bytes: leaves room for `versions/N/FIELD` and a mount point within `PATH_MAX`.
pub const PATH_BYTES_MAX: usize = 1024;
/// Longest field name, in bytes, before encoding.
pub const FIELD_BYTES_MAX: usize = 255;
/// Names the tree uses itself, inside the directory of every secret.
pub const RESERVED_NAMES: [&str; 4] = ["current", "previous", "next", "versions"];

/// Whether the tree uses `name` itself.
#[must_use]
pub fn is_reserved(name: &str) -> bool {
    RESERVED_NAMES.contains(&name)
}

/// Why a name is refused. Each says what is wrong and what to do; none repeats the name, which may hold
/// control characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NameFault {
    /// Nothing between two slashes, or nothing at all.
    #[error("a name is empty: write it without a leading, trailing or double slash")]
    Empty,
    /// `.` or `..`.
    #[error("\".\" and \"..\" cannot be names: write the path as it shall appear below the mount point")]
    Dots,
    /// NUL, newline, escape and their like.
    #[error("a name holds a control character (NUL, newline, tab, escape …): use printable characters")]
    Control,
    /// Longer than a file name can be.
    #[error("a name is longer than 255 bytes as a file name (\"%\" takes three): shorten it")]
    Long,
    /// Longer than a path of ours can be.
    #[error("the path is longer than 1024 bytes: shorten it")]
    LongPath,
    /// `current`, `previous`, `next`, `versions`.
    #[error(
        "\"current\", \"previous\", \"next\" and \"versions\" are names that every secret's directory uses itself: \
         choose another"
    )]
    Reserved,
    /// A slash in a place where one name is meant.
    #[error("a field name to be stored cannot hold a slash: choose another, or make it part of the path")]
    Slash,
}

fn check_component(name: &str) -> Result<(), NameFault> {
    if name.is_empty() {
        return Err(NameFault::Empty);
    }
    if name == "." || name == ".." {
        return Err(NameFault::Dots);
    }
    if !is_printable_ascii(name) && name.chars().any(char::is_control) {
        return Err(NameFault::Control);
    }
    // Encoding makes three bytes of one at most: most names need not be encoded to see that they fit.
    if name.len() > NAME_BYTES_MAX / 3 && encode_name(name).len() > NAME_BYTES_MAX {
        return Err(NameFault::Long);
    }
    Ok(())
}

fn check_path(text: &str) -> Result<(), NameFault> {
    if text.len() > PATH_BYTES_MAX {
        return Err(NameFault::LongPath);
    }
    text.split('/').try_for_each(check_component)
}

/// The path of a secret in the tree, such as `prod/orders/db`: one or more names joined by single slashes. A clone
/// shares the text.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SecretPath(Arc<str>);

impl SecretPath {
    /// Checks `text` as a path that someone typed.
    ///
    /// # Errors
    /// The first [`NameFault`] of any component, reserved words included.
    pub fn parse(text: &str) -> Result<Self, NameFault> {
        let path = Self::from_store(text)?;
        if path.components().any(is_reserved) {
            return Err(NameFault::Reserved);
        }
        Ok(path)
    }

    /// Checks `text` as a path that a store reported: reserved words are allowed, for the tree encodes them.
    ///
    /// # Errors
    /// The first [`NameFault`] of any component.
    pub fn from_store(text: &str) -> Result<Self, NameFault> {
        check_path(text)?;
        Ok(Self(text.into()))
    }

    /// The same for a text that is shared already.
    ///
    /// # Errors
    /// As [`Self::from_store`].
    pub fn of_shared(text: &Arc<str>) -> Result<Self, NameFault> {
        check_path(text)?;
        Ok(Self(Arc::clone(text)))
    }

    /// The path that leads here from `directory`; `None` where this is not below it.
    #[must_use]
    pub fn below(&self, directory: &str) -> Option<Self> {
        let rest = self.0.strip_prefix(directory)?.strip_prefix('/')?;
        // Whole names of a path that was checked.
        Some(Self(rest.into()))
    }

    /// The path as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The names it is made of, outermost first; at least one.
    pub fn components(&self) -> impl DoubleEndedIterator<Item = &str> {
        self.0.split('/')
    }
}

impl std::borrow::Borrow<str> for SecretPath {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for SecretPath {
    type Error = NameFault;
    fn try_from(text: String) -> Result<Self, NameFault> {
        Self::from_store(&text)
    }
}

impl From<SecretPath> for String {
    fn from(path: SecretPath) -> Self {
        path.as_str().to_owned()
    }
}

impl fmt::Display for SecretPath {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl fmt::Debug for SecretPath {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{:?}", &*self.0)
    }
}

/// The name of one value of a secret. A clone shares the text.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct FieldName(Arc<str>);

impl FieldName {
    /// Checks `text` as a field that someone typed: one file name that the tree does not use itself.
    ///
    /// # Errors
    /// The first [`NameFault`].
    pub fn parse(text: &str) -> Result<Self, NameFault> {
        if text.contains('/') {
            return Err(NameFault::Slash);
        }
        check_component(text)?;
        if is_reserved(text) {
            return Err(NameFault::Reserved);
        }
        Ok(Self(text.into()))
    }

    /// Checks `text` as a field that a store reported: slashes, dots, control characters and reserved words are
    /// allowed, for the tree encodes them.
    ///
    /// # Errors
    /// [`NameFault::Empty`] and [`NameFault::Long`].
    pub fn from_store(text: &str) -> Result<Self, NameFault> {
        if text.is_empty() {
            return Err(NameFault::Empty);
        }
        if text.len() > FIELD_BYTES_MAX {
            return Err(NameFault::Long);
        }
        Ok(Self(text.into()))
    }

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for FieldName {
    type Error = NameFault;
    fn try_from(text: String) -> Result<Self, NameFault> {
        Self::from_store(&text)
    }
}

impl From<FieldName> for String {
    fn from(name: FieldName) -> Self {
        name.as_str().to_owned()
    }
}

impl fmt::Display for FieldName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl fmt::Debug for FieldName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{:?}", &*self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_refused_for_every_name_a_file_cannot_bear() {
        let long = "x".repeat(256);
        for (text, fault) in [
            ("", NameFault::Empty),
            ("/a", NameFault::Empty),
            ("a/", NameFault::Empty),
            ("a//b", NameFault::Empty),
            ("a/../b", NameFault::Dots),
            ("./a", NameFault::Dots),
            ("a\0b", NameFault::Control),
            ("a\nb", NameFault::Control),
            ("a\u{1b}[31m", NameFault::Control),
            (long.as_str(), NameFault::Long),
            ("a/current", NameFault::Reserved),
            ("versions/a", NameFault::Reserved),
        ] {
            assert_eq!(SecretPath::parse(text).unwrap_err(), fault, "{text:?}");
        }
        let deep = vec!["abc"; 300].join("/");
        assert_eq!(SecretPath::parse(&deep).unwrap_err(), NameFault::LongPath);
    }

    #[test]
    fn ordinary_names_pass_unchanged() {
        for text in ["a", "prod/orders/db", "ünïcode/日本", "with space/%41", ".pgpass"] {
            assert_eq!(SecretPath::parse(text).unwrap().as_str(), text);
        }
    }

    #[test]
    fn a_path_below_a_directory_is_made_of_the_names_after_it() {
        let path = SecretPath::parse("prod/orders/db").unwrap();
        let below = |directory: &str| path.below(directory).map(|path| path.to_string());
        assert_eq!(below("prod").as_deref(), Some("orders/db"));
        assert_eq!(below("prod/orders").as_deref(), Some("db"));
        assert_eq!((below("prod/orders/db"), below("pro"), below("")), (None, None, None));
    }

    #[test]
    fn a_name_that_grows_by_encoding_is_measured_as_it_will_be() {
        for length in [85, 86, 255, 256] {
            for letter in ["x", "%", "\u{e9}"] {
                let name = letter.repeat(length);
                let fits = encode_name(&name).len() <= NAME_BYTES_MAX;
                assert_eq!(SecretPath::parse(&name).is_ok(), fits, "{length} x {letter}");
            }
        }
    }

    #[test]
    fn a_typed_field_is_one_file_name_and_a_stored_one_may_be_any_text() {
        assert_eq!(FieldName::parse("a/b").unwrap_err(), NameFault::Slash);
        assert_eq!(FieldName::parse("next").unwrap_err(), NameFault::Reserved);
        assert_eq!(FieldName::parse("..").unwrap_err(), NameFault::Dots);
        assert_eq!(FieldName::from_store("a/b").unwrap().as_str(), "a/b");
        assert_eq!(FieldName::from_store("..").unwrap().as_str(), "..");
    }
}
