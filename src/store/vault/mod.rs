//! Secrets in a KV engine of HashiCorp Vault or OpenBao. It knows their API, who logs in how, and what is written beside a
//! secret; it remembers no secret.

mod change;
mod change_plain;
mod kv;
pub(super) mod login;
mod metadata;
mod minting;
mod options;
mod pins;
mod server;
mod state;
mod target;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::{Mutex, RwLock};

use self::kv::Form;
use self::login::Account;
use self::server::{Answered, Call, Server};
use self::target::target;
use super::http::{Http, HttpOptions};
use super::{
    Answer, Change, Child, Description, Login, LoginStatus, Made, Pending, Source, SourceFault, StoreFault,
    Values,
};
use crate::model::{SecretPath, Version};

pub use options::{LoginBy, LoginSetup, VaultOptions, Wrapped};

/// A change is several requests: how many deadlines of one it may take.
const CHANGE_DEADLINES: u32 = 5;

/// A KV engine at a Vault or OpenBao server.
pub struct Vault {
    options: VaultOptions,
    server: Arc<Server>,
    health: Server,
    /// Guards the accounts, which a reload changes.
    accounts: RwLock<HashMap<Login, Arc<Account>>>,
    /// Guards which form the engine has, and when it was asked.
    form: Mutex<Option<(Form, Instant)>>,
}

/// A login that is configured no more.
pub struct EndedLogin(Arc<Account>);

impl EndedLogin {
    /// Whose it was.
    #[must_use]
    pub fn login(&self) -> &Login {
        &self.0.login
    }

    /// Revokes it at the server.
    pub async fn log_out(self) {
        self.0.log_out(&|| false).await;
    }
}

impl Vault {
    /// Makes ready to use a server. Nobody is asked yet.
    #[must_use]
    pub fn new(options: VaultOptions) -> Self {
        let http = Arc::new(Http::new(options.http.clone()));
        let vault = Self {
            // Health belongs to no namespace.
            health: Server { http: Arc::clone(&http), namespace: None },
            server: Arc::new(Server { http, namespace: options.namespace.clone() }),
            accounts: RwLock::new(HashMap::new()),
            form: Mutex::new(None),
            options,
        };
        let mut accounts = HashMap::new();
        let machine = Login::machine();
        accounts.insert(machine.clone(), vault.account(machine, &vault.options.machine_login));
        for (identity, setup) in &vault.options.logins {
            let login = Login::of_identity(identity);
            accounts.insert(login.clone(), vault.account(login, setup));
        }
        *vault.accounts.write() = accounts;
        vault
    }

    /// Puts other logins of identities in force: those that are as they were keep their sessions, the others are returned.
    /// What those were given belongs to nobody any more, and they are to be logged out.
    #[must_use]
    pub fn set_logins(&self, logins: &BTreeMap<String, LoginSetup>) -> Vec<EndedLogin> {
        let mut gone = Vec::new();
        {
            let mut accounts = self.accounts.write();
            let mut kept = HashMap::new();
            let machine = Login::machine();
            if let Some(account) = accounts.remove(&machine) {
                kept.insert(machine, account);
            }
            for (identity, setup) in logins {
                let login = Login::of_identity(identity);
                let account = match accounts.remove(&login) {
                    Some(account) if account.setup() == setup => account,
                    old => {
                        gone.extend(old);
                        self.account(login.clone(), setup)
                    }
                };
                kept.insert(login, account);
            }
            gone.extend(accounts.drain().map(|(_, account)| account));
            *accounts = kept;
        }
        gone.into_iter().map(EndedLogin).collect()
    }

    /// The version of the KV engine at the mount: asked under a login, which is made for it.
    ///
    /// # Errors
    /// Whatever keeps it from being used.
    pub async fn ask_kv_version(&self, login: &Login) -> Result<u8, SourceFault> {
        Ok(self.within(2, self.form(login)).await?.kv_version())
    }

    /// Logs in, if nobody is logged in under that name.
    ///
    /// # Errors
    /// Why it cannot be.
    pub async fn try_login(&self, login: &Login) -> Result<(), SourceFault> {
        self.within(1, async { self.account_of(login)?.try_session().await }).await
    }

    fn account(&self, login: Login, setup: &LoginSetup) -> Arc<Account> {
        let namespace = setup.namespace.as_ref().or(self.options.namespace.as_ref());
        let own_certificate = match &setup.method {
            LoginBy::Cert { certificate, .. } => certificate.as_ref(),
            _ => None,
        };
        // A session is bound to the certificate that it was made with: all of its requests go with it.
        let server = match own_certificate {
            Some(own) => {
                let options =
                    HttpOptions { client_certificate: Some(own.clone()), ..self.options.http.clone() };
                let http = Arc::new(Http::new(options));
                Arc::new(Server { http, namespace: self.options.namespace.clone() })
            }
            None => Arc::clone(&self.server),
        };
        let auth_server = Arc::new(Server { http: Arc::clone(&server.http), namespace: namespace.cloned() });
        Arc::new(Account::new(login, setup.clone(), server, auth_server))
    }

