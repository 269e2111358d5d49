//! The methods of logging in: what each sends.

use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use super::super::options::LoginBy;
use super::super::server::{Answered, Call};
use super::super::target::target;
use super::account::{Account, token_of};
use super::session::Session;
use crate::model::SecretBytes;
use crate::store::http::JsonText;
use crate::store::{SourceFault, StoreFault};

/// The largest file with a token, in bytes.
const FILE_BYTES_MAX: usize = 64 * 1024;

impl Account {
    /// Logs in by the account's method.
    pub(super) async fn make_session(&self) -> Result<Session, SourceFault> {
        match &self.setup.method {
            LoginBy::AppRole { role_id, secret_id_file, wrapped } => {
                let mut secret_id = read_file(secret_id_file, "secret_id_file")?;
                if let Some(wrapped) = wrapped {
                    secret_id = self.unwrap(secret_id, wrapped).await?;
                }
                let mut body = JsonText::new();
                body.raw("{\"role_id\":").string(role_id).raw(",\"secret_id\":").value(&secret_id).raw("}");
                self.present(body).await
            }
            LoginBy::Jwt { role, jwt_file } | LoginBy::Kubernetes { role, jwt_file } => {
                let jwt = read_file(jwt_file, "jwt_file")?;
                let mut body = JsonText::new();
                body.raw("{\"role\":").string(role).raw(",\"jwt\":").value(&jwt).raw("}");
                self.present(body).await
            }
            LoginBy::Cert { role, .. } => {
                // The certificate may have been replaced since the last login.
                self.auth_server.http.refresh_client();
                let mut body = JsonText::new();
                match role {
                    Some(role) => body.raw("{\"name\":").string(role).raw("}"),
                    None => body.raw("{}"),
                };
                self.present(body).await
            }
            LoginBy::Token { token_file } => {
                let token = read_file(token_file, "token_file")?;
                let call = Call::get(target(&["auth/token/lookup-self"]));
                let answered = self.auth_server.send(Some(&token), &call).await?;
                if !answered.is_done() {
                    return Err(refused(&answered, "the token in token_file"));
                }
                Session::given(token, &answered)
            }
        }
    }

    async fn present(&self, body: JsonText) -> Result<Session, SourceFault> {
        let mount = self.setup.mount();
        let call = Call::post(target(&["auth", mount, "login"]), body.finish());
        let answered = self.auth_server.send(None, &call).await?;
        if !answered.is_done() {
            return Err(refused(
                &answered,
                &format!("the login by {} at auth/{mount}", self.setup.method.name()),
            ));
        }
        Session::begun(&answered)
    }

    /// Sends a call under this login. Where the server knows the token no more, it is tried once more under a new one.
    pub(in crate::store::vault) async fn ask(self: &Arc<Self>, call: &Call) -> Result<Answered, SourceFault> {
        self.ask_held(call).await.map(|(answered, _)| answered)
    }

    /// As [`Self::ask`], and under which session it was answered.
    pub(in crate::store::vault) async fn ask_held(
        self: &Arc<Self>,
        call: &Call,
    ) -> Result<(Answered, Arc<Session>), SourceFault> {
        let session = self.session().await?;
        let answered = self.server.send(Some(token_of(&session)), call).await?;
        if answered.status() != 403 || !self.is_at_an_end(&session).await {
            return Ok((answered, session));
        }
        let session = self.session().await?;
        let answered = self.server.send(Some(token_of(&session)), call).await?;
        self.note_second_try(answered.status() != 403);
        Ok((answered, session))
    }
}

/// A login that failed: whatever is wrong with it, it is no login.
fn refused(answered: &Answered, about: &str) -> SourceFault {
    let mut fault = answered.refusal(about);
    if matches!(answered.status(), 400..=428) {
        let (StoreFault::Invalid(text) | StoreFault::Refused(text)) = fault.fault else { return fault };
        fault.fault = StoreFault::Refused(text);
    }
    fault
}

/// The secret in a file, without white space at its ends.
fn read_file(file: &Path, key: &str) -> Result<SecretBytes, SourceFault> {
    let failed = |why: &dyn std::fmt::Display| -> SourceFault {
        StoreFault::Refused(format!("{} ({key}) cannot be used: {why}", file.display())).into()
    };
    let mut opened = File::open(file).map_err(|error| failed(&error))?;
    if !opened.metadata().is_ok_and(|found| found.is_file()) {
        return Err(failed(&"it is no file"));
    }
    let read = SecretBytes::read_from(&mut opened, FILE_BYTES_MAX).map_err(|error| failed(&error))?;
    let trimmed = read.expose().trim_ascii();
    if trimmed.is_empty() {
        return Err(failed(&"it is empty"));
    }
    if !trimmed.iter().all(u8::is_ascii_graphic) {
        return Err(failed(&"it holds more than one line of printable characters"));
    }
    SecretBytes::filled_by(trimmed.len(), |into| {
        into.copy_from_slice(trimmed);
        Ok(())
    })
}
