//! A secret id that came wrapped: the token around it opens once, and only if it was made where it should have been.

use serde::Deserialize;
use serde_json::value::RawValue;

use super::super::options::Wrapped;
use super::super::server::{Answered, Call, store_fault};
use super::super::target::target;
use super::account::Account;
use crate::model::SecretBytes;
use crate::store::http::{JsonText, Repeat, bytes_of};
use crate::store::{SourceFault, StoreFault};

/// What was unwrapped, and from which token: that one opens nothing any more.
pub(super) struct Unwrapped {
    wrapping: SecretBytes,
    secret_id: SecretBytes,
}

#[derive(Deserialize)]
struct WrapTold {
    creation_path: String,
}

#[derive(Deserialize)]
struct SecretIdTold<'a> {
    #[serde(borrow)]
    secret_id: &'a RawValue,
}

impl Account {
    /// The secret id in `wrapping`.
    pub(super) async fn unwrap(
        &self,
        wrapping: SecretBytes,
        wrapped: &Wrapped,
    ) -> Result<SecretBytes, SourceFault> {
        if let Some(known) = &*self.unwrapped.lock()
            && known.wrapping.expose() == wrapping.expose()
        {
            return Ok(known.secret_id.shared());
        }
        let mut body = JsonText::new();
        body.raw("{\"token\":").value(&wrapping).raw("}");
        let mut call = Call::post(target(&["sys/wrapping/lookup"]), body.finish());
        call.repeat = Repeat::Always;
        let answered = self.auth_server.send(None, &call).await?;
        let (told, _): (WrapTold, _) = opened(&answered)?.data()?;
        if !is_expected(&told.creation_path, wrapped, self.setup.mount()) {
            let text = "the wrapped secret id was not made where it should have been: somebody may have put another in \
                        its place. Deliver a new one, and find out who did";
            tracing::error!(login = %self.login, "{text}");
            return Err(answered.fault(StoreFault::Refused(text.to_owned())));
        }
        let mut call = Call::post(target(&["sys/wrapping/unwrap"]), JsonText::new().finish());
        call.body = None;
        let answered = self.auth_server.send(Some(&wrapping), &call).await?;
        let (told, _): (SecretIdTold<'_>, _) = opened(&answered)?.data()?;
        let secret_id = bytes_of(told.secret_id).map_err(|fault| answered.fault(store_fault(fault)))?;
        *self.unwrapped.lock() =
            Some(Unwrapped { wrapping: wrapping.shared(), secret_id: secret_id.shared() });
        Ok(secret_id)
    }
}

fn opened(answered: &Answered) -> Result<&Answered, SourceFault> {
    if answered.is_done() {
        return Ok(answered);
    }
    if matches!(answered.status(), 400 | 403 | 404) {
        let text = "the wrapped secret id does not open: it is too old, or somebody opened it before. Deliver a new one, \
                    and find out who did";
        tracing::error!("{text}");
        return Err(answered.fault(StoreFault::Refused(text.to_owned())));
    }
    Err(answered.refusal("the wrapped secret id"))
}

/// Whether a path makes secret ids of a role at this mount.
fn is_expected(made_at: &str, wrapped: &Wrapped, mount: &str) -> bool {
    if let Some(expected) = &wrapped.made_at {
        return made_at.trim_matches('/') == expected.trim_matches('/');
    }
    let role = made_at
        .strip_prefix("auth/")
        .and_then(|rest| rest.strip_prefix(mount))
        .and_then(|rest| rest.strip_prefix("/role/"))
        .and_then(|rest| rest.strip_suffix("/secret-id").or_else(|| rest.strip_suffix("/custom-secret-id")));
    role.is_some_and(|role| !role.is_empty() && !role.contains('/'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_secret_id_of_this_mount_is_expected() {
        let any = Wrapped::default();
        assert!(is_expected("auth/approle/role/orders/secret-id", &any, "approle"));
        for path in [
            "secret/data/x",
            "auth/other/role/orders/secret-id",
            "auth/approle/role//secret-id",
            "auth/approle/role/a/b/secret-id",
            "sys/wrapping/wrap",
        ] {
            assert!(!is_expected(path, &any, "approle"), "{path}");
        }
        let one = Wrapped { made_at: Some("auth/approle/role/orders/secret-id".to_owned()) };
        assert!(is_expected("auth/approle/role/orders/secret-id", &one, "approle"));
        assert!(!is_expected("auth/approle/role/other/secret-id", &one, "approle"));
    }
}
