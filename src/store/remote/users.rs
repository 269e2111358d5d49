//! Who uses which login of an identity: once nobody is left who did, it is ended at the engine, and nothing is asked under it
//! until somebody needs it again. The machine's own is nobody's in particular, and stays.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;

use super::Remote;
use crate::model::Consumer;
use crate::store::{Login, LoginState};

/// How many consumers of one login are remembered. One too many makes the one that was there longest ago forgotten: at worst
/// he has a login made that was ended too early.
const USERS_MAX: usize = 1024;
/// How many may be looked at in one go before it is enough that one of them lives.
const LOOKED_AT_MAX: usize = 32;
/// How often it is looked whether they are still there.
const LOOK_EVERY_US: i64 = 500_000;
/// For how long nobody must have been there: a unit that is restarted finds its login again.
const LINGER_US: i64 = 2_000_000;
/// The same after somebody outside of every unit and container: whatever is run by hand or by cron comes again, and shall not
/// log in each time. So too after somebody of whom nothing is known, so that nobody can say when he is gone.
const LONE_LINGER_US: i64 = 60_000_000;

/// Tells whether something still hangs on a login.
pub(super) type Needed = Box<dyn Fn(&Login) -> bool + Send + Sync>;

/// The users of one login.
#[derive(Default)]
struct Of {
    /// Each with when it was last noted, by the boot clock.
    consumers: HashMap<Arc<Consumer>, i64>,
    /// Until when it is kept in any case, by the boot clock.
    kept_until_us: i64,
    /// Since when nobody is known to be there.
    gone_since_us: Option<i64>,
}

/// All of them.
#[derive(Default)]
pub(super) struct Users {
    of: HashMap<Login, Of>,
    looked_us: i64,
    /// Rises whenever there is more to be left to a successor.
    pub(super) changes: u64,
}

impl Users {
    pub(super) fn note(&mut self, login: &Login, consumer: &Consumer, now_us: i64) {
        let of = self.of.entry(login.account()).or_default();
        of.gone_since_us = None;
        let linger_us = match consumer {
            Consumer::Group { .. } => LINGER_US,
            Consumer::Process { .. } | Consumer::Nobody => LONE_LINGER_US,
        };
        of.kept_until_us = of.kept_until_us.max(now_us + linger_us);
        if *consumer == Consumer::Nobody {
            return;
        }
        if let Some(noted_us) = of.consumers.get_mut(consumer) {
            *noted_us = now_us;
            return;
        }
        if of.consumers.len() >= USERS_MAX {
            let oldest = of.consumers.iter().min_by_key(|(_, noted_us)| **noted_us);
            let oldest = oldest.map(|(known, _)| Arc::clone(known));
            oldest.map(|oldest| of.consumers.remove(&oldest));
        }
        of.consumers.insert(Arc::new(consumer.clone()), now_us);
        self.changes += 1;
    }

    fn forget(&mut self, login: &Login) {
        self.changes += u64::from(self.of.remove(login).is_some());
    }

    fn consumers(&self, login: &Login) -> Vec<Arc<Consumer>> {
        self.of.get(login).map(|of| of.consumers.keys().cloned().collect()).unwrap_or_default()
    }

    /// Takes in who is gone, and which of those who are left was seen; says whether nobody has been there for long enough.
    fn is_left_alone(
        &mut self,
        login: &Login,
        gone: &[Arc<Consumer>],
        is_anybody_there: bool,
        now_us: i64,
    ) -> bool {
        let of = self.of.entry(login.clone()).or_default();
        for known in gone {
            of.consumers.remove(known);
        }
        self.changes += u64::from(!gone.is_empty());
        if is_anybody_there || !of.consumers.is_empty() {
            of.gone_since_us = None;
            return false;
        }
        let since_us = *of.gone_since_us.get_or_insert(now_us);
        now_us >= of.kept_until_us && now_us - since_us >= LINGER_US
    }

    /// Every user, with the login that he uses.
    pub(super) fn all(&self) -> impl Iterator<Item = (&Login, &Consumer)> {
        let pairs = |(login, of)| {
            let of: &Of = of;
            of.consumers.keys().map(move |consumer| (login, &**consumer))
        };
        self.of.iter().flat_map(pairs)
    }
}

impl Remote {
    /// Has `needed` asked before a login is ended because nobody uses it.
    pub fn ask_before_log_out(&self, needed: impl Fn(&Login) -> bool + Send + Sync + 'static) {
        *self.needed.write() = Some(Box::new(needed));
    }

    /// Whether something is to be asked under a login that nobody asks for just now.
    pub(super) fn is_used(&self, login: &Login) -> bool {
        let is_watched = self.options.is_alive.is_some() && *login != Login::machine();
        !is_watched || self.users.lock().of.get(login).is_some_and(|of| !of.consumers.is_empty())
    }

