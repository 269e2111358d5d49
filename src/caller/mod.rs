//! Who is asking: a request's uid, gid and thread id become facts that policy can judge. It may read `/proc`,
//! pidfds and the files that policy allows to run; it decides nothing and writes nothing.
//!
//! A thread that waits for an answer of ours cannot exit, exec, or change its credentials, so what is read before
//! the answer is true of the one who asked. Across requests only what cannot change is remembered: a pidfd means
//! one thread for ever, a cgroup id one directory, and (device, inode, size, ctime, mtime) one content.

mod cgroup;
mod consumer;
mod executable;
mod identifier;
mod person;
mod proc_text;
mod watched;
mod witness;

pub use consumer::Consumers;
pub use executable::{Executables, ProcExecutables, SeenExecutable};
pub use identifier::{Identifier, Mode, Options};
pub use person::{Caller, Described, ourselves};
pub use witness::{ExecFingerprint, Witness};

/// Who asks, as the header of a FUSE request says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Asker {
    /// `fsuid` of the request.
    pub uid: u32,
    /// `fsgid` of the request.
    pub gid: u32,
    /// *Thread* id; 0 when the thread lives in a pid namespace that ours cannot see.
    pub tid: u32,
    /// Whether the kernel sent the request before, to a process of ours that did not answer it.
    pub is_resent: bool,
}

/// The request comes from a thread of this very process: answering could need the thread that asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the request comes from this process itself; keep its own files off the mount")]
pub struct SelfAccess;
