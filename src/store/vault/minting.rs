//! Credentials that the server makes when it is asked: users of databases, and certificates.

use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;
use serde_json::value::RawValue;

use super::Vault;
use super::login::Held;
use super::server::{Answered, Call, store_fault};
use super::target::target;
use crate::model::{FieldName, SecretBytes, UnixTime, VALUE_BYTES_MAX};
use crate::store::http::{Fields, JsonText, Repeat, bytes_of};
use crate::store::{
    Answer, Engine, LeaseHandle, LeaseSource, Leased, LeftSession, Login, Pending, Pki, Renewed, SourceFault,
    StoreFault,
};

/// What comes around the data of what was minted.
#[derive(Deserialize)]
struct Told<'a> {
    #[serde(default)]
    request_id: String,
    #[serde(default)]
    lease_id: String,
    #[serde(default)]
    lease_duration: u64,
    #[serde(default)]
    renewable: bool,
    #[serde(borrow, default)]
    data: Option<Fields<'a>>,
}

#[derive(Deserialize)]
struct RenewalTold {
    #[serde(default)]
    request_id: String,
    #[serde(default)]
    lease_duration: u64,
    #[serde(default)]
    renewable: bool,
}

impl Vault {
    async fn mint_now(&self, login: &Login, engine: &Engine) -> Result<Answer<Leased>, SourceFault> {
        let account = self.account_of(login)?;
        let call = match engine {
            // Asking makes a user: it is not asked again unless it is certain that nothing was done.
            Engine::Database { mount, role } => {
                Call { repeat: Repeat::Undone, ..Call::get(target(&[mount, "creds", role])) }
            }
            Engine::Pki(pki) => Call::post(target(&[&pki.mount, "issue", &pki.role]), pki_body(pki)),
        };
        let (answered, session) = account.ask_held(&call).await?;
        if !answered.is_done() {
            return Err(answered.refusal(&engine.describe()));
        }
        let told: Told<'_> = answered.reply.json().map_err(|fault| answered.fault(store_fault(fault)))?;
        let data = told.data.ok_or_else(|| odd(&answered, "nothing was minted"))?;
        let tenure = Arc::new(Held::new(account, session));
        let length = Some(Duration::from_secs(told.lease_duration)).filter(|length| !length.is_zero());
        let leased = match engine {
            Engine::Database { .. } => {
                if told.lease_id.is_empty() {
                    return Err(odd(&answered, "there is no lease, so it could never be ended"));
                }
                Leased {
                    fields: database_fields(&answered, &data)?,
                    handle: LeaseHandle::Lease(told.lease_id),
                    length,
                    is_renewable: told.renewable,
                    tenure: Some(tenure),
                }
            }
            Engine::Pki(pki) => {
                let issued = Issued::read(&answered, &data)?;
                let has_lease = !told.lease_id.is_empty();
                let now = answered.reply.date.unwrap_or_else(super::kv::now);
                let left = issued.expires.micros().saturating_sub(now.micros());
                let until_expiry = Duration::from_micros(u64::try_from(left).unwrap_or(0));
                let handle = if has_lease {
                    LeaseHandle::Lease(told.lease_id)
                } else {
                    LeaseHandle::Certificate { mount: pki.mount.clone(), serial: issued.serial.clone() }
                };
                Leased {
                    fields: issued.into_fields(),
                    handle,
                    length: Some(if has_lease { length.unwrap_or(until_expiry) } else { until_expiry }),
                    is_renewable: false,
                    // A certificate without a lease ends by its own date.
                    tenure: has_lease.then_some(tenure as Arc<dyn crate::store::Tenure>),
                }
            }
        };
        let request_id = (!told.request_id.is_empty()).then_some(told.request_id);
        Ok(Answer { content: leased, request_id })
    }

