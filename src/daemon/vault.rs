//! What configuration and policy say of a Vault store, as the store wants to be told.

use std::collections::BTreeMap;
use std::path::PathBuf;

use crate::config::VaultSettings;
use crate::policy::{LoginFile, LoginMethod, LoginSpec, Policy};
use crate::store::{ClientCertificate, HttpOptions, LoginBy, LoginSetup, VaultOptions, Wrapped};

use super::Surroundings;
use super::rooms::{OpenTrouble, credential, size};

/// Where Kubernetes puts the token of a pod's service account.
const SERVICE_ACCOUNT_TOKEN: &str = "/var/run/secrets/kubernetes.io/serviceaccount/token";

/// How the store `name` is opened, with the logins of the policy's identities.
///
/// # Errors
/// Where a login is a credential and systemd gave none.
pub(super) fn vault_options(
    name: &str,
    settings: &VaultSettings,
    policy: Option<&Policy>,
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
        logins: match policy {
            Some(policy) => identity_logins(name, policy, surroundings)?,
            None => BTreeMap::new(),
        },
        own_login_required: settings.remote.needs_own_login,
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
