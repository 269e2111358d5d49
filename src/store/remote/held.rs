//! What is known of each secret, and the values that are held of it: each belongs to one login and one version.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::Duration;

use super::options::Grace;
use super::verdict::Age;
use crate::model::{FieldName, Secret, SecretBytes, SecretPath, State, UnixTime, Version};
use crate::store::Login;

/// What one held version takes beside its fields, about, in bytes.
const HELD_BYTES: usize = 128;
/// What one held field takes beside its name and its bytes, about.
const FIELD_BYTES: usize = 48;
/// Never read.
const NEVER: i64 = i64::MIN;

/// Every field of one version, as one login was given them.
pub(super) struct Held {
    pub(super) login: Login,
    pub(super) version: Version,
    /// Ordered by name.
    pub(super) fields: Box<[(FieldName, SecretBytes)]>,
    /// When the engine last gave exactly this, by the boot clock.
    pub(super) vouched_us: i64,
    /// Whether an earlier process left it, and the engine has not been asked since.
    pub(super) is_left: bool,
    pub(super) request_id: Option<Arc<str>>,
    /// When it was last given, by the boot clock.
    pub(super) used_us: AtomicI64,
}

impl Held {
    pub(super) fn field(&self, name: &FieldName) -> Option<&SecretBytes> {
        let at = self.fields.binary_search_by(|(known, _)| known.cmp(name)).ok()?;
        self.fields.get(at).map(|(_, value)| value)
    }

    pub(super) fn age(&self, now_us: i64, fresh_for: Duration, grace: Duration) -> Age {
        let age = Duration::from_micros(u64::try_from(now_us.saturating_sub(self.vouched_us)).unwrap_or(0));
        Age::of(age, self.is_left, fresh_for, grace)
    }

    fn bytes(&self) -> usize {
        let fields = self.fields.iter().map(|(name, value)| FIELD_BYTES + name.as_str().len() + value.len());
        HELD_BYTES + fields.sum::<usize>()
    }
}

/// One secret.
pub(super) struct Entry {
    pub(super) secret: Arc<Secret>,
    /// Whether the engine described it: else only its name was seen in a listing.
    pub(super) is_described: bool,
    /// When it did so last, by the boot clock.
    pub(super) described_us: i64,
    /// Whether its engine numbers versions.
    pub(super) is_numbered: bool,
    /// Versions whose fields are known by name, all of them.
    pub(super) exact: Vec<Version>,
    /// The number of the request whose answer this is: an answer to an earlier one changes nothing.
    pub(super) asked: u64,
    /// How many changes went through us: what was fetched before one is not the answer to who asks after it.
    pub(super) epoch: u64,
    /// Whose login could describe it.
    pub(super) describer: Option<Login>,
    pub(super) values: Vec<Held>,
    /// Whether the last who had to ask had no answer, and was given what is held.
    pub(super) is_unanswered: AtomicBool,
    /// Who read it last.
    pub(super) reader: Option<Login>,
    /// When it was last read, by the boot clock.
    pub(super) used_us: AtomicI64,
    /// When somebody last looked at it who made the engine be asked, by the boot clock.
    pub(super) looked_us: AtomicI64,
    /// When the engine is to be asked about it again, as a share of the interval: no two at the same moment.
    pub(super) polled_us: i64,
    /// Polls in a row that failed.
    pub(super) failures: u32,
}

impl Entry {
    pub(super) fn of(secret: Arc<Secret>) -> Self {
        Self {
            secret,
            is_described: false,
            described_us: NEVER,
            is_numbered: true,
            exact: Vec::new(),
            asked: 0,
            epoch: 0,
            describer: None,
            values: Vec::new(),
            is_unanswered: AtomicBool::new(false),
            reader: None,
            used_us: AtomicI64::new(NEVER),
            looked_us: AtomicI64::new(NEVER),
            polled_us: NEVER,
            failures: 0,
        }
    }

    pub(super) fn held(&self, login: &Login, version: Version) -> Option<&Held> {
        self.values.iter().find(|held| held.version == version && held.login == *login)
    }

    /// Whether it was ever read.
    pub(super) fn was_used(&self) -> bool {
        self.used_us.load(Ordering::Relaxed) != NEVER
    }

    /// Notes that `held` was given.
    pub(super) fn given(&self, held: &Held, now_us: i64) {
        held.used_us.store(now_us, Ordering::Relaxed);
        self.used_us.store(now_us, Ordering::Relaxed);
    }

