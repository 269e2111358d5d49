//! What a worker leaves to its successor, sealed: at every hand-over, and once a second while files are opened and closed,
//! for a successor that comes without one.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::control::CommandFault;
use crate::keeper::Link;
use crate::store::Envelope;
use crate::tree::Tree;

/// How often what is open is left anew, and how often the keeper hears of us.
const EVERY: Duration = Duration::from_millis(500);

/// Seals what is left, and opens what the worker before left.
pub(super) struct Leaving {
    envelope: Arc<Envelope>,
}

/// A thread that leaves what is open and says that we live. It ends when this is dropped.
pub(super) struct Upkeep {
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Leaving {
    /// With the key beside the audit log, made where there is none.
    pub(super) fn at(audit_log: &Path) -> Result<Self, CommandFault> {
        let mut path = OsString::from(audit_log);
        path.push(".successor-key");
        Ok(Self { envelope: Arc::new(Envelope::open_key(&PathBuf::from(path))?) })
    }

    /// Goes on with what the worker before left. What cannot be read is found out anew from the store and the log.
    pub(super) fn take_over(&self, tree: &Tree, left: &[u8]) {
        match self.envelope.open(left, |plain| tree.take_over(plain)) {
            Some(Ok(())) => tracing::debug!("goes on with what was left"),
            Some(Err(fault)) => tracing::warn!(%fault, "open files are found out anew"),
            None => {
                tracing::warn!("what the worker before left does not open: open files are found out anew")
            }
        }
    }

    /// Leaves open files and what inode numbers stand for.
    pub(super) fn leave_everything(&self, tree: &Tree, link: &Link) {
        leave(&self.envelope, tree, link, true);
    }

    /// Leaves what is open whenever that has changed, and says that we live.
    pub(super) fn keep_leaving(&self, tree: &Arc<Tree>, link: &Arc<Link>) -> std::io::Result<Upkeep> {
        let (stop, stopped) = channel();
        let (envelope, tree, link) = (Arc::clone(&self.envelope), Arc::clone(tree), Arc::clone(link));
        let thread = std::thread::Builder::new().name("leaving".into()).spawn(move || {
            let mut seen = tree.changes();
            while stopped.recv_timeout(EVERY) == Err(RecvTimeoutError::Timeout) {
                if let Err(error) = link.beat() {
                    tracing::debug!(%error, "the keeper does not hear us");
                }
                let changes = tree.changes();
                if changes != seen {
                    leave(&envelope, &tree, &link, false);
                    seen = changes;
                }
            }
        })?;
        Ok(Upkeep { stop: Some(stop), thread: Some(thread) })
    }
}

impl Drop for Upkeep {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the thread that leaves what is open had failed");
        }
    }
}

fn leave(envelope: &Envelope, tree: &Tree, link: &Link, with_names: bool) {
    let sealed = envelope.seal(&tree.leave(with_names));
    let done = sealed.map_err(std::io::Error::other).and_then(|sealed| link.leave(&sealed));
    if let Err(error) = done {
        tracing::warn!(%error, "open files could not be left: a successor finds them out anew");
    }
}
