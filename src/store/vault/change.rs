//! Changes of a secret with versions. What they mean is decided as for every store (`semantics`); here it becomes requests,
//! in an order in which nobody is ever given a value that is not for him, wherever the rest is cut off.

use std::collections::BTreeMap;
use std::time::Duration;

use super::Vault;
use super::change_plain::{data_object, names_of};
use super::kv::ReadTold;
use super::metadata::{KeptVersion, Metadata};
use super::pins::{FIELDS, Pins};
use super::server::{Answered, Call};
use super::state::{self, held, leads_to_the_same, pins_for};
use super::target::target;
use crate::model::{
    FieldInfo, FieldName, FieldNode, SecretBytes, SecretPath, Stage, State, UnixTime, Version,
};
use crate::store::http::{Fields, JsonText, Method};
use crate::store::semantics::{Around, Done, Held, apply};
use crate::store::{Answer, Change, Login, Made, SourceFault, StoreFault};

/// For how long a version may be on its way to the server after it was said to be staged.
const STAGING_MAX: Duration = Duration::from_secs(60);

/// How many versions the engine keeps where nobody says.
const KEPT_USUALLY: u32 = 10;

/// Everything one change is worked out from.
struct Work<'a> {
    login: &'a Login,
    path: &'a SecretPath,
    /// As the server has it; empty where it knows nothing of the path.
    metadata: Metadata,
    is_new: bool,
    pins: Pins,
    before: Held,
    after: Held,
    /// The server's clock, as near as it says.
    server_now: UnixTime,
    now: UnixTime,
}

impl Vault {
    pub(super) async fn change_versioned(
        &self,
        login: &Login,
        change: &Change,
    ) -> Result<Answer<Made>, SourceFault> {
        let path = change.secret();
        let (metadata, answered, _) = self.metadata(login, path).await?;
        // Others read what is written, by clocks of their own.
        let now = answered.shared_now();
        let is_new = metadata.is_none();
        let metadata = metadata.unwrap_or_else(|| Metadata {
            newest: 0,
            revision: None,
            kept_max: 0,
            updated: now,
            versions: Vec::new(),
            custom: BTreeMap::new(),
        });
        let pins = Pins::read(&metadata);
        let mut before = held(path, &metadata, &pins, answered.now());
        let base = self.base(login, change, &mut before).await?;
        let mut after = before.clone();
        let mut next_node = 1;
        let done = apply(&mut after, change, &mut Around { now, next_node: &mut next_node })?;
        let server_now = answered.reply.date.unwrap_or(now);
        let work = Work { login, path, metadata, is_new, pins, before, after, server_now, now };
        if work.after == work.before {
            let description = state::described(work.after, &work.pins)
                .map(|description| state::by_our_clock(description, answered.ahead_us()));
            let content = Made { version: done.version, carried: done.carried, description };
            return Ok(Answer { content, request_id: Some(answered.correlation_id) });
        }
        let request_id = match change {
            Change::Put { fields, stage, .. } => {
                self.store_version(&work, fields, *stage, base.as_ref(), &done).await?
            }
            _ => self.change_known(&work, change).await?,
        };
        self.settle(&work, change, done, request_id).await
    }

    /// The version that a new one takes its other fields from, with the names of its fields put into `before`.
    async fn base(
        &self,
        login: &Login,
        change: &Change,
        before: &mut Held,
    ) -> Result<Option<Answered>, SourceFault> {
        let Change::Put { secret, stage, only: false, .. } = change else { return Ok(None) };
        if before.secret.deleted {
            return Ok(None);
        }
        let Some(number) = before.secret.at(*stage).or(before.secret.current) else { return Ok(None) };
        let state = before.secret.version(number).map(|version| version.state);
        if !matches!(state, Some(State::Active | State::Revoked)) {
            // Nobody can tell any more what it held.
            return Err(StoreFault::Invalid(format!(
                "version {number} of {secret} may not be read any more, so its fields cannot be carried over: \
                 name every field, and use --only"
            ))
            .into());
        }
        let answered = self.ask_version(login, secret, number).await?;
        if !answered.is_done() {
            return Err(
                answered.refusal(&format!("what version {number} of {secret} holds, to carry it over"))
            );
        }
        let fields = told_fields(&answered)?;
        if let Some(version) = before.secret.versions.get_mut(number) {
            version.fields = names_of(&fields).into_iter().map(placeholder).collect();
        }
        Ok(Some(answered))
    }

