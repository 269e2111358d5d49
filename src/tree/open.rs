//! Opening, reading and closing files.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use crate::access::{Opening, Reader, Refusal, Target};
use crate::caller::{Caller, Witness};
use crate::model::{Operation, Outcome, Reason, Stage, StageSet, Standing, State};

use super::Tree;
use super::attributes::shown_path;
use super::handles::Handle;
use super::inode::Inode;
use super::node::{FieldPlace, Node};

/// How much later than its decision an open may be answered: more than any deadline of a request.
const OPENING_MAX: Duration = Duration::from_secs(10);

/// What an open gives the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Opened {
    /// The number of the handle.
    pub handle: u64,
}

/// An open under way.
pub enum OpenFile {
    /// Answered.
    Done(Result<Opened, Refusal>),
    /// Its store is being asked: to be run elsewhere, within the request's deadline.
    Waiting(Pin<Box<dyn Future<Output = Result<Opened, Refusal>> + Send>>),
}

/// A read under way.
pub enum Reading {
    /// The bytes of the whole file; the caller of this cuts out what was asked for.
    Ready(Bytes),
    /// Nothing.
    Refused(Refusal),
    /// A handle of the process before us: its store is being asked again.
    Waiting(Pin<Box<dyn Future<Output = Result<Bytes, Refusal>> + Send>>),
}

/// The bytes of an open file.
pub struct Bytes(Arc<Handle>);

impl Bytes {
    /// At most `size_bytes` from `offset`; empty at or past the end.
    #[must_use]
    pub fn part(&self, offset: u64, size_bytes: u32) -> &[u8] {
        let bytes = self.0.released.bytes();
        let from = usize::try_from(offset).unwrap_or(usize::MAX).min(bytes.len());
        let to = from.saturating_add(size_bytes as usize).min(bytes.len());
        &bytes[from..to]
    }
}

impl Tree {
    /// Opens the file `inode` for `caller`: decided, fetched and recorded before it is answered.
    #[must_use]
    pub fn open(self: &Arc<Self>, caller: &Caller<'_>, inode: Inode) -> OpenFile {
        let place = match self.resolve(inode) {
            Ok(Node::Field(place) | Node::View(_, place)) => place,
            Ok(node) => {
                let refusal = Refusal::new(Outcome::Hidden, Reason::NotFound);
                return OpenFile::Done(Err(self.refuse(
                    caller,
                    Operation::Open,
                    &shown_path(&node),
                    refusal,
                )));
            }
            Err(refusal) => return OpenFile::Done(Err(refusal)),
        };
        let target = self.target(caller, &place);
        if self.counts().handles >= self.options.handles_max {
            let refusal = Refusal::new(Outcome::OverLimit, Reason::InFlight);
            return OpenFile::Done(Err(self.gate().refuse_open(caller, &target, refusal)));
        }
        let opener = caller.witness();
        match self.gate().open(caller, target, Reader::Opener) {
            Opening::Refused(refusal) => OpenFile::Done(Err(refusal)),
            Opening::Released(released) => OpenFile::Done(self.keep(place, released, opener)),
            Opening::Waiting(fetching) => {
                let tree = Arc::clone(self);
                OpenFile::Waiting(Box::pin(async move { tree.keep(place, fetching.await?, opener) }))
            }
        }
    }

    fn keep(
        &self,
        place: FieldPlace,
        released: crate::access::Released,
        opener: Witness,
    ) -> Result<Opened, Refusal> {
        let standing = Standing { held: self.stages_at_opening(released.standing()), lost: None };
        let (secret, version) = (place.secret.clone(), place.version);
        let handle = self.handles.keep(Handle::new(place, standing, released, Some(opener)));
        tracing::trace!(secret = secret.as_str(), %version, handle, "opened");
        // A revocation between the fetch and this line found no handle to refuse.
        if self.is_revoked(&secret, version) {
            self.handles.revoke(&secret, version);
        }
        Ok(Opened { handle })
    }

    /// The stages by which a version could just be opened: those it held, and those it had lost so lately that
    /// readers were still let finish. A handle does not expire, so they stay its stages.
    fn stages_at_opening(&self, standing: Standing) -> StageSet {
        let hold = self.gate().policy().retire_after() + OPENING_MAX;
        match standing.lost {
            Some((when, lost)) if self.gate().now() < when.plus(hold) => standing.held.union(lost),
            _ => standing.held,
        }
    }

