//! Small file systems of a test's own, to be filled, frozen and taken away.

use std::path::{Path, PathBuf};

use super::Program;
use super::instance::fresh_directory;

/// A tmpfs of a given size, unmounted when dropped.
pub(crate) struct Tmpfs(PathBuf);

impl Tmpfs {
    pub(crate) fn mount(options: &str) -> Self {
        let at = fresh_directory(None);
        let at_text = at.to_str().expect("UTF-8");
        Program::of(&["mount", "-t", "tmpfs", "-o", options, "credfs-test", at_text]).run().ok();
        Self(at)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    pub(crate) fn resize(&self, size: &str) {
        let at = self.0.to_str().expect("UTF-8");
        Program::of(&["mount", "-o", &format!("remount,size={size}"), at]).run().ok();
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        unmount(&self.0);
    }
}

/// An ext4 file system in a file, which can be frozen: writes then wait until it is thawed.
pub(crate) struct SmallDisk {
    image: PathBuf,
    at: PathBuf,
    frozen: bool,
}

impl SmallDisk {
    pub(crate) fn mount() -> Self {
        let at = fresh_directory(None);
        let image = at.with_extension("img");
        let (image_text, at_text) = (image.to_str().expect("UTF-8"), at.to_str().expect("UTF-8"));
        Program::of(&["truncate", "-s", "8M", image_text]).run().ok();
        Program::of(&["mkfs.ext4", "-q", "-F", image_text]).run().ok();
        Program::of(&["mount", "-o", "loop", image_text, at_text]).run().ok();
        Self { image, at, frozen: false }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.at
    }

    pub(crate) fn freeze(&mut self) {
        Program::of(&["fsfreeze", "-f", self.at.to_str().expect("UTF-8")]).run().ok();
        self.frozen = true;
    }

    pub(crate) fn thaw(&mut self) {
        self.frozen = false;
        Program::of(&["fsfreeze", "-u", self.at.to_str().expect("UTF-8")]).run().ok();
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        if self.frozen {
            self.thaw();
        }
        unmount(&self.at);
        drop(std::fs::remove_file(&self.image));
    }
}

fn unmount(at: &Path) {
    let plain = std::process::Command::new("umount").arg(at).status().expect("umount");
    if !plain.success() {
        drop(std::process::Command::new("umount").arg("-l").arg(at).status());
        assert!(std::thread::panicking(), "{} was still in use", at.display());
    }
    drop(std::fs::remove_dir(at));
}
