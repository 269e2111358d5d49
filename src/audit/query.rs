//! Asking the log. Lines are searched as bytes: the log escapes every quotation mark inside a text, so that
//! `,"secret":"…` stands nowhere but where it means what it says, and nothing needs to be parsed.

use std::collections::VecDeque;
use std::io;
use std::path::Path;

use memchr::memmem::{self, Finder};

use super::files::{
    LINE_BYTES_MAX, Part, line_at, next_line_start, part_at, parts, read_up_to, rotated_numbers, rotated_path,
};
use super::record::{number, text, word};
use crate::model::{Operation, Outcome, UnixTime, Version};

/// Which records are wanted: all that hold for every part that is given.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    /// Of this secret, and of those below it.
    pub secret: Option<String>,
    /// Of this field.
    pub field: Option<String>,
    /// Of this version.
    pub version: Option<Version>,
    /// Written at this moment or later.
    pub since: Option<UnixTime>,
    /// Written before this moment.
    pub until: Option<UnixTime>,
    /// What was asked.
    pub operation: Option<Operation>,
    /// What came of it.
    pub outcome: Option<Outcome>,
    /// Who asked.
    pub uid: Option<u32>,
    /// The systemd unit that asked.
    pub unit: Option<String>,
    /// The youngest first.
    pub newest_first: bool,
}

/// Records that hold, each one line of JSON. One file is searched at a time.
pub struct Records {
    parts: VecDeque<Part>,
    search: Search,
    newest_first: bool,
    found: VecDeque<String>,
}

/// The records of the log at `path` for which `filter` holds.
///
/// # Errors
/// Where a file cannot be opened; `NotFound` where there is no log.
pub fn query(path: &Path, filter: &Filter) -> io::Result<Records> {
    Ok(Records {
        parts: parts(path)?.into(),
        search: Search::new(filter),
        newest_first: filter.newest_first,
        found: VecDeque::new(),
    })
}

impl Iterator for Records {
    type Item = io::Result<String>;
    fn next(&mut self) -> Option<Self::Item> {
        while self.found.is_empty() {
            let part = if self.newest_first { self.parts.pop_back() } else { self.parts.pop_front() }?;
            if let Err(error) = self.search.search(&part, &mut self.found) {
                return Some(Err(error));
            }
        }
        if self.newest_first { self.found.pop_back() } else { self.found.pop_front() }.map(Ok)
    }
}

/// The record with that number, by bisection.
///
/// # Errors
/// Where a file cannot be read; `NotFound` where there is no log.
pub fn find(path: &Path, seq: u64) -> io::Result<Option<String>> {
    // A rotation between the listing and the reading can hide a record once.
    match find_once(path, seq)? {
        None => find_once(path, seq),
        found => Ok(found),
    }
}

fn find_once(path: &Path, seq: u64) -> io::Result<Option<String>> {
    let numbers = rotated_numbers(path)?;
    let begins_before = |number: Option<&u64>| -> io::Result<Option<Part>> {
        let part = part_at(number.map_or_else(|| path.to_owned(), |number| rotated_path(path, *number)))?;
        let first = line_at(&part.file, 0)?.and_then(|line| seq_of(&line));
        Ok(first.is_some_and(|first| first <= seq).then_some(part))
    };
    if let Some(current) = begins_before(None)? {
        return find_in(&current, seq);
    }
    let (mut low, mut high, mut holder) = (0, numbers.len(), None);
    while low < high {
        let middle = low + (high - low) / 2;
        match begins_before(numbers.get(middle))? {
            Some(part) => (low, holder) = (middle + 1, Some(part)),
            None => high = middle,
        }
    }
    holder.map_or(Ok(None), |part| find_in(&part, seq))
}

fn find_in(part: &Part, seq: u64) -> io::Result<Option<String>> {
    let (mut low, mut high) = (0, part.bytes);
    // Invariant: the line begins at or after `low`, and before `high`.
    while low < high {
        let middle = next_line_start(&part.file, low + (high - low) / 2, part.bytes)?;
        let start = if middle >= high { low } else { middle };
        let Some(line) = line_at(&part.file, start)? else { return Ok(None) };
        match seq_of(&line) {
            Some(found) if found == seq => return Ok(String::from_utf8(line).ok()),
            Some(found) if found < seq => low = start + line.len() as u64 + 1,
            Some(_) => high = start,
            None => return Ok(None),
        }
    }
    Ok(None)
}

fn seq_of(line: &[u8]) -> Option<u64> {
    let digits = line.strip_prefix(b"{\"seq\":")?;
    let end = memchr::memchr(b',', digits)?;
    std::str::from_utf8(&digits[..end]).ok()?.parse().ok()
}

fn time_of(line: &[u8]) -> Option<&[u8]> {
    const NAME: &[u8] = b",\"time\":\"";
    let at = memmem::find(line, NAME)? + NAME.len();
    line.get(at..at + 27)
}

/// A wish, as bytes that must be in a line.
struct Wish {
    finder: Finder<'static>,
    /// Whether the value goes on with a slash as well (a secret below another).
    or_below: bool,
}

impl Wish {
    fn holds(&self, line: &[u8]) -> bool {
        let Some(at) = self.finder.find(line) else { return false };
        self.holds_at(line, at)
    }

