//! Policy against a model written without its code: every operation, identity, secret, field and stage of a small
//! world, and what the model says must be what policy says.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use credfs::model::{
    Facts, FieldName, SecretPath, Session, Sha256Digest, Stage, StageSet, Standing, UnixTime, Unknown,
};
use credfs::policy::{Action, Decision, DenialKind, Listing, Names, Options, Policy, Request};

// ---- the model: plain words, recursion, no cleverness ----

#[derive(Clone)]
struct Person {
    uid: u32,
    gid: u32,
    groups: Vec<u32>,
    unit: Option<&'static str>,
    container: Option<&'static str>,
    exe: &'static str,
    digest: u8,
    session: Option<u32>,
    age_s: u64,
    known: bool,
    exe_known: bool,
}

impl Facts for Person {
    fn uid(&self) -> u32 {
        self.uid
    }
    fn gid(&self) -> u32 {
        self.gid
    }
    fn is_identified(&self) -> bool {
        self.known
    }
    fn in_group(&self, gid: u32) -> Result<bool, Unknown> {
        if self.known { Ok(self.gid == gid || self.groups.contains(&gid)) } else { Err(Unknown) }
    }
    fn unit(&self) -> Result<Option<&str>, Unknown> {
        if self.known { Ok(self.unit) } else { Err(Unknown) }
    }
    fn container(&self) -> Result<Option<&str>, Unknown> {
        if self.known { Ok(self.container) } else { Err(Unknown) }
    }
    fn runs(&self, path: &Path) -> Result<bool, Unknown> {
        if self.known && self.exe_known { Ok(Path::new(self.exe) == path) } else { Err(Unknown) }
    }
    fn executable_digest(&self) -> Result<Sha256Digest, Unknown> {
        if self.known && self.exe_known { Ok(Sha256Digest([self.digest; 32])) } else { Err(Unknown) }
    }
    fn session(&self) -> Result<Session, Unknown> {
        if self.known { Ok(Session { login_uid: None, id: self.session }) } else { Err(Unknown) }
    }
    fn age(&self) -> Result<Duration, Unknown> {
        if self.known { Ok(Duration::from_secs(self.age_s)) } else { Err(Unknown) }
    }
}

struct Rule {
    to: &'static [&'static str],
    read: &'static [&'static str],
    list: &'static [&'static str],
    admin: &'static [&'static str],
    /// Letters: c, p, n, a.
    stages: &'static str,
    fields: &'static [&'static str],
    within_s: Option<u64>,
}

const NOTHING: Rule =
    Rule { to: &[], read: &[], list: &[], admin: &[], stages: "cp", fields: &[], within_s: None };

fn rules() -> Vec<Rule> {
    vec![
        Rule { to: &["orders"], read: &["prod/orders/**"], ..NOTHING },
        Rule { to: &["everyone"], list: &["prod/*/public"], fields: &["hostname"], ..NOTHING },
        Rule { to: &["staff"], list: &["prod/**"], stages: "a", ..NOTHING },
        Rule { to: &["staff"], admin: &["prod/orders/*"], ..NOTHING },
        Rule { to: &["box"], read: &["prod/orders/db"], stages: "n", fields: &["password"], ..NOTHING },
        Rule {
            to: &["agent", "digest"],
            read: &["prod/billing/db"],
            stages: "cpn",
            within_s: Some(30),
            ..NOTHING
        },
        Rule { to: &["agent"], admin: &["prod/billing/db"], fields: &["password"], ..NOTHING },
        Rule { to: &["login"], read: &["**/db"], fields: &["hostname"], stages: "a", ..NOTHING },
        Rule { to: &["workers"], read: &["*/b*/db"], ..NOTHING },
        Rule { to: &["ghost"], read: &["**"], stages: "a", ..NOTHING },
    ]
}

