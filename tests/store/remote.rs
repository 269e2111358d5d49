//! What is asked of the memory in front of a remote engine, beyond what every store must do.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant};

use credfs::model::{FieldNode, Impact, Ownership, Stage, State, UnixTime};
use credfs::store::{
    CacheFile, Change, Clocks, Grace, KeySource, Login, Remote, RemoteOptions, Saying, Source, Store,
    StoreFault, StoreState, Wanted,
};
use parking_lot::Mutex;

use super::bench::{Directory, Hand, field, fresh, path, put_change, run, version};
use super::engine::{Engine, Mood, Verb};
use super::suite;

/// A machine's clocks, which tests move.
#[derive(Clone)]
pub(crate) struct Dial {
    boot_us: Arc<AtomicI64>,
    wall_us: Arc<AtomicI64>,
}

impl Dial {
    pub(crate) fn new() -> Self {
        Self { boot_us: Arc::new(AtomicI64::new(1_000_000_000)), wall_us: Arc::new(AtomicI64::new(0)) }
    }

    pub(crate) fn pass(&self, span: Duration) {
        let micros = i64::try_from(span.as_micros()).unwrap();
        self.boot_us.fetch_add(micros, Ordering::SeqCst);
        self.wall_us.fetch_add(micros, Ordering::SeqCst);
    }

    pub(crate) fn set_wall_back(&self, span: Duration) {
        self.wall_us.fetch_sub(i64::try_from(span.as_micros()).unwrap(), Ordering::SeqCst);
    }

    fn reboot(&self) {
        self.boot_us.store(5_000_000, Ordering::SeqCst);
    }

    pub(crate) fn clocks(&self, boot: &str) -> Clocks {
        let (boot_us, wall_us) = (Arc::clone(&self.boot_us), Arc::clone(&self.wall_us));
        Clocks {
            wall: Arc::new(move || UnixTime::from_micros(wall_us.load(Ordering::SeqCst))),
            boot_us: Arc::new(move || u64::try_from(boot_us.load(Ordering::SeqCst)).unwrap()),
            boot_id: boot.into(),
        }
    }
}

pub(crate) const S: Duration = Duration::from_secs(1);

/// An engine, a machine with its files, and its clocks.
pub(crate) struct Site {
    directory: Directory,
    pub(crate) engine: Arc<Engine>,
    pub(crate) dial: Dial,
    boot: Mutex<String>,
}

impl Site {
    pub(crate) fn new() -> Self {
        Self::with(|_| ())
    }

    fn with(arrange: impl FnOnce(&mut Engine)) -> Self {
        let directory = Directory::new();
        let mut engine = Engine::over(Arc::new(fresh(&directory, &Hand::new())));
        arrange(&mut engine);
        Self { directory, engine: Arc::new(engine), dial: Dial::new(), boot: Mutex::new("first".into()) }
    }

    pub(crate) fn options(&self) -> RemoteOptions {
        RemoteOptions {
            answer_within: Duration::from_millis(300),
            clocks: self.dial.clocks(&self.boot.lock()),
            lock_wait: S,
            ..RemoteOptions::new(self.directory.file("numbers"))
        }
    }

    fn with_cache(&self) -> RemoteOptions {
        let key = KeySource::Raw([9; 32]);
        let cache = CacheFile { path: self.directory.file("cache"), key, bytes_max: 1 << 24 };
        RemoteOptions { cache_file: Some(cache), ..self.options() }
    }

    pub(crate) fn remote(&self) -> Arc<Remote> {
        self.open(self.options())
    }

    pub(crate) fn open(&self, options: RemoteOptions) -> Arc<Remote> {
        Remote::open(Arc::clone(&self.engine) as Arc<dyn Source>, options).unwrap()
    }

    fn reboot(&self) {
        self.dial.reboot();
        self.boot.lock().push('+');
    }

    /// Somebody else changes a secret, behind the memory's back.
    pub(crate) fn elsewhere(&self, change: Change) {
        run(self.engine.local.change(&Login::machine(), change)).unwrap();
    }

    pub(crate) fn put(&self, at: &str, value: &str) {
        self.elsewhere(put_change(at, &[("f", value.as_bytes())], true, Stage::Current));
    }
}

pub(crate) fn wanted(at: &str, number: u32) -> Wanted {
    Wanted { secret: path(at), version: version(number), field: field("f") }
}

pub(crate) fn orders() -> Login {
    Login::of_identity("orders")
}

/// What is given, and for how many seconds it has been stale.
fn get(remote: &Remote, login: &Login, at: &str, number: u32) -> Result<(String, u64), StoreFault> {
    let fetched = run(remote.fetch(login, &wanted(at, number)))?;
    Ok((String::from_utf8(fetched.value.expose().to_vec()).unwrap(), fetched.stale_for.as_secs()))
}

fn ok(value: &str, stale_s: u64) -> (String, u64) {
    (value.into(), stale_s)
}

