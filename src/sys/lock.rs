//! Advisory locks on whole files: `flock(2)`. They belong to the open file, so they end with the process however it ends.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

/// Takes the exclusive lock of `file` if nobody holds it. True: it is ours until `file` is closed.
///
/// # Errors
/// What the kernel reports (`flock(2)`), a lock held by another excepted.
pub fn try_exclusive(file: &File) -> io::Result<bool> {
    loop {
        // SAFETY: flock takes a descriptor and a flag and touches no memory of ours; `file` keeps it open meanwhile.
        let answer = unsafe { libc::flock(file.as_raw_fd(), libc::LOCK_EX | libc::LOCK_NB) };
        if answer == 0 {
            return Ok(true);
        }
        let error = io::Error::last_os_error();
        match error.kind() {
            io::ErrorKind::WouldBlock => return Ok(false),
            io::ErrorKind::Interrupted => {}
            _ => return Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_is_refused_to_a_second_opening_until_the_first_is_closed() {
        let path = std::env::temp_dir().join(format!("credfs-lock-{}", std::process::id()));
        let open = || File::options().create(true).truncate(false).write(true).open(&path).unwrap();
        let (first, second) = (open(), open());
        assert!(try_exclusive(&first).unwrap());
        assert!(!try_exclusive(&second).unwrap());
        drop(first);
        assert!(try_exclusive(&second).unwrap());
        std::fs::remove_file(&path).unwrap();
    }
}
