//! Changes of a secret without versions: it is replaced, or it is gone. The engine checks nothing and keeps nothing, so what
//! needs a version, a stage or metadata is refused, and a race is won by whoever comes last.

use super::Vault;
use super::kv::plain_description;
use super::server::Call;
use super::target::target;
use crate::model::{FieldName, Ownership, SecretBytes, SecretPath, Stage};
use crate::store::change::{check_count, check_put};
use crate::store::http::{Fields, JsonText, Method, Repeat};
use crate::store::{Answer, Change, Login, Made, SourceFault, StoreFault};

impl Vault {
    pub(super) async fn change_plain(
        &self,
        login: &Login,
        change: &Change,
    ) -> Result<Answer<Made>, SourceFault> {
        let mount = &self.options.mount;
        let cannot = |what: &str, remedy: &str| {
            let text = format!("\"{mount}\" is a KV engine of version 1, which {what}: {remedy}");
            Err(SourceFault::from(StoreFault::Invalid(text)))
        };
        match change {
            Change::Put { stage: Stage::Next | Stage::Previous, .. } => cannot(
                "keeps one value and has no stages",
                "put it as current, or use an engine of version 2",
            ),
            Change::Put { ownership, .. } if *ownership != Ownership::default() => {
                cannot("keeps no metadata", "leave out --owner, --impact, --rotate-every and --grace")
            }
            Change::Put { secret, fields, only, .. } => self.put_plain(login, secret, fields, *only).await,
            Change::Destroy { secret, version: None } => self.destroy_plain(login, secret).await,
            Change::Delete { .. } | Change::Undelete { .. } => {
                cannot("cannot restore what it deletes", "`credfs destroy` takes it away for good")
            }
            Change::Promote { .. }
            | Change::Rollback { .. }
            | Change::Revoke { .. }
            | Change::Destroy { .. } => cannot("has no versions", "put the value that shall be there"),
        }
    }

    async fn put_plain(
        &self,
        login: &Login,
        secret: &SecretPath,
        fields: &[(FieldName, SecretBytes)],
        only: bool,
    ) -> Result<Answer<Made>, SourceFault> {
        check_fields(secret, fields)?;
        let before = if only { None } else { Some(self.ask_plain(login, secret).await?) };
        let mut kept = Fields(Vec::new());
        if let Some(before) = before.as_ref().filter(|before| before.status() != 404) {
            if !before.is_done() {
                return Err(before.refusal(&format!("what {secret} holds, to carry it over")));
            }
            kept = before.data::<Fields<'_>>()?.0;
        }
        kept.0.retain(|(name, _)| !fields.iter().any(|(given, _)| given.as_str() == name));
        let body = data_object(fields, &kept, JsonText::new());
        let carried = names_of(&kept);
        let call = Call::post(target(&[&self.options.mount, secret.as_str()]), body.finish());
        let answered = self.ask_as(login, &call).await?;
        if !answered.is_done() {
            return Err(answered.refusal(&format!("{secret} could not be stored")));
        }
        let content = Made { version: None, carried, description: Some(plain_description()) };
        Ok(Answer { content, request_id: Some(answered.correlation_id) })
    }

    async fn destroy_plain(&self, login: &Login, secret: &SecretPath) -> Result<Answer<Made>, SourceFault> {
        if self.describe_plain(login, secret).await?.content.is_none() {
            return Err(StoreFault::NoSecret(secret.clone()).into());
        }
        let target = target(&[&self.options.mount, secret.as_str()]);
        let call = Call { method: Method::Delete, repeat: Repeat::Always, ..Call::get(target) };
        let answered = self.ask_as(login, &call).await?;
        if !answered.is_done() {
            return Err(answered.refusal(&format!("{secret} could not be destroyed")));
        }
        let content = Made { version: None, carried: Vec::new(), description: None };
        Ok(Answer { content, request_id: Some(answered.correlation_id) })
    }
}

/// What every store demands of the fields of one version.
fn check_fields(secret: &SecretPath, fields: &[(FieldName, SecretBytes)]) -> Result<(), StoreFault> {
    check_count(secret, fields.len())?;
    check_put(fields, Stage::Current).map(drop)
}

/// The names of fields that are carried over.
pub(super) fn names_of(fields: &Fields<'_>) -> Vec<FieldName> {
    let mut names: Vec<FieldName> =
        fields.0.iter().filter_map(|(name, _)| FieldName::from_store(name).ok()).collect();
    names.sort();
    names
}

/// An object of the fields that are given and those that are carried over, which stay as they were written.
pub(super) fn data_object(
    given: &[(FieldName, SecretBytes)],
    carried: &Fields<'_>,
    mut text: JsonText,
) -> JsonText {
    text.raw("{");
    let mut is_first = true;
    let mut comma = |text: &mut JsonText| {
        text.raw(if std::mem::take(&mut is_first) { "" } else { "," });
    };
    for (name, value) in given {
        comma(&mut text);
        text.string(name.as_str()).raw(":").value(value);
    }
    for (name, value) in &carried.0 {
        comma(&mut text);
        text.string(name).raw(":").raw(value.get());
    }
    text.raw("}");
    text
}
