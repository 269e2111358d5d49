//! A remote store in the tree: names and lengths that are not known before somebody asks, and what is asked for whom.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use credfs::access::Refusal;
use credfs::model::{Outcome, SecretPath, Stage};
use credfs::store::{Remote, RemoteOptions, Store, StoreFault};

use super::engine::{Engine, Mood, Verb};
use super::world::{World, outcome};

const POLICY: &str = r#"
[identities.root]
uid = [0]
[identities.lister]
uid = [100]
[identities.orders]
uid = [200]
[identities.orders.login.central]
method = "approle"
role_id = "r"
secret_id_file = "/nowhere"
[[grants]]
to = ["root"]
read = ["**"]
[[grants]]
to = ["lister"]
list = ["prod/**"]
[[grants]]
to = ["orders"]
read = ["prod/orders"]
fields = ["password"]
[views."nginx/orders.pem"]
secret = "prod/orders"
field = "password"
mode = "0440"
"#;

struct Scene {
    world: World,
    engine: Arc<Engine>,
    remote: Arc<Remote>,
}

fn scene(name: &str, arrange: impl FnOnce(&mut Engine), options: impl FnOnce(&mut RemoteOptions)) -> Scene {
    let made: Arc<OnceLock<(Arc<Engine>, Arc<Remote>)>> = Arc::default();
    let making = Arc::clone(&made);
    let file = std::env::temp_dir().join(format!("credfs-tree-{}-{name}-numbers", std::process::id()));
    for leftover in ["", ".key", ".lock"] {
        drop(std::fs::remove_file(format!("{}{leftover}", file.display())));
    }
    let mut settings = RemoteOptions::new(&file);
    settings.answer_within = Duration::from_millis(300);
    options(&mut settings);
    let wrap = move |local: Arc<dyn Store>| {
        let mut engine = Engine::over(local);
        arrange(&mut engine);
        let engine = Arc::new(engine);
        let remote = Remote::open(Arc::clone(&engine) as _, settings).unwrap();
        drop(making.set((engine, Arc::clone(&remote))));
        remote as Arc<dyn Store>
    };
    let world = World::built(name, POLICY, wrap, None);
    let (engine, remote) = made.get().unwrap();
    for leftover in ["", ".key", ".lock"] {
        drop(std::fs::remove_file(format!("{}{leftover}", file.display())));
    }
    Scene { engine: Arc::clone(engine), remote: Arc::clone(remote), world }
}

fn plain(name: &str) -> Scene {
    scene(name, |_| (), |_| ())
}

#[test]
fn a_name_that_nobody_asked_for_before_is_found_by_asking_and_read() {
    let Scene { world, engine, .. } = plain("ask");
    world.put("prod/orders", Stage::Current, &[("password", "one"), ("user", "u")]);
    let root = world.caller(0);
    assert!(world.names(&root, "").is_empty(), "a listing shows what is known and asks nobody");
    assert_eq!(engine.asked_in_all(), 0);
    assert_eq!(world.cat(&root, "prod/orders/password").as_deref(), Ok("one"));
    assert_eq!(world.names(&root, "prod/orders"), ["current", "password", "user", "versions"]);
    assert_eq!(world.cat(&root, "prod/orders/versions/1/user").as_deref(), Ok("u"));
    assert_eq!(engine.asked(Verb::Read), 1, "one request gives every field");
    assert_eq!(outcome(world.walk(&root, "prod/orders/other")), Outcome::Hidden);
    assert_eq!(world.cat(&root, "nginx/orders.pem").as_deref(), Ok("one"), "a view leads there");
}

#[test]
fn a_view_of_what_nobody_asked_for_is_found_by_asking() {
    let Scene { world, .. } = plain("view");
    world.put("prod/orders", Stage::Current, &[("password", "one")]);
    assert_eq!(world.cat(&world.caller(0), "nginx/orders.pem").as_deref(), Ok("one"));
}

#[test]
fn nothing_is_asked_for_whom_nothing_was_granted_and_no_value_for_who_may_only_list() {
    let Scene { world, engine, .. } = plain("nobody");
    world.put("prod/orders", Stage::Current, &[("password", "one")]);
    assert_eq!(outcome(world.walk(&world.caller(300), "prod/orders/password")), Outcome::Hidden);
    assert_eq!(outcome(world.walk(&world.caller(200), "prod/other/password")), Outcome::Hidden);
    let asked = engine.asked_in_all();
    for _ in 0..10 {
        assert_eq!(outcome(world.walk(&world.caller(0), "nothing")), Outcome::Hidden);
    }
    assert!(engine.asked_in_all() <= asked + 2, "what is not there is not asked for again and again");
    let asked = engine.asked_in_all();
    assert_eq!(outcome(world.walk(&world.caller(300), "prod/orders")), Outcome::Hidden);
    assert_eq!(engine.asked_in_all(), asked);
    assert!(world.walk(&world.caller(100), "prod/orders").is_ok());
    assert_eq!(outcome(world.walk(&world.caller(100), "prod/orders/password")), Outcome::Hidden);
    assert_eq!(engine.asked(Verb::Read), 0);
    // A field that is not granted is not fetched to find out.
    assert_eq!(outcome(world.walk(&world.caller(200), "prod/orders/user")), Outcome::Hidden);
    assert_eq!(engine.asked(Verb::Read), 0);
}

