//! The parsed file as a tree of our own: every key and value with its line, in the order of the file.

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::Faults;

/// A table: keys with their values.
#[derive(Debug, Default)]
pub(super) struct Table {
    /// Where it begins.
    pub(super) line: usize,
    /// In the order of the file.
    pub(super) entries: Vec<Entry>,
}

/// One key of a table.
#[derive(Debug)]
pub(super) struct Entry {
    /// The key.
    pub(super) key: String,
    /// Where the key stands.
    pub(super) line: usize,
    /// What it is given.
    pub(super) item: Item,
}

/// A value with its line.
#[derive(Debug)]
pub(super) struct Item {
    pub(super) line: usize,
    pub(super) value: Value,
}

/// What TOML can say, as far as we use it.
#[derive(Debug)]
pub(super) enum Value {
    Text(String),
    /// `None`: beyond 64 bits.
    Integer(Option<i64>),
    Boolean(bool),
    Array(Vec<Item>),
    Table(Table),
    /// A float or a date: nothing of ours is one.
    Other(&'static str),
}

impl Value {
    /// What it is, for messages.
    pub(super) const fn kind(&self) -> &'static str {
        match self {
            Self::Text(_) => "a string",
            Self::Integer(_) => "an integer",
            Self::Boolean(_) => "a boolean",
            Self::Array(_) => "a list",
            Self::Table(_) => "a table",
            Self::Other(kind) => kind,
        }
    }
}

/// Where each line begins, to turn an offset into a line number.
struct Lines(Vec<usize>);

impl Lines {
    fn of(text: &str) -> Self {
        let ends = text.bytes().enumerate().filter(|(_, byte)| *byte == b'\n');
        Self(std::iter::once(0).chain(ends.map(|(at, _)| at + 1)).collect())
    }

    fn at(&self, offset: usize) -> usize {
        self.0.partition_point(|start| *start <= offset).max(1)
    }
}

/// Parses `text` as far as it can be understood; what cannot is a fault.
pub(super) fn parse(text: &str, faults: &Faults) -> Table {
    let lines = Lines::of(text);
    let (root, errors) = DeTable::parse_recoverable(text);
    for error in &errors {
        let line = error.span().map_or(1, |span| lines.at(span.start));
        let remedy = if error.message().contains("duplicate") {
            "give each key once, and each table one heading"
        } else {
            "write it as TOML: key = \"value\", lists in [ ], tables under [heading]"
        };
        faults.add(line, format!("not TOML: {}", error.message()), remedy);
    }
    convert_table(root.get_ref(), 1, &lines)
}

fn convert_table(table: &DeTable<'_>, line: usize, lines: &Lines) -> Table {
    let mut ordered: Vec<_> = table.iter().collect();
    ordered.sort_by_key(|(key, _)| key.span().start);
    let entries = ordered
        .into_iter()
        .map(|(key, value)| Entry {
            key: key.get_ref().to_string(),
            line: lines.at(key.span().start),
            item: convert(value, lines),
        })
        .collect();
    Table { line, entries }
}

fn convert(value: &Spanned<DeValue<'_>>, lines: &Lines) -> Item {
    let line = lines.at(value.span().start);
    let value = match value.get_ref() {
        DeValue::String(text) => Value::Text(text.to_string()),
        DeValue::Integer(integer) => {
            Value::Integer(i64::from_str_radix(integer.as_str(), integer.radix()).ok())
        }
        DeValue::Boolean(boolean) => Value::Boolean(*boolean),
        DeValue::Array(items) => Value::Array(items.iter().map(|item| convert(item, lines)).collect()),
        DeValue::Table(table) => Value::Table(convert_table(table, line, lines)),
        DeValue::Float(_) => Value::Other("a number with a point"),
        DeValue::Datetime(_) => Value::Other("a date"),
    };
    Item { line, value }
}
