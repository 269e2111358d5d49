//! Secrets of real Vault-like servers through a real mount, for real uids: logins apart, outages, rotation, restarts.
//! Needs root.
#![allow(clippy::unwrap_used, clippy::print_stderr, clippy::print_stdout, reason = "tests")]
#![allow(dead_code, unused_imports, reason = "the harnesses have more than these tests need")]

#[path = "../boundary/harness/mod.rs"]
mod harness;
#[path = "../vault/harness/mod.rs"]
mod servers;

mod black_hole;
mod commands;
mod doctor;
mod faults;
mod learn;
mod learn_minted;
mod learn_version;
mod logins;
mod memory;
mod outages;
mod place;
mod requests;
mod rotation;