const IDENTITIES: &str = r#"
[identities.orders]
user = ["orders"]
unit = ["orders.service"]
[identities.staff]
group = ["staff"]
[identities.box]
container = ["0123456789ab"]
uid = [1000, 1001]
[identities.agent]
exe = ["/usr/sbin/agent"]
uid = [1001]
[identities.digest]
sha256 = ["0707070707070707070707070707070707070707070707070707070707070707"]
[identities.login]
session = [5, 6]
[identities.workers]
unit = ["worker@*.service"]
gid = [200, 300]
[identities.ghost]
user = ["ghost"]
"#;

fn is(person: &Person, identity: &str) -> bool {
    if identity == "everyone" {
        return true;
    }
    if !person.known {
        return false;
    }
    let in_group = |gid: u32| person.gid == gid || person.groups.contains(&gid);
    match identity {
        "orders" => person.uid == 1000 && person.unit == Some("orders.service"),
        "staff" => in_group(100),
        "box" => {
            (person.uid == 1000 || person.uid == 1001)
                && person.container.is_some_and(|id| &id[..12] == "0123456789ab")
        }
        "agent" => person.uid == 1001 && person.exe_known && person.exe == "/usr/sbin/agent",
        "digest" => person.exe_known && person.digest == 7,
        "login" => person.session == Some(5) || person.session == Some(6),
        "workers" => {
            person.unit.is_some_and(|unit| unit.starts_with("worker@") && unit.ends_with(".service"))
                && (in_group(200) || in_group(300))
        }
        _ => false,
    }
}

fn fits(patterns: &[&str], path: &str) -> bool {
    fn names(pattern: &[&str], path: &[&str]) -> bool {
        if pattern.is_empty() || path.is_empty() {
            return pattern.is_empty() && path.is_empty();
        }
        if pattern[0] == "**" {
            return names(&pattern[1..], &path[1..]) || names(pattern, &path[1..]);
        }
        letters(pattern[0].as_bytes(), path[0].as_bytes()) && names(&pattern[1..], &path[1..])
    }
    fn letters(shape: &[u8], name: &[u8]) -> bool {
        match (shape.first(), name.first()) {
            (None, None) => true,
            (Some(b'*'), None) => letters(&shape[1..], name),
            (Some(b'*'), Some(_)) => letters(&shape[1..], name) || letters(shape, &name[1..]),
            (Some(one), Some(other)) => one == other && letters(&shape[1..], &name[1..]),
            _ => false,
        }
    }
    let path: Vec<&str> = path.split('/').collect();
    patterns.iter().any(|pattern| names(&pattern.split('/').collect::<Vec<_>>(), &path))
}

/// A version: the stages it holds, and those it lost with how many seconds ago.
#[derive(Clone, Copy, Debug)]
struct Place {
    holds: &'static str,
    lost: Option<(u64, &'static str)>,
}

/// `y` for yes, `r` for retired, `n` for no.
fn stage_says(rule: &Rule, place: Place) -> char {
    let shares = |letters: &str| letters.chars().any(|letter| rule.stages.contains(letter));
    if rule.stages.contains('a') || shares(place.holds) {
        return 'y';
    }
    match place.lost {
        Some((ago, letters)) if shares(letters) => {
            if ago < 30 {
                'y'
            } else {
                'r'
            }
        }
        _ => 'n',
    }
}

/// What the model says: allow, hidden, denied, retired or old.
fn model(
    person: &Person,
    action: Action,
    path: &str,
    field: Option<&str>,
    place: Option<Place>,
) -> &'static str {
    let all = rules();
    let mine: Vec<&Rule> = all.iter().filter(|rule| rule.to.iter().any(|name| is(person, name))).collect();
    let field_ok =
        |rule: &Rule| rule.fields.is_empty() || field.is_none_or(|field| rule.fields.contains(&field));
    let whole_ok =
        |rule: &Rule| rule.fields.is_empty() || field.is_some_and(|field| rule.fields.contains(&field));
    let shows = |rule: &&&Rule| fits(rule.read, path) || fits(rule.list, path);
    let listing = |place: Option<Place>, with_field: bool| {
        let says: Vec<char> = mine
            .iter()
            .filter(shows)
            .filter(|rule| !with_field || field_ok(rule))
            .map(|rule| place.map_or('y', |place| stage_says(rule, place)))
            .collect();
        if says.contains(&'y') {
            "allow"
        } else if says.contains(&'r') {
            "retired"
        } else {
            "hidden"
        }
    };
    match action {
        Action::List => listing(place, true),
        Action::Admin => {
            if person.uid == 0
                || person.uid == 77
                || mine.iter().any(|rule| fits(rule.admin, path) && whole_ok(rule))
            {
                return "allow";
            }
            if listing(None, false) == "allow" { "denied" } else { "hidden" }
        }
        Action::Read => {
            let place = place.unwrap_or(Place { holds: "", lost: None });
            let readers: Vec<&&Rule> =
                mine.iter().filter(|rule| fits(rule.read, path) && whole_ok(rule)).collect();
            let young =
                |rule: &Rule| rule.within_s.is_none_or(|within| person.known && person.age_s <= within);
            let old = |rule: &Rule| rule.within_s.is_some_and(|within| person.known && person.age_s > within);
            if readers.iter().any(|rule| stage_says(rule, place) == 'y' && young(rule)) {
                "allow"
            } else if readers.iter().any(|rule| stage_says(rule, place) == 'y' && old(rule)) {
                "old"
            } else if readers.iter().any(|rule| stage_says(rule, place) == 'r') {
                "retired"
            } else {
                match listing(Some(place), true) {
                    "allow" => "denied",
                    other => other,
                }
            }
        }
    }
}

