//! Memory for secrets: locked against swap, left out of core dumps, empty in children, wiped when given back.
//!
//! Small blocks come from chunks cut into equal slots, so that a value costs no system call; larger ones get a
//! mapping of their own. Where locking is refused (RLIMIT_MEMLOCK) the memory is used unlocked and
//! [`unlocked_bytes`] says how much, for `doctor`.

use std::ptr::NonNull;
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::Mutex;
use zeroize::Zeroize;

/// Sizes of slots, in bytes.
const SLOT_BYTES: [usize; 7] = [64, 128, 256, 512, 1024, 2048, 4096];
/// What one chunk of slots takes, in bytes: four pages.
const CHUNK_BYTES: usize = 16 * 1024;

static UNLOCKED_BYTES: AtomicUsize = AtomicUsize::new(0);

/// How many bytes of secret memory the kernel would not lock.
#[must_use]
pub fn unlocked_bytes() -> usize {
    UNLOCKED_BYTES.load(Ordering::Relaxed)
}

struct Slot(NonNull<u8>);
// SAFETY: a free slot is memory that nobody refers to; which thread hands it out does not matter.
unsafe impl Send for Slot {}

/// Free slots by size class. Guards: the slots themselves, which are all zero while they lie here.
static FREE: [Mutex<Vec<Slot>>; SLOT_BYTES.len()] = [const { Mutex::new(Vec::new()) }; SLOT_BYTES.len()];

/// Bytes in secret memory, zero at first, wiped when dropped.
pub struct LockedBytes {
    start: NonNull<u8>,
    length: usize,
    /// What was taken from the system, in bytes: a slot size, or whole pages.
    capacity: usize,
}

// SAFETY: LockedBytes owns its block alone, as a Box<[u8]> would.
unsafe impl Send for LockedBytes {}
// SAFETY: a shared LockedBytes only gives out shared slices.
unsafe impl Sync for LockedBytes {}

impl LockedBytes {
    /// Takes `length` bytes, all zero.
    ///
    /// # Panics
    /// When the machine has no memory left, as any allocation does.
    #[must_use]
    pub fn zeroed(length: usize) -> Self {
        match class_of(length) {
            Some(class) => Self { start: take_slot(class), length, capacity: SLOT_BYTES[class] },
            None => {
                let capacity = length.next_multiple_of(4096);
                Self { start: map_locked(capacity), length, capacity }
            }
        }
    }

    /// How many bytes it has.
    #[must_use]
    pub fn len(&self) -> usize {
        self.length
    }

    /// Whether it has none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// The bytes.
    #[must_use]
    pub fn as_slice(&self) -> &[u8] {
        // SAFETY: `start` points at `capacity >= length` bytes, initialised (zeroed) and ours alone while `self` lives.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.length) }
    }

    /// The bytes, to write.
    #[must_use]
    pub fn as_mut_slice(&mut self) -> &mut [u8] {
        // SAFETY: as in `as_slice`, and `&mut self` excludes every other reference.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.length) }
    }
}

impl Zeroize for LockedBytes {
    fn zeroize(&mut self) {
        self.as_mut_slice().zeroize();
    }
}

impl Drop for LockedBytes {
    fn drop(&mut self) {
        self.zeroize();
        match class_of(self.length) {
            Some(class) => FREE[class].lock().push(Slot(self.start)),
            // SAFETY: the mapping was made by `map_locked` with this very size, and nothing refers to it any more.
            None => unsafe {
                libc::munmap(self.start.as_ptr().cast(), self.capacity);
            },
        }
    }
}

fn class_of(length: usize) -> Option<usize> {
    SLOT_BYTES.iter().position(|slot| length <= *slot)
}

fn take_slot(class: usize) -> NonNull<u8> {
    let mut free = FREE[class].lock();
    if let Some(Slot(start)) = free.pop() {
        return start;
    }
    let chunk = map_locked(CHUNK_BYTES);
    for offset in (SLOT_BYTES[class]..CHUNK_BYTES).step_by(SLOT_BYTES[class]) {
        // SAFETY: `offset` is below CHUNK_BYTES, so the pointer stays inside the mapping.
        free.push(Slot(unsafe { chunk.add(offset) }));
    }
    chunk
}

fn map_locked(bytes: usize) -> NonNull<u8> {
    // SAFETY: an anonymous private mapping at an address of the kernel's choice touches no memory of ours.
    let start = unsafe {
        libc::mmap(
            std::ptr::null_mut(),
            bytes,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
            -1,
            0,
        )
    };
    assert!(start != libc::MAP_FAILED, "no memory left for secrets");
    // SAFETY: the range is the mapping just made; these calls change how it is treated, not what it holds.
    unsafe {
        libc::madvise(start, bytes, libc::MADV_DONTDUMP);
        libc::madvise(start, bytes, libc::MADV_WIPEONFORK);
        if libc::mlock(start, bytes) != 0 {
            UNLOCKED_BYTES.fetch_add(bytes, Ordering::Relaxed);
        }
    }
    NonNull::new(start.cast()).unwrap_or_else(|| unreachable!("mmap never returns null without MAP_FIXED"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_of_every_size_are_zero_at_first_and_apart_from_each_other() {
        let mut held = Vec::new();
        for length in [0, 1, 63, 64, 65, 500, 4095, 4096, 4097, 100_000] {
            let mut block = LockedBytes::zeroed(length);
            assert!(block.as_slice().iter().all(|byte| *byte == 0));
            block.as_mut_slice().fill(u8::try_from(held.len() + 1).unwrap());
            held.push(block);
        }
        for (at, block) in held.iter().enumerate() {
            assert!(block.as_slice().iter().all(|byte| usize::from(*byte) == at + 1));
        }
    }

    #[test]
    fn a_block_given_back_is_wiped_before_it_is_handed_out_again() {
        for length in [64, 4096] {
            let mut blocks: Vec<_> = (0..8).map(|_| LockedBytes::zeroed(length)).collect();
            for block in &mut blocks {
                block.as_mut_slice().fill(0xAA);
            }
            let starts: Vec<_> = blocks.iter().map(|block| block.start).collect();
            drop(blocks);
            let again: Vec<_> = (0..8).map(|_| LockedBytes::zeroed(length)).collect();
            assert!(again.iter().any(|block| starts.contains(&block.start)), "slots are reused");
            assert!(again.iter().all(|block| block.as_slice().iter().all(|byte| *byte == 0)));
        }
    }

    #[test]
    fn secret_pages_are_left_out_of_core_dumps() {
        let block = LockedBytes::zeroed(100_000);
        let maps = std::fs::read_to_string("/proc/self/smaps").unwrap();
        let address = block.start.as_ptr() as usize;
        let mut inside = false;
        for line in maps.lines() {
            if let Some((range, _)) = line.split_once(' ')
                && let Some((from, to)) = range.split_once('-')
                && let (Ok(from), Ok(to)) = (usize::from_str_radix(from, 16), usize::from_str_radix(to, 16))
            {
                inside = (from..to).contains(&address);
            }
            if inside && let Some(flags) = line.strip_prefix("VmFlags:") {
                assert!(flags.contains(" dd"), "MADV_DONTDUMP is set: {flags}");
                assert!(flags.contains(" wf"), "MADV_WIPEONFORK is set: {flags}");
                return;
            }
        }
        panic!("the mapping was not found");
    }
}
