//! The keeper: the privileged process that makes the mount and holds it while workers come and go; and, in `link`, a
//! worker's end of what the two say to one another.
//!
//! It may mount, hold the device and say which file a thread runs. It knows no secret, no rule and no store, opens no
//! network, and parses nothing but fixed messages from its worker and the headers of FUSE requests that nobody else will
//! answer. **Nothing here may wait for its own mount**: what could (the notifier's rename, the probe) is a process of
//! its own.

mod assignment;
mod executables;
mod guard;
mod keep;
mod link;
mod mounting;
mod probe;
mod session;
mod stand_in;
mod watch;
mod wire;
mod worker;

pub use assignment::{Ended, Keep, KeepFault, Launch};
pub use guard::run_if_asked;
pub use keep::run;
pub use link::{Adopted, From, Link, LinkFault, Told};
pub use session::{Session, SessionFault};

/// Where a keeper listens unless it is told otherwise.
pub const DEFAULT_SOCKET: &str = "/run/credfs-keeper/worker.sock";
