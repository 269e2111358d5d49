//! What configuration and policy say of a Vault store, as the store wants to be told.

use std::collections::BTreeMap;
use std::path::PathBuf;

use crate::config::{Config, StoreSettings, VaultSettings};
use crate::policy::{LoginFile, LoginMethod, LoginSpec, Policy};
use crate::store::{
    ClientCertificate, HttpOptions, Login, LoginBy, LoginSetup, Source as _, Vault, VaultOptions, Wrapped,
};

use super::Surroundings;
use super::rooms::{OpenTrouble, credential, size};

/// Where Kubernetes puts the token of a pod's service account.
const SERVICE_ACCOUNT_TOKEN: &str = "/var/run/secrets/kubernetes.io/serviceaccount/token";

/// How the store `name` is opened.
///
/// # Errors
/// Where a login is a credential and systemd gave none.
pub(super) fn vault_options(
    name: &str,
    settings: &VaultSettings,
    policy: &Policy,
    surroundings: &Surroundings,
) -> Result<VaultOptions, OpenTrouble> {
    let http = HttpOptions {
        addresses: settings.addresses.clone(),
        proxy: settings.proxy.clone(),
        ca_file: settings.ca_file.clone(),
        client_certificate: settings.client_cert.as_ref().map(certificate),
        connect_deadline: settings.connect_deadline,
        request_deadline: settings.request_deadline,
        response_bytes_max: size(settings.response_bytes_max),
    };
    Ok(VaultOptions {
        name: name.to_owned(),
        http,
        namespace: settings.namespace.clone(),
        mount: settings.mount.clone(),
        machine_login: login_setup(&settings.login, surroundings)?,
        logins: identity_logins(name, policy, surroundings)?,
        own_login_required: settings.remote.needs_own_login,
    })
}

/// Asks every remote store, from here and now: what it is and under which login, or what is wrong. Nothing is left there.
#[must_use]
pub fn check_remote(config: &Config, surroundings: &Surroundings) -> Vec<(String, Result<String, String>)> {
    let check = |store: &StoreSettings| {
        let outcome = ask_kv_version(&store.name, store.vault()?, surroundings).map(|found| match found {
            (Some(version), method) => {
                format!("a KV engine of version {version}, and the login by {method} works")
            }
            (None, _) => {
                "it answers and is unsealed; its login is not tried, for a wrapped secret id opens once"
                    .to_owned()
            }
        });
        Some((store.name.clone(), outcome))
    };
    config.stores.iter().filter_map(check).collect()
}

/// Asks the server of a store which version its KV engine has, under the machine's login, by the method that is told with it.
/// `None`: that login can be made once only, and is left to the instance. Nothing is left at the server.
///
/// # Errors
/// Why it cannot be asked, in words.
pub fn ask_kv_version(
    name: &str,
    settings: &VaultSettings,
    surroundings: &Surroundings,
) -> Result<(Option<u8>, &'static str), String> {
    let loaded = Policy::load(&[], &crate::policy::Options::default(), &crate::policy::SystemNames);
    let policy = loaded.map_err(|_| "there is not even an empty policy".to_owned())?.policy;
    let options = vault_options(name, settings, &policy, surroundings)
        .map_err(|trouble| trouble.into_fault().message)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| format!("it cannot be asked: {error}"))?;
    let method = &options.machine_login.method;
    let (is_wrapped, method) = (matches!(method, LoginBy::AppRole { wrapped: Some(_), .. }), method.name());
    let vault = Vault::new(options);
    runtime.block_on(async {
        vault.probe().await.map_err(|fault| fault.fault.to_string())?;
        if is_wrapped {
            return Ok((None, method));
        }
        let found = vault.ask_kv_version(&Login::machine()).await;
        vault.log_out(&Login::machine()).await;
        found.map(|version| (Some(version), method)).map_err(|fault| fault.fault.to_string())
    })
}

/// How identities log in at the store `name`: also after a reload.
///
/// # Errors
/// Where a login is a credential and systemd gave none.
pub(super) fn identity_logins(
    name: &str,
    policy: &Policy,
    surroundings: &Surroundings,
) -> Result<BTreeMap<String, LoginSetup>, OpenTrouble> {
    let logins = policy.logins_at(name);
    logins.map(|(identity, login)| Ok((identity.to_owned(), login_setup(login, surroundings)?))).collect()
}

fn certificate((cert_file, key_file): &(PathBuf, PathBuf)) -> ClientCertificate {
    ClientCertificate { cert_file: cert_file.clone(), key_file: key_file.clone() }
}

fn login_setup(login: &LoginSpec, surroundings: &Surroundings) -> Result<LoginSetup, OpenTrouble> {
    let file = |file: &LoginFile| match file {
        LoginFile::Path(path) => Ok(path.clone()),
        LoginFile::Credential(name) => credential(name, surroundings),
    };
    let method = match &login.method {
        LoginMethod::AppRole { role_id, secret_id, is_wrapped, wrapped_at } => LoginBy::AppRole {
            role_id: role_id.clone(),
            secret_id_file: file(secret_id)?,
            wrapped: is_wrapped.then(|| Wrapped { made_at: wrapped_at.clone() }),
        },
        LoginMethod::Jwt { role, jwt } => LoginBy::Jwt { role: role.clone(), jwt_file: file(jwt)? },
        LoginMethod::Cert { role, client_cert } => {
            LoginBy::Cert { role: role.clone(), certificate: client_cert.as_ref().map(certificate) }
        }
        LoginMethod::Kubernetes { role, jwt } => LoginBy::Kubernetes {
            role: role.clone(),
            jwt_file: jwt.as_ref().map_or_else(|| Ok(PathBuf::from(SERVICE_ACCOUNT_TOKEN)), file)?,
        },
        LoginMethod::Token { token } => LoginBy::Token { token_file: file(token)? },
    };
    Ok(LoginSetup { method, mount: login.mount.clone(), namespace: login.namespace.clone() })
}
