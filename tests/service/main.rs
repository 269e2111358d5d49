//! The service as it is installed: packages, units, mounts and callers in a Debian system that was booted for it.
//! `tests/run` brings what is needed; a test fails, and says what is missing, where it does not find it.

#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "tests")]

mod harness;

mod callers;
mod central;
mod installed;
mod outages;
mod programs;
mod shipped;
