//! Which names there are: folders are listed one after another, and what a listing shows is known by its name.

use super::Remote;
use super::held::{DEPTH_MAX, Entry, sighted, within};
use super::verdict::Saying;
use crate::model::SecretPath;
use crate::store::{Child, Login, StoreFault};

impl Remote {
    pub(super) async fn list_deep(&self, folder: &str) {
        // What the listing finds below goes to the end of the queue.
        let listed = self.list_now(&Login::machine(), folder).await;
        match listed {
            Ok(below) if folder.matches('/').count() < DEPTH_MAX => self.folders.lock().extend(below),
            Ok(_) => {}
            Err(fault) => tracing::debug!(store = &*self.name, folder, %fault, "not listed"),
        }
    }

    /// Lists a folder, and those in it, until something new is known below it or there is nothing more to list. A folder
    /// in it that may not be listed has nothing to show.
    pub(super) async fn look_below(&self, login: &Login, folder: &str) -> Result<(), StoreFault> {
        let below = within(folder);
        let count = || self.memory.read().beginning_with(&below).count();
        let known = count();
        let mut since_us = self.absent_since_us();
        loop {
            let Some(next) = self.memory.read().unlisted(folder, since_us) else { return Ok(()) };
            match self.list(login, &next).await {
                Err(fault) if *next != *folder && Saying::of(&fault) == Saying::Refused => {
                    self.memory.write().note_listed(&next, &[], self.now_us());
                }
                listed => listed?,
            }
            if count() > known {
                return Ok(());
            }
            // One that took long is not begun again.
            since_us = i64::MIN;
        }
    }

    /// Lists one folder, or waits for whoever lists it already.
    pub(super) async fn list(&self, login: &Login, folder: &str) -> Result<(), StoreFault> {
        let listing = async {
            match self.list_now(&Login::machine(), folder).await {
                Err(fault) if Saying::of(&fault) == Saying::Refused && *login != Login::machine() => {
                    self.list_now(login, folder).await.map(drop)
                }
                Err(fault) if Saying::of(&fault) == Saying::Gone => Ok(()),
                listed => listed.map(drop),
            }
        };
        self.listings.join(folder.into(), listing).await
    }

    /// Lists one folder; returns the folders in it.
    async fn list_now(&self, login: &Login, folder: &str) -> Result<Vec<Box<str>>, StoreFault> {
        let asked = self.next_asked();
        let children = match self.ask(self.source.list(login, folder)).await {
            Ok(answer) => answer.content,
            Err(fault) if Saying::of(&fault) == Saying::Gone => Vec::new(),
            Err(fault) => return Err(fault),
        };
        Ok(self.hear_listing(folder, asked, children))
    }

    fn hear_listing(&self, folder: &str, asked: u64, children: Vec<Child>) -> Vec<Box<str>> {
        let _order = self.order.lock();
        let join = |name: &str| if folder.is_empty() { name.to_owned() } else { format!("{folder}/{name}") };
        let mut folders = Vec::new();
        let mut names = std::collections::BTreeSet::new();
        for child in children {
            let path = join(&child.name);
            if child.is_folder {
                folders.push(path.into_boxed_str());
            } else if let Ok(path) = SecretPath::from_store(&path) {
                names.insert(path);
            } else {
                tracing::debug!(store = &*self.name, folder, "a name that no path can have is left out");
            }
        }
        let mut memory = self.memory.write();
        memory.note_listed(folder, &folders, self.now_us());
        // What is listed no more, and was known by its name alone, is not there; of more the engine is asked.
        let below = within(folder);
        let missing: Vec<SecretPath> = memory
            .beginning_with(&below)
            .filter(|(path, entry)| {
                !path.as_str()[below.len()..].contains('/') && !names.contains(*path) && entry.asked < asked
            })
            .map(|(path, _)| path.clone())
            .collect();
        for path in missing {
            if memory.get(&path).is_some_and(|entry| !entry.is_described) {
                memory.secrets.remove(&path);
            } else if let Some(entry) = memory.secrets.get_mut(&path) {
                entry.polled_us = i64::MIN;
            }
        }
        for path in names {
            if memory.get(&path).is_none() && !memory.removed_after(&path, asked) {
                memory.secrets.insert(path.clone(), Entry::of(sighted(path)));
            }
        }
        folders
    }

    /// Asks again about one secret, or about all.
    pub(super) async fn ask_again(
        &self,
        login: &Login,
        path: Option<&SecretPath>,
    ) -> Result<usize, StoreFault> {
        if self.breaker.is_open() {
            self.probe_once().await;
        }
        if let Some(path) = path {
            self.describe(login, path, false).await?;
            return Ok(usize::from(self.memory.read().get(path).is_some()));
        }
        let mut folders = vec![Box::<str>::from("")];
        while let Some(folder) = folders.pop() {
            match self.list_now(login, &folder).await {
                Ok(below) if folder.matches('/').count() < DEPTH_MAX => folders.extend(below),
                Ok(_) => {}
                // Names that the machine may not list are known by being asked for.
                Err(fault) if Saying::of(&fault) == Saying::Refused => {}
                Err(fault) => return Err(fault),
            }
        }
        let described: Vec<SecretPath> = {
            let memory = self.memory.read();
            let known = memory.secrets.iter().filter(|(_, entry)| entry.is_described);
            known.map(|(path, _)| path.clone()).collect()
        };
        for path in described {
            match self.describe(login, &path, false).await {
                Err(fault) if Saying::of(&fault) == Saying::Silent => return Err(fault),
                _ => {}
            }
        }
        Ok(self.memory.read().secrets.len())
    }
}
