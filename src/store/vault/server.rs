//! One request to the server, and what its answer means.

use std::fmt::Write as _;
use std::sync::Arc;

use serde::Deserialize;

use super::kv::now;
use crate::model::{SecretBytes, UnixTime};
use crate::store::http::{Ask, Http, HttpFault, Method, Repeat, Reply};
use crate::store::{SourceFault, StoreFault};

/// What a server may say that is repeated to people. Nothing else of its words is: a server, or what poses as one, may
/// repeat what it was sent or what it keeps.
const KNOWN_WORDS: [&str; 37] = [
    "permission denied",
    "invalid token",
    "missing client token",
    "invalid role or secret ID",
    "invalid role_id",
    "invalid role ID",
    "invalid secret id",
    "invalid secret_id",
    "failed to validate credentials",
    "role could not be found",
    "could not be found",
    "invalid role name",
    "token is expired",
    "error validating token",
    "error validating claims",
    "invalid audience",
    "invalid subject",
    "claim is missing",
    "error verifying token signature",
    "failed to verify certificate",
    "no certificates are present in the connection",
    "invalid certificate or no client certificate supplied",
    "failed to match all constraints for this login certificate",
    "service account name not authorized",
    "namespace not authorized",
    "lookup failed",
    "no handler for route",
    "unsupported path",
    "unsupported operation",
    "preflight capability check returned 403",
    "namespace not found",
    "contains unprintable characters",
    "longer than 512",
    "cannot contain more than 64",
    "rate limit quota exceeded",
    "source address",
    "local node not active but active cluster node not found",
];

/// The servers, and the namespace in which they are asked.
pub(super) struct Server {
    pub(super) http: Arc<Http>,
    pub(super) namespace: Option<String>,
}

/// What is asked.
pub(super) struct Call {
    pub(super) method: Method,
    /// Path and query, encoded.
    pub(super) target: String,
    pub(super) body: Option<SecretBytes>,
    /// Whether the body says what changes instead of what shall be.
    pub(super) is_merge: bool,
    pub(super) repeat: Repeat,
}

impl Call {
    pub(super) fn get(target: String) -> Self {
        Self { method: Method::Get, target, body: None, is_merge: false, repeat: Repeat::Always }
    }

    pub(super) fn post(target: String, body: SecretBytes) -> Self {
        Self { method: Method::Post, body: Some(body), repeat: Repeat::Undone, ..Self::get(target) }
    }
}

/// An answer and the name of the request.
pub(super) struct Answered {
    pub(super) reply: Reply,
    /// Ours: sent along as `X-Correlation-ID`.
    pub(super) correlation_id: String,
}

impl Server {
    /// Sends a call and gives the answer, whatever its status.
    pub(super) async fn send(
        &self,
        token: Option<&SecretBytes>,
        call: &Call,
    ) -> Result<Answered, SourceFault> {
        let correlation_id = correlation_id();
        let mut headers = vec![
            ("x-vault-request", "true"),
            ("x-correlation-id", correlation_id.as_str()),
            ("accept", "application/json"),
        ];
        if let Some(namespace) = &self.namespace {
            headers.push(("x-vault-namespace", namespace));
        }
        let kind = if call.is_merge { "application/merge-patch+json" } else { "application/json" };
        let ask = Ask {
            method: call.method,
            target: &call.target,
            headers: &headers,
            secret_header: token.map(|token| ("x-vault-token", token)),
            body: call.body.as_ref().map(|body| (kind, body)),
            repeat: call.repeat,
        };
        match self.http.ask(&ask).await {
            Ok(reply) => Ok(Answered { reply, correlation_id }),
            Err(fault) => Err(SourceFault {
                fault: store_fault(fault),
                request_id: Some(correlation_id),
                retry_after: None,
            }),
        }
    }
}

/// What a fault of the exchange means for who asked.
pub(super) fn store_fault(fault: HttpFault) -> StoreFault {
    match fault {
        HttpFault::Timeout => StoreFault::Timeout,
        HttpFault::Name => StoreFault::Invalid(fault.to_string()),
        other => StoreFault::Away(other.to_string()),
    }
}

