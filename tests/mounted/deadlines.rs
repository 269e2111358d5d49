//! A store that hangs, panics or is slow: every request is answered, and the others never notice.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use credfs::model::{FieldNode, Secret, SecretPath, Stage as Staged};
use credfs::store::{
    Change, Changed, Fault, Faulty, Fetched, Login, Pending, Store, StoreFault, StoreState, Wanted, Watcher,
};

use crate::stage::Stage;

const EVERYONE: &str = "[[grants]]\nto = [\"everyone\"]\nread = [\"**\"]\n";

/// Panics when asked for a secret called `boom`, and waits for a long time when asked for one called `tar`.
struct Awkward {
    inner: Arc<dyn Store>,
    sticky: AtomicBool,
}

impl Awkward {
    fn visit(&self, path: &str) {
        assert!(path != "boom", "planted");
        if path == "tar" && self.sticky.swap(false, Ordering::SeqCst) {
            std::thread::sleep(Duration::from_millis(1500));
        }
    }
}

impl Store for Awkward {
    fn name(&self) -> &str {
        self.inner.name()
    }
    fn state(&self) -> StoreState {
        self.inner.state()
    }
    fn known(&self, login: &Login, path: &SecretPath) -> Option<Arc<Secret>> {
        self.visit(path.as_str());
        self.inner.known(login, path)
    }
    fn visit_known(&self, login: &Login, prefix: &str, visit: &mut dyn FnMut(&Arc<Secret>) -> bool) {
        self.visit(prefix);
        self.inner.visit_known(login, prefix, visit);
    }
    fn stale_for(&self, login: &Login, path: &SecretPath) -> Duration {
        self.inner.stale_for(login, path)
    }
    fn node(&self, node: FieldNode) -> Option<Wanted> {
        self.inner.node(node)
    }
    fn look_up<'a>(
        &'a self,
        login: &'a Login,
        path: &'a SecretPath,
    ) -> Pending<'a, Result<Option<Arc<Secret>>, StoreFault>> {
        self.inner.look_up(login, path)
    }
    fn fetch_at_hand(&self, login: &Login, wanted: &Wanted) -> Option<Result<Fetched, StoreFault>> {
        self.inner.fetch_at_hand(login, wanted)
    }
    fn fetch<'a>(&'a self, login: &'a Login, wanted: &'a Wanted) -> Pending<'a, Result<Fetched, StoreFault>> {
        self.inner.fetch(login, wanted)
    }
    fn change<'a>(&'a self, login: &'a Login, change: Change) -> Pending<'a, Result<Changed, StoreFault>> {
        self.inner.change(login, change)
    }
    fn watch(&self, watcher: Watcher) {
        self.inner.watch(watcher);
    }
}

fn awkward(sticky: bool) -> impl FnOnce(Arc<dyn Store>) -> Arc<dyn Store> {
    move |inner| Arc::new(Awkward { inner, sticky: AtomicBool::new(sticky) })
}

#[test]
fn a_panic_in_a_handler_is_one_eio_and_the_rest_goes_on() {
    let stage = Stage::new("panic", EVERYONE, awkward(false));
    stage.world.put("app", Staged::Current, &[("key", "fine")]);
    for _ in 0..20 {
        stage.run("stat", "boom").failed_with("Input/output error");
        assert_eq!(stage.run("cat", "app/key").text(), "fine");
    }
}

#[test]
fn a_handler_that_is_held_up_does_not_hold_up_the_others() {
    let stage = Stage::new("held-up", EVERYONE, awkward(true));
    stage.world.put("app", Staged::Current, &[("key", "fine")]);
    assert_eq!(stage.run("cat", "app/key").text(), "fine");
    let mut held = stage.spawn("stat", "tar");
    std::thread::sleep(Duration::from_millis(100));
    for _ in 0..5 {
        let other = stage.run("cat", "app/key");
        assert_eq!(other.text(), "fine");
        assert!(other.took < Duration::from_millis(500), "{other:?}");
    }
    assert!(held.try_wait().unwrap().is_none(), "it was held up all the while");
    held.wait().unwrap();
}

