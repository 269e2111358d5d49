//! What a worker leaves to its successor, sealed: at every hand-over, and once a second while files are opened and closed,
//! for a successor that comes without one.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use zeroize::Zeroizing;

use crate::control::CommandFault;
use crate::keeper::Link;
use crate::store::{Envelope, Remote, Store as _};
use crate::tree::Tree;

/// How often what is open is left anew, and how often the keeper hears of us.
const EVERY: Duration = Duration::from_millis(500);

/// How often what remote stores remember is left anew while it changes. What was dropped is left out at once.
const MEMORY_EVERY: Duration = Duration::from_secs(5);
/// Begins what is left where remote stores have a part in it: then comes each part with its length, the tree's first, the
/// others with the names of their stores before them.
const PARTS: &[u8; 8] = b"credfsP1";

/// Seals what is left, and opens what the worker before left.
pub(super) struct Leaving {
    envelope: Arc<Envelope>,
    remotes: Vec<Arc<Remote>>,
}

/// A thread that leaves what is open and says that we live. It ends when this is dropped.
pub(super) struct Upkeep {
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Leaving {
    /// With the key beside the audit log, made where there is none.
    pub(super) fn at(audit_log: &Path, remotes: Vec<Arc<Remote>>) -> Result<Self, CommandFault> {
        let mut path = OsString::from(audit_log);
        path.push(".successor-key");
        Ok(Self { envelope: Arc::new(Envelope::open_key(&PathBuf::from(path))?), remotes })
    }

    /// Goes on with what the worker before left. What cannot be read is found out anew from the store and the log.
    pub(super) fn take_over(&self, tree: &Tree, left: &[u8]) {
        let taken = self.envelope.open(left, |plain| {
            let (of_tree, of_stores) = parts(plain);
            for (name, part) in of_stores {
                let remote = self.remotes.iter().find(|remote| remote.name().as_bytes() == name);
                if let Some(Err(fault)) = remote.map(|remote| remote.take_over(part)) {
                    tracing::warn!(%fault, "what was remembered is asked for anew");
                }
            }
            tree.take_over(of_tree)
        });
        match taken {
            Some(Ok(())) => tracing::debug!("goes on with what was left"),
            Some(Err(fault)) => tracing::warn!(%fault, "open files are found out anew"),
            None => {
                tracing::warn!("what the worker before left does not open: open files are found out anew")
            }
        }
    }

    /// Leaves open files, what inode numbers stand for, and what remote stores remember.
    pub(super) fn leave_everything(&self, tree: &Tree, link: &Link) {
        leave(&self.envelope, &self.remotes, tree, link, true);
    }

    /// Leaves what is open whenever that has changed, and says that we live.
    pub(super) fn keep_leaving(&self, tree: &Arc<Tree>, link: &Arc<Link>) -> std::io::Result<Upkeep> {
        let (stop, stopped) = channel();
        let (envelope, tree, link) = (Arc::clone(&self.envelope), Arc::clone(tree), Arc::clone(link));
        let remotes = self.remotes.clone();
        let thread = std::thread::Builder::new().name("leaving".into()).spawn(move || {
            let mut seen = (tree.changes(), memory_of(&remotes));
            let mut left_at = Instant::now();
            while stopped.recv_timeout(EVERY) == Err(RecvTimeoutError::Timeout) {
                if let Err(error) = link.beat() {
                    tracing::debug!(%error, "the keeper does not hear us");
                }
                let now = (tree.changes(), memory_of(&remotes));
                let (remembers_more, has_dropped) = (now.1.0 != seen.1.0, now.1.1 != seen.1.1);
                let is_due =
                    now.0 != seen.0 || has_dropped || (remembers_more && left_at.elapsed() >= MEMORY_EVERY);
                if is_due {
                    leave(&envelope, &remotes, &tree, &link, false);
                    (seen, left_at) = (now, Instant::now());
                }
            }
        })?;
        Ok(Upkeep { stop: Some(stop), thread: Some(thread) })
    }
}

/// How often remote stores have learnt and dropped something.
fn memory_of(remotes: &[Arc<Remote>]) -> (u64, u64) {
    remotes.iter().map(|remote| remote.changes()).fold((0, 0), |all, one| (all.0 + one.0, all.1 + one.1))
}

/// What is left of the tree and of each remote store, in one piece.
fn together(remotes: &[Arc<Remote>], of_tree: Zeroizing<Vec<u8>>) -> Zeroizing<Vec<u8>> {
    if remotes.is_empty() {
        return of_tree;
    }
    let of_stores: Vec<_> = remotes.iter().map(|remote| (remote.name(), remote.leave())).collect();
    let length = of_stores.iter().map(|(name, part)| name.len() + part.len() + 8).sum::<usize>();
    let mut all = Zeroizing::new(Vec::with_capacity(PARTS.len() + of_tree.len() + length + 8));
    all.extend_from_slice(PARTS);
    let mut add = |part: &[u8]| {
        all.extend_from_slice(&u32::try_from(part.len()).unwrap_or(0).to_le_bytes());
        all.extend_from_slice(part);
    };
    add(&of_tree);
    for (name, part) in &of_stores {
        add(name.as_bytes());
        add(part);
    }
    all
}

/// Takes apart what [`together`] made; what was left without remote stores is the tree's alone.
fn parts(plain: &[u8]) -> (&[u8], Vec<(&[u8], &[u8])>) {
    let Some(mut rest) = plain.strip_prefix(PARTS) else { return (plain, Vec::new()) };
    let mut next = || -> Option<&[u8]> {
        let (length, after) = rest.split_first_chunk()?;
        let (part, after) = after.split_at_checked(usize::try_from(u32::from_le_bytes(*length)).ok()?)?;
        rest = after;
        Some(part)
    };
    let of_tree = next().unwrap_or_default();
    let mut of_stores = Vec::new();
    while let Some((name, part)) = next().and_then(|name| Some((name, next()?))) {
        of_stores.push((name, part));
    }
    (of_tree, of_stores)
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

fn leave(envelope: &Envelope, remotes: &[Arc<Remote>], tree: &Tree, link: &Link, with_names: bool) {
    let sealed = envelope.seal(&together(remotes, tree.leave(with_names)));
    let done = sealed.map_err(std::io::Error::other).and_then(|sealed| link.leave(&sealed));
    if let Err(error) = done {
        tracing::warn!(%error, "open files could not be left: a successor finds them out anew");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_taken_apart_as_they_were_put_together_and_a_cut_one_is_no_panic() {
        assert_eq!(parts(b"credfsL1x"), (&b"credfsL1x"[..], Vec::new()));
        let mut all = PARTS.to_vec();
        for part in [&b"tree"[..], b"central", b"memory"] {
            all.extend(u32::try_from(part.len()).unwrap().to_le_bytes());
            all.extend(part);
        }
        assert_eq!(parts(&all), (&b"tree"[..], vec![(&b"central"[..], &b"memory"[..])]));
        for cut in 8..all.len() {
            assert!(parts(&all[..cut]).1.is_empty());
        }
    }
}
