//! Files that the instance reads as a user of its own: root's editor may have left one that only root may read.

use std::fs::{self, Metadata};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use crate::config::{Config, KeySetting, StoreKind};
use crate::sys::names;

use super::Finding;

/// Who reads.
struct Reader {
    name: String,
    uid: u32,
    groups: Vec<u32>,
}

/// Whether the user that the configuration names may read what it names. Nothing where it names none.
pub(super) fn look(config: &Config) -> Vec<Finding> {
    let Some(name) = &config.worker_user else { return Vec::new() };
    let (Some(uid), Some(groups)) = (names::uid_of(name), names::groups_of(name)) else {
        // `daemon::check` says so, with its remedy.
        return Vec::new();
    };
    let reader = Reader { name: name.clone(), uid, groups };
    let mut wanted = vec![config.file.clone()];
    for path in &config.policy.paths {
        wanted.push(path.clone());
        let inside = fs::read_dir(path).into_iter().flatten().flatten().map(|entry| entry.path());
        wanted.extend(inside.filter(|path| path.extension().is_some_and(|extension| extension == "toml")));
    }
    for store in &config.stores {
        match &store.kind {
            StoreKind::Local(local) => {
                wanted.push(local.path.clone());
                if let KeySetting::File(key) = &local.key {
                    wanted.push(key.clone());
                }
            }
            StoreKind::Vault(vault) => wanted.extend(vault.files().into_iter().map(|(file, _)| file)),
        }
    }
    wanted.push(config.audit.path.clone());
    let findings: Vec<Finding> = wanted.iter().filter_map(|path| unreadable(&reader, path)).collect();
    if findings.is_empty() {
        return vec![Finding::ok("files", format!("{name} may read all that the configuration names"))];
    }
    findings
}

fn unreadable(reader: &Reader, path: &Path) -> Option<Finding> {
    let barred = barred_at(reader, path)?;
    Some(Finding::fault(
        "files",
        format!(
            "{} cannot be read by {}: it is stopped at {}",
            path.display(),
            reader.name,
            barred.display()
        ),
        format!("chgrp {} {1} && chmod g+rX {1}", reader.name, barred.display()),
    ))
}

/// The file or directory on the way to `path` that its reader may not pass. What is not there bars nobody.
fn barred_at(reader: &Reader, path: &Path) -> Option<PathBuf> {
    let mut ancestors: Vec<&Path> = path.ancestors().skip(1).collect();
    ancestors.reverse();
    for directory in ancestors {
        let found = fs::metadata(directory).ok()?;
        if !may(reader, &found, 0o1) {
            return Some(directory.to_owned());
        }
    }
    let found = fs::metadata(path).ok()?;
    let wanted = if found.is_dir() { 0o5 } else { 0o4 };
    (!may(reader, &found, wanted)).then(|| path.to_owned())
}

/// The permission bits that are for this reader (path_resolution(7), "Permissions").
fn may(reader: &Reader, found: &Metadata, wanted: u32) -> bool {
    let mode = found.mode();
    let bits = if found.uid() == reader.uid {
        mode >> 6
    } else if reader.groups.contains(&found.gid()) {
        mode >> 3
    } else {
        mode
    };
    bits & wanted == wanted
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn who_is_barred_is_told_where() {
        let directory = std::env::temp_dir().join(format!("credfs-doctor-{}", std::process::id()));
        let inner = directory.join("inner");
        let file = inner.join("policy.toml");
        fs::create_dir_all(&inner).unwrap();
        fs::write(&file, "").unwrap();
        let mode = |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
        let own = fs::metadata(&file).unwrap();
        let stranger =
            Reader { name: "stranger".to_owned(), uid: own.uid() + 1, groups: vec![own.gid() + 1] };
        let member = Reader { name: "member".to_owned(), uid: own.uid() + 1, groups: vec![own.gid()] };
        mode(&directory, 0o755);
        mode(&inner, 0o750);
        mode(&file, 0o640);
        assert_eq!(barred_at(&stranger, &file), Some(inner.clone()));
        assert_eq!(barred_at(&member, &file), None);
        mode(&file, 0o600);
        assert_eq!(barred_at(&member, &file), Some(file.clone()));
        assert!(unreadable(&member, &file).unwrap().found.contains("member"));
        assert_eq!(barred_at(&member, &inner.join("gone")), None);
        fs::remove_dir_all(directory).unwrap();
    }
}
