//! A unit as systemd would lay it out: a cgroup, with a process in it where one is to live.

use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use credfs::model::Consumer;

/// A unit; gone with its processes when dropped.
pub(crate) struct Unit {
    name: String,
    path: PathBuf,
    processes: Vec<Child>,
}

/// Where the unified hierarchy is mounted: alone on most machines, beside the old one on some.
fn hierarchy() -> PathBuf {
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    let line =
        mounts.lines().find(|line| line.split(" - ").nth(1).is_some_and(|rest| rest.starts_with("cgroup2 ")));
    let line = line.expect("a cgroup2 hierarchy; mount one: mount -t cgroup2 none /sys/fs/cgroup");
    line.split(' ').nth(4).unwrap().into()
}

impl Unit {
    /// A unit in which nothing runs yet.
    pub(crate) fn new(name: &str) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("credfs-test-{}-{count}-{name}.service", std::process::id());
        let slice = hierarchy().join("system.slice");
        match std::fs::create_dir(&slice) {
            Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => {
                panic!("{error}; the tests need root")
            }
            _ => {}
        }
        let path = slice.join(&name);
        std::fs::create_dir(&path).unwrap();
        Self { name, path, processes: Vec::new() }
    }

    /// A unit in which a process lives.
    pub(crate) fn running(name: &str) -> Self {
        let mut unit = Self::new(name);
        unit.spawn("exec sleep 1000");
        unit
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Where a process writes its number to move into the unit.
    pub(crate) fn entrance(&self) -> PathBuf {
        self.path.join("cgroup.procs")
    }

    /// A command that runs a script inside of the unit.
    pub(crate) fn shell(&self, script: &str) -> Command {
        let mut command = Command::new("setpriv");
        let enter = format!("echo $$ > {}/cgroup.procs; {script}", self.path.display());
        command.args(["--pdeathsig", "KILL", "--", "sh", "-c", &enter]).stdin(Stdio::null());
        command
    }

    /// Makes its cgroup anew and a process in it, as `systemctl start` does.
    pub(crate) fn spawn_again(&mut self) {
        std::fs::create_dir(&self.path).unwrap();
        self.spawn("exec sleep 1000");
    }

    /// Starts a process in it that stays.
    pub(crate) fn spawn(&mut self, script: &str) -> u32 {
        let child = self.shell(script).stdout(Stdio::null()).spawn().unwrap();
        let pid = child.id();
        self.processes.push(child);
        let begun = Instant::now();
        while !self.has(pid) {
            assert!(begun.elapsed() < Duration::from_secs(5));
            std::thread::sleep(Duration::from_millis(5));
        }
        pid
    }

    fn has(&self, pid: u32) -> bool {
        let procs = std::fs::read_to_string(self.path.join("cgroup.procs")).unwrap();
        procs.lines().any(|line| line == pid.to_string())
    }

    /// What credfs takes its processes for.
    pub(crate) fn consumer(&self) -> Consumer {
        Consumer::Group {
            name: self.name.as_str().into(),
            is_container: false,
            path: format!("/system.slice/{}", self.name).into(),
            id: std::fs::metadata(&self.path).unwrap().ino(),
        }
    }

    /// Ends its processes, as `systemctl stop` does; the cgroup stays for a moment, or with `is_removed` goes.
    pub(crate) fn stop(&mut self, is_removed: bool) {
        for mut process in self.processes.drain(..) {
            process.kill().unwrap();
            process.wait().unwrap();
        }
        if is_removed {
            remove(&self.path);
        }
    }
}

fn remove(path: &Path) {
    let begun = Instant::now();
    while let Err(error) = std::fs::remove_dir(path) {
        if error.kind() == std::io::ErrorKind::NotFound || begun.elapsed().as_secs() > 5 {
            return;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

impl Drop for Unit {
    fn drop(&mut self) {
        for process in &mut self.processes {
            let _ = process.kill();
            let _ = process.wait();
        }
        remove(&self.path);
    }
}
