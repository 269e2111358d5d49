//! Holds the rooms to their order and their doors: dependence runs one way, secrets leave by one door, and each
//! outside technology lives in one room. The rules are functions over text, so that planted faults prove them.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// Rooms, lowest first: each may use those before it and no other.
const ROOMS: [&str; 15] = [
    "sys", "model", "document", "caller", "policy", "store", "audit", "access", "tree", "config", "fuse",
    "keeper", "control", "daemon", "cli",
];

/// Outside crates and words, and the one place each may appear in.
const GUARDED: [(&str, &[&str]); 11] = [
    ("fuser", &["fuse/"]),
    ("libc", &["sys/"]),
    ("unsafe", &["sys/"]),
    ("rusqlite", &["store/local/"]),
    ("clap", &["cli/"]),
    ("chacha20poly1305", &["store/sealed/"]),
    ("ed25519_dalek", &["audit/", "daemon/sample/"]),
    ("toml", &["document/"]),
    ("reqwest", &["store/http/"]),
    ("rustls", &["store/http/"]),
    ("secrecy", &["model/secret.rs"]),
];

/// Files that may look at the bytes of a secret, and why.
const MAY_EXPOSE: [(&str, &str); 19] = [
    ("model/secret.rs", "makes the one copy that is ever made"),
    ("store/local/seal.rs", "seals a value under its data key"),
    ("store/sealed/envelope.rs", "hands what was left to the tree that goes on with it"),
    ("store/sealed/key.rs", "writes the key file that `init` and `rekey` make"),
    ("store/sealed/log.rs", "hands a record to whoever wrote it"),
    ("store/dynamic/book.rs", "seals what was minted before it is handed out"),
    ("store/vault/minting.rs", "puts certificates and keys together into the files that programs read"),
    ("store/http/exchange.rs", "lends a token or a body to the client that sends it"),
    ("store/http/json.rs", "writes a value into the body that stores it"),
    ("store/http/reply.rs", "reads the answer that holds a value"),
    ("store/vault/login/method.rs", "takes the line of a token out of its file"),
    ("store/vault/login/unwrap.rs", "tells whether a wrapping token was opened before"),
    ("store/remote/record.rs", "writes what is left to a successor, or lies sealed on disk"),
    ("store/remote/numbers.rs", "takes the fingerprint of a content that its engine does not number"),
    ("store/remote/held.rs", "finds that two logins were given the same bytes"),
    ("access/read.rs", "the door: what was permitted, fetched and recorded"),
    ("control/wire.rs", "hands a value over the control socket"),
    ("cli/input.rs", "takes values in: newline warning, JSON, base64"),
    ("cli/output.rs", "prints what was asked for on standard output"),
];

/// The longest a file may be, in lines, its tests not counted.
const LINES_MAX: usize = 500;

struct Source {
    /// Path below `src`, with slashes.
    path: String,
    text: String,
}

impl Source {
    fn room(&self) -> &str {
        self.path.split(['/', '.']).next().unwrap_or_default()
    }

    /// The code without comments, strings and the unit tests at its end.
    fn code(&self) -> String {
        let text = self.text.split("\n#[cfg(test)]\n").next().unwrap_or_default();
        strip(text)
    }
}

/// Blanks comments and literals, so that words in them are not taken for code.
fn strip(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(character) = rest.chars().next() {
        let literal = literal_length(rest, out.chars().next_back());
        if rest.starts_with("//") {
            rest = &rest[rest.find('\n').unwrap_or(rest.len())..];
        } else if literal > 0 {
            out.push_str("\"\"");
            out.extend(rest[..literal].chars().filter(|c| *c == '\n'));
            rest = &rest[literal..];
        } else {
            out.push(character);
            rest = &rest[character.len_utf8()..];
        }
    }
    out
}

/// The length of the string or character literal that `rest` begins with; 0 where it begins with none.
fn literal_length(rest: &str, before: Option<char>) -> usize {
    if let Some(hashes) = rest.strip_prefix('r').and_then(|raw| raw.find('"').map(|at| &raw[..at])) {
        let starts_word = !before.is_some_and(|c| c.is_alphanumeric() || c == '_');
        if starts_word && hashes.chars().all(|c| c == '#') {
            let open = 1 + hashes.len() + 1;
            let close = format!("\"{hashes}");
            return rest[open..].find(&close).map_or(rest.len(), |end| open + end + close.len());
        }
    }
    let quote = match rest.as_bytes() {
        [b'"', ..] => '"',
        // A lifetime is no literal: its second character is no quote and no backslash.
        [b'\'', b'\\', ..] | [b'\'', _, b'\'', ..] => '\'',
        _ => return 0,
    };
    let mut characters = rest.char_indices().skip(1);
    while let Some((at, character)) = characters.next() {
        match character {
            '\\' => drop(characters.next()),
            _ if character == quote => return at + 1,
            _ => {}
        }
    }
    rest.len()
}

/// The rooms a source names: `crate::room`, also in a group, and `super` chains that leave the room.
fn rooms_used(source: &Source) -> BTreeSet<String> {
    let code = source.code();
    let mut used = BTreeSet::new();
    for (at, _) in code.match_indices("crate::") {
        let after = &code[at + "crate::".len()..];
        if let Some(group) = after.strip_prefix('{') {
            let mut depth = 1;
            let mut word = String::new();
            for character in group.chars() {
                match character {
                    '{' => depth += 1,
                    '}' => depth -= 1,
                    ',' if depth == 1 => {
                        used.insert(std::mem::take(&mut word));
                        continue;
                    }
                    _ => {}
                }
                if depth == 0 {
                    break;
                }
                word.push(character);
            }
            used.insert(word);
        } else {
            used.insert(after.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect());
        }
    }
    used.iter()
        .map(|name| name.trim().split("::").next().unwrap_or_default().trim().to_owned())
        .filter(|name| !name.is_empty())
        .collect()
}

