//! All of Linux that std has no name for, and all `unsafe`: locked memory, processes, mounts, sockets' peers, files.
//! It knows no word of credfs: no secret, no policy.
#![allow(unsafe_code, reason = "the one room for it; every block says why it is sound")]

pub mod clock;
pub mod connection;
pub mod descriptor;
pub mod file;
mod fusermount;
pub mod harden;
pub mod inotify;
pub mod lock;
pub mod memory;
pub mod memory_file;
pub mod mount;
pub mod mountinfo;
pub mod names;
pub mod notify;
pub mod packet;
pub mod peer;
pub mod poll;
pub mod privilege;
pub mod probe;
pub mod process;
pub mod program_memory;
pub mod program_text;
pub mod signal;
pub mod spawn;
pub mod terminal;
pub mod touch;
