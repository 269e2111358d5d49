//! What the gate says of its work at the levels debug and trace: who asked for what, and what came of it. Never a
//! value, and nothing is put into words while nobody listens.

use crate::caller::{Caller, Described};
use crate::model::{Facts, Operation, Outcome, SecretPath, Version};
use crate::policy::Decision;

use super::{Refusal, Target};

/// Every decision about a value.
pub(super) fn trace_decision(caller: &Caller<'_>, target: &Target, decision: &Decision) {
    if !tracing::enabled!(tracing::Level::TRACE) {
        return;
    }
    let (uid, gid, pid) = (caller.uid(), caller.gid(), caller.pid());
    let Target { secret, version, field, .. } = target;
    let field = field.as_str();
    match decision {
        Decision::Allow(permit) => tracing::trace!(
            uid, gid, pid, tid = caller.tid(), secret = secret.as_str(), field, %version,
            rule = permit.rule(), identity = permit.identity(), "allowed"
        ),
        Decision::Deny(denial) => tracing::trace!(
            uid, gid, pid, tid = caller.tid(), secret = secret.as_str(), field, %version,
            kind = ?denial.kind, reason = ?denial.reason, "not allowed"
        ),
    }
}

/// A refused open or read.
pub(super) fn trace_refusal(target: &Target, operation: Operation, person: &Described, refusal: Refusal) {
    tracing::debug!(
        ?operation,
        uid = person.uid,
        pid = person.pid,
        unit = person.unit.as_deref(),
        secret = target.secret.as_str(),
        field = target.field.as_str(),
        version = %target.version,
        outcome = ?refusal.outcome,
        reason = ?refusal.reason,
        "refused"
    );
}

/// A refused lookup, stat or listing.
pub(super) fn trace_note(operation: Operation, caller: &Caller<'_>, path: &str, refusal: Refusal) {
    tracing::trace!(
        ?operation,
        uid = caller.uid(),
        path,
        outcome = ?refusal.outcome,
        reason = ?refusal.reason,
        "hidden"
    );
}

/// A change to a store.
pub(super) fn debug_change(
    operation: Operation,
    person: &Described,
    secret: &SecretPath,
    done: (Outcome, Option<Version>),
    seq: Option<u64>,
) {
    let (outcome, version) = done;
    tracing::debug!(
        ?operation,
        uid = person.uid,
        pid = person.pid,
        secret = secret.as_str(),
        version = version.map(Version::get),
        ?outcome,
        seq,
        "changed"
    );
}
