//! Where a server is: scheme, host and port, and nothing else.

use std::fmt;
use std::net::IpAddr;

/// The address of a server: `https://HOST[:PORT]`, or `http://` for this very machine.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Address(reqwest::Url);

/// Why a text is no address of a server. Each says what to write.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AddressFault {
    /// Not a URL.
    #[error("it is no URL: write \"https://HOST:PORT\"")]
    NoUrl,
    /// Another scheme.
    #[error("it begins with neither https:// nor http://: write \"https://HOST:PORT\"")]
    Scheme,
    /// Not encrypted, and not to this machine.
    #[error("http:// would send tokens and secrets in clear over a network: write https://")]
    Clear,
    /// A user, a path, a query or a fragment.
    #[error("it holds more than a host and a port: write \"https://HOST:PORT\" alone")]
    More,
}

impl Address {
    /// Reads the address of a server.
    ///
    /// # Errors
    /// [`AddressFault`].
    pub fn parse(text: &str) -> Result<Self, AddressFault> {
        let address = Self::read(text)?;
        if address.0.scheme() == "http" && !address.is_loopback() {
            return Err(AddressFault::Clear);
        }
        Ok(address)
    }

    /// Reads the address of a proxy, which sees no more than where an encrypted connection goes.
    ///
    /// # Errors
    /// [`AddressFault`], but never [`AddressFault::Clear`].
    pub fn parse_proxy(text: &str) -> Result<Self, AddressFault> {
        Self::read(text)
    }

    fn read(text: &str) -> Result<Self, AddressFault> {
        let url = reqwest::Url::parse(text).map_err(|_| AddressFault::NoUrl)?;
        if !["https", "http"].contains(&url.scheme()) {
            return Err(AddressFault::Scheme);
        }
        if url.host_str().is_none_or(str::is_empty) {
            return Err(AddressFault::NoUrl);
        }
        let is_bare = url.username().is_empty()
            && url.password().is_none()
            && ["", "/"].contains(&url.path())
            && url.query().is_none()
            && url.fragment().is_none();
        if is_bare { Ok(Self(url)) } else { Err(AddressFault::More) }
    }

    /// Whether it is this machine, whatever a name server says.
    #[must_use]
    pub fn is_loopback(&self) -> bool {
        let host = self.host();
        let literal = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
        host == "localhost" || literal.is_ok_and(|address| address.is_loopback())
    }

    /// The host, as in the URL.
    #[must_use]
    pub fn host(&self) -> &str {
        self.0.host_str().unwrap_or_default()
    }

    /// The URL of `path_and_query`, which is encoded already and begins with a slash. `None`: it would not be what it says.
    pub(super) fn join(&self, path_and_query: &str) -> Option<reqwest::Url> {
        let text = format!("{}{path_and_query}", self.origin());
        let url = reqwest::Url::parse(&text).ok()?;
        // A parser that resolves dots or drops characters asks for something else than was permitted.
        (url.as_str() == text).then_some(url)
    }

    pub(super) fn origin(&self) -> &str {
        self.0.as_str().trim_end_matches('/')
    }
}

impl fmt::Display for Address {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.origin())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_a_host_and_a_port_and_clear_text_stays_on_this_machine() {
        for text in
            ["https://vault-1:8200", "http://127.0.0.1:8200", "http://[::1]:8200", "http://localhost:1"]
        {
            assert_eq!(Address::parse(text).unwrap().to_string(), text);
        }
        for (text, fault) in [
            ("vault:8200", AddressFault::Scheme),
            ("", AddressFault::NoUrl),
            ("https://", AddressFault::NoUrl),
            ("ftp://a", AddressFault::Scheme),
            ("http://vault-1:8200", AddressFault::Clear),
            ("http://127.0.0.1.evil:8200", AddressFault::Clear),
            ("http://localhost.evil:8200", AddressFault::Clear),
            ("https://user:word@vault", AddressFault::More),
            ("https://vault/v1", AddressFault::More),
            ("https://vault?x", AddressFault::More),
            ("https://vault#x", AddressFault::More),
        ] {
            assert_eq!(Address::parse(text), Err(fault), "{text}");
        }
    }

    #[test]
    fn a_path_that_a_parser_would_change_is_refused() {
        let address = Address::parse("https://vault:8200").unwrap();
        assert!(address.join("/v1/secret/data/a%2Fb?version=1").is_some());
        for path in ["/v1/a/../b", "/v1/a/%2e%2e/b", "/v1/./b", "/v1/a\tb", "/v1/a\\b", "/v1/a b"] {
            assert!(address.join(path).is_none(), "{path:?}");
        }
    }
}