// ---- the policy, as a file ----

struct Accounts;

impl Names for Accounts {
    fn uid(&self, user: &str) -> Option<u32> {
        (user == "orders").then_some(1000)
    }
    fn gid(&self, group: &str) -> Option<u32> {
        (group == "staff").then_some(100)
    }
}

fn policy_text() -> String {
    let mut text = IDENTITIES.to_owned();
    for rule in rules() {
        let list = |key: &str, values: &[&str]| {
            let quoted: Vec<String> = values.iter().map(|value| format!("{value:?}")).collect();
            if values.is_empty() { String::new() } else { format!("{key} = [{}]\n", quoted.join(", ")) }
        };
        let stages: Vec<&str> = rule
            .stages
            .chars()
            .map(|letter| match letter {
                'c' => "current",
                'p' => "previous",
                'n' => "next",
                _ => "all",
            })
            .collect();
        text += "[[grants]]\n";
        for (key, values) in [
            ("to", rule.to),
            ("read", rule.read),
            ("list", rule.list),
            ("admin", rule.admin),
            ("fields", rule.fields),
        ] {
            text += &list(key, values);
        }
        text += &list("stages", &stages);
        if let Some(within) = rule.within_s {
            text += &format!("within = \"{within}s\"\n");
        }
    }
    text
}

fn load() -> Policy {
    let options = Options { retire_after: Duration::from_secs(30), owner_uid: 77 };
    Policy::from_texts(&[(PathBuf::from("policy.toml"), policy_text())], &options, &Accounts)
        .unwrap_or_else(|faults| panic!("{faults:#?}"))
        .policy
}

// ---- the world ----

fn people() -> Vec<Person> {
    let mut all = Vec::new();
    let accounts: [(u32, u32, &[u32]); 6] = [
        (0, 0, &[]),
        (77, 77, &[]),
        (1000, 1000, &[]),
        (1000, 1000, &[100]),
        (1001, 200, &[]),
        (1002, 100, &[300]),
    ];
    let units = [None, Some("orders.service"), Some("worker@3.service"), Some("user@1000.service")];
    let programs = [("/usr/sbin/agent", 1, true), ("/tmp/agent", 7, true), ("/usr/sbin/agent", 7, false)];
    for (uid, gid, groups) in accounts {
        for unit in units {
            for container in [None, Some("0123456789abcdef"), Some("0123456789aXcdef")] {
                for (exe, digest, exe_known) in programs {
                    for (session, age_s, known) in
                        [(None, 10, true), (Some(6), 31, true), (Some(7), 30, true), (Some(5), 1, false)]
                    {
                        let groups = groups.to_vec();
                        all.push(Person {
                            uid,
                            gid,
                            groups,
                            unit,
                            container,
                            exe,
                            digest,
                            session,
                            age_s,
                            known,
                            exe_known,
                        });
                    }
                }
            }
        }
    }
    all
}