    /// Stores a new version. One that is staged is said to be so before it is there.
    async fn store_version(
        &self,
        work: &Work<'_>,
        given: &[(FieldName, SecretBytes)],
        stage: Stage,
        base: Option<&Answered>,
        done: &Done,
    ) -> Result<Option<String>, SourceFault> {
        let Some(number) = done.version else { return Ok(None) };
        let mut planned = work.metadata.clone();
        planned.newest = number.get();
        planned.versions.push(KeptVersion { number, created: work.now, deletion: None, destroyed: false });
        let mut names: Vec<FieldName> =
            given.iter().map(|(name, _)| name.clone()).chain(done.carried.iter().cloned()).collect();
        names.sort();
        let says_ownership = work.after.secret.ownership != work.before.secret.ownership;
        // What was said of a version that was never stored must not be taken for this one.
        let is_haunted =
            work.pins.stages.is_some_and(|pin| pin.upto.is_some_and(|upto| upto >= number.get()));
        let said_before = if stage == Stage::Next {
            self.check_room(work, number).await?;
            // Written down in seconds.
            let until = work.server_now.max(work.now).plus(STAGING_MAX).micros().div_euclid(1_000_000);
            let until = Some(UnixTime::from_micros(until * 1_000_000));
            let mut pins = pins_for(&work.after, &planned, &work.pins, until, work.now);
            pins.fields.push((Some(number), names.clone()));
            Some(pins)
        } else if says_ownership || is_haunted {
            let mut pins = work.pins.clone();
            pins.ownership = work.after.secret.ownership.clone();
            if is_haunted {
                pins = pins_for(&work.before, &work.metadata, &pins, None, work.now);
                pins.ownership = work.after.secret.ownership.clone();
            }
            Some(pins)
        } else {
            None
        };
        if let Some(pins) = &said_before {
            self.write_pins(work, &work.metadata, pins, work.is_new).await?;
        }
        let mut kept = match base {
            Some(base) => told_fields(base)?,
            None => Fields(Vec::new()),
        };
        kept.0.retain(|(name, _)| done.carried.iter().any(|carried| carried.as_str() == name));
        let mut text = JsonText::new();
        text.raw(&format!("{{\"options\":{{\"cas\":{}}},\"data\":", work.metadata.newest));
        let mut text = data_object(given, &kept, text);
        text.raw("}");
        let call = Call::post(target(&[&self.options.mount, "data", work.path.as_str()]), text.finish());
        let answered = self.ask_as(work.login, &call).await?;
        if !answered.is_done() {
            if let Some(pins) = said_before.filter(|_| answered.status() < 500) {
                self.take_back(work, &pins).await;
            }
            let is_lost = answered.status() == 400 && answered.says("check-and-set");
            if is_lost {
                return Err(answered.fault(lost_race(work.path)));
            }
            return Err(answered.refusal(&format!("version {number} of {} could not be stored", work.path)));
        }
        if stage == Stage::Current {
            self.say_fields(work, number, names).await;
        }
        Ok(answered
            .data::<serde::de::IgnoredAny>()
            .ok()
            .and_then(|(_, id)| id)
            .or(Some(answered.correlation_id)))
    }

    /// Refuses to stage what would make the engine forget the version that readers get: it keeps the newest, as many as it
    /// is told to.
    async fn check_room(&self, work: &Work<'_>, number: Version) -> Result<(), SourceFault> {
        let Some(current) = work.after.secret.current else { return Ok(()) };
        let needed = number.get() - current.get() + 1;
        let told = self.kept_by_engine(work.login).await.unwrap_or(0);
        let said = work.metadata.kept_max.max(told);
        let kept = if said == 0 { KEPT_USUALLY } else { said };
        if needed <= kept {
            return Ok(());
        }
        let (path, mount) = (work.path, &self.options.mount);
        let text = format!(
            "storing version {number} of {path} would make the server forget version {current}, which is current: it keeps \
             {kept} versions. Promote one that is staged, or: bao kv metadata put -mount={mount} -max-versions={needed} {path}"
        );
        Err(StoreFault::Invalid(text).into())
    }

    /// How many versions the engine keeps of every secret, where it says.
    async fn kept_by_engine(&self, login: &Login) -> Option<u32> {
        #[derive(serde::Deserialize)]
        struct Told {
            #[serde(default)]
            max_versions: u32,
        }
        let answered = self.ask_as(login, &Call::get(target(&[&self.options.mount, "config"]))).await.ok()?;
        answered.data::<Told>().ok().map(|(told, _)| told.max_versions)
    }

