//! The Vault store against a real OpenBao, which `tests/vault/server` builds, or against the `bao` or `vault` that
//! `CREDFS_TEST_BAO` names. What a test knows of the server beside credfs it asks by curl, as an outsider would.

#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "tests")]

#[allow(dead_code, reason = "tests/central uses the rest")]
mod harness;

mod behaviour;
#[path = "../store/bench.rs"]
#[allow(dead_code, reason = "made for the embedded store too")]
mod bench;
mod black_hole;
mod changes;
mod clock;
mod cluster;
mod describe;
mod dynamic;
mod encrypted;
mod faults;
mod logins;
mod mounted;
mod plain;
mod silence;
#[path = "../store/suite.rs"]
mod suite;
