//! The KV engine as it is asked: which of its two forms it has, what is in it, what a secret holds.

use std::time::{Duration, Instant};

use serde::Deserialize;
use serde_json::value::RawValue;

use super::Vault;
use super::metadata::Metadata;
use super::pins::Pins;
use super::server::{Answered, Call, store_fault};
use super::state;
use super::target::target;
use crate::model::{FieldName, Ownership, SecretPath, UnixTime, VALUE_BYTES_MAX, Version};
use crate::store::http::{Fields, bytes_of};
use crate::store::{Answer, Child, Description, Login, SourceFault, StoreFault, Values};

/// How long what the server said of the mount is taken without asking again.
const MOUNT_KNOWN_FOR: Duration = Duration::from_secs(600);

/// The form of a KV engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    /// One value, no versions.
    Plain,
    /// Numbered versions and metadata.
    Versioned,
}

impl Form {
    pub(super) const fn kv_version(self) -> u8 {
        match self {
            Self::Plain => 1,
            Self::Versioned => 2,
        }
    }
}

#[derive(Deserialize)]
struct MountTold {
    #[serde(rename = "type", default)]
    kind: String,
    #[serde(default)]
    options: Option<MountOptions>,
}

#[derive(Deserialize, Default)]
struct MountOptions {
    #[serde(default)]
    version: Option<String>,
}

#[derive(Deserialize)]
struct Names {
    #[serde(default)]
    keys: Vec<String>,
}

/// What a version's data come with.
#[derive(Deserialize)]
pub(super) struct ReadTold<'a> {
    #[serde(borrow, default)]
    pub(super) data: Option<Fields<'a>>,
    #[serde(default)]
    pub(super) metadata: Option<VersionTold>,
}

#[derive(Deserialize)]
pub(super) struct VersionTold {
    pub(super) version: u32,
    #[serde(default)]
    pub(super) destroyed: bool,
}

impl Vault {
    /// Which form the engine has, as the server says; never guessed.
    pub(super) async fn form(&self, login: &Login) -> Result<Form, SourceFault> {
        if let Some((form, asked)) = *self.form.lock()
            && asked.elapsed() < MOUNT_KNOWN_FOR
        {
            return Ok(form);
        }
        let mount = &self.options.mount;
        let call = Call::get(target(&["sys/internal/ui/mounts", mount]));
        let answered = self.ask_as(login, &call).await?;
        if !answered.is_done() {
            return Err(answered.refusal(&format!("the mount \"{mount}\" could not be looked at")));
        }
        let (told, _): (MountTold, _) = answered.data()?;
        let version = told.options.unwrap_or_default().version;
        let form = match (told.kind.as_str(), version.as_deref()) {
            ("kv" | "generic", None | Some("" | "1")) => Form::Plain,
            ("kv", Some("2")) => Form::Versioned,
            (kind, version) => {
                let version = version.map(|version| format!(" version {version}")).unwrap_or_default();
                let text = format!(
                    "\"{mount}\" is an engine of type {kind:?}{version}, not KV 1 or 2: name another \"mount\""
                );
                return Err(answered.fault(StoreFault::Invalid(text)));
            }
        };
        *self.form.lock() = Some((form, Instant::now()));
        Ok(form)
    }

    /// The metadata of a secret with versions; `None`: there are none.
    pub(super) async fn metadata(
        &self,
        login: &Login,
        path: &SecretPath,
    ) -> Result<(Option<Metadata>, Answered, Option<String>), SourceFault> {
        let call = Call::get(target(&[&self.options.mount, "metadata", path.as_str()]));
        let answered = self.ask_as(login, &call).await?;
        match answered.status() {
            404 => Ok((None, answered, None)),
            _ if answered.is_done() => {
                let (metadata, id) = Metadata::read(&answered)?;
                Ok((Some(metadata), answered, id))
            }
            _ => Err(answered.refusal(&format!("the metadata of {path}"))),
        }
    }

    pub(super) async fn describe_versioned(
        &self,
        login: &Login,
        path: &SecretPath,
    ) -> Result<Answer<Option<Description>>, SourceFault> {
        let (metadata, answered, request_id) = self.metadata(login, path).await?;
        let (now, ahead_us) = (answered.now(), answered.ahead_us());
        let request_id = request_id.or(Some(answered.correlation_id));
        let Some(metadata) = metadata else { return Ok(Answer { content: None, request_id }) };
        let pins = Pins::read(&metadata);
        let content = state::described(state::held(path, &metadata, &pins, now), &pins);
        Ok(Answer { content: content.map(|content| state::by_our_clock(content, ahead_us)), request_id })
    }

    /// A secret without versions is known by its name: its value is not asked for, but where names may not be listed.
    pub(super) async fn describe_plain(
        &self,
        login: &Login,
        path: &SecretPath,
    ) -> Result<Answer<Option<Description>>, SourceFault> {
        let (folder, name) = path.as_str().rsplit_once('/').unwrap_or(("", path.as_str()));
        let (is_there, request_id) = match self.list_names(login, folder).await {
            Ok(found) => {
                let is_there = found.content.iter().any(|child| child.name == name && !child.is_folder);
                (is_there, found.request_id)
            }
            Err(SourceFault { fault: StoreFault::Refused(_), .. }) => {
                let answered = self.ask_plain(login, path).await?;
                let id = answered.correlation_id.clone();
                match answered.status() {
                    404 => (false, Some(id)),
                    _ if answered.is_done() => (true, Some(id)),
                    _ => return Err(answered.refusal(&path.to_string())),
                }
            }
            Err(fault) => return Err(fault),
        };
        Ok(Answer { content: is_there.then(plain_description), request_id })
    }