#[test]
fn a_length_is_a_limit_until_it_is_known_and_exact_from_open_on() {
    let Scene { world, engine, remote } = plain("length");
    world.put("prod/orders", Stage::Current, &[("password", "12345")]);
    let root = world.caller(0);
    world.walk(&root, "prod/orders/password").unwrap();
    let exact = world.walk(&root, "prod/orders/password").unwrap();
    assert_eq!((exact.attributes.size_bytes, exact.attribute_lifetime.is_zero()), (5, false));
    drop((engine, remote));
    // An engine that says names and no lengths.
    let Scene { world, engine, .. } =
        scene("lengthless", |engine| (engine.says_fields, engine.says_lengths) = (true, false), |_| ());
    world.put("prod/orders", Stage::Current, &[("password", "12345")]);
    let root = world.caller(0);
    let entry = world.walk(&root, "prod/orders/password").unwrap();
    assert_eq!((entry.attributes.size_bytes, entry.attribute_lifetime), (1024 * 1024, Duration::ZERO));
    assert_eq!(engine.asked(Verb::Read), 0, "a stat fetches nothing");
    let opened = world.open(&root, entry.attributes.inode).unwrap();
    let entry = world.tree.attributes(&root, entry.attributes.inode).unwrap();
    assert_eq!((entry.attributes.size_bytes, entry.attribute_lifetime.is_zero()), (5, false));
    world.tree.close(opened.handle);
}

#[test]
fn each_identity_asks_with_its_own_login_and_a_refusal_is_recorded_with_the_servers_id() {
    let Scene { world, engine, .. } = plain("login");
    world.put("prod/orders", Stage::Current, &[("password", "one")]);
    let (root, orders) = (world.caller(0), world.caller(200));
    assert_eq!(world.cat(&root, "prod/orders/password").as_deref(), Ok("one"));
    engine.refuse(&credfs::store::Login::of_identity("orders"), None);
    let inode = world.walk(&orders, "prod/orders/password").unwrap().attributes.inode;
    let refused = world.open(&orders, inode);
    assert_eq!(outcome(refused), Outcome::StoreRefused);
    let record = world.records().into_iter().find(|record| record["outcome"] == "store_refused").unwrap();
    assert!(record["request_id"].as_str().unwrap().starts_with("request-"), "{record}");
    assert_eq!(record["store"], "central");
    assert_eq!(world.cat(&root, "prod/orders/password").as_deref(), Ok("one"), "the other goes on");
    let released = world.releases();
    assert!(released.iter().all(|record| record["request_id"].is_string()));
}

#[test]
fn a_store_that_demands_logins_refuses_who_has_none() {
    let Scene { world, engine, .. } = scene("demands", |_| (), |options| options.needs_own_login = true);
    world.put("prod/orders", Stage::Current, &[("password", "one")]);
    assert_eq!(world.cat(&world.caller(200), "prod/orders/password").as_deref(), Ok("one"));
    let reads = engine.asked(Verb::Read);
    let inode = world.walk(&world.caller(0), "prod/orders/password").unwrap().attributes.inode;
    assert_eq!(outcome(world.open(&world.caller(0), inode)), Outcome::StoreRefused);
    assert_eq!(engine.asked(Verb::Read), reads);
    assert!(world.records().iter().any(|record| record["reason"] == "no_login"));
}

#[test]
fn while_the_store_is_away_names_that_are_not_known_time_out_and_what_is_known_is_listed_at_once() {
    let Scene { world, engine, .. } = plain("away");
    for number in 0..300 {
        world.put(&format!("prod/s{number}"), Stage::Current, &[("f", "1")]);
    }
    world
        .runtime
        .block_on(world.gate.places().stores()[0].refresh(&credfs::store::Login::machine(), None))
        .unwrap();
    engine.feel(Mood::Failing(StoreFault::Away("stopped".into())));
    let root = world.caller(0);
    let cold: Result<_, Refusal> = world.walk(&root, "prod/unknown");
    assert_eq!(outcome(cold), Outcome::StoreAway, "not ENOENT: nobody knows");
    engine.feel(Mood::Silent);
    let begun = std::time::Instant::now();
    let names = world.names(&root, "prod");
    assert_eq!(names.len(), 300);
    for name in &names {
        world.names(&root, &format!("prod/{name}"));
    }
    assert!(begun.elapsed() < Duration::from_millis(500), "{:?}", begun.elapsed());
    assert!(SecretPath::parse("prod/s1").is_ok());
}
