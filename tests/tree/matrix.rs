//! Operations × identities × secrets × stages, against a model written down without the policy's code.

use std::time::Duration;

use credfs::caller::Caller;
use credfs::model::{Outcome, Stage};
use credfs::tree::{ExtendedName, Kind, Wants};

use super::world::{World, outcome};

const POLICY: &str = r#"
[identities.all]
uid = [100]
[identities.lister]
uid = [101]
[identities.half]
uid = [102]
[identities.tester]
uid = [103]
[identities.historian]
uid = [104]
[identities.neighbour]
uid = [106]

[[grants]]
to = ["all"]
read = ["prod/orders/**"]
[[grants]]
to = ["lister"]
list = ["prod/orders/*"]
[[grants]]
to = ["half"]
read = ["prod/orders/db"]
fields = ["password"]
[[grants]]
to = ["tester"]
read = ["prod/orders/db"]
stages = ["next"]
[[grants]]
to = ["historian"]
read = ["prod/orders/db"]
stages = ["all"]
[[grants]]
to = ["neighbour"]
read = ["prod/other"]
[[grants]]
to = ["everyone"]
list = ["open/app"]
"#;

/// One version of one secret, as the world below is made.
struct Made {
    secret: &'static str,
    version: u32,
    stage: Option<Stage>,
    /// The stage it lost, and whether that is longer ago than `retire_after`.
    lost: Option<(Stage, bool)>,
    fields: &'static [&'static str],
}

const MADE: [Made; 8] = [
    Made {
        secret: "prod/orders/db",
        version: 1,
        stage: None,
        lost: Some((Stage::Previous, true)),
        fields: FIELDS,
    },
    Made {
        secret: "prod/orders/db",
        version: 2,
        stage: None,
        lost: Some((Stage::Previous, false)),
        fields: FIELDS,
    },
    Made { secret: "prod/orders/db", version: 3, stage: Some(Stage::Previous), lost: None, fields: FIELDS },
    Made { secret: "prod/orders/db", version: 4, stage: Some(Stage::Current), lost: None, fields: FIELDS },
    Made { secret: "prod/orders/db", version: 5, stage: Some(Stage::Next), lost: None, fields: FIELDS },
    Made {
        secret: "prod/orders/api/key",
        version: 1,
        stage: Some(Stage::Current),
        lost: None,
        fields: &["key"],
    },
    Made { secret: "prod/other", version: 1, stage: Some(Stage::Current), lost: None, fields: &["key"] },
    Made { secret: "open/app", version: 1, stage: Some(Stage::Current), lost: None, fields: &["key"] },
];
const FIELDS: &[&str] = &["password", "username"];
const UIDS: [u32; 9] = [100, 101, 102, 103, 104, 105, 106, 0, 4_000_000_000];

/// What a uid may do with a secret: nothing, list or read, with which stages and fields.
struct Right {
    read: bool,
    stages: &'static [&'static str],
    fields: Option<&'static str>,
}

const USUAL: &[&str] = &["current", "previous"];

/// The policy above, read by a person and written down again.
fn right(uid: u32, secret: &str) -> Option<Right> {
    let list = Some(Right { read: false, stages: USUAL, fields: None });
    let read = |stages, fields| Some(Right { read: true, stages, fields });
    match (uid, secret) {
        (_, "open/app") => list,
        (100, "prod/orders/db" | "prod/orders/api/key") => read(USUAL, None),
        (101, "prod/orders/db") => list,
        (102, "prod/orders/db") => read(USUAL, Some("password")),
        (103, "prod/orders/db") => read(&["next"], None),
        (104, "prod/orders/db") => read(&["all"], None),
        (106, "prod/other") => read(USUAL, None),
        _ => None,
    }
}

/// Done: it is there. Retired: it was. Hidden: it is not.
fn version_seen(uid: u32, made: &Made, field: Option<&str>) -> Outcome {
    let Some(right) = right(uid, made.secret) else { return Outcome::Hidden };
    if let (Some(only), Some(field)) = (right.fields, field)
        && only != field
    {
        return Outcome::Hidden;
    }
    let names = |stage: Stage| right.stages.contains(&stage.as_str());
    if right.stages.contains(&"all") || made.stage.is_some_and(names) {
        return Outcome::Done;
    }
    match made.lost {
        Some((stage, long_ago)) if names(stage) => {
            if long_ago {
                Outcome::Retired
            } else {
                Outcome::Done
            }
        }
        _ => Outcome::Hidden,
    }
}

fn directory_seen(uid: u32, directory: &str) -> Outcome {
    let below = |secret: &str| secret.starts_with(&format!("{directory}/")) || secret == directory;
    let seen = MADE.iter().any(|made| below(made.secret) && right(uid, made.secret).is_some());
    if seen { Outcome::Done } else { Outcome::Hidden }
}

fn made(secret: &str, pick: impl Fn(&Made) -> bool) -> Option<&'static Made> {
    MADE.iter().find(|made| made.secret == secret && pick(made))
}