    /// Notes the names of the fields of a version, so that they can be listed before it is fetched. Only a help: the
    /// version is stored, with or without.
    async fn say_fields(&self, work: &Work<'_>, number: Version, names: Vec<FieldName>) {
        let Ok((Some(metadata), ..)) = self.metadata(work.login, work.path).await else { return };
        if metadata.newest != number.get() {
            return;
        }
        let mut pins = Pins::read(&metadata);
        if pins.fields_of(number) == Some(&names) {
            return;
        }
        let stages = &work.after.secret;
        pins.fields.retain(|(of, _)| of.is_none_or(|of| of != number && !stages.stages_of(of).is_empty()));
        pins.fields.push((Some(number), names));
        let Some(text) = pins.write().and_then(|mut all| all.remove(FIELDS)).flatten() else { return };
        let only = BTreeMap::from([(FIELDS, Some(text))]);
        if let Err(fault) = self.patch(work, &metadata, &only, false).await {
            tracing::debug!(store = self.options.name, fault = %fault.fault, "names of fields could not be noted");
        }
    }

    /// Undoes what was said of a version that was not stored after all.
    async fn take_back(&self, work: &Work<'_>, said: &Pins) {
        let Ok((Some(metadata), ..)) = self.metadata(work.login, work.path).await else { return };
        if Pins::read(&metadata).stages != said.stages {
            return;
        }
        if let Err(fault) = self.write_pins(work, &metadata, &work.pins, false).await {
            tracing::warn!(
                store = self.options.name, secret = %work.path, fault = %fault.fault,
                "what was said of a version that was not stored could not be taken back"
            );
        }
    }

    /// Changes versions that are there.
    async fn change_known(&self, work: &Work<'_>, change: &Change) -> Result<Option<String>, SourceFault> {
        let before_stages = || pins_for(&work.after, &work.metadata, &work.pins, None, work.now);
        let is_deleted = work.before.secret.deleted;
        match change {
            Change::Delete { version: Some(version), .. } if !is_deleted => {
                self.act(work, "delete", &[*version]).await
            }
            Change::Undelete { version: Some(version), .. } if !is_deleted => {
                self.act(work, "undelete", &[*version]).await
            }
            Change::Destroy { version: Some(version), .. } => self.act(work, "destroy", &[*version]).await,
            Change::Destroy { version: None, .. } => {
                let all: Vec<Version> =
                    work.before.secret.versions.iter().map(|version| version.number).collect();
                self.act(work, "destroy", &all).await?;
                self.write_pins(work, &self.fresh(work).await?, &before_stages(), false).await
            }
            Change::Delete { version: None, .. } => {
                // First it is hidden, then its versions are: who looks in between sees it hidden.
                let id = self.write_pins(work, &work.metadata, &before_stages(), false).await?;
                self.act(work, "delete", &state::hidden_with_the_secret(&work.before)).await?;
                Ok(id)
            }
            Change::Undelete { version: None, .. } => {
                let id = self.act(work, "undelete", &state::hidden_with_the_secret(&work.before)).await?;
                self.write_pins(work, &self.fresh(work).await?, &before_stages(), false).await?;
                Ok(id)
            }
            _ => self.write_pins(work, &work.metadata, &before_stages(), false).await,
        }
    }

    /// Has the engine do something with versions.
    async fn act(
        &self,
        work: &Work<'_>,
        what: &str,
        versions: &[Version],
    ) -> Result<Option<String>, SourceFault> {
        if versions.is_empty() {
            return Ok(None);
        }
        let numbers: Vec<String> = versions.iter().map(ToString::to_string).collect();
        let mut text = JsonText::new();
        text.raw(&format!("{{\"versions\":[{}]}}", numbers.join(",")));
        let call = Call::post(target(&[&self.options.mount, what, work.path.as_str()]), text.finish());
        let answered = self.ask_as(work.login, &call).await?;
        if !answered.is_done() {
            return Err(answered.refusal(&format!("{what} of {}", work.path)));
        }
        Ok(Some(answered.correlation_id))
    }

    /// The metadata as they are after a step of our own, unless somebody else took one too.
    async fn fresh(&self, work: &Work<'_>) -> Result<Metadata, SourceFault> {
        let (metadata, ..) = self.metadata(work.login, work.path).await?;
        let metadata = metadata.ok_or_else(|| lost_race(work.path))?;
        let is_same = metadata.newest == work.metadata.newest && metadata.custom == work.metadata.custom;
        if is_same { Ok(metadata) } else { Err(lost_race(work.path).into()) }
    }

    /// Writes beside the secret what differs from what is there.
    async fn write_pins(
        &self,
        work: &Work<'_>,
        there: &Metadata,
        pins: &Pins,
        is_new: bool,
    ) -> Result<Option<String>, SourceFault> {
        let wanted = pins.write().ok_or(StoreFault::TooLarge {
            what: "what is written beside the secret (owner, revoked versions)",
            limit: "512 bytes a word at a KV engine",
            remedy: "shorten the owner, or destroy revoked versions",
        })?;
        self.patch(work, there, &wanted, is_new).await
    }

