//! One record as one line of compact JSON: the allow-list of what may ever be written, and how it is escaped.

use crate::model::{Operation, Outcome, Reason, Sha256Digest, Stage, UnixTime, Version};
use crate::sys::file;

/// Who asked, as far as it was read for this request. Absent facts become absent keys.
#[derive(Debug, Clone, Default)]
pub struct Who<'a> {
    /// User of the request.
    pub uid: u32,
    /// Group of the request.
    pub gid: u32,
    /// Process (thread group); absent in a foreign pid namespace.
    pub pid: Option<u32>,
    /// Thread; absent in a foreign pid namespace.
    pub tid: Option<u32>,
    /// systemd unit.
    pub unit: Option<&'a str>,
    /// Container id.
    pub container: Option<&'a str>,
    /// What `/proc/PID/exe` says: unproven, for people only.
    pub exe: Option<&'a str>,
    /// Device and inode of the executable.
    pub exe_id: Option<(u64, u64)>,
    /// Digest of the executable.
    pub exe_sha256: Option<Sha256Digest>,
    /// Who logged in.
    pub login_uid: Option<u32>,
    /// Which login.
    pub session: Option<u32>,
}

/// What a record says, apart from what the log itself adds (sequence, chain, boot and times). There is no place for
/// a value and none for free text: every text here is a name that policy, a store or the kernel gave.
#[derive(Debug, Clone)]
pub struct Entry<'a> {
    /// What was asked.
    pub operation: Operation,
    /// What came of it.
    pub outcome: Outcome,
    /// Why, as a code.
    pub reason: Option<Reason>,
    /// The rule that decided.
    pub rule: Option<&'a str>,
    /// The identity that policy gave the caller.
    pub identity: Option<&'a str>,
    /// Digest of the policy in force.
    pub policy: Option<&'a str>,
    /// The store's name.
    pub store: Option<&'a str>,
    /// The secret's path in the tree.
    pub secret: Option<&'a str>,
    /// The field.
    pub field: Option<&'a str>,
    /// The version.
    pub version: Option<Version>,
    /// The stage by which it was reached.
    pub stage: Option<Stage>,
    /// Who asked.
    pub who: Option<&'a Who<'a>>,
    /// Who opened the handle, when the reader is another.
    pub opener: Option<&'a str>,
    /// Whether the kernel sent the request a second time, after a take-over.
    pub resent: bool,
    /// How many times it happened, where several refusals share a record.
    pub count: Option<u64>,
    /// `fresh`, or stale and for how long.
    pub freshness: Option<&'a str>,
    /// Length of what was released, in bytes.
    pub bytes: Option<u64>,
    /// How long it took up to here, in microseconds.
    pub latency_us: Option<u64>,
    /// The store's own name for its request.
    pub request_id: Option<&'a str>,
    /// For whom something was minted or ended: a unit, a container or a process, by name or number.
    pub consumer: Option<&'a str>,
}

impl Entry<'_> {
    /// An entry that says nothing but what was asked and what came of it.
    #[must_use]
    pub const fn new(operation: Operation, outcome: Outcome) -> Self {
        Self {
            operation,
            outcome,
            reason: None,
            rule: None,
            identity: None,
            policy: None,
            store: None,
            secret: None,
            field: None,
            version: None,
            stage: None,
            who: None,
            opener: None,
            resent: false,
            count: None,
            freshness: None,
            bytes: None,
            latency_us: None,
            request_id: None,
            consumer: None,
        }
    }
}

/// One moment on both clocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Moment {
    /// Wall clock.
    pub time: UnixTime,
    /// Microseconds since boot.
    pub mono_us: u64,
}

impl Moment {
    /// Asks the kernel.
    #[must_use]
    pub fn now() -> Self {
        Self { time: std::time::SystemTime::now().into(), mono_us: file::boot_time_us() }
    }
}

/// Writes `{"seq":…,"prev":…,"boot_id":…,"time":…,"mono_us":…`: what every record begins with.
pub(super) fn begin(line: &mut Vec<u8>, seq: u64, prev: &[u8; 32], boot_id: &str, moment: Moment) {
    line.clear();
    line.extend_from_slice(b"{\"seq\":");
    decimal(line, seq);
    line.extend_from_slice(b",\"prev\":\"");
    hex(line, prev);
    line.extend_from_slice(b"\",\"boot_id\":\"");
    line.extend_from_slice(boot_id.as_bytes());
    line.extend_from_slice(b"\",\"time\":\"");
    moment.time.append_rfc3339(line);
    line.extend_from_slice(b"\",\"mono_us\":");
    decimal(line, moment.mono_us);
}

