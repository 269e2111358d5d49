//! One credfs of a test's own: `init`, `put` and `mount` as child processes, and nothing left afterwards.

use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use base64::Engine as _;
use credfs::config::Config;
use credfs::control::{Answer, Command, Contact, ask};
use credfs::model::{FieldName, Ownership, SecretBytes, SecretPath, Stage};
use credfs::store::{Change, KeySource, Local, LocalOptions, Login, Store as _};
use serde_json::{Value, json};

use super::{Asker, Done, Kept, Program, RecordList, wait_until};

/// The program under test: that of this build, or the one that `CREDFS_TEST_PROGRAM` names.
fn credfs() -> String {
    std::env::var("CREDFS_TEST_PROGRAM").unwrap_or_else(|_| env!("CARGO_BIN_EXE_credfs").to_owned())
}

/// How long a debug build may take to serve.
const READY_LIMIT: Duration = Duration::from_secs(10);
/// How long it may take to unmount and end.
const END_LIMIT: Duration = Duration::from_secs(10);

/// What alice may read, bob may list and carol may not see.
const POLICY: &str = r#"
[identities.alice]
uid = 24001
[identities.bob]
uid = 24002

[[grants]]
to = ["alice"]
read = ["prod/**"]

[[grants]]
to = ["bob"]
list = ["prod/**"]
"#;

/// How an instance is to be made.
pub(crate) struct Setup {
    policy: String,
    edits: Vec<(&'static str, toml::Value)>,
    environment: Vec<(&'static str, String)>,
    parent: Option<PathBuf>,
    warnings_expected: bool,
}

/// One field of one version, to be stored before the mount.
pub(crate) struct Filling<'a> {
    pub(crate) secret: &'a str,
    pub(crate) field: &'a str,
    pub(crate) value: &'a [u8],
}

/// A running instance.
pub(crate) struct Instance {
    dir: PathBuf,
    daemon: Mutex<Option<Kept>>,
    environment: Vec<(&'static str, String)>,
    warnings_expected: bool,
    /// Everything that commands printed.
    transcript: Mutex<Vec<u8>>,
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            policy: POLICY.to_owned(),
            edits: Vec::new(),
            environment: Vec::new(),
            parent: None,
            warnings_expected: false,
        }
    }
}

impl Setup {
    pub(crate) fn policy(policy: &str) -> Self {
        Self { policy: policy.to_owned(), ..Self::default() }
    }

    /// Sets a key of the configuration, by its dotted name.
    pub(crate) fn set(mut self, key: &'static str, value: impl Into<toml::Value>) -> Self {
        self.edits.push((key, value.into()));
        self
    }

    pub(crate) fn env(mut self, name: &'static str, value: &str) -> Self {
        self.environment.push((name, value.to_owned()));
        self
    }

    /// Makes the instance's directory below `parent` instead of /tmp.
    pub(crate) fn below(mut self, parent: &Path) -> Self {
        self.parent = Some(parent.to_owned());
        self
    }

    /// The test provokes warnings, so they are no fault.
    pub(crate) fn warnings_expected(mut self) -> Self {
        self.warnings_expected = true;
        self
    }

    /// `init`, the policy and the configuration; not mounted.
    #[track_caller]
    pub(crate) fn initialised(self) -> Instance {
        require_root();
        let instance = Instance {
            dir: fresh_directory(self.parent.as_deref()),
            daemon: Mutex::new(None),
            environment: self.environment,
            warnings_expected: self.warnings_expected,
            transcript: Mutex::default(),
        };
        let mount_point = instance.mount_point();
        instance.command(&["init", "--mount-point", &mount_point]).ok();
        instance.edit_config(&self.edits);
        instance.write_policy(&self.policy);
        instance
    }

    /// All of it, and serving.
    #[track_caller]
    pub(crate) fn start(self) -> Instance {
        let instance = self.initialised();
        instance.mount();
        instance
    }
}

impl Instance {
    #[track_caller]
    pub(crate) fn start() -> Self {
        Setup::default().start()
    }

    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    pub(crate) fn file(&self, name: &str) -> String {
        self.dir.join(name).display().to_string()
    }