    async fn patch(
        &self,
        work: &Work<'_>,
        there: &Metadata,
        wanted: &BTreeMap<&'static str, Option<String>>,
        is_new: bool,
    ) -> Result<Option<String>, SourceFault> {
        let differs =
            |(key, text): &(&&'static str, &Option<String>)| there.custom.get(**key) != text.as_ref();
        let changes: Vec<_> = wanted.iter().filter(differs).collect();
        if changes.is_empty() {
            return Ok(None);
        }
        let mut text = JsonText::new();
        text.raw("{\"custom_metadata\":{");
        let mut is_first = true;
        for (key, value) in changes.into_iter().filter(|(_, value)| !is_new || value.is_some()) {
            text.raw(if std::mem::take(&mut is_first) { "" } else { "," }).string(key).raw(":");
            match value {
                Some(value) => text.string(value),
                None => text.raw("null"),
            };
        }
        text.raw("}");
        if let Some(revision) = there.revision.filter(|_| !is_new) {
            text.raw(&format!(",\"metadata_cas\":{revision}"));
        }
        text.raw("}");
        let mut call =
            Call::post(target(&[&self.options.mount, "metadata", work.path.as_str()]), text.finish());
        if !is_new {
            call.method = Method::Patch;
            call.is_merge = true;
        }
        let answered = self.ask_as(work.login, &call).await?;
        match answered.status() {
            _ if answered.is_done() => Ok(Some(answered.correlation_id)),
            404 => Err(answered.fault(lost_race(work.path))),
            400 if answered.says("check-and-set") => Err(answered.fault(lost_race(work.path))),
            _ => {
                let mount = &self.options.mount;
                let about = format!(
                    "stages, owner and the like of {} could not be written (it takes create and patch on {mount}/metadata/{})",
                    work.path, work.path
                );
                Err(answered.refusal(&about))
            }
        }
    }

    /// Looks at what came of it, and writes down what does not follow by itself.
    async fn settle(
        &self,
        work: &Work<'_>,
        change: &Change,
        done: Done,
        request_id: Option<String>,
    ) -> Result<Answer<Made>, SourceFault> {
        let (metadata, answered, _) = self.metadata(work.login, work.path).await?;
        let (now, ahead_us) = (answered.now(), answered.ahead_us());
        let request_id = request_id.or(Some(answered.correlation_id));
        let lost = || SourceFault { request_id: request_id.clone(), ..lost_race(work.path).into() };
        let mut metadata = metadata.ok_or_else(lost)?;
        let expected = match change {
            Change::Put { .. } => done.version.map_or(0, Version::get),
            _ => work.metadata.newest,
        };
        let mut pins = Pins::read(&metadata);
        let mut there = held(work.path, &metadata, &pins, now);
        // A version that somebody stored since is his: there is nothing to settle then.
        if metadata.newest == expected && !leads_to_the_same(&there, &work.after) {
            let wanted = pins_for(&work.after, &metadata, &pins, None, now);
            self.write_pins(work, &metadata, &wanted, false).await?;
            let (again, ..) = self.metadata(work.login, work.path).await?;
            metadata = again.ok_or_else(lost)?;
            pins = Pins::read(&metadata);
            there = held(work.path, &metadata, &pins, now);
            if metadata.newest == expected && !leads_to_the_same(&there, &work.after) {
                return Err(lost());
            }
        }
        let description =
            state::described(there, &pins).map(|description| state::by_our_clock(description, ahead_us));
        let content = Made { version: done.version, carried: done.carried, description };
        Ok(Answer { content, request_id })
    }
}

fn told_fields(answered: &Answered) -> Result<Fields<'_>, SourceFault> {
    let (told, _): (ReadTold<'_>, _) = answered.data()?;
    told.data.ok_or_else(|| answered.fault(StoreFault::Away("the server answered without data".to_owned())))
}

/// Numbers of fields are given in front of the engine.
fn placeholder(name: FieldName) -> FieldInfo {
    let node = FieldNode::new(1).unwrap_or_else(|| unreachable!("1 is a number of a field"));
    FieldInfo { name, bytes: None, node }
}

fn lost_race(path: &SecretPath) -> StoreFault {
    StoreFault::Invalid(format!(
        "somebody else changed {path} at the same time, and nothing was done: look at it (`credfs versions {path}`), \
         then try again"
    ))
}
