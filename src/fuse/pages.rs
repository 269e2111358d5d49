//! Takes back what the kernel keeps of a file's bytes.
//!
//! A read(2) of a direct-I/O file passes the kernel's page cache by. A page fault of a mapping does not, and neither do
//! sendfile(2) and splice(2) (from Linux 6.5, `filemap_splice_read`): they leave the pages with the *inode*, from where
//! the kernel would hand them to whoever holds a descriptor, another process to which it was passed, a reader whose
//! grant has gone or of a version that was revoked, without asking us: no decision and no record. The kernel says which
//! requests are of that kind, by leaving out the owner of locks that every read(2) names (`fuse_send_read` in
//! `fs/fuse/file.c`). So a moment after each of them its inode's pages are dropped, also those that are mapped; whoever
//! touches them again has the kernel ask again.
//!
//! A process that is killed within that moment drops nothing. So each inode is marked, before its pages are handed over,
//! in a file that outlives the process, and the next one drops what it finds marked there.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use fuser::{INodeNo, Notifier};
use parking_lot::Mutex;

/// How long pages stay: long enough that whoever asked for them finds them, since one that is gone before it was looked
/// at is asked for again.
const STAY: Duration = Duration::from_millis(2);
/// So many inodes can be marked at once. Those of one moment are few.
const MARKS_MAX: usize = 4096;
const MARK_BYTES: usize = size_of::<u64>();
/// Length of the file of marks, in bytes.
pub const MARKS_BYTES: usize = MARKS_MAX * MARK_BYTES;

/// Notes which inodes have pages in the kernel. The thread behind it ends when the last one is dropped.
pub(super) struct Pages {
    filled: Sender<u64>,
    marks: Arc<Marks>,
}

impl Pages {
    /// Starts the thread, which is apart from those that answer requests: dropping a page that is just being read
    /// waits for the answer to that read. It begins with what the process before us had marked in `marks`.
    pub(super) fn start(notifier: Notifier, marks: File) -> std::io::Result<Self> {
        let (filled, noted) = channel();
        let left = left_marked(&marks)?;
        marks.write_all_at(&[0; MARKS_BYTES], 0)?;
        let marks = Arc::new(Marks::new(marks));
        for inode in left {
            marks.add(inode);
            // The thread is not there yet, and so cannot be gone.
            let _ = filled.send(inode);
        }
        let its_marks = Arc::clone(&marks);
        std::thread::Builder::new()
            .name("pages".into())
            .spawn(move || drop_noted(&noted, &notifier, &its_marks))?;
        Ok(Self { filled, marks })
    }

    /// Says that pages of `inode` are about to be handed over: [`Self::filled`] follows.
    pub(super) fn filling(&self, inode: INodeNo) {
        self.marks.add(inode.0);
    }

    /// Has the pages of `inode` dropped, which the kernel has just been given.
    pub(super) fn filled(&self, inode: INodeNo) {
        // Without its thread the session is at its end, and the pages with it.
        let _ = self.filled.send(inode.0);
    }
}

fn drop_noted(noted: &Receiver<u64>, notifier: &Notifier, marks: &Marks) {
    while let Ok(first) = noted.recv() {
        std::thread::sleep(STAY);
        let mut inodes = BTreeMap::new();
        for inode in noted.try_iter().chain([first]) {
            *inodes.entry(inode).or_insert(0) += 1;
        }
        for (inode, times) in inodes {
            // From the first byte to the last.
            if let Err(error) = notifier.inval_inode(INodeNo(inode), 0, 0) {
                tracing::debug!(inode, %error, "pages could not be taken back");
            }
            marks.take_back(inode, times);
        }
    }
}

/// The file of marks: an inode in each place that is not zero.
struct Marks {
    file: File,
    /// Guards which inode is marked where, and which places are free.
    held: Mutex<Held>,
}

struct Held {
    /// The place of an inode, and how many times it was marked.
    places: HashMap<u64, (usize, u64)>,
    free: Vec<usize>,
}

impl Marks {
    fn new(file: File) -> Self {
        Self { file, held: Mutex::new(Held { places: HashMap::new(), free: (0..MARKS_MAX).rev().collect() }) }
    }

    fn add(&self, inode: u64) {
        let mut held = self.held.lock();
        if let Some((_, times)) = held.places.get_mut(&inode) {
            *times += 1;
            return;
        }
        // Past so many only this process knows of them.
        let Some(place) = held.free.pop() else { return };
        held.places.insert(inode, (place, 1));
        self.write(place, inode);
    }

    fn take_back(&self, inode: u64, count: u64) {
        let mut held = self.held.lock();
        let Some((place, times)) = held.places.get_mut(&inode) else { return };
        *times = times.saturating_sub(count);
        if *times == 0 {
            let place = *place;
            held.places.remove(&inode);
            held.free.push(place);
            self.write(place, 0);
        }
    }

    fn write(&self, place: usize, inode: u64) {
        if let Err(error) = self.file.write_all_at(&inode.to_ne_bytes(), (place * MARK_BYTES) as u64) {
            tracing::debug!(inode, %error, "pages could not be marked");
        }
    }
}

/// What the process before us had marked and not taken back.
fn left_marked(file: &File) -> std::io::Result<BTreeSet<u64>> {
    let mut bytes = vec![0; MARKS_BYTES];
    file.read_exact_at(&mut bytes, 0)?;
    let (marks, _) = bytes.as_chunks();
    Ok(marks.iter().map(|mark| u64::from_ne_bytes(*mark)).filter(|inode| *inode != 0).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::memory_file;

    #[test]
    fn an_inode_stays_marked_until_each_of_its_fillings_was_taken_back() {
        let marks = Marks::new(memory_file::fixed(c"credfs-test", MARKS_BYTES).unwrap().into());
        let marked = || left_marked(&marks.file).unwrap().into_iter().collect::<Vec<_>>();
        for inode in [7, u64::MAX, 7] {
            marks.add(inode);
        }
        marks.take_back(7, 1);
        assert_eq!(marked(), [7, u64::MAX]);
        marks.take_back(7, 1);
        marks.take_back(8, 1);
        assert_eq!(marked(), [u64::MAX]);
        for inode in 1..=MARKS_MAX as u64 + 5 {
            marks.add(inode);
        }
        assert_eq!(marked().len(), MARKS_MAX, "more than there is place for are not marked");
        for inode in 1..=MARKS_MAX as u64 + 5 {
            marks.take_back(inode, 1);
        }
        assert_eq!(marked(), [u64::MAX]);
    }
}
