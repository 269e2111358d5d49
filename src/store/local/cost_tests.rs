//! What one change costs, counted: the same however many versions of its secret are kept.

use std::cell::{Cell, RefCell};
use std::path::PathBuf;

use rusqlite::trace::{TraceEvent, TraceEventCodes};

use super::{KeySource, Local, LocalOptions};
use crate::model::{FieldName, Ownership, SecretBytes, SecretPath, Stage, Version};
use crate::store::Change;

thread_local! {
    /// Statements of this thread's connections, and those that read rows of `version`.
    static STATEMENTS: Cell<u64> = const { Cell::new(0) };
    static READS: RefCell<Vec<String>> = const { RefCell::new(Vec::new()) };
}

fn count(event: TraceEvent<'_>) {
    if let TraceEvent::Stmt(statement, _) = event {
        STATEMENTS.set(STATEMENTS.get() + 1);
        let sql = statement.sql();
        if sql.starts_with("SELECT") && sql.contains("version") {
            READS.with_borrow_mut(|reads| reads.push(sql.into_owned()));
        }
    }
}

/// What changes cost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Cost {
    log_bytes: u64,
    statements: u64,
    rows: u64,
}

struct Scale {
    directory: PathBuf,
    store: Local,
    versions: u32,
}

impl Scale {
    fn new() -> Self {
        let directory = std::env::temp_dir().join(format!("credfs-cost-{}", std::process::id()));
        std::fs::create_dir(&directory).unwrap();
        let path = directory.join("store.db");
        let key = KeySource::Raw([7; 32]);
        Local::create(&path, &key).unwrap();
        let store =
            Local::open(LocalOptions { log_pages_max: u64::MAX, ..LocalOptions::new("main", path, key) });
        let store = store.unwrap();
        store.inner.writer.lock().trace_v2(TraceEventCodes::SQLITE_TRACE_STMT, Some(count)).unwrap();
        Self { directory, store, versions: 0 }
    }

    fn secret() -> SecretPath {
        SecretPath::parse("prod/db").unwrap()
    }

    fn put(&mut self, stage: Stage) {
        let field = |name| (FieldName::parse(name).unwrap(), SecretBytes::taken_from(&mut [7; 40]));
        let fields = vec![field("password"), field("user")];
        let ownership = Ownership::default();
        self.make(&Change::Put { secret: Self::secret(), fields, only: true, stage, ownership });
        self.versions += 1;
    }

    fn make(&self, change: &Change) {
        self.store.inner.make(change).unwrap();
    }

    fn grow_to(&mut self, versions: u32) {
        while self.versions < versions {
            self.put(Stage::Current);
        }
        self.store.inner.checkpoint().unwrap();
    }

    /// The cost of so many rounds of every kind of change but destruction.
    fn cost_of(&mut self, rounds: u32) -> Cost {
        let so_far = |scale: &Self| Cost {
            log_bytes: std::fs::metadata(scale.directory.join("store.db-wal")).unwrap().len(),
            statements: STATEMENTS.get(),
            rows: scale.store.inner.writer.lock().total_changes(),
        };
        // The log's file does not shrink when it is begun anew: measured from empty.
        super::database::erase_log(&self.store.inner.writer.lock()).unwrap();
        READS.with_borrow_mut(Vec::clear);
        let before = so_far(self);
        for _ in 0..rounds {
            let secret = Self::secret();
            self.put(Stage::Current);
            self.make(&Change::Rollback { secret: secret.clone(), to: None });
            self.put(Stage::Next);
            self.make(&Change::Promote { secret: secret.clone() });
            let version = Version::new(self.versions / 2).unwrap();
            self.make(&Change::Revoke { secret: secret.clone(), version });
            self.make(&Change::Delete { secret: secret.clone(), version: Some(version) });
            self.make(&Change::Undelete { secret, version: Some(version) });
        }
        let after = so_far(self);
        Cost {
            log_bytes: after.log_bytes - before.log_bytes,
            statements: after.statements - before.statements,
            rows: after.rows - before.rows,
        }
    }
}

impl Drop for Scale {
    fn drop(&mut self) {
        drop(std::fs::remove_dir_all(&self.directory));
    }
}

#[test]
fn a_change_costs_the_same_at_ten_versions_and_at_two_thousand() {
    const ROUNDS: u32 = 10;
    let mut scale = Scale::new();
    scale.grow_to(10);
    let few = scale.cost_of(ROUNDS);
    scale.grow_to(2_000);
    let many = scale.cost_of(ROUNDS);
    println!("per seven changes, {ROUNDS} times: at 10 versions {few:?}, at 2,000 {many:?}");
    assert_eq!((many.statements, many.rows), (few.statements, few.rows));
    READS.with_borrow(|reads| {
        assert!(reads.iter().all(|sql| sql.contains("number =")), "all versions are read: {reads:?}");
    });
    // A tree of rows that is one level deeper, and an old row that lies on a page of its own.
    assert!(many.log_bytes <= few.log_bytes * 3 / 2, "{few:?} {many:?}");
    assert_eq!(scale.store.check().unwrap().faults, Vec::<String>::new());
}
