//! Bounded exchanges with a remote store over HTTP: in time, size and depth; without redirects, without proxies but a
//! configured one, and with bodies and tokens in locked memory as far as this program holds them itself. The one place that
//! names `reqwest`. It knows no store's API.

mod address;
mod client;
mod exchange;
mod json;
mod locked;
mod options;
mod reply;
mod resolver;

pub use address::{Address, AddressFault};
pub use options::{ClientCertificate, HttpOptions};

pub(super) use exchange::{Ask, Http, Method, Repeat};
pub(super) use json::{Fields, JsonText, bytes_of};
pub(super) use reply::{HttpFault, Reply};
