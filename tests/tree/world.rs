//! A store, a policy, a log and a tree over them, without a mount. Callers are made up but for their process: any
//! uid can be said, and the thread asked about is a real one.

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use credfs::access::{Gate, Limits, Parts, Places, Refusal};
use credfs::audit::{Log, Options as LogOptions};
use credfs::caller::{Asker, Caller, Identifier, Options as IdentifierOptions, ProcExecutables};
use credfs::model::{FieldName, Outcome, Ownership, SecretBytes, SecretPath, Stage, UnixTime, Version};
use credfs::policy::{Options as PolicyOptions, Policy, SystemNames};
use credfs::store::{Change, KeySource, Local, LocalOptions, Login, Store};
use credfs::tree::{Entry, Inode, Lookup, OpenFile, Opened, Options, Reading, Tree};

/// A made-up wall clock, shared by store and gate.
#[derive(Clone)]
pub(crate) struct Clock(Arc<AtomicI64>);

impl Clock {
    fn new() -> Self {
        Self(Arc::new(AtomicI64::new(1_700_000_000_000_000)))
    }

    pub(crate) fn now(&self) -> UnixTime {
        UnixTime::from_micros(self.0.load(Ordering::SeqCst))
    }

    pub(crate) fn forward(&self, span: Duration) {
        self.0.fetch_add(i64::try_from(span.as_micros()).unwrap(), Ordering::SeqCst);
    }
}

pub(crate) struct World {
    pub(crate) directory: PathBuf,
    pub(crate) clock: Clock,
    pub(crate) store: Arc<Local>,
    pub(crate) gate: Arc<Gate>,
    pub(crate) tree: Arc<Tree>,
    pub(crate) identifier: Arc<Identifier>,
    pub(crate) runtime: tokio::runtime::Runtime,
    /// A process that is not this one, for callers to be.
    pub(crate) process: Child,
    /// Another, for readers who did not open.
    pub(crate) other_process: Child,
}

fn sleeper() -> Child {
    Command::new("sleep").arg("1000").stdin(Stdio::null()).spawn().expect("sleep starts")
}

impl World {
    pub(crate) fn new(name: &str, policy: &str) -> Self {
        Self::built(name, policy, |store| store, None)
    }

    /// A world whose store is wrapped, or whose log lies elsewhere.
    pub(crate) fn built(
        name: &str,
        policy: &str,
        wrap: impl FnOnce(Arc<dyn Store>) -> Arc<dyn Store>,
        log: Option<&std::path::Path>,
    ) -> Self {
        let directory = std::env::temp_dir().join(format!("credfs-tree-{}-{name}", std::process::id()));
        let _ = std::fs::remove_dir_all(&directory);
        std::fs::create_dir_all(&directory).unwrap();
        let clock = Clock::new();
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let key = || KeySource::Raw([7; 32]);
        let path = directory.join("store.db");
        let ticking = clock.clone();
        let mut options = LocalOptions::new("main", &path, key());
        options.clock = Arc::new(move || ticking.now());
        // A process that another test is just starting holds the lock of `create` until it has become its program.
        options.busy_wait_ms = 5_000;
        Local::create(&path, &key()).unwrap();
        let store = Arc::new(Local::open(options).unwrap());
        let (log, _) = Log::open(LogOptions::at(log.unwrap_or(&directory.join("audit.log")))).unwrap();
        let log = Arc::new(log);
        let wrapped = wrap(Arc::clone(&store) as Arc<dyn Store>);
        let places = Places::new(vec![(String::new(), wrapped)]).unwrap();
        let ticking = clock.clone();
        let gate = Arc::new(Gate::new(Parts {
            places,
            policy: parse_policy(&directory, policy),
            log,
            limits: Limits { in_flight_per_uid_max: 64, request_deadline: Duration::from_secs(2) },
            clock: Box::new(move || ticking.now()),
        }));
        let tree = Tree::new(Arc::clone(&gate), tree_options());
        let identifier = Arc::new(
            Identifier::new(IdentifierOptions::default(), Arc::new(ProcExecutables::default())).unwrap(),
        );
        let (process, other_process) = (sleeper(), sleeper());
        Self { directory, clock, store, gate, tree, identifier, runtime, process, other_process }
    }

    pub(crate) fn reload(&self, policy: &str) {
        self.gate.put_in_force(parse_policy(&self.directory, policy));
    }

