//! Loads a policy: reads the files, then identities, then grants, then views; every fault of all files at once.

use std::collections::BTreeMap;
use std::fs;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use sha2::{Digest as _, Sha256};

use super::grant::Grant;
use super::identity::Identity;
use super::memo::Memo;
use super::names::Names;
use super::read_grant::read_grant;
use super::read_identity::{Warning, read_identity};
use super::view::{View, read_view};
use super::{Policy, PolicyDigest};
use crate::document::{Document, FILE_BYTES_MAX, Fault, Faults};

/// Most grants that one policy may have: deciding about a path seen for the first time looks at each.
const GRANTS_MAX: usize = 100_000;

/// What a policy needs to know beside its files.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// How long a version that lost its stage may still be read.
    pub retire_after: Duration,
    /// The owner of the configuration file, an administrator like uid 0.
    pub owner_uid: u32,
}

impl Default for Options {
    fn default() -> Self {
        Self { retire_after: Duration::from_secs(30), owner_uid: 0 }
    }
}

/// A policy without fault, and what is odd about it.
#[derive(Debug)]
pub struct Loaded {
    /// The policy.
    pub policy: Policy,
    /// What is odd: users that do not exist, and their like.
    pub warnings: Vec<Fault>,
}

impl Policy {
    /// Loads files, and directories of `*.toml` in the order of their names.
    ///
    /// # Errors
    /// Every fault of every file: there is no policy with a fault.
    pub fn load(paths: &[PathBuf], options: &Options, names: &dyn Names) -> Result<Loaded, Vec<Fault>> {
        let mut faults = Vec::new();
        let mut warnings = Vec::new();
        let mut texts = Vec::new();
        for file in files_of(paths, &mut faults, &mut warnings) {
            match read_file(&file) {
                Ok(text) => texts.push((file, text)),
                Err(fault) => faults.push(fault),
            }
        }
        let outcome = Self::from_texts(&texts, options, names);
        match outcome {
            Ok(loaded) if faults.is_empty() => {
                warnings.extend(loaded.warnings);
                Ok(Loaded { policy: loaded.policy, warnings })
            }
            Ok(_) => Err(faults),
            Err(more) => {
                faults.extend(more);
                Err(faults)
            }
        }
    }

    /// Makes a policy of texts already read, each with the file it is from. It touches no file but the executables
    /// that rules name, to see which are interpreters.
    ///
    /// # Errors
    /// Every fault of every text.
    pub fn from_texts(
        texts: &[(PathBuf, String)],
        options: &Options,
        names: &dyn Names,
    ) -> Result<Loaded, Vec<Fault>> {
        let faults: Vec<Faults> = texts.iter().map(|(file, _)| Faults::of(file)).collect();
        let files: Vec<(Document, &Faults)> = texts
            .iter()
            .zip(&faults)
            .map(|((_, text), faults)| (Document::parse(text, faults), faults))
            .collect();
        let mut reading = Reading::new(options, names);
        for (document, faults) in &files {
            reading.identities(document, faults);
        }
        for (document, faults) in &files {
            reading.grants(document, faults);
            reading.views(document, faults);
            reading.leftovers(document, faults);
        }
        let Reading { identities, grants, views, warnings, .. } = reading;
        let found: Vec<Fault> = faults.into_iter().flat_map(Faults::into_vec).collect();
        if !found.is_empty() {
            return Err(found);
        }
        let digest = digest_of(texts, options, &identities);
        let identity_names = identities.iter().map(|identity| identity.name.as_str().into()).collect();
        let policy = Self {
            identities,
            identity_names,
            grants,
            views,
            retire_after: options.retire_after,
            digest,
            memo: Memo::default(),
        };
        Ok(Loaded { policy, warnings })
    }
}

/// What has been read so far.
struct Reading<'n> {
    names: &'n dyn Names,
    identities: Vec<Identity>,
    grants: Vec<Grant>,
    views: BTreeMap<String, View>,
    view_places: BTreeMap<String, String>,
    warnings: Vec<Fault>,
}

impl<'n> Reading<'n> {
    fn new(options: &Options, names: &'n dyn Names) -> Self {
        Self {
            names,
            identities: vec![Identity::everyone(), Identity::administrator(options.owner_uid)],
            grants: Vec::new(),
            views: BTreeMap::new(),
            view_places: BTreeMap::new(),
            warnings: Vec::new(),
        }
    }

    fn identities(&mut self, document: &Document, faults: &Faults) {
        let root = document.root(faults);
        for (name, section) in root.named_sections("identities") {
            let place = place(faults.file(), name.line);
            let earlier = self.identities.iter().skip(2).find(|identity| identity.name == name.value);
            if let Some(earlier) = earlier {
                faults.add(
                    name.line,
                    format!("identity {:?} is defined already, at {}", name.value, earlier.place),
                    "give it another name, or remove one of the two",
                );
            }
            let mut warnings = Vec::new();
            let identity = read_identity(name, section, place, self.names, &mut warnings);
            self.warn(faults.file(), warnings);
            self.identities.push(identity);
        }
    }

    fn grants(&mut self, document: &Document, faults: &Faults) {
        let known: Vec<&str> = self.identities.iter().map(|identity| identity.name.as_str()).collect();
        let root = document.root(faults);
        for (number, section) in root.sections("grants").into_iter().enumerate() {
            let line = section.line();
            let rule = format!("{} (grant {})", place(faults.file(), line), number + 1);
            let grant = read_grant(section, &known, rule.into());
            if self.grants.len() >= GRANTS_MAX {
                faults.add(line, "the policy has more than 100000 grants", "join them with patterns");
                return;
            }
            // Faulty grants look alike for what they lack; only whole ones are compared.
            let comparable = faults.count() == 0 && self.grants.len() < 1000;
            let same = self.grants.iter().find(|earlier| comparable && earlier.says_the_same(&grant));
            if let Some(earlier) = same {
                let message = format!("the grant says the same as {}", earlier.rule);
                faults.add(line, message, "remove one of the two");
            }
            self.grants.push(grant);
        }
    }