/// Writes the keys of an entry, each with a comma before it; `count` last, so that it can be set when the rest is
/// already written.
pub(super) fn body(line: &mut Vec<u8>, entry: &Entry<'_>) {
    word(line, "op", entry.operation.as_str());
    word(line, "outcome", entry.outcome.as_str());
    if let Some(reason) = entry.reason {
        word(line, "reason", reason.as_str());
    }
    text(line, "rule", entry.rule);
    text(line, "identity", entry.identity);
    text(line, "policy", entry.policy);
    text(line, "store", entry.store);
    text(line, "secret", entry.secret);
    text(line, "field", entry.field);
    number(line, "version", entry.version.map(|version| version.get().into()));
    text(line, "stage", entry.stage.map(Stage::as_str));
    if let Some(who) = entry.who {
        caller(line, who);
    }
    text(line, "opener", entry.opener);
    if entry.resent {
        line.extend_from_slice(b",\"resent\":true");
    }
    text(line, "freshness", entry.freshness);
    number(line, "bytes", entry.bytes);
    number(line, "latency_us", entry.latency_us);
    text(line, "request_id", entry.request_id);
    text(line, "consumer", entry.consumer);
    number(line, "count", entry.count);
}

fn caller(line: &mut Vec<u8>, who: &Who<'_>) {
    number(line, "uid", Some(who.uid.into()));
    number(line, "gid", Some(who.gid.into()));
    number(line, "pid", who.pid.map(Into::into));
    number(line, "tid", who.tid.map(Into::into));
    text(line, "unit", who.unit);
    text(line, "container", who.container);
    text(line, "exe", who.exe);
    if let Some((device, inode)) = who.exe_id {
        line.extend_from_slice(b",\"exe_id\":\"");
        decimal(line, device);
        line.push(b':');
        decimal(line, inode);
        line.push(b'"');
    }
    if let Some(digest) = &who.exe_sha256 {
        line.extend_from_slice(b",\"exe_sha256\":\"");
        hex(line, &digest.0);
        line.push(b'"');
    }
    number(line, "login_uid", who.login_uid.map(Into::into));
    number(line, "session", who.session.map(Into::into));
}

/// A word of a closed list, as the model spells it: nothing in it needs escaping.
pub(super) fn word(line: &mut Vec<u8>, name: &str, word: &str) {
    key(line, name);
    line.push(b'"');
    line.extend_from_slice(word.as_bytes());
    line.push(b'"');
}

pub(super) fn text(line: &mut Vec<u8>, name: &str, value: Option<&str>) {
    if let Some(value) = value {
        key(line, name);
        line.push(b'"');
        escape(line, value);
        line.push(b'"');
    }
}

pub(super) fn number(line: &mut Vec<u8>, name: &str, value: Option<u64>) {
    if let Some(value) = value {
        key(line, name);
        decimal(line, value);
    }
}

fn key(line: &mut Vec<u8>, name: &str) {
    line.extend_from_slice(b",\"");
    line.extend_from_slice(name.as_bytes());
    line.extend_from_slice(b"\":");
}

/// Escapes what JSON demands (RFC 8259, 7), and also DEL and the C1 controls (U+0080 to U+009F), which a terminal
/// that shows the log would obey.
pub(super) fn escape(line: &mut Vec<u8>, value: &str) {
    let bytes = value.as_bytes();
    let mut from = 0;
    let mut at = 0;
    while at < bytes.len() {
        let byte = bytes[at];
        let is_c1 = byte == 0xC2 && bytes.get(at + 1).is_some_and(|next| *next < 0xA0);
        if byte >= 0x20 && byte != b'"' && byte != b'\\' && byte != 0x7F && !is_c1 {
            at += 1;
            continue;
        }
        line.extend_from_slice(&bytes[from..at]);
        match byte {
            b'"' => line.extend_from_slice(b"\\\""),
            b'\\' => line.extend_from_slice(b"\\\\"),
            b'\n' => line.extend_from_slice(b"\\n"),
            b'\t' => line.extend_from_slice(b"\\t"),
            b'\r' => line.extend_from_slice(b"\\r"),
            _ => {
                line.extend_from_slice(b"\\u00");
                hex(line, &[if is_c1 { bytes[at + 1] } else { byte }]);
            }
        }
        at += if is_c1 { 2 } else { 1 };
        from = at;
    }
    line.extend_from_slice(&bytes[from..]);
}

/// Appends `value` in decimal. Written by hand, as below: every open waits for a dozen of these.
pub(super) fn decimal(line: &mut Vec<u8>, mut value: u64) {
    let mut digits = [0; 20];
    let mut from = digits.len();
    loop {
        from -= 1;
        digits[from] = b'0' + (value % 10) as u8;
        value /= 10;
        if value == 0 {
            break;
        }
    }
    line.extend_from_slice(&digits[from..]);
}