    pub(super) fn is_exact(&self, version: Version) -> bool {
        self.exact.contains(&version)
    }

    /// Whether the engine described it less than `span` ago.
    pub(super) fn described_within(&self, span: Duration, now_us: i64) -> bool {
        let span = i64::try_from(span.as_micros()).unwrap_or(i64::MAX);
        self.is_described && now_us.saturating_sub(self.described_us) < span
    }
}

/// A secret of which nothing but the name is known.
pub(super) fn sighted(path: SecretPath) -> Arc<Secret> {
    Arc::new(Secret {
        path,
        versions: [].into_iter().collect(),
        current: None,
        previous: None,
        next: None,
        deleted: false,
        changed: UnixTime::default(),
        ownership: crate::model::Ownership::default(),
    })
}

/// All of it.
#[derive(Default)]
pub(super) struct Memory {
    pub(super) secrets: BTreeMap<SecretPath, Entry>,
    used_bytes: usize,
    /// Rises whenever values or what is known change.
    pub(super) changes: u64,
    /// Paths at which there is no secret, with the number of the request whose answer said so and when; the last few.
    removed: VecDeque<(SecretPath, u64, i64)>,
    /// Folders that were listed.
    listed: HashMap<Box<str>, Listed>,
}

/// How many secrets that went are remembered.
const REMOVED_MAX: usize = 256;
/// What is remembered of the last listing of a folder.
#[derive(Clone, Default)]
struct Listed {
    /// By the boot clock.
    when_us: i64,
    /// The folders in it.
    folders: Box<[Box<str>]>,
}

/// How the paths of all that is in a folder begin.
pub(super) fn within(folder: &str) -> String {
    if folder.is_empty() { String::new() } else { format!("{folder}/") }
}

/// How deep folders are looked into.
pub(super) const DEPTH_MAX: usize = 64;
/// How many folders are remembered as listed.
const LISTED_MAX: usize = 4096;

impl Memory {
    pub(super) fn get(&self, path: &SecretPath) -> Option<&Entry> {
        self.secrets.get(path)
    }

    /// Keeps what a login was given, within `bytes_max`: what was given longest ago makes room.
    pub(super) fn keep(&mut self, path: &SecretPath, mut held: Held, bytes_max: usize) {
        let Some(entry) = self.secrets.get_mut(path) else { return };
        share_alike(&entry.values, &mut held);
        entry.reader = Some(held.login.clone());
        entry.is_unanswered.store(false, Ordering::Relaxed);
        let used_us = held.used_us.load(Ordering::Relaxed);
        if used_us > entry.used_us.load(Ordering::Relaxed) {
            entry.used_us.store(used_us, Ordering::Relaxed);
        }
        let is_same = |other: &Held| other.version == held.version && other.login == held.login;
        self.used_bytes += held.bytes();
        self.changes += 1;
        match entry.values.iter_mut().find(|other| is_same(other)) {
            Some(other) => self.used_bytes -= std::mem::replace(other, held).bytes(),
            None => entry.values.push(held),
        }
        if self.used_bytes > bytes_max {
            self.make_room(bytes_max);
        }
    }

    fn make_room(&mut self, bytes_max: usize) {
        // A tenth more than needed, so that not every value looks through all of them.
        let goal = bytes_max - bytes_max / 10;
        let mut all: Vec<(i64, SecretPath, Login, Version)> = Vec::new();
        for (path, entry) in &self.secrets {
            all.extend(entry.values.iter().map(|held| {
                (held.used_us.load(Ordering::Relaxed), path.clone(), held.login.clone(), held.version)
            }));
        }
        all.sort_by_key(|(used_us, ..)| *used_us);
        for (_, path, login, version) in all {
            if self.used_bytes <= goal {
                return;
            }
            self.drop_where(&path, |held| held.version == version && held.login == login);
        }
    }

    /// Drops values of a secret; returns how many.
    pub(super) fn drop_where(&mut self, path: &SecretPath, is_to_go: impl Fn(&Held) -> bool) -> usize {
        let Some(entry) = self.secrets.get_mut(path) else { return 0 };
        let before = entry.values.len();
        let mut freed = 0;
        entry.values.retain(|held| {
            let goes = is_to_go(held);
            freed += if goes { held.bytes() } else { 0 };
            !goes
        });
        let gone = before - entry.values.len();
        self.used_bytes -= freed;
        self.changes += u64::from(gone > 0);
        gone
    }

