//! Policies as people write them, and what they then allow.

use std::cell::RefCell;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::*;
use crate::document::Fault;
use crate::model::{
    Facts, FieldName, Reason, SecretPath, Session, Sha256Digest, Stage, StageSet, Standing, UnixTime, Unknown,
};

struct Accounts;

impl Names for Accounts {
    fn uid(&self, user: &str) -> Option<u32> {
        [("root", 0), ("orders", 1000), ("billing", 1001)]
            .iter()
            .find(|(name, _)| *name == user)
            .map(|(_, id)| *id)
    }
    fn gid(&self, group: &str) -> Option<u32> {
        [("root", 0), ("nginx", 33), ("operators", 2000)]
            .iter()
            .find(|(name, _)| *name == group)
            .map(|(_, id)| *id)
    }
}

fn load(text: &str) -> Result<Loaded, Vec<Fault>> {
    Policy::from_texts(&[(PathBuf::from("policy.toml"), text.to_owned())], &Options::default(), &Accounts)
}

fn policy(text: &str) -> Policy {
    load(text).unwrap_or_else(|faults| panic!("{faults:#?}")).policy
}

fn secret(text: &str) -> SecretPath {
    SecretPath::parse(text).unwrap()
}

fn decide_at(
    policy: &Policy,
    facts: &dyn Facts,
    action: Action,
    path: &str,
    field: &str,
    standing: Standing,
) -> Decision {
    let field = FieldName::parse(field).unwrap();
    let request = Request { action, secret: &secret(path), field: Some(&field), standing: Some(&standing) };
    policy.decide(facts, &request, UnixTime::from_micros(1_000_000_000))
}

fn read(policy: &Policy, facts: &dyn Facts, path: &str, field: &str) -> Result<String, (DenialKind, Reason)> {
    match decide_at(policy, facts, Action::Read, path, field, Standing::at(Stage::Current)) {
        Decision::Allow(permit) => Ok(format!("{} {}", permit.identity(), permit.rule())),
        Decision::Deny(denial) => Err((denial.kind, denial.reason)),
    }
}

const ORDERS: &str = r#"
[identities.orders]
user = ["orders"]
unit = ["orders.service", "orders-worker@*.service"]
[identities.orders.login.central]
method = "approle"
role_id = "r"
secret_id_file = "secret-id"
[[grants]]
to = ["orders"]
read = ["prod/orders/**"]
fields = ["password", "user*"]
[[grants]]
to = ["everyone"]
list = ["prod/orders/db"]
fields = ["password", "hostname"]
[views."nginx/orders.pem"]
secret = "prod/orders/tls"
field = "bundle"
group = "nginx"
mode = "0440"
"#;

fn orders(unit: &str) -> Assumed {
    Assumed { uid: 1000, gid: 1000, unit: Some(unit.to_owned()), ..Assumed::default() }
}

#[test]
fn the_named_service_reads_its_fields_and_others_see_what_everyone_may_list() {
    let policy = policy(ORDERS);
    let rule = "orders policy.toml:9 (grant 1)";
    assert_eq!(read(&policy, &orders("orders.service"), "prod/orders/db", "password"), Ok(rule.into()));
    assert_eq!(
        read(&policy, &orders("orders-worker@7.service"), "prod/orders/db", "username"),
        Ok(rule.into())
    );
    let hidden_field = (DenialKind::Hidden, Reason::FieldNotGranted);
    assert_eq!(read(&policy, &orders("orders.service"), "prod/orders/db", "token"), Err(hidden_field));
    let denied = (DenialKind::Denied, Reason::NoReadGrant);
    assert_eq!(read(&policy, &orders("nginx.service"), "prod/orders/db", "password"), Err(denied));
    assert_eq!(read(&policy, &orders("orders.service"), "prod/orders/db", "hostname"), Err(denied));
    let hidden = (DenialKind::Hidden, Reason::NoGrant);
    assert_eq!(
        read(&policy, &orders("orders-worker@7.service.evil.scope"), "prod/orders/x", "password"),
        Err(hidden)
    );
    assert_eq!(read(&policy, &orders("orders.service"), "prod/orders", "password"), Err(hidden));
    let root = Assumed { unit: Some("orders.service".into()), ..Assumed::default() };
    let no_root = (DenialKind::Hidden, Reason::RootWithoutGrant);
    assert_eq!(read(&policy, &root, "prod/orders/x", "password"), Err(no_root));
    let stranger = Assumed { uid: 1000, unidentified: true, ..Assumed::default() };
    let unknown = (DenialKind::Hidden, Reason::FactUnknown);
    assert_eq!(read(&policy, &stranger, "prod/orders/x", "password"), Err(unknown));
    assert!(policy.visible_to_everyone(&secret("prod/orders/db")));
    assert!(!policy.visible_to_everyone(&secret("prod/orders/x")));
    assert!(policy.login_of("orders", "central").is_some() && policy.login_of("orders", "main").is_none());
    let view = &policy.views()["nginx/orders.pem"];
    assert_eq!((view.uid, view.gid, view.mode), (None, Some(33), 0o440));
}