/// Appends `bytes` in lower-case hexadecimal.
pub(super) fn hex(line: &mut Vec<u8>, bytes: &[u8]) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    line.extend(
        bytes.iter().flat_map(|byte| [DIGITS[usize::from(byte >> 4)], DIGITS[usize::from(byte & 15)]]),
    );
}

/// Reads exactly `N` bytes from lower-case hexadecimal, the one way [`hex`] writes it.
pub(super) fn unhex<const N: usize>(text: &str) -> Option<[u8; N]> {
    let digits = text.as_bytes();
    if digits.len() != 2 * N {
        return None;
    }
    let value = |digit: u8| match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        _ => None,
    };
    let mut bytes = [0; N];
    for (at, byte) in bytes.iter_mut().enumerate() {
        *byte = value(digits[2 * at])? << 4 | value(digits[2 * at + 1])?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn line_of(entry: &Entry<'_>) -> Vec<u8> {
        let mut line = Vec::new();
        let moment = Moment { time: UnixTime::from_micros(1_795_470_300_123_456), mono_us: 17 };
        begin(&mut line, 5, &[0xAB; 32], "boot", moment);
        body(&mut line, entry);
        line.push(b'}');
        line
    }

    #[test]
    fn a_record_reads_back_as_an_independent_parser_reads_it_with_every_name_of_the_contract() {
        let who = Who {
            uid: 1000,
            gid: 100,
            pid: Some(42),
            tid: Some(43),
            unit: Some("orders.service"),
            container: Some("0123456789ab"),
            exe: Some("/usr/bin/\"od\\d\""),
            exe_id: Some((64_769, 1_234)),
            exe_sha256: Some(Sha256Digest([0xCD; 32])),
            login_uid: Some(7),
            session: Some(8),
        };
        let entry = Entry {
            reason: Some(Reason::NoReadGrant),
            rule: Some("grant 3 (policy.toml:12)"),
            identity: Some("orders"),
            policy: Some("abcd"),
            store: Some("main"),
            secret: Some("prod/orders/db"),
            field: Some("a\nb\u{1b}\u{7f}\u{9b}é日"),
            version: Version::new(7),
            stage: Some(Stage::Current),
            who: Some(&who),
            opener: Some("12"),
            resent: true,
            count: Some(3),
            freshness: Some("fresh"),
            bytes: Some(64),
            latency_us: Some(9),
            request_id: Some("r-1"),
            consumer: Some("unit orders.service"),
            ..Entry::new(Operation::Open, Outcome::Released)
        };
        let line = line_of(&entry);
        let read: serde_json::Value = serde_json::from_slice(&line).unwrap();
        assert_eq!(
            read,
            json!({"seq":5,"prev":"ab".repeat(32),"boot_id":"boot","time":"2026-11-23T21:45:00.123456Z","mono_us":17,
                "op":"open","outcome":"released","reason":"no_read_grant","rule":"grant 3 (policy.toml:12)",
                "identity":"orders","policy":"abcd","store":"main","secret":"prod/orders/db",
                "field":"a\nb\u{1b}\u{7f}\u{9b}é日","version":7,"stage":"current","uid":1000,"gid":100,"pid":42,
                "tid":43,"unit":"orders.service","container":"0123456789ab","exe":"/usr/bin/\"od\\d\"",
                "exe_id":"64769:1234","exe_sha256":"cd".repeat(32),"login_uid":7,"session":8,"opener":"12",
                "resent":true,"count":3,"freshness":"fresh","bytes":64,"latency_us":9,"request_id":"r-1",
                "consumer":"unit orders.service"})
        );
        assert!(std::str::from_utf8(&line).unwrap().chars().all(|character| !character.is_control()));
    }

    #[test]
    fn absent_facts_are_absent_keys() {
        let read: serde_json::Value =
            serde_json::from_slice(&line_of(&Entry::new(Operation::Start, Outcome::Done))).unwrap();
        let names: Vec<_> = read.as_object().unwrap().keys().map(String::as_str).collect();
        assert_eq!(names, ["boot_id", "mono_us", "op", "outcome", "prev", "seq", "time"]);
    }

    #[test]
    fn every_character_below_u_0100_and_its_neighbours_survive_escaping() {
        let all: String = (0..0x100).chain([0x2028, 0xFFFD, 0x1_F600]).filter_map(char::from_u32).collect();
        let mut line = b"\"".to_vec();
        escape(&mut line, &all);
        line.push(b'"');
        assert_eq!(serde_json::from_slice::<String>(&line).unwrap(), all);
    }

    #[test]
    fn only_the_one_way_of_writing_hexadecimal_is_read() {
        assert_eq!(unhex::<2>("0aff"), Some([10, 255]));
        for text in ["0AFF", "0af", "0aff0", "0ag0", ""] {
            assert_eq!(unhex::<2>(text), None, "{text:?}");
        }
    }
}