fn is_word_in(code: &str, word: &str) -> bool {
    code.match_indices(word).any(|(at, _)| {
        let before = code[..at].chars().next_back();
        let after = code[at + word.len()..].chars().next();
        let part = |c: Option<char>| c.is_some_and(|c| c.is_alphanumeric() || c == '_');
        !part(before) && !part(after)
    })
}

/// Every breach of the house rules in one source.
fn breaches(source: &Source) -> Vec<String> {
    let mut found = Vec::new();
    let path = &source.path;
    if !source.text.starts_with("//!") {
        found.push(format!("{path}: does not begin with a //! line that says its job"));
    }
    let code = source.code();
    if code.lines().count() > LINES_MAX {
        found.push(format!("{path}: longer than {LINES_MAX} lines: is there more than one noun here?"));
    }
    if path == "main.rs" || path == "lib.rs" {
        return found;
    }
    let Some(own) = ROOMS.iter().position(|room| *room == source.room()) else {
        found.push(format!("{path}: belongs to no room of the plan"));
        return found;
    };
    for used in rooms_used(source) {
        match ROOMS.iter().position(|room| *room == used) {
            Some(other) if other <= own => {}
            Some(_) => found.push(format!("{path}: uses {used}, which stands above it")),
            None => found.push(format!("{path}: names crate::{used}, which is no room")),
        }
    }
    let depth = path.matches('/').count() + usize::from(!path.ends_with("mod.rs"));
    if code.contains(&vec!["super"; depth].join("::")) {
        found.push(format!("{path}: leaves its room by super::"));
    }
    for (word, places) in GUARDED {
        if is_word_in(&code, word) && !places.iter().any(|place| path.starts_with(place)) {
            found.push(format!("{path}: names {word}, which lives in {places:?} alone"));
        }
    }
    if code.contains(".expose()") && !MAY_EXPOSE.iter().any(|(place, _)| path.starts_with(place)) {
        found.push(format!("{path}: looks at secret bytes; say why in MAY_EXPOSE, or do not"));
    }
    for name in ["util", "utils", "common", "helpers", "misc", "constants"] {
        if path.split(['/', '.']).any(|part| part == name) {
            found.push(format!("{path}: {name} is a drawer, not a noun"));
        }
    }
    found
}

fn sources() -> Vec<Source> {
    fn collect(directory: &Path, root: &Path, into: &mut Vec<Source>) {
        let mut entries: Vec<PathBuf> =
            std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()).collect();
        entries.sort();
        for entry in entries {
            if entry.is_dir() {
                collect(&entry, root, into);
            } else if entry.extension().is_some_and(|extension| extension == "rs") {
                let path = entry.strip_prefix(root).unwrap().to_str().unwrap().to_owned();
                into.push(Source { path, text: std::fs::read_to_string(&entry).unwrap() });
            }
        }
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut into = Vec::new();
    collect(&root, &root, &mut into);
    into
}

#[test]
fn the_house_is_in_order() {
    let found: Vec<String> = sources().iter().flat_map(breaches).collect();
    assert!(found.is_empty(), "\n{}", found.join("\n"));
}

#[test]
fn lib_rs_lists_the_rooms_in_their_order() {
    let lib = sources().into_iter().find(|source| source.path == "lib.rs").unwrap();
    let listed: Vec<String> = lib
        .text
        .lines()
        .filter_map(|line| line.strip_prefix("pub mod ")?.strip_suffix(';').map(str::to_owned))
        .collect();
    assert_eq!(listed, ROOMS);
    assert!(!lib.text.contains("pub use"), "a re-export at the top would hide which room a word is from");
}

#[test]
fn every_planted_fault_is_found() {
    let fine = "//! Job.\n";
    for (path, text, word) in [
        ("policy/mod.rs", "fn f() { crate::store::x() }", "stands above"),
        ("store/mod.rs", "use crate::{\n    model::{A, B},\n    audit::C,\n};", "stands above"),
        ("model/mod.rs", "use crate::nowhere::X;", "no room"),
        ("tree/list.rs", "use super::super::access::Gate;", "leaves its room"),
        ("tree/list.rs", "use fuser::INodeNo;", "lives in"),
        ("tree/list.rs", "fn f() { unsafe { g() } }", "lives in"),
        ("audit/mod.rs", "use rusqlite::Connection;", "lives in"),
        ("tree/list.rs", "fn f(s: &S) { s.expose(); }", "looks at secret bytes"),
        ("tree/util.rs", "", "drawer"),
        ("cellar/mod.rs", "", "no room of the plan"),
    ] {
        let source = Source { path: path.to_owned(), text: format!("{fine}{text}\n") };
        let found = breaches(&source);
        assert!(found.iter().any(|breach| breach.contains(word)), "{path}: {text}: {found:?}");
    }
    let long =
        Source { path: "tree/list.rs".to_owned(), text: fine.to_owned() + &"x();\n".repeat(LINES_MAX + 1) };
    assert!(breaches(&long).iter().any(|breach| breach.contains("longer than")));
    let silent = Source { path: "tree/list.rs".to_owned(), text: "fn f() {}\n".to_owned() };
    assert!(breaches(&silent).iter().any(|breach| breach.contains("//!")));
}

#[test]
fn words_in_comments_and_strings_are_not_code() {
    let source = Source {
        path: "model/mod.rs".to_owned(),
        text: "//! Job.\n// crate::cli unsafe\nfn f() { g(\"crate::cli \\\" unsafe\"); } // fuser\n"
            .to_owned(),
    };
    assert_eq!(breaches(&source), Vec::<String>::new());
}
