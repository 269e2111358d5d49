//! What the kernel counts: FUSE requests by its own tracepoint, CPU time and memory of a process.

use std::collections::BTreeMap;
use std::os::linux::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::Workplace;

/// A trace instance of our own, so that whoever else traces is not disturbed.
pub(crate) struct Tap {
    instance: PathBuf,
}

impl Tap {
    /// Mounts tracefs privately and makes an instance.
    pub(crate) fn new(workplace: &Workplace) -> Self {
        let tracefs = workplace.directory("tracefs");
        let mounted = Command::new("mount").args(["-t", "tracefs", "none"]).arg(&tracefs).status().unwrap();
        assert!(mounted.success(), "tracefs is needed to count requests");
        let instance = tracefs.join("instances").join(format!("credfs-bench-{}", std::process::id()));
        std::fs::create_dir(&instance).unwrap();
        Self { instance }
    }

    /// How many requests of each kind the file system that holds `path` was sent while `work` ran.
    pub(crate) fn requests(&self, path: &Path, work: impl FnOnce()) -> BTreeMap<String, usize> {
        let connection = std::fs::metadata(path).unwrap().st_dev() & 0xFF;
        let event = self.instance.join("events/fuse/fuse_request_send");
        std::fs::write(event.join("filter"), format!("connection == {connection}")).unwrap();
        std::fs::write(self.instance.join("trace"), "").unwrap();
        std::fs::write(event.join("enable"), "1").unwrap();
        work();
        std::fs::write(event.join("enable"), "0").unwrap();
        let mut counts = BTreeMap::new();
        for line in std::fs::read_to_string(self.instance.join("trace")).unwrap().lines() {
            if let Some(kind) = line.split_once("opcode ").and_then(|(_, rest)| rest.split_once("FUSE_")) {
                let kind: String = kind.1.chars().take_while(|letter| letter.is_ascii_uppercase()).collect();
                *counts.entry(kind).or_default() += 1;
            }
        }
        counts
    }
}

impl Drop for Tap {
    fn drop(&mut self) {
        std::fs::remove_dir(&self.instance).ok();
    }
}

/// CPU time that every thread of a process and of its children has used, in nanoseconds.
pub(crate) fn cpu_ns(pid: u32) -> u64 {
    family(pid).into_iter().flat_map(threads).filter_map(|path| first_number(&path.join("schedstat"))).sum()
}

/// What the worker has in memory (`VmRSS`), and what it and all the keeper's other processes have together, with what
/// they share counted once (`Pss`); both in KiB.
pub(crate) fn memory_kib(worker: u32, keeper: u32) -> (u64, u64) {
    let figure = |pid: u32, file: &str, name: &str| {
        let text = std::fs::read_to_string(format!("/proc/{pid}/{file}")).ok()?;
        let line = text.lines().find_map(|line| line.strip_prefix(name))?.to_owned();
        line.trim().trim_end_matches("kB").trim().parse::<u64>().ok()
    };
    let resident = figure(worker, "status", "VmRSS:").unwrap_or(u64::MAX);
    let shared_out = family(keeper).into_iter().filter_map(|pid| figure(pid, "smaps_rollup", "Pss:")).sum();
    (resident, shared_out)
}

fn family(pid: u32) -> Vec<u32> {
    let mut all = vec![pid];
    for thread in threads(pid) {
        let children = std::fs::read_to_string(thread.join("children")).unwrap_or_default();
        all.extend(children.split_whitespace().filter_map(|child| child.parse().ok()).flat_map(family));
    }
    all
}

fn threads(pid: u32) -> Vec<PathBuf> {
    std::fs::read_dir(format!("/proc/{pid}/task"))
        .map(|threads| threads.flatten().map(|thread| thread.path()).collect())
        .unwrap_or_default()
}

fn first_number(path: &Path) -> Option<u64> {
    std::fs::read_to_string(path).ok()?.split_whitespace().next()?.parse().ok()
}
