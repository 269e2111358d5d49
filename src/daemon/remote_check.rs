//! Remote stores asked once, from here and now, without an instance: for `credfs doctor` and `credfs learn --store`. Nothing
//! is left at their servers.

use crate::config::{Config, VaultSettings};
use crate::policy::Policy;
use crate::store::{Login, LoginBy, LoginSetup, Source as _, SourceFault, StoreFault, Vault, VaultOptions};

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

/// Asks the server of a store which version its KV engine has, under the machine's login, by the method that is told with it.
/// `None`: that login can be made once only, and is left to the instance.
///
/// # Errors
/// Why it cannot be asked, in words.
pub fn ask_kv_version(
    name: &str,
    settings: &VaultSettings,
    surroundings: &Surroundings,
) -> Result<(Option<u8>, &'static str), String> {
    let asked = Asked::new(name, settings, None, surroundings)?;
    let version = asked.kv_version().map_err(|fault| fault.fault.to_string())?;
    Ok((version, asked.options.machine_login.method.name()))
}

/// A store that is asked.
struct Asked {
    runtime: tokio::runtime::Runtime,
    options: VaultOptions,
    vault: Vault,
}

impl Asked {
    fn new(
        name: &str,
        settings: &VaultSettings,
        policy: Option<&Policy>,
        surroundings: &Surroundings,
    ) -> Result<Self, String> {
        let options = vault_options(name, settings, policy, surroundings)
            .map_err(|trouble| trouble.into_fault().message)?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| format!("it cannot be asked: {error}"))?;
        Ok(Self { runtime, vault: Vault::new(options.clone()), options })
    }

    fn kv_version(&self) -> Result<Option<u8>, SourceFault> {
        let machine = Login::machine();
        self.runtime.block_on(async {
            self.vault.probe().await?;
            if opens_once(&self.options.machine_login) {
                return Ok(None);
            }
            let found = self.vault.ask_kv_version(&machine).await;
            self.vault.log_out(&machine).await;
            found.map(Some)
        })
    }

    fn look(&self) -> Vec<RemoteFinding> {
        let name = &self.options.name;
        let method = self.options.machine_login.method.name();
        let (outcome, answers) = match self.kv_version() {
            Ok(Some(version)) => {
                (Ok(format!("a KV engine of version {version}, and the login by {method} works")), true)
            }
            Ok(None) => (
                Ok("it answers and is unsealed; its login is not tried, for a wrapped secret id opens once"
                    .to_owned()),
                true,
            ),
            Err(fault) => {
                let answers = matches!(fault.fault.bare(), StoreFault::Refused(_) | StoreFault::Invalid(_));
                (Err(self.trouble(&fault, &format!("[stores.{name}.login]"))), answers)
            }
        };
        let mut findings = vec![RemoteFinding { about: name.clone(), outcome }];
        // A server that says nothing need not be asked for each of them.
        if answers {
            findings.extend(
                self.options.logins.iter().map(|(identity, setup)| self.look_at_login(identity, setup)),
            );
        }
        findings
    }

    fn look_at_login(&self, identity: &str, setup: &LoginSetup) -> RemoteFinding {
        let name = &self.options.name;
        let about = format!("{name}, {identity}'s login");
        let method = setup.method.name();
        if opens_once(setup) {
            let text = "is not tried, for a wrapped secret id opens once".to_owned();
            return RemoteFinding { about, outcome: Ok(text) };
        }
        let login = Login::of_identity(identity);
        let tried = self.runtime.block_on(async {
            let tried = self.vault.try_login(&login).await;
            self.vault.log_out(&login).await;
            tried
        });
        let outcome = match tried {
            Ok(()) => Ok(format!("by {method} works")),
            Err(fault) => Err(self.trouble(&fault, &format!("[identities.{identity}.login.{name}]"))),
        };
        RemoteFinding { about, outcome }
    }

    /// A fault with what to do about it; `section` is where the login is written.
    fn trouble(&self, fault: &SourceFault, section: &str) -> RemoteTrouble {
        let name = &self.options.name;
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

/// Whether a login can be made once only: then it is the instance's to make.
const fn opens_once(setup: &LoginSetup) -> bool {
    matches!(setup.method, LoginBy::AppRole { wrapped: Some(_), .. })
}
