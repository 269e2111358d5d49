//! The behaviour suite that every store must pass, and what is asked of the embedded one beyond it.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on says so by a panic")]

#[path = "store/bench.rs"]
mod bench;
#[path = "store/engine.rs"]
mod engine;
#[path = "store/local.rs"]
mod local;
#[path = "store/oracle.rs"]
mod oracle;
#[path = "store/remote.rs"]
mod remote;
#[path = "store/suite.rs"]
mod suite;
#[path = "store/tamper.rs"]
mod tamper;
#[path = "store/verdict_model.rs"]
mod verdict_model;
