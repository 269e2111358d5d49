//! One login and its state: who needs a session gets the one that is there, or waits for the one that is being made.

use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::super::options::LoginSetup;
use super::super::server::{Answered, Call, Server};
use super::super::target::target;
use super::session::Session;
use super::unwrap::Unwrapped;
use super::{pace, renewal};
use crate::model::SecretBytes;
use crate::store::http::{JsonText, Repeat};
use crate::store::{Login, LoginState, LoginStatus, SourceFault, StoreFault};

/// After a login that was refused.
const REFUSED_PAUSE: Duration = Duration::from_secs(1);
const REFUSED_PAUSE_MAX: Duration = Duration::from_secs(60);
/// After a login that could not be made.
const AWAY_PAUSE: Duration = Duration::from_millis(50);
const AWAY_PAUSE_MAX: Duration = Duration::from_secs(1);
/// For how long a token that the server knew is not asked about again.
const TRUSTED_FOR: Duration = Duration::from_secs(1);
/// For how long a refusal is not taken for the end of the token, after a new one was refused too.
const DOUBT_PAUSE: Duration = Duration::from_secs(60);
const DOUBT_PAUSE_MAX: Duration = Duration::from_secs(600);

/// One login.
pub(in crate::store::vault) struct Account {
    pub(in crate::store::vault) login: Login,
    pub(super) setup: LoginSetup,
    /// The servers, asked with this login's certificate where it has one.
    pub(in crate::store::vault) server: Arc<Server>,
    /// The servers in the namespace in which the login is made.
    pub(super) auth_server: Arc<Server>,
    /// Guards what is known of the login.
    state: Mutex<State>,
    /// Held by whoever logs in.
    turn: tokio::sync::Mutex<()>,
    /// Guards what was unwrapped: a wrapping token opens once.
    pub(super) unwrapped: Mutex<Option<Unwrapped>>,
    /// Guards when a refusal may be the end of the token.
    doubt: Mutex<Doubt>,
}

enum State {
    Unused,
    Valid(Arc<Session>),
    Failed { fault: SourceFault, until: Instant, tries: u32 },
}

#[derive(Default)]
struct Doubt {
    until: Option<Instant>,
    in_vain: u32,
}

impl Account {
    pub(in crate::store::vault) fn new(
        login: Login,
        setup: LoginSetup,
        server: Arc<Server>,
        auth_server: Arc<Server>,
    ) -> Self {
        Self {
            login,
            setup,
            server,
            auth_server,
            state: Mutex::new(State::Unused),
            turn: tokio::sync::Mutex::new(()),
            unwrapped: Mutex::new(None),
            doubt: Mutex::new(Doubt::default()),
        }
    }

    pub(in crate::store::vault) fn setup(&self) -> &LoginSetup {
        &self.setup
    }

    /// A session that is good now: the one that is there, else a new one, made once for all who wait.
    pub(super) async fn session(self: &Arc<Self>) -> Result<Arc<Session>, SourceFault> {
        if let Some(known) = self.at_hand() {
            return known;
        }
        let account = Arc::clone(self);
        // On its own, so that it is made whole whoever stops waiting: a token that nobody knows of would be left.
        let made = tokio::spawn(async move {
            let _turn = account.turn.lock().await;
            match account.at_hand() {
                Some(known) => known,
                None => account.log_in().await,
            }
        });
        made.await.unwrap_or_else(|_| Err(StoreFault::Away("the login was given up".to_owned()).into()))
    }

    /// Has a session made, where there is none.
    pub(in crate::store::vault) async fn try_session(self: &Arc<Self>) -> Result<(), SourceFault> {
        self.session().await.map(drop)
    }

    fn at_hand(&self) -> Option<Result<Arc<Session>, SourceFault>> {
        match &*self.state.lock() {
            State::Valid(session) if !session.is_over() => Some(Ok(Arc::clone(session))),
            State::Failed { fault, until, .. } if Instant::now() < *until => Some(Err(fault.clone())),
            _ => None,
        }
    }

    async fn log_in(self: &Arc<Self>) -> Result<Arc<Session>, SourceFault> {
        let made = self.make_session().await;
        let mut state = self.state.lock();
        match made {
            Ok(session) => {
                let session = Arc::new(session);
                tracing::info!(login = %self.login, method = self.setup.method.name(), "logged in");
                *state = State::Valid(Arc::clone(&session));
                renewal::begin(self, &session);
                Ok(session)
            }
            Err(fault) => {
                let tries =
                    if let State::Failed { tries, .. } = &*state { tries.saturating_add(1) } else { 1 };
                let is_no = matches!(fault.fault, StoreFault::Refused(_) | StoreFault::Invalid(_));
                let (first, most) =
                    if is_no { (REFUSED_PAUSE, REFUSED_PAUSE_MAX) } else { (AWAY_PAUSE, AWAY_PAUSE_MAX) };
                tracing::warn!(login = %self.login, fault = %fault.fault, tries, "not logged in");
                let until = Instant::now() + pace::pause(tries, first, most);
                *state = State::Failed { fault: fault.clone(), until, tries };
                Err(fault)
            }
        }
    }