    pub(super) async fn ask_plain(&self, login: &Login, path: &SecretPath) -> Result<Answered, SourceFault> {
        self.ask_as(login, &Call::get(target(&[&self.options.mount, path.as_str()]))).await
    }

    pub(super) async fn ask_version(
        &self,
        login: &Login,
        path: &SecretPath,
        version: Version,
    ) -> Result<Answered, SourceFault> {
        let mut target = target(&[&self.options.mount, "data", path.as_str()]);
        target.push_str(&format!("?version={version}"));
        self.ask_as(login, &Call::get(target)).await
    }

    pub(super) async fn read_versioned(
        &self,
        login: &Login,
        path: &SecretPath,
        version: Version,
    ) -> Result<Answer<Values>, SourceFault> {
        let answered = self.ask_version(login, path, version).await?;
        read_version(&answered, path, version)
    }

    pub(super) async fn read_plain(
        &self,
        login: &Login,
        path: &SecretPath,
    ) -> Result<Answer<Values>, SourceFault> {
        let answered = self.ask_plain(login, path).await?;
        match answered.status() {
            404 => Err(answered.fault(StoreFault::NoSecret(path.clone()))),
            _ if answered.is_done() => {
                let (fields, request_id): (Fields<'_>, _) = answered.data()?;
                Ok(Answer { content: values(&answered, None, fields)?, request_id })
            }
            _ => Err(answered.refusal(&path.to_string())),
        }
    }

    pub(super) async fn list_names(
        &self,
        login: &Login,
        folder: &str,
    ) -> Result<Answer<Vec<Child>>, SourceFault> {
        let mount = &self.options.mount;
        let mut target = match self.form(login).await? {
            Form::Plain => target(&[mount, folder]),
            Form::Versioned => target(&[mount, "metadata", folder]),
        };
        target.push_str("/?list=true");
        let answered = self.ask_as(login, &Call::get(target)).await?;
        if answered.status() == 404 {
            return Ok(Answer { content: Vec::new(), request_id: Some(answered.correlation_id) });
        }
        if !answered.is_done() {
            return Err(answered.refusal(&format!("the names in \"{folder}\"")));
        }
        let (Names { keys }, request_id) = answered.data()?;
        let child = |key: String| match key.strip_suffix('/') {
            Some(name) => Child { name: name.to_owned(), is_folder: true },
            None => Child { name: key, is_folder: false },
        };
        let mut content: Vec<Child> =
            keys.into_iter().map(child).filter(|child| !child.name.is_empty()).collect();
        content.sort();
        Ok(Answer { content, request_id })
    }
}

/// The fields that an answer to a question for one version holds.
pub(super) fn read_version(
    answered: &Answered,
    path: &SecretPath,
    version: Version,
) -> Result<Answer<Values>, SourceFault> {
    if answered.is_done() {
        let (told, request_id): (ReadTold<'_>, _) = answered.data()?;
        let is_asked = told.metadata.as_ref().is_some_and(|metadata| metadata.version == version.get());
        let Some(fields) = told.data.filter(|_| is_asked) else {
            let text = format!("the server answered something else than version {version} of {path}");
            return Err(answered.fault(StoreFault::Away(text)));
        };
        return Ok(Answer { content: values(answered, Some(version), fields)?, request_id });
    }
    if answered.status() != 404 {
        return Err(answered.refusal(&format!("version {version} of {path}")));
    }
    // What is deleted or destroyed says so.
    let told = answered.data::<ReadTold<'_>>().ok().and_then(|(told, _)| told.metadata);
    Err(answered.fault(match told {
        Some(told) if told.destroyed => StoreFault::Destroyed(path.clone(), version),
        Some(_) => StoreFault::Deleted(path.clone(), version),
        None => StoreFault::NoVersion(path.clone(), version),
    }))
}

fn values(answered: &Answered, version: Option<Version>, fields: Fields<'_>) -> Result<Values, SourceFault> {
    let mut read = Vec::with_capacity(fields.0.len());
    for (name, value) in fields.0 {
        // A name that no path of ours could hold is no field of ours.
        let Ok(name) = FieldName::from_store(&name) else { continue };
        read.push((name, value_of(answered, value)?));
    }
    read.sort_by(|(one, _), (other, _)| one.cmp(other));
    if read.windows(2).any(|pair| pair[0].0 == pair[1].0) {
        return Err(answered.fault(StoreFault::Away("the server named a field twice".to_owned())));
    }
    Ok(Values { version, fields: read })
}

fn value_of(answered: &Answered, value: &RawValue) -> Result<crate::model::SecretBytes, SourceFault> {
    let bytes = bytes_of(value).map_err(|fault| answered.fault(store_fault(fault)))?;
    if bytes.len() <= VALUE_BYTES_MAX {
        return Ok(bytes);
    }
    Err(answered.fault(StoreFault::TooLarge {
        what: "a value at the server",
        limit: "1 MiB (1048576 bytes)",
        remedy: "store it in several fields, or store a key to it",
    }))
}

/// What can be said of a secret without versions: that it is there.
pub(super) fn plain_description() -> Description {
    Description {
        versions: Vec::new(),
        current: None,
        previous: None,
        next: None,
        deleted: false,
        changed: UnixTime::default(),
        ownership: Ownership::default(),
    }
}

pub(super) fn now() -> UnixTime {
    UnixTime::from(std::time::SystemTime::now())
}
