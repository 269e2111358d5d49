//! The proof against an attacker: a thousand changes of every kind, and not one false alarm.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use super::chain::{hash, hex_text, sign_line};
use super::keys::{KeyFile, path_beside};
use super::testing::{Scratch, open, record};
use super::*;
use crate::model::UnixTime;

/// Numbers that look random and are the same in every run (splitmix64, public domain, S. Vigna).
struct Dice(u64);

impl Dice {
    fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }
    fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.roll() % end as u64).unwrap()
    }
}

fn scale() -> u32 {
    // `CREDFS_TEST_FULL=1` has the long tests run in their full length, here as in tests/boundary.
    let usual = if std::env::var_os("CREDFS_TEST_FULL").is_some_and(|value| value == "1") {
        1_000_000
    } else {
        100_000
    };
    std::env::var("CREDFS_AUDIT_RECORDS").ok().and_then(|text| text.parse().ok()).unwrap_or(usual)
}

fn secret_of(at: u32) -> String {
    format!("prod/team{}/db{}", at % 10, at % 997)
}

#[test]
fn a_hundred_thousand_records_over_many_files_raise_no_alarm_and_are_all_found() {
    let scratch = Scratch::new();
    let path = scratch.log();
    let options = Options { segment_bytes: 4 << 20, ..Options::at(&path) };
    let (log, opened) = Log::open(options).unwrap();
    let (mut recorded, mut blocked) = (std::time::Duration::ZERO, 0);
    let mut seqs = Vec::new();
    for at in 0..scale() {
        let began = std::time::Instant::now();
        // At this pace the disk is full of work, and a rename may hold the log for longer than a recorder waits.
        let seq = loop {
            match record(&log, &secret_of(at), 7) {
                Ok(seq) => break seq,
                Err(fault) => assert_eq!(fault, NotRecorded::Blocked),
            }
            blocked += 1;
        };
        seqs.push(seq);
        recorded += began.elapsed();
        if at % 40_000 == 20_000 {
            log.settle();
            assert!(verify(&path, None).unwrap().ok, "while it is being written");
        }
    }
    drop(log);
    assert!(seqs.is_sorted_by(|a, b| a < b));
    let began = std::time::Instant::now();
    let verdict = verify(&path, opened.new_chain.as_ref()).unwrap();
    let proven = began.elapsed();
    assert!(verdict.ok && verdict.unsealed == 0 && verdict.held_key == HeldKey::Held, "{verdict:?}");
    assert!(verdict.records > u64::from(scale()));
    assert!(files::rotated_numbers(&path).unwrap().len() >= 2);

    let filter = Filter { secret: Some("prod/team3/db113".into()), ..Filter::default() };
    let began = std::time::Instant::now();
    let found = query(&path, &filter).unwrap().map(Result::unwrap).count();
    let asked = began.elapsed();
    let expected = (0..scale()).filter(|at| at % 10 == 3 && at % 997 == 113).count();
    assert_eq!(found, expected);
    let began = std::time::Instant::now();
    for at in (0..seqs.len()).step_by(seqs.len() / 100) {
        let line = find(&path, seqs[at]).unwrap().unwrap();
        assert!(line.starts_with(&format!("{{\"seq\":{},", seqs[at])));
    }
    println!(
        "{} records: record {:?} each, verify {proven:?}, who-read {asked:?}, find {:?}, blocked {blocked} times",
        scale(),
        recorded / scale(),
        began.elapsed() / 100
    );
    assert_eq!(find(&path, verdict.records + 5).unwrap(), None);
}

#[test]
fn a_filter_finds_what_a_naive_scan_finds() {
    let scratch = Scratch::new();
    let path = scratch.log();
    let log = open(&path);
    for at in 0..3_000 {
        record(&log, ["a", "a/b", "ab", "a/b/c", "q\"uote", "x"][at as usize % 6], at % 4 + 1).unwrap();
        if at % 1_000 == 999 {
            log.rotate().unwrap();
        }
    }
    drop(log);
    let all: Vec<String> = query(&path, &Filter::default()).unwrap().map(Result::unwrap).collect();
    let read: Vec<serde_json::Value> = all.iter().map(|line| serde_json::from_str(line).unwrap()).collect();
    let moment = |at: usize| UnixTime::parse_rfc3339(read[at]["time"].as_str().unwrap()).unwrap();
    let mut dice = Dice(3);
    for _ in 0..300 {
        let mut one_in = |count| dice.below(count) == 0;
        let (by_secret, by_version, by_time, by_op) = (one_in(2), one_in(2), one_in(2), one_in(3));
        let filter = Filter {
            secret: by_secret.then(|| ["a", "a/b", "q\"uote", "nothing", "a/"][dice.below(5)].to_owned()),
            version: if by_version { crate::model::Version::new(1 + dice.roll() as u32 % 5) } else { None },
            since: by_time.then(|| moment(dice.below(all.len()))),
            until: by_time.then(|| moment(dice.below(all.len()))),
            operation: by_op.then_some(crate::model::Operation::Open),
            uid: by_op.then_some([1000, 100][dice.below(2)]),
            newest_first: dice.below(2) == 0,
            ..Filter::default()
        };
        let holds = |line: &&serde_json::Value| {
            let below = |secret: &String| {
                let secret = secret.trim_end_matches('/');
                let own = line["secret"].as_str().unwrap_or("");
                own == secret || own.strip_prefix(secret).is_some_and(|rest| rest.starts_with('/'))
            };
            let time = UnixTime::parse_rfc3339(line["time"].as_str().unwrap()).unwrap();
            filter.secret.as_ref().is_none_or(below)
                && filter.version.is_none_or(|version| line["version"] == version.get())
                && filter.since.is_none_or(|since| time >= since)
                && filter.until.is_none_or(|until| time < until)
                && filter.operation.is_none_or(|_| line["op"] == "open")
                && filter.uid.is_none_or(|uid| line["uid"] == uid)
        };
        let mut expected: Vec<u64> =
            read.iter().filter(holds).map(|line| line["seq"].as_u64().unwrap()).collect();
        if filter.newest_first {
            expected.reverse();
        }
        let found: Vec<u64> = query(&path, &filter)
            .unwrap()
            .map(|line| {
                serde_json::from_str::<serde_json::Value>(&line.unwrap()).unwrap()["seq"].as_u64().unwrap()
            })
            .collect();
        assert_eq!(found, expected, "{filter:?}");
    }
}

