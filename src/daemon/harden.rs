//! What is done before the first secret is held.

use crate::sys::harden;

/// A small heap, no core file, no ptrace by others, private files, as many open files as allowed, and panics that say where they
/// happened and never what with.
pub fn harden() {
    harden::keep_heap_small();
    harden::private_files();
    if let Err(error) = harden::forbid_dumps() {
        tracing::warn!(%error, "this process could not be closed to debuggers and core dumps");
    }
    if let Err(error) = harden::raise_open_files() {
        tracing::debug!(%error, "the limit on open files could not be raised");
    }
    std::panic::set_hook(Box::new(|panic| {
        // The payload may have been made from anything.
        let place = panic.location().map_or_else(String::new, ToString::to_string);
        tracing::error!(place, "a fault of our own");
    }));
}
