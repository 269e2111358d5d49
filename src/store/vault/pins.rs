//! What credfs writes beside a secret, in the custom metadata of its KV engine. `docs/STORES.md` shows it to people.
//!
//! ```text
//! credfs.stages     upto=8 current=7 previous=6 next=8 until=1795470300
//!                   holds for versions up to 8; a later one is current by being stored. Without `upto`: for all.
//!                   `until`: version 8 is only meant if it was stored by then (seconds since 1970)
//! credfs.activated  7=1795470300123456 8=-            when a version became current (µs since 1970), or that it never was
//! credfs.lost       6=1795470300123456:current        when a version lost which stages
//! credfs.revoked    3 5-7
//! credfs.deleted    upto=8 5 6 7                      the whole secret, and which of its versions it hid
//! credfs.freed      8                                 every version up to 8 is destroyed and forgotten
//! credfs.fields     password username                 or, for one version alone, 8=password,username
//! credfs.owner  credfs.impact  credfs.rotate_every  credfs.grace
//! ```

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::ops::RangeInclusive;

use super::metadata::Metadata;
use crate::model::{
    FieldName, Impact, Ownership, Stage, StageSet, UnixTime, Version, format_span, parse_span,
};

/// The longest value that the engine keeps, in bytes.
pub(super) const VALUE_BYTES_MAX: usize = 512;

pub(super) const STAGES: &str = "credfs.stages";
pub(super) const ACTIVATED: &str = "credfs.activated";
pub(super) const LOST: &str = "credfs.lost";
pub(super) const REVOKED: &str = "credfs.revoked";
pub(super) const DELETED: &str = "credfs.deleted";
pub(super) const FREED: &str = "credfs.freed";
pub(super) const FIELDS: &str = "credfs.fields";
pub(super) const OWNER: &str = "credfs.owner";
pub(super) const IMPACT: &str = "credfs.impact";
pub(super) const ROTATE_EVERY: &str = "credfs.rotate_every";
pub(super) const GRACE: &str = "credfs.grace";

/// Where the stages point, and for which versions that was said.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct StagePin {
    /// The last version that it was said of; `None`: every one.
    pub(super) upto: Option<u32>,
    /// By when that version must have been stored, by the server's clock.
    pub(super) until: Option<UnixTime>,
    pub(super) current: Option<Version>,
    pub(super) previous: Option<Version>,
    pub(super) next: Option<Version>,
}

/// Everything that is written beside a secret.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Pins {
    pub(super) stages: Option<StagePin>,
    /// `None`: it never was current.
    pub(super) activated: BTreeMap<Version, Option<UnixTime>>,
    pub(super) lost: BTreeMap<Version, (UnixTime, StageSet)>,
    pub(super) revoked: Vec<RangeInclusive<u32>>,
    /// The newest version when the whole secret was deleted, and the versions that this hid.
    pub(super) deleted: Option<(u32, Vec<RangeInclusive<u32>>)>,
    pub(super) freed: u32,
    /// Names of fields: of one version, or of each that is not named.
    pub(super) fields: Vec<(Option<Version>, Vec<FieldName>)>,
    pub(super) ownership: Ownership,
}

pub(super) fn is_in(ranges: &[RangeInclusive<u32>], number: Version) -> bool {
    ranges.iter().any(|range| range.contains(&number.get()))
}

/// Numbers in order, as ranges.
pub(super) fn ranges_of(numbers: impl IntoIterator<Item = Version>) -> Vec<RangeInclusive<u32>> {
    let mut ranges: Vec<RangeInclusive<u32>> = Vec::new();
    for number in numbers.into_iter().map(Version::get) {
        match ranges.last_mut() {
            Some(last) if last.end().checked_add(1) == Some(number) => *last = *last.start()..=number,
            _ => ranges.push(number..=number),
        }
    }
    ranges
}

