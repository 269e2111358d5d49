//! The audit log as an outsider reads it: lines of JSON.

use std::path::Path;

use serde_json::Value;

/// One record.
#[derive(Debug, Clone)]
pub(crate) struct Record(pub(crate) Value);

/// Records, oldest first.
#[derive(Debug, Clone, Default)]
pub(crate) struct RecordList(pub(crate) Vec<Record>);

impl Record {
    pub(crate) fn text(&self, key: &str) -> &str {
        self.0.get(key).and_then(Value::as_str).unwrap_or("")
    }

    pub(crate) fn number(&self, key: &str) -> Option<u64> {
        self.0.get(key).and_then(Value::as_u64)
    }

    /// How many requests it stands for.
    pub(crate) fn count(&self) -> u64 {
        self.number("count").unwrap_or(1)
    }

    pub(crate) fn is(&self, operation: &str, outcome: &str) -> bool {
        self.text("op") == operation && self.text("outcome") == outcome
    }

    /// Of which file: `secret/field`.
    pub(crate) fn file(&self) -> String {
        format!("{}/{}", self.text("secret"), self.text("field"))
    }
}

impl RecordList {
    /// Reads a log; a last line that is still being written is left out.
    #[track_caller]
    pub(crate) fn read(path: &Path) -> Self {
        let text =
            std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let whole = text.rfind('\n').map_or("", |end| &text[..end]);
        let records = whole.lines().map(|line| {
            assert!(!line.contains("\": ") && !line.ends_with(' '), "a record is compact JSON: {line}");
            Record(serde_json::from_str(line).unwrap_or_else(|error| panic!("no record ({error}): {line}")))
        });
        Self(records.collect())
    }

    pub(crate) fn iter(&self) -> std::slice::Iter<'_, Record> {
        self.0.iter()
    }

    pub(crate) fn all(&self, operation: &str, outcome: &str) -> Vec<&Record> {
        self.iter().filter(|record| record.is(operation, outcome)).collect()
    }

    #[track_caller]
    pub(crate) fn last(&self, operation: &str, outcome: &str) -> &Record {
        let found = self.all(operation, outcome);
        found.last().copied().unwrap_or_else(|| panic!("no {operation}/{outcome} in {self:#?}"))
    }

    /// What was handed over by opens.
    pub(crate) fn released(&self) -> usize {
        self.all("open", "released").len()
    }
}
