//! What the gate writes into the audit log.

use std::time::Duration;

use crate::audit::{Entry, Who};
use crate::caller::Described;
use crate::model::{Operation, Outcome, format_span};

use super::Target;

/// The caller as the record names him.
pub(super) fn who(person: &Described) -> Who<'_> {
    Who {
        uid: person.uid,
        gid: person.gid,
        pid: person.pid,
        tid: person.tid,
        unit: person.unit.as_deref(),
        container: person.container.as_deref(),
        exe: person.exe.as_ref().map(|exe| &*exe.path_unproven),
        exe_id: person.exe.as_ref().map(|exe| (exe.device, exe.inode)),
        exe_sha256: person.exe_sha256,
        login_uid: person.login_uid,
        session: person.session,
    }
}

/// What every record about a value says.
pub(super) fn about<'a>(target: &'a Target, operation: Operation, outcome: Outcome) -> Entry<'a> {
    Entry {
        secret: Some(target.secret.as_str()),
        field: Some(target.field.as_str()),
        version: Some(target.version),
        stage: target.stage,
        ..Entry::new(operation, outcome)
    }
}

/// `fresh`, or `stale` and for how long, in whole seconds begun: what the record and the xattr say.
pub(crate) fn freshness(stale_for: Duration) -> std::borrow::Cow<'static, str> {
    if stale_for.is_zero() {
        return "fresh".into();
    }
    let seconds = stale_for.as_secs() + u64::from(stale_for.subsec_nanos() > 0);
    format!("stale {}", format_span(Duration::from_secs(seconds))).into()
}

/// A latency in whole microseconds.
pub(super) fn micros(latency: Duration) -> u64 {
    u64::try_from(latency.as_micros()).unwrap_or(u64::MAX)
}