#[test]
fn the_memory_in_front_of_an_engine_passes_the_suite() {
    for says_fields in [false, true] {
        suite::all(&|directory, hand| {
            let mut engine = Engine::over(Arc::new(fresh(directory, hand)));
            engine.says_fields = says_fields;
            Remote::open(Arc::new(engine), RemoteOptions::new(directory.file("numbers"))).unwrap()
        });
    }
}

#[test]
fn a_value_is_asked_for_once_while_it_is_fresh_and_given_from_then_on_without_waiting() {
    let site = Site::new();
    site.put("a/b", "1");
    let remote = site.remote();
    assert!(remote.known(&orders(), &path("a/b")).is_none());
    assert!(remote.fetch_at_hand(&orders(), &wanted("a/b", 1)).is_none());
    let fetched = run(remote.fetch(&orders(), &wanted("a/b", 1))).unwrap();
    assert!(fetched.request_id.as_deref().unwrap().starts_with("request-"));
    let known = remote.known(&orders(), &path("a/b")).unwrap();
    assert_eq!(known.version(version(1)).unwrap().fields[0].bytes, Some(1), "its length is known by now");
    for _ in 0..9 {
        site.dial.pass(S);
        let fetched = remote.fetch_at_hand(&orders(), &wanted("a/b", 1)).unwrap().unwrap();
        assert_eq!((fetched.value.expose(), fetched.stale_for), (&b"1"[..], Duration::ZERO));
    }
    assert_eq!(site.engine.asked(Verb::Read), 1);
    site.dial.pass(S);
    assert!(remote.fetch_at_hand(&orders(), &wanted("a/b", 1)).is_none(), "10 s old");
    assert_eq!(get(&remote, &orders(), "a/b", 1).unwrap(), ok("1", 0));
    assert_eq!(site.engine.asked(Verb::Read), 2);
    assert!(matches!(
        remote.fetch_at_hand(&orders(), &Wanted { field: field("g"), ..wanted("a/b", 1) }),
        Some(Err(StoreFault::NoField(..)))
    ));
}

#[test]
fn what_one_login_was_given_no_other_is_given() {
    let site = Site::new();
    site.put("s", "1");
    let remote = site.remote();
    site.engine.refuse(&Login::of_identity("support"), None);
    get(&remote, &orders(), "s", 1).unwrap();
    let support = Login::of_identity("support");
    assert!(remote.fetch_at_hand(&support, &wanted("s", 1)).is_none());
    let refused = get(&remote, &support, "s", 1).unwrap_err();
    assert_eq!(Saying::of(&refused), Saying::Refused);
    assert!(refused.request_id().unwrap().starts_with("request-"), "{refused}");
    assert_eq!(get(&remote, &orders(), "s", 1).unwrap(), ok("1", 0), "the other goes on");
    // Nor after a rotation, nor in an outage.
    site.put("s", "2");
    run(remote.refresh(&orders(), Some(&path("s")))).unwrap();
    get(&remote, &orders(), "s", 2).unwrap();
    assert!(get(&remote, &support, "s", 2).is_err());
    site.engine.away();
    for _ in 0..5 {
        assert_eq!(Saying::of(&get(&remote, &support, "s", 2).unwrap_err()), Saying::Silent);
    }
    site.dial.pass(20 * S);
    assert_eq!(get(&remote, &orders(), "s", 2).unwrap(), ok("2", 10));
}

#[test]
fn what_is_given_in_spite_of_a_senseless_answer_is_shown_as_stale_until_there_is_a_better_one() {
    let site = Site::new();
    site.put("s", "1");
    let remote = site.remote();
    get(&remote, &orders(), "s", 1).unwrap();
    site.dial.pass(15 * S);
    assert_eq!(remote.stale_for(&orders(), &path("s")), Duration::ZERO, "an open would be answered");
    site.engine.feel(Mood::Failing(StoreFault::Corrupt("no JSON".into())));
    for _ in 0..5 {
        assert_eq!(get(&remote, &orders(), "s", 1).unwrap(), ok("1", 5));
        assert_eq!((remote.state(), remote.stale_for(&orders(), &path("s"))), (StoreState::Ready, 5 * S));
    }
    site.engine.feel(Mood::Well);
    assert_eq!(get(&remote, &orders(), "s", 1).unwrap(), ok("1", 0));
    assert_eq!(remote.stale_for(&orders(), &path("s")), Duration::ZERO);
}

#[test]
fn what_was_current_long_ago_is_not_given_as_current_whoever_was_polled_meanwhile() {
    let site = Site::new();
    site.put("s", "1");
    let remote = site.open(site.with_cache());
    assert_eq!(get(&remote, &orders(), "s", 1).unwrap(), ok("1", 0));
    site.put("s", "2");
    site.dial.pass(7_200 * S);
    let fault = get(&remote, &orders(), "s", 1).unwrap_err();
    assert!(matches!(fault, StoreFault::Replaced(..)), "so that the path is walked again: {fault}");
    assert_eq!(remote.known(&orders(), &path("s")).unwrap().current, Some(version(2)));
    assert_eq!(get(&remote, &orders(), "s", 2).unwrap(), ok("2", 0));
    assert_eq!(get(&remote, &orders(), "s", 1).unwrap(), ok("1", 0), "who asks for that one is given it");
    // Nor by a process that goes on with what an earlier one knew.
    site.put("s", "3");
    drop(remote);
    let remote = site.open(site.with_cache());
    assert_eq!(remote.known(&orders(), &path("s")).unwrap().current, Some(version(2)));
    assert!(matches!(get(&remote, &orders(), "s", 2), Err(StoreFault::Replaced(..))));
    assert_eq!(get(&remote, &orders(), "s", 3).unwrap(), ok("3", 0));
}