#[test]
fn a_directory_may_show_what_the_callers_own_patterns_could_match_below_it() {
    let policy = policy(ORDERS);
    let orders = orders("orders.service");
    let shows = |directory: &str| !policy.list_patterns_below(&orders, directory).is_empty();
    assert!(["", "prod", "prod/orders", "prod/orders/a/b"].into_iter().all(shows));
    assert!(!["dev", "prod/billing"].into_iter().any(shows));
    let shown_to_everyone = |directory: &str| !policy.everyone_patterns_below(directory).is_empty();
    assert!(shown_to_everyone("prod/orders") && !shown_to_everyone("prod/orders/db"));
}

#[test]
fn a_version_that_lost_its_stage_is_held_for_a_while_and_then_retired() {
    let policy = policy("[[grants]]\nto = [\"everyone\"]\nread = [\"a\"]\n");
    let me = Assumed::default();
    let lost_at = |micros, stage| Standing {
        held: StageSet::EMPTY,
        lost: Some((UnixTime::from_micros(micros), StageSet::of(stage))),
    };
    let kind = |standing| match decide_at(&policy, &me, Action::Read, "a", "f", standing) {
        Decision::Allow(_) => None,
        Decision::Deny(denial) => Some(denial.kind),
    };
    // It is 1000 s after the epoch, and retire_after is 30 s.
    assert_eq!(kind(lost_at(970_000_001, Stage::Previous)), None);
    assert_eq!(kind(lost_at(970_000_000, Stage::Previous)), Some(DenialKind::Retired));
    assert_eq!(kind(lost_at(999_000_000, Stage::Next)), Some(DenialKind::Hidden));
    assert_eq!(kind(Standing::default()), Some(DenialKind::Hidden));
    let request = Request { action: Action::Read, secret: &secret("a"), field: None, standing: None };
    assert!(!policy.decide(&me, &request, UnixTime::default()).is_allow(), "no standing is no stage");
}

#[test]
fn limits_bind_reads_and_the_freest_grant_counts() {
    let policy = policy(
        "[[grants]]\nto = [\"everyone\"]\nread = [\"a\", \"b\"]\nreads_per_minute = 5\n\
         [[grants]]\nto = [\"everyone\"]\nread = [\"a\"]\nreads_per_minute = 50\n\
         [[grants]]\nto = [\"everyone\"]\nread = [\"c\"]\nwithin = \"30s\"\n",
    );
    let limit = |path| match decide_at(
        &policy,
        &Assumed::default(),
        Action::Read,
        path,
        "f",
        Standing::at(Stage::Current),
    ) {
        Decision::Allow(permit) => permit.limit().map(|limit| (limit.reads_per_minute, limit.grant)),
        Decision::Deny(_) => panic!("denied"),
    };
    assert_eq!(limit("a"), Some((50, 1)));
    assert_eq!(limit("b"), Some((5, 0)));
    assert_eq!(limit("c"), None);
    let old = Assumed { age: Duration::from_secs(31), ..Assumed::default() };
    assert_eq!(read(&policy, &old, "c", "f"), Err((DenialKind::TooOld, Reason::ProcessTooOld)));
    assert!(policy.may_list(&old, &secret("c")), "names do not age");
}

