//! The account that an identity, or the machine, brings to a remote store: read and kept, used by the stores.

use std::path::PathBuf;

use crate::document::Section;

/// Where a secret of a login is: read again at each login.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LoginFile {
    /// A file.
    Path(PathBuf),
    /// A systemd credential of that name, below `$CREDENTIALS_DIRECTORY` (systemd.exec(5)).
    Credential(String),
}

/// How one logs in to a remote store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LoginMethod {
    /// A role and a secret id from a file.
    AppRole {
        /// The role's id.
        role_id: String,
        /// The secret id.
        secret_id: LoginFile,
        /// Whether the file holds the token that the secret id is wrapped in.
        is_wrapped: bool,
        /// Which path of the server must have made that token; `None`: that of any role's secret ids at the mount.
        wrapped_at: Option<String>,
    },
    /// A signed token of an identity provider.
    Jwt {
        /// The role to log in as.
        role: String,
        /// The token.
        jwt: LoginFile,
    },
    /// A client certificate.
    Cert {
        /// The role to log in as.
        role: Option<String>,
        /// The files with the certificate and its key; `None`: those of the store.
        client_cert: Option<(PathBuf, PathBuf)>,
    },
    /// A service account's token.
    Kubernetes {
        /// The role to log in as.
        role: String,
        /// The token, where it is not the usual one.
        jwt: Option<LoginFile>,
    },
    /// A ready token.
    Token {
        /// The token.
        token: LoginFile,
    },
}

/// A login on one store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoginSpec {
    /// How.
    pub method: LoginMethod,
    /// Where the method is mounted, if not under its own name.
    pub mount: Option<String>,
    /// In which namespace, if not in that of the store.
    pub namespace: Option<String>,
}

#[derive(Clone, Copy)]
enum Kind {
    AppRole,
    Jwt,
    Cert,
    Kubernetes,
    Token,
}

const KINDS: [(&str, Kind); 5] = [
    ("approle", Kind::AppRole),
    ("jwt", Kind::Jwt),
    ("cert", Kind::Cert),
    ("kubernetes", Kind::Kubernetes),
    ("token", Kind::Token),
];

impl LoginSpec {
    /// Reads a login table, to its end. Faults are noted in the section's file.
    pub fn read(section: Section<'_>) -> Option<Self> {
        if !section.has("method") {
            section.fault(
                section.line(),
                format!("[{}] has no \"method\"", section.name()),
                "add method = \"approle\", \"jwt\", \"cert\", \"kubernetes\" or \"token\"",
            );
        }
        let kind = section.word("method", &KINDS);
        let mount = section.text("mount").map(|mount| mount.value.trim_matches('/').to_owned());
        let namespace = section.text("namespace").map(|name| name.value.trim_matches('/').to_owned());
        let method = kind.and_then(|kind| read_method(&section, kind));
        // Without a known method, which keys belong to it is not known either.
        if kind.is_some() {
            section.finish();
        }
        Some(Self { method: method?, mount, namespace })
    }

    /// Whether it reads what systemd hands to the unit alone.
    #[must_use]
    pub fn needs_credential(&self) -> bool {
        let file = match &self.method {
            LoginMethod::AppRole { secret_id, .. } => Some(secret_id),
            LoginMethod::Jwt { jwt, .. } => Some(jwt),
            LoginMethod::Kubernetes { jwt, .. } => jwt.as_ref(),
            LoginMethod::Token { token } => Some(token),
            LoginMethod::Cert { .. } => None,
        };
        matches!(file, Some(LoginFile::Credential(_)))
    }

    /// Whether it can be made once only.
    #[must_use]
    pub const fn opens_once(&self) -> bool {
        matches!(self.method, LoginMethod::AppRole { is_wrapped: true, .. })
    }

