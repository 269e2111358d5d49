//! The memory a program runs in, as a sign that the program is still the same one.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::sync::OnceLock;

use super::process::ProcDirectory;

/// The memory that a thread had when this was opened. `execve(2)` gives a process another one, and its end takes the
/// last; neither can be undone, so memory that is in use still is the program that had it.
///
/// It is `/proc/TID/pagemap`, opened: `pagemap_read` (`fs/proc/task_mmu.c`) first takes hold of the memory, answers 0
/// where nobody uses it any more, and only then refuses a read that is no multiple of 8 bytes with `EINVAL`. So a read of
/// one byte tells which of both without a lock of the process's, and without anything of its content.
///
/// What else uses that memory keeps it in use: a process made with `CLONE_VM` without being a thread, and, for as long
/// as it reads, whoever reads `/proc/PID/mem`, `environ` or `cmdline`. Whoever asks here must ask anew now and then.
#[derive(Debug)]
pub struct ProgramMemory(File);

impl ProgramMemory {
    /// Opens the memory of a thread. Needs the right to trace it.
    ///
    /// # Errors
    /// `EACCES` without that right, `ENOENT` on a kernel built without `CONFIG_PROC_PAGE_MONITOR`, `Unsupported` on
    /// one that does not answer as described.
    pub fn open(directory: &ProcDirectory) -> io::Result<Self> {
        if !is_told_by_kernel() {
            return Err(io::ErrorKind::Unsupported.into());
        }
        directory.open_file(c"pagemap").map(Self)
    }

    /// Takes one that somebody else opened.
    #[must_use]
    pub fn of(descriptor: OwnedFd) -> Self {
        Self(File::from(descriptor))
    }

    /// Whether the program that had it still runs.
    #[must_use]
    pub fn is_in_use(&self) -> bool {
        let mut byte = [0_u8];
        // Anything but this very refusal is no sign of life.
        self.0.read_at(&mut byte, 0).is_err_and(|error| error.raw_os_error() == Some(libc::EINVAL))
    }
}

impl AsFd for ProgramMemory {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Whether this kernel tells used memory from unused: tried once on a program that was ended.
fn is_told_by_kernel() -> bool {
    static IS_TOLD: OnceLock<bool> = OnceLock::new();
    *IS_TOLD.get_or_init(|| try_on_an_ended_program().unwrap_or(false))
}

fn try_on_an_ended_program() -> io::Result<bool> {
    let mut child = super::spawn::waiting_copy()?;
    let opened = ProcDirectory::open(child.id()).and_then(|directory| directory.open_file(c"pagemap"));
    let memory = opened.map(ProgramMemory);
    let before = memory.as_ref().is_ok_and(ProgramMemory::is_in_use);
    child.end()?;
    Ok(before && !memory?.is_in_use())
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::process::{Command, Stdio};

    use super::*;
    use crate::sys::process::own_tid;

    #[test]
    fn memory_is_in_use_until_its_program_is_replaced_or_ends() {
        let own = ProgramMemory::open(&ProcDirectory::open(own_tid()).unwrap()).unwrap();
        assert!(own.is_in_use());
        let mut shell = Command::new("/bin/sh")
            .args(["-c", "read line; exec sleep 60"])
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        let directory = ProcDirectory::open(shell.id()).unwrap();
        let memory = ProgramMemory::open(&directory).unwrap();
        let runs = |name: &str| directory.link_text(c"exe").unwrap().to_string_lossy().ends_with(name);
        assert!(memory.is_in_use() && !runs("sleep"));
        shell.stdin.take().unwrap().write_all(b"\n").unwrap();
        while !runs("sleep") {
            std::thread::yield_now();
        }
        assert!(!memory.is_in_use());
        let later = ProgramMemory::open(&directory).unwrap();
        assert!(later.is_in_use());
        shell.kill().unwrap();
        shell.wait().unwrap();
        assert!(!later.is_in_use());
    }
}