    pub(crate) fn caller(&self, uid: u32) -> Caller<'_> {
        self.identifier.identify(Asker { uid, gid: uid, tid: self.process.id(), is_resent: false }).unwrap()
    }

    pub(crate) fn other_caller(&self, uid: u32) -> Caller<'_> {
        self.identifier
            .identify(Asker { uid, gid: uid, tid: self.other_process.id(), is_resent: false })
            .unwrap()
    }

    pub(crate) fn change(&self, change: Change) -> Version {
        let changed = self.runtime.block_on(self.store.change(&Login::machine(), change)).unwrap();
        changed.version.unwrap()
    }

    pub(crate) fn put(&self, secret: &str, stage: Stage, fields: &[(&str, &str)]) -> Version {
        self.change(Change::Put {
            secret: SecretPath::parse(secret).unwrap(),
            fields: fields
                .iter()
                .map(|(name, value)| {
                    let value = SecretBytes::taken_from(&mut value.as_bytes().to_vec());
                    (FieldName::from_store(name).unwrap(), value)
                })
                .collect(),
            only: true,
            stage,
            ownership: Ownership::default(),
        })
    }

    /// Walks `path` from the root, name by name, as the kernel does.
    pub(crate) fn walk(&self, caller: &Caller<'_>, path: &str) -> Result<Entry, Refusal> {
        let mut at = self.tree.attributes(caller, Inode::ROOT)?;
        for name in path.split('/').filter(|name| !name.is_empty()) {
            at = self.find(caller, at.attributes.inode, name)?;
        }
        Ok(at)
    }

    /// Looks a name up; where a store must be asked first, asks it and looks again, as the adapter does.
    pub(crate) fn find(&self, caller: &Caller<'_>, parent: Inode, name: &str) -> Result<Entry, Refusal> {
        for _ in 0..4 {
            match self.tree.lookup_or_ask(caller, parent, name.as_bytes()) {
                Lookup::Done(answer) => return answer,
                Lookup::Asking(asking) => self.runtime.block_on(asking)?,
            }
        }
        self.tree.lookup(caller, parent, name.as_bytes())
    }

    pub(crate) fn open(&self, caller: &Caller<'_>, inode: Inode) -> Result<Opened, Refusal> {
        let _runtime = self.runtime.enter();
        match self.tree.open(caller, inode) {
            OpenFile::Done(answer) => answer,
            OpenFile::Waiting(fetching) => self.runtime.block_on(fetching),
        }
    }

    pub(crate) fn read(&self, caller: &Caller<'_>, inode: Inode, opened: Opened) -> Result<Vec<u8>, Refusal> {
        let _runtime = self.runtime.enter();
        match self.tree.read(caller, inode, opened.handle) {
            Reading::Ready(bytes) => Ok(bytes.part(0, u32::MAX).to_vec()),
            Reading::Refused(refusal) => Err(refusal),
            Reading::Waiting(fetching) => {
                self.runtime.block_on(fetching).map(|bytes| bytes.part(0, u32::MAX).to_vec())
            }
        }
    }

    pub(crate) fn cat(&self, caller: &Caller<'_>, path: &str) -> Result<String, Refusal> {
        let inode = self.walk(caller, path)?.attributes.inode;
        let opened = self.open(caller, inode)?;
        let bytes = self.read(caller, inode, opened)?;
        self.tree.close(opened.handle);
        Ok(String::from_utf8(bytes).unwrap())
    }

    pub(crate) fn names(&self, caller: &Caller<'_>, path: &str) -> Vec<String> {
        let inode = self.walk(caller, path).unwrap().attributes.inode;
        let mut names: Vec<_> =
            self.tree.list(caller, inode).unwrap().into_iter().map(|entry| entry.name).collect();
        names.sort();
        names
    }

    /// The audit log's records, parsed.
    pub(crate) fn records(&self) -> Vec<serde_json::Value> {
        let text = std::fs::read_to_string(self.directory.join("audit.log")).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    pub(crate) fn releases(&self) -> Vec<serde_json::Value> {
        self.records().into_iter().filter(|record| record["outcome"] == "released").collect()
    }
}

impl Drop for World {
    fn drop(&mut self) {
        for child in [&mut self.process, &mut self.other_process] {
            let _ = child.kill();
            let _ = child.wait();
        }
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

pub(crate) fn tree_options() -> Options {
    Options {
        public_entry_lifetime: Duration::from_secs(1),
        attribute_lifetime: Duration::from_secs(86_400),
        handles_max: 1000,
        directory_uid: 0,
        directory_gid: 0,
    }
}

fn parse_policy(directory: &std::path::Path, text: &str) -> Policy {
    let file = directory.join("policy.toml");
    std::fs::write(&file, text).unwrap();
    let options = PolicyOptions { retire_after: Duration::from_secs(30), owner_uid: 0 };
    Policy::load(&[file], &options, &SystemNames).unwrap().policy
}

pub(crate) fn outcome<T>(result: Result<T, Refusal>) -> Outcome {
    match result {
        Ok(_) => Outcome::Done,
        Err(refusal) => refusal.outcome,
    }
}