    async fn renew_now(
        &self,
        login: &Login,
        handle: &LeaseHandle,
        length: Duration,
    ) -> Result<Answer<Renewed>, SourceFault> {
        let LeaseHandle::Lease(id) = handle else {
            return Err(StoreFault::Invalid("a certificate is not renewed, another is issued".into()).into());
        };
        let mut body = JsonText::new();
        body.raw("{\"lease_id\":").string(id).raw(&format!(",\"increment\":{}}}", length.as_secs().max(1)));
        let mut call = Call::post(target(&["sys", "leases", "renew"]), body.finish());
        call.repeat = Repeat::Always;
        let answered = self.account_of(login)?.ask(&call).await?;
        if is_unknown(&answered) {
            return Ok(Answer { content: Renewed::Gone, request_id: Some(answered.correlation_id) });
        }
        if !answered.is_done() {
            return Err(answered.refusal("the renewal of a lease"));
        }
        let told: RenewalTold = answered.reply.json().map_err(|fault| answered.fault(store_fault(fault)))?;
        let length = Duration::from_secs(told.lease_duration);
        let request_id = (!told.request_id.is_empty()).then_some(told.request_id);
        Ok(Answer { content: Renewed::For { length, is_renewable: told.renewable }, request_id })
    }

    async fn revoke_now(&self, login: &Login, handle: &LeaseHandle) -> Result<Answer<()>, SourceFault> {
        let mut body = JsonText::new();
        let call = match handle {
            // Only when it is done is it said to be.
            LeaseHandle::Lease(id) => {
                body.raw("{\"lease_id\":").string(id).raw(",\"sync\":true}");
                Call::post(target(&["sys", "leases", "revoke"]), body.finish())
            }
            LeaseHandle::Certificate { mount, serial } => {
                body.raw("{\"serial_number\":").string(serial).raw("}");
                Call::post(target(&[mount, "revoke"]), body.finish())
            }
        };
        let call = Call { repeat: Repeat::Always, ..call };
        let answered = self.account_of(login)?.ask(&call).await?;
        if answered.is_done() || is_unknown(&answered) {
            return Ok(Answer { content: (), request_id: Some(answered.correlation_id) });
        }
        Err(answered.refusal("the end of a lease"))
    }
}

impl Vault {
    async fn end_session_now(&self, session: &LeftSession) -> Result<Answer<()>, SourceFault> {
        let answered = self.account_of(&session.login)?.send_end(&session.token).await?;
        // One that the server knows no more is refused like one that may do nothing.
        if answered.is_done() || answered.status() == 403 {
            return Ok(Answer { content: (), request_id: Some(answered.correlation_id) });
        }
        Err(answered.refusal("the end of a session"))
    }
}

/// Whether the server knows no such lease.
fn is_unknown(answered: &Answered) -> bool {
    let words = ["lease not found", "invalid lease", "certificate with serial"];
    matches!(answered.status(), 400 | 404) && words.iter().any(|words| answered.says(words))
}

fn odd(answered: &Answered, what: &str) -> SourceFault {
    answered.fault(StoreFault::Away(format!("the server answered something odd: {what}")))
}

fn pki_body(pki: &Pki) -> SecretBytes {
    let mut body = JsonText::new();
    for (at, (name, value)) in pki.parameters().iter().enumerate() {
        body.raw(if at == 0 { "{" } else { "," }).string(name).raw(":").string(value);
    }
    body.raw("}");
    body.finish()
}

fn raw_of<'a>(data: &Fields<'a>, name: &str) -> Option<&'a RawValue> {
    data.0.iter().find(|(found, _)| found == name).map(|(_, value)| *value)
}

fn value_of(answered: &Answered, data: &Fields<'_>, name: &str) -> Result<SecretBytes, SourceFault> {
    let raw = raw_of(data, name).ok_or_else(|| odd(answered, &format!("it has no {name}")))?;
    let bytes = bytes_of(raw).map_err(|fault| answered.fault(store_fault(fault)))?;
    if bytes.is_empty() || bytes.len() > VALUE_BYTES_MAX {
        return Err(odd(answered, &format!("its {name} is empty or too large")));
    }
    Ok(bytes)
}

fn named(name: &str, value: SecretBytes) -> Option<(FieldName, SecretBytes)> {
    FieldName::from_store(name).ok().map(|name| (name, value))
}

fn database_fields(
    answered: &Answered,
    data: &Fields<'_>,
) -> Result<Vec<(FieldName, SecretBytes)>, SourceFault> {
    let mut fields = Vec::new();
    for name in ["password", "username"] {
        fields.extend(named(name, value_of(answered, data, name)?));
    }
    Ok(fields)
}