    pub(super) fn is_needed(&self, login: &Login) -> bool {
        self.needed.read().as_ref().is_some_and(|needed| needed(login))
    }

    pub(super) fn note_user(&self, login: &Login, consumer: &Consumer) {
        if login.as_str() != Login::machine().as_str() {
            self.users.lock().note(login, consumer, self.now_us());
        }
    }

    pub(super) fn forget_users(&self, login: &Login) {
        self.users.lock().forget(login);
    }

    /// Ends the logins whose users are all gone. What they were given stays the identity's, for as long as it may be given:
    /// whoever comes next under it is the same identity to policy and to the engine.
    pub(super) fn look_at_users(self: &Arc<Self>) {
        let Some(is_alive) = &self.options.is_alive else { return };
        let now_us = self.now_us();
        {
            let mut users = self.users.lock();
            if now_us - users.looked_us < LOOK_EVERY_US {
                return;
            }
            users.looked_us = now_us;
        }
        let is_own = |login: &Login| *login != Login::machine();
        for status in self.source.logins() {
            if status.state != LoginState::Valid || !status.is_ours || !is_own(&status.login) {
                continue;
            }
            // Looked at without the lock: whoever reads meanwhile is noted.
            let (mut gone, mut is_anybody_there) = (Vec::new(), false);
            for (at, consumer) in self.users.lock().consumers(&status.login).into_iter().enumerate() {
                if at >= LOOKED_AT_MAX && is_anybody_there {
                    break;
                }
                if is_alive(&consumer) {
                    is_anybody_there = true;
                } else {
                    gone.push(consumer);
                }
            }
            // What hangs on it ends first.
            is_anybody_there |= self.is_needed(&status.login);
            let is_over = self.users.lock().is_left_alone(&status.login, &gone, is_anybody_there, now_us);
            if is_over {
                self.forget_users(&status.login);
                tracing::info!(login = %status.login, "nobody is left who used it");
                let (remote, login) = (Arc::clone(self), status.login);
                tokio::spawn(async move {
                    let is_needed = || remote.is_used(&login) || remote.is_needed(&login);
                    remote.source.log_out_unless(&login, &is_needed).await;
                });
            }
        }
    }
}

/// Guards who uses which login. Nothing else is taken under it.
pub(super) type Guarded = Mutex<Users>;

#[cfg(test)]
mod tests {
    use super::*;

    fn process(pid: u32) -> Consumer {
        Consumer::Process { pid, origin: 1 }
    }

    fn unit(id: u64) -> Consumer {
        Consumer::Group { name: "orders.service".into(), is_container: false, path: "/orders".into(), id }
    }

    fn gone(all: &[Consumer]) -> Vec<Arc<Consumer>> {
        all.iter().cloned().map(Arc::new).collect()
    }

    #[test]
    fn a_login_is_left_alone_when_nobody_was_there_for_long_enough() {
        let (mut users, login) = (Users::default(), Login::of_identity("orders"));
        users.note(&login.for_consumer(unit(1)), &unit(1), 0);
        users.note(&login, &unit(2), 0);
        let late = 100 * LINGER_US;
        assert!(!users.is_left_alone(&login, &gone(&[unit(1)]), false, late), "one is left");
        assert!(!users.is_left_alone(&login, &gone(&[unit(2)]), false, late), "it lingers");
        assert!(!users.is_left_alone(&login, &[], true, late + LINGER_US), "something hangs on it");
        assert!(!users.is_left_alone(&login, &[], false, late + LINGER_US));
        assert!(users.is_left_alone(&login, &[], false, late + 2 * LINGER_US));
        users.note(&login, &unit(3), late + 2 * LINGER_US);
        assert!(!users.is_left_alone(&login, &gone(&[unit(3)]), false, late + 3 * LINGER_US - 1));
    }

    #[test]
    fn a_stranger_or_a_lone_process_keeps_it_for_a_minute_and_a_crowd_is_bounded() {
        let (mut users, login) = (Users::default(), Login::of_identity("orders"));
        users.note(&login, &Consumer::Nobody, 0);
        assert!(!users.is_left_alone(&login, &[], false, 1) && users.all().count() == 0);
        assert!(!users.is_left_alone(&login, &[], false, LONE_LINGER_US - 1));
        assert!(users.is_left_alone(&login, &[], false, LONE_LINGER_US));
        users.forget(&login);
        users.note(&login, &process(1), 0);
        assert!(
            !users.is_left_alone(&login, &gone(&[process(1)]), false, LONE_LINGER_US - 1),
            "as one from cron"
        );
        assert!(users.is_left_alone(&login, &[], false, 2 * LONE_LINGER_US));
        for pid in 0..10 * u32::try_from(USERS_MAX).unwrap() {
            users.note(&login, &process(pid), 0);
        }
        assert_eq!(users.all().count(), USERS_MAX);
    }
}
