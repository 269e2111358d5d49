//! What is minted for one consumer: users of a real PostgreSQL and certificates, by a real OpenBao.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use credfs::caller::Consumers;
use credfs::model::{Consumer, Secret, Sharing, Stage, Version};
use credfs::store::{
    Change, Clocks, Declared, Dynamic, DynamicOptions, Engine, LeaseEvent, Login, LoginBy, LoginSetup, Pki,
    Remote, RemoteOptions, Store as _, StoreFault, Vault, VaultOptions, Wanted, What,
};
use serde_json::json;
use tokio::runtime::Runtime;

use crate::harness::{
    Bao, Between, Directory, Does, Postgres, Unit, field, heard, options, path, token_login,
};

const PATH: &str = "db/orders";

/// One process's worth of credfs, over a store.
struct World {
    remote: Arc<Remote>,
    dynamic: Arc<Dynamic>,
    runtime: Runtime,
    events: Arc<Mutex<Vec<LeaseEvent>>>,
}

fn database(role: &str) -> Vec<Declared> {
    let engine = Engine::Database { mount: "database".to_owned(), role: role.to_owned() };
    vec![Declared { path: path(PATH), engine, sharing: Sharing::Unit }]
}

impl World {
    /// Opens what `directory` holds, as a process that starts does.
    fn open(urls: &[&str], token: &str, directory: &Directory, declared: Vec<Declared>) -> Self {
        let file = directory.file("token", token);
        Self::with(options(urls, "secret", token_login(file)), directory, directory.path(), declared)
    }

    fn with(options: VaultOptions, directory: &Directory, books: &Path, declared: Vec<Declared>) -> Self {
        Self::at(Clocks::of_machine(), options, directory, books, declared)
    }

    fn at(
        clocks: Clocks,
        options: VaultOptions,
        directory: &Directory,
        books: &Path,
        declared: Vec<Declared>,
    ) -> Self {
        heard();
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let vault = Arc::new(Vault::new(options));
        let remote = RemoteOptions::new(directory.path().join("numbers"));
        let remote = Remote::open(Arc::clone(&vault) as _, remote).unwrap();
        let consumers = Consumers::of_machine();
        let options = DynamicOptions {
            book_file: books.join("leases"),
            lock_wait: Duration::from_secs(2),
            answer_within: Duration::from_secs(3),
            failures_max: 3,
            probe_every: Duration::from_millis(300),
            look_every: Duration::from_millis(100),
            clocks,
            is_alive: Arc::new(move |consumer| consumers.is_alive(consumer)),
        };
        let dynamic = Dynamic::open(Arc::clone(&remote) as _, vault, declared, options).unwrap();
        let events = Arc::new(Mutex::new(Vec::new()));
        let noted = Arc::clone(&events);
        dynamic.hear(move |event| noted.lock().unwrap().push(event.clone()));
        runtime.spawn(Arc::clone(&dynamic).watch_over());
        Self { remote, dynamic, runtime, events }
    }

    fn seen(&self, consumer: &Consumer) -> Arc<Secret> {
        self.dynamic.known(&login(consumer), &path(PATH)).unwrap()
    }

    /// Reads a field of the version that a consumer is shown, as an open does.
    fn read(&self, consumer: &Consumer, name: &str) -> Result<String, StoreFault> {
        let current = self.seen(consumer).current.unwrap();
        self.read_version(consumer, current, name)
    }

    fn read_version(&self, consumer: &Consumer, version: Version, name: &str) -> Result<String, StoreFault> {
        let wanted = Wanted { secret: path(PATH), version, field: field(name) };
        let fetched = self.runtime.block_on(self.dynamic.fetch(&login(consumer), &wanted))?;
        Ok(String::from_utf8(fetched.value.expose().to_vec()).unwrap())
    }

    /// User and password of a consumer.
    #[track_caller]
    fn pair(&self, consumer: &Consumer) -> (String, String) {
        (self.read(consumer, "username").unwrap(), self.read(consumer, "password").unwrap())
    }

    fn events(&self, what: What, is_done: bool) -> usize {
        let events = self.events.lock().unwrap();
        events.iter().filter(|event| event.what == what && event.is_done == is_done).count()
    }
}

fn login(consumer: &Consumer) -> Login {
    Login::machine().for_consumer(consumer.clone())
}

