//! The client of one set of certificates, made again when the files have changed.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::sync::Once;

use reqwest::redirect::Policy;
use reqwest::{Certificate, Client, Identity, NoProxy, Proxy};
use zeroize::Zeroizing;

use super::resolver::Resolver;
use super::{HttpFault, HttpOptions};

/// Connections to one server that wait for the next request.
const IDLE_CONNECTIONS_MAX: usize = 8;
/// The largest certificate file, in bytes.
const PEM_BYTES_MAX: u64 = 1024 * 1024;

/// A file as it was when it was read: device, inode, length and change time.
type Stamp = Option<(u64, u64, u64, i64, i64)>;

/// A client, and the files it was made of.
pub(super) struct Built {
    pub(super) client: Client,
    stamps: Vec<Stamp>,
}

impl Built {
    /// Makes a client of the files as they are.
    pub(super) fn make(options: &HttpOptions, resolver: &Resolver) -> Result<Self, HttpFault> {
        install_provider();
        let stamps = stamps(options);
        let mut builder = Client::builder()
            .redirect(Policy::none())
            .no_proxy()
            .referer(false)
            .retry(reqwest::retry::never())
            .connect_timeout(options.connect_deadline)
            .pool_max_idle_per_host(IDLE_CONNECTIONS_MAX)
            .pool_idle_timeout(std::time::Duration::from_secs(60))
            .tcp_nodelay(true)
            .dns_resolver(resolver.clone())
            .user_agent(concat!("credfs/", env!("CARGO_PKG_VERSION")));
        if let Some(proxy) = &options.proxy {
            let proxy = Proxy::all(proxy.origin()).map_err(|_| unusable("the proxy cannot be used"))?;
            // What goes to this machine in clear goes nowhere else.
            builder = builder.proxy(proxy.no_proxy(NoProxy::from_string("localhost,127.0.0.0/8,::1")));
        }
        if let Some(file) = &options.ca_file {
            let certificates = Certificate::from_pem_bundle(&read(file)?).unwrap_or_default();
            if certificates.is_empty() {
                return Err(unusable(&format!("{} holds no certificate in PEM form", file.display())));
            }
            builder = builder.tls_certs_only(certificates);
        }
        if let Some(own) = &options.client_certificate {
            let mut pem = read(&own.cert_file)?;
            pem.push(b'\n');
            pem.extend_from_slice(&read(&own.key_file)?);
            let identity = Identity::from_pem(&pem).map_err(|_| {
                unusable(&format!(
                    "{} and {} are no certificate and key in PEM form",
                    own.cert_file.display(),
                    own.key_file.display()
                ))
            })?;
            builder = builder.identity(identity);
        }
        let client = builder.build().map_err(|_| {
            unusable("no TLS client can be made: do client_cert_file and client_key_file belong together?")
        })?;
        Ok(Self { client, stamps })
    }

    /// Whether a file was replaced since.
    pub(super) fn is_outdated(&self, options: &HttpOptions) -> bool {
        stamps(options) != self.stamps
    }
}

fn install_provider() {
    static ONCE: Once = Once::new();
    // Only a second one is refused.
    ONCE.call_once(|| drop(rustls::crypto::ring::default_provider().install_default()));
}

fn stamps(options: &HttpOptions) -> Vec<Stamp> {
    let own = options.client_certificate.as_ref();
    let files = [
        options.ca_file.as_deref(),
        own.map(|own| own.cert_file.as_path()),
        own.map(|own| own.key_file.as_path()),
    ];
    let stamp = |file: &Path| {
        let found = fs::metadata(file).ok()?;
        Some((found.dev(), found.ino(), found.len(), found.ctime(), found.ctime_nsec()))
    };
    files.into_iter().flatten().map(stamp).collect()
}

fn read(file: &Path) -> Result<Zeroizing<Vec<u8>>, HttpFault> {
    let failed = |why: &dyn std::fmt::Display| unusable(&format!("{} cannot be read: {why}", file.display()));
    let found = fs::metadata(file).map_err(|error| failed(&error))?;
    if !found.is_file() || found.len() > PEM_BYTES_MAX {
        return Err(failed(&"it is no file of at most 1 MiB"));
    }
    fs::read(file).map(Zeroizing::new).map_err(|error| failed(&error))
}

fn unusable(text: &str) -> HttpFault {
    HttpFault::File(text.to_owned())
}