#[test]
fn administrators_administer_everything_and_read_nothing() {
    let policy = policy(
        "[identities.operators]\ngroup = [\"operators\"]\n[[grants]]\nto = [\"operators\"]\nadmin = [\"a/*\"]\n\
         list = [\"b\"]\n[[grants]]\nto = [\"operators\"]\nadmin = [\"c\"]\nfields = [\"x\"]\n",
    );
    let admin = |facts: &Assumed, path: &str, field: Option<&str>| {
        let field = field.map(|field| FieldName::parse(field).unwrap());
        let request =
            Request { action: Action::Admin, secret: &secret(path), field: field.as_ref(), standing: None };
        match policy.decide(facts, &request, UnixTime::default()) {
            Decision::Allow(permit) => permit.identity().to_owned(),
            Decision::Deny(denial) => format!("{:?}", denial.kind),
        }
    };
    let root = Assumed::default();
    assert_eq!(admin(&root, "anything", None), "administrator");
    assert_eq!(read(&policy, &root, "a/b", "f"), Err((DenialKind::Hidden, Reason::RootWithoutGrant)));
    let operator = Assumed { uid: 5, gid: 5, groups: vec![2000], ..Assumed::default() };
    assert_eq!(admin(&operator, "a/b", None), "operators");
    assert_eq!(admin(&operator, "b", None), "Denied");
    assert_eq!(admin(&operator, "z", None), "Hidden");
    assert_eq!(
        (admin(&operator, "c", Some("x")), admin(&operator, "c", None)),
        ("operators".into(), "Hidden".into())
    );
    assert_eq!(admin(&operator, "c", Some("y")), "Hidden");
}

/// Facts that write down which of them were asked for.
#[derive(Default)]
struct Counting {
    inner: Assumed,
    asked: RefCell<Vec<&'static str>>,
}

impl Counting {
    fn note(&self, fact: &'static str) {
        self.asked.borrow_mut().push(fact);
    }
}

impl Facts for Counting {
    fn uid(&self) -> u32 {
        self.inner.uid()
    }
    fn gid(&self) -> u32 {
        self.inner.gid()
    }
    fn is_identified(&self) -> bool {
        self.inner.is_identified()
    }
    fn in_group(&self, gid: u32) -> Result<bool, Unknown> {
        self.note("group");
        self.inner.in_group(gid)
    }
    fn unit(&self) -> Result<Option<&str>, Unknown> {
        self.note("unit");
        self.inner.unit()
    }
    fn container(&self) -> Result<Option<&str>, Unknown> {
        self.note("container");
        self.inner.container()
    }
    fn runs(&self, path: &Path) -> Result<bool, Unknown> {
        self.note("exe");
        self.inner.runs(path)
    }
    fn executable_digest(&self) -> Result<Sha256Digest, Unknown> {
        self.note("sha256");
        self.inner.executable_digest()
    }
    fn session(&self) -> Result<Session, Unknown> {
        self.note("session");
        self.inner.session()
    }
    fn age(&self) -> Result<Duration, Unknown> {
        self.note("age");
        self.inner.age()
    }
}

