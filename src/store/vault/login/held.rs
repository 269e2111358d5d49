//! A session on which a lease hangs: the server ends both together.

use std::sync::Arc;
use std::time::Duration;

use super::account::Account;
use super::session::Session;
use crate::store::{LeftSession, Tenure};

/// A session and whose it is.
pub(in crate::store::vault) struct Held {
    account: Arc<Account>,
    session: Arc<Session>,
}

impl Held {
    pub(in crate::store::vault) fn new(account: Arc<Account>, session: Arc<Session>) -> Self {
        Self { account, session }
    }
}

impl Tenure for Held {
    fn keep(&self) -> bool {
        self.session.note_use();
        self.account.is_current(&self.session)
    }

    fn remaining(&self) -> Option<Duration> {
        self.session.remaining()
    }

    fn leave(&self) -> Option<LeftSession> {
        let accessor = self.session.accessor.clone().filter(|_| self.session.is_ours)?;
        Some(LeftSession { login: self.account.login.clone(), accessor, token: self.session.token.shared() })
    }
}