impl Pins {
    /// Reads what is written. A word that cannot be understood is passed over: people write here too.
    pub(super) fn read(metadata: &Metadata) -> Self {
        let text = |key: &str| metadata.custom.get(key).map(String::as_str);
        let words = |key: &str| text(key).unwrap_or_default().split_ascii_whitespace();
        let mut pins = Self {
            stages: text(STAGES).map(read_stages),
            revoked: words(REVOKED).filter_map(read_range).collect(),
            freed: text(FREED).and_then(|number| number.trim().parse().ok()).unwrap_or(0),
            fields: words(FIELDS).filter_map(read_fields).fold(Vec::new(), merge_fields),
            ownership: Ownership {
                owner: text(OWNER).map(str::to_owned),
                impact: text(IMPACT).and_then(read_impact),
                rotate_every: text(ROTATE_EVERY).and_then(parse_span),
                grace: text(GRACE).and_then(parse_span),
            },
            ..Self::default()
        };
        for (number, rest) in words(ACTIVATED).filter_map(|word| word.split_once('=')) {
            let when = if rest == "-" { Some(None) } else { read_time(rest).map(Some) };
            if let (Ok(number), Some(when)) = (number.parse(), when) {
                pins.activated.insert(number, when);
            }
        }
        for (number, rest) in words(LOST).filter_map(|word| word.split_once('=')) {
            let Some((when, stages)) = rest.split_once(':') else { continue };
            let set = stages.split('+').filter_map(Stage::named).fold(StageSet::EMPTY, StageSet::with);
            if let (Ok(number), Some(when)) = (number.parse(), read_time(when)) {
                pins.lost.insert(number, (when, set));
            }
        }
        if text(DELETED).is_some() {
            let upto = words(DELETED).find_map(|word| word.strip_prefix("upto=")?.parse().ok());
            let hidden = words(DELETED).filter_map(read_range).collect();
            pins.deleted = Some((upto.unwrap_or(u32::MAX), hidden));
        }
        pins
    }

    /// The fields of a version, as far as they are written.
    pub(super) fn fields_of(&self, number: Version) -> Option<&[FieldName]> {
        let named = |wanted: Option<Version>| self.fields.iter().find(move |(of, _)| *of == wanted);
        named(Some(number)).or_else(|| named(None)).map(|(_, names)| names.as_slice())
    }

    /// What is to be written. `None`: what says so is too long for the engine.
    pub(super) fn write(&self) -> Option<BTreeMap<&'static str, Option<String>>> {
        let ownership = &self.ownership;
        let span = |span: std::time::Duration| format_span(span);
        let entries = [
            (STAGES, self.stages.map(write_stages)),
            (
                ACTIVATED,
                bounded(self.activated.iter().rev().map(|(number, when)| match when {
                    Some(when) => format!("{number}={}", when.micros()),
                    None => format!("{number}=-"),
                })),
            ),
            (
                LOST,
                bounded(self.lost.iter().rev().map(|(number, (when, stages))| {
                    let names: Vec<&str> = stages.iter().map(Stage::as_str).collect();
                    format!("{number}={}:{}", when.micros(), names.join("+"))
                })),
            ),
            (REVOKED, (!self.revoked.is_empty()).then(|| write_ranges(&self.revoked))),
            (
                DELETED,
                self.deleted.as_ref().map(|(upto, hidden)| {
                    format!("upto={upto} {}", write_ranges(hidden)).trim_end().to_owned()
                }),
            ),
            (FREED, (self.freed > 0).then(|| self.freed.to_string())),
            (FIELDS, bounded(self.fields.iter().rev().map(write_fields))),
            (OWNER, ownership.owner.clone()),
            (IMPACT, ownership.impact.map(|impact| impact.as_str().to_owned())),
            (ROTATE_EVERY, ownership.rotate_every.map(span)),
            (GRACE, ownership.grace.map(span)),
        ];
        let fits = |text: &Option<String>| text.as_ref().is_none_or(|text| text.len() <= VALUE_BYTES_MAX);
        entries.iter().all(|(_, text)| fits(text)).then(|| entries.into_iter().collect())
    }
}

