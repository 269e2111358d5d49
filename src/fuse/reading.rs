//! Opening and reading: the two requests whose replies lie where a clock can answer them.

use std::sync::Arc;

use fuser::{FileHandle, FopenFlags, INodeNo};

use crate::access::Refusal;
use crate::caller::Asker;
use crate::tree::{Bytes, Inode, OpenFile, Opened, Reading, Tree};

use super::adapter::Adapter;
use super::errno;
use super::pending::{Owed, Slot};

/// Where a read begins and how much it wants.
#[derive(Clone, Copy)]
pub(super) struct ReadAt {
    pub(super) inode: Inode,
    pub(super) handle: u64,
    pub(super) offset: u64,
    pub(super) size_bytes: u32,
    /// Whether the kernel keeps the bytes: it asks for pages, and not for a read(2).
    pub(super) is_kept: bool,
}

impl Adapter {
    pub(super) fn begin_open(&self, asker: Asker, inode: Inode, slot: &Arc<Slot>) {
        let opened = match self.identify(asker) {
            Ok(caller) => self.tree.open(&caller, inode),
            Err(refusal) => OpenFile::Done(Err(refusal)),
        };
        match opened {
            OpenFile::Done(answer) => answer_open(&self.tree, slot, answer),
            OpenFile::Waiting(fetching) => {
                let Some(slot) = self.watch.hand_on(slot) else { return };
                let (tree, watch) = (Arc::clone(&self.tree), Arc::clone(&self.watch));
                self.runtime.spawn(async move {
                    let answer = fetching.await;
                    answer_open(&tree, &slot, answer);
                    watch.finished(&slot);
                });
            }
        }
    }

    /// Answers a read; what the kernel keeps of it, where it keeps any, is taken back soon.
    fn answer_bytes(&self, at: ReadAt, bytes: &Bytes, slot: &Slot) {
        let pages = self.pages.get().filter(|_| at.is_kept);
        if let Some(pages) = pages {
            pages.filling(INodeNo(at.inode.0));
        }
        answer_read(slot, Ok(bytes.part(at.offset, at.size_bytes)));
        if let Some(pages) = pages {
            pages.filled(INodeNo(at.inode.0));
        }
    }

    pub(super) fn begin_read(self: &Arc<Self>, asker: Asker, at: ReadAt, slot: &Arc<Slot>) {
        let reading = match self.identify(asker) {
            Ok(caller) => self.tree.read(&caller, at.inode, at.handle),
            Err(refusal) => Reading::Refused(refusal),
        };
        match reading {
            Reading::Ready(bytes) => self.answer_bytes(at, &bytes, slot),
            Reading::Refused(refusal) => answer_read(slot, Err(refusal)),
            Reading::Waiting(fetching) => {
                let Some(slot) = self.watch.hand_on(slot) else { return };
                let (this, watch) = (Arc::clone(self), Arc::clone(&self.watch));
                self.runtime.spawn(async move {
                    match fetching.await {
                        Ok(bytes) => this.answer_bytes(at, &bytes, &slot),
                        Err(refusal) => answer_read(&slot, Err(refusal)),
                    }
                    watch.finished(&slot);
                });
            }
        }
    }
}

fn answer_open(tree: &Tree, slot: &Slot, answer: Result<Opened, Refusal>) {
    tracing::trace!(
        errno = answer.as_ref().err().map(|refusal| errno::of_path(*refusal).code()),
        "open answered"
    );
    match (slot.take(), answer) {
        (Some(Owed::Open(reply)), Ok(opened)) => {
            reply.opened(FileHandle(opened.handle), FopenFlags::FOPEN_DIRECT_IO | FopenFlags::FOPEN_NOFLUSH);
        }
        (Some(Owed::Open(reply)), Err(refusal)) => reply.error(errno::of_path(refusal)),
        // The clock has answered: nobody will close this handle.
        (_, Ok(opened)) => tree.close(opened.handle),
        (_, Err(_)) => {}
    }
}

fn answer_read(slot: &Slot, answer: Result<&[u8], Refusal>) {
    tracing::trace!(
        bytes = answer.as_ref().ok().map(|bytes| bytes.len()),
        errno = answer.as_ref().err().map(|refusal| errno::of_handle(*refusal).code()),
        "read answered"
    );
    if let Some(Owed::Read(reply)) = slot.take() {
        match answer {
            Ok(bytes) => reply.data(bytes),
            Err(refusal) => reply.error(errno::of_handle(refusal)),
        }
    }
}