#[test]
fn whoever_looks_at_a_secret_has_it_described_soon_and_nothing_fetched() {
    let site = Site::with(|engine| engine.says_fields = true);
    for number in 0..20 {
        site.put(&format!("a/s{number}"), "1");
    }
    let remote = site.remote();
    let described = || {
        (0..20)
            .filter(|number| {
                remote
                    .known(&orders(), &path(&format!("a/s{number}")))
                    .is_some_and(|secret| secret.current.is_some())
            })
            .count()
    };
    run(async {
        let watching = tokio::spawn(Arc::clone(&remote).watch_over());
        let has = |count: usize| described() == count;
        while remote.known(&orders(), &path("a/s19")).is_none() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        assert!(has(0), "a listing says names alone");
        for _ in 0..3 {
            remote.note_look(&path("a/s7"));
            remote.note_look(&path("a/unknown"));
        }
        let begun = Instant::now();
        while !has(1) && begun.elapsed() < 5 * S {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        assert!(has(1) && site.engine.asked(Verb::Describe) == 1, "{}", site.engine.asked(Verb::Describe));
        remote.note_look(&path("a/s7"));
        tokio::time::sleep(Duration::from_millis(50)).await;
        assert_eq!(site.engine.asked(Verb::Describe), 1, "what was said a moment ago will do");
        assert_eq!(site.engine.asked(Verb::Read), 0);
        remote.fetch(&orders(), &wanted("a/s8", 1)).await.unwrap();
        let asked = site.engine.asked(Verb::Describe);
        remote.note_look(&path("a/s8"));
        tokio::time::sleep(Duration::from_millis(50)).await;
        assert_eq!(site.engine.asked(Verb::Describe), asked, "what a read was told will do too");
        watching.abort();
    });
}

#[test]
fn in_an_outage_a_value_is_given_within_grace_and_marked_and_never_after() {
    let site = Site::new();
    site.put("s", "1");
    let options = RemoteOptions { grace: Grace::of_all(60 * S), ..site.options() };
    let remote = site.open(options);
    get(&remote, &orders(), "s", 1).unwrap();
    site.engine.away();
    assert_eq!(get(&remote, &orders(), "s", 1).unwrap(), ok("1", 0));
    for _ in 0..6 {
        site.dial.pass(10 * S);
        site.dial.set_wall_back(3_600 * S);
        let (value, stale_s) = get(&remote, &orders(), "s", 1).unwrap();
        assert_eq!(value, "1");
        assert_eq!(Duration::from_secs(stale_s), remote.stale_for(&orders(), &path("s")));
    }
    assert_eq!(remote.stale_for(&orders(), &path("s")), 50 * S);
    assert_eq!(remote.state(), StoreState::Away);
    site.dial.pass(10 * S);
    assert_eq!(Saying::of(&get(&remote, &orders(), "s", 1).unwrap_err()), Saying::Silent, "beyond grace");
    site.engine.feel(Mood::Well);
    site.dial.pass(S);
    assert_eq!(get(&remote, &orders(), "s", 1).unwrap(), ok("1", 0), "fresh after recovery");
    assert_eq!(
        (remote.state(), remote.stale_for(&orders(), &path("s"))),
        (StoreState::Ready, Duration::ZERO)
    );
}

#[test]
fn grace_goes_by_impact_and_by_what_the_secret_says_itself() {
    let site = Site::new();
    let of = |impact, grace| Ownership { impact, grace, ..Ownership::default() };
    let cases = [
        ("none", of(None, None), 100),
        ("low", of(Some(Impact::Low), None), 200),
        ("medium", of(Some(Impact::Medium), None), 50),
        ("high", of(Some(Impact::High), None), 0),
        ("own", of(Some(Impact::High), Some(300 * S)), 300),
        ("zero", of(Some(Impact::Low), Some(Duration::ZERO)), 0),
    ];
    let grace = Grace { unclassified: 100 * S, low: 200 * S, medium: 50 * S, high: Duration::ZERO };
    let remote = site.open(RemoteOptions { grace, ..site.options() });
    for (name, ownership, _) in &cases {
        let put = put_change(name, &[("f", b"1")], true, Stage::Current);
        let Change::Put { secret, fields, only, stage, .. } = put else { unreachable!() };
        site.elsewhere(Change::Put { secret, fields, only, stage, ownership: ownership.clone() });
        get(&remote, &orders(), name, 1).unwrap();
    }
    site.engine.away();
    site.dial.pass(10 * S);
    for stale_s in (0..310).step_by(10) {
        for (name, _, grace_s) in &cases {
            let given = get(&remote, &orders(), name, 1).ok();
            assert_eq!(given, (stale_s < *grace_s).then(|| ok("1", stale_s)), "{name} after {stale_s} s");
        }
        site.dial.pass(10 * S);
    }
}

#[test]
fn a_refusal_wins_over_what_is_held_and_what_was_refused_stays_away() {
    let site = Site::new();
    site.put("s", "1");
    let remote = site.open(site.with_cache());
    get(&remote, &orders(), "s", 1).unwrap();
    site.engine.refuse(&orders(), None);
    site.dial.pass(10 * S);
    assert_eq!(Saying::of(&get(&remote, &orders(), "s", 1).unwrap_err()), Saying::Refused);
    site.engine.away();
    assert!(get(&remote, &orders(), "s", 1).is_err(), "refused, and then away: it is not given");
    // Neither does a restart bring it back, from the disk or from what was left.
    let left = remote.leave();
    drop(remote);
    let remote = site.open(site.with_cache());
    remote.take_over(&left).unwrap();
    assert!(get(&remote, &orders(), "s", 1).is_err());
    // A login that cannot be renewed because its engine is away is no refusal: grace holds.
    site.engine.feel(Mood::Well);
    site.engine.permit(&orders());
    site.dial.pass(5 * S);
    get(&remote, &orders(), "s", 1).unwrap();
    site.engine.feel(Mood::Failing(StoreFault::Away("the login ended, and none can be made".into())));
    site.dial.pass(20 * S);
    assert_eq!(get(&remote, &orders(), "s", 1).unwrap(), ok("1", 10));
}

#[test]
fn what_is_deleted_destroyed_or_revoked_is_never_given_from_memory() {
    let v = Some(version(1));
    let s = || path("s");
    type IsRight = fn(&StoreFault) -> bool;
    let cases: [(IsRight, Change); 4] = [
        (|fault| matches!(fault, StoreFault::Deleted(..)), Change::Delete { secret: s(), version: v }),
        (|fault| matches!(fault, StoreFault::Destroyed(..)), Change::Destroy { secret: s(), version: v }),
        (
            |fault| matches!(fault, StoreFault::Revoked(..)),
            Change::Revoke { secret: s(), version: version(1) },
        ),
        (
            |fault| matches!(fault, StoreFault::SecretDeleted(_)),
            Change::Delete { secret: s(), version: None },
        ),
    ];
    for (at, (is_right, change)) in cases.into_iter().enumerate() {
        for is_noticed_by_a_read in [false, true] {
            let site = Site::new();
            site.put("s", "1");
            let remote = site.open(site.with_cache());
            get(&remote, &orders(), "s", 1).unwrap();
            let copy = match &change {
                Change::Delete { secret, version } => {
                    Change::Delete { secret: secret.clone(), version: *version }
                }
                Change::Destroy { secret, version } => {
                    Change::Destroy { secret: secret.clone(), version: *version }
                }
                Change::Revoke { secret, version } => {
                    Change::Revoke { secret: secret.clone(), version: *version }
                }
                _ => unreachable!(),
            };
            site.elsewhere(copy);
            if is_noticed_by_a_read {
                site.dial.pass(10 * S);
            } else {
                run(remote.refresh(&orders(), Some(&s()))).unwrap();
            }
            let fault = get(&remote, &orders(), "s", 1).unwrap_err();
            assert!(is_right(&fault), "{at}: {fault}");
            site.engine.away();
            for _ in 0..5 {
                site.dial.pass(S);
                assert!(get(&remote, &orders(), "s", 1).is_err(), "{at}");
            }
            drop(remote);
            let remote = site.open(site.with_cache());
            assert!(get(&remote, &orders(), "s", 1).is_err(), "{at}: after a restart");
        }
    }
}

#[test]
fn a_thousand_opens_of_one_cold_secret_are_one_fetch_and_nobody_hangs_when_one_gives_up() {
    let site = Site::new();
    site.put("s", "1");
    let remote = site.open(RemoteOptions { answer_within: 60 * S, ..site.options() });
    run(remote.look_up(&Login::machine(), &path("s"))).unwrap();
    let gate = Arc::new(tokio::sync::Semaphore::new(0));
    *site.engine.gate.lock() = Some(Arc::clone(&gate));
    run(async {
        let asked = async |count: u64| {
            let until = Instant::now() + 20 * S;
            while site.engine.asked(Verb::Read) != count && Instant::now() < until {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            assert_eq!(site.engine.asked(Verb::Read), count);
        };
        let first = {
            let remote = Arc::clone(&remote);
            tokio::spawn(async move { remote.fetch(&orders(), &wanted("s", 1)).await.map(drop) })
        };
        asked(1).await;
        let waiting = Arc::new(AtomicI64::new(0));
        let mut others = tokio::task::JoinSet::new();
        for _ in 0..1_000 {
            let (remote, waiting) = (Arc::clone(&remote), Arc::clone(&waiting));
            others.spawn(async move {
                waiting.fetch_add(1, Ordering::SeqCst);
                remote.fetch(&orders(), &wanted("s", 1)).await.map(drop)
            });
        }
        while waiting.load(Ordering::SeqCst) < 1_000 {
            tokio::task::yield_now().await;
        }
        asked(1).await;
        first.abort();
        // Another one asks for all.
        asked(2).await;
        gate.add_permits(1);
        while let Some(other) = others.join_next().await {
            other.unwrap().unwrap();
        }
    });
    assert_eq!(site.engine.asked(Verb::Read), 2);
}

#[test]
fn an_engine_that_is_silent_costs_its_deadline_a_few_times_and_then_nobody_waits() {
    let site = Site::new();
    site.put("s", "1");
    let remote = site.remote();
    get(&remote, &orders(), "s", 1).unwrap();
    site.engine.feel(Mood::Silent);
    site.dial.pass(15 * S);
    let mut waited = 0;
    for _ in 0..3 {
        let begun = Instant::now();
        assert_eq!(get(&remote, &orders(), "s", 1).unwrap(), ok("1", 5));
        waited += u32::from(begun.elapsed() >= Duration::from_millis(300));
    }
    // A read that is old asks for the value and what is current: each without an answer counts.
    assert!((1..=3).contains(&waited), "{waited}");
    let asked = site.engine.asked_in_all();
    let begun = Instant::now();
    for _ in 0..1_000 {
        let fetched = remote.fetch_at_hand(&orders(), &wanted("s", 1)).unwrap().unwrap();
        assert_eq!(fetched.stale_for, 5 * S);
        let cold = remote.fetch_at_hand(&orders(), &wanted("cold", 1)).unwrap();
        assert!(matches!(cold.map(drop).unwrap_err().bare(), StoreFault::Timeout));
    }
    assert!(begun.elapsed() < Duration::from_millis(200));
    assert_eq!(site.engine.asked_in_all(), asked);
    site.engine.feel(Mood::LeaveAlone(20 * S));
    site.dial.pass(S);
    get(&remote, &orders(), "s", 1).unwrap();
    assert!(run(remote.look_up(&orders(), &path("other"))).is_err());
    let asked = site.engine.asked_in_all();
    site.dial.pass(19 * S);
    assert!(run(remote.look_up(&orders(), &path("other"))).is_err());
    assert_eq!(site.engine.asked_in_all(), asked, "left alone for as long as it asked");
}

#[test]
fn a_sealed_engine_is_told_apart_and_grace_holds() {
    let site = Site::new();
    site.put("s", "1");
    let remote = site.remote();
    get(&remote, &orders(), "s", 1).unwrap();
    site.engine.feel(Mood::Failing(StoreFault::Sealed("it needs its key".into())));
    site.dial.pass(11 * S);
    for _ in 0..4 {
        assert_eq!(get(&remote, &orders(), "s", 1).unwrap(), ok("1", 1));
    }
    assert_eq!(remote.state(), StoreState::Sealed);
    assert!(matches!(get(&remote, &orders(), "cold", 1).unwrap_err().bare(), StoreFault::Sealed(_)));
}

#[test]
fn after_a_reboot_in_an_outage_the_sealed_cache_serves_within_grace_and_without_it_nothing_is_invented() {
    let site = Site::new();
    site.put("s", "hunter2");
    {
        let remote = site.open(site.with_cache());
        get(&remote, &orders(), "s", 1).unwrap();
        remote.close();
    }
    let sealed = std::fs::read(site.directory.file("cache")).unwrap();
    for open in [&b"hunter2"[..], b"orders"] {
        assert!(!sealed.windows(open.len()).any(|part| part == open), "it lies open on the disk");
    }
    site.engine.away();
    site.dial.pass(60 * S);
    site.reboot();
    {
        let without = site.remote();
        assert_eq!(Saying::of(&get(&without, &orders(), "s", 1).unwrap_err()), Saying::Silent);
        assert!(without.known(&orders(), &path("s")).is_none());
    }
    let remote = site.open(site.with_cache());
    let begun = Instant::now();
    let mut names = Vec::new();
    remote.visit_known(&orders(), "", &mut |secret| {
        names.push(secret.path.as_str().to_owned());
        true
    });
    assert_eq!(names, ["s"]);
    assert!(begun.elapsed() < Duration::from_millis(5));
    assert_eq!(get(&remote, &orders(), "s", 1).unwrap(), ok("hunter2", 50));
    assert!(get(&remote, &Login::machine(), "s", 1).is_err(), "another login after a reboot");
    site.dial.pass(3_600 * S);
    assert!(get(&remote, &orders(), "s", 1).is_err(), "beyond grace");
}

#[test]
fn a_clock_that_goes_back_at_every_boot_does_not_stretch_grace_beyond_what_was_lived_through() {
    let site = Site::new();
    site.put("s", "1");
    let options = || RemoteOptions { grace: Grace::of_all(3_600 * S), ..site.with_cache() };
    let remote = site.open(options());
    get(&remote, &orders(), "s", 1).unwrap();
    site.engine.away();
    drop(remote);
    let mut given = 0;
    for _ in 0..10 {
        let remote = site.open(options());
        for _ in 0..20 {
            given += usize::from(get(&remote, &orders(), "s", 1).is_ok());
            site.dial.pass(60 * S);
            remote.close();
        }
        drop(remote);
        site.dial.set_wall_back(3_600 * S);
        site.reboot();
    }
    assert!((60..=61).contains(&given), "an hour of minutes lived through, not {given}");
}

#[test]
fn a_successor_goes_on_with_numbers_values_and_their_age_and_asks_before_it_calls_anything_fresh() {
    let site = Site::new();
    site.put("a/b", "1");
    site.put("a/b", "2");
    let remote = site.remote();
    get(&remote, &orders(), "a/b", 2).unwrap();
    get(&remote, &orders(), "a/b", 1).unwrap();
    let nodes = |remote: &Remote| -> Vec<FieldNode> {
        let secret = remote.known(&orders(), &path("a/b")).unwrap();
        secret.versions.iter().flat_map(|version| version.fields.iter().map(|field| field.node)).collect()
    };
    let before = nodes(&remote);
    assert_eq!(before.len(), 2);
    let left = remote.leave();
    drop(remote);
    let remote = site.remote();
    assert_eq!(remote.node(before[0]).unwrap().secret, path("a/b"), "without what was left, too");
    remote.take_over(&left).unwrap();
    assert_eq!(nodes(&remote), before);
    assert!(
        remote.fetch_at_hand(&orders(), &wanted("a/b", 2)).is_none(),
        "what was left is not called fresh"
    );
    site.engine.away();
    site.dial.pass(15 * S);
    assert_eq!(get(&remote, &orders(), "a/b", 2).unwrap(), ok("2", 5));
    // Cut short it is refused, but between two records.
    let readable = (1..left.len()).filter(|cut| remote.take_over(&left[..*cut]).is_ok()).count();
    assert_eq!(readable, 2);
}

#[test]
fn what_a_change_acknowledged_is_what_the_next_open_sees_whatever_was_asked_before_it() {
    let site = Site::new();
    site.put("s", "1");
    let remote = site.remote();
    get(&remote, &orders(), "s", 1).unwrap();
    let noted = Arc::new(Mutex::new(Vec::new()));
    let noting = Arc::clone(&noted);
    remote.watch(Box::new(move |changed| noting.lock().push(changed.after.as_ref().unwrap().current)));
    run(async {
        // A description that is asked for before the change, and answered after it.
        site.engine.feel(Mood::Slow(Duration::from_millis(60)));
        let slow = {
            let remote = Arc::clone(&remote);
            tokio::spawn(async move { remote.look_up(&orders(), &path("s")).await.map(drop) })
        };
        tokio::time::sleep(Duration::from_millis(20)).await;
        site.engine.feel(Mood::Well);
        let put = put_change("s", &[("f", b"2")], false, Stage::Current);
        let changed = remote.change(&Login::machine(), put).await.unwrap();
        assert_eq!(changed.version, Some(version(2)));
        slow.await.unwrap().unwrap();
    });
    assert_eq!(remote.known(&orders(), &path("s")).unwrap().current, Some(version(2)));
    assert_eq!(get(&remote, &orders(), "s", 2).unwrap(), ok("2", 0));
    assert_eq!(*noted.lock(), [Some(version(2))]);
}

#[test]
fn a_refresh_shows_what_changed_elsewhere_at_once_and_what_is_new() {
    let site = Site::new();
    site.put("a/b", "1");
    let remote = site.remote();
    get(&remote, &orders(), "a/b", 1).unwrap();
    site.put("a/b", "2");
    site.put("new/one", "1");
    assert_eq!(run(remote.refresh(&Login::machine(), Some(&path("a/b")))).unwrap(), 1);
    assert_eq!(remote.known(&orders(), &path("a/b")).unwrap().current, Some(version(2)));
    assert_eq!(get(&remote, &orders(), "a/b", 2).unwrap(), ok("2", 0));
    assert!(remote.known(&orders(), &path("new/one")).is_none());
    assert_eq!(run(remote.refresh(&Login::machine(), None)).unwrap(), 2);
    assert!(remote.known(&orders(), &path("new/one")).is_some());
    site.elsewhere(Change::Destroy { secret: path("a/b"), version: None });
    assert_eq!(run(remote.refresh(&Login::machine(), Some(&path("a/b")))).unwrap(), 0);
}

#[test]
fn an_engine_without_versions_is_numbered_by_its_content() {
    let site = Site::with(|engine| engine.keeps_one = true);
    site.put("s", "one");
    let mut remote = site.remote();
    let look = |remote: &Remote| {
        run(remote.look_up(&orders(), &path("s"))).unwrap();
        remote.known(&orders(), &path("s")).unwrap().current
    };
    assert_eq!(look(&remote), Some(version(1)));
    assert_eq!(get(&remote, &orders(), "s", 1).unwrap(), ok("one", 0));
    site.put("s", "two");
    site.dial.pass(11 * S);
    // Who asks for what is replaced is given what is held of it, marked; then the new one is known.
    assert_eq!(get(&remote, &orders(), "s", 1).unwrap(), ok("one", 1));
    let known = remote.known(&orders(), &path("s")).unwrap();
    assert_eq!((known.current, known.previous), (Some(version(2)), Some(version(1))));
    assert_eq!(get(&remote, &orders(), "s", 2).unwrap(), ok("two", 0));
    let replaced = get(&remote, &Login::of_identity("late"), "s", 1).unwrap_err();
    assert!(matches!(replaced, StoreFault::Replaced(..)), "{replaced}");
    // The same content after a restart is the same version; an older one that comes again is a new one.
    drop(remote);
    remote = site.remote();
    assert_eq!(look(&remote), Some(version(2)));
    site.put("s", "one");
    run(remote.refresh(&orders(), Some(&path("s")))).unwrap();
    assert_eq!(remote.known(&orders(), &path("s")).unwrap().current, Some(version(3)));
    let put = put_change("s", &[("f", b"four")], true, Stage::Current);
    let changed = run(remote.change(&Login::machine(), put)).unwrap();
    assert_eq!(changed.version, Some(version(4)));
    assert_eq!(get(&remote, &orders(), "s", 4).unwrap(), ok("four", 0));
    let numbers = std::fs::read(site.directory.file("numbers")).unwrap();
    assert!(!numbers.windows(4).any(|part| part == b"four"));
}

#[test]
fn fields_are_known_by_name_before_and_by_length_after_the_first_fetch_and_keep_their_numbers() {
    let site = Site::new();
    site.put("s", "1");
    let remote = site.remote();
    let fields = || remote.known(&orders(), &path("s")).unwrap().version(version(1)).unwrap().fields.clone();
    run(remote.look_up(&Login::machine(), &path("s"))).unwrap();
    assert!(fields().is_empty());
    get(&remote, &orders(), "s", 1).unwrap();
    let learned = fields();
    assert_eq!((learned.len(), learned[0].bytes), (1, Some(1)));
    assert_eq!(remote.node(learned[0].node).unwrap(), wanted("s", 1));
    run(remote.look_up(&Login::machine(), &path("s"))).unwrap();
    assert_eq!(fields(), learned);
}

/// Runs `test` while the engine is watched, with the machine's own clocks.
fn watched(site: &Site, options: RemoteOptions, test: impl AsyncFnOnce(Arc<Remote>)) {
    let remote = site.open(RemoteOptions { clocks: Clocks::of_machine(), ..options });
    run(async {
        let watching = tokio::spawn(Arc::clone(&remote).watch_over());
        test(Arc::clone(&remote)).await;
        watching.abort();
    });
}

#[test]
fn a_new_version_of_10_secrets_in_use_is_seen_within_2_s_and_those_in_no_use_cost_nothing() {
    let site = Site::new();
    for number in 0..60 {
        site.put(&format!("s{number}"), "1");
    }
    let options = RemoteOptions { list_every: 3_600 * S, ..site.options() };
    watched(&site, options, async |remote| {
        for number in 0..10 {
            remote.fetch(&orders(), &wanted(&format!("s{number}"), 1)).await.unwrap();
        }
        tokio::time::sleep(3 * S).await;
        let seen = Arc::new(Mutex::new(Vec::new()));
        let noting = Arc::clone(&seen);
        remote.watch(Box::new(move |changed| {
            let after = changed.after.as_ref().unwrap();
            let current = after.version(after.current.unwrap()).unwrap();
            noting.lock().push((Instant::now(), current.number, current.fields.len()));
        }));
        let begun = Instant::now();
        for number in 0..10 {
            let put = put_change(&format!("s{number}"), &[("f", b"22")], true, Stage::Current);
            site.engine.local.change(&Login::machine(), put).await.unwrap();
        }
        tokio::time::sleep(2_200 * S / 1000).await;
        let seen = seen.lock();
        assert_eq!(seen.len(), 10);
        for (when, number, fields) in &*seen {
            assert!(when.duration_since(begun) < 2 * S, "after {:?}", when.duration_since(begun));
            assert_eq!((*number, *fields), (version(2), 1), "its fields are known when watchers hear of it");
        }
        let fetched = remote.fetch_at_hand(&orders(), &wanted("s3", 2)).unwrap().unwrap();
        assert_eq!(fetched.value.expose(), b"22");
        let asked = site.engine.asked(Verb::Describe);
        assert!(asked < 10 + 10 * 6, "{asked} in about 5 s");
        let names = std::cell::Cell::new(0);
        remote.visit_known(&orders(), "", &mut |_| {
            names.set(names.get() + 1);
            true
        });
        assert_eq!(names.get(), 60, "names are listed without being asked for");
    });
}

#[test]
fn a_start_with_a_thousand_secrets_that_were_in_use_does_not_stampede() {
    let site = Site::new();
    for number in 0..300 {
        site.put(&format!("s{number}"), "1");
    }
    let clocks = || RemoteOptions { clocks: Clocks::of_machine(), ..site.options() };
    let remote = site.open(clocks());
    for number in 0..300 {
        get(&remote, &orders(), &format!("s{number}"), 1).unwrap();
    }
    let left = remote.leave();
    drop(remote);
    let asked = site.engine.asked_in_all();
    let remote = site.open(clocks());
    remote.take_over(&left).unwrap();
    run(async {
        let watching = tokio::spawn(Arc::clone(&remote).watch_over());
        tokio::time::sleep(4 * S).await;
        watching.abort();
    });
    let asked = site.engine.asked_in_all() - asked;
    assert!(asked <= 10 + 4 * 8 + 3, "{asked} requests in 4 s");
    assert!(site.engine.most_under_way.load(Ordering::SeqCst) <= 5);
}

#[test]
fn an_engine_that_comes_back_is_noticed_within_2_s_and_in_the_outage_nobody_waits() {
    let site = Site::new();
    site.put("s", "1");
    let options = RemoteOptions { fresh_for: Duration::from_millis(50), ..site.options() };
    watched(&site, options, async |remote| {
        remote.fetch(&orders(), &wanted("s", 1)).await.unwrap();
        site.engine.feel(Mood::Silent);
        tokio::time::sleep(3 * S).await;
        assert_eq!(remote.state(), StoreState::Away, "noticed by itself");
        for _ in 0..100 {
            let fetched = remote.fetch_at_hand(&orders(), &wanted("s", 1)).unwrap().unwrap();
            assert!(fetched.stale_for > S);
            assert!(remote.fetch_at_hand(&orders(), &wanted("cold", 1)).unwrap().is_err());
        }
        let put = put_change("s", &[("f", b"2")], true, Stage::Current);
        site.engine.local.change(&Login::machine(), put).await.unwrap();
        site.engine.feel(Mood::Well);
        tokio::time::sleep(2 * S).await;
        assert_eq!(remote.state(), StoreState::Ready);
        assert!(remote.known(&orders(), &path("s")).unwrap().current == Some(version(2)), "polled again");
        let fetched = remote.fetch(&orders(), &wanted("s", 2)).await.unwrap();
        assert_eq!((fetched.value.expose(), fetched.stale_for), (&b"2"[..], Duration::ZERO));
    });
}

#[test]
fn a_start_in_an_outage_hangs_nobody() {
    let site = Site::new();
    site.put("s", "1");
    site.engine.feel(Mood::Silent);
    let begun = Instant::now();
    watched(&site, site.options(), async |remote| {
        assert!(begun.elapsed() < Duration::from_millis(200));
        assert!(remote.known(&orders(), &path("s")).is_none());
        let asked = Instant::now();
        let fault = remote.look_up(&orders(), &path("s")).await.map(drop).unwrap_err();
        assert!(matches!(fault.bare(), StoreFault::Timeout), "{fault}");
        assert!(asked.elapsed() < Duration::from_millis(900), "{:?}", asked.elapsed());
    });
}

#[test]
fn a_version_made_anew_under_an_old_number_is_another_one() {
    let site = Site::new();
    let other = Site::new();
    site.put("s", "old");
    other.dial.pass(S);
    let remote = site.open(site.with_cache());
    get(&remote, &orders(), "s", 1).unwrap();
    let node = remote.known(&orders(), &path("s")).unwrap().versions[0].fields[0].node;
    drop(remote);
    // An engine that was emptied and filled again counts from 1.
    let hand = Hand::new();
    hand.turn(77);
    let engine = Engine::over(Arc::new(fresh(&other.directory_anew(), &hand)));
    run(engine.local.change(&Login::machine(), put_change("s", &[("f", b"new")], true, Stage::Current)))
        .unwrap();
    let engine = Arc::new(engine);
    let remote = Remote::open(Arc::clone(&engine) as Arc<dyn Source>, site.with_cache()).unwrap();
    run(remote.refresh(&orders(), Some(&path("s")))).unwrap();
    engine.away();
    assert!(get(&remote, &orders(), "s", 1).is_err(), "the old bytes are not given for it");
    drop(remote);
    let remote = Remote::open(Arc::clone(&engine) as Arc<dyn Source>, site.with_cache()).unwrap();
    assert!(get(&remote, &orders(), "s", 1).is_err(), "nor from the disk");
    engine.feel(Mood::Well);
    assert_eq!(get(&remote, &orders(), "s", 1).unwrap(), ok("new", 0));
    let anew = remote.known(&orders(), &path("s")).unwrap().versions[0].fields[0].node;
    assert!(anew > node, "its bytes are others: so is its number");
    assert!(remote.node(node).is_none());
}

impl Site {
    fn directory_anew(&self) -> Directory {
        let directory = Directory::new();
        assert_ne!(directory.0, self.directory.0);
        directory
    }
}

#[test]
fn the_state_of_versions_is_that_of_the_engine() {
    let site = Site::new();
    site.put("s", "1");
    site.put("s", "2");
    let remote = site.remote();
    run(remote.look_up(&orders(), &path("s"))).unwrap();
    site.elsewhere(Change::Destroy { secret: path("s"), version: Some(version(1)) });
    run(remote.refresh(&orders(), Some(&path("s")))).unwrap();
    let known = remote.known(&orders(), &path("s")).unwrap();
    assert_eq!(known.version(version(1)).unwrap().state, State::Destroyed);
    assert_eq!((known.current, known.previous), (Some(version(2)), None));
}
