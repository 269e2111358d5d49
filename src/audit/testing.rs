//! What the tests of this room share.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use super::{Entry, Log, Options, Who};
use crate::model::{Operation, Outcome, Stage, Version};

/// A directory that is gone when the test is done.
pub(super) struct Scratch(PathBuf);

impl Scratch {
    pub(super) fn new() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let name = format!("credfs-audit-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    pub(super) fn log(&self) -> PathBuf {
        self.path("audit.log")
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        drop(std::fs::remove_dir_all(&self.0));
    }
}

pub(super) fn open(path: &Path) -> Log {
    Log::open(Options::at(path)).unwrap().0
}

/// An ordinary record of a read.
pub(super) fn record(log: &Log, secret: &str, version: u32) -> Result<u64, super::NotRecorded> {
    let who = Who {
        uid: 1000,
        gid: 1000,
        pid: Some(4242),
        tid: Some(4243),
        unit: Some("orders.service"),
        exe_id: Some((2049, 131_072)),
        ..Who::default()
    };
    log.record(&Entry {
        rule: Some("grant 3 (policy.toml:12)"),
        identity: Some("orders"),
        policy: Some("0123456789abcdef"),
        store: Some("main"),
        secret: Some(secret),
        field: Some("password"),
        version: Version::new(version),
        stage: Some(Stage::Current),
        who: Some(&who),
        freshness: Some("fresh"),
        bytes: Some(64),
        latency_us: Some(37),
        ..Entry::new(Operation::Open, Outcome::Released)
    })
    .map(|receipt| receipt.seq())
}

/// A small file system of its own, which can be full. It needs root, and says so.
pub(super) struct Tmpfs(Scratch);

impl Tmpfs {
    pub(super) fn new(options: &str) -> Self {
        let scratch = Scratch::new();
        let done = std::process::Command::new("mount")
            .args(["-t", "tmpfs", "-o", options, "credfs-test"])
            .arg(scratch.path(""))
            .status()
            .unwrap();
        assert!(
            done.success(),
            "THIS TEST NEEDS ROOT: it mounts a tmpfs of its own to fill it; run it as root"
        );
        Self(scratch)
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.0.path(name)
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        drop(std::process::Command::new("umount").arg(self.0.path("")).status());
    }
}
