//! A directory of its own, the built program in it, and a running instance that never outlives its test.

use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use serde_json::Value;

/// What every value of these tests holds, so that it can be looked for where it must not be.
pub(crate) const CANARY: &str = "c4n4ry-Qm9iIGlz";

static NUMBER: AtomicU32 = AtomicU32::new(0);

pub(crate) struct World {
    pub(crate) directory: PathBuf,
}

/// What one command did.
#[derive(Debug)]
pub(crate) struct Done {
    pub(crate) code: i32,
    pub(crate) out: Vec<u8>,
    pub(crate) err: String,
}

impl Done {
    #[track_caller]
    pub(crate) fn expect(self, code: i32) -> Self {
        assert_eq!(self.code, code, "standard error: {}", self.err);
        self
    }

    #[track_caller]
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.out)
            .unwrap_or_else(|error| panic!("{error}: {:?}, {}", self.text(), self.err))
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.out).into_owned()
    }
}

impl World {
    /// An empty directory below /tmp that every user may enter.
    pub(crate) fn empty() -> Self {
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let directory = PathBuf::from(format!("/tmp/credfs-cli-{}-{number}", std::process::id()));
        std::fs::create_dir(&directory).unwrap();
        std::fs::set_permissions(&directory, std::fs::Permissions::from_mode(0o755)).unwrap();
        Self { directory }
    }

    /// One with an instance laid down.
    pub(crate) fn new() -> Self {
        let world = Self::empty();
        world.run(&["init", "--mount-point", world.mount().to_str().unwrap()]).expect(0);
        world
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    pub(crate) fn mount(&self) -> PathBuf {
        self.path("mnt")
    }

    pub(crate) fn write(&self, name: &str, text: &str) {
        std::fs::write(self.path(name), text).unwrap();
    }

    /// Everybody may read everything, and the policy holds nothing else.
    pub(crate) fn let_everyone_read(&self) {
        self.write("policy.toml", "[[grants]]\nto = [\"everyone\"]\nread = [\"**\"]\n");
    }

    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_credfs"));
        command.args(arguments).env("CREDFS_CONFIG", self.path("credfs.toml")).env_remove("RUST_LOG");
        command
    }

    #[track_caller]
    pub(crate) fn run(&self, arguments: &[&str]) -> Done {
        self.run_with(arguments, b"")
    }

    #[track_caller]
    pub(crate) fn run_with(&self, arguments: &[&str], input: &[u8]) -> Done {
        finish(self.command(arguments), input)
    }

    /// Runs as another user. Needs root.
    #[track_caller]
    pub(crate) fn run_as(&self, uid: u32, arguments: &[&str], input: &[u8]) -> Done {
        assert!(is_root(), "this test changes uid and so needs root: sudo -E cargo test --test cli");
        // The build directory may lie where others cannot go.
        let program = self.path("credfs");
        if !program.exists() {
            std::fs::copy(env!("CARGO_BIN_EXE_credfs"), &program).unwrap();
            std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
        }
        let mut command = Command::new(program);
        command.args(arguments).env("CREDFS_CONFIG", self.path("credfs.toml")).uid(uid).gid(uid);
        finish(command, input)
    }

    #[track_caller]
    pub(crate) fn put(&self, path: &str, field: &str, value: &[u8]) {
        self.run_with(&["put", path, field], value).expect(0);
    }

    /// Starts an instance and waits until it serves.
    #[track_caller]
    pub(crate) fn serve(&self) -> Instance {
        let log = std::fs::File::create(self.path("log")).unwrap();
        let child = self.command(&["mount", "--log-level", "trace"]).stderr(log).spawn().unwrap();
        let instance = Instance { child, log: self.path("log") };
        let until = Instant::now() + Duration::from_secs(10);
        while self.run(&["status"]).code != 0 {
            assert!(Instant::now() < until, "not ready: {}", std::fs::read_to_string(&instance.log).unwrap());
            std::thread::sleep(Duration::from_millis(5));
        }
        instance
    }
}

impl Drop for World {
    fn drop(&mut self) {
        // A test that failed may have left the mount: it must not be walked.
        drop(Command::new("umount").arg("-l").arg(self.mount()).stderr(Stdio::null()).status());
        drop(std::fs::remove_dir_all(&self.directory));
    }
}

#[track_caller]
fn finish(mut command: Command, input: &[u8]) -> Done {
    let child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let mut child = child.unwrap();
    // A command that refuses early does not read its input.
    drop(child.stdin.take().unwrap().write_all(input));
    let out = child.wait_with_output().unwrap();
    let err = String::from_utf8_lossy(&out.stderr).into_owned();
    assert!(!err.contains(CANARY), "a value on standard error: {err}");
    Done { code: out.status.code().unwrap_or(-1), out: out.stdout, err }
}

pub(crate) fn is_root() -> bool {
    std::os::unix::fs::MetadataExt::uid(&std::fs::metadata("/proc/self").unwrap()) == 0
}

/// An instance that serves; killed if the test fails.
pub(crate) struct Instance {
    pub(crate) child: Child,
    log: PathBuf,
}

impl Instance {
    pub(crate) fn signal(&self, name: &str) {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args([&format!("-{name}"), &pid]).status().unwrap().success());
    }

    /// Ends it in order and checks that it went well and told no value.
    #[track_caller]
    pub(crate) fn stop(mut self) {
        self.signal("TERM");
        let status = self.child.wait().unwrap();
        let log = std::fs::read_to_string(&self.log).unwrap();
        assert!(status.success(), "{status}: {log}");
        assert!(!log.contains(CANARY), "a value in the log");
    }
}

impl Drop for Instance {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}