    pub(crate) fn mount_point(&self) -> String {
        self.file("mnt")
    }

    /// A path in the tree.
    pub(crate) fn path(&self, in_tree: &str) -> String {
        format!("{}/{in_tree}", self.mount_point())
    }

    pub(crate) fn config_path(&self) -> String {
        self.file("credfs.toml")
    }

    fn config(&self) -> toml::Table {
        let text = std::fs::read_to_string(self.config_path()).expect("init wrote the configuration");
        text.parse().expect("init wrote TOML")
    }

    /// The file that a key of the configuration names, by the key's dotted name.
    #[track_caller]
    pub(crate) fn configured_file(&self, key: &str) -> PathBuf {
        let config = toml::Value::Table(self.config());
        let value =
            key.split('.').try_fold(&config, |at, part| at.get(part)).expect("a key that init writes");
        let path =
            value.as_array().and_then(|paths| paths.first()).unwrap_or(value).as_str().expect("a path");
        self.dir.join(path)
    }

    /// Sets a key of the configuration, by its dotted name.
    pub(crate) fn set(&self, key: &str, value: impl Into<toml::Value>) {
        self.edit_config(&[(key, value.into())]);
    }

    fn edit_config(&self, edits: &[(&str, toml::Value)]) {
        if edits.is_empty() {
            return;
        }
        let mut config = self.config();
        for (key, value) in edits {
            let (tables, name) = key.rsplit_once('.').unwrap_or(("", key));
            let mut at = &mut config;
            for part in tables.split('.').filter(|part| !part.is_empty()) {
                let table = at.entry(part).or_insert_with(|| toml::Value::Table(toml::Table::new()));
                at = table.as_table_mut().expect("a table");
            }
            at.insert(name.to_owned(), value.clone());
        }
        std::fs::write(self.config_path(), config.to_string()).expect("the configuration can be written");
    }

    /// Replaces the policy; it is in force after `reload`.
    pub(crate) fn write_policy(&self, policy: &str) {
        let path = self.configured_file("policy.paths");
        std::fs::write(path, policy).expect("the policy can be written");
    }

    #[track_caller]
    pub(crate) fn reload_policy(&self, policy: &str) {
        self.write_policy(policy);
        self.command(&["reload"]).ok();
    }

    pub(crate) fn audit_path(&self) -> PathBuf {
        self.configured_file("audit.path")
    }

    #[track_caller]
    pub(crate) fn records(&self) -> RecordList {
        RecordList::read(&self.audit_path())
    }

    /// The program with its configuration, as root.
    pub(crate) fn program(&self, words: &[&str]) -> Program {
        self.program_as(&Asker::root(), words)
    }

    pub(crate) fn program_as(&self, asker: &Asker, words: &[&str]) -> Program {
        let config = self.config_path();
        let credfs = credfs();
        let mut all = vec![credfs.as_str(), "--config", &config];
        all.extend(words);
        let program = asker.program(&all);
        self.environment.iter().fold(program, |program, (name, value)| program.env(name, value))
    }

    /// Runs a command; whatever it printed is kept for the leak scan.
    #[track_caller]
    pub(crate) fn command(&self, words: &[&str]) -> Done {
        self.command_with(words, Vec::new())
    }

    #[track_caller]
    pub(crate) fn command_with(&self, words: &[&str], input: impl Into<Vec<u8>>) -> Done {
        let done = self.program(words).input(input).run();
        self.note(&done);
        done
    }

    fn note(&self, done: &Done) {
        let mut transcript = self.transcript.lock().expect("not poisoned");
        transcript.extend_from_slice(done.shown.as_bytes());
        transcript.extend_from_slice(&done.out);
        transcript.extend_from_slice(done.err.as_bytes());
    }

    pub(crate) fn transcript(&self) -> Vec<u8> {
        self.transcript.lock().expect("not poisoned").clone()
    }

