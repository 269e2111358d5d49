//! Numbers that are given once and for ever: which field of which version a node stands for, and which number a content
//! has at an engine that numbers none. In memory, and in a sealed file that a restart goes on with.
//!
//! ```text
//! 1 reserved    u32 the largest node that may have been handed out: those after it are new, whatever was lost
//! 2 fields      path | u32 version | i64 created | u32 count | per field: name, u32 node
//! 3 forgotten   path | u32 version (0: the whole secret)
//! 4 activated   path | u32 version | i64 when it became current, as this machine saw it
//! 5 content     path | current: u32 number, i64 first seen, 32 bytes? | previous: u32 number (0: none), i64
//! 6 key         32 bytes: the key of the fingerprints
//! ```

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::time::Duration;

use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;
use zeroize::Zeroizing;

use super::codec::{In, Out};
use crate::model::{FieldName, FieldNode, SecretBytes, SecretPath, UnixTime, Version};
use crate::store::sealed::{KeySource, SealedLog, files, fill_random};
use crate::store::{StoreFault, Wanted};

/// Nodes that are reserved at once: one wait for the disk for so many.
const RESERVED_AT_ONCE: u32 = 256;
/// The file is written anew when it is this much longer than it was after the last time.
const GROWTH_BYTES_MAX: u64 = 4 * 1024 * 1024;

/// The nodes of one version.
struct Numbered {
    created: UnixTime,
    fields: Vec<(FieldName, u32)>,
}

/// Everything of one secret.
#[derive(Default)]
struct OfSecret {
    versions: BTreeMap<Version, Numbered>,
    activated: Option<(Version, UnixTime)>,
    content: Option<Content>,
}

/// What a secret holds at an engine that numbers no versions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Content {
    /// The number of what it holds now, and since when.
    pub(super) current: (Version, UnixTime),
    /// Its fingerprint; `None` where it was put and not read since.
    pub(super) fingerprint: Option<[u8; 32]>,
    /// What it held before.
    pub(super) previous: Option<(Version, UnixTime)>,
}

/// Every number given.
#[derive(Default)]
struct Table {
    secrets: HashMap<SecretPath, OfSecret>,
    nodes: BTreeMap<u32, (SecretPath, Version)>,
    next: u32,
    reserved: u32,
    key: Option<Zeroizing<[u8; 32]>>,
}

/// The numbers, and their file.
pub(super) struct Numbers {
    table: Table,
    log: SealedLog,
    /// How long the file was when it was last written whole.
    compact_bytes: u64,
}

impl Numbers {
    /// Goes on with the file at `path`, made where there is none, with its key beside it.
    pub(super) fn open(path: &Path, wait: Duration) -> Result<Self, StoreFault> {
        let key = KeySource::File(files::beside(path, ".key")).read_or_make_for(path)?;
        let mut table = Table { next: 1, ..Table::default() };
        let mut is_readable = true;
        let (log, found) = SealedLog::open(path, key, b"credfs numbers 1", wait, &mut |record| {
            is_readable &= table.read(record).is_some();
        })?;
        if found.is_damaged || !is_readable {
            return Err(StoreFault::Corrupt(format!(
                "{} is damaged: numbers that were given out cannot be told from new ones. Unmount, then remove it",
                path.display()
            )));
        }
        table.next = table.next.max(table.reserved.saturating_add(1));
        let mut numbers = Self { table, compact_bytes: log.bytes(), log };
        if numbers.table.key.is_none() {
            let mut key = Zeroizing::new([0; 32]);
            fill_random(&mut *key)?;
            numbers.log.add(&key_record(&key), true)?;
            numbers.table.key = Some(key);
        }
        Ok(numbers)
    }

    /// The nodes of these fields of a version, in the same order; those it has none for yet are given one. Another
    /// `created` than before means that this is another version: what the old numbers stood for is forgotten.
    pub(super) fn nodes_of(
        &mut self,
        path: &SecretPath,
        version: Version,
        created: UnixTime,
        names: &[FieldName],
    ) -> Result<Vec<FieldNode>, StoreFault> {
        let known = self.table.secrets.get(path).and_then(|secret| secret.versions.get(&version));
        if known.is_some_and(|known| known.created != created) {
            self.forget(path, Some(version))?;
        }
        let node_of = |table: &Table, name: &FieldName| {
            let known = table.secrets.get(path).and_then(|secret| secret.versions.get(&version))?;
            known.fields.iter().find(|(known, _)| known == name).map(|(_, node)| *node)
        };
        let missing: Vec<&FieldName> =
            names.iter().filter(|name| node_of(&self.table, name).is_none()).collect();
        if !missing.is_empty() {
            let count = u32::try_from(missing.len()).unwrap_or(u32::MAX);
            self.reserve(count)?;
            let first = self.table.next;
            let fields: Vec<(FieldName, u32)> = missing.into_iter().cloned().zip(first..).collect();
            self.log.add(&fields_record(path, version, created, &fields), false)?;
            self.table.next = first + count;
            self.table.give(path, version, created, fields);
            self.compact_if_long();
        }
        names
            .iter()
            .map(|name| {
                node_of(&self.table, name).and_then(FieldNode::new).ok_or(StoreFault::TooLarge {
                    what: "the number of fields ever seen",
                    limit: "268435455",
                    remedy: "unmount, and remove the file with the numbers",
                })
            })
            .collect()
    }