    /// Drops values that may not be given any more, by what is known now; returns how many.
    pub(super) fn drop_unreadable(&mut self, path: &SecretPath, before: Option<&Secret>) -> usize {
        let Some(entry) = self.secrets.get(path) else { return 0 };
        let secret = Arc::clone(&entry.secret);
        let created = |secret: &Secret, number| secret.version(number).map(|version| version.created);
        self.drop_where(path, |held| {
            let is_readable =
                secret.version(held.version).is_some_and(|version| version.state == State::Active);
            // The same number, made anew: another version.
            let is_another = before.is_some_and(|before| {
                created(before, held.version).is_some()
                    && created(before, held.version) != created(&secret, held.version)
            });
            secret.deleted || !is_readable || is_another
        })
    }

    /// Takes a secret away with all its values, as the answer to request `asked` says; returns whether any were held.
    pub(super) fn remove(&mut self, path: &SecretPath, asked: u64, now_us: i64) -> bool {
        let had_values = self.drop_where(path, |_| true) > 0;
        if self.secrets.remove(path).is_some() {
            self.changes += 1;
        }
        self.removed.retain(|(other, ..)| other != path);
        self.removed.push_back((path.clone(), asked, now_us));
        if self.removed.len() > REMOVED_MAX {
            self.removed.pop_front();
        }
        had_values
    }

    /// Whether a later request than `asked` was answered that there is no such secret.
    pub(super) fn removed_after(&self, path: &SecretPath, asked: u64) -> bool {
        self.removed.iter().any(|(other, when, _)| other == path && *when > asked)
    }

    /// Whether the engine said after `since_us` that there is no such secret.
    pub(super) fn is_absent(&self, path: &SecretPath, since_us: i64) -> bool {
        self.get(path).is_none()
            && self.removed.iter().any(|(other, _, when)| other == path && *when > since_us)
    }

    /// Whether the engine's last word was that there is no such secret, however long ago.
    pub(super) fn was_absent(&self, path: &SecretPath) -> bool {
        self.is_absent(path, i64::MIN) || (self.get(path).is_none() && self.is_below_a_leaf(path.as_str()))
    }

    /// Whether the engine's last word was that nothing is in `folder`, however long ago.
    pub(super) fn was_empty(&self, folder: &str) -> bool {
        let is_any_known = self.beginning_with(&within(folder)).next().is_some();
        !is_any_known && (self.unlisted(folder, i64::MIN).is_none() || self.is_below_a_leaf(folder))
    }

    /// Whether `path` is within a secret that was no folder when the names around it were listed.
    fn is_below_a_leaf(&self, path: &str) -> bool {
        let Some((above, _)) = path.rsplit_once('/') else { return false };
        let around = above.rsplit_once('/').map_or("", |(around, _)| around);
        let is_folder = |listed: &Listed| listed.folders.iter().any(|folder| **folder == *above);
        self.secrets.contains_key(above) && self.listed.get(around).is_some_and(|listed| !is_folder(listed))
    }

    /// Notes that a folder was listed, and which folders are in it.
    pub(super) fn note_listed(&mut self, folder: &str, folders: &[Box<str>], now_us: i64) {
        if self.listed.len() >= LISTED_MAX {
            self.listed.clear();
        }
        self.listed.insert(folder.into(), Listed { when_us: now_us, folders: folders.into() });
    }

    /// The next folder to be listed before it can be said that nothing is in `folder`: itself, unless it was listed after
    /// `since_us`, else one below it that never was.
    pub(super) fn unlisted(&self, folder: &str, since_us: i64) -> Option<Box<str>> {
        let Some(listed) = self.listed.get(folder).filter(|listed| listed.when_us > since_us) else {
            return Some(folder.into());
        };
        if folder.matches('/').count() >= DEPTH_MAX {
            return None;
        }
        listed.folders.iter().find_map(|below| self.unlisted(below, i64::MIN))
    }

    /// Secrets whose path begins with `prefix`, letter by letter.
    pub(super) fn beginning_with(&self, prefix: &str) -> impl Iterator<Item = (&SecretPath, &Entry)> {
        use std::ops::Bound::{Included, Unbounded};
        let from_there = self.secrets.range::<str, _>((Included(prefix), Unbounded));
        from_there.take_while(move |(path, _)| path.as_str().starts_with(prefix))
    }

