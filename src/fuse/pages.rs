//! Takes back what the kernel keeps of a file's bytes.
//!
//! A read(2) of a direct-I/O file passes the kernel's page cache by. A page fault of a mapping does not, and neither do
//! sendfile(2) and splice(2) (from Linux 6.5, `filemap_splice_read`): they leave the pages with the *inode*, from where
//! the kernel would hand them to whoever holds a descriptor, another process to which it was passed, a reader whose
//! grant has gone or of a version that was revoked, without asking us: no decision and no record. The kernel says which
//! requests are of that kind, by leaving out the owner of locks that every read(2) names (`fuse_send_read` in
//! `fs/fuse/file.c`). So a moment after each of them its inode's pages are dropped, also those that are mapped; whoever
//! touches them again has the kernel ask again.

use std::collections::BTreeSet;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use fuser::{INodeNo, Notifier};

/// How long pages stay: long enough that whoever asked for them finds them, since one that is gone before it was looked
/// at is asked for again.
const STAY: Duration = Duration::from_millis(2);

/// Notes which inodes have pages in the kernel. The thread behind it ends when the last one is dropped.
pub(super) struct Pages(Sender<u64>);

impl Pages {
    /// Starts the thread, which is apart from those that answer requests: dropping a page that is just being read
    /// waits for the answer to that read.
    pub(super) fn start(notifier: Notifier) -> std::io::Result<Self> {
        let (filled, noted) = channel();
        std::thread::Builder::new().name("pages".into()).spawn(move || drop_noted(&noted, &notifier))?;
        Ok(Self(filled))
    }

    /// Has the pages of `inode` dropped, which the kernel has just been given.
    pub(super) fn filled(&self, inode: INodeNo) {
        // Without its thread the session is at its end, and the pages with it.
        let _ = self.0.send(inode.0);
    }
}

fn drop_noted(noted: &Receiver<u64>, notifier: &Notifier) {
    while let Ok(first) = noted.recv() {
        std::thread::sleep(STAY);
        let inodes: BTreeSet<u64> = noted.try_iter().chain([first]).collect();
        for inode in inodes {
            // From the first byte to the last.
            if let Err(error) = notifier.inval_inode(INodeNo(inode), 0, 0) {
                tracing::debug!(inode, %error, "pages could not be taken back");
            }
        }
    }
}
