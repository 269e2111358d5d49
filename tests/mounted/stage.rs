//! One mount in a temporary place, and processes that use it.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use credfs::fuse::notifier::{self, Notifier};
use credfs::fuse::{Connection, MARKS_BYTES, Options, PaceLimits, Session, introduce};
use credfs::store::Store;
use credfs::sys::connection;
use credfs::sys::memory_file;
use credfs::sys::mount::{self, MountHandle, MountOptions};

use crate::world::World;

pub(crate) struct Stage {
    pub(crate) world: World,
    pub(crate) mount_point: PathBuf,
    handle: MountHandle,
    session: Option<Session>,
}

/// What a process said and how long it took.
pub(crate) struct Ran {
    pub(crate) output: Output,
    pub(crate) took: Duration,
}

impl Ran {
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.output.stdout).into_owned()
    }

    /// The process failed and said `words`.
    #[track_caller]
    pub(crate) fn failed_with(&self, words: &str) {
        let said = String::from_utf8_lossy(&self.output.stderr);
        assert!(!self.output.status.success() && said.contains(words), "wanted {words:?}, got {self:?}");
    }
}

impl std::fmt::Debug for Ran {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            formatter,
            "{:?} after {:?}: {:?} {:?}",
            self.output.status,
            self.took,
            String::from_utf8_lossy(&self.output.stdout),
            String::from_utf8_lossy(&self.output.stderr)
        )
    }
}

impl Stage {
    pub(crate) fn new(name: &str, policy: &str, wrap: impl FnOnce(Arc<dyn Store>) -> Arc<dyn Store>) -> Self {
        Self::with_log(name, policy, wrap, None)
    }

    pub(crate) fn with_log(
        name: &str,
        policy: &str,
        wrap: impl FnOnce(Arc<dyn Store>) -> Arc<dyn Store>,
        log: Option<&Path>,
    ) -> Self {
        assert!(credfs::sys::names::own_uid() == 0, "these tests mount: run them as root");
        let world = World::built(name, policy, wrap, log);
        let mount_point = world.directory.join("mnt");
        std::fs::create_dir(&mount_point).unwrap();
        let options = Options {
            loop_threads: 1,
            spin_max: Duration::from_micros(30),
            audit_wait: Duration::from_millis(40),
            request_deadline: Duration::from_secs(2),
            pace: PaceLimits {
                refusals_per_second: 2000,
                refusals_burst: 4000,
                delay_max: Duration::from_millis(50),
            },
        };
        let runtime = world.runtime.handle().clone();
        let mounted = mount::mount(&mount_point, &MountOptions::default()).unwrap();
        let connection = Connection {
            introduction: introduce(&mounted.device).unwrap(),
            device: mounted.device,
            pages: memory_file::fixed(c"credfs-pages", MARKS_BYTES).unwrap(),
            orders: Arc::new(Notifier::start(mounted.tree, notifier::Options::default()).unwrap()),
        };
        let session =
            Session::serve(&world.tree, Arc::clone(&world.identifier), runtime, &options, connection)
                .unwrap();
        Self { world, mount_point, handle: mounted.handle, session: Some(session) }
    }

    pub(crate) fn session(&self) -> &Session {
        self.session.as_ref().unwrap()
    }

    /// Unmounts, and says how long that took.
    pub(crate) fn end(&mut self) -> Duration {
        let begun = Instant::now();
        let session = self.session.take().unwrap();
        mount::unmount(&self.handle).unwrap();
        // The notifier's helper and files that are open hold the session.
        let _ = connection::abort(self.handle.minor);
        assert!(session.ends(Duration::from_secs(5)), "the session hears of its end");
        session.join();
        begun.elapsed()
    }

    pub(crate) fn path(&self, below: &str) -> PathBuf {
        self.mount_point.join(below)
    }

    /// Runs a program on a path of the mount, within ten seconds.
    pub(crate) fn run(&self, program: &str, below: &str) -> Ran {
        let begun = Instant::now();
        let output = Command::new("timeout")
            .args(["-s", "KILL", "10", program])
            .arg(self.path(below))
            .stdin(Stdio::null())
            .output()
            .unwrap();
        Ran { output, took: begun.elapsed() }
    }

    pub(crate) fn spawn(&self, program: &str, below: &str) -> std::process::Child {
        Command::new(program)
            .arg(self.path(below))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap()
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        if self.session.is_some() {
            self.end();
        }
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
        assert!(!mounts.contains(self.mount_point.to_str().unwrap()), "a mount was left behind");
    }
}
