//! A hundred thousand damaged policies and configurations: none panics, and none is accepted that a second reader,
//! written with serde and none of our code, finds malformed.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use credfs::config::Config;
use credfs::policy::{Names, Options, Policy};
use serde::Deserialize;

#[derive(Deserialize)]
#[serde(untagged)]
#[allow(dead_code, reason = "only whether it can be read matters")]
enum Some1<T> {
    One(T),
    Many(Vec<T>),
}

type Texts = Option<Some1<String>>;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(dead_code, reason = "only whether it can be read matters")]
struct PolicyShape {
    #[serde(default)]
    identities: BTreeMap<String, IdentityShape>,
    #[serde(default)]
    grants: Vec<GrantShape>,
    #[serde(default)]
    views: BTreeMap<String, ViewShape>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(dead_code, reason = "only whether it can be read matters")]
struct IdentityShape {
    user: Texts,
    group: Texts,
    uid: Option<Some1<u32>>,
    gid: Option<Some1<u32>>,
    unit: Texts,
    container: Texts,
    exe: Texts,
    sha256: Texts,
    session: Option<Some1<toml::Value>>,
    #[serde(default)]
    login: BTreeMap<String, toml::Table>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(dead_code, reason = "only whether it can be read matters")]
struct GrantShape {
    to: Some1<String>,
    read: Texts,
    list: Texts,
    admin: Texts,
    stages: Texts,
    fields: Texts,
    reads_per_minute: Option<u32>,
    within: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(dead_code, reason = "only whether it can be read matters")]
struct ViewShape {
    secret: String,
    field: String,
    owner: Option<String>,
    group: Option<String>,
    mode: Option<String>,
}

struct Accounts;

impl Names for Accounts {
    fn uid(&self, user: &str) -> Option<u32> {
        (user == "orders").then_some(1000)
    }
    fn gid(&self, group: &str) -> Option<u32> {
        (group == "nginx").then_some(33)
    }
}

const POLICY: &str = r#"[identities.orders]
user = ["orders"]
uid = [1000, 1001]
unit = ["orders.service", "app@*.service"]
container = ["0123456789ab"]
exe = ["/usr/sbin/orders"]
session = ["none", 7]
[identities.orders.login.central]
method = "approle"
role_id = "r"
secret_id_file = "s"
[identities.staff]
gid = [5]
[[grants]]
to = ["orders", "everyone"]
read = ["prod/orders/**", "a/*/b-*"]
stages = ["current", "next"]
fields = ["password"]
within = "30s"
reads_per_minute = 5
[[grants]]
to = ["staff"]
list = ["**"]
admin = ["x"]
[views."nginx/orders.pem"]
secret = "prod/orders/tls"
field = "bundle"
group = "nginx"
mode = "0440"
"#;

const CONFIG: &str = r#"mount_point = "/run/credfs"
[stores.main]
kind = "local"
prefix = ""
path = "/var/lib/credfs/store.db"
key_file = "store.key"
keep_versions = 0
[policy]
paths = ["policy.toml", "policy.d"]
retire_after = "30s"
[audit]
path = "audit.log"
durability = "process-safe"
segment_bytes = 16777216
[limits]
request_deadline = "5s"
handles_max = 100
[control]
socket = "control.sock"
"#;

/// xorshift64* (Vigna): the same damage in every run.
struct Dice(u64);

impl Dice {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33) as usize % bound
    }
}

const PIECES: [&str; 24] = [
    "\"",
    "[",
    "]",
    "[[",
    "]]",
    "=",
    "\n",
    ",",
    "#",
    "**",
    "..",
    "\\",
    "{",
    "}",
    "'",
    "\u{0}",
    "ü",
    "-1",
    "0x",
    "true",
    "nan",
    "1979-05-27",
    "/",
    "unknown = 1\n",
];

fn damaged(text: &str, dice: &mut Dice) -> String {
    let mut bytes = text.as_bytes().to_vec();
    for _ in 0..=dice.below(3) {
        let at = dice.below(bytes.len());
        match dice.below(6) {
            0 => bytes[at] = dice.below(128) as u8,
            1 => drop(bytes.drain(at..(at + 1 + dice.below(12)).min(bytes.len()))),
            2 => drop(bytes.splice(at..at, PIECES[dice.below(PIECES.len())].bytes())),
            3 => {
                let lines: Vec<&[u8]> = bytes.split(|byte| *byte == b'\n').collect();
                let (one, other) = (dice.below(lines.len()), dice.below(lines.len()));
                let mut lines = lines.clone();
                lines.swap(one, other);
                bytes = lines.join(&b'\n');
            }
            4 => {
                let lines: Vec<&[u8]> = bytes.split(|byte| *byte == b'\n').collect();
                let again = lines[dice.below(lines.len())].to_vec();
                let mut lines = lines.clone();
                lines.insert(dice.below(lines.len()), &again);
                bytes = lines.join(&b'\n');
            }
            _ => bytes.truncate(at + 1),
        }
        if bytes.is_empty() {
            bytes.push(b'\n');
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

const ROUNDS: usize = 50_000;

#[test]
fn no_damaged_policy_panics_or_is_taken_for_a_sound_one() {
    let whole: Result<PolicyShape, _> = toml::from_str(POLICY);
    assert!(whole.is_ok(), "the second reader takes the sound one");
    let mut dice = Dice(0x9E37_79B9_7F4A_7C15);
    let (mut accepted, mut refused) = (0, 0);
    for _ in 0..ROUNDS {
        let text = damaged(POLICY, &mut dice);
        let loaded =
            Policy::from_texts(&[(PathBuf::from("p.toml"), text.clone())], &Options::default(), &Accounts);
        match loaded {
            Ok(_) => {
                accepted += 1;
                let shape: Result<PolicyShape, _> = toml::from_str(&text);
                assert!(
                    shape.is_ok(),
                    "accepted, though {}:\n{text}",
                    shape.err().map_or_else(String::new, |error| error.to_string())
                );
            }
            Err(faults) => {
                refused += 1;
                assert!(!faults.is_empty());
                let lines = text.split('\n').count();
                for fault in faults {
                    assert!((1..=lines).contains(&fault.line) && !fault.remedy.is_empty(), "{fault}\n{text}");
                    assert!(!fault.message.contains(['\0', '\n', '\u{1b}']), "{fault}");
                }
            }
        }
    }
    println!("policies: {accepted} accepted, {refused} refused");
    assert!(accepted > ROUNDS / 50 && refused > ROUNDS / 2, "{accepted} {refused}");
}

#[test]
fn no_damaged_configuration_panics_or_is_taken_though_it_is_no_toml() {
    let mut dice = Dice(0xD1B5_4A32_D192_ED03);
    let (mut accepted, mut refused) = (0, 0);
    for _ in 0..ROUNDS {
        let text = damaged(CONFIG, &mut dice);
        match Config::from_text(Path::new("/etc/credfs/credfs.toml"), &text, 0) {
            Ok(_) => {
                accepted += 1;
                assert!(toml::from_str::<toml::Table>(&text).is_ok(), "{text}");
                assert!(!text.contains("\nunknown = 1\n") || text.contains('#'), "{text}");
            }
            Err(faults) => {
                refused += 1;
                assert!(
                    faults.iter().all(|fault| fault.line >= 1 && !fault.remedy.is_empty()),
                    "{faults:#?}\n{text}"
                );
            }
        }
    }
    println!("configurations: {accepted} accepted, {refused} refused");
    assert!(accepted > ROUNDS / 50 && refused > ROUNDS / 2, "{accepted} {refused}");
}
