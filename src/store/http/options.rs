//! How servers are reached, and how long and how much may be waited for.

use std::path::PathBuf;
use std::time::Duration;

use super::Address;

/// A certificate of our own, and its key: two files in PEM form.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientCertificate {
    /// The certificate, with those that vouch for it.
    pub cert_file: PathBuf,
    /// Its key.
    pub key_file: PathBuf,
}

/// How the servers of one store are reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpOptions {
    /// The servers, the preferred one first. Tokens and secrets go to these and no other.
    pub addresses: Vec<Address>,
    /// The proxy, where there is one. What the environment says of proxies is not heard.
    pub proxy: Option<Address>,
    /// Who vouches for the servers, in PEM form; `None`: whom the machine trusts.
    pub ca_file: Option<PathBuf>,
    /// Our own certificate.
    pub client_certificate: Option<ClientCertificate>,
    /// How long a connection may take, its name and its encryption included.
    pub connect_deadline: Duration,
    /// How long one request may take in all, over all addresses.
    pub request_deadline: Duration,
    /// The largest answer, in bytes.
    pub response_bytes_max: usize,
}

impl HttpOptions {
    /// The usual bounds for these addresses.
    #[must_use]
    pub fn new(addresses: Vec<Address>) -> Self {
        Self {
            addresses,
            proxy: None,
            ca_file: None,
            client_certificate: None,
            connect_deadline: Duration::from_secs(1),
            request_deadline: Duration::from_secs(4),
            response_bytes_max: 8 * 1024 * 1024,
        }
    }
}
