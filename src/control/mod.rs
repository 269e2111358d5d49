//! Commands: what can be asked of an instance, done in one place, whether the asker is this process or one at the
//! other end of the control socket. It may touch the gate and the rooms below; it knows no command line.
//!
//! The socket carries a header, which is JSON and never holds a value, and values as frames of their own, which are
//! read straight into locked memory.

mod answer;
mod client;
mod command;
mod fault;
mod operations;
mod server;
mod wire;

pub use answer::{Answer, LeaseCount, ListedField, LoginRow, Payload, StatusAnswer, StoreStatus, VersionRow};
pub use client::{Contact, NoReply, Reply, ask};
pub use command::{Command, Which};
pub use fault::{CommandFault, Kind};
pub use operations::{Instance, LocalStore, Running, execute};
pub use server::{Server, ServerOptions};
