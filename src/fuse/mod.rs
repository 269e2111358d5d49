//! The kernel's side: requests in, answers out.

pub mod notifier;