#[test]
fn only_facts_that_a_rule_could_need_are_read() {
    let digest = "ab".repeat(32);
    let policy = policy(&format!(
        "[identities.digest]\nsha256 = [\"{digest}\"]\nuid = [7]\n[identities.exe]\nexe = [\"/usr/sbin/nginx\"]\n\
         [identities.unit]\nunit = [\"a.service\"]\n[identities.user]\nuid = [8]\n[identities.group]\ngid = [9]\n\
         [[grants]]\nto = [\"digest\", \"exe\", \"unit\", \"user\"]\nread = [\"a\"]\n\
         [[grants]]\nto = [\"group\"]\nlist = [\"b\"]\nfields = [\"x\"]\n\
         [[grants]]\nto = [\"digest\"]\nread = [\"c\"]\nstages = [\"next\"]\n",
    ));
    let asked = |uid, unit: Option<&str>, path: &str| {
        let facts = Counting {
            inner: Assumed { uid, gid: 1, unit: unit.map(str::to_owned), ..Assumed::default() },
            ..Counting::default()
        };
        let _answer = read(&policy, &facts, path, "f");
        let mut asked = facts.asked.into_inner();
        asked.sort_unstable();
        asked.dedup();
        asked
    };
    let none: [&str; 0] = [];
    assert_eq!(asked(8, None, "a"), none, "the uid alone allows");
    assert_eq!(asked(5, Some("a.service"), "a"), ["unit"], "the unit allows before the executable is read");
    assert_eq!(
        asked(5, None, "a"),
        ["exe", "unit"],
        "a digest is not taken where the uid is another already"
    );
    assert_eq!(asked(7, None, "a"), ["exe", "sha256", "unit"]);
    assert_eq!(asked(7, None, "z"), none, "no grant is about the path");
    assert_eq!(asked(7, None, "b"), none, "no grant is about the field");
    assert_eq!(asked(7, None, "c"), none, "no grant is about the stage");
}

fn faults_of(text: &str) -> Vec<(usize, String)> {
    match load(text) {
        Ok(_) => Vec::new(),
        Err(faults) => faults
            .into_iter()
            .map(|fault| {
                assert!(!fault.remedy.is_empty(), "{fault}");
                (fault.line, format!("{} -- {}", fault.message, fault.remedy))
            })
            .collect(),
    }
}

#[test]
fn each_kind_of_mistake_is_a_fault_at_its_line() {
    let identity = |keys: &str| format!("[identities.a]\n{keys}\n");
    let grant = |keys: &str| format!("[[grants]]\n{keys}\n");
    let view = |keys: &str| format!("[views.\"v/w\"]\n{keys}\n");
    let cases: Vec<(String, usize, &str)> = vec![
        ("[identities.a]\n".into(), 1, "no condition"),
        (identity("unit = [\"orders\"]"), 2, "orders.service"),
        (identity("unit = [\"a*.service\"]"), 2, "outside its instance"),
        (identity("unit = [\"x.slice\"]"), 2, "holds processes"),
        (identity("exe = [\"/usr/bin/python3\"]"), 2, "interpreter"),
        (identity("exe = [\"nginx\"]"), 2, "full path"),
        (identity("exe = [\"/usr/../bin/nginx\"]"), 2, "full path"),
        (identity("sha256 = [\"abc\"]"), 2, "64 hexadecimal"),
        (identity("container = [\"short\"]"), 2, "12 or more"),
        (identity("session = [\"x\"]"), 2, "any"),
        (identity("uid = [-1]"), 2, "out of range"),
        (identity("uid = [4294967295]"), 2, "out of range"),
        (identity("uid = [\"root\"]"), 2, "though it is a list of integers"),
        (identity("usr = [\"root\"]"), 2, "did you mean \"user\"?"),
        (identity("uid = [1, 1]"), 2, "twice"),
        ("[identities.everyone]\nuid = [1]\n".into(), 1, "built in"),
        ("[identities.\"a b\"]\nuid = [1]\n".into(), 1, "plain name"),
        (identity("uid = [1]\n[identities.a.login.s]\nmethod = \"jwt\"\nrole = \"r\""), 3, "jwt_file"),
        (grant("read = [\"a\"]"), 1, "to nobody"),
        (grant("to = []\nread = [\"a\"]"), 2, "empty list"),
        (grant("to = [\"everyon\"]\nread = [\"a\"]"), 2, "did you mean \"everyone\"?"),
        (grant("to = [\"everyone\"]"), 1, "lets nothing"),
        (grant("to = [\"everyone\"]\nread = [\"/a\"]"), 3, "no pattern"),
        (grant("to = [\"everyone\"]\nread = [\"a/**b\"]"), 3, "no pattern"),
        (grant("to = [\"everyone\"]\nread = [\"a\"]\nstages = [\"curent\"]"), 4, "not a stage"),
        (grant("to = [\"everyone\"]\nlist = [\"a\"]\nwithin = \"3s\""), 4, "limits reads"),
        (grant("to = [\"everyone\"]\nread = [\"a\"]\nwithin = 3"), 4, "string with a unit"),
        (format!("{0}{0}", grant("to = [\"everyone\"]\nread = [\"a\"]")), 4, "says the same"),
        (view("secret = \"a\"\ntemplate = \"x\""), 3, "use field"),
        (view("secret = \"a\"\nfield = \"b\"\nmode = \"4755\""), 4, "0440"),
        (view("secret = \"a\"\nfield = \"b\"\nmode = \"rw\""), 4, "octal"),
        (
            format!("{}[views.v]\nsecret = \"a\"\nfield = \"b\"\n", view("secret = \"a\"\nfield = \"b\"")),
            4,
            "in the way",
        ),
        ("[views.\"a/../b\"]\nsecret = \"a\"\nfield = \"b\"\n".into(), 1, "no path"),
        ("deny = 1\n".into(), 1, "not a known key"),
    ];
    for (text, line, part) in cases {
        let faults = faults_of(&text);
        assert!(faults.iter().any(|(at, fault)| *at == line && fault.contains(part)), "{text}: {faults:#?}");
    }
}

