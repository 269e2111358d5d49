//! What the memory in front of a remote engine costs: bytes for a thousand secrets and ten logins, and allocations for a
//! value that is at hand, beside those of the embedded store. A program of its own: nothing else allocates meanwhile.
#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "tests")]
#![allow(unsafe_code, reason = "an allocator that counts")]

#[path = "store/engine.rs"]
#[allow(dead_code, reason = "the tests of stores use the rest")]
mod engine;

use std::alloc::{GlobalAlloc, Layout, System};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use credfs::model::{FieldName, Ownership, SecretBytes, SecretPath, Stage, Version};
use credfs::store::{
    Change, KeySource, Local, LocalOptions, Login, Remote, RemoteOptions, Source, Store, Wanted,
};

use engine::Engine;

struct Counting;

static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);

// SAFETY: everything is passed on to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: as our caller promises.
        unsafe { System.alloc(layout) }
    }
    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: as our caller promises.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

const SECRETS: usize = 1_000;
const LOGINS: usize = 10;

fn resident_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

fn wanted(number: usize) -> Wanted {
    Wanted {
        secret: SecretPath::parse(&format!("prod/team{}/service{number}/db", number % 50)).unwrap(),
        version: Version::new(1).unwrap(),
        field: FieldName::parse("password").unwrap(),
    }
}

fn allocations_of(store: &dyn Store, login: &Login, wanted: &Wanted) -> u64 {
    drop(store.fetch_at_hand(login, wanted).unwrap().unwrap());
    let before = ALLOCATIONS.load(Ordering::Relaxed);
    for _ in 0..1_000 {
        drop(store.fetch_at_hand(login, wanted).unwrap().unwrap());
    }
    ALLOCATIONS.load(Ordering::Relaxed) - before
}

#[test]
fn a_thousand_secrets_and_ten_logins_take_less_than_20_mb_and_a_warm_read_allocates_no_more_than_the_embedded_store()
 {
    let directory: PathBuf = std::env::temp_dir().join(format!("credfs-remote-cost-{}", std::process::id()));
    std::fs::create_dir(&directory).unwrap();
    let key = || KeySource::Raw([7; 32]);
    let path = directory.join("store.db");
    Local::create(&path, &key()).unwrap();
    let local = Arc::new(Local::open(LocalOptions::new("main", &path, key())).unwrap());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    for number in 0..SECRETS {
        let value = |length: usize| SecretBytes::taken_from(&mut vec![7; length]);
        let fields = [("password", 32), ("username", 12)]
            .map(|(name, length)| (FieldName::parse(name).unwrap(), value(length)));
        let change = Change::Put {
            secret: wanted(number).secret,
            fields: fields.into(),
            only: true,
            stage: Stage::Current,
            ownership: Ownership::default(),
        };
        runtime.block_on(local.change(&Login::machine(), change)).unwrap();
    }
    let engine: Arc<dyn Source> = Arc::new(Engine::over(Arc::clone(&local) as Arc<dyn Store>));
    let mut options = RemoteOptions::new(directory.join("numbers"));
    options.fresh_for = std::time::Duration::from_secs(3600);
    let remote = Remote::open(engine, options).unwrap();
    let before = resident_kib();
    let logins: Vec<Login> =
        (0..LOGINS).map(|number| Login::of_identity(&format!("service-{number}"))).collect();
    for number in 0..SECRETS {
        for login in &logins {
            runtime.block_on(remote.fetch(login, &wanted(number))).unwrap();
        }
    }
    let grown = resident_kib().saturating_sub(before);
    let held = (0..SECRETS)
        .flat_map(|number| logins.iter().map(move |login| (number, login)))
        .filter(|(number, login)| remote.fetch_at_hand(login, &wanted(*number)).is_some())
        .count();
    eprintln!("{SECRETS} secrets, {LOGINS} logins: {grown} KiB, {held} held");
    assert_eq!(held, SECRETS * LOGINS, "all of them are at hand");
    assert!(grown < 20_000, "{grown} KiB");
    let one = wanted(500);
    runtime.block_on(local.fetch(&Login::machine(), &one)).unwrap();
    let (embedded, remote) =
        (allocations_of(&*local, &Login::machine(), &one), allocations_of(&*remote, &logins[3], &one));
    eprintln!("1000 warm reads: {remote} allocations, embedded {embedded}");
    assert!(remote <= embedded);
    drop(local);
    std::fs::remove_dir_all(directory).unwrap();
}
