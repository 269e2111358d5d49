//! What the package ships, looked at without a machine: units, pages, completion, configuration, Debian's own checks.

use std::path::{Path, PathBuf};

use credfs::config::Config;
use credfs::policy::{Names, Options, Policy};

use crate::harness::{Packages, Program};

#[path = "../../packaging/assets/pages.rs"]
mod pages;

/// Exposure of the worker by systemd's own count, in tenths: what is left is explained in docs/OPERATING.md.
const WORKER_EXPOSURE_MAX: &str = "18";
/// The keeper mounts in the host's namespace, as root: each exposure has its reason beside it in the unit.
const KEEPER_EXPOSURE_MAX: &str = "42";

struct Nobody;

impl Names for Nobody {
    fn uid(&self, _user: &str) -> Option<u32> {
        None
    }
    fn gid(&self, _group: &str) -> Option<u32> {
        None
    }
}

fn packaging(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("packaging").join(name)
}

fn exposure(unit: &str, threshold: &str) -> Option<i32> {
    let unit = packaging(unit).display().to_string();
    let threshold = format!("--threshold={threshold}");
    let done =
        Program::of(&["systemd-analyze", "security", "--offline=true", "--no-pager", &threshold, &unit])
            .run();
    assert!(done.text().contains("Overall exposure level"), "{}", done.err);
    done.code
}

#[test]
fn the_units_expose_no_more_than_is_explained() {
    assert_eq!(exposure("systemd/credfs.service", WORKER_EXPOSURE_MAX), Some(0), "the worker");
    assert_eq!(exposure("systemd/credfs-keeper.service", KEEPER_EXPOSURE_MAX), Some(0), "the keeper");
    assert_ne!(exposure("systemd/credfs.service", "1"), Some(0), "a threshold that nothing keeps is noticed");
}

#[test]
fn the_configuration_and_policy_of_the_package_are_accepted_and_grant_nothing() {
    let file = packaging("credfs.toml");
    let text = std::fs::read_to_string(&file).unwrap();
    let config = Config::from_text(&file, &text, 0).unwrap_or_else(|faults| panic!("{faults:#?}"));
    assert!(config.warnings().is_empty());
    assert_eq!(config.worker_user.as_deref(), Some("credfs"));
    let policy = packaging("policy.toml");
    let text = std::fs::read_to_string(&policy).unwrap();
    let loaded = Policy::from_texts(&[(policy, text.clone())], &Options::default(), &Nobody);
    assert_eq!(loaded.unwrap_or_else(|faults| panic!("{faults:#?}")).policy.grant_count(), 0);
    let initial = credfs::config::policy_text(Path::new(credfs::config::DEFAULT_CONFIG));
    assert_eq!(text, initial, "packaging/policy.toml is what `credfs init` writes");
}

#[test]
fn every_command_has_a_manual_page_and_every_shell_its_completion() {
    let directory = PathBuf::from(format!("/tmp/credfs-test-pages-{}", std::process::id()));
    let files = pages::write(&directory).unwrap();
    let name = |file: &PathBuf| file.file_name().unwrap().to_str().unwrap().to_owned();
    let names: Vec<String> = files.iter().map(name).collect();
    let command = credfs::cli::command();
    let mut wanted = vec!["credfs.1".to_owned()];
    for verb in command.get_subcommands().filter(|verb| !verb.is_hide_set()) {
        wanted.push(format!("credfs-{}.1", verb.get_name()));
        for inner in verb.get_subcommands() {
            wanted.push(format!("credfs-{}-{}.1", verb.get_name(), inner.get_name()));
        }
    }
    wanted.extend(["_credfs", "credfs.bash", "credfs.fish"].map(str::to_owned));
    for file in &wanted {
        assert!(names.contains(file), "{file} is missing: {names:?}");
    }
    let page = std::fs::read_to_string(directory.join("man1/credfs-put.1")).unwrap();
    assert!(page.contains("carried over") && page.contains("Examples"), "{page}");
    let bash = directory.join("completion/credfs.bash").display().to_string();
    Program::of(&["bash", "-n", &bash]).run().ok();
    std::fs::remove_dir_all(directory).unwrap();
}

#[test]
fn the_package_has_no_error_by_debians_own_checks() {
    let packages = Packages::built();
    let package = packages.directory.join(&packages.first).display().to_string();
    let words = ["lintian", "--allow-root", "--fail-on", "error", &package];
    let done = Program::of(&words).limit(std::time::Duration::from_secs(300)).run();
    assert_eq!(done.code, Some(0), "{}{}", done.text(), done.err);
}
