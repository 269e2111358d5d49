//! The program as scripts see it: exit codes, JSON, bytes, and what must never be shown; with a running instance and
//! without. Mounting needs root, or fusermount3 and a /dev/fuse that the user may open.
#![allow(clippy::unwrap_used, reason = "a test fails where it must")]

mod commands;
mod complete;
mod instance;
mod socket;
mod world;