    fn reserve(&mut self, count: u32) -> Result<(), StoreFault> {
        let last = self.table.next.saturating_add(count) - 1;
        if last > FieldNode::MAX {
            return Err(StoreFault::TooLarge {
                what: "the number of fields ever seen",
                limit: "268435455",
                remedy: "unmount, and remove the file with the numbers",
            });
        }
        if last > self.table.reserved {
            let reserved = last.saturating_add(RESERVED_AT_ONCE).min(FieldNode::MAX);
            self.log.add(&Out::of(1, 8).u32(reserved).finished(), true)?;
            self.table.reserved = reserved;
        }
        Ok(())
    }

    /// What a node stands for.
    pub(super) fn wanted(&self, node: FieldNode) -> Option<Wanted> {
        let (path, version) = self.table.nodes.get(&node.get())?;
        let known = self.table.secrets.get(path)?.versions.get(version)?;
        let (field, _) = known.fields.iter().find(|(_, number)| *number == node.get())?;
        Some(Wanted { secret: path.clone(), version: *version, field: field.clone() })
    }

    /// The versions of a secret that have nodes.
    pub(super) fn numbered(&self, path: &SecretPath) -> Vec<Version> {
        self.table.secrets.get(path).map_or_else(Vec::new, |secret| secret.versions.keys().copied().collect())
    }

    /// Takes the numbers of a version (`None`: of all) out of use for ever.
    pub(super) fn forget(&mut self, path: &SecretPath, version: Option<Version>) -> Result<(), StoreFault> {
        let known = self.table.secrets.get(path);
        let is_known = known.is_some_and(|secret| match version {
            Some(version) => secret.versions.contains_key(&version),
            None => true,
        });
        if is_known {
            self.log.add(&Out::of(3, 32).text(path.as_str()).version(version).finished(), true)?;
            self.table.forget(path, version);
        }
        Ok(())
    }

    /// When a secret's current version became so, as this machine saw it.
    pub(super) fn activated(&self, path: &SecretPath) -> Option<(Version, UnixTime)> {
        self.table.secrets.get(path)?.activated
    }

    /// Remembers that.
    pub(super) fn note_activated(
        &mut self,
        path: &SecretPath,
        version: Version,
        when: UnixTime,
    ) -> Result<(), StoreFault> {
        if self.activated(path) != Some((version, when)) {
            self.log.add(&activated_record(path, version, when), false)?;
            self.table.secrets.entry(path.clone()).or_default().activated = Some((version, when));
        }
        Ok(())
    }

    /// What a secret holds at an engine that numbers none.
    pub(super) fn content(&self, path: &SecretPath) -> Option<Content> {
        self.table.secrets.get(path)?.content
    }

    /// Remembers that. Numbers only rise: `content` names one that was not given before, or the same.
    pub(super) fn set_content(&mut self, path: &SecretPath, content: Content) -> Result<(), StoreFault> {
        if self.content(path) != Some(content) {
            self.log.add(&content_record(path, &content), true)?;
            self.table.secrets.entry(path.clone()).or_default().content = Some(content);
        }
        Ok(())
    }

    /// The keyed fingerprint of a content: whoever has the file and not its key learns nothing of what it was made of.
    pub(super) fn fingerprint(
        &self,
        path: &SecretPath,
        fields: &[(FieldName, SecretBytes)],
    ) -> Result<[u8; 32], StoreFault> {
        let no_key = || StoreFault::Io("there is no key for fingerprints".into());
        let key = self.table.key.as_ref().ok_or_else(no_key)?;
        let mut coder = <Hmac<Sha256>>::new_from_slice(&**key).map_err(|_| no_key())?;
        let mut part = |bytes: &[u8]| {
            coder.update(&(bytes.len() as u64).to_le_bytes());
            coder.update(bytes);
        };
        part(path.as_str().as_bytes());
        for (name, value) in fields {
            part(name.as_str().as_bytes());
            part(value.expose());
        }
        Ok(coder.finalize().into_bytes().into())
    }

