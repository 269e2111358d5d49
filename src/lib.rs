//! credfs: secrets as files. Every read is authorised for its caller, fetched from a store, and recorded before a
//! byte is handed over.
//!
//! The rooms stand in the order of dependence: each may use those above it and no other. `tests/house.rs` holds them
//! to it; `docs/ARCHITECTURE.md` shows the whole.

pub mod sys;

pub mod model;

pub mod document;

pub mod caller;

pub mod policy;

pub mod store;

pub mod audit;

pub mod access;

pub mod tree;

pub mod config;

pub mod fuse;

pub mod keeper;

pub mod control;

pub mod daemon;

pub mod cli;