fn read_time(text: &str) -> Option<UnixTime> {
    text.parse().ok().map(UnixTime::from_micros)
}

fn read_impact(text: &str) -> Option<Impact> {
    [Impact::Low, Impact::Medium, Impact::High].into_iter().find(|impact| impact.as_str() == text)
}

fn read_stages(text: &str) -> StagePin {
    let mut pin = StagePin::default();
    for (key, value) in text.split_ascii_whitespace().filter_map(|word| word.split_once('=')) {
        match key {
            "upto" => pin.upto = value.parse().ok(),
            "until" => {
                let seconds: Option<i64> = value.parse().ok();
                pin.until =
                    seconds.and_then(|seconds| seconds.checked_mul(1_000_000)).map(UnixTime::from_micros);
            }
            "current" => pin.current = value.parse().ok(),
            "previous" => pin.previous = value.parse().ok(),
            "next" => pin.next = value.parse().ok(),
            _ => {}
        }
    }
    pin
}

fn write_stages(pin: StagePin) -> String {
    let mut out = String::new();
    let mut word = |key: &str, value: Option<String>| {
        if let Some(value) = value {
            let space = if out.is_empty() { "" } else { " " };
            write!(out, "{space}{key}={value}")
                .unwrap_or_else(|_| unreachable!("writing to a String cannot fail"));
        }
    };
    let number = |version: Option<Version>| version.map(|version| version.to_string());
    word("upto", pin.upto.map(|upto| upto.to_string()));
    word("current", number(pin.current));
    word("previous", number(pin.previous));
    word("next", number(pin.next));
    word("until", pin.until.map(|until| until.micros().div_euclid(1_000_000).to_string()));
    out
}

fn read_range(word: &str) -> Option<RangeInclusive<u32>> {
    let (first, last) = word.split_once('-').unwrap_or((word, word));
    Some(first.parse().ok()?..=last.parse().ok()?)
}

fn write_ranges(ranges: &[RangeInclusive<u32>]) -> String {
    let word = |range: &RangeInclusive<u32>| match (range.start(), range.end()) {
        (first, last) if first == last => first.to_string(),
        (first, last) => format!("{first}-{last}"),
    };
    ranges.iter().map(word).collect::<Vec<_>>().join(" ")
}

/// `password`, `password,username` or `8=password,username`; what these would need for themselves is percent-encoded.
fn read_fields(word: &str) -> Option<(Option<Version>, Vec<FieldName>)> {
    let (version, names) = match word.split_once('=') {
        Some((version, names)) => (Some(version.parse().ok()?), names),
        None => (None, word),
    };
    let names = names.split(',').filter_map(|name| FieldName::from_store(&decoded(name)?).ok()).collect();
    Some((version, names))
}

/// Several words without a version are one list.
fn merge_fields(
    mut all: Vec<(Option<Version>, Vec<FieldName>)>,
    (version, mut names): (Option<Version>, Vec<FieldName>),
) -> Vec<(Option<Version>, Vec<FieldName>)> {
    match all.iter_mut().find(|(of, _)| *of == version) {
        Some((_, known)) => known.append(&mut names),
        None => all.push((version, names)),
    }
    for (_, names) in &mut all {
        names.sort();
        names.dedup();
    }
    all
}

fn write_fields((version, names): &(Option<Version>, Vec<FieldName>)) -> String {
    let names: Vec<String> = names.iter().map(|name| encoded(name.as_str())).collect();
    match version {
        Some(version) => format!("{version}={}", names.join(",")),
        None => names.join(","),
    }
}

fn encoded(name: &str) -> String {
    let mut out = String::with_capacity(name.len());
    for byte in name.bytes() {
        if byte.is_ascii_graphic() && !b"%,=".contains(&byte) {
            out.push(char::from(byte));
        } else {
            write!(out, "%{byte:02X}").unwrap_or_else(|_| unreachable!("writing to a String cannot fail"));
        }
    }
    out
}