const NOW: UnixTime = UnixTime::from_micros(10_000_000_000);

fn standing(place: Place) -> Standing {
    let set = |letters: &str| {
        letters.chars().fold(StageSet::EMPTY, |set, letter| {
            set.with(match letter {
                'c' => Stage::Current,
                'p' => Stage::Previous,
                _ => Stage::Next,
            })
        })
    };
    let lost = place.lost.map(|(ago, letters)| (NOW.minus(Duration::from_secs(ago)), set(letters)));
    Standing { held: set(place.holds), lost }
}

fn word(decision: &Decision) -> &'static str {
    match decision {
        Decision::Allow(_) => "allow",
        Decision::Deny(denial) => match denial.kind {
            DenialKind::Hidden => "hidden",
            DenialKind::Denied => "denied",
            DenialKind::Retired => "retired",
            DenialKind::TooOld => "old",
        },
    }
}

#[test]
fn policy_agrees_with_an_independent_model_on_every_cell() {
    let policy = load();
    let secrets = [
        "prod/orders",
        "prod/orders/db",
        "prod/orders/public",
        "prod/billing/db",
        "prod/orders/a/db",
        "db",
        "x/b1/db",
    ];
    let fields = [None, Some("password"), Some("hostname")];
    let places = [
        None,
        Some(Place { holds: "c", lost: None }),
        Some(Place { holds: "p", lost: Some((5, "c")) }),
        Some(Place { holds: "n", lost: None }),
        Some(Place { holds: "", lost: None }),
        Some(Place { holds: "", lost: Some((29, "p")) }),
        Some(Place { holds: "", lost: Some((30, "p")) }),
        Some(Place { holds: "", lost: Some((10, "n")) }),
        Some(Place { holds: "", lost: Some((31, "nc")) }),
        Some(Place { holds: "n", lost: Some((31, "c")) }),
    ];
    let mut cells = 0_u64;
    let mut answers: BTreeMap<&str, u64> = BTreeMap::new();
    for person in people() {
        for path in secrets {
            let secret = SecretPath::parse(path).unwrap();
            for field in fields {
                let name = field.map(|field| FieldName::parse(field).unwrap());
                for place in places {
                    let stood = place.map(standing);
                    for action in [Action::List, Action::Read, Action::Admin] {
                        let request = Request {
                            action,
                            secret: &secret,
                            field: name.as_ref(),
                            standing: stood.as_ref(),
                        };
                        let said = word(&policy.decide(&person, &request, NOW));
                        let expected = model(&person, action, path, field, place);
                        assert_eq!(
                            said, expected,
                            "{action:?} {path} {field:?} {place:?} uid {} unit {:?} container {:?} exe {} known {}",
                            person.uid, person.unit, person.container, person.exe, person.known
                        );
                        *answers.entry(expected).or_default() += 1;
                        cells += 1;
                    }
                    if let Some(stood) = &stood {
                        let listing =
                            match policy.may_list_version(&person, &secret, stood, name.as_ref(), NOW) {
                                Listing::Visible => "allow",
                                Listing::Retired => "retired",
                                Listing::Hidden => "hidden",
                            };
                        assert_eq!(listing, model(&person, Action::List, path, field, place));
                        cells += 1;
                    }
                }
            }
            let visible = model(&person, Action::List, path, None, None) == "allow";
            assert_eq!(policy.may_list(&person, &secret), visible);
        }
    }
    println!("{cells} cells agree: {answers:?}");
    assert!(cells >= 10_000);
    for answer in ["allow", "hidden", "denied", "retired", "old"] {
        assert!(answers.get(answer).is_some_and(|count| *count > 100), "{answer} hardly occurs: {answers:?}");
    }
}