fn correlation_id() -> String {
    let mut bytes = [0_u8; 16];
    // Only a name: where the kernel gives no random bytes yet it names nothing.
    let _ = getrandom::fill(&mut bytes);
    bytes.iter().fold(String::with_capacity(32), |mut text, byte| {
        write!(text, "{byte:02x}").unwrap_or_else(|_| unreachable!("writing to a String cannot fail"));
        text
    })
}

/// What every answer has around its data.
#[derive(Deserialize)]
pub(super) struct Envelope<T> {
    #[serde(default)]
    pub(super) request_id: String,
    pub(super) data: T,
}

#[derive(Deserialize)]
struct Errors {
    #[serde(default)]
    errors: Vec<String>,
}

impl Answered {
    /// The server's clock at the end of the second in which it answered, or ours where it does not say: what it deleted by
    /// its own clock is deleted, however wrong ours is.
    pub(super) fn now(&self) -> UnixTime {
        const SECOND_US: i64 = 1_000_000;
        match self.reply.date {
            Some(date) => UnixTime::from_micros(date.micros().saturating_add(SECOND_US - 1)),
            None => now(),
        }
    }

    /// How far our clock is ahead of the server's, in microseconds; none where they may agree, by what a date can say.
    pub(super) fn ahead_us(&self) -> i64 {
        /// A date is of whole seconds, and was on its way.
        const AGREE_US: i64 = 3_000_000;
        let ahead = self.reply.date.map_or(0, |date| now().micros().saturating_sub(date.micros()));
        if ahead.abs() <= AGREE_US { 0 } else { ahead }
    }

    /// Now by the server's clock, as it is to be written there for everybody.
    pub(super) fn shared_now(&self) -> UnixTime {
        UnixTime::from_micros(now().micros().saturating_sub(self.ahead_us()))
    }

    pub(super) fn status(&self) -> u16 {
        self.reply.status
    }

    /// Whether it was done.
    pub(super) fn is_done(&self) -> bool {
        matches!(self.status(), 200..=299)
    }

    /// Whether the server said this of what went wrong.
    pub(super) fn says(&self, words: &str) -> bool {
        self.reply.json::<Errors>().is_ok_and(|told| told.errors.iter().any(|said| said.contains(words)))
    }

    /// The data of an answer that was done, and the server's name for the request.
    pub(super) fn data<'a, T: Deserialize<'a>>(&'a self) -> Result<(T, Option<String>), SourceFault> {
        let envelope: Envelope<T> = self.reply.json().map_err(|fault| self.fault(store_fault(fault)))?;
        let id = (!envelope.request_id.is_empty()).then_some(envelope.request_id);
        Ok((envelope.data, id))
    }

    /// A fault about this request.
    pub(super) fn fault(&self, fault: StoreFault) -> SourceFault {
        SourceFault {
            fault,
            request_id: Some(self.correlation_id.clone()),
            retry_after: self.reply.retry_after,
        }
    }

    /// Why it was not done, as the status says. `about` says what was to be done.
    pub(super) fn refusal(&self, about: &str) -> SourceFault {
        let mut text = format!("{about}: ");
        for words in KNOWN_WORDS.iter().filter(|words| self.says(words)).take(1) {
            text.push_str(words);
            text.push(' ');
        }
        text.push_str(&format!("(status {})", self.status()));
        self.fault(match self.status() {
            401 | 403 => StoreFault::Refused(text),
            413 => too_large(),
            400..=499 if self.says("too large") => too_large(),
            // A KV engine that was just made, or is being made one with versions.
            400 if self.says("Upgrading") => StoreFault::Away(text),
            400 | 404 | 405 | 409 | 415 | 422 => StoreFault::Invalid(text),
            501 => StoreFault::Sealed("the server is not initialised".to_owned()),
            503 if self.says("sealed") => StoreFault::Sealed("the server needs its unseal keys".to_owned()),
            _ => StoreFault::Away(text),
        })
    }
}

fn too_large() -> StoreFault {
    StoreFault::TooLarge {
        what: "the secret",
        limit: "what the server stores in one entry",
        remedy: "spread it over several secrets, or raise max_entry_size of the server",
    }
}