/// A certificate as the server issued it.
struct Issued {
    certificate: SecretBytes,
    private_key: SecretBytes,
    issuing_ca: SecretBytes,
    /// From the issuer up.
    chain: Vec<SecretBytes>,
    serial: String,
    expires: UnixTime,
}

impl Issued {
    fn read(answered: &Answered, data: &Fields<'_>) -> Result<Self, SourceFault> {
        let issuing_ca = value_of(answered, data, "issuing_ca")?;
        let invalid = |_| odd(answered, "its chain is none");
        let mut chain = Vec::new();
        if let Some(raw) = raw_of(data, "ca_chain") {
            let links: Vec<&RawValue> =
                serde_json::from_str(raw.get()).map_err(|error| invalid(error.to_string()))?;
            for link in links {
                chain.push(bytes_of(link).map_err(|fault| answered.fault(store_fault(fault)))?);
            }
        }
        if chain.is_empty() {
            chain.push(issuing_ca.shared());
        }
        let number = |name: &str| raw_of(data, name).and_then(|raw| raw.get().parse::<i64>().ok());
        let serial =
            raw_of(data, "serial_number").and_then(|raw| serde_json::from_str::<String>(raw.get()).ok());
        let expires = number("expiration").ok_or_else(|| odd(answered, "it has no expiration"))?;
        Ok(Self {
            certificate: value_of(answered, data, "certificate")?,
            private_key: value_of(answered, data, "private_key")?,
            issuing_ca,
            chain,
            serial: serial.ok_or_else(|| odd(answered, "it has no serial_number"))?,
            expires: UnixTime::from_micros(expires.saturating_mul(1_000_000)),
        })
    }

    fn into_fields(self) -> Vec<(FieldName, SecretBytes)> {
        let chain: Vec<&SecretBytes> = self.chain.iter().collect();
        let with_chain = |first: &[&SecretBytes]| lines(&[first, &chain].concat());
        let serial = SecretBytes::taken_from(&mut self.serial.clone().into_bytes());
        [
            named("bundle", with_chain(&[&self.private_key, &self.certificate])),
            named("ca_chain", lines(&chain)),
            named("certificate", lines(&[&self.certificate])),
            named("fullchain", with_chain(&[&self.certificate])),
            named("issuing_ca", lines(&[&self.issuing_ca])),
            named("private_key", lines(&[&self.private_key])),
            named("serial_number", serial),
        ]
        .into_iter()
        .flatten()
        .collect()
    }
}

/// PEM blocks one after the other, each ended by one newline, as every reader of such files takes them.
fn lines(blocks: &[&SecretBytes]) -> SecretBytes {
    let trimmed = || blocks.iter().map(|block| block.expose().trim_ascii());
    let length = trimmed().map(|block| block.len() + 1).sum();
    let filled: Result<_, std::convert::Infallible> = SecretBytes::filled_by(length, |into| {
        let mut at = 0;
        for block in trimmed() {
            into[at..at + block.len()].copy_from_slice(block);
            at += block.len();
            into[at] = b'\n';
            at += 1;
        }
        Ok(())
    });
    match filled {
        Ok(bytes) => bytes,
        Err(never) => match never {},
    }
}

impl LeaseSource for Vault {
    fn mint<'a>(
        &'a self,
        login: &'a Login,
        engine: &'a Engine,
    ) -> Pending<'a, Result<Answer<Leased>, SourceFault>> {
        Box::pin(self.within(1, self.mint_now(login, engine)))
    }

    fn renew<'a>(
        &'a self,
        login: &'a Login,
        handle: &'a LeaseHandle,
        length: Duration,
    ) -> Pending<'a, Result<Answer<Renewed>, SourceFault>> {
        Box::pin(self.within(1, self.renew_now(login, handle, length)))
    }

    fn revoke<'a>(
        &'a self,
        login: &'a Login,
        handle: &'a LeaseHandle,
    ) -> Pending<'a, Result<Answer<()>, SourceFault>> {
        Box::pin(self.within(1, self.revoke_now(login, handle)))
    }

    fn end_session<'a>(&'a self, session: &'a LeftSession) -> Pending<'a, Result<Answer<()>, SourceFault>> {
        Box::pin(self.within(1, self.end_session_now(session)))
    }
}