#[test]
fn a_reader_added_in_need_rests_afterwards_and_hides_no_end_of_the_session() {
    let mut stage = Stage::new("relief", EVERYONE, awkward(true));
    stage.world.put("app", Staged::Current, &[("key", "fine")]);
    let mut held = stage.spawn("stat", "tar");
    std::thread::sleep(Duration::from_millis(100));
    assert_eq!(stage.run("cat", "app/key").text(), "fine");
    held.wait().unwrap();
    assert!(stage.session().readers().len() > 1, "this shows nothing unless a reader was added");
    for _ in 0..3 {
        stage.run("cat", "app/key");
    }
    let awake = wakes(&stage);
    for _ in 0..50 {
        assert_eq!(stage.run("cat", "app/key").text(), "fine");
    }
    let working = wakes(&stage).iter().filter(|(thread, count)| **count > awake[*thread] + 10).count();
    assert_eq!(working, 1, "one reader takes every request");
    // It waits half a second for a session that does not end.
    let took = stage.end();
    assert!(took < Duration::from_millis(450), "the end of the session goes unnoticed: {took:?}");
}

/// How often each reader of the device went to sleep, by thread.
fn wakes(stage: &Stage) -> std::collections::BTreeMap<u32, u64> {
    let count = |thread: u32| {
        let status = std::fs::read_to_string(format!("/proc/self/task/{thread}/status")).ok()?;
        status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"))?.trim().parse().ok()
    };
    stage.session().readers().into_iter().filter_map(|thread| Some((thread, count(thread)?))).collect()
}

#[test]
fn a_fetch_that_never_ends_is_etimedout_at_its_deadline_and_harms_no_other() {
    let stage = Stage::new("hangs", EVERYONE, |inner| {
        let faulty = Faulty::new(inner);
        faulty.on_fetch(1, Fault::Hang);
        Arc::new(faulty)
    });
    stage.world.put("slow", Staged::Current, &[("key", "slow")]);
    stage.world.put("app", Staged::Current, &[("key", "fine")]);
    let begun = Instant::now();
    let hanging = stage.spawn("cat", "slow/key");
    std::thread::sleep(Duration::from_millis(100));
    let other = stage.run("cat", "app/key");
    assert_eq!(other.text(), "fine");
    assert!(other.took < Duration::from_millis(500), "{other:?}");
    let output = hanging.wait_with_output().unwrap();
    assert!(String::from_utf8_lossy(&output.stderr).contains("timed out"), "{output:?}");
    assert!(begun.elapsed() < Duration::from_millis(2300), "{:?}", begun.elapsed());
    let timeouts = stage.world.records().iter().filter(|record| record["outcome"] == "timeout").count();
    assert_eq!(timeouts, 1);
    assert_eq!(stage.run("cat", "slow/key").text(), "slow", "and the next one is answered");
}

#[test]
fn the_daemon_asking_itself_is_edeadlk_at_once() {
    let stage = Stage::new("self", EVERYONE, |store| store);
    stage.world.put("app", Staged::Current, &[("key", "fine")]);
    for _ in 0..100 {
        let begun = Instant::now();
        let refused = std::fs::metadata(stage.path("app")).unwrap_err();
        assert_eq!(refused.raw_os_error(), Some(35), "EDEADLK");
        assert!(begun.elapsed() < Duration::from_millis(500));
    }
    stage.world.gate.log().flush_refusals();
    let noted: u64 = (stage.world.records().iter())
        .filter(|record| record["outcome"] == "self_access")
        .map(|record| record["count"].as_u64().unwrap_or(1))
        .sum();
    assert!(noted >= 100, "{noted}");
}

/// A store that never answers whatever must be asked of it, and counts who asks.
struct Hung {
    inner: Arc<dyn Store>,
    asked: AtomicU64,
}

impl Hung {
    fn hang<'a, T: Send + 'a>(&self) -> Pending<'a, T> {
        self.asked.fetch_add(1, Ordering::SeqCst);
        Box::pin(std::future::pending())
    }
}