    /// Stores a version; its number.
    #[track_caller]
    pub(crate) fn put(&self, secret: &str, fields: &[(&str, &[u8])]) -> u64 {
        self.put_with(secret, fields, &[])
    }

    #[track_caller]
    pub(crate) fn put_with(&self, secret: &str, fields: &[(&str, &[u8])], flags: &[&str]) -> u64 {
        let value = |bytes: &[u8]| match std::str::from_utf8(bytes) {
            Ok(text) => json!(text),
            Err(_) => json!({ "base64": base64::engine::general_purpose::STANDARD.encode(bytes) }),
        };
        let fields: serde_json::Map<String, Value> =
            fields.iter().map(|(name, bytes)| ((*name).to_owned(), value(bytes))).collect();
        let mut words = vec!["put", secret, "--fields-json", "--json"];
        words.extend(flags);
        let input = serde_json::to_vec(&fields).expect("JSON");
        let done = self.command_with(&words, input).ok();
        done.json()["version"].as_u64().expect("put prints the number of the version")
    }

    /// Stores versions through the library, before it is mounted: names that the command line refuses, and so many
    /// that a process for each would take minutes.
    #[track_caller]
    pub(crate) fn fill_store<'a>(&self, fillings: impl IntoIterator<Item = Filling<'a>>) {
        let key = KeySource::File(self.configured_file("stores.main.key_file"));
        let options = LocalOptions::new("main", self.configured_file("stores.main.path"), key);
        let store = Local::open(options).expect("init made it");
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        for Filling { secret, field, value } in fillings {
            let change = Change::Put {
                secret: SecretPath::from_store(secret).expect("a path"),
                fields: vec![(
                    FieldName::from_store(field).expect("a name"),
                    SecretBytes::taken_from(&mut value.to_vec()),
                )],
                only: false,
                stage: Stage::Current,
                ownership: Ownership::default(),
            };
            runtime.block_on(store.change(&Login::machine(), change)).expect("stored");
        }
    }

    /// A directory that belongs to `uid`.
    pub(crate) fn home_of(&self, uid: u32) -> String {
        let home = self.file(&format!("home-{uid}"));
        std::fs::create_dir(&home).expect("a fresh directory");
        std::os::unix::fs::chown(&home, Some(uid), None).expect("its owner");
        home
    }

    /// Stores a version as the command line does, without a process of its own: fast enough for a hundred a second.
    #[track_caller]
    pub(crate) fn put_by_socket(&self, secret: &str, fields: &[(&str, &[u8])]) -> u64 {
        let config = Config::load(Path::new(&self.config_path())).expect("a valid configuration");
        let Ok(Contact::Made(stream)) = Contact::make(&config.control.socket) else {
            panic!("nobody answers")
        };
        let command = Command::Put {
            secret: SecretPath::parse(secret).expect("a path"),
            fields: fields.iter().map(|(name, _)| FieldName::parse(name).expect("a name")).collect(),
            only: false,
            stage: Stage::Current,
            ownership: Ownership::default(),
        };
        let values: Vec<SecretBytes> =
            fields.iter().map(|(_, bytes)| SecretBytes::taken_from(&mut bytes.to_vec())).collect();
        let reply = ask(&stream, &command, &values, &mut std::io::sink(), READY_LIMIT).expect("stored");
        let Answer::Changed { version: Some(version), .. } = reply.answer else { panic!("another answer") };
        u64::from(version.get())
    }

    /// Starts serving, and waits until it does.
    #[track_caller]
    pub(crate) fn mount(&self) {
        let daemon = self.program(&["mount"]).keep(&self.dir.join("daemon.err"));
        self.serve_with(daemon);
    }

    /// Takes over a program that runs `credfs mount`, and waits until it serves.
    #[track_caller]
    pub(crate) fn serve_with(&self, mut daemon: Kept) {
        wait_until("credfs serves", READY_LIMIT, || {
            assert!(daemon.is_running(), "credfs mount ended:\n{}", daemon.output());
            self.program(&["status"]).run().code == Some(0)
        });
        *self.daemon.lock().expect("not poisoned") = Some(daemon);
    }

    /// Where `credfs mount` prints what it has to say.
    pub(crate) fn daemon_output(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(self.dir.join("daemon.err")).unwrap_or_default()).into_owned()
    }

    pub(crate) fn daemon_pid(&self) -> u32 {
        self.daemon.lock().expect("not poisoned").as_ref().expect("it runs").pid()
    }

    /// The process that serves, which need not be the one that was started.
    #[track_caller]
    pub(crate) fn worker_pid(&self) -> u32 {
        let status = self.command(&["status", "--json"]).ok().json();
        u32::try_from(status["worker_pid"].as_u64().expect("worker_pid")).expect("a pid")
    }

    /// Ends the daemon with a signal; how it ended.
    #[track_caller]
    pub(crate) fn end_with(&self, signal: &str) -> std::process::ExitStatus {
        let mut daemon = self.daemon.lock().expect("not poisoned").take().expect("it runs");
        daemon.signal(signal);
        daemon.wait(END_LIMIT).unwrap_or_else(|| panic!("no end after {signal}:\n{}", self.daemon_output()))
    }

    pub(crate) fn is_mounted(&self) -> bool {
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").expect("mountinfo");
        let mount_point = self.mount_point();
        mounts.lines().any(|line| line.split(' ').nth(4) == Some(mount_point.as_str()))
    }

    /// Processes whose command line names this instance.
    fn processes(&self) -> Vec<String> {
        let config = self.config_path();
        let mut found = Vec::new();
        for entry in std::fs::read_dir("/proc").expect("/proc").flatten() {
            let line = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
            let line = String::from_utf8_lossy(&line).replace('\0', " ");
            if line.contains(&config) {
                found.push(format!("{} {line}", entry.file_name().to_string_lossy()));
            }
        }
        found
    }

    fn end_quietly(&self) {
        let Ok(mut daemon) = self.daemon.lock() else { return };
        if let Some(mut daemon) = daemon.take()
            && daemon.is_running()
        {
            drop(std::process::Command::new("kill").args(["-s", "TERM", &daemon.pid().to_string()]).status());
            let _ended = daemon.wait(END_LIMIT);
        }
    }
}

