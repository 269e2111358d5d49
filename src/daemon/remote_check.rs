//! Remote stores asked once, from here and now, without an instance: for `credfs doctor` and `credfs learn --store`. Nothing
//! is left at their servers.

use std::path::PathBuf;

use crate::config::{Config, VaultSettings};
use crate::policy::{LoginSpec, Policy};
use crate::store::{Login, LoginStatus, Source as _, SourceFault, StoreFault, Vault};

use super::Surroundings;
use super::vault::vault_options;

/// What was found out about one store, or about one login there.
pub struct RemoteFinding {
    /// The store, or the store and the login.
    pub about: String,
    /// What is well.
    pub outcome: Result<String, RemoteTrouble>,
}

/// What is wrong, and what to do.
pub struct RemoteTrouble {
    /// What.
    pub message: String,
    /// What to do.
    pub remedy: String,
}

/// Asks the servers of every remote store, then tries the machine's login and that of each identity of `policy`, where
/// there is one.
#[must_use]
pub fn check_remote(
    config: &Config,
    policy: Option<&Policy>,
    surroundings: &Surroundings,
) -> Vec<RemoteFinding> {
    let mut findings = Vec::new();
    for store in &config.stores {
        let Some(settings) = store.vault() else { continue };
        match Asked::new(&store.name, settings, policy, surroundings) {
            Ok(asked) => findings.extend(asked.look()),
            Err(message) => findings.push(RemoteFinding {
                about: store.name.clone(),
                outcome: Err(RemoteTrouble { message, remedy: "mend that first".to_owned() }),
            }),
        }
    }
    findings
}

/// Asks the server of a store which version its KV engine has, under the machine's login.
///
/// # Errors
/// Why it cannot be asked, in words.
pub fn ask_kv_version(
    name: &str,
    settings: &VaultSettings,
    surroundings: &Surroundings,
) -> Result<u8, String> {
    let asked = Asked::new(name, settings, None, surroundings)?;
    if let Some(why) = asked.left_alone(&settings.login) {
        return Err(format!("its login is not tried, {why}"));
    }
    asked.kv_version().map_err(|fault| fault.fault.to_string())
}

/// A store that is asked.
struct Asked<'a> {
    name: &'a str,
    settings: &'a VaultSettings,
    policy: Option<&'a Policy>,
    /// Whether this process was handed what systemd keeps for the unit.
    has_credentials: bool,
    runtime: tokio::runtime::Runtime,
    vault: Vault,
}

impl<'a> Asked<'a> {
    fn new(
        name: &'a str,
        settings: &'a VaultSettings,
        policy: Option<&'a Policy>,
        surroundings: &Surroundings,
    ) -> Result<Self, String> {
        let has_credentials = surroundings.credentials_directory.is_some();
        // A login that cannot be made here is left alone, and is no reason not to try the others.
        let directory =
            surroundings.credentials_directory.clone().or_else(|| Some(PathBuf::from("/nowhere")));
        let surroundings = Surroundings { credentials_directory: directory, ..surroundings.clone() };
        let options = vault_options(name, settings, policy, &surroundings)
            .map_err(|trouble| trouble.into_fault().message)?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| format!("it cannot be asked: {error}"))?;
        Ok(Self { name, settings, policy, has_credentials, runtime, vault: Vault::new(options) })
    }

    /// Why a login is not tried: it is the instance's to make.
    fn left_alone(&self, login: &LoginSpec) -> Option<&'static str> {
        if login.opens_once() {
            return Some("for a wrapped secret id opens once");
        }
        let is_missing = login.needs_credential() && !self.has_credentials;
        is_missing.then_some("for systemd hands its credential to the unit alone")
    }

    fn method_of(&self, login: &Login) -> &'static str {
        let of_this = |status: &LoginStatus| status.login == *login;
        self.vault.logins().into_iter().find(of_this).map_or("its method", |status| status.method)
    }

    fn kv_version(&self) -> Result<u8, SourceFault> {
        let machine = Login::machine();
        self.runtime.block_on(async {
            self.vault.probe().await?;
            let found = self.vault.ask_kv_version(&machine).await;
            self.vault.log_out(&machine).await;
            found
        })
    }

    fn look(&self) -> Vec<RemoteFinding> {
        let login = &self.settings.login;
        let found = match self.left_alone(login) {
            Some(why) => self
                .runtime
                .block_on(self.vault.probe())
                .map(|()| format!("it answers and is unsealed; its login is not tried, {why}")),
            None => self.kv_version().map(|version| {
                format!(
                    "a KV engine of version {version}, and the login by {} works",
                    self.method_of(&Login::machine())
                )
            }),
        };
        // A server that says nothing need not be asked for each of them.
        let answers = found.as_ref().err().is_none_or(|fault| {
            matches!(fault.fault.bare(), StoreFault::Refused(_) | StoreFault::Invalid(_))
        });
        let section = format!("[stores.{}.login]", self.name);
        let outcome = found.map_err(|fault| self.trouble(&fault, &section));
        let mut findings = vec![RemoteFinding { about: self.name.to_owned(), outcome }];
        if let Some(policy) = self.policy.filter(|_| answers) {
            findings.extend(
                policy.logins_at(self.name).map(|(identity, login)| self.look_at_login(identity, login)),
            );
        }
        findings
    }

    fn look_at_login(&self, identity: &str, spec: &LoginSpec) -> RemoteFinding {
        let about = format!("{}, {identity}'s login", self.name);
        if let Some(why) = self.left_alone(spec) {
            return RemoteFinding { about, outcome: Ok(format!("is not tried, {why}")) };
        }
        let login = Login::of_identity(identity);
        let tried = self.runtime.block_on(async {
            let tried = self.vault.try_login(&login).await;
            self.vault.log_out(&login).await;
            tried
        });
        let section = || format!("[identities.{identity}.login.{}]", self.name);
        let outcome = tried
            .map(|()| format!("by {} works", self.method_of(&login)))
            .map_err(|fault| self.trouble(&fault, &section()));
        RemoteFinding { about, outcome }
    }

    /// A fault with what to do about it; `section` is where the login is written.
    fn trouble(&self, fault: &SourceFault, section: &str) -> RemoteTrouble {
        let name = self.name;
        let remedy = match fault.fault.bare() {
            StoreFault::Refused(_) => format!(
                "mend {section} or its role at the server; `credfs learn --store {name}` prints the policy it needs there"
            ),
            StoreFault::Sealed(_) => "unseal it: bao operator unseal, or vault operator unseal".to_owned(),
            StoreFault::Away(_) | StoreFault::Timeout => format!(
                "start the server, or mend \"addresses\" of [stores.{name}], its certificates, or the way there"
            ),
            _ => format!("mend [stores.{name}]"),
        };
        RemoteTrouble { message: fault.fault.to_string(), remedy }
    }
}