    fn holds_at(&self, line: &[u8], at: usize) -> bool {
        let next = line.get(at + self.finder.needle().len());
        match next {
            Some(b'"') => self.finder.needle()[self.finder.needle().len() - 1] != b'"',
            Some(b'/') => self.or_below,
            Some(b',' | b'}') => !self.or_below,
            _ => false,
        }
    }
}

struct Search {
    /// What is searched for in whole blocks: the rarest of the wishes.
    first: Option<Wish>,
    others: Vec<Wish>,
    since: Option<String>,
    until: Option<String>,
}

impl Search {
    fn new(filter: &Filter) -> Self {
        let mut wishes = Vec::new();
        let mut wish = |write: &dyn Fn(&mut Vec<u8>), or_below: bool| {
            let mut bytes = Vec::new();
            write(&mut bytes);
            if or_below {
                // The closing quotation mark may be a slash.
                bytes.pop();
            }
            wishes.push(Wish { finder: Finder::new(&bytes).into_owned(), or_below });
        };
        // In the order of how rare they are likely to be.
        if let Some(secret) = &filter.secret {
            wish(&|line| text(line, "secret", Some(secret.trim_end_matches('/'))), true);
        }
        if let Some(unit) = &filter.unit {
            wish(&|line| text(line, "unit", Some(unit)), false);
        }
        if let Some(uid) = filter.uid {
            wish(&|line| number(line, "uid", Some(uid.into())), false);
        }
        if let Some(version) = filter.version {
            wish(&|line| number(line, "version", Some(version.get().into())), false);
        }
        if let Some(field) = &filter.field {
            wish(&|line| text(line, "field", Some(field)), false);
        }
        if let Some(outcome) = &filter.outcome {
            wish(&|line| word(line, "outcome", outcome.as_str()), false);
        }
        if let Some(operation) = &filter.operation {
            wish(&|line| word(line, "op", operation.as_str()), false);
        }
        let mut wishes = wishes.into_iter();
        Self {
            first: wishes.next(),
            others: wishes.collect(),
            since: filter.since.map(UnixTime::rfc3339),
            until: filter.until.map(UnixTime::rfc3339),
        }
    }

    fn holds(&self, line: &[u8]) -> bool {
        if !self.others.iter().all(|wish| wish.holds(line)) {
            return false;
        }
        if self.since.is_none() && self.until.is_none() {
            return true;
        }
        // All times have 27 characters, so that their order is that of their bytes.
        let Some(time) = time_of(line) else { return false };
        self.since.as_ref().is_none_or(|since| time >= since.as_bytes())
            && self.until.as_ref().is_none_or(|until| time < until.as_bytes())
    }

    /// Whether no record of the file can be in the time asked for. A file whose clock went back is always searched,
    /// and an hour is left on both sides for one that was set within it.
    fn is_out_of_time(&self, part: &Part) -> io::Result<bool> {
        if self.since.is_none() && self.until.is_none() {
            return Ok(false);
        }
        let first = line_at(&part.file, 0)?;
        let tail = next_line_start(&part.file, part.bytes.saturating_sub(4096), part.bytes)?;
        let last = line_at(&part.file, tail)?;
        let moment = |line: &Option<Vec<u8>>| {
            let text = std::str::from_utf8(time_of(line.as_deref()?)?).ok()?;
            UnixTime::parse_rfc3339(text)
        };
        let (Some(first), Some(last)) = (moment(&first), moment(&last)) else { return Ok(false) };
        let hour = std::time::Duration::from_secs(3_600);
        let text = |moment: UnixTime| moment.rfc3339();
        Ok(first <= last
            && (self.until.as_ref().is_some_and(|until| text(first.minus(hour)) >= *until)
                || self.since.as_ref().is_some_and(|since| text(last.plus(hour)) < *since)))
    }

    fn search(&self, part: &Part, found: &mut VecDeque<String>) -> io::Result<()> {
        if self.is_out_of_time(part)? {
            return Ok(());
        }
        let mut block = vec![0; (1 << 19) + LINE_BYTES_MAX];
        let (mut offset, mut filled) = (0, 0);
        loop {
            let count = read_up_to(&part.file, &mut block[filled..], offset)?;
            filled += count;
            offset += count as u64;
            let Some(end) = memchr::memrchr(b'\n', &block[..filled]).map(|at| at + 1) else { return Ok(()) };
            self.search_block(&block[..end], found);
            block.copy_within(end..filled, 0);
            filled -= end;
        }
    }

    /// Searches complete lines.
    fn search_block(&self, block: &[u8], found: &mut VecDeque<String>) {
        let mut from = 0;
        while from < block.len() {
            let hit = match &self.first {
                Some(first) => first.finder.find(&block[from..]).map(|at| from + at),
                None => Some(from),
            };
            let Some(hit) = hit else { return };
            let start = memchr::memrchr(b'\n', &block[from..hit]).map_or(from, |at| from + at + 1);
            let end = memchr::memchr(b'\n', &block[hit..]).map_or(block.len(), |at| hit + at);
            let line = &block[start..end];
            let is_first_good = self.first.as_ref().is_none_or(|first| first.holds_at(line, hit - start));
            if is_first_good
                && self.holds(line)
                && let Ok(line) = std::str::from_utf8(line)
            {
                found.push_back(line.to_owned());
            }
            from = end + 1;
        }
    }
}
