//! One request and its answer, at the first of several servers that gives one.

use std::error::Error as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use parking_lot::RwLock;
use reqwest::header::{self, HeaderMap, HeaderName, HeaderValue};
use zeroize::Zeroize as _;

use super::client::Built;
use super::locked::Growing;
use super::resolver::Resolver;
use super::{Address, HttpFault, HttpOptions, Reply};
use crate::model::{SecretBytes, UnixTime};

/// What is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::store) enum Method {
    /// Asked for.
    Get,
    /// Written.
    Post,
    /// Changed in part.
    Patch,
    /// Taken away.
    Delete,
}

/// When another server may be asked the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::store) enum Repeat {
    /// Whenever one did not answer: asking twice changes nothing.
    Always,
    /// Only where it is certain that nothing was done.
    Undone,
}

/// A request. Headers and body that are secret are in locked memory.
pub(in crate::store) struct Ask<'a> {
    /// What is done.
    pub(in crate::store) method: Method,
    /// Path and query, encoded.
    pub(in crate::store) target: &'a str,
    /// Headers that may be seen.
    pub(in crate::store) headers: &'a [(&'static str, &'a str)],
    /// A header that may not.
    pub(in crate::store) secret_header: Option<(&'static str, &'a SecretBytes)>,
    /// The body, JSON of the type that is named.
    pub(in crate::store) body: Option<(&'static str, &'a SecretBytes)>,
    /// When another server may be asked.
    pub(in crate::store) repeat: Repeat,
}

/// The servers of a store.
pub(in crate::store) struct Http {
    options: HttpOptions,
    resolver: Resolver,
    /// Guards the client; `None`: not made yet.
    built: RwLock<Option<Arc<Built>>>,
    /// The address that answered last.
    preferred: AtomicUsize,
}

/// Hands locked bytes to the client without a copy.
struct Lent(SecretBytes);

impl AsRef<[u8]> for Lent {
    fn as_ref(&self) -> &[u8] {
        self.0.expose()
    }
}

impl Http {
    pub(in crate::store) fn new(options: HttpOptions) -> Self {
        Self {
            options,
            resolver: Resolver::default(),
            built: RwLock::new(None),
            preferred: AtomicUsize::new(0),
        }
    }

    /// Asks the servers in turn, the one that answered last first, until one answers, within the request's deadline. Where
    /// none can, the last answer or the last fault is told.
    pub(in crate::store) async fn ask(&self, ask: &Ask<'_>) -> Result<Reply, HttpFault> {
        let began = Instant::now();
        let count = self.options.addresses.len();
        let first = self.preferred.load(Ordering::Relaxed);
        let mut last = Err(HttpFault::Unreachable("no address is configured".to_owned()));
        for turn in 0..count {
            let at = (first + turn) % count;
            let Some(address) = self.options.addresses.get(at) else { continue };
            let left = self.options.request_deadline.saturating_sub(began.elapsed());
            if left.is_zero() {
                break;
            }
            // Each server that is left gets its share of the time that is left.
            let share = left / u32::try_from(count - turn).unwrap_or(1);
            let (outcome, sent) = self.try_one(address, ask, share).await;
            match outcome {
                Ok(reply) if answers(reply.status) => {
                    self.preferred.store(at, Ordering::Relaxed);
                    return Ok(reply);
                }
                // It says itself that it did nothing.
                Ok(reply) if did_nothing(reply.status) || ask.repeat == Repeat::Always => last = Ok(reply),
                Ok(reply) => return Ok(reply),
                Err(fault @ (HttpFault::Name | HttpFault::File(_) | HttpFault::TooLarge(_))) => {
                    return Err(fault);
                }
                Err(fault) => {
                    tracing::debug!(%address, %fault, "a server did not answer");
                    // A server that sends elsewhere did nothing itself.
                    let is_undone = !sent || matches!(fault, HttpFault::Redirect(_));
                    let goes_on = is_undone || ask.repeat == Repeat::Always;
                    // A server that answered something tells more than one that did not.
                    if last.is_err() {
                        last = Err(fault);
                    }
                    if !goes_on {
                        break;
                    }
                }
            }
        }
        last
    }

    /// Asks one server. The flag says whether it may have got the request.
    async fn try_one(
        &self,
        address: &Address,
        ask: &Ask<'_>,
        deadline: Duration,
    ) -> (Result<Reply, HttpFault>, bool) {
        let began = Instant::now();
        let mut is_second = false;
        loop {
            let (request, built) =
                match self.client().and_then(|built| Ok((self.request(address, ask, &built)?, built))) {
                    Ok(made) => made,
                    Err(fault) => return (Err(fault), false),
                };
            let exchange = async {
                let response = request.send().await.map_err(|error| {
                    let sent = !error.is_connect() && !error.is_builder();
                    (fault_of(address, &error), sent)
                })?;
                self.receive(address, response).await.map_err(|fault| (fault, true))
            };
            let left = deadline.saturating_sub(began.elapsed());
            match tokio::time::timeout(left, exchange).await {
                Err(_) => return (Err(HttpFault::Timeout), true),
                Ok(Ok(reply)) => return (Ok(reply), true),
                // A certificate that was replaced on the disk may be the reason.
                Ok(Err((_, false))) if !is_second && built.is_outdated(&self.options) => {
                    is_second = true;
                    self.refresh_client();
                }
                // A connection that waited may have been closed meanwhile, and its server be well.
                Ok(Err((HttpFault::Broken(_), true))) if !is_second && ask.repeat == Repeat::Always => {
                    is_second = true;
                }
                Ok(Err((fault, sent))) => return (Err(fault), sent),
            }
        }
    }

