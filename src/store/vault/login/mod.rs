//! Accounts at the server: each logs in when first needed, is renewed while it is used, and is logged out at the end.

mod account;
mod held;
mod method;
pub(in crate::store) mod pace;
mod renewal;
mod session;
mod unwrap;

pub(super) use account::Account;
pub(super) use held::Held;