/// A sealed log of several files, as lines.
struct Original {
    parts: Vec<(PathBuf, Vec<Vec<u8>>)>,
}

impl Original {
    fn of(path: &Path) -> Self {
        let numbers = files::rotated_numbers(path).unwrap();
        let paths = numbers.iter().map(|number| files::rotated_path(path, *number)).chain([path.to_owned()]);
        let lines = |path: &PathBuf| -> Vec<Vec<u8>> {
            let bytes = std::fs::read(path).unwrap();
            bytes.strip_suffix(b"\n").unwrap().split(|byte| *byte == b'\n').map(<[u8]>::to_vec).collect()
        };
        Self { parts: paths.map(|path| (path.clone(), lines(&path))).collect() }
    }

    fn write(path: &Path, lines: &[Vec<u8>]) {
        let mut bytes = lines.join(&b"\n"[..]);
        bytes.push(b'\n');
        std::fs::write(path, bytes).unwrap();
    }
}

fn is_seal(line: &[u8]) -> bool {
    memchr::memmem::find(line, b"\"signature\"").is_some()
}

/// Computes every `prev` after line `from` anew, as someone without keys can.
fn chain_again(lines: &mut [Vec<u8>], from: usize) {
    for at in from + 1..lines.len() {
        let prev = hex_text(&hash(&lines[at - 1]));
        let found = memchr::memmem::find(&lines[at], b"\"prev\":\"").unwrap() + 8;
        lines[at][found..found + 64].copy_from_slice(prev.as_bytes());
    }
}

/// Changes a fact in a record so that it still is one.
fn forge(line: &mut [u8]) {
    let at = memchr::memmem::find(line, b"\"time\":\"").unwrap() + 8 + 25;
    line[at] = if line[at] == b'3' { b'4' } else { b'3' };
}

/// One change to the lines of one file; the line, from 1, of the first bad record (one past the end: missing).
fn mutate(kind: usize, lines: &mut Vec<Vec<u8>>, is_last_part: bool, keys: &Path, dice: &mut Dice) -> usize {
    let count = lines.len();
    // Not the first and not the last two lines: what is around is needed to tell which of two is bad.
    let at = 1 + dice.below(count - 4);
    match kind {
        0 => {
            let byte = dice.below(lines[at].len());
            lines[at][byte] ^= 1 << dice.below(5);
            at + 1
        }
        1 => {
            lines.remove(at);
            at + 1
        }
        2 => {
            let other = 1 + dice.below(count - 4);
            lines.swap(at, other);
            if at == other {
                forge(&mut lines[at]);
            }
            at.min(other) + 1
        }
        3 => {
            lines.insert(at, lines[at].clone());
            at + 2
        }
        4 => {
            let length = 1 + dice.below(10.min(count - at - 1));
            let block: Vec<_> = lines[at..at + length].to_vec();
            let to = at + length;
            lines.splice(to..to, block);
            to + 1
        }
        5 if is_last_part => {
            lines.truncate(at);
            at
        }
        5 | 6 => {
            forge(&mut lines[at]);
            chain_again(lines, at);
            (at..count).find(|line| is_seal(&lines[*line])).unwrap() + 1
        }
        _ => {
            forge(&mut lines[at]);
            chain_again(lines, at);
            let seal = (at..count).find(|line| is_seal(&lines[*line])).unwrap();
            let held = KeyFile::open(keys.to_owned()).unwrap().keys().unwrap();
            let end = memchr::memmem::rfind(&lines[seal], b",\"signature\"").unwrap();
            lines[seal].truncate(end);
            sign_line(&mut lines[seal], &held[0].key);
            lines[seal].push(b'}');
            chain_again(lines, seal);
            seal + 1
        }
    }
}