impl Drop for Instance {
    fn drop(&mut self) {
        self.end_quietly();
        let still_mounted = self.is_mounted();
        if still_mounted {
            drop(std::process::Command::new("umount").args(["-l", &self.mount_point()]).status());
        }
        let output = self.daemon_output();
        let processes = self.processes();
        let removed = std::fs::remove_dir_all(&self.dir);
        if std::thread::panicking() {
            let tail: Vec<&str> = output.lines().rev().take(40).collect();
            let tail: Vec<&str> = tail.into_iter().rev().collect();
            eprintln!("the daemon said:\n{}", tail.join("\n"));
            return;
        }
        assert!(!still_mounted, "the mount is left behind");
        assert!(processes.is_empty(), "processes are left behind: {processes:#?}");
        removed.expect("nothing is left in the instance's directory that cannot be removed");
        assert!(!output.contains("panicked"), "the daemon panicked:\n{output}");
        let warned = output.contains("WARN") || output.contains("ERROR");
        assert!(self.warnings_expected || !warned, "the daemon warned of its own making:\n{output}");
    }
}

#[track_caller]
fn require_root() {
    let status = std::fs::read_to_string("/proc/self/status").expect("/proc/self/status");
    let uid = status.lines().find_map(|line| line.strip_prefix("Uid:")).expect("a uid");
    let effective = uid.split_whitespace().nth(1);
    assert_eq!(effective, Some("0"), "the boundary tests mount and change uid: run them as root (tests/run)");
}

/// A directory that every uid may enter, below a sticky parent.
pub(super) fn fresh_directory(parent: Option<&Path>) -> PathBuf {
    use std::os::unix::fs::PermissionsExt as _;
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let name = format!("credfs-test-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
    let path = parent.unwrap_or(Path::new("/tmp")).join(name);
    std::fs::create_dir(&path).expect("a fresh directory");
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).expect("its mode");
    path
}
