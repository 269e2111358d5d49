//! `[stores.NAME]` of kind `vault`: a KV engine at Vault or OpenBao servers.

use std::path::PathBuf;
use std::time::Duration;

use super::RemoteSettings;
use crate::document::{Placed, Section};
use crate::policy::LoginSpec;
use crate::store::{Address, AddressFault, Declared};

/// How the servers of a store are reached, and who logs in there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VaultSettings {
    /// The servers, as they were written; each is an address.
    pub addresses: Vec<Address>,
    /// The proxy, where there is one.
    pub proxy: Option<Address>,
    /// The namespace.
    pub namespace: Option<String>,
    /// The path of the KV engine. Default `secret`.
    pub mount: String,
    /// Who vouches for the servers; `None`: whom the machine trusts.
    pub ca_file: Option<PathBuf>,
    /// Our own certificate and its key.
    pub client_cert: Option<(PathBuf, PathBuf)>,
    /// How the machine logs in.
    pub login: LoginSpec,
    /// What is remembered of it, and for how long.
    pub remote: RemoteSettings,
    /// Directories whose values are minted for each consumer.
    pub dynamic: Vec<Declared>,
    /// How long a connection may take. Default 1 s.
    pub connect_deadline: Duration,
    /// How long one request may take in all. Default 4 s.
    pub request_deadline: Duration,
    /// The largest answer, in bytes. Default 8 MiB.
    pub response_bytes_max: u64,
}

const MOUNT: &str = "secret";

impl VaultSettings {
    /// Reads the keys of a store of this kind. Those that every store has are read by who calls.
    pub(super) fn read(name: &str, section: &Section<'_>) -> Option<Self> {
        let remote = RemoteSettings::read(name, section);
        let dynamic = super::dynamic::read(section);
        let addresses = read_addresses(section);
        let proxy =
            section.text("proxy").and_then(|text| checked(section, "proxy", text, Address::parse_proxy));
        let mount = read_engine_path(section, "mount").unwrap_or_else(|| MOUNT.to_owned());
        let namespace = read_engine_path(section, "namespace");
        let ca_file = section.path("ca_file").map(|path| path.value);
        let client_cert = read_client_cert(section);
        let span = |key, range| section.span(key, range);
        let connect_deadline = span("connect_deadline", Duration::from_millis(10)..=Duration::from_secs(60));
        let request_deadline = span("request_deadline", Duration::from_millis(50)..=Duration::from_secs(60));
        let response_bytes_max = section.integer("response_bytes_max", 65_536..=64 * 1024 * 1024);
        let login = section.section("login").and_then(LoginSpec::read);
        if !section.has("login") {
            section.fault(
                section.line(),
                format!("[{}] has no login", section.name()),
                format!("add [{}.login] with method = \"approle\", \"jwt\", \"cert\", \"kubernetes\" or \"token\"", section.name()),
            );
        }
        let settings = Self {
            addresses: addresses?,
            proxy,
            namespace,
            mount,
            ca_file,
            client_cert,
            login: login?,
            remote,
            dynamic,
            connect_deadline: connect_deadline.unwrap_or(Duration::from_secs(1)),
            request_deadline: request_deadline.unwrap_or(Duration::from_secs(4)),
            response_bytes_max: response_bytes_max.map_or(8 * 1024 * 1024, |bytes| bytes.value),
        };
        if settings.connect_deadline > settings.request_deadline {
            section.fault(
                section.line_of("connect_deadline"),
                "\"connect_deadline\" is longer than \"request_deadline\", which holds it",
                "make it shorter",
            );
        }
        Some(settings)
    }

    /// The files that it names, and whether each is a secret: nobody else may read it then.
    #[must_use]
    pub fn files(&self) -> Vec<(PathBuf, bool)> {
        let mut files = Vec::new();
        files.extend(self.ca_file.iter().map(|file| (file.clone(), false)));
        if let Some((cert, key)) = &self.client_cert {
            files.extend([(cert.clone(), false), (key.clone(), true)]);
        }
        files.extend(self.login.files());
        files
    }
}

fn read_addresses(section: &Section<'_>) -> Option<Vec<Address>> {
    if !section.has("addresses") {
        section.fault(
            section.line(),
            format!("\"addresses\" in [{}] is missing", section.name()),
            "add addresses = [\"https://vault-1:8200\"]",
        );
        return None;
    }
    let texts = section.texts("addresses")?;
    let count = texts.len();
    let mut addresses: Vec<Address> = Vec::new();
    for text in texts {
        let line = text.line;
        let Some(address) = checked(section, "addresses", text, Address::parse) else { continue };
        if addresses.contains(&address) {
            section.fault(line, format!("\"addresses\" names {address} twice"), "name each server once");
        }
        addresses.push(address);
    }
    (!addresses.is_empty() && addresses.len() == count).then_some(addresses)
}

fn checked(
    section: &Section<'_>,
    key: &str,
    text: Placed<&str>,
    parse: fn(&str) -> Result<Address, AddressFault>,
) -> Option<Address> {
    let parsed = parse(text.value);
    if let Err(fault) = &parsed {
        let fault = fault.to_string();
        let (what, remedy) = fault.split_once(": ").unwrap_or((&fault, "write \"https://HOST:PORT\""));
        section.fault(text.line, format!("{:?} in \"{key}\": {what}", text.value), remedy);
    }
    parsed.ok()
}

/// A path at the server: names joined by slashes.
fn read_engine_path(section: &Section<'_>, key: &'static str) -> Option<String> {
    let text = section.text(key)?;
    let path = text.value.trim_matches('/');
    let is_plain =
        |name: &str| !name.is_empty() && name != "." && name != ".." && !name.chars().any(char::is_control);
    if path.split('/').all(is_plain) {
        return Some(path.to_owned());
    }
    section.fault(
        text.line,
        format!("\"{key}\" is no path at a server: {:?}", text.value),
        format!("write {key} = \"team/secret\", as the server's administrators call it"),
    );
    None
}

fn read_client_cert(section: &Section<'_>) -> Option<(PathBuf, PathBuf)> {
    let (cert, key) = (section.path("client_cert_file"), section.path("client_key_file"));
    match (section.has("client_cert_file"), section.has("client_key_file")) {
        (true, false) => section.fault(
            section.line_of("client_cert_file"),
            "\"client_cert_file\" is given without its key",
            "add client_key_file = \"…\"",
        ),
        (false, true) => section.fault(
            section.line_of("client_key_file"),
            "\"client_key_file\" is given without its certificate",
            "add client_cert_file = \"…\"",
        ),
        _ => {}
    }
    Some((cert?.value, key?.value))
}
