//! The account that an identity, or the machine, brings to a remote store: read and kept, used by the stores.

use std::path::PathBuf;

use crate::document::Section;

/// How one logs in to a remote store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LoginMethod {
    /// A role and a secret id from a file.
    AppRole {
        /// The role's id.
        role_id: String,
        /// The file with the secret id.
        secret_id_file: PathBuf,
    },
    /// A signed token of an identity provider.
    Jwt {
        /// The role to log in as.
        role: String,
        /// The file with the token.
        jwt_file: PathBuf,
    },
    /// A client certificate.
    Cert {
        /// The role to log in as.
        role: Option<String>,
        /// The file with the certificate.
        client_cert_file: Option<PathBuf>,
        /// The file with its key.
        client_key_file: Option<PathBuf>,
    },
    /// A service account's token.
    Kubernetes {
        /// The role to log in as.
        role: String,
        /// The file with the token, where it is not the usual one.
        jwt_file: Option<PathBuf>,
    },
    /// A ready token.
    Token {
        /// The file with the token.
        token_file: PathBuf,
    },
}

/// A login on one store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoginSpec {
    /// How.
    pub method: LoginMethod,
    /// Where the method is mounted, if not under its own name.
    pub mount: Option<String>,
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
        let mount = section.text("mount").map(|mount| mount.value.to_owned());
        let method = kind.and_then(|kind| read_method(&section, kind));
        // Without a known method, which keys belong to it is not known either.
        if kind.is_some() {
            section.finish();
        }
        Some(Self { method: method?, mount })
    }
}

fn read_method(section: &Section<'_>, kind: Kind) -> Option<LoginMethod> {
    let text = |key, example| section.required_text(key, example).map(|text| text.value.to_owned());
    let file = |key, example| {
        section.required_text(key, example)?;
        section.path(key).map(|path| path.value)
    };
    let optional_file = |key| section.path(key).map(|path| path.value);
    match kind {
        Kind::AppRole => {
            let role_id = text("role_id", "…");
            let secret_id_file = file("secret_id_file", "/etc/credfs/secret-id");
            Some(LoginMethod::AppRole { role_id: role_id?, secret_id_file: secret_id_file? })
        }
        Kind::Jwt => {
            let role = text("role", "…");
            let jwt_file = file("jwt_file", "/etc/credfs/jwt");
            Some(LoginMethod::Jwt { role: role?, jwt_file: jwt_file? })
        }
        Kind::Cert => Some(LoginMethod::Cert {
            role: section.text("role").map(|role| role.value.to_owned()),
            client_cert_file: optional_file("client_cert_file"),
            client_key_file: optional_file("client_key_file"),
        }),
        Kind::Kubernetes => {
            let jwt_file = optional_file("jwt_file");
            Some(LoginMethod::Kubernetes { role: text("role", "…")?, jwt_file })
        }
        Kind::Token => Some(LoginMethod::Token { token_file: file("token_file", "/etc/credfs/token")? }),
    }
}