#[test]
fn a_user_not_yet_there_is_a_warning_and_never_holds() {
    let loaded =
        load("[identities.a]\nuser = [\"later\"]\n[[grants]]\nto = [\"a\"]\nread = [\"**\"]\n").unwrap();
    assert_eq!(loaded.warnings.len(), 1);
    assert_eq!(loaded.warnings[0].line, 2);
    for uid in [0, 1000, u32::MAX] {
        assert!(read(&loaded.policy, &Assumed { uid, ..Assumed::default() }, "a", "f").is_err());
    }
}

#[test]
fn an_interpreter_joined_with_a_unit_is_accepted() {
    assert!(load("[identities.a]\nexe = [\"/usr/bin/python3\"]\nunit = [\"a.service\"]\n").is_ok());
}

#[test]
fn files_and_directories_are_loaded_together_and_all_faults_told() {
    let directory = std::env::temp_dir().join(format!("credfs-policy-{}", std::process::id()));
    std::fs::create_dir_all(directory.join("d")).unwrap();
    let main = directory.join("policy.toml");
    std::fs::write(&main, "[[grants]]\nto = [\"a\"]\nread = [\"x\"]\n").unwrap();
    std::fs::write(directory.join("d/10.toml"), "[identities.a]\nuid = [1]\n").unwrap();
    std::fs::write(directory.join("d/note.txt"), "not toml [").unwrap();
    let paths = [main.clone(), directory.join("d"), directory.join("missing.d")];
    let loaded = Policy::load(&paths, &Options::default(), &SystemNames).unwrap();
    assert_eq!((loaded.policy.grant_count(), loaded.warnings.len()), (1, 1));
    std::fs::write(directory.join("d/20.toml"), "[identities.a]\nuid = [1]\nx = 1\n").unwrap();
    std::fs::write(directory.join("d/30.toml"), b"ok = 1\n\xff").unwrap();
    let faults = Policy::load(
        &[main, directory.join("d"), directory.join("no.toml")],
        &Options::default(),
        &SystemNames,
    )
    .unwrap_err();
    let files: Vec<_> = faults.iter().filter_map(|fault| fault.file.file_name()?.to_str()).collect();
    assert_eq!(files.iter().filter(|file| **file == "20.toml").count(), 2, "{faults:#?}");
    assert!(files.contains(&"30.toml") && files.contains(&"no.toml"), "{faults:#?}");
    std::fs::remove_dir_all(directory).unwrap();
}

#[test]
fn the_memory_of_paths_is_bounded() {
    let policy = policy("[[grants]]\nto = [\"everyone\"]\nread = [\"a/**\"]\n");
    for number in 0..30_000 {
        assert!(policy.may_list(&Assumed::default(), &secret(&format!("a/{number}/{}", "x".repeat(200)))));
    }
    assert!(policy.memo.bytes() <= 1024 * 1024);
}