    /// Has the next request read the certificates again, where their files were replaced.
    pub(in crate::store) fn refresh_client(&self) {
        let mut built = self.built.write();
        if built.as_ref().is_some_and(|built| built.is_outdated(&self.options)) {
            *built = None;
        }
    }

    fn client(&self) -> Result<Arc<Built>, HttpFault> {
        if let Some(built) = &*self.built.read() {
            return Ok(Arc::clone(built));
        }
        let mut slot = self.built.write();
        if let Some(built) = &*slot {
            return Ok(Arc::clone(built));
        }
        let built = Arc::new(Built::make(&self.options, &self.resolver)?);
        *slot = Some(Arc::clone(&built));
        Ok(built)
    }

    fn request(
        &self,
        address: &Address,
        ask: &Ask<'_>,
        built: &Built,
    ) -> Result<reqwest::RequestBuilder, HttpFault> {
        let url = address.join(ask.target).ok_or(HttpFault::Name)?;
        let method = match ask.method {
            Method::Get => reqwest::Method::GET,
            Method::Post => reqwest::Method::POST,
            Method::Patch => reqwest::Method::PATCH,
            Method::Delete => reqwest::Method::DELETE,
        };
        let mut headers = HeaderMap::new();
        for (name, value) in ask.headers {
            headers.insert(
                HeaderName::from_static(name),
                HeaderValue::from_str(value).map_err(|_| HttpFault::Name)?,
            );
        }
        if let Some((name, value)) = ask.secret_header {
            let mut value = HeaderValue::from_maybe_shared(Bytes::from_owner(Lent(value.shared())))
                .map_err(|_| HttpFault::File("a token holds what no header can".to_owned()))?;
            value.set_sensitive(true);
            headers.insert(HeaderName::from_static(name), value);
        }
        let mut request = built.client.request(method, url);
        if let Some((kind, body)) = ask.body {
            headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
            request = request.body(Bytes::from_owner(Lent(body.shared())));
        }
        Ok(request.headers(headers))
    }

    async fn receive(&self, address: &Address, mut response: reqwest::Response) -> Result<Reply, HttpFault> {
        let status = response.status();
        if status.is_redirection() {
            return Err(HttpFault::Redirect(address.to_string()));
        }
        let seconds = |name| response.headers().get(name)?.to_str().ok()?.trim().parse::<u64>().ok();
        let retry_after = seconds(header::RETRY_AFTER).map(|seconds| Duration::from_secs(seconds.min(3600)));
        let date = response.headers().get(header::DATE).and_then(|date| parse_date(date.to_str().ok()?));
        let limit = self.options.response_bytes_max;
        let announced = response.content_length().unwrap_or(0);
        if usize::try_from(announced).map_or(true, |announced| announced > limit) {
            return Err(HttpFault::TooLarge(address.to_string()));
        }
        let mut body = Growing::with_room_for(usize::try_from(announced).unwrap_or(0));
        while let Some(chunk) = response.chunk().await.map_err(|_| HttpFault::Broken(address.to_string()))? {
            if body.len() + chunk.len() > limit {
                return Err(HttpFault::TooLarge(address.to_string()));
            }
            body.append(&chunk);
            // What the client read lies in its own memory: wiped where no other answer shares it.
            if let Ok(mut chunk) = chunk.try_into_mut() {
                chunk.as_mut().zeroize();
            }
        }
        Ok(Reply { status: status.as_u16(), retry_after, date, body: body.finish() })
    }
}

/// Whether a server can be taken at its word: else another one may know better.
fn answers(status: u16) -> bool {
    !matches!(status, 472 | 473 | 500 | 502 | 503 | 504)
}

/// Whether a server says that it did not even begin: it is sealed, or has no leader.
fn did_nothing(status: u16) -> bool {
    matches!(status, 472 | 473 | 503)
}

fn fault_of(address: &Address, error: &reqwest::Error) -> HttpFault {
    if error.is_timeout() {
        return HttpFault::Timeout;
    }
    if error.is_builder() {
        return HttpFault::Name;
    }
    if !error.is_connect() {
        return HttpFault::Broken(address.to_string());
    }
    // The innermost cause says it shortest; none of them repeats a path or a header.
    let mut cause = error.source();
    let mut said = "no connection".to_owned();
    while let Some(inner) = cause {
        said = inner.to_string();
        cause = inner.source();
    }
    if ["certificate not valid yet", "certificate expired"].iter().any(|words| said.contains(words)) {
        said.push_str("; is the clock of this machine right?");
    }
    HttpFault::Unreachable(format!("{address}: {said}"))
}

/// The date of RFC 9110 (5.6.7), in the one form that servers write: `Sun, 06 Nov 1994 08:49:37 GMT`.
fn parse_date(text: &str) -> Option<UnixTime> {
    const MONTHS: [&str; 12] =
        ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let mut parts = text.split_once(", ")?.1.split(' ');
    let (day, month, year, time) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    let month = MONTHS.iter().position(|name| *name == month)? + 1;
    UnixTime::parse_rfc3339(&format!("{year}-{month:02}-{day}T{time}Z"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_date_of_http_is_read() {
        let date = parse_date("Sun, 06 Nov 1994 08:49:37 GMT").unwrap();
        assert_eq!(date.rfc3339(), "1994-11-06T08:49:37.000000Z");
        for text in ["", "Sunday, 06-Nov-94 08:49:37 GMT", "Sun, 06 Foo 1994 08:49:37 GMT"] {
            assert_eq!(parse_date(text), None);
        }
    }
}
