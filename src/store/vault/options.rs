//! How a Vault or OpenBao server is used: where, under which path, and who logs in how.

use std::collections::BTreeMap;
use std::path::PathBuf;

use crate::store::{ClientCertificate, HttpOptions};

/// How one store at a server is opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VaultOptions {
    /// The name of the store in the configuration.
    pub name: String,
    /// How the servers are reached.
    pub http: HttpOptions,
    /// The namespace; `None`: the root's.
    pub namespace: Option<String>,
    /// The path of the KV engine, such as `secret`.
    pub mount: String,
    /// How the machine logs in.
    pub machine_login: LoginSetup,
    /// How identities log in, by their names. Others use the machine's login.
    pub logins: BTreeMap<String, LoginSetup>,
    /// Whether an identity without a login of its own is refused instead.
    pub own_login_required: bool,
}

/// How somebody logs in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoginSetup {
    /// By which method.
    pub method: LoginBy,
    /// Where the method is mounted; `None`: under its own name.
    pub mount: Option<String>,
    /// In which namespace; `None`: in that of the store.
    pub namespace: Option<String>,
}

/// A method of logging in. Files are read again at each login.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LoginBy {
    /// A role and a secret id.
    AppRole {
        /// The role's id.
        role_id: String,
        /// The file with the secret id, or with the token that it is wrapped in.
        secret_id_file: PathBuf,
        /// Whether it is wrapped, and where it must have been made, if that is told.
        wrapped: Option<Wrapped>,
    },
    /// A signed token of an identity provider.
    Jwt {
        /// The role.
        role: String,
        /// The file with the token.
        jwt_file: PathBuf,
    },
    /// A client certificate.
    Cert {
        /// The role; `None`: the server finds one that fits.
        role: Option<String>,
        /// The certificate; `None`: that of the store.
        certificate: Option<ClientCertificate>,
    },
    /// The token of a Kubernetes service account.
    Kubernetes {
        /// The role.
        role: String,
        /// The file with the token.
        jwt_file: PathBuf,
    },
    /// A ready token, which is renewed where it can be, and never revoked: it is not ours.
    Token {
        /// The file with the token.
        token_file: PathBuf,
    },
}

/// What is known of a wrapped secret id.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Wrapped {
    /// The path that must have made it, such as `auth/approle/role/orders/secret-id`; `None`: that of any role's secret id
    /// at the mount of the login.
    pub made_at: Option<String>,
}

impl LoginBy {
    /// The method's name, which is also its usual mount.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::AppRole { .. } => "approle",
            Self::Jwt { .. } => "jwt",
            Self::Cert { .. } => "cert",
            Self::Kubernetes { .. } => "kubernetes",
            Self::Token { .. } => "token",
        }
    }
}

impl LoginSetup {
    /// Where the method is mounted.
    #[must_use]
    pub fn mount(&self) -> &str {
        self.mount.as_deref().unwrap_or(self.method.name())
    }
}