    /// Makes a new session in the place of one that is about to end. That one stays until there is another.
    pub(super) async fn replace(self: &Arc<Self>, old: &Arc<Session>) {
        let _turn = self.turn.lock().await;
        if !self.is_current(old) {
            return;
        }
        match self.make_session().await {
            Ok(session) => {
                let session = Arc::new(session);
                tracing::info!(login = %self.login, "logged in anew, before the old token ended");
                *self.state.lock() = State::Valid(Arc::clone(&session));
                renewal::begin(self, &session);
            }
            Err(fault) => tracing::warn!(login = %self.login, fault = %fault.fault, "not logged in anew"),
        }
    }

    pub(super) fn is_current(&self, session: &Arc<Session>) -> bool {
        matches!(&*self.state.lock(), State::Valid(current) if Arc::ptr_eq(current, session))
    }

    /// Forgets a session that the server knows no more.
    fn discard(&self, session: &Arc<Session>) {
        let mut state = self.state.lock();
        if matches!(&*state, State::Valid(current) if Arc::ptr_eq(current, session)) {
            *state = State::Unused;
        }
    }

    /// After a refusal: whether the token is at an end, so that a new login may help. Asks the server, and not again for a
    /// while where that told nothing.
    pub(super) async fn is_at_an_end(&self, session: &Arc<Session>) -> bool {
        if !self.is_current(session) {
            // Somebody else found out, and there is a newer one.
            return true;
        }
        if self.doubt.lock().until.is_some_and(|until| Instant::now() < until) {
            return false;
        }
        let call = Call::get(target(&["auth/token/lookup-self"]));
        match self.auth_server.send(Some(&session.token), &call).await {
            Ok(answered) if answered.status() == 403 => {
                self.discard(session);
                true
            }
            _ => {
                self.doubt.lock().until = Some(Instant::now() + TRUSTED_FOR);
                false
            }
        }
    }

    /// What a new login was good for: where it was refused like the old one, the next refusals are taken at their word.
    pub(super) fn note_second_try(&self, helped: bool) {
        let mut doubt = self.doubt.lock();
        if helped {
            *doubt = Doubt::default();
        } else {
            doubt.in_vain = doubt.in_vain.saturating_add(1);
            doubt.until = Some(Instant::now() + pace::pause(doubt.in_vain, DOUBT_PAUSE, DOUBT_PAUSE_MAX));
        }
    }

    /// Revokes the token, where it is ours, and forgets it. One that cannot be revoked now is tried again on its own, until it
    /// ends by itself. Nothing is done where `is_needed` says so once nobody is given the session any more: what is begun
    /// later waits, and what was begun before is known to it.
    pub(in crate::store::vault) async fn log_out(
        self: &Arc<Self>,
        is_needed: &(dyn Fn() -> bool + Send + Sync),
    ) {
        let session = {
            let _turn = self.turn.lock().await;
            let State::Valid(session) = std::mem::replace(&mut *self.state.lock(), State::Unused) else {
                return;
            };
            if is_needed() {
                *self.state.lock() = State::Valid(session);
                return;
            }
            session
        };
        // Whoever needs the login now has another one made, and need not wait for this.
        if !session.is_ours || self.revoke(&session).await {
            return;
        }
        let account = Arc::clone(self);
        tokio::spawn(async move {
            let mut tries = 0;
            loop {
                tries += 1;
                tokio::time::sleep(pace::pause(tries, REFUSED_PAUSE, REFUSED_PAUSE_MAX)).await;
                if account.revoke(&session).await {
                    return;
                }
            }
        });
    }

    /// Has the server end a session; returns whether there is nothing more to be done about it.
    async fn revoke(&self, session: &Session) -> bool {
        if session.is_over() {
            return true;
        }
        match self.send_end(&session.token).await {
            Ok(answered) if answered.is_done() => {
                tracing::info!(login = %self.login, "logged out");
                true
            }
            Ok(answered) => {
                tracing::warn!(login = %self.login, status = answered.status(), "the token could not be revoked");
                matches!(answered.status(), 400..=428)
            }
            Err(fault) => {
                tracing::warn!(login = %self.login, fault = %fault.fault, "the token could not be revoked");
                false
            }
        }
    }

    /// Asks for the end of a session.
    pub(in crate::store::vault) async fn send_end(
        &self,
        token: &SecretBytes,
    ) -> Result<Answered, SourceFault> {
        let mut call = Call::post(target(&["auth/token/revoke-self"]), JsonText::new().finish());
        call.body = None;
        call.repeat = Repeat::Always;
        self.auth_server.send(Some(token), &call).await
    }

    /// How the login is, without asking anyone.
    pub(in crate::store::vault) fn status(&self) -> LoginStatus {
        let mut status = LoginStatus {
            login: self.login.clone(),
            method: self.setup.method.name(),
            state: LoginState::Unused,
            age: None,
            remaining: None,
            is_ours: false,
            accessor: None,
        };
        match &*self.state.lock() {
            State::Unused => {}
            State::Failed { fault, .. } => {
                let is_no = matches!(fault.fault, StoreFault::Refused(_) | StoreFault::Invalid(_));
                status.state = if is_no { LoginState::Refused } else { LoginState::Away };
            }
            State::Valid(session) => {
                status.state = if session.is_over() { LoginState::Away } else { LoginState::Valid };
                status.age = Some(session.made.elapsed());
                status.remaining = session.remaining();
                status.is_ours = session.is_ours;
                status.accessor.clone_from(&session.accessor);
            }
        }
        status
    }
}

/// A token to send along.
pub(super) fn token_of(session: &Session) -> &SecretBytes {
    session.note_use();
    &session.token
}