    /// How long the values that a login would be given at `path` have been stale; those of any login where it has none.
    pub(super) fn stale_for(
        &self,
        login: &Login,
        path: &SecretPath,
        fresh_for: Duration,
        grace: Grace,
        now_us: i64,
    ) -> Duration {
        let Some(entry) = self.get(path) else { return Duration::ZERO };
        let Some(current) = entry.secret.current else { return Duration::ZERO };
        let grace = grace.of(&entry.secret.ownership);
        let stale = |held: &Held| match held.age(now_us, fresh_for, grace) {
            Age::Fresh => Duration::ZERO,
            Age::Stale(span) => span,
            Age::Spent => {
                let age = u64::try_from(now_us.saturating_sub(held.vouched_us)).unwrap_or(0);
                Duration::from_micros(age).saturating_sub(fresh_for)
            }
        };
        if let Some(held) = entry.held(login, current) {
            return stale(held);
        }
        let of_others = entry.values.iter().filter(|held| held.version == current).map(stale).min();
        let described = u64::try_from(now_us.saturating_sub(entry.described_us)).unwrap_or(0);
        of_others.unwrap_or(Duration::from_micros(described).saturating_sub(fresh_for))
    }

    /// How many bytes the values take, about.
    #[cfg(test)]
    pub(super) fn used_bytes(&self) -> usize {
        self.used_bytes
    }
}

/// Where another login was given the very same bytes they are held once. Each login is still given only what itself asked
/// for: whether it may have them, the engine has said.
fn share_alike(others: &[Held], held: &mut Held) {
    let Some(other) = others.iter().find(|other| other.version == held.version) else { return };
    for (name, value) in &mut held.fields {
        if let Some(same) = other.field(name).filter(|same| same.expose() == value.expose()) {
            *value = same.shared();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(text: &str) -> SecretPath {
        SecretPath::parse(text).unwrap()
    }

    fn held(login: &str, used_us: i64, length: usize) -> Held {
        let value = SecretBytes::taken_from(&mut vec![7; length]);
        Held {
            login: Login::of_identity(login),
            version: Version::new(1).unwrap(),
            fields: [(FieldName::parse("f").unwrap(), value)].into(),
            vouched_us: 0,
            is_left: false,
            request_id: None,
            used_us: AtomicI64::new(used_us),
        }
    }

    #[test]
    fn what_was_given_longest_ago_makes_room_and_the_bound_holds() {
        let mut memory = Memory::default();
        let bytes_max = 10 * held("a", 0, 100).bytes();
        for number in 0..100 {
            let at = path(&format!("s{number}"));
            memory.secrets.insert(at.clone(), Entry::of(sighted(at.clone())));
            memory.keep(&at, held("a", number, 100), bytes_max);
            assert!(memory.used_bytes() <= bytes_max);
        }
        assert!(memory.get(&path("s0")).unwrap().values.is_empty());
        assert_eq!(memory.get(&path("s99")).unwrap().values.len(), 1);
        for number in 0..100 {
            memory.remove(&path(&format!("s{number}")), 1, 0);
        }
        assert_eq!(memory.used_bytes(), 0);
    }

    #[test]
    fn the_last_word_about_a_name_is_remembered() {
        let mut memory = Memory::default();
        for at in ["a/leaf", "a/both", "a/both/child"] {
            memory.secrets.insert(path(at), Entry::of(sighted(path(at))));
        }
        assert!(!memory.was_absent(&path("a/leaf/f")), "nobody said so");
        memory.note_listed("a", &["a/both".into()], 1);
        assert!(memory.was_absent(&path("a/leaf/f")) && memory.was_empty("a/leaf/f"));
        assert!(!memory.was_absent(&path("a/both/f")) && !memory.was_empty("a/both"));
        assert!(!memory.was_absent(&path("a/both/child")), "it is known");
        assert!(!memory.was_absent(&path("a/new")), "it may be new since");
        memory.remove(&path("a/new"), 1, 1);
        assert!(memory.was_absent(&path("a/new")));
    }

    #[test]
    fn the_same_bytes_of_two_logins_lie_in_memory_once() {
        let mut memory = Memory::default();
        memory.secrets.insert(path("s"), Entry::of(sighted(path("s"))));
        for login in ["a", "b"] {
            memory.keep(&path("s"), held(login, 1, 100), usize::MAX);
        }
        let values = &memory.get(&path("s")).unwrap().values;
        assert_eq!(values[0].fields[0].1.expose().as_ptr(), values[1].fields[0].1.expose().as_ptr());
    }
}
