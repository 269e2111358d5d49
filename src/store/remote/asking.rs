//! Requests to the engine: let through by the breaker, bounded in time, one at a time for each thing.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::Remote;
use super::verdict::Saying;
use crate::model::{FieldName, SecretBytes, SecretPath, Version};
use crate::store::{Answer, Description, Login, SourceFault, StoreFault};

/// What a read is about: the login, the secret, the version (`None`: the one there is, at an engine that numbers none), and
/// how many changes went through us before it.
pub(super) type ReadKey = (Login, SecretPath, Option<Version>, u64);

/// What came of a read; all who waited share it.
pub(super) type Asked = Result<Arc<Read>, StoreFault>;

/// Every field of one version.
pub(super) struct Read {
    pub(super) version: Version,
    /// Ordered by name.
    pub(super) fields: Vec<(FieldName, SecretBytes)>,
    pub(super) request_id: Option<Arc<str>>,
}

impl Read {
    pub(super) fn field(&self, name: &FieldName) -> Option<&SecretBytes> {
        let at = self.fields.binary_search_by(|(known, _)| known.cmp(name)).ok()?;
        self.fields.get(at).map(|(_, value)| value)
    }
}

/// The fault as it is passed on: with the engine's id of the request, where it says no or fails.
fn passed_on(fault: SourceFault) -> StoreFault {
    match fault.request_id {
        Some(request_id) if Saying::of(&fault.fault) != Saying::Gone => {
            StoreFault::Answered { fault: Box::new(fault.fault), request_id: request_id.into() }
        }
        _ => fault.fault,
    }
}

impl Remote {
    /// The number of a request that is made now.
    pub(super) fn next_asked(&self) -> u64 {
        self.asked.fetch_add(1, Ordering::SeqCst)
    }

    /// Sends one request and tells the breaker what came of it.
    pub(super) async fn ask<T>(
        &self,
        request: impl Future<Output = Result<Answer<T>, SourceFault>>,
    ) -> Result<Answer<T>, StoreFault> {
        self.breaker.admit(self.now_us(), self.is_watched.load(Ordering::Acquire))?;
        self.requests.fetch_add(1, Ordering::Relaxed);
        let answer = tokio::time::timeout(self.options.answer_within, request)
            .await
            .unwrap_or_else(|_| Err(StoreFault::Timeout.into()));
        self.tell_breaker(answer.as_ref().err(), false);
        answer.map_err(passed_on)
    }

    pub(super) fn tell_breaker(&self, fault: Option<&SourceFault>, is_decisive: bool) {
        let now_us = self.now_us();
        match fault {
            Some(SourceFault { fault, retry_after, .. }) if Saying::is_outage(fault) => {
                if self.breaker.failed(fault, *retry_after, is_decisive, now_us) {
                    tracing::warn!(store = &*self.name, %fault, "the store does not answer: it is left alone and probed");
                }
                // Whoever watches finds out whether it was this request alone.
                self.wake.notify_one();
            }
            // An answer that makes no sense says nothing about the next one.
            Some(SourceFault { fault, .. }) if Saying::of(fault) == Saying::Silent => {}
            _ => {
                if self.breaker.answered(now_us) {
                    tracing::info!(store = &*self.name, "the store answers again");
                    self.wake.notify_one();
                }
            }
        }
    }

    /// Reads a version, or waits for whoever reads it already.
    pub(super) async fn read(&self, login: &Login, path: &SecretPath, version: Version) -> Asked {
        let (epoch, is_numbered) = {
            let memory = self.memory.read();
            memory.get(path).map_or((0, true), |entry| (entry.epoch, entry.is_numbered))
        };
        self.read_version(login, path, is_numbered.then_some(version), epoch).await
    }

    pub(super) async fn read_version(
        &self,
        login: &Login,
        path: &SecretPath,
        version: Option<Version>,
        epoch: u64,
    ) -> Asked {
        let key = (login.clone(), path.clone(), version, epoch);
        self.reads.join(key, self.read_alone(login, path, version, epoch)).await
    }

    async fn read_alone(
        &self,
        login: &Login,
        path: &SecretPath,
        version: Option<Version>,
        epoch: u64,
    ) -> Asked {
        // Fresh from when it was asked for: what the engine changed while it answered is not missed.
        let asked_us = self.now_us();
        match self.ask(self.source.read(login, path, version)).await {
            Ok(Answer { content, request_id }) => {
                let request_id = request_id.map(Arc::from);
                self.take_in((login, path, version), epoch, asked_us, content, request_id)
            }
            Err(fault) => {
                self.hear_fault(login, path, version, &fault);
                Err(fault)
            }
        }
    }

    /// Has the engine describe a secret. `may_join`: an answer to a request that was made a moment before will do.
    pub(super) async fn describe(
        &self,
        login: &Login,
        path: &SecretPath,
        may_join: bool,
    ) -> Result<(), StoreFault> {
        if !may_join {
            return self.describe_alone(login, path, true).await;
        }
        let epoch = self.memory.read().get(path).map_or(0, |entry| entry.epoch);
        self.descriptions.join((path.clone(), epoch), self.describe_alone(login, path, false)).await
    }

    /// Describes under the machine's login, which names and metadata are known under, or under that of whoever asks: one of
    /// them may have the right where the other has not.
    async fn describe_alone(
        &self,
        login: &Login,
        path: &SecretPath,
        is_refresh: bool,
    ) -> Result<(), StoreFault> {
        let mut logins = Vec::with_capacity(3);
        {
            let memory = self.memory.read();
            let entry = memory.get(path);
            logins.extend(entry.and_then(|entry| entry.describer.clone()));
            logins.push(Login::machine());
            logins.push(login.clone());
            logins.extend(entry.and_then(|entry| entry.reader.clone()));
        }
        logins.retain(|one| one == login || self.is_used(one));
        let mut tried: Vec<Login> = Vec::with_capacity(3);
        let mut refusal = None;
        for one in logins {
            if tried.contains(&one) {
                continue;
            }
            let asked = self.next_asked();
            match self.ask(self.source.describe(&one, path)).await {
                Ok(Answer { content, .. }) => {
                    return self.hear_description(login, path, asked, content, one, is_refresh).await;
                }
                Err(fault) if Saying::of(&fault) == Saying::Refused => refusal = Some(fault),
                Err(fault) if Saying::of(&fault) == Saying::Gone => {
                    return self.hear_description(login, path, asked, None, one, is_refresh).await;
                }
                Err(fault) => return Err(fault),
            }
            tried.push(one);
        }
        Err(refusal.unwrap_or_else(|| StoreFault::Refused("no login may describe the secret".into())))
    }

    async fn hear_description(
        &self,
        login: &Login,
        path: &SecretPath,
        asked: u64,
        said: Option<Description>,
        describer: Login,
        is_refresh: bool,
    ) -> Result<(), StoreFault> {
        let is_numbered = said.as_ref().is_none_or(|said| !said.versions.is_empty());
        self.learn_description(path, asked, said, Some(describer))?;
        if is_numbered {
            return Ok(());
        }
        // What it holds has a number once it was read.
        let (epoch, is_known) = {
            let memory = self.memory.read();
            memory.get(path).map_or((0, false), |entry| (entry.epoch, entry.secret.current.is_some()))
        };
        if is_known && !is_refresh {
            return Ok(());
        }
        match self.read_version(login, path, None, epoch).await {
            Ok(_) => Ok(()),
            Err(fault) if Saying::of(&fault) == Saying::Gone => Ok(()),
            Err(fault) => Err(fault),
        }
    }
}