#[track_caller]
fn soon(what: &str, is_so: impl Fn() -> bool) {
    let begun = Instant::now();
    while !is_so() {
        assert!(begun.elapsed() < Duration::from_secs(15), "{what}: not within 15 s");
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn each_unit_gets_a_user_of_its_own_and_looking_mints_nothing() {
    let (postgres, bao, directory) = (Postgres::start(), Bao::dev(), Directory::new());
    postgres.serve_through(&bao, "orders", "1h", "24h");
    let between = Between::in_front_of(&bao.url);
    let world = World::open(&[&between.url()], &bao.root, &directory, database("orders"));
    let (one, other) = (Unit::running("one"), Unit::running("other"));
    let mut promised = BTreeSet::new();
    for consumer in [one.consumer(), other.consumer(), one.consumer()] {
        let secret = world.seen(&consumer);
        let version = secret.version(secret.current.unwrap()).unwrap();
        let fields: Vec<_> = version.fields.iter().map(|field| (field.name.as_str(), field.bytes)).collect();
        assert_eq!(fields, [("password", None), ("username", None)]);
        promised.insert(version.number);
        let mut visited = 0;
        world.dynamic.visit_known(&Login::machine(), "", &mut |_| {
            visited += 1;
            true
        });
        assert_eq!(visited, 1);
    }
    assert_eq!(promised.len(), 2, "a promise holds, and is for one consumer");
    assert_eq!((postgres.users().len(), between.count("/creds/")), (0, 0), "looking minted");
    let (first, second) = (world.pair(&one.consumer()), world.pair(&other.consumer()));
    assert_ne!(first.0, second.0);
    assert!(postgres.lets_in(&first.0, &first.1) && postgres.lets_in(&second.0, &second.1));
    assert_eq!(
        (postgres.users().len(), between.count("/creds/")),
        (2, 2),
        "one lease serves all reads of a unit"
    );
    // Looking again shows what is now known, under the number that was promised.
    let secret = world.seen(&one.consumer());
    let version = secret.version(secret.current.unwrap()).unwrap();
    assert!(promised.contains(&version.number));
    assert!(version.fields.iter().all(|field| field.bytes.is_some()));
    // Neither is shown, or given, what is the other's.
    let theirs = world.seen(&other.consumer()).current.unwrap();
    assert!(world.seen(&one.consumer()).version(theirs).is_none());
    for stranger in
        [one.consumer(), Consumer::Nobody, Consumer::Process { pid: std::process::id(), origin: 1 }]
    {
        let taken = world.read_version(&stranger, theirs, "password");
        assert!(
            matches!(taken, Err(StoreFault::Replaced(..) | StoreFault::Invalid(_))),
            "{stranger} was given it"
        );
    }
    assert!(world.dynamic.known(&login(&Consumer::Nobody), &path(PATH)).is_none());
    assert_eq!((between.count("/creds/"), world.events(What::Minted, true)), (2, 2));
}

#[test]
fn nothing_else_is_asked_or_told_about_a_path_that_is_declared() {
    let (postgres, bao, directory) = (Postgres::start(), Bao::dev(), Directory::new());
    postgres.serve_through(&bao, "orders", "1h", "24h");
    let between = Between::in_front_of(&bao.url);
    let world = World::open(&[&between.url()], &bao.root, &directory, database("orders"));
    let unit = Unit::running("one");
    // The engine beside it said of the same path that nothing is there; and now something is.
    assert!(world.runtime.block_on(world.remote.look_up(&Login::machine(), &path(PATH))).unwrap().is_none());
    assert!(world.remote.is_absent(&path(PATH)) && !world.dynamic.is_absent(&path(PATH)));
    bao.tell("POST", &format!("secret/data/{PATH}"), &json!({"data": {"password": "kept", "other": "kept"}}));
    let asked = || between.count(PATH);
    let before = asked();
    for login in [login(&unit.consumer()), Login::machine()] {
        let found = world.runtime.block_on(world.dynamic.look_up(&login, &path(PATH))).unwrap().unwrap();
        assert!(found.versions.iter().flat_map(|version| version.fields.iter()).all(|field| {
            ["password", "username"].contains(&field.name.as_str()) && field.bytes.is_none()
        }));
        let again = world.runtime.block_on(world.dynamic.refresh(&login, Some(&path(PATH))));
        assert_eq!(again.unwrap(), 1);
        assert_eq!(world.dynamic.stale_for(&login, &path(PATH)), Duration::ZERO);
    }
    assert_eq!((asked(), postgres.users().len()), (before, 0), "something was asked about it");
    assert_ne!(world.read(&unit.consumer(), "password").unwrap(), "kept");
    world.dynamic.note_look(&path(PATH));
    let current = world.seen(&unit.consumer()).current.unwrap();
    world.runtime.block_on(world.dynamic.learn_fields(&Login::machine(), &path(PATH), current)).unwrap();
    assert_eq!(asked(), before, "a read asked the engine beside it");
}

#[test]
fn whoever_looks_beside_what_is_minted_has_the_engine_asked() {
    let (bao, directory) = (Bao::dev(), Directory::new());
    for name in ["looked", "learned"] {
        let beside = json!({"custom_metadata": {"credfs.fields": "f"}});
        bao.tell("POST", &format!("secret/metadata/app/{name}"), &beside);
        bao.tell("POST", &format!("secret/data/app/{name}"), &json!({"data": {"f": "value"}}));
    }
    let world = World::open(&[&bao.url], &bao.root, &directory, database("orders"));
    let fields = |name: &str| {
        let secret = world.dynamic.known(&Login::machine(), &path(name))?;
        Some(secret.version(secret.current?)?.fields.iter().map(|field| field.bytes).collect::<Vec<_>>())
    };
    let learned = path("app/learned");
    let machine = Login::machine();
    let secret = world.runtime.block_on(world.dynamic.look_up(&machine, &learned)).unwrap().unwrap();
    assert_eq!(fields("app/learned"), Some(vec![None]), "by name alone");
    let current = secret.current.unwrap();
    world.runtime.block_on(world.dynamic.learn_fields(&machine, &learned, current)).unwrap();
    assert_eq!(fields("app/learned"), Some(vec![Some(5)]));
    let watching = world.runtime.spawn(Arc::clone(&world.remote).watch_over());
    soon("its name is listed", || world.dynamic.known(&Login::machine(), &path("app/looked")).is_some());
    world.dynamic.note_look(&path("app/looked"));
    soon("it is described", || fields("app/looked") == Some(vec![None]));
    watching.abort();
}

/// Two identities with logins of their own, beside the machine's.
fn identities(bao: &Bao, url: &str, directory: &Directory, token_ttl: &str) -> VaultOptions {
    bao.policy(
        "minter",
        "path \"database/creds/orders\" { capabilities = [\"read\"] }\n\
         path \"sys/leases/*\" { capabilities = [\"update\"] }\n\
         path \"secret/data/*\" { capabilities = [\"read\"] }",
    );
    let mut all = options(&[url], "secret", token_login(directory.file("token", &bao.root)));
    for name in ["alice", "bob"] {
        let (role_id, secret_id) =
            bao.approle(name, json!({"token_policies": "minter", "token_ttl": token_ttl}));
        let secret_id_file = directory.file(name, &secret_id);
        let method = LoginBy::AppRole { role_id, secret_id_file, wrapped: None };
        all.logins.insert(name.to_owned(), LoginSetup { method, mount: None, namespace: None });
    }
    all
}

#[test]
fn identities_with_logins_of_their_own_are_apart_within_one_unit() {
    let (postgres, bao, directory) = (Postgres::start(), Bao::dev(), Directory::new());
    postgres.serve_through(&bao, "orders", "1h", "24h");
    let options = identities(&bao, &bao.url, &directory, "1h");
    let world = World::with(options, &directory, directory.path(), database("orders"));
    let unit = Unit::running("shared");
    let mut seen = Vec::new();
    for name in ["alice", "bob"] {
        let login = Login::of_identity(name).for_consumer(unit.consumer());
        let secret = world.dynamic.known(&login, &path(PATH)).unwrap();
        let wanted =
            Wanted { secret: path(PATH), version: secret.current.unwrap(), field: field("username") };
        let fetched = world.runtime.block_on(world.dynamic.fetch(&login, &wanted)).unwrap();
        seen.push((login, wanted, String::from_utf8(fetched.value.expose().to_vec()).unwrap()));
    }
    let [(_, first, alice), (login, second, bob)] = &seen[..] else { unreachable!() };
    assert!(alice != bob && first.version != second.version, "{alice}, {bob}");
    assert_eq!(postgres.users().len(), 2);
    let known = world.dynamic.known(login, &path(PATH)).unwrap();
    assert!(known.version(first.version).is_none(), "one is shown what is the other's");
    let taken = world.runtime.block_on(world.dynamic.fetch(login, first)).map(drop);
    assert!(matches!(taken, Err(StoreFault::Replaced(..))), "one is given what is the other's");
}

#[test]
fn a_thousand_who_open_at_once_have_one_user_minted() {
    let (postgres, bao, directory) = (Postgres::start(), Bao::dev(), Directory::new());
    postgres.serve_through(&bao, "orders", "1h", "24h");
    let world = World::open(&[&bao.url], &bao.root, &directory, database("orders"));
    let unit = Unit::running("crowd");
    let current = world.seen(&unit.consumer()).current.unwrap();
    let read = world.runtime.block_on(async {
        let mut all = tokio::task::JoinSet::new();
        for number in 0..1000 {
            let (dynamic, consumer) = (Arc::clone(&world.dynamic), unit.consumer());
            let name = if number % 2 == 0 { "username" } else { "password" };
            all.spawn(async move {
                let wanted = Wanted { secret: path(PATH), version: current, field: field(name) };
                dynamic.fetch(&login(&consumer), &wanted).await.unwrap().value.expose().to_vec()
            });
        }
        let mut read = BTreeSet::new();
        while let Some(value) = all.join_next().await {
            read.insert(value.unwrap());
        }
        read
    });
    assert_eq!((read.len(), postgres.users().len()), (2, 1));
}

#[test]
fn a_unit_that_stops_loses_its_user_and_the_next_of_its_name_gets_another() {
    let (postgres, bao, directory) = (Postgres::start(), Bao::dev(), Directory::new());
    postgres.serve_through(&bao, "orders", "1h", "24h");
    let world = World::open(&[&bao.url], &bao.root, &directory, database("orders"));
    let (mut one, mut other, stays) = (Unit::running("one"), Unit::running("other"), Unit::running("stays"));
    for unit in [&one, &other, &stays] {
        world.pair(&unit.consumer());
    }
    let kept = world.pair(&stays.consumer()).0;
    let pid = one.spawn("exec sleep 1000");
    assert_eq!(postgres.users().len(), 3);
    one.stop(false);
    assert!(!Path::new(&format!("/proc/{pid}")).exists());
    other.stop(true);
    soon("the users of stopped units are gone", || postgres.users() == [kept.clone()]);
    assert!(world.events(What::Revoked, true) == 2);
    // Whoever comes after in the same group gets another.
    one.spawn("exec sleep 1000");
    let (user, password) = world.pair(&one.consumer());
    assert!(user != kept && postgres.lets_in(&user, &password) && postgres.users().len() == 2);
}

#[test]
fn a_process_that_ends_loses_its_user() {
    let (postgres, bao, directory) = (Postgres::start(), Bao::dev(), Directory::new());
    postgres.serve_through(&bao, "orders", "1h", "24h");
    let world = World::open(&[&bao.url], &bao.root, &directory, database("orders"));
    let mut child = Command::new("sleep").arg("1000").spawn().unwrap();
    // As the identifier tells it on a kernel that has pidfds with inodes.
    let pidfd = credfs::sys::process::PidFd::open(child.id(), credfs::sys::process::Scope::Process).unwrap();
    let consumer = Consumer::Process { pid: child.id(), origin: pidfd.inode().unwrap() };
    let (user, password) = world.pair(&consumer);
    assert!(postgres.lets_in(&user, &password));
    std::thread::sleep(Duration::from_millis(500));
    assert_eq!(postgres.users().len(), 1, "a living process keeps it");
    child.kill().unwrap();
    child.wait().unwrap();
    soon("the user of a process that ended is gone", || postgres.users().is_empty());
}

#[test]
fn a_command_ends_a_version_at_once_and_the_next_open_mints_another() {
    let (postgres, bao, directory) = (Postgres::start(), Bao::dev(), Directory::new());
    postgres.serve_through(&bao, "orders", "1h", "24h");
    let world = World::open(&[&bao.url], &bao.root, &directory, database("orders"));
    let unit = Unit::running("one");
    let (user, _) = world.pair(&unit.consumer());
    let number = world.seen(&unit.consumer()).current.unwrap();
    let revoke = || Change::Revoke { secret: path(PATH), version: number };
    let changed = world.runtime.block_on(world.dynamic.change(&Login::machine(), revoke())).unwrap();
    let after = changed.after.unwrap();
    assert!(
        after.version(number).unwrap().revoked && !changed.before.unwrap().version(number).unwrap().revoked
    );
    assert!(postgres.users().is_empty(), "it is ended when the command returns");
    let refused = world.read_version(&unit.consumer(), number, "password");
    assert!(matches!(refused, Err(StoreFault::Revoked(..))));
    let (next, password) = world.pair(&unit.consumer());
    assert!(next != user && postgres.lets_in(&next, &password));
    let put = crate::harness::put(PATH, &[("password", b"x")]);
    let refused = world.runtime.block_on(world.dynamic.change(&Login::machine(), put)).unwrap_err();
    assert!(matches!(refused, StoreFault::Invalid(_)), "{refused}");
}

#[test]
fn what_a_killed_process_minted_is_used_on_or_ended_by_the_next() {
    let (postgres, bao, directory) = (Postgres::start(), Bao::dev(), Directory::new());
    postgres.serve_through(&bao, "orders", "1h", "24h");
    let (lives, mut dies) = (Unit::running("lives"), Unit::running("dies"));
    let (kept, number) = {
        let world = World::open(&[&bao.url], &bao.root, &directory, database("orders"));
        world.pair(&dies.consumer());
        (world.pair(&lives.consumer()), world.seen(&lives.consumer()).current)
        // Dropped here: nothing of it is told to the server, as when it is killed.
    };
    assert_eq!(postgres.users().len(), 2);
    let text = std::fs::read(directory.path().join("leases")).unwrap();
    assert!(
        !text.windows(kept.1.len()).any(|part| part == kept.1.as_bytes()),
        "a password lies open on disk"
    );
    dies.stop(true);
    let world = World::open(&[&bao.url], &bao.root, &directory, database("orders"));
    assert_eq!(world.seen(&lives.consumer()).current, number, "the number stays");
    assert_eq!(world.pair(&lives.consumer()), kept, "whoever lives goes on with what he has");
    soon("what the dead left is ended", || postgres.users() == [kept.0.clone()]);
    assert!(postgres.lets_in(&kept.0, &kept.1));
    // A planned end leaves nothing.
    assert_eq!(world.runtime.block_on(world.dynamic.end_all(Duration::from_secs(5))), 0);
    assert!(postgres.users().is_empty());
    drop(world);
    let world = World::open(&[&bao.url], &bao.root, &directory, Vec::new());
    assert!(world.dynamic.leases().is_empty());
}

#[test]
fn the_session_of_a_killed_process_is_ended_after_what_hung_on_it() {
    let (postgres, bao, directory) = (Postgres::start(), Bao::dev(), Directory::new());
    postgres.serve_through(&bao, "orders", "1h", "24h");
    let (mut one, mut other) = (Unit::running("one"), Unit::running("other"));
    let open = || {
        let options = identities(&bao, &bao.url, &directory, "1h");
        World::with(options, &directory, directory.path(), database("orders"))
    };
    let read = |world: &World, consumer: Consumer| {
        let login = Login::of_identity("alice").for_consumer(consumer);
        let version = world.dynamic.known(&login, &path(PATH)).unwrap().current.unwrap();
        let wanted = |name| Wanted { secret: path(PATH), version, field: field(name) };
        ["username", "password"].map(|name| {
            let fetched = world.runtime.block_on(world.dynamic.fetch(&login, &wanted(name))).unwrap();
            String::from_utf8(fetched.value.expose().to_vec()).unwrap()
        })
    };
    let before = bao.accessors();
    let left = {
        let world = open();
        read(&world, one.consumer());
        read(&world, other.consumer());
        let made: Vec<String> = bao.accessors().into_iter().filter(|one| !before.contains(one)).collect();
        assert_eq!(made.len(), 1);
        made[0].clone()
        // Dropped here: nothing of it is told to the server, as when it is killed.
    };
    let world = open();
    let is_there = || bao.accessors().contains(&left);
    one.stop(true);
    soon("the user of the unit that stopped is gone", || postgres.users().len() == 1);
    std::thread::sleep(Duration::from_secs(1));
    let [user, password] = read(&world, other.consumer());
    assert!(is_there() && postgres.lets_in(&user, &password), "ended under a lease that lives");
    let file = std::fs::read(directory.path().join("leases")).unwrap();
    assert!(!file.windows(left.len()).any(|part| part == left.as_bytes()), "it lies open on disk");
    other.stop(true);
    soon("what hung on it is ended, and then itself", || postgres.users().is_empty() && !is_there());
}

#[test]
fn where_nothing_is_minted_nobody_is_woken_to_look_after_it() {
    let (postgres, bao, directory) = (Postgres::start(), Bao::dev(), Directory::new());
    postgres.serve_through(&bao, "orders", "1h", "24h");
    // Every turn of the loop asks what time it is.
    let asked = Arc::new(AtomicU64::new(0));
    let (counted, machine) = (Arc::clone(&asked), Clocks::of_machine());
    let boot_us = Arc::clone(&machine.boot_us);
    let clocks = Clocks {
        boot_us: Arc::new(move || {
            counted.fetch_add(1, Ordering::Relaxed);
            boot_us()
        }),
        ..machine
    };
    let options = options(&[&bao.url], "secret", token_login(directory.file("token", &bao.root)));
    let world = World::at(clocks, options, &directory, directory.path(), database("orders"));
    let turns_in_a_second = || {
        let before = asked.load(Ordering::Relaxed);
        std::thread::sleep(Duration::from_secs(1));
        asked.load(Ordering::Relaxed) - before
    };
    let mut unit = Unit::running("one");
    world.seen(&unit.consumer());
    soon("it is still", || turns_in_a_second() == 0);
    world.pair(&unit.consumer());
    assert!(turns_in_a_second() > 5, "who has a lease is not looked after");
    unit.stop(true);
    soon("the user is gone", || postgres.users().is_empty());
    soon("it is still again", || turns_in_a_second() == 0);
}

#[test]
fn what_was_minted_before_a_reboot_is_nobodys_even_where_somebody_is_called_the_same() {
    let (postgres, bao, directory) = (Postgres::start(), Bao::dev(), Directory::new());
    postgres.serve_through(&bao, "orders", "1h", "24h");
    // Numbers of cgroups and processes begin anew at each boot: this one stands for another of the same number.
    let unit = Unit::running("one");
    let user = World::open(&[&bao.url], &bao.root, &directory, database("orders")).pair(&unit.consumer()).0;
    assert_eq!(postgres.users(), std::slice::from_ref(&user));
    let clocks = Clocks { boot_id: "another boot".into(), ..Clocks::of_machine() };
    let options = options(&[&bao.url], "secret", token_login(directory.file("token", &bao.root)));
    let world = World::at(clocks, options, &directory, directory.path(), database("orders"));
    let (next, password) = world.pair(&unit.consumer());
    assert!(next != user && postgres.lets_in(&next, &password), "a lease of the boot before is gone on with");
    soon("what was minted before the reboot is ended", || postgres.users() == [next.clone()]);
}

#[test]
fn before_a_lease_ends_another_takes_its_place_and_watchers_are_told() {
    let (postgres, bao, directory) = (Postgres::start(), Bao::dev(), Directory::new());
    postgres.serve_through(&bao, "orders", "4s", "8s");
    let between = Between::in_front_of(&bao.url);
    let world = World::open(&[&between.url()], &bao.root, &directory, database("orders"));
    let unit = Unit::running("one");
    let told = Arc::new(Mutex::new(Vec::new()));
    let noted = Arc::clone(&told);
    world.dynamic.watch(Box::new(move |changed| {
        let current = |secret: &Option<Arc<Secret>>| secret.as_ref().and_then(|secret| secret.current);
        noted.lock().unwrap().push((current(&changed.before), current(&changed.after)));
    }));
    let first = world.seen(&unit.consumer()).current.unwrap();
    let (begun, mut numbers) = (Instant::now(), BTreeSet::new());
    let before = world.pair(&unit.consumer());
    let mut was_kept = false;
    while begun.elapsed() < Duration::from_secs(20) {
        let (user, password) = world.pair(&unit.consumer());
        let is_let_in = postgres.lets_in(&user, &password);
        // It may have been replaced while psql asked.
        assert!(is_let_in || world.pair(&unit.consumer()).0 != user, "a current user does not work");
        let secret = world.seen(&unit.consumer());
        let is_new = numbers.insert(secret.current.unwrap());
        if is_new && numbers.len() == 2 {
            assert_eq!(secret.at(Stage::Previous), Some(first));
            assert_eq!(world.read_version(&unit.consumer(), first, "password").unwrap(), before.1);
            was_kept = postgres.lets_in(&before.0, &before.1);
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    assert!((3..=6).contains(&numbers.len()), "{numbers:?}");
    assert!(was_kept, "the old one works on until it ends");
    let told = told.lock().unwrap().clone();
    assert_eq!(told.first().map(|(before, _)| *before), Some(Some(first)));
    assert!(told.iter().all(|(before, after)| before < after) && told.len() + 1 >= numbers.len(), "{told:?}");
    soon("what ended is gone", || postgres.users().len() <= 2);
    assert!(between.count("leases/renew") > 0, "a lease is renewed while that gives time");
}

#[test]
fn without_a_server_who_has_a_lease_reads_on_and_others_are_told_in_time() {
    let (postgres, bao, directory) = (Postgres::start(), Bao::dev(), Directory::new());
    postgres.serve_through(&bao, "orders", "1h", "24h");
    let between = Between::in_front_of(&bao.url);
    let world = World::open(&[&between.url()], &bao.root, &directory, database("orders"));
    let (mut has, lacks) = (Unit::running("has"), Unit::running("lacks"));
    let held = world.pair(&has.consumer());
    between.decide(|_| Does::Nothing);
    for _ in 0..4 {
        let begun = Instant::now();
        let fault = world.read(&lacks.consumer(), "password").unwrap_err();
        assert!(matches!(fault.bare(), StoreFault::Timeout | StoreFault::Away(_)), "{fault}");
        assert!(begun.elapsed() < Duration::from_secs(4));
    }
    let begun = Instant::now();
    assert!(
        world.read(&lacks.consumer(), "password").is_err() && begun.elapsed() < Duration::from_millis(100)
    );
    assert_eq!(world.pair(&has.consumer()), held);
    // What could not be ended is tried again.
    has.stop(true);
    soon("its end fails", || world.events(What::Revoked, false) == 1);
    between.decide(|_| Does::HandOn);
    soon("it is ended later", || !postgres.users().contains(&held.0));
    soon("others are served again", || world.read(&lacks.consumer(), "password").is_ok());
    assert_eq!(world.events(What::Revoked, false), 1, "an outage is one record, not one a try");
}

#[test]
fn what_cannot_be_written_down_is_not_handed_out() {
    let (postgres, bao, directory) = (Postgres::start(), Bao::dev(), Directory::new());
    postgres.serve_through(&bao, "orders", "1h", "24h");
    let small = directory.path().join("small");
    std::fs::create_dir(&small).unwrap();
    let mounted = Command::new("mount")
        .args(["-t", "tmpfs", "-o", "size=64k,mode=700", "credfs-test", small.to_str().unwrap()])
        .status()
        .unwrap();
    assert!(mounted.success());
    let token = directory.file("token", &bao.root);
    let options = options(&[&bao.url], "secret", token_login(token));
    let world = World::with(options, &directory, &small, database("orders"));
    let units: Vec<Unit> = (0..12).map(|number| Unit::running(&format!("unit{number}"))).collect();
    let full = std::fs::File::create(small.join("full")).unwrap();
    while std::io::Write::write_all(&mut &full, &[0; 512]).is_ok() {}
    // The last page of the file takes a few more.
    let read: Vec<_> = units.iter().map(|unit| world.read(&unit.consumer(), "password").map(drop)).collect();
    let users = postgres.users();
    std::fs::remove_file(small.join("full")).unwrap();
    drop(full);
    let read_later = world.read(&units[11].consumer(), "password");
    drop(world);
    let taken = Command::new("umount").arg("-l").arg(&small).status().unwrap();
    assert!(taken.success());
    let written = read.iter().filter(|read| read.is_ok()).count();
    assert!(
        written < 12 && read.iter().all(|read| matches!(read, Ok(()) | Err(StoreFault::Io(_)))),
        "{read:?}"
    );
    assert_eq!(users.len(), written, "what could not be written down was not ended");
    assert!(read_later.is_ok());
}

#[test]
fn a_certificate_is_issued_whose_chain_and_key_fit() {
    let (bao, directory) = (Bao::dev(), Directory::new());
    bao.tell("POST", "sys/mounts/pki", &json!({"type": "pki", "config": {"max_lease_ttl": "87600h"}}));
    bao.tell("POST", "pki/root/generate/internal", &json!({"common_name": "test root", "ttl": "8760h"}));
    bao.tell(
        "POST",
        "pki/roles/web",
        &json!({"allowed_domains": "internal", "allow_subdomains": true, "max_ttl": "72h"}),
    );
    let engine = Engine::Pki(Pki {
        mount: "pki".to_owned(),
        role: "web".to_owned(),
        common_name: "orders.internal".to_owned(),
        alt_names: vec!["www.internal".to_owned()],
        ip_sans: vec!["127.0.0.1".to_owned()],
        ttl: Some(Duration::from_secs(3600)),
    });
    let declared = vec![Declared { path: path(PATH), engine, sharing: Sharing::Unit }];
    let world = World::open(&[&bao.url], &bao.root, &directory, declared);
    let mut unit = Unit::running("web");
    let files = Directory::new();
    for name in
        ["bundle", "ca_chain", "certificate", "fullchain", "issuing_ca", "private_key", "serial_number"]
    {
        files.file(name, &world.read(&unit.consumer(), name).unwrap());
    }
    let openssl = |arguments: &[&str]| {
        let done = Command::new("openssl").args(arguments).current_dir(files.path()).output().unwrap();
        assert!(done.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&done.stderr));
        String::from_utf8(done.stdout).unwrap()
    };
    openssl(&["verify", "-CAfile", "ca_chain", "-verify_hostname", "www.internal", "certificate"]);
    openssl(&["verify", "-CAfile", "issuing_ca", "-verify_ip", "127.0.0.1", "fullchain"]);
    let of_key = openssl(&["pkey", "-in", "private_key", "-pubout"]);
    assert_eq!(of_key, openssl(&["x509", "-in", "certificate", "-noout", "-pubkey"]));
    assert_eq!(of_key, openssl(&["pkey", "-in", "bundle", "-pubout"]));
    assert_eq!(of_key, openssl(&["x509", "-in", "bundle", "-noout", "-pubkey"]));
    let serial = std::fs::read_to_string(files.path().join("serial_number")).unwrap();
    let lease = world.dynamic.leases().pop().unwrap();
    let left = lease.expires.unwrap().micros()
        - credfs::model::UnixTime::from(std::time::SystemTime::now()).micros();
    assert!((3_400_000_000..=3_700_000_000).contains(&left), "{left} µs");
    unit.stop(true);
    let revoked =
        || bao.get(&format!("pki/cert/{serial}"))["data"]["revocation_time"].as_u64().unwrap_or(0) > 0;
    soon("the certificate of a unit that stopped is revoked", revoked);
}

#[test]
fn a_lease_whose_session_ends_is_replaced_while_it_still_works() {
    let (postgres, bao, directory) = (Postgres::start(), Bao::dev(), Directory::new());
    postgres.serve_through(&bao, "orders", "1h", "24h");
    bao.policy(
        "orders",
        "path \"database/creds/orders\" { capabilities = [\"read\"] }\n\
         path \"sys/leases/*\" { capabilities = [\"update\"] }",
    );
    let settings = json!({"token_policies": "orders", "token_ttl": "6s", "token_max_ttl": "9s"});
    let (role_id, secret_id) = bao.approle("orders", settings);
    let secret_id_file = directory.file("secret-id", &secret_id);
    let setup = LoginSetup {
        method: LoginBy::AppRole { role_id, secret_id_file, wrapped: None },
        mount: None,
        namespace: None,
    };
    let world =
        World::with(options(&[&bao.url], "secret", setup), &directory, directory.path(), database("orders"));
    let unit = Unit::running("one");
    let (begun, mut users) = (Instant::now(), BTreeSet::new());
    while begun.elapsed() < Duration::from_secs(20) {
        let (user, password) = world.pair(&unit.consumer());
        assert!(postgres.lets_in(&user, &password), "the server ended it with the session it hung on");
        users.insert(user);
        std::thread::sleep(Duration::from_millis(150));
    }
    assert!((2..=6).contains(&users.len()), "{}", users.len());
}
