//! Reading configuration and policy again while serving.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use crate::access::Gate;
use crate::caller::Identifier;
use crate::config::Config;
use crate::control::{Answer, CommandFault};
use crate::store::{Local, Remote, Source as _, Vault};

use super::Surroundings;
use super::rooms::{OpenTrouble, check, erase_after, load_policy};
use super::vault::identity_logins;

/// What a reload works on.
pub(super) struct Reloader {
    pub(super) gate: Arc<Gate>,
    pub(super) identifier: Arc<Identifier>,
    pub(super) locals: Vec<Arc<Local>>,
    /// Engines that identities log in to, and what stands in front of each.
    pub(super) engines: Vec<(Arc<Vault>, Arc<Remote>)>,
    pub(super) surroundings: Surroundings,
    pub(super) runtime: tokio::runtime::Handle,
    /// Guards the configuration that was in force at the start, against which changes that need a restart are told;
    /// and lets one reload go on at a time.
    pub(super) config: Mutex<Config>,
    /// How long the kernel may keep what everyone could list.
    pub(super) public_entry_lifetime: Duration,
}

impl Reloader {
    /// Puts the policy as it is now in force, or leaves the old one there. Returns when no answer made by the old one
    /// is remembered any more.
    pub(super) fn reload(&self) -> Result<Answer, CommandFault> {
        let config = self.config.lock();
        let (new, loaded) = check(&config.file)
            .and_then(|new| load_policy(&new).map(|loaded| (new, loaded)))
            .map_err(|faults| {
                for fault in &faults {
                    tracing::error!(%fault, "not reloaded, the old policy stays in force");
                }
                CommandFault::invalid(&faults)
            })?;
        let mut warnings: Vec<String> =
            new.warnings().iter().chain(&loaded.warnings).map(ToString::to_string).collect();
        warnings.extend(needs_restart(&config, &new));
        let mut logins = Vec::new();
        for (engine, _) in &self.engines {
            let logins_there = identity_logins(engine.name(), &loaded.policy, &self.surroundings);
            logins.push(logins_there.map_err(OpenTrouble::into_fault)?);
        }
        let (policy, grants) = (loaded.policy.digest().as_str().to_owned(), loaded.policy.grant_count());
        // Before the rules that name them are asked: what runs now was seen where it is allowed.
        self.identifier.watch_executables(&loaded.policy.executables());
        self.gate.put_in_force(loaded.policy);
        for ((engine, remote), logins) in self.engines.iter().zip(logins) {
            for ended in engine.set_logins(&logins) {
                remote.forget(ended.login());
                // An engine that is away must not hold up the reload.
                self.runtime.spawn(ended.log_out());
            }
        }
        self.locals.iter().for_each(|store| store.set_erase_after(erase_after(&new)));
        std::thread::sleep(self.public_entry_lifetime);
        tracing::info!(policy, grants, "policy in force");
        for warning in &warnings {
            tracing::warn!("{warning}");
        }
        Ok(Answer::Reloaded { policy, grants, warnings })
    }
}

fn needs_restart(old: &Config, new: &Config) -> Vec<String> {
    let changed = [
        ("mount_point", old.mount_point != new.mount_point),
        ("[stores]", old.stores != new.stores),
        ("[audit]", old.audit != new.audit),
        ("[limits]", old.limits != new.limits),
        ("[control]", old.control != new.control),
    ];
    changed
        .into_iter()
        .filter(|(_, changed)| *changed)
        .map(|(name, _)| {
            format!(
                "{}: {name} has changed and takes effect when the instance is restarted",
                new.file.display()
            )
        })
        .collect()
}
