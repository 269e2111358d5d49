//! Two versions of the package: the program as it was built, and the same with another version in it.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::Duration;

use super::Program;

const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Where the packages of this test run lie.
pub(crate) struct Packages {
    pub(crate) directory: PathBuf,
    pub(crate) first: String,
    pub(crate) second: String,
    /// What `credfs --version` says of the second.
    pub(crate) second_version: String,
}

impl Packages {
    /// Built once for all tests of the process.
    pub(crate) fn built() -> &'static Self {
        static BUILT: OnceLock<Packages> = OnceLock::new();
        BUILT.get_or_init(Self::build)
    }

    fn build() -> Self {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let directory = root.join("target/packages-test");
        if directory.exists() {
            // Of the run before.
            std::fs::remove_dir_all(&directory).expect("our own directory");
        }
        let output = directory.to_str().expect("a path");
        let script = root.join("packaging/build");
        let minutes = Duration::from_secs(900);
        Program::new(script)
            .args(["--profile", "dev", "--version", &format!("{VERSION}-1"), "--output", output])
            .limit(minutes)
            .run()
            .ok();
        let first = std::fs::read_dir(&directory)
            .expect("packaging/build made it")
            .flatten()
            .map(|entry| entry.path())
            .find(|path| path.extension().is_some_and(|extension| extension == "deb"))
            .expect("a .deb");
        let second_version = successor(VERSION);
        let second = first.with_file_name("credfs-next.deb");
        repackage(&first, &second, &second_version);
        let name = |path: &Path| path.file_name().expect("a name").to_str().expect("UTF-8").to_owned();
        Self { first: name(&first), second: name(&second), directory, second_version }
    }
}

/// A version of the same length, so that it can be put in the other's place: the last digit counts.
fn successor(version: &str) -> String {
    let (head, last) = version.split_at(version.len() - 1);
    let digit = last.parse::<u8>().expect("the version ends with a digit");
    format!("{head}{}", (digit + 1) % 10)
}

/// Another program and another version of the package; everything else is as it was.
fn repackage(first: &Path, second: &Path, version: &str) {
    let tree = second.with_extension("tree");
    let text = |path: &Path| path.to_str().expect("UTF-8").to_owned();
    Program::of(&["dpkg-deb", "-R", &text(first), &text(&tree)]).run().ok();
    let program = tree.join("usr/bin/credfs");
    let mut bytes = std::fs::read(&program).expect("the program is in the package");
    let mut replaced = 0;
    for at in 0..bytes.len() - VERSION.len() {
        if bytes[at..].starts_with(VERSION.as_bytes()) {
            bytes[at..at + VERSION.len()].copy_from_slice(version.as_bytes());
            replaced += 1;
        }
    }
    assert!(replaced > 0, "the program does not hold its version");
    std::fs::write(&program, bytes).expect("the program can be written");
    let control = tree.join("DEBIAN/control");
    let said = std::fs::read_to_string(&control).expect("control");
    let said = said.replace(&format!("Version: {VERSION}-1"), &format!("Version: {VERSION}-2"));
    std::fs::write(&control, said).expect("control can be written");
    Program::of(&["dpkg-deb", "-Znone", "-b", &text(&tree), &text(second)]).run().ok();
    std::fs::remove_dir_all(tree).expect("our own directory");
}