    fn views(&mut self, document: &Document, faults: &Faults) {
        let root = document.root(faults);
        for (path, section) in root.named_sections("views") {
            for (other, where_other) in &self.view_places {
                if overlap(path.value, other) {
                    faults.add(
                        path.line,
                        format!("view {:?} is in the way of view {other:?} at {where_other}", path.value),
                        "give them paths of which neither lies below the other",
                    );
                }
            }
            self.view_places.insert(path.value.to_owned(), place(faults.file(), path.line));
            let mut warnings = Vec::new();
            let view = read_view(path, section, self.names, &mut warnings);
            self.warn(faults.file(), warnings);
            if let Some(view) = view {
                self.views.insert(path.value.to_owned(), view);
            }
        }
    }

    /// Keys at the top of the file that are none of the three.
    fn leftovers(&self, document: &Document, faults: &Faults) {
        let root = document.root(faults);
        root.allow(&["identities", "grants", "views"]);
        root.finish();
    }

    fn warn(&mut self, file: &Path, warnings: Vec<Warning>) {
        let faults = warnings.into_iter().map(|(line, message, remedy)| Fault {
            file: file.to_owned(),
            line,
            message,
            remedy,
        });
        self.warnings.extend(faults);
    }
}

/// Whether two paths are the same or one lies below the other.
fn overlap(one: &str, other: &str) -> bool {
    let below = |outer: &str, inner: &str| {
        inner.strip_prefix(outer).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    };
    below(one, other) || below(other, one)
}

fn place(file: &Path, line: usize) -> String {
    let name = file.file_name().map_or_else(|| file.to_string_lossy(), |name| name.to_string_lossy());
    format!("{name}:{line}")
}

fn digest_of(texts: &[(PathBuf, String)], options: &Options, identities: &[Identity]) -> PolicyDigest {
    let mut hash = Sha256::new();
    for (_, text) in texts {
        hash.update((text.len() as u64).to_le_bytes());
        hash.update(text);
    }
    // Names resolve differently once a user was made anew: that is another policy.
    hash.update(format!("{} {} ", options.retire_after.as_micros(), options.owner_uid));
    for identity in identities {
        hash.update(format!("{:?}", identity.conditions));
    }
    let short: String = hash.finalize().iter().take(8).map(|byte| format!("{byte:02x}")).collect();
    PolicyDigest(Arc::from(short))
}

/// The files that `paths` name, in order.
fn files_of(paths: &[PathBuf], faults: &mut Vec<Fault>, warnings: &mut Vec<Fault>) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for path in paths {
        match fs::metadata(path) {
            Ok(metadata) if metadata.is_dir() => match toml_files_in(path) {
                Ok(found) => files.extend(found),
                Err(error) => faults.push(unreadable(path, &error)),
            },
            Ok(_) => files.push(path.clone()),
            // A drop-in directory may come with the first package that uses it.
            Err(error)
                if error.kind() == std::io::ErrorKind::NotFound
                    && path.extension().is_none_or(|extension| extension != "toml") =>
            {
                warnings.push(Fault::of_file(
                    path,
                    "the policy directory does not exist",
                    format!("mkdir -m 0755 {}, or remove it from paths in [policy]", path.display()),
                ));
            }
            Err(error) => faults.push(unreadable(path, &error)),
        }
    }
    let mut distinct: Vec<PathBuf> = Vec::with_capacity(files.len());
    for file in files {
        if !distinct.contains(&file) {
            distinct.push(file);
        }
    }
    distinct
}

/// The policy files in a directory: `*.toml`, without hidden ones, in the order of their names.
fn toml_files_in(directory: &Path) -> std::io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        let hidden = path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
        if !hidden && path.extension().is_some_and(|extension| extension == "toml") {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

fn unreadable(path: &Path, error: &std::io::Error) -> Fault {
    let reason = match error.kind() {
        std::io::ErrorKind::NotFound => "does not exist",
        std::io::ErrorKind::PermissionDenied => "cannot be read: permission denied",
        _ => "cannot be read",
    };
    Fault::of_file(
        path,
        format!("the policy file {reason}"),
        "create it (credfs init), or correct paths in [policy]",
    )
}

/// Reads a policy file: a regular one, not larger than [`FILE_BYTES_MAX`], in UTF-8.
fn read_file(path: &Path) -> Result<String, Fault> {
    let metadata = fs::metadata(path).map_err(|error| unreadable(path, &error))?;
    if !metadata.is_file() {
        // Opening a FIFO would wait for a writer.
        return Err(Fault::of_file(path, "the policy is not a regular file", "replace it by one"));
    }
    let mut bytes = Vec::new();
    let file = fs::File::open(path).map_err(|error| unreadable(path, &error))?;
    file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(|error| unreadable(path, &error))?;
    if bytes.len() as u64 > FILE_BYTES_MAX {
        return Err(Fault::of_file(path, "the policy file is larger than 16 MiB", "split or shorten it"));
    }
    String::from_utf8(bytes).map_err(|error| {
        let before = error.as_bytes().get(..error.utf8_error().valid_up_to()).unwrap_or_default();
        let line = 1 + before.iter().filter(|byte| **byte == b'\n').count();
        Fault { line, ..Fault::of_file(path, "the policy file is not UTF-8", "save it as UTF-8") }
    })
}
