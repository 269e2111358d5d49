//! The two processes of an instance, as the kernel shows them.

use std::time::Duration;

use crate::harness::{Instance, Setup, wait_until};

/// Root may read below prod, may list what is below seen, and knows nothing of the rest.
pub(crate) const POLICY: &str = "[identities.reader]\nuid = [0, 24001]\n[[grants]]\nto = [\"reader\"]\n\
    read = [\"prod/**\"]\nstages = [\"all\"]\n[[grants]]\nto = [\"reader\"]\nlist = [\"seen/**\"]\n";

/// An instance whose deaths are of the test's making.
pub(crate) fn setup() -> Setup {
    Setup::policy(POLICY).warnings_expected()
}

/// The keeper's worker; `None` while there is none.
pub(crate) fn worker_of(keeper: u32) -> Option<u32> {
    children_of(keeper).into_iter().find(|pid| command_line(*pid).contains(" worker "))
}

pub(crate) fn guard_of(keeper: u32) -> Option<u32> {
    children_of(keeper).into_iter().find(|pid| command_line(*pid).contains("credfs-guard"))
}

fn children_of(parent: u32) -> Vec<u32> {
    let mut found = Vec::new();
    for task in std::fs::read_dir(format!("/proc/{parent}/task")).into_iter().flatten().flatten() {
        let children = std::fs::read_to_string(task.path().join("children")).unwrap_or_default();
        found.extend(children.split_whitespace().filter_map(|pid| pid.parse::<u32>().ok()));
    }
    found
}

fn command_line(pid: u32) -> String {
    let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    String::from_utf8_lossy(&line).replace('\0', " ")
}

/// Waits for a worker that is another than `before`.
#[track_caller]
pub(crate) fn worker_after(instance: &Instance, before: Option<u32>) -> u32 {
    let mut worker = None;
    wait_until("a worker", Duration::from_secs(15), || {
        worker = worker_of(instance.daemon_pid()).filter(|pid| Some(*pid) != before);
        worker.is_some()
    });
    worker.unwrap()
}

pub(crate) fn signal(pid: u32, name: &str) {
    drop(std::process::Command::new("kill").args(["-s", name, &pid.to_string()]).status());
}

pub(crate) fn is_alive(pid: u32) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat"))
        .is_ok_and(|stat| stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with('Z')))
}