/// What walking to `path` comes to; the first component that is not seen decides.
fn walked(uid: u32, path: &str) -> Outcome {
    let names: Vec<&str> = path.split('/').collect();
    for end in 1..=names.len() {
        let seen = component_seen(uid, &names[..end]);
        if seen != Outcome::Done {
            return seen;
        }
    }
    Outcome::Done
}

fn component_seen(uid: u32, names: &[&str]) -> Outcome {
    let path = names.join("/");
    if directory_seen(uid, &path) == Outcome::Done {
        return Outcome::Done;
    }
    let secret = |count: usize| names[..names.len() - count].join("/");
    let last = names[names.len() - 1];
    let is_secret = |path: &str| MADE.iter().any(|made| made.secret == path) && right(uid, path).is_some();
    if names.len() > 1 && is_secret(&secret(1)) {
        let owner = secret(1);
        if last == "versions" {
            return Outcome::Done;
        }
        if let Some(stage) = Stage::ALL.into_iter().find(|stage| stage.as_str() == last) {
            // A link is there for whom its version is there by the stage it names.
            return made(&owner, |made| made.stage == Some(stage))
                .map_or(Outcome::Hidden, |made| version_seen(uid, made, None));
        }
        let current = made(&owner, |made| made.stage == Some(Stage::Current) && made.fields.contains(&last));
        return current.map_or(Outcome::Hidden, |made| version_seen(uid, made, Some(last)));
    }
    if names.len() > 2 && names[names.len() - 2] == "versions" && is_secret(&secret(2)) {
        let version = made(&secret(2), |made| made.version.to_string() == last);
        return version.map_or(Outcome::Hidden, |made| version_seen(uid, made, None));
    }
    if names.len() > 3 && names[names.len() - 3] == "versions" && is_secret(&secret(3)) {
        let number = names[names.len() - 2];
        let version =
            made(&secret(3), |made| made.version.to_string() == number && made.fields.contains(&last));
        return version.map_or(Outcome::Hidden, |made| version_seen(uid, made, Some(last)));
    }
    Outcome::Hidden
}

/// What opening the file at `path` comes to, once it was found.
fn opened(uid: u32, path: &str) -> Option<Outcome> {
    let names: Vec<&str> = path.split('/').collect();
    let (secret, is_field) = match names.iter().position(|name| *name == "versions") {
        Some(at) => (names[..at].join("/"), names.len() == at + 3),
        None => (names[..names.len() - 1].join("/"), true),
    };
    let last = names[names.len() - 1];
    let is_field = is_field && MADE.iter().any(|made| made.secret == secret && made.fields.contains(&last));
    is_field.then(|| {
        if right(uid, &secret).is_some_and(|right| right.read) { Outcome::Done } else { Outcome::Denied }
    })
}

fn every_path() -> Vec<String> {
    let mut paths =
        vec!["nothing".to_owned(), "prod/nothing".into(), "%".into(), "prod/orders/db/%2e".into()];
    for made in &MADE {
        let names: Vec<&str> = made.secret.split('/').collect();
        paths.extend((1..=names.len()).map(|end| names[..end].join("/")));
        for name in
            ["versions", "current", "previous", "next", "password", "username", "key", "no", "%63urrent"]
        {
            paths.push(format!("{}/{name}", made.secret));
        }
        for version in ["0", "1", "2", "3", "4", "5", "6", "01", "x"] {
            paths.push(format!("{}/versions/{version}", made.secret));
            for field in ["password", "username", "key", "no"] {
                paths.push(format!("{}/versions/{version}/{field}", made.secret));
            }
        }
    }
    paths.sort();
    paths.dedup();
    paths
}

fn make_world(name: &str, policy: &str) -> World {
    let world = World::new(name, policy);
    let values = |version: u32| [("password", format!("p{version}")), ("username", format!("u{version}"))];
    let put = |stage, version| {
        let values = values(version);
        let values: Vec<_> = values.iter().map(|(name, value)| (*name, value.as_str())).collect();
        assert_eq!(world.put("prod/orders/db", stage, &values).get(), version);
    };
    put(Stage::Current, 1);
    put(Stage::Current, 2);
    put(Stage::Current, 3);
    // Version 1 lost its last stage here; the next line is more than `retire_after` later.
    world.clock.forward(Duration::from_secs(40));
    put(Stage::Current, 4);
    put(Stage::Next, 5);
    for secret in ["prod/orders/api/key", "prod/other", "open/app"] {
        world.put(secret, Stage::Current, &[("key", secret)]);
    }
    world.clock.forward(Duration::from_secs(10));
    world
}