#[test]
fn an_explanation_names_the_rule_or_what_kept_each_from_holding() {
    let policy = policy(ORDERS);
    let field = FieldName::parse("password").unwrap();
    let standing = Standing::at(Stage::Current);
    let path = secret("prod/orders/x");
    let request =
        Request { action: Action::Read, secret: &path, field: Some(&field), standing: Some(&standing) };
    let allowed = policy.explain(&orders("orders.service"), &request, UnixTime::default());
    assert_eq!((allowed.decision, allowed.identity.as_deref()), ("allow", Some("orders")));
    assert_eq!(allowed.rule.as_deref(), Some("policy.toml:9 (grant 1)"));
    let hidden = policy.explain(&orders("nginx.service"), &request, UnixTime::default());
    assert_eq!((hidden.decision, &hidden.rule), ("hidden", &None));
    assert!(hidden.considered[0].verdict.contains("unit is orders.service"), "{hidden:#?}");
    assert_eq!(hidden.readers[0].who, "uid is 1000, and unit is orders.service or orders-worker@*.service");
}

#[test]
fn what_is_learned_grants_what_was_refused_and_nothing_more() {
    let refused = |path: &str, field: Option<&str>, unit: Option<&str>| Refused {
        secret: SecretPath::from_store(path).unwrap(),
        field: field.map(|field| FieldName::parse(field).unwrap()),
        stages: Some(StageSet::of(Stage::Current)),
        uid: 1000,
        unit: unit.map(str::to_owned),
        exe: Some("/usr/bin/x\n[[grants]]\nto = [\"everyone\"]".into()),
    };
    let text = propose([
        refused("prod/a", Some("password"), Some("orders.service")),
        refused("prod/b", Some("password"), Some("orders.service")),
        refused("prod/c", None, None),
        refused("**", Some("password"), None),
        refused("prod/d", Some("*"), None),
        refused("x", Some("a\"b"), Some("we\"ird.service")).clone_with_plain_path(),
    ]);
    let policy = policy(&text);
    assert!(read(&policy, &orders("orders.service"), "prod/a", "password").is_ok(), "{text}");
    assert!(read(&policy, &orders("orders.service"), "prod/b", "password").is_ok());
    assert!(read(&policy, &orders("orders.service"), "prod/a", "other").is_err());
    assert!(read(&policy, &orders("other.service"), "prod/a", "password").is_err());
    assert!(policy.may_list(&orders("other.service"), &secret("prod/c")));
    assert!(!policy.may_list(&orders("other.service"), &secret("prod/d")));
    assert!(!policy.may_list(&orders("other.service"), &secret("prod/e")));
    assert!(!policy.may_list(&Assumed { uid: 5, ..Assumed::default() }, &secret("prod/c")));
}

impl Refused {
    /// A path cannot hold a newline; quotes it can.
    fn clone_with_plain_path(self) -> Self {
        Self { secret: SecretPath::from_store("prod/\"] x = [\"").unwrap(), ..self }
    }
}

#[test]
#[ignore = "a measurement, to be run with --release --ignored --nocapture"]
fn how_long_a_decision_takes() {
    let policy = policy(ORDERS);
    let (facts, path, field) =
        (orders("orders.service"), secret("prod/orders/db"), FieldName::parse("password").unwrap());
    let standing = Standing::at(Stage::Current);
    let request =
        Request { action: Action::Read, secret: &path, field: Some(&field), standing: Some(&standing) };
    for _ in 0..3 {
        let begun = std::time::Instant::now();
        for _ in 0..1_000_000 {
            assert!(std::hint::black_box(policy.decide(&facts, &request, UnixTime::default())).is_allow());
        }
        println!("decide: {} ns", begun.elapsed().as_nanos() / 1_000_000);
        let begun = std::time::Instant::now();
        for _ in 0..1_000_000 {
            assert!(std::hint::black_box(policy.may_list(&facts, &path)));
        }
        println!("may_list: {} ns", begun.elapsed().as_nanos() / 1_000_000);
    }
}
