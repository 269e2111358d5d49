//! Servers, what stands between them and credfs, and an outsider who asks them.

mod bao;
mod between;
mod certificates;
mod clock;
mod directory;
mod heard;
mod hole;
mod postgres;
mod store;
mod unit;

pub(crate) use bao::{Bao, Cluster, Secured};
pub(crate) use between::{Between, Does, silent_port};
pub(crate) use certificates::{Certificates, Impostor};
pub(crate) use clock::under_clocks;
pub(crate) use directory::Directory;
pub(crate) use heard::heard;
pub(crate) use hole::BlackHole;
pub(crate) use postgres::Postgres;
pub(crate) use store::{Opened, field, options, path, put, put_staged, read_text, token_login, version};
pub(crate) use unit::Unit;

use std::net::TcpListener;

/// A port of 127.0.0.1 that nobody uses now.
pub(crate) fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}
