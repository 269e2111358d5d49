//! What is minted beside a remote store: opened, looked after while an instance serves, and ended with it.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::access::Gate;
use crate::caller::Consumers;
use crate::config::{Config, VaultSettings};
use crate::store::{Clocks, Dynamic, DynamicOptions, Liveness, Remote, Store, StoreFault, Vault};

/// How often consumers are looked at: how long after its last process a unit's leases may still live.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// How long the end of all leases may take when an instance stops.
const END_WAIT: Duration = Duration::from_secs(5);

/// The file in which a store's leases are kept.
pub(super) fn book_file(settings: &VaultSettings) -> PathBuf {
    let mut name = settings.remote.state_file.clone().into_os_string();
    name.push(".leases");
    name.into()
}

/// Puts what is declared in front of a store; `None`: nothing is.
///
/// # Errors
/// Where the file of leases cannot be used.
pub(super) fn open(
    config: &Config,
    settings: &VaultSettings,
    store: &Arc<Remote>,
    engine: &Arc<Vault>,
    lock_wait: Duration,
) -> Result<Option<Arc<Dynamic>>, StoreFault> {
    // Leases of what was declared before are to be ended.
    if settings.dynamic.is_empty() && !book_file(settings).exists() {
        return Ok(None);
    }
    let options = DynamicOptions {
        book_file: book_file(settings),
        lock_wait,
        // A little less than whoever waits for it does, so that he hears why.
        answer_within: settings.remote.answer_within.min(config.limits.request_deadline * 4 / 5),
        failures_max: settings.remote.failures_max,
        probe_every: settings.remote.probe_every,
        look_every: LOOK_EVERY,
        clocks: Clocks::of_machine(),
        is_alive: liveness(),
    };
    let inner = Arc::clone(store) as Arc<dyn Store>;
    let dynamic = Dynamic::open(inner, Arc::clone(engine) as _, settings.dynamic.clone(), options)?;
    // What hangs on a login is ended before it.
    let minted = Arc::downgrade(&dynamic);
    store.ask_before_log_out(move |login| minted.upgrade().is_some_and(|minted| minted.hangs_on(login)));
    Ok(Some(dynamic))
}

/// Tells whether consumers of this machine are still there.
pub(super) fn liveness() -> Liveness {
    let consumers = Consumers::of_machine();
    Arc::new(move |consumer| consumers.is_alive(consumer))
}

/// Looks after leases from now on, and records what happens to them.
pub(super) fn begin(dynamics: &[Arc<Dynamic>], gate: &Arc<Gate>, runtime: &tokio::runtime::Runtime) {
    for dynamic in dynamics {
        let (gate, store) = (Arc::downgrade(gate), dynamic.name().to_owned());
        dynamic.hear(move |event| {
            if let Some(gate) = gate.upgrade() {
                gate.record_lease(&store, event);
            }
        });
        runtime.spawn(Arc::clone(dynamic).watch_over());
    }
}

/// Ends every lease at its server: the mount is gone, and nobody goes on.
pub(super) fn end(dynamics: &[Arc<Dynamic>], runtime: &tokio::runtime::Runtime) {
    for dynamic in dynamics {
        let left = runtime.block_on(dynamic.end_all(END_WAIT));
        if left > 0 {
            tracing::warn!(
                store = dynamic.name(),
                left,
                "leases that could not be ended are at the next start"
            );
        }
    }
}