impl Store for Hung {
    fn name(&self) -> &str {
        self.inner.name()
    }
    fn state(&self) -> StoreState {
        self.inner.state()
    }
    fn known(&self, login: &Login, path: &SecretPath) -> Option<Arc<Secret>> {
        self.inner.known(login, path)
    }
    fn visit_known(&self, login: &Login, prefix: &str, visit: &mut dyn FnMut(&Arc<Secret>) -> bool) {
        self.inner.visit_known(login, prefix, visit);
    }
    fn stale_for(&self, login: &Login, path: &SecretPath) -> Duration {
        self.inner.stale_for(login, path)
    }
    fn node(&self, node: FieldNode) -> Option<Wanted> {
        self.inner.node(node)
    }
    fn look_up<'a>(
        &'a self,
        _: &'a Login,
        _: &'a SecretPath,
    ) -> Pending<'a, Result<Option<Arc<Secret>>, StoreFault>> {
        self.hang()
    }
    fn fetch_at_hand(&self, _: &Login, _: &Wanted) -> Option<Result<Fetched, StoreFault>> {
        None
    }
    fn fetch<'a>(&'a self, _: &'a Login, _: &'a Wanted) -> Pending<'a, Result<Fetched, StoreFault>> {
        self.hang()
    }
    fn change<'a>(&'a self, _: &'a Login, _: Change) -> Pending<'a, Result<Changed, StoreFault>> {
        self.hang()
    }
    fn watch(&self, watcher: Watcher) {
        self.inner.watch(watcher);
    }
}

#[test]
fn df_find_du_ls_and_getfattr_never_wait_for_a_store_that_hangs() {
    let mut hung = None;
    let stage = Stage::new("metadata", EVERYONE, |inner| {
        let store = Arc::new(Hung { inner, asked: AtomicU64::new(0) });
        hung = Some(Arc::clone(&store));
        store
    });
    let hung = hung.unwrap();
    for at in 0..50 {
        stage.world.put(&format!("team/app-{at}"), Staged::Current, &[("key", "fine"), ("user", "me")]);
    }
    let mount_point = stage.mount_point.display().to_string();
    let above = stage.world.directory.display().to_string();
    for words in [
        vec!["df", &mount_point],
        vec!["stat", "-f", &mount_point],
        vec!["find", &above, "-xdev"],
        vec!["find", &mount_point, "-type", "f", "-size", "+0", "-newermt", "1970-01-01"],
        vec!["du", "-s", &mount_point],
        vec!["ls", "-lR", &mount_point],
        vec!["getfattr", "-R", "-d", &mount_point],
    ] {
        let begun = Instant::now();
        let output =
            std::process::Command::new("timeout").args(["-s", "KILL", "10"]).args(&words).output().unwrap();
        let took = begun.elapsed();
        assert!(output.status.success() || words[0] == "df", "{words:?}: {output:?}");
        assert!(!output.stdout.is_empty() && took < Duration::from_secs(1), "{words:?}: {took:?}");
    }
    assert_eq!(hung.asked.load(Ordering::SeqCst), 0, "nothing was asked of the store");
    assert_eq!(stage.world.releases().len(), 0, "and nothing released");
    stage.run("cat", "team/app-7/key").failed_with("timed out");
    assert_eq!(hung.asked.load(Ordering::SeqCst), 1, "a read is what asks it");
}

#[test]
fn one_uid_with_many_fetches_under_way_leaves_the_others_theirs() {
    let stage = Stage::new("in-flight", EVERYONE, |inner| {
        let faulty = Faulty::new(inner);
        for nth in 1..=64 {
            faulty.on_fetch(nth, Fault::Hang);
        }
        Arc::new(faulty)
    });
    stage.world.put("app", Staged::Current, &[("key", "fine")]);
    let readers: Vec<_> = (0..64).map(|_| stage.spawn("cat", "app/key")).collect();
    std::thread::sleep(Duration::from_millis(500));
    stage.run("cat", "app/key").failed_with("Resource temporarily unavailable");
    let other = std::process::Command::new("setpriv")
        .args(["--reuid", "1234", "--clear-groups", "cat"])
        .arg(stage.path("app/key"))
        .output()
        .unwrap();
    assert_eq!(String::from_utf8_lossy(&other.stdout), "fine", "{other:?}");
    for reader in readers {
        assert!(!reader.wait_with_output().unwrap().status.success());
    }
}
