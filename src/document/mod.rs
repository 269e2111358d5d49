//! TOML files with the position of every value: parsed once, read by typed calls that collect every fault of a
//! file instead of stopping at the first. It touches no file itself: the text is handed in.

mod nearest;
mod section;
mod tree;

use std::cell::RefCell;
use std::fmt;
use std::path::{Path, PathBuf};

pub use nearest::nearest;
pub use section::{Placed, Section};
use tree::Table;

/// Longest file that is read, in bytes. A policy of 10,000 grants is about a tenth of it.
pub const FILE_BYTES_MAX: u64 = 16 * 1024 * 1024;

/// Something wrong in a file: where, what, and how to mend it. Never holds a secret value.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Fault {
    /// The file.
    pub file: PathBuf,
    /// The line, from 1; 0 where the file as a whole is meant.
    pub line: usize,
    /// What is wrong.
    pub message: String,
    /// What to do.
    pub remedy: String,
}

impl Fault {
    /// A fault of the file as a whole: it is missing, or not ours.
    #[must_use]
    pub fn of_file(file: &Path, message: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { file: file.to_owned(), line: 0, message: message.into(), remedy: remedy.into() }
    }

    /// Where it is and what, without what to do.
    #[must_use]
    pub fn what(&self) -> String {
        let file = self.file.display();
        match self.line {
            0 => format!("{file}: {}", self.message),
            line => format!("{file}:{line}: {}", self.message),
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}; {}", self.what(), self.remedy)
    }
}

impl std::error::Error for Fault {}

/// The faults of one file, in the order they were found.
#[derive(Debug)]
pub struct Faults {
    file: PathBuf,
    found: RefCell<Vec<Fault>>,
}

impl Faults {
    /// No fault yet.
    #[must_use]
    pub fn of(file: &Path) -> Self {
        Self { file: file.to_owned(), found: RefCell::default() }
    }

    /// The file they are of.
    #[must_use]
    pub fn file(&self) -> &Path {
        &self.file
    }

    /// Notes one more.
    pub fn add(&self, line: usize, message: impl Into<String>, remedy: impl Into<String>) {
        // What a file says comes back in messages, which go to terminals and logs.
        let (message, remedy) = (printable(message.into()), printable(remedy.into()));
        let fault = Fault { file: self.file.clone(), line, message, remedy };
        self.found.borrow_mut().push(fault);
    }

    /// How many there are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.found.borrow().len()
    }

    /// Forgets all after the first `count`.
    fn truncate(&self, count: usize) {
        self.found.borrow_mut().truncate(count);
    }

    /// All of them, in the order of lines.
    #[must_use]
    pub fn into_vec(self) -> Vec<Fault> {
        let mut found = self.found.into_inner();
        found.sort_by_key(|fault| fault.line);
        found
    }
}

/// A parsed file.
#[derive(Debug)]
pub struct Document {
    root: Table,
}

impl Document {
    /// Parses `text`. Every syntax error is a fault in `faults`, a key given twice too; the document then holds
    /// what could be understood, so that the rest is checked as well. Its caller must refuse it as a whole.
    #[must_use]
    pub fn parse(text: &str, faults: &Faults) -> Self {
        Self { root: tree::parse(text, faults) }
    }

    /// The outermost table, to be read key by key.
    #[must_use]
    pub fn root<'a>(&'a self, faults: &'a Faults) -> Section<'a> {
        Section::new("", &self.root, faults)
    }
}

/// The text with every control character escaped.
fn printable(text: String) -> String {
    if !text.contains(char::is_control) {
        return text;
    }
    let mut out = String::with_capacity(text.len() + 8);
    for character in text.chars() {
        if character.is_control() { out.extend(character.escape_default()) } else { out.push(character) }
    }
    out
}

/// Writes `text` as a TOML basic string, quotes included.
#[must_use]
pub fn quoted(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for character in text.chars() {
        match character {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            control if control.is_control() => out.push_str(&format!("\\u{:04X}", u32::from(control))),
            other => out.push(other),
        }
    }
    out.push('"');
    out
}

#[cfg(test)]
mod tests;
