//! Real cgroups, made for one test below the unified hierarchy and removed after it.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// A cgroup with parents; those that this test made are removed with it.
pub(crate) struct Cgroup {
    path: PathBuf,
    made: Vec<PathBuf>,
}

/// Where the unified hierarchy is mounted: alone on most machines, beside the old one on some.
fn hierarchy() -> PathBuf {
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").expect("mountinfo");
    let line = mounts
        .lines()
        .find(|line| line.split(" - ").nth(1).is_some_and(|rest| rest.starts_with("cgroup2 ")))
        .expect("a cgroup2 hierarchy; mount one: mount -t cgroup2 none /sys/fs/cgroup");
    line.split(' ').nth(4).expect("a mount point").into()
}

impl Cgroup {
    /// Makes `path` below the hierarchy, such as `system.slice/orders.service`.
    pub(crate) fn make(path: &str) -> Self {
        let mut at = hierarchy();
        let mut made = Vec::new();
        for part in path.split('/') {
            at.push(part);
            match std::fs::create_dir(&at) {
                Ok(()) => made.push(at.clone()),
                Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
                Err(error) => panic!("{}: {error}; the tests make cgroups and need root", at.display()),
            }
        }
        Self { path: at, made }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The file that moves a process in when its pid is written there.
    pub(crate) fn procs(&self) -> String {
        self.path.join("cgroup.procs").display().to_string()
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        let begun = Instant::now();
        for path in self.made.iter().rev() {
            // A process that just ended stays in its cgroup for a moment; another test may share a parent.
            while let Err(error) = std::fs::remove_dir(path) {
                let shared = path != &self.path;
                if shared || error.kind() == std::io::ErrorKind::NotFound || begun.elapsed().as_secs() > 5 {
                    break;
                }
                std::thread::sleep(Duration::from_millis(10));
            }
        }
        assert!(std::thread::panicking() || !self.path.exists(), "{} is left", self.path.display());
    }
}