    fn account_of(&self, login: &Login) -> Result<Arc<Account>, SourceFault> {
        let accounts = self.accounts.read();
        if let Some(account) = accounts.get(login) {
            return Ok(Arc::clone(account));
        }
        let store = &self.options.name;
        if self.options.own_login_required {
            let text = format!(
                "{login} has no login of its own at the store \"{store}\", which demands one: add \
                 [identities.NAME.login.{store}] to the policy"
            );
            return Err(StoreFault::Refused(text).into());
        }
        accounts.get(&Login::machine()).cloned().ok_or_else(|| {
            StoreFault::Refused(format!("there is no login of the machine at the store \"{store}\"")).into()
        })
    }

    async fn ask_as(&self, login: &Login, call: &Call) -> Result<Answered, SourceFault> {
        self.account_of(login)?.ask(call).await
    }

    /// Does something within a number of deadlines.
    async fn within<T>(
        &self,
        deadlines: u32,
        doing: impl Future<Output = Result<T, SourceFault>>,
    ) -> Result<T, SourceFault> {
        let deadline: Duration = self.options.http.request_deadline * deadlines;
        tokio::time::timeout(deadline, doing).await.unwrap_or_else(|_| Err(StoreFault::Timeout.into()))
    }
}

impl Source for Vault {
    fn name(&self) -> &str {
        &self.options.name
    }

    fn describe<'a>(
        &'a self,
        login: &'a Login,
        path: &'a SecretPath,
    ) -> Pending<'a, Result<Answer<Option<Description>>, SourceFault>> {
        Box::pin(self.within(1, async move {
            match self.form(login).await? {
                Form::Plain => self.describe_plain(login, path).await,
                Form::Versioned => self.describe_versioned(login, path).await,
            }
        }))
    }

    fn read<'a>(
        &'a self,
        login: &'a Login,
        path: &'a SecretPath,
        version: Option<Version>,
    ) -> Pending<'a, Result<Answer<Values>, SourceFault>> {
        Box::pin(self.within(1, async move {
            match (self.form(login).await?, version) {
                (Form::Plain, None) => self.read_plain(login, path).await,
                (Form::Plain, Some(version)) => Err(StoreFault::NoVersion(path.clone(), version).into()),
                (Form::Versioned, Some(version)) => self.read_versioned(login, path, version).await,
                (Form::Versioned, None) => {
                    let described = self.describe_versioned(login, path).await?;
                    let fault = |fault| SourceFault {
                        request_id: described.request_id.clone(),
                        ..SourceFault::from(fault)
                    };
                    let description = described
                        .content
                        .as_ref()
                        .ok_or_else(|| fault(StoreFault::NoSecret(path.clone())))?;
                    if description.deleted {
                        return Err(fault(StoreFault::SecretDeleted(path.clone())));
                    }
                    let current = description
                        .current
                        .ok_or_else(|| fault(StoreFault::NoStage(path.clone(), "current")))?;
                    self.read_versioned(login, path, current).await
                }
            }
        }))
    }

    fn list<'a>(
        &'a self,
        login: &'a Login,
        folder: &'a str,
    ) -> Pending<'a, Result<Answer<Vec<Child>>, SourceFault>> {
        Box::pin(self.within(1, self.list_names(login, folder)))
    }

    fn change<'a>(
        &'a self,
        login: &'a Login,
        change: Change,
    ) -> Pending<'a, Result<Answer<Made>, SourceFault>> {
        Box::pin(self.within(CHANGE_DEADLINES, async move {
            match self.form(login).await? {
                Form::Plain => self.change_plain(login, &change).await,
                Form::Versioned => self.change_versioned(login, &change).await,
            }
        }))
    }

    fn probe(&self) -> Pending<'_, Result<(), SourceFault>> {
        Box::pin(self.within(1, async move {
            let mut target = target(&["sys/health"]);
            target.push_str("?standbyok=true&perfstandbyok=true");
            let answered = self.health.send(None, &Call::get(target)).await?;
            match answered.status() {
                200..=299 | 429 | 472 | 473 => Ok(()),
                503 => Err(answered.fault(StoreFault::Sealed("the server needs its unseal keys".to_owned()))),
                _ => Err(answered.refusal("the server's health")),
            }
        }))
    }

    fn kv_version(&self) -> Option<u8> {
        self.form.lock().map(|(form, _)| form.kv_version())
    }

    fn logins(&self) -> Vec<LoginStatus> {
        let mut all: Vec<LoginStatus> =
            self.accounts.read().values().map(|account| account.status()).collect();
        all.sort_by(|one, other| one.login.as_str().cmp(other.login.as_str()));
        all
    }

    fn log_out<'a>(&'a self, login: &'a Login) -> Pending<'a, ()> {
        self.log_out_unless(login, &|| false)
    }

    fn log_out_unless<'a>(
        &'a self,
        login: &'a Login,
        is_needed: &'a (dyn Fn() -> bool + Send + Sync),
    ) -> Pending<'a, ()> {
        Box::pin(async move {
            let account = self.accounts.read().get(login).cloned();
            if let Some(account) = account {
                account.log_out(is_needed).await;
            }
        })
    }
}
