//! What an answer of the engine changes in what is known and held, in order, and who hears of it.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use parking_lot::MutexGuard;

use super::Remote;
use super::asking::{Asked, Read};
use super::held::{Entry, Held, sighted};
use super::merge::{self, Before, Fields, Merged};
use super::numbers::Content;
use super::record;
use super::verdict::Saying;
use crate::model::{Secret, SecretPath, State, Version};
use crate::store::readable::readable;
use crate::store::{Changed, Description, Login, StoreFault, Values};

/// Proof that no other answer is being taken in.
pub(super) type Order<'a> = MutexGuard<'a, ()>;

/// What is new about a secret.
pub(super) struct News<'a> {
    /// The number of the request that it is the answer to.
    pub(super) asked: u64,
    /// What the engine says; `None`: there is no such secret.
    pub(super) said: Option<Description>,
    /// Who could ask.
    pub(super) describer: Option<Login>,
    /// Every field of one version.
    pub(super) learned: Option<(Version, &'a Fields)>,
    /// Whether the engine numbers its versions.
    pub(super) is_numbered: bool,
}

/// What was known before, and is now.
pub(super) struct Learned {
    pub(super) before: Option<Arc<Secret>>,
    pub(super) after: Option<Arc<Secret>>,
}

impl Remote {
    /// Takes in what the engine says of a secret, and tells watchers.
    pub(super) fn learn_description(
        &self,
        path: &SecretPath,
        asked: u64,
        said: Option<Description>,
        describer: Option<Login>,
    ) -> Result<(), StoreFault> {
        let order = self.order.lock();
        let is_numbered = said.as_ref().is_none_or(|said| !said.versions.is_empty());
        let said = said.map(|said| self.with_numbers(path, said));
        let learned =
            self.learn(&order, path, News { asked, said, describer, learned: None, is_numbered })?;
        self.tell(&order, learned, None);
        Ok(())
    }

    /// The same, with a number where the engine gives none and what it holds was read before.
    pub(super) fn with_numbers(&self, path: &SecretPath, said: Description) -> Description {
        let content = self.numbers.read().content(path).filter(|_| said.versions.is_empty());
        content.map_or(said.clone(), |content| merge::numbered(&content, &said))
    }

    /// Changes what is known. Values that may not be given any more are dropped before anybody hears of it.
    pub(super) fn learn(
        &self,
        _order: &Order<'_>,
        path: &SecretPath,
        news: News<'_>,
    ) -> Result<Learned, StoreFault> {
        let (before, was_described, exact) = {
            let memory = self.memory.read();
            match memory.get(path) {
                Some(entry) if entry.asked > news.asked => {
                    let known = Some(Arc::clone(&entry.secret));
                    return Ok(Learned { before: known.clone(), after: known });
                }
                None if memory.removed_after(path, news.asked) => {
                    return Ok(Learned { before: None, after: None });
                }
                Some(entry) => (Some(Arc::clone(&entry.secret)), entry.is_described, entry.exact.clone()),
                None => (None, false, Vec::new()),
            }
        };
        // Of what was seen by its name alone, or not numbered yet, nothing changes when more is known.
        let known_before = before.clone().filter(|before| was_described && !before.versions.is_empty());
        let Some(said) = news.said else {
            self.numbers.write().forget(path, None)?;
            let had_values = self.memory.write().remove(path, news.asked, self.now_us());
            if was_described || had_values {
                self.note_in_cache(|cache, mark| cache.note_gone(mark, path));
                self.drops.fetch_add(1, Ordering::SeqCst);
            }
            return Ok(Learned { before: known_before, after: None });
        };
        let Merged { secret, exact } = merge::merged(
            path,
            &Before { secret: known_before.as_deref(), exact: &exact },
            &said,
            news.learned,
            (self.options.clocks.wall)(),
            &mut self.numbers.write(),
        )?;
        let after = Arc::new(secret);
        let now_us = self.now_us();
        let (dropped, record) = {
            let mut memory = self.memory.write();
            memory.changes += 1;
            let entry =
                memory.secrets.entry(path.clone()).or_insert_with(|| Entry::of(sighted(path.clone())));
            let is_same = entry.is_described && entry.secret == after && entry.exact == exact;
            entry.secret = Arc::clone(&after);
            entry.is_described = true;
            entry.is_numbered = news.is_numbered;
            entry.exact = exact;
            entry.asked = news.asked;
            if news.learned.is_none() {
                entry.described_us = now_us;
                entry.polled_us = now_us;
                entry.failures = 0;
            }
            entry.describer = news.describer.or(entry.describer.take());
            let record = self
                .cache
                .is_some()
                .then(|| (is_same, record::of_secret(&self.options.clocks.mark(), entry)));
            (memory.drop_unreadable(path, before.as_deref()), record)
        };
        if dropped > 0 {
            self.drops.fetch_add(1, Ordering::SeqCst);
        }
        self.note_in_cache(|cache, mark| {
            if let Some((false, record)) = &record {
                cache.note_secret(record);
            }
            let not_to_be_given = after.versions.iter().filter(|version| version.state != State::Active);
            if dropped > 0 && after.deleted {
                cache.note_dropped(mark, None, path, None);
            } else if dropped > 0 {
                not_to_be_given.for_each(|gone| cache.note_dropped(mark, None, path, Some(gone.number)));
            }
        });
        Ok(Learned { before: known_before, after: Some(after) })
    }

