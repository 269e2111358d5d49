//! A workbench: a directory that goes away, a clock that tests move, and short words for changes.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

use credfs::model::{FieldName, Ownership, SecretBytes, SecretPath, Stage, UnixTime, Version};
use credfs::store::{Change, Changed, KeySource, Local, LocalOptions, Login, Store, StoreFault, Wanted};

static MADE: AtomicU64 = AtomicU64::new(0);

pub(crate) struct Directory(pub(crate) PathBuf);

impl Directory {
    pub(crate) fn new() -> Self {
        let number = MADE.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("credfs-store-{}-{number}", std::process::id()));
        std::fs::create_dir(&path).unwrap();
        Self(path)
    }

    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        drop(std::fs::remove_dir_all(&self.0));
    }
}

/// The clock of a store: one that tests move, or that of a server, which nobody can.
#[derive(Clone)]
pub(crate) struct Hand(Option<Arc<AtomicI64>>);

impl Hand {
    pub(crate) fn new() -> Self {
        Self(Some(Arc::new(AtomicI64::new(1_000_000))))
    }

    /// The clock of a server on this machine: for `tests/vault`.
    #[allow(dead_code, reason = "the embedded store has a clock of its own")]
    pub(crate) fn of_server() -> Self {
        Self(None)
    }

    pub(crate) fn turn(&self, micros: i64) {
        if let Some(hand) = &self.0 {
            hand.fetch_add(micros, Ordering::SeqCst);
        }
    }

    pub(crate) fn now(&self) -> UnixTime {
        let hand = self.0.as_ref();
        hand.map_or_else(
            || std::time::SystemTime::now().into(),
            |hand| UnixTime::from_micros(hand.load(Ordering::SeqCst)),
        )
    }

    /// Whether that is this moment. A server tells seconds, and goes on while we ask.
    pub(crate) fn is_now(&self, when: UnixTime) -> bool {
        let off = self.now().micros().abs_diff(when.micros());
        off == 0 || self.0.is_none() && off < 3_000_000
    }
}

pub(crate) const KEY: [u8; 32] = [7; 32];

pub(crate) fn options(path: &Path, hand: &Hand) -> LocalOptions {
    let hand = hand.clone();
    LocalOptions {
        clock: Arc::new(move || hand.now()),
        ..LocalOptions::new("main", path, KeySource::Raw(KEY))
    }
}

pub(crate) fn fresh(directory: &Directory, hand: &Hand) -> Local {
    let path = directory.file("store.db");
    Local::create(&path, &KeySource::Raw(KEY)).unwrap();
    Local::open(options(&path, hand)).unwrap()
}

pub(crate) fn path(text: &str) -> SecretPath {
    SecretPath::parse(text).unwrap()
}

pub(crate) fn field(text: &str) -> FieldName {
    FieldName::parse(text).unwrap()
}

pub(crate) fn version(number: u32) -> Version {
    Version::new(number).unwrap()
}

pub(crate) fn value(bytes: &[u8]) -> SecretBytes {
    SecretBytes::taken_from(&mut bytes.to_vec())
}

pub(crate) fn put_change(at: &str, fields: &[(&str, &[u8])], only: bool, stage: Stage) -> Change {
    let fields = fields.iter().map(|(name, bytes)| (field(name), value(bytes))).collect();
    Change::Put { secret: path(at), fields, only, stage, ownership: Ownership::default() }
}

/// Runs a future to its end where a runtime is, as the daemon does.
pub(crate) fn run<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}

pub(crate) fn change(store: &dyn Store, change: Change) -> Result<Changed, StoreFault> {
    run(store.change(&Login::machine(), change))
}

pub(crate) fn put(store: &dyn Store, at: &str, fields: &[(&str, &[u8])]) -> Changed {
    change(store, put_change(at, fields, false, Stage::Current)).unwrap()
}

pub(crate) fn get(store: &dyn Store, at: &str, number: u32, name: &str) -> Result<Vec<u8>, StoreFault> {
    let wanted = Wanted { secret: path(at), version: version(number), field: field(name) };
    run(store.fetch(&Login::machine(), &wanted)).map(|fetched| fetched.value.expose().to_vec())
}