    fn compact_if_long(&mut self) {
        if self.log.bytes() < self.compact_bytes + GROWTH_BYTES_MAX {
            return;
        }
        let records = self.table.records();
        match self.log.replace(&mut records.into_iter()) {
            Ok(()) => self.compact_bytes = self.log.bytes(),
            // It goes on growing, and is tried again later.
            Err(fault) => {
                tracing::warn!(%fault, "the file of numbers could not be shortened");
                self.compact_bytes = self.log.bytes();
            }
        }
    }
}

impl Table {
    fn read(&mut self, record: &[u8]) -> Option<()> {
        let mut from = In(record);
        match from.u8()? {
            1 => self.reserved = self.reserved.max(from.u32()?),
            2 => {
                let (path, version) = (from.path()?, from.version()??);
                let created = from.time()?;
                let count = from.u32()?;
                let fields: Option<Vec<_>> = (0..count).map(|_| Some((from.field()?, from.u32()?))).collect();
                self.give(&path, version, created, fields?);
            }
            3 => {
                let (path, version) = (from.path()?, from.version()?);
                self.forget(&path, version);
            }
            4 => {
                let (path, version, when) = (from.path()?, from.version()??, from.time()?);
                self.secrets.entry(path).or_default().activated = Some((version, when));
            }
            5 => {
                let path = from.path()?;
                let current = (from.version()??, from.time()?);
                let fingerprint = from.option(In::array::<32>)?;
                let (previous, since) = (from.version()?, from.time()?);
                let previous = previous.map(|number| (number, since));
                self.secrets.entry(path).or_default().content =
                    Some(Content { current, fingerprint, previous });
            }
            6 => self.key = Some(Zeroizing::new(from.array()?)),
            _ => return None,
        }
        Some(())
    }

    fn give(
        &mut self,
        path: &SecretPath,
        version: Version,
        created: UnixTime,
        fields: Vec<(FieldName, u32)>,
    ) {
        for (_, node) in &fields {
            self.nodes.insert(*node, (path.clone(), version));
            self.next = self.next.max(node.saturating_add(1));
        }
        let secret = self.secrets.entry(path.clone()).or_default();
        let known =
            secret.versions.entry(version).or_insert_with(|| Numbered { created, fields: Vec::new() });
        known.created = created;
        known.fields.extend(fields);
    }

    fn forget(&mut self, path: &SecretPath, version: Option<Version>) {
        let Some(secret) = self.secrets.get_mut(path) else { return };
        let gone: Vec<Numbered> = match version {
            Some(version) => secret.versions.remove(&version).into_iter().collect(),
            None => std::mem::take(&mut secret.versions).into_values().collect(),
        };
        for (_, node) in gone.iter().flat_map(|numbered| &numbered.fields) {
            self.nodes.remove(node);
        }
        // What a content was numbered with goes on, also where the secret went and comes again.
        if version.is_none() && secret.content.is_none() {
            self.secrets.remove(path);
        }
    }

    /// All of it, as few records as can be.
    fn records(&self) -> Vec<Zeroizing<Vec<u8>>> {
        let mut records = vec![Out::of(1, 8).u32(self.reserved).finished()];
        records.extend(self.key.as_ref().map(key_record));
        for (path, secret) in &self.secrets {
            for (version, numbered) in &secret.versions {
                records.push(fields_record(path, *version, numbered.created, &numbered.fields));
            }
            records.extend(secret.activated.map(|(version, when)| activated_record(path, version, when)));
            records.extend(secret.content.as_ref().map(|content| content_record(path, content)));
        }
        records
    }
}

fn fields_record(
    path: &SecretPath,
    version: Version,
    created: UnixTime,
    fields: &[(FieldName, u32)],
) -> Zeroizing<Vec<u8>> {
    let mut out = Out::of(2, 64 + 32 * fields.len());
    out.text(path.as_str()).version(Some(version)).time(created);
    out.u32(u32::try_from(fields.len()).unwrap_or(0));
    for (name, node) in fields {
        out.text(name.as_str()).u32(*node);
    }
    out.done()
}

fn activated_record(path: &SecretPath, version: Version, when: UnixTime) -> Zeroizing<Vec<u8>> {
    Out::of(4, 64).text(path.as_str()).version(Some(version)).time(when).finished()
}

fn content_record(path: &SecretPath, content: &Content) -> Zeroizing<Vec<u8>> {
    let mut out = Out::of(5, 128);
    out.text(path.as_str()).version(Some(content.current.0)).time(content.current.1);
    out.option(content.fingerprint, |out, fingerprint| out.array(&fingerprint));
    let (number, since) = content.previous.unzip();
    out.version(number).time(since.unwrap_or_default());
    out.done()
}