fn check_uid(world: &World, uid: u32, caller: &Caller<'_>) -> (u64, Vec<String>) {
    let (mut cells, mut wrong) = (0, Vec::new());
    let mut compare = |what: &str, path: &str, expected: Outcome, found: Outcome| {
        cells += 1;
        if expected != found {
            wrong.push(format!("uid {uid}: {what} {path}: expected {expected:?}, found {found:?}"));
        }
    };
    for path in every_path() {
        let expected = walked(uid, &path);
        let entry = world.walk(caller, &path);
        compare("lookup", &path, expected, outcome(entry.clone()));
        let Ok(entry) = entry else { continue };
        let inode = entry.attributes.inode;
        compare("stat", &path, Outcome::Done, outcome(world.tree.attributes(caller, inode)));
        compare("xattr", &path, Outcome::Done, outcome(world.tree.extended_names(caller, inode)));
        let version = world.tree.extended(caller, inode, Some(ExtendedName::Version));
        compare("xattr", &path, Outcome::Done, outcome(version));
        let exists = Wants { read: false, execute: false };
        compare("access", &path, Outcome::Done, outcome(world.tree.access(caller, inode, exists)));
        if let Some(expected) = opened(uid, &path) {
            compare("open", &path, expected, outcome(world.open(caller, inode)));
            let read = Wants { read: true, execute: false };
            compare("access to read", &path, expected, outcome(world.tree.access(caller, inode, read)));
        } else if ["current", "previous", "next"].iter().any(|name| path.ends_with(name)) {
            compare("readlink", &path, Outcome::Done, outcome(world.tree.link_target(caller, inode)));
        } else {
            check_listing(world, uid, caller, &path, &mut compare);
        }
        if entry.attributes.kind == Kind::Directory {
            let listed = outcome(world.tree.list(&world.caller(105), inode));
            compare("list by number", &path, directory_by_number(105, &path), listed);
        }
        // What one caller was shown is no way in for another: by number he gets what he would get by name.
        for other in UIDS {
            let other_caller = world.caller(other);
            let expected = match walked(other, &path) {
                // A version's file is reached by its number whatever path led there.
                Outcome::Retired => Outcome::Done,
                outcome => outcome,
            };
            if !path.contains("versions") && opened(uid, &path).is_some() {
                let seen = outcome(world.tree.attributes(&other_caller, inode));
                compare("stat by number", &path, expected, seen);
                let seen = outcome(world.tree.extended_names(&other_caller, inode));
                compare("xattr by number", &path, expected, seen);
                let expected = if expected == Outcome::Done { opened(other, &path) } else { Some(expected) };
                compare(
                    "open by number",
                    &path,
                    expected.unwrap(),
                    outcome(world.open(&other_caller, inode)),
                );
            }
        }
    }
    (cells, wrong)
}

/// What a uid gets of a directory whose number he knows.
fn directory_by_number(uid: u32, path: &str) -> Outcome {
    let owner = path.split("/versions").next().unwrap_or(path);
    let seen = directory_seen(uid, owner) == Outcome::Done && (owner == path || right(uid, owner).is_some());
    if seen { Outcome::Done } else { Outcome::Hidden }
}

fn check_listing(
    world: &World,
    uid: u32,
    caller: &Caller<'_>,
    path: &str,
    compare: &mut impl FnMut(&str, &str, Outcome, Outcome),
) {
    let names = world.names(caller, path);
    for candidate in every_path() {
        let Some(name) = candidate.strip_prefix(&format!("{path}/")) else { continue };
        if name.contains('/') {
            continue;
        }
        let expected = if walked(uid, &candidate) == Outcome::Done { Outcome::Done } else { Outcome::Hidden };
        let listed = names.iter().any(|listed| listed == name);
        compare("list", &candidate, expected, if listed { Outcome::Done } else { Outcome::Hidden });
    }
}

#[test]
fn every_operation_shows_every_caller_exactly_what_the_model_says() {
    let world = make_world("matrix", POLICY);
    let (mut cells, mut wrong) = (0, Vec::new());
    // Twice: nothing that one caller was shown may change what the next is.
    for uid in UIDS.into_iter().chain(UIDS) {
        let caller = world.caller(uid);
        let (more, found) = check_uid(&world, uid, &caller);
        cells += more;
        wrong.extend(found);
    }
    assert!(
        wrong.is_empty(),
        "{} of {cells} cells:\n{}",
        wrong.len(),
        wrong[..wrong.len().min(40)].join("\n")
    );
    assert!(cells > 7_000, "{cells} cells");
    eprintln!("{cells} cells agree");
}

#[test]
fn a_planted_error_in_the_policy_is_found_by_the_model() {
    for (from, to) in [
        ("list = [\"prod/orders/*\"]", "read = [\"prod/orders/*\"]"),
        ("stages = [\"next\"]", "stages = [\"next\", \"current\"]"),
        ("fields = [\"password\"]", "fields = [\"username\"]"),
        ("uid = [106]", "uid = [105]"),
    ] {
        let world = make_world("planted", &POLICY.replacen(from, to, 1));
        let wrong: usize = UIDS.iter().map(|uid| check_uid(&world, *uid, &world.caller(*uid)).1.len()).sum();
        assert!(wrong > 0, "{from} -> {to} went unnoticed");
    }
}