fn decoded(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        if *first == b'%' {
            bytes.push(u8::from_str_radix(std::str::from_utf8(after.get(..2)?).ok()?, 16).ok()?);
            rest = &after[2..];
        } else {
            bytes.push(*first);
            rest = after;
        }
    }
    String::from_utf8(bytes).ok()
}

/// Words from the newest version on, as many as fit, in the order of versions.
fn bounded(newest_first: impl Iterator<Item = String>) -> Option<String> {
    let mut length = 0;
    let mut words: Vec<String> = newest_first
        .take_while(|word| {
            length += word.len() + 1;
            length <= VALUE_BYTES_MAX
        })
        .collect();
    words.reverse();
    (!words.is_empty()).then(|| words.join(" "))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn number(number: u32) -> Version {
        Version::new(number).unwrap()
    }

    fn metadata(custom: BTreeMap<String, String>) -> Metadata {
        Metadata {
            newest: 9,
            revision: None,
            kept_max: 0,
            updated: UnixTime::default(),
            versions: Vec::new(),
            custom,
        }
    }

    fn written(pins: &Pins) -> Metadata {
        let entries = pins.write().unwrap();
        metadata(entries.into_iter().filter_map(|(key, text)| Some((key.to_owned(), text?))).collect())
    }

    #[test]
    fn what_is_written_is_read_again() {
        let time = UnixTime::from_micros(1_795_470_300_123_456);
        let pins = Pins {
            stages: Some(StagePin {
                upto: Some(8),
                until: Some(UnixTime::from_micros(1_795_470_300_000_000)),
                current: Some(number(7)),
                previous: None,
                next: Some(number(8)),
            }),
            activated: BTreeMap::from([(number(7), Some(time)), (number(8), None)]),
            lost: BTreeMap::from([(number(6), (time, StageSet::of(Stage::Current).with(Stage::Next)))]),
            revoked: vec![3..=3, 5..=7],
            deleted: Some((8, vec![5..=6])),
            freed: 2,
            fields: vec![
                (None, vec![FieldName::from_store("a").unwrap()]),
                (
                    Some(number(8)),
                    vec![FieldName::from_store("a,b=c %é").unwrap(), FieldName::from_store("x").unwrap()],
                ),
            ],
            ownership: Ownership {
                owner: Some("the orders team".to_owned()),
                impact: Some(Impact::High),
                rotate_every: parse_span("90d"),
                grace: parse_span("1h"),
            },
        };
        assert_eq!(Pins::read(&written(&pins)), pins);
        assert_eq!(Pins::read(&written(&Pins::default())), Pins::default());
    }

    #[test]
    fn what_nobody_understands_is_passed_over() {
        let junk = [STAGES, ACTIVATED, LOST, REVOKED, DELETED, FREED, FIELDS, IMPACT, GRACE, ROTATE_EVERY];
        let custom =
            junk.iter().map(|key| ((*key).to_owned(), "x=y,,% 9999999999999=1: - = \u{1}".to_owned()));
        let pins = Pins::read(&metadata(custom.collect()));
        assert!(pins.activated.is_empty() && pins.lost.is_empty() && pins.freed == 0);
        assert_eq!(pins.stages, Some(StagePin::default()));
    }

    #[test]
    fn the_newest_are_kept_where_not_all_fit_and_what_must_fit_says_so() {
        let time = UnixTime::from_micros(1_795_470_300_123_456);
        let activated = (1..200).map(|at| (number(at), Some(time))).collect();
        let mut pins = Pins { activated, ..Pins::default() };
        let kept = Pins::read(&written(&pins)).activated;
        assert!(kept.contains_key(&number(199)) && !kept.contains_key(&number(1)) && kept.len() > 20);
        pins.revoked = (1..400).map(|at| at * 2..=at * 2).collect();
        assert!(pins.write().is_none());
    }
}