fn key_record(key: &Zeroizing<[u8; 32]>) -> Zeroizing<Vec<u8>> {
    let mut out = Out::of(6, 32);
    out.array(key);
    out.done()
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    struct Place(PathBuf);

    impl Place {
        fn new(name: &str) -> Self {
            let directory =
                std::env::temp_dir().join(format!("credfs-numbers-{name}-{}", std::process::id()));
            drop(std::fs::remove_dir_all(&directory));
            std::fs::create_dir(&directory).unwrap();
            Self(directory)
        }

        fn open(&self) -> Numbers {
            Numbers::open(&self.0.join("numbers"), Duration::from_secs(1)).unwrap()
        }
    }

    impl Drop for Place {
        fn drop(&mut self) {
            drop(std::fs::remove_dir_all(&self.0));
        }
    }

    fn path(text: &str) -> SecretPath {
        SecretPath::parse(text).unwrap()
    }

    fn names(texts: &[&str]) -> Vec<FieldName> {
        texts.iter().map(|text| FieldName::parse(text).unwrap()).collect()
    }

    const ONE: Version = Version::new(1).unwrap();
    const THEN: UnixTime = UnixTime::from_micros(7);

    #[test]
    fn a_number_stands_for_the_same_after_a_restart_and_is_given_once() {
        let place = Place::new("restart");
        let mut given = std::collections::BTreeSet::new();
        for round in 0..5 {
            let mut numbers = place.open();
            for secret in ["a", "b/c"] {
                let first = numbers.nodes_of(&path(secret), ONE, THEN, &names(&["x", "y"])).unwrap();
                assert_eq!(first, numbers.nodes_of(&path(secret), ONE, THEN, &names(&["x", "y"])).unwrap());
                assert_eq!(numbers.wanted(first[1]).unwrap().field, names(&["y"])[0]);
                assert_eq!(round == 0, given.insert(first[0]), "the same in each process");
            }
            let new = names(&[&format!("z{round}")]);
            let node = numbers.nodes_of(&path("a"), ONE, THEN, &new).unwrap()[0];
            assert!(
                given.insert(node) && given.iter().all(|other| *other <= node),
                "a new one is the largest"
            );
        }
    }

    #[test]
    fn what_was_forgotten_or_made_anew_gets_other_numbers() {
        let place = Place::new("anew");
        let mut numbers = place.open();
        let one = |numbers: &mut Numbers, created| {
            numbers.nodes_of(&path("a"), ONE, created, &names(&["x"])).unwrap()[0]
        };
        let first = one(&mut numbers, THEN);
        let second = one(&mut numbers, UnixTime::from_micros(8));
        assert!(second > first && numbers.wanted(first).is_none(), "another version of the same number");
        numbers.forget(&path("a"), None).unwrap();
        assert!(numbers.wanted(second).is_none());
        drop(numbers);
        let mut numbers = place.open();
        assert!(numbers.wanted(first).is_none() && numbers.wanted(second).is_none());
        assert!(one(&mut numbers, THEN) > second);
    }

    #[test]
    fn numbers_that_a_loss_of_power_took_from_the_file_are_not_given_again() {
        let place = Place::new("power");
        let mut numbers = place.open();
        let end = std::fs::metadata(place.0.join("numbers")).unwrap().len();
        let lost = numbers.nodes_of(&path("a"), ONE, THEN, &names(&["x"])).unwrap()[0];
        let reserved = 4 + 40 + 5;
        drop(numbers);
        // What was not synced: the record of the fields. The reservation before it was.
        let file = std::fs::File::options().write(true).open(place.0.join("numbers")).unwrap();
        file.set_len(end + reserved).unwrap();
        let mut numbers = place.open();
        assert!(numbers.wanted(lost).is_none());
        assert!(numbers.nodes_of(&path("b"), ONE, THEN, &names(&["x"])).unwrap()[0] > lost);
    }

    #[test]
    fn written_anew_it_says_the_same() {
        let place = Place::new("compact");
        let mut numbers = place.open();
        let nodes = numbers.nodes_of(&path("a"), ONE, THEN, &names(&["x", "y"])).unwrap();
        let content = Content { current: (ONE, THEN), fingerprint: Some([9; 32]), previous: None };
        numbers.set_content(&path("b"), content).unwrap();
        numbers.note_activated(&path("a"), ONE, THEN).unwrap();
        let value = || [(names(&["x"])[0].clone(), SecretBytes::taken_from(&mut [1, 2]))];
        let print = numbers.fingerprint(&path("b"), &value()).unwrap();
        let records = numbers.table.records();
        numbers.log.replace(&mut records.into_iter()).unwrap();
        drop(numbers);
        let numbers = place.open();
        assert_eq!(numbers.wanted(nodes[1]).unwrap().secret, path("a"));
        assert_eq!(numbers.content(&path("b")), Some(content));
        assert_eq!(numbers.activated(&path("a")), Some((ONE, THEN)));
        assert_eq!(numbers.fingerprint(&path("b"), &value()).unwrap(), print);
        assert_ne!(numbers.fingerprint(&path("c"), &value()).unwrap(), print);
    }
}