#[test]
fn a_thousand_changes_to_a_sealed_log_are_all_found_and_the_first_bad_record_is_named() {
    let scratch = Scratch::new();
    let path = scratch.log();
    let (log, opened) = Log::open(Options { segment_records_max: 20, ..Options::at(&path) }).unwrap();
    for round in 0..3 {
        for at in 0..150 {
            record(&log, &secret_of(at), 7).unwrap();
            if at % 50 == 0 {
                log.settle();
            }
        }
        if round < 2 {
            log.rotate().unwrap();
        }
    }
    drop(log);
    let root = opened.new_chain.unwrap();
    assert!(verify(&path, Some(&root)).unwrap().ok);
    let original = Original::of(&path);
    let mut dice = Dice(20_261_123);
    let mut kinds = HashSet::new();
    for round in 0..1_000 {
        let part = dice.below(original.parts.len());
        let (file, lines) = &original.parts[part];
        let mut changed = lines.clone();
        let kind = round % 8;
        let is_last = part + 1 == original.parts.len();
        let expected = mutate(kind, &mut changed, is_last, &path_beside(&path), &mut dice);
        assert_ne!(&changed, lines);
        kinds.insert(kind);
        Original::write(file, &changed);
        let verdict = verify(&path, Some(&root)).unwrap();
        let fault = verdict.fault.unwrap_or_else(|| panic!("round {round}, kind {kind}: not found"));
        assert_eq!(
            (&fault.file, fault.line),
            (file, expected as u64),
            "round {round}, kind {kind}: {fault:?}"
        );
        Original::write(file, lines);
    }
    assert_eq!(kinds.len(), 8);
    assert!(verify(&path, Some(&root)).unwrap().ok);
}

#[test]
fn files_that_are_missing_or_exchanged_are_found() {
    let scratch = Scratch::new();
    let path = scratch.log();
    let log = open(&path);
    for _ in 0..4 {
        record(&log, "a", 1).unwrap();
        log.rotate().unwrap();
    }
    drop(log);
    let part = |number| files::rotated_path(&path, number);
    let aside = scratch.path("aside");
    for number in 1..=4 {
        std::fs::rename(part(number), &aside).unwrap();
        assert!(!verify(&path, None).unwrap().ok, "file {number} is missing");
        std::fs::rename(&aside, part(number)).unwrap();
    }
    std::fs::rename(part(2), &aside).unwrap();
    std::fs::rename(part(3), part(2)).unwrap();
    std::fs::rename(&aside, part(3)).unwrap();
    assert!(!verify(&path, None).unwrap().ok);
}

#[test]
fn a_cut_between_two_segments_is_found_by_the_keys_that_are_gone_and_by_a_checkpoint() {
    let scratch = Scratch::new();
    let path = scratch.log();
    let log = Log::open(Options { segment_records_max: 20, ..Options::at(&path) }).unwrap().0;
    for _ in 0..100 {
        record(&log, "a", 1).unwrap();
    }
    log.settle();
    let checkpoint = log.checkpoint().unwrap();
    record(&log, "a", 1).unwrap();
    drop(log);
    assert!(verify_with(&path, None, Some(&checkpoint)).unwrap().ok);
    let bytes = std::fs::read(&path).unwrap();
    let mut end = 0;
    let mut cuts = 0;
    for line in bytes.split_inclusive(|byte| *byte == b'\n') {
        end += line.len();
        if !is_seal(line) || end == bytes.len() {
            continue;
        }
        cuts += 1;
        std::fs::write(&path, &bytes[..end]).unwrap();
        let verdict = verify(&path, None).unwrap();
        assert!(!verdict.ok && verdict.held_key == HeldKey::Lost, "{verdict:?}");
        let read = line.strip_suffix(b"\n").unwrap();
        let is_before = super::chain::Link::read(read).unwrap().seq + 1 < checkpoint.records;
        std::fs::rename(path_beside(&path), scratch.path("keys")).unwrap();
        assert_eq!(verify_with(&path, None, Some(&checkpoint)).unwrap().ok, !is_before);
        std::fs::rename(scratch.path("keys"), path_beside(&path)).unwrap();
    }
    assert!(cuts >= 5);
}

#[test]
fn a_checkpoint_reads_back_and_a_changed_one_is_refused() {
    let scratch = Scratch::new();
    let log = open(&scratch.log());
    record(&log, "a", 1).unwrap();
    let text = log.checkpoint().unwrap().to_string();
    assert_eq!(text.parse::<Checkpoint>().unwrap().to_string(), text);
    let forged = text.replace("records 3", "records 2");
    assert_ne!(forged, text);
    assert!(matches!(forged.parse::<Checkpoint>(), Err(CheckpointFault::Forged)));
    assert!(matches!("hello".parse::<Checkpoint>(), Err(CheckpointFault::NoCheckpoint)));
}