    /// The files that the login reads, and whether each is a secret: nobody else may read it then. The token that
    /// Kubernetes puts in its own place is Kubernetes' affair.
    #[must_use]
    pub fn files(&self) -> Vec<(PathBuf, bool)> {
        let secret = |file: &LoginFile| match file {
            LoginFile::Path(path) => vec![(path.clone(), true)],
            LoginFile::Credential(_) => Vec::new(),
        };
        match &self.method {
            LoginMethod::AppRole { secret_id, .. } => secret(secret_id),
            LoginMethod::Jwt { jwt, .. } => secret(jwt),
            LoginMethod::Kubernetes { jwt, .. } => jwt.as_ref().map(secret).unwrap_or_default(),
            LoginMethod::Token { token } => secret(token),
            LoginMethod::Cert { client_cert, .. } => client_cert
                .iter()
                .flat_map(|(cert, key)| [(cert.clone(), false), (key.clone(), true)])
                .collect(),
        }
    }
}

fn read_method(section: &Section<'_>, kind: Kind) -> Option<LoginMethod> {
    let text = |key, example| section.required_text(key, example).map(|text| text.value.to_owned());
    match kind {
        Kind::AppRole => {
            let role_id = text("role_id", "…");
            let secret_id =
                read_file(section, "secret_id_file", "secret_id_credential", "/etc/credfs/secret-id");
            let is_wrapped = section.boolean("secret_id_wrapped").unwrap_or(false);
            let wrapped_at = section.text("secret_id_wrapping_path").map(|path| path.value.to_owned());
            if wrapped_at.is_some() && !is_wrapped {
                section.fault(
                    section.line_of("secret_id_wrapping_path"),
                    "\"secret_id_wrapping_path\" is given for a secret id that is not wrapped",
                    "add secret_id_wrapped = true",
                );
            }
            Some(LoginMethod::AppRole { role_id: role_id?, secret_id: secret_id?, is_wrapped, wrapped_at })
        }
        Kind::Jwt => {
            let role = text("role", "…");
            let jwt = read_file(section, "jwt_file", "jwt_credential", "/etc/credfs/jwt");
            Some(LoginMethod::Jwt { role: role?, jwt: jwt? })
        }
        Kind::Cert => {
            let role = section.text("role").map(|role| role.value.to_owned());
            let (cert, key) = (section.path("client_cert_file"), section.path("client_key_file"));
            if section.has("client_cert_file") != section.has("client_key_file") {
                section.fault(
                    section.line(),
                    format!(
                        "[{}] has one of \"client_cert_file\" and \"client_key_file\" alone",
                        section.name()
                    ),
                    "name both, or neither to use those of the store",
                );
            }
            let client_cert = cert.zip(key).map(|(cert, key)| (cert.value, key.value));
            Some(LoginMethod::Cert { role, client_cert })
        }
        Kind::Kubernetes => {
            let is_named = section.has("jwt_file") || section.has("jwt_credential");
            let jwt = is_named.then(|| read_file(section, "jwt_file", "jwt_credential", "/etc/credfs/jwt"));
            Some(LoginMethod::Kubernetes { role: text("role", "…")?, jwt: jwt.flatten() })
        }
        Kind::Token => {
            let token = read_file(section, "token_file", "token_credential", "/etc/credfs/token");
            Some(LoginMethod::Token { token: token? })
        }
    }
}

/// A secret that is in a file or in a systemd credential.
fn read_file(
    section: &Section<'_>,
    file_key: &'static str,
    credential_key: &'static str,
    example: &str,
) -> Option<LoginFile> {
    if section.has(credential_key) {
        if section.has(file_key) {
            section.fault(
                section.line_of(credential_key),
                format!("both \"{file_key}\" and \"{credential_key}\" are given"),
                "keep one of them",
            );
        }
        let name = section.text(credential_key)?;
        // As systemd demands of credentials (systemd.exec(5), LoadCredential=): a file name.
        if name.value.is_empty() || name.value.contains(['/', '\0', ':']) || [".", ".."].contains(&name.value)
        {
            section.fault(
                name.line,
                format!("\"{credential_key}\" is not the name of a credential"),
                "write the ID of LoadCredential= in the unit, without a slash",
            );
            return None;
        }
        return Some(LoginFile::Credential(name.value.to_owned()));
    }
    section.required_text(file_key, example)?;
    section.path(file_key).map(|path| LoginFile::Path(path.value))
}
