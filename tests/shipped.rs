//! Every configuration and policy that is shipped as an example is one that this version accepts without a word.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::path::{Path, PathBuf};

use credfs::config::Config;
use credfs::policy::{Names, Options, Policy};

/// A machine on which every user and group exists.
struct Everyone;

impl Names for Everyone {
    fn uid(&self, _user: &str) -> Option<u32> {
        Some(1000)
    }
    fn gid(&self, _group: &str) -> Option<u32> {
        Some(1000)
    }
}

fn examples() -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples");
    let mut found: Vec<_> = std::fs::read_dir(root).unwrap().map(|entry| entry.unwrap().path()).collect();
    found.sort();
    assert!(found.len() >= 2, "the examples are gone");
    found
}

#[test]
fn every_example_is_accepted() {
    for example in examples() {
        let file = example.join("credfs.toml");
        let text = std::fs::read_to_string(&file).unwrap();
        let config = Config::from_text(&file, &text, 0).unwrap_or_else(|faults| panic!("{faults:#?}"));
        assert!(config.warnings().is_empty(), "{:?}", config.warnings());
        let policy = example.join("policy.toml");
        let text = std::fs::read_to_string(&policy).unwrap();
        let loaded = Policy::from_texts(&[(policy.clone(), text.clone())], &Options::default(), &Everyone);
        let loaded = loaded.unwrap_or_else(|faults| panic!("{faults:#?}"));
        assert!(loaded.warnings.is_empty(), "{:?}", loaded.warnings);
        assert!(loaded.policy.grant_count() > 0);
        let broken = text.replacen("\nread = ", "\nraed = ", 1);
        let refused = Policy::from_texts(&[(policy, broken)], &Options::default(), &Everyone);
        assert!(refused.is_err(), "a misspelt key goes unnoticed");
    }
}