    pub(super) fn is_revoked(
        &self,
        secret: &crate::model::SecretPath,
        version: crate::model::Version,
    ) -> bool {
        let known = self.gate().places().known(secret);
        known.is_some_and(|secret| {
            secret.version(version).is_some_and(|version| version.state == State::Revoked)
        })
    }

    /// Reads from an open file. The reader is authorised by the policy in force now, with facts read now; one who is
    /// not the opener is recorded once.
    #[must_use]
    pub fn read(self: &Arc<Self>, caller: &Caller<'_>, inode: Inode, handle: u64) -> Reading {
        let known = self.handles.get(handle).or_else(|| self.open_left(handle));
        let Some(open) = known else { return self.reopen(caller, inode, handle) };
        if open.is_revoked() {
            return Reading::Refused(self.gate().refuse_read(
                caller,
                &self.target(caller, &open.place),
                handle,
                Refusal::new(Outcome::Revoked, Reason::Command),
            ));
        }
        let reader = caller.witness();
        let target = Target { standing: open.standing, ..self.target(caller, &open.place) };
        let answer = if open.is_recorded(reader) {
            self.gate().may_go_on_reading(caller, &target, handle)
        } else {
            let released = self.gate().release_to_another(caller, &target, handle, &open.released);
            released.map(|_receipt| open.recorded(reader))
        };
        match answer {
            Ok(()) => Reading::Ready(Bytes(open)),
            Err(refusal) => Reading::Refused(refusal),
        }
    }

    /// A handle that this process did not give out: its number is that of the record that released it. The reader
    /// is authorised and recorded anew, and the same version fetched again.
    fn reopen(self: &Arc<Self>, caller: &Caller<'_>, inode: Inode, handle: u64) -> Reading {
        let place = match self.resolve(inode) {
            Ok(Node::Field(place) | Node::View(_, place)) => place,
            Ok(_) => return Reading::Refused(Outcome::Failed.into()),
            Err(refusal) => return Reading::Refused(refusal),
        };
        let was_opened = self.gate().was_released(handle, &place.secret, place.version, &place.field);
        let Some(held) = was_opened else {
            return Reading::Refused(Refusal::new(Outcome::Revoked, Reason::NotFound));
        };
        // A version opened within its hold had no stage to record: it was opened by those that it had lost.
        let known = self.target(caller, &place);
        let lost = known.standing.lost.map_or(StageSet::EMPTY, |(_, lost)| lost);
        let standing = Standing { held: if held.is_empty() { lost } else { held }, lost: None };
        let target = Target { standing, ..known };
        let reader = caller.witness();
        let adopt = move |tree: &Self, released| {
            let adopted = Handle::new(place, standing, released, None);
            adopted.recorded(reader);
            tree.handles.adopt(handle, adopted)
        };
        match self.gate().open(caller, target, Reader::OfHandle(handle)) {
            Opening::Refused(refusal) => Reading::Refused(refusal),
            Opening::Released(released) => Reading::Ready(Bytes(adopt(self, released))),
            Opening::Waiting(fetching) => {
                let tree = Arc::clone(self);
                Reading::Waiting(Box::pin(async move {
                    let released = fetching.await?;
                    Ok(Bytes(adopt(&tree, released)))
                }))
            }
        }
    }

    /// Closes a handle.
    pub fn close(&self, handle: u64) {
        tracing::trace!(handle, "closed");
        self.handles.close(handle);
        self.left.lock().remove(&handle);
    }

    /// What is asked of the gate for a field.
    pub(super) fn target(&self, caller: &Caller<'_>, place: &FieldPlace) -> Target {
        let known = self.gate().known_to(&self.gate().policy(), caller, &place.secret);
        let version = known.as_ref().and_then(|secret| secret.version(place.version));
        let standing = match (&known, version) {
            (Some(secret), Some(version)) => secret.standing(version),
            _ => Standing::default(),
        };
        Target {
            secret: place.secret.clone(),
            version: place.version,
            field: place.field.clone(),
            stage: Stage::ALL.into_iter().find(|stage| standing.held.contains(*stage)),
            standing,
            state: version.map(|version| version.state),
            deleted: known.is_some_and(|secret| secret.deleted),
        }
    }
}