    /// Tells watchers, if anything they could see is another than before.
    pub(super) fn tell(&self, _order: &Order<'_>, learned: Learned, version: Option<Version>) {
        let is_same = match (&learned.before, &learned.after) {
            (Some(before), Some(after)) => Arc::ptr_eq(before, after) || before == after,
            (None, None) => true,
            _ => false,
        };
        if is_same {
            return;
        }
        let Learned { before, after } = learned;
        let changed = Changed { store: Arc::clone(&self.name), before, after, version, carried: Vec::new() };
        for watcher in self.watchers.read().iter() {
            watcher(&changed);
        }
    }

    /// Takes in the values of a version that a login was given. They are held for that login alone.
    pub(super) fn take_in(
        &self,
        whose: (&Login, &SecretPath, Option<Version>),
        epoch: u64,
        vouched_us: i64,
        values: Values,
        request_id: Option<Arc<str>>,
    ) -> Asked {
        self.take_in_order(&self.order.lock(), whose, epoch, vouched_us, values, request_id)
    }

    fn take_in_order(
        &self,
        order: &Order<'_>,
        (login, path, version): (&Login, &SecretPath, Option<Version>),
        epoch: u64,
        vouched_us: i64,
        values: Values,
        request_id: Option<Arc<str>>,
    ) -> Asked {
        let Values { version: said_version, mut fields } = values;
        fields.sort_by(|one, other| one.0.cmp(&other.0));
        fields.dedup_by(|one, other| one.0 == other.0);
        let names: Fields =
            fields.iter().map(|(name, value)| (name.clone(), Some(value.len() as u64))).collect();
        let (secret, is_exact, known_epoch) = {
            let memory = self.memory.read();
            let entry = memory.get(path).ok_or_else(|| StoreFault::NoSecret(path.clone()))?;
            let version = version.or(entry.secret.current);
            let is_exact = version.is_some_and(|version| {
                let known = entry.secret.version(version);
                entry.is_exact(version)
                    && known.is_some_and(|known| known.fields.iter().all(|field| field.bytes.is_some()))
            });
            (Arc::clone(&entry.secret), is_exact, entry.epoch)
        };
        let number = match (version, said_version) {
            (Some(wanted), Some(said)) if wanted != said => {
                return Err(StoreFault::Corrupt(format!(
                    "the engine answered version {said} of {path} where {wanted} was asked for"
                )));
            }
            (Some(wanted), _) => wanted,
            // What was read before a change of ours is not what is there now.
            (None, None) if known_epoch != epoch => {
                let current = secret.current.unwrap_or(FIRST);
                return Err(StoreFault::Replaced(path.clone(), current));
            }
            (None, None) => self.number_content(order, path, &secret, &fields, &names)?,
            (None, Some(said)) => said,
        };
        if version.is_some() && !is_exact {
            readable(&secret, number)?;
            let said = merge::description_of(&secret);
            let asked = self.memory.read().get(path).map_or(0, |entry| entry.asked);
            let news = News {
                asked,
                said: Some(said),
                describer: None,
                learned: Some((number, &names)),
                is_numbered: true,
            };
            self.learn(order, path, news)?;
        }
        {
            let memory = self.memory.read();
            let entry = memory.get(path).ok_or_else(|| StoreFault::NoSecret(path.clone()))?;
            readable(&entry.secret, number)?;
        }
        let held = Held {
            login: login.clone(),
            version: number,
            fields: fields.iter().map(|(name, value)| (name.clone(), value.shared())).collect(),
            vouched_us,
            is_left: false,
            request_id: request_id.clone(),
            used_us: AtomicI64::new(self.now_us()),
        };
        self.note_in_cache(|cache, mark| cache.note_value(mark, path, &held));
        self.memory.write().keep(path, held, self.options.value_cache_bytes_max);
        Ok(Arc::new(Read { version: number, fields, request_id }))
    }

