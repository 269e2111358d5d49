//! The errno contract: one exhaustive table from outcomes to what a caller's system call returns.

use fuser::Errno;

use crate::access::Refusal;
use crate::model::Outcome;

/// "Required key not available" (`include/uapi/asm-generic/errno.h`), which fuser has no name for.
const ENOKEY: i32 = 126;

/// What an operation by path returns (LOOKUP, OPEN, GETATTR …).
pub(super) fn of_path(refusal: Refusal) -> Errno {
    match refusal.outcome {
        // What may not be listed does not exist; neither does what was destroyed.
        Outcome::Hidden | Outcome::Destroyed => Errno::ENOENT,
        // A new open of a revoked version is refused like any other that is visible and not allowed.
        Outcome::Denied | Outcome::Revoked => Errno::EACCES,
        // The kernel walks the path once more on ESTALE and finds the version that is current now.
        Outcome::Retired => Errno::ESTALE,
        Outcome::NoAudit | Outcome::Failed => Errno::EIO,
        Outcome::Timeout | Outcome::StoreAway => Errno::ETIMEDOUT,
        Outcome::StoreRefused => Errno::EPERM,
        Outcome::Sealed => Errno::from_i32(ENOKEY),
        Outcome::SelfAccess => Errno::EDEADLK,
        Outcome::OverLimit => Errno::EAGAIN,
        // No refusal; were it ever passed here, no byte may follow.
        Outcome::Released | Outcome::Done => Errno::EIO,
    }
}

/// What an operation on an open file returns (READ).
pub(super) fn of_handle(refusal: Refusal) -> Errno {
    match refusal.outcome {
        // The handle is good for nothing any more.
        Outcome::Revoked => Errno::ESTALE,
        _ => of_path(refusal),
    }
}
