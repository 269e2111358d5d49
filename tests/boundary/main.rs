//! Black-box tests at the real boundary: the `credfs` program, real mounts, real uids, real cgroups, real programs.
//! They need root and the packages that `tests/run` installs; without them they fail and say what is missing.

#![allow(clippy::print_stderr, reason = "what a daemon said belongs beside the failure of its test")]

mod harness;

mod audit;
mod audit_sink;
mod bad_input;
mod durable;
mod identity;
mod identity_places;
mod identity_session;
mod kept_pages;
mod leak;
mod machine;
mod notification;
mod outside_tap;
mod programs;
mod scale;
mod servers;
mod tools;
mod versions;