    /// Numbers what an engine that numbers nothing holds: another content is another version.
    fn number_content(
        &self,
        order: &Order<'_>,
        path: &SecretPath,
        secret: &Secret,
        fields: &[(crate::model::FieldName, crate::model::SecretBytes)],
        names: &Fields,
    ) -> Result<Version, StoreFault> {
        let print = self.numbers.read().fingerprint(path, fields)?;
        let now = (self.options.clocks.wall)();
        let content = match self.numbers.read().content(path) {
            None => Content { current: (FIRST, now), fingerprint: Some(print), previous: None },
            Some(known) if known.fingerprint.is_none_or(|known| known == print) => {
                Content { fingerprint: Some(print), ..known }
            }
            Some(known) => Content {
                current: (next_number(known.current.0)?, now),
                fingerprint: Some(print),
                previous: Some(known.current),
            },
        };
        self.numbers.write().set_content(path, content)?;
        let said = merge::numbered(&content, &merge::description_of(secret));
        let number = content.current.0;
        let news = News {
            asked: self.next_asked(),
            said: Some(said),
            describer: None,
            learned: Some((number, names)),
            is_numbered: false,
        };
        let learned = self.learn(order, path, news)?;
        self.tell(order, learned, Some(number));
        Ok(number)
    }

    /// Takes in that the engine gave no values: a no to this login drops what it was given, and what is gone is gone for
    /// all.
    pub(super) fn hear_fault(
        &self,
        login: &Login,
        path: &SecretPath,
        version: Option<Version>,
        fault: &StoreFault,
    ) {
        let _order = self.order.lock();
        let (login, version) = match Saying::of(fault) {
            Saying::Silent => return,
            Saying::Refused => (Some(login), None),
            Saying::Gone => match fault.bare() {
                StoreFault::NoSecret(_) | StoreFault::SecretDeleted(_) => (None, None),
                _ => (None, version),
            },
        };
        {
            let mut memory = self.memory.write();
            memory.drop_where(path, |held| {
                login.is_none_or(|login| *login == held.login)
                    && version.is_none_or(|version| version == held.version)
            });
        }
        self.drops.fetch_add(1, Ordering::SeqCst);
        self.note_in_cache(|cache, mark| cache.note_dropped(mark, login, path, version));
    }

    /// Forgets everything that a login was given.
    pub(super) fn forget_login(&self, login: &Login) {
        let _order = self.order.lock();
        let mut memory = self.memory.write();
        let all: Vec<SecretPath> = memory.secrets.keys().cloned().collect();
        let mut from = Vec::new();
        for path in all {
            if memory.drop_where(&path, |held| held.login == *login) > 0 {
                from.push(path);
            }
        }
        drop(memory);
        self.drops.fetch_add(1, Ordering::SeqCst);
        self.note_in_cache(|cache, mark| {
            from.iter().for_each(|path| cache.note_dropped(mark, Some(login), path, None));
        });
    }

    pub(super) fn note_in_cache(
        &self,
        note: impl FnOnce(&mut super::cache_file::Cache, &super::clocks::Mark),
    ) {
        if let Some(cache) = &self.cache {
            note(&mut cache.lock(), &self.options.clocks.mark());
        }
    }
}

const FIRST: Version = match Version::new(1) {
    Some(version) => version,
    None => unreachable!(),
};

pub(super) fn next_number(number: Version) -> Result<Version, StoreFault> {
    number.get().checked_add(1).and_then(Version::new).ok_or(StoreFault::TooLarge {
        what: "the number of contents of one path",
        limit: "4294967295",
        remedy: "use another path",
    })
}

impl Remote {
    /// Reads a version that is about to become known, so that its fields are known with it. That it cannot be read is no
    /// reason not to show it.
    pub(super) async fn learn_ahead(
        &self,
        path: &SecretPath,
        reader: &Login,
        new: Version,
        (asked, said): (u64, &Description),
    ) {
        let asked_us = self.now_us();
        let read = self.ask(self.source.read(reader, path, Some(new))).await;
        let Ok(crate::store::Answer { content, request_id }) = read else { return };
        let names: Fields =
            content.fields.iter().map(|(name, value)| (name.clone(), Some(value.len() as u64))).collect();
        let order = self.order.lock();
        let news = News {
            asked,
            said: Some(said.clone()),
            describer: None,
            learned: Some((new, &names)),
            is_numbered: true,
        };
        let learned = match self.learn(&order, path, news) {
            Ok(learned) => learned,
            Err(fault) => return tracing::debug!(%fault, "a version that was read ahead is not kept"),
        };
        let request_id = request_id.map(Arc::from);
        let whose = (reader, path, Some(new));
        if let Err(fault) = self.take_in_order(&order, whose, 0, asked_us, content, request_id) {
            tracing::debug!(%fault, "a version that was read ahead is not kept");
        }
        self.tell(&order, learned, Some(new));
    }
}
