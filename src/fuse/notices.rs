//! From a change in a store to what inotify's watchers see.

use std::path::PathBuf;
use std::sync::{Arc, Weak};

use crate::store::Changed;
use crate::tree::{News, Tree};

use super::notifier::{Command, Orders};

/// Tells watchers of every change, through the notifier's process.
pub(super) struct Notices {
    orders: Arc<dyn Orders>,
    tree: Weak<Tree>,
}

impl Notices {
    pub(super) fn start(tree: &Arc<Tree>, orders: Arc<dyn Orders>) -> Arc<Self> {
        let notices = Arc::new(Self { orders, tree: Arc::downgrade(tree) });
        for store in tree.gate().places().stores() {
            let telling = Arc::downgrade(&notices);
            store.watch(Box::new(move |changed| {
                if let Some(notices) = telling.upgrade() {
                    notices.tell(changed);
                }
            }));
        }
        notices
    }

    /// The process for which alone the notifier's names exist; `None` while none runs.
    pub(super) fn helper_pid(&self) -> Option<u32> {
        self.orders.helper_pid()
    }

    fn tell(&self, changed: &Changed) {
        let Some(news) = self.tree.upgrade().and_then(|tree| tree.news_of(changed)) else { return };
        for command in commands(news) {
            self.orders.order(command.into());
        }
    }
}

fn commands(news: News) -> impl Iterator<Item = Command> {
    let path = PathBuf::from(news.directory_path);
    let directory = news.directory;
    let swaps = news.links.into_iter().filter_map(move |stage| {
        let directory = directory?.0;
        Some(Command::Swap { path: path.clone(), directory, link: stage.as_str().to_owned() })
    });
    swaps.chain(news.files.into_iter().map(|inode| Command::Touch { inode: inode.0 }))
}
