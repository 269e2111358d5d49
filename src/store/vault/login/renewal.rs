//! Keeping a session good while it is used: renewed at two thirds of its lease, give or take, and replaced when renewal
//! gives no more time.

use std::sync::{Arc, Weak};
use std::time::Duration;

use super::super::server::Call;
use super::super::target::target;
use super::account::Account;
use super::pace;
use super::session::{Lease, Session};
use crate::store::http::JsonText;

/// The shortest pause between two looks at a lease.
const PAUSE_MIN: Duration = Duration::from_millis(200);

/// Keeps `session` good, for as long as it is the account's.
pub(super) fn begin(account: &Arc<Account>, session: &Arc<Session>) {
    if session.lease().length.is_none() {
        return;
    }
    tokio::spawn(keep(Arc::downgrade(account), Arc::downgrade(session)));
}

async fn keep(account: Weak<Account>, session: Weak<Session>) {
    let first = session.upgrade().and_then(|session| session.lease().length);
    loop {
        let Some(pause) = session.upgrade().and_then(|session| due_in(&session)) else { return };
        tokio::time::sleep(pause).await;
        let (Some(account), Some(session)) = (account.upgrade(), session.upgrade()) else { return };
        if !account.is_current(&session) || session.is_over() {
            return;
        }
        // One that nobody uses may end: whoever needs it again logs in again.
        if !session.is_in_use() {
            return;
        }
        if !session.lease().is_renewable {
            account.replace(&session).await;
            return;
        }
        match renew(&account, &session).await {
            Renewed::Yes(lease) => {
                session.set_lease(lease);
                // Near its end a token is renewed for what is left of it, and no more.
                let is_ending = lease.length.zip(first).is_some_and(|(now, first)| now < first / 2);
                if is_ending {
                    account.replace(&session).await;
                    return;
                }
            }
            Renewed::No => {
                account.replace(&session).await;
                return;
            }
            Renewed::Away => {}
        }
    }
}

/// How long until the lease needs care. `None`: it needs none.
fn due_in(session: &Session) -> Option<Duration> {
    let (length, remaining) = session.lease().length.zip(session.remaining())?;
    // At two thirds of the lease; after that at half of what is left, each time.
    let passed = length.saturating_sub(remaining);
    let care = pace::between(length, 0.55, 0.75).saturating_sub(passed);
    Some(if care.is_zero() { pace::between(remaining, 0.2, 0.5) } else { care }.max(PAUSE_MIN))
}

enum Renewed {
    Yes(Lease),
    No,
    Away,
}

async fn renew(account: &Account, session: &Session) -> Renewed {
    let mut body = JsonText::new();
    body.raw("{}");
    let call = Call::post(target(&["auth/token/renew-self"]), body.finish());
    match account.auth_server.send(Some(&session.token), &call).await {
        Ok(answered) if answered.is_done() => Session::renewed(&answered).map_or(Renewed::No, Renewed::Yes),
        Ok(answered) if matches!(answered.status(), 400 | 403 | 404) => Renewed::No,
        Ok(_) | Err(_) => Renewed::Away,
    }
}
