//! Typed reading of one table: each call names a key it knows; what is left over at the end is unknown.

use std::cell::RefCell;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::tree::{Entry, Item, Table, Value};
use super::{Faults, nearest};
use crate::model::{format_span, parse_span};

/// A value and the line it stands on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Placed<T> {
    /// The value.
    pub value: T,
    /// The line, from 1.
    pub line: usize,
}

/// One table of a file, read key by key. Call [`Section::finish`] last: it reports the keys nobody asked for.
#[derive(Debug)]
pub struct Section<'a> {
    name: String,
    table: &'a Table,
    faults: &'a Faults,
    known: RefCell<Vec<&'static str>>,
}

impl<'a> Section<'a> {
    pub(super) fn new(name: &str, table: &'a Table, faults: &'a Faults) -> Self {
        Self { name: name.to_owned(), table, faults, known: RefCell::default() }
    }

    /// What the table is called, `""` for the outermost.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The line it begins on.
    #[must_use]
    pub fn line(&self) -> usize {
        self.table.line
    }

    /// The file it is in.
    #[must_use]
    pub fn file(&self) -> &'a Path {
        self.faults.file()
    }

    /// Notes a fault at `line`.
    pub fn fault(&self, line: usize, message: impl Into<String>, remedy: impl Into<String>) {
        self.faults.add(line, message, remedy);
    }

    /// Whether the key is given, with any value.
    #[must_use]
    pub fn has(&self, key: &'static str) -> bool {
        self.entry(key).is_some()
    }

    /// Makes keys known that are read elsewhere.
    pub fn allow(&self, keys: &[&'static str]) {
        self.known.borrow_mut().extend(keys);
    }

    /// The line of a key; that of the table where the key is not given.
    #[must_use]
    pub fn line_of(&self, key: &'static str) -> usize {
        self.entry(key).map_or(self.table.line, |entry| entry.line)
    }

    fn entry(&self, key: &'static str) -> Option<&'a Entry> {
        let mut known = self.known.borrow_mut();
        if !known.contains(&key) {
            known.push(key);
        }
        self.table.entries.iter().find(|entry| entry.key == key)
    }

    fn wrong_type(&self, key: &str, item: &Item, wanted: &str, example: &str) {
        self.fault(
            item.line,
            format!("{}is {}, not {wanted}", self.label(key), item.value.kind()),
            format!("write {key} = {example}"),
        );
    }

    fn wrong_element(&self, key: &str, item: &Item, wanted: &str, example: &str) {
        self.fault(
            item.line,
            format!("{}holds {}, though it is {wanted}", self.label(key), item.value.kind()),
            format!("write {key} = {example}"),
        );
    }

    fn label(&self, key: &str) -> String {
        if self.name.is_empty() { format!("\"{key}\" ") } else { format!("\"{key}\" in [{}] ", self.name) }
    }

    /// A string.
    pub fn text(&self, key: &'static str) -> Option<Placed<&'a str>> {
        let entry = self.entry(key)?;
        match &entry.item.value {
            Value::Text(text) => Some(Placed { value: text, line: entry.item.line }),
            _ => {
                self.wrong_type(key, &entry.item, "a string", "\"…\"");
                None
            }
        }
    }

    /// A string that must be given and not be empty.
    pub fn required_text(&self, key: &'static str, example: &str) -> Option<Placed<&'a str>> {
        if !self.has(key) {
            self.fault(
                self.table.line,
                format!("{}is missing", self.label(key)),
                format!("add {key} = \"{example}\""),
            );
            return None;
        }
        let text = self.text(key)?;
        if text.value.is_empty() {
            self.fault(
                text.line,
                format!("{}is empty", self.label(key)),
                format!("write {key} = \"{example}\""),
            );
            return None;
        }
        Some(text)
    }

    /// One of a few words.
    pub fn word<T: Copy>(&self, key: &'static str, words: &[(&'static str, T)]) -> Option<T> {
        let text = self.text(key)?;
        let found = words.iter().find(|(word, _)| *word == text.value).map(|(_, value)| *value);
        if found.is_none() {
            let all: Vec<String> = words.iter().map(|(word, _)| format!("\"{word}\"")).collect();
            self.fault(
                text.line,
                format!("{}cannot be {:?}", self.label(key), text.value),
                format!("choose one of {}", all.join(", ")),
            );
        }
        found
    }

    /// A path: a relative one is relative to the file it stands in.
    pub fn path(&self, key: &'static str) -> Option<Placed<PathBuf>> {
        let text = self.text(key)?;
        Some(Placed { value: self.resolve(text)?, line: text.line })
    }

    /// Paths: relative ones are relative to the file they stand in.
    pub fn paths(&self, key: &'static str) -> Option<Vec<Placed<PathBuf>>> {
        let texts = self.texts(key)?;
        let resolved =
            texts.into_iter().filter_map(|text| Some(Placed { value: self.resolve(text)?, line: text.line }));
        Some(resolved.collect())
    }

    fn resolve(&self, text: Placed<&str>) -> Option<PathBuf> {
        if text.value.is_empty() || text.value.contains('\0') {
            self.fault(text.line, "a path is empty or holds a NUL", "write the path of a file");
            return None;
        }
        let directory = self.file().parent().unwrap_or(Path::new(""));
        Some(directory.join(text.value))
    }

    /// A list of strings; one string alone counts as a list of one.
    pub fn texts(&self, key: &'static str) -> Option<Vec<Placed<&'a str>>> {
        let entry = self.entry(key)?;
        let texts = self.items(key, &entry.item).into_iter().filter_map(|item| match &item.value {
            Value::Text(text) => Some(Placed { value: text.as_str(), line: item.line }),
            _ => {
                self.wrong_element(key, item, "a list of strings", "[\"…\"]");
                None
            }
        });
        Some(texts.collect())
    }

    /// A list of ids from 0 to `u32::MAX - 1`; one integer alone counts as a list of one.
    pub fn ids(&self, key: &'static str) -> Option<Vec<Placed<u32>>> {
        let entry = self.entry(key)?;
        let ids = self.items(key, &entry.item).into_iter().filter_map(|item| {
            let Value::Integer(integer) = item.value else {
                self.wrong_element(key, item, "a list of integers", "[1000]");
                return None;
            };
            // u32::MAX is (uid_t)-1, "no one" (setresuid(2)).
            let id = integer.and_then(|id| u32::try_from(id).ok()).filter(|id| *id != u32::MAX);
            if id.is_none() {
                self.fault(
                    item.line,
                    format!("{}holds an id out of range", self.label(key)),
                    "ids are 0 to 4294967294",
                );
            }
            Some(Placed { value: id?, line: item.line })
        });
        Some(ids.collect())
    }

    /// A list whose elements are integers or words: each is given to `read`, which names what it wanted if it refuses.
    pub fn mixed<T>(
        &self,
        key: &'static str,
        wanted: &str,
        read: impl Fn(Result<i64, &str>) -> Option<T>,
    ) -> Option<Vec<Placed<T>>> {
        let entry = self.entry(key)?;
        let values = self.items(key, &entry.item).into_iter().filter_map(|item| {
            let value = match &item.value {
                Value::Integer(Some(integer)) => read(Ok(*integer)),
                Value::Text(text) => read(Err(text)),
                _ => None,
            };
            if value.is_none() {
                self.fault(
                    item.line,
                    format!("{}holds something it cannot", self.label(key)),
                    format!("give {wanted}"),
                );
            }
            Some(Placed { value: value?, line: item.line })
        });
        Some(values.collect())
    }

    fn items<'b>(&self, key: &str, item: &'b Item) -> Vec<&'b Item> {
        match &item.value {
            Value::Array(items) => {
                if items.is_empty() {
                    self.fault(
                        item.line,
                        format!("{}is an empty list", self.label(key)),
                        "name at least one, or leave the key out",
                    );
                }
                items.iter().collect()
            }
            _ => vec![item],
        }
    }

    /// An integer within `range`.
    pub fn integer(&self, key: &'static str, range: RangeInclusive<u64>) -> Option<Placed<u64>> {
        let entry = self.entry(key)?;
        let Value::Integer(integer) = entry.item.value else {
            self.wrong_type(key, &entry.item, "an integer", &range.start().to_string());
            return None;
        };
        let within =
            integer.and_then(|integer| u64::try_from(integer).ok()).filter(|integer| range.contains(integer));
        if within.is_none() {
            self.fault(
                entry.item.line,
                format!("{}is out of range", self.label(key)),
                format!("give a number from {} to {}", range.start(), range.end()),
            );
        }
        Some(Placed { value: within?, line: entry.item.line })
    }

    /// True or false.
    pub fn boolean(&self, key: &'static str) -> Option<bool> {
        let entry = self.entry(key)?;
        if let Value::Boolean(boolean) = entry.item.value {
            return Some(boolean);
        }
        self.wrong_type(key, &entry.item, "true or false", "true");
        None
    }

    /// A span within `range`: a string with a unit, such as `"30s"`.
    pub fn span(&self, key: &'static str, range: RangeInclusive<Duration>) -> Option<Duration> {
        let entry = self.entry(key)?;
        let example =
            format!("\"{}\"", format_span(Duration::from_secs(30).clamp(*range.start(), *range.end())));
        let Value::Text(text) = &entry.item.value else {
            self.wrong_type(key, &entry.item, "a span (a string with a unit)", &example);
            return None;
        };
        let span = parse_span(text);
        match span {
            None => self.fault(
                entry.item.line,
                format!("{}is no span with a unit: {text:?}", self.label(key)),
                format!("write {key} = {example}; units are ms, s, m, h, d"),
            ),
            Some(span) if !range.contains(&span) => {
                self.fault(
                    entry.item.line,
                    format!("{}is out of range: {text:?}", self.label(key)),
                    format!(
                        "give a span from {} to {}",
                        format_span(*range.start()),
                        format_span(*range.end())
                    ),
                );
                return None;
            }
            Some(_) => {}
        }
        span
    }

    /// A table under `key`.
    pub fn section(&self, key: &'static str) -> Option<Self> {
        let entry = self.entry(key)?;
        self.open(key, &entry.item)
    }

    /// The tables under `[key.NAME]`, each with its name and the line of it.
    pub fn named_sections(&self, key: &'static str) -> Vec<(Placed<&'a str>, Self)> {
        let Some(outer) = self.entry(key).and_then(|entry| self.open(key, &entry.item)) else {
            return Vec::new();
        };
        let sections = outer.table.entries.iter().filter_map(|entry| {
            let section = outer.open(&entry.key, &entry.item)?;
            Some((Placed { value: entry.key.as_str(), line: entry.line }, section))
        });
        sections.collect()
    }

    /// The tables under `[[key]]`, in the order of the file.
    pub fn sections(&self, key: &'static str) -> Vec<Self> {
        let Some(entry) = self.entry(key) else { return Vec::new() };
        let Value::Array(items) = &entry.item.value else {
            self.fault(
                entry.line,
                format!("{}is {}, not a list of tables", self.label(key), entry.item.value.kind()),
                format!("write [[{key}]] with double brackets"),
            );
            return Vec::new();
        };
        items.iter().filter_map(|item| self.open(key, item)).collect()
    }

    fn open(&self, key: &str, item: &'a Item) -> Option<Self> {
        let Value::Table(table) = &item.value else {
            let heading = self.inner_name(key);
            self.fault(
                item.line,
                format!("{}is {}, not a table", self.label(key), item.value.kind()),
                format!("write a heading [{heading}] and keys below it"),
            );
            return None;
        };
        Some(Self::new(&self.inner_name(key), table, self.faults))
    }

    fn inner_name(&self, key: &str) -> String {
        if self.name.is_empty() { key.to_owned() } else { format!("{}.{key}", self.name) }
    }

    /// Reads again what was read before without telling its faults twice.
    pub fn quietly<T>(&self, read: impl FnOnce(&Self) -> T) -> T {
        let told = self.faults.count();
        let result = read(self);
        self.faults.truncate(told);
        result
    }

    /// Reports every key that no call asked for, with the nearest that is known. The last thing to do.
    pub fn finish(self) {
        self.report_unknown();
    }

    /// What [`Section::finish`] does, for a section that is borrowed.
    pub fn report_unknown(&self) {
        let known = self.known.borrow();
        for entry in &self.table.entries {
            if known.contains(&entry.key.as_str()) {
                continue;
            }
            let remedy = match nearest(&entry.key, known.iter().copied()) {
                Some(meant) => format!("did you mean \"{meant}\"?"),
                None if known.is_empty() => "remove it".to_owned(),
                None => {
                    let mut all = known.clone();
                    all.sort_unstable();
                    format!("remove it; known here: {}", all.join(", "))
                }
            };
            self.fault(
                entry.line,
                format!("{}is not a known key", self.label(&shortened(&entry.key))),
                remedy,
            );
        }
    }
}

/// A name from a file, cut where it is no name any more.
fn shortened(name: &str) -> String {
    if name.chars().nth(80).is_none() {
        name.to_owned()
    } else {
        format!("{}…", name.chars().take(80).collect::<String>())
    }
}
