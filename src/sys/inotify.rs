//! Whether a file has been renamed, unlinked or given other names since one last looked, without looking: the kernel
//! puts a note into a queue before the call that did it returns (`fs/notify/inotify`, inotify(7)).

use std::ffi::CString;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// A queue of notes about one file and the directories above it.
#[derive(Debug)]
pub struct NameWatch(OwnedFd);

/// What changes which file a path leads to, seen at the file (a link count that changes is an attribute that does).
const OF_FILE: u32 = libc::IN_ATTRIB | libc::IN_MOVE_SELF | libc::IN_DELETE_SELF;
/// The same, seen at a directory above it.
const OF_DIRECTORY: u32 = libc::IN_MOVE_SELF | libc::IN_DELETE_SELF | libc::IN_ONLYDIR;

impl NameWatch {
    /// Watches the open `file` and every directory above `path`, an absolute path to it without symbolic links.
    /// What is mounted over a directory later is not noticed.
    ///
    /// # Errors
    /// `EMFILE` and `ENOSPC` past the user's limits of inotify, and `InvalidInput` for a path through a symbolic
    /// link, which could be pointed elsewhere unnoticed.
    pub fn of(file: &File, path: &Path) -> io::Result<Self> {
        let directory = path.parent().ok_or(io::ErrorKind::InvalidInput)?;
        if directory.canonicalize()? != directory {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        // SAFETY: inotify_init1 takes one integer.
        let queue = unsafe { libc::inotify_init1(libc::IN_NONBLOCK | libc::IN_CLOEXEC) };
        if queue < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the kernel just made this descriptor for us and nobody else knows it.
        let watch = Self(unsafe { OwnedFd::from_raw_fd(queue) });
        watch.add(Path::new(&format!("/proc/self/fd/{}", file.as_raw_fd())), OF_FILE)?;
        for above in directory.ancestors() {
            watch.add(above, OF_DIRECTORY)?;
        }
        Ok(watch)
    }

    fn add(&self, path: &Path, events: u32) -> io::Result<()> {
        let path = CString::new(path.as_os_str().as_bytes())?;
        // SAFETY: `path` is a C string that outlives the call.
        let added = unsafe { libc::inotify_add_watch(self.0.as_raw_fd(), path.as_ptr(), events) };
        if added < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }

    /// Whether anything happened since this was last asked. Where that cannot be told the answer is yes.
    pub fn has_news(&self) -> bool {
        // A note about a file or directory itself carries no name and takes 16 bytes.
        let mut notes = [0_u8; 256];
        let mut has_news = false;
        loop {
            // SAFETY: the kernel writes at most the length given, which is the buffer's.
            let length = unsafe { libc::read(self.0.as_raw_fd(), notes.as_mut_ptr().cast(), notes.len()) };
            if length <= 0 {
                let is_empty = io::Error::last_os_error().kind() == io::ErrorKind::WouldBlock;
                return has_news || !is_empty;
            }
            has_news = true;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_way_of_taking_a_name_away_is_noticed_at_once_and_writing_is_not() {
        let top = std::env::temp_dir().canonicalize().unwrap();
        let top = top.join(format!("credfs-test-{}-names", std::process::id()));
        let directory = top.join("one/two");
        std::fs::create_dir_all(&directory).unwrap();
        let path = directory.join("file");
        let moved = top.join("moved");
        let ways: [(&str, &dyn Fn()); 5] = [
            ("renamed", &|| std::fs::rename(&path, directory.join("other")).unwrap()),
            ("unlinked", &|| std::fs::remove_file(&path).unwrap()),
            ("replaced", &|| {
                std::fs::write(directory.join("new"), "").unwrap();
                std::fs::rename(directory.join("new"), &path).unwrap();
            }),
            ("directory renamed", &|| std::fs::rename(&directory, &moved).unwrap()),
            ("one above renamed", &|| std::fs::rename(top.join("one"), &moved).unwrap()),
        ];
        for (way, change) in ways {
            std::fs::create_dir_all(&directory).unwrap();
            let mut file = File::create(&path).unwrap();
            let watch = NameWatch::of(&file, &path).unwrap();
            std::io::Write::write_all(&mut file, b"written").unwrap();
            file.set_len(3).unwrap();
            assert!(!watch.has_news(), "{way}: writing is no news");
            change();
            assert!(watch.has_news(), "{way}");
            assert!(!watch.has_news(), "{way}: told once");
            std::fs::remove_dir_all(&top).unwrap();
        }
    }

    #[test]
    fn a_path_through_a_symbolic_link_is_not_watched() {
        let top = std::env::temp_dir().canonicalize().unwrap();
        let top = top.join(format!("credfs-test-{}-link", std::process::id()));
        std::fs::create_dir_all(top.join("real")).unwrap();
        std::os::unix::fs::symlink(top.join("real"), top.join("link")).unwrap();
        let file = File::create(top.join("real/file")).unwrap();
        assert!(NameWatch::of(&file, &top.join("link/file")).is_err());
        assert!(NameWatch::of(&file, &top.join("real/file")).is_ok());
        std::fs::remove_dir_all(top).unwrap();
    }
}
