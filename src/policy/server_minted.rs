//! What the server must allow a login for secrets that are minted: exactly the requests that minting makes, with the
//! parameters that it sends.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::acl::{AclPath, Rights, Rules};
use super::grant::{Grant, Reach};
use super::server::{Draft, ServerPolicyFault, ServerRule, can_be_written};
use crate::model::{FieldName, SecretPath, Stage, Standing, UnixTime};

/// A directory of a store whose values its server mints: nothing of it is in the KV engine.
#[derive(Debug, Clone)]
pub struct Minted {
    /// Where it appears in the tree.
    pub path: SecretPath,
    /// Its fields.
    pub fields: Vec<FieldName>,
    /// The path of the engine that mints.
    pub mount: String,
    /// Its role there.
    pub role: String,
    /// What it is.
    pub kind: MintedKind,
}

/// What is minted.
#[derive(Debug, Clone)]
pub enum MintedKind {
    /// A user of a database.
    User,
    /// A certificate, which is asked for with these parameters.
    Certificate(Vec<(&'static str, String)>),
}

/// The parameters that a rule lets through, by name. None: whatever they are; without values: any of that name.
pub(super) type Parameters = BTreeMap<&'static str, BTreeSet<String>>;

/// Rules with the parameters that they let through, by what is asked.
pub(super) type MintingRules = BTreeMap<String, (&'static str, Parameters)>;

impl Minted {
    /// Whether somebody with this grant has it minted: by opening one of its fields as it is now.
    fn is_reached_by(&self, grant: &Grant) -> bool {
        let current = Standing::at(Stage::Current);
        grant.read.iter().any(|pattern| pattern.matches(&self.path))
            && self.fields.iter().any(|field| grant.lets_field(field.as_str()))
            && grant.stages.reach(&current, UnixTime::default(), Duration::ZERO) == Reach::Yes
    }

    /// The path that is asked, and so the beginning of every lease's id.
    fn asked_at(&self) -> String {
        let verb = if matches!(self.kind, MintedKind::User) { "creds" } else { "issue" };
        format!("{}/{verb}/{}", self.mount, self.role)
    }
}

impl Draft<'_> {
    /// All that a login needs which mints for those to whom a grant gives something.
    pub(super) fn mint(&mut self, grant: &Grant) -> Result<(), ServerPolicyFault> {
        for minted in self.store.minted.iter().filter(|minted| minted.is_reached_by(grant)) {
            let asked_at = minted.asked_at();
            if let Some(odd) = [&minted.mount, &minted.role].into_iter().find(|name| !is_plain(name)) {
                return Err(ServerPolicyFault::Unwritable(odd.clone()));
            }
            let lease = [("lease_id", Some(format!("{asked_at}/*")))];
            match &minted.kind {
                MintedKind::User => {
                    self.rule(&asked_at, "read", []);
                    self.rule(
                        "sys/leases/renew",
                        "update",
                        lease.iter().cloned().chain([("increment", None)]),
                    );
                }
                MintedKind::Certificate(parameters) => {
                    let sent = parameters.iter().map(|(name, value)| (*name, self.value(minted, value)));
                    let sent: Vec<_> = sent.collect();
                    self.issue(minted, &asked_at, sent);
                    self.rule(&format!("{}/revoke", minted.mount), "update", [("serial_number", None)]);
                    self.wider.insert(format!(
                        "{}/revoke ends any certificate of that engine, for the server knows them by their numbers: it is \
                         asked only where the role {} gives no leases (generate_lease)",
                        minted.mount, minted.role
                    ));
                }
            }
            self.rule("sys/leases/revoke", "update", lease.into_iter().chain([("sync", None)]));
            self.notes.insert(format!(
                "leases of {asked_at} are renewed and ended by their ids, which only their holders know; a token of this \
                 login must be one that can have leases: no batch token"
            ));
        }
        Ok(())
    }

    fn issue(&mut self, minted: &Minted, asked_at: &str, sent: Vec<(&'static str, Option<String>)>) {
        let before = self.minting.get(asked_at).map(|(_, parameters)| parameters.clone());
        self.rule(asked_at, "update", sent);
        let after = self.minting.get(asked_at).map(|(_, parameters)| parameters);
        if before.as_ref().is_some_and(|before| Some(before) != after) {
            self.wider.insert(format!(
                "{asked_at} is asked for several certificates: the server lets the names of one go with those of another ({})",
                minted.path
            ));
        }
    }

    /// A value as a policy names it; `None`: it cannot be named there, and any is let through.
    fn value(&mut self, minted: &Minted, value: &str) -> Option<String> {
        let is_shape = value.starts_with('*') || value.ends_with('*');
        if is_shape || !can_be_written(value) {
            self.wider.insert(format!(
                "{value:?}, for which {} is issued, means more in the server's language",
                minted.path
            ));
        }
        can_be_written(value).then(|| value.to_owned())
    }

    fn rule(
        &mut self,
        path: &str,
        right: &'static str,
        parameters: impl IntoIterator<Item = (&'static str, Option<String>)>,
    ) {
        let (_, all) = self.minting.entry(path.to_owned()).or_insert_with(|| (right, Parameters::new()));
        for (name, value) in parameters {
            // A name without values lets any through, and stays so.
            match (all.get_mut(name), value) {
                (Some(values), Some(value)) if !values.is_empty() => drop(values.insert(value)),
                (Some(values), None) => values.clear(),
                (Some(_), Some(_)) => {}
                (None, value) => drop(all.insert(name, value.into_iter().collect())),
            }
        }
    }

    /// Takes what is minted out of the rules for the KV engine, which is not asked for it. Names below it may be there.
    pub(super) fn leave_minted_out(&mut self, rules: &mut Rules) {
        let kinds: &[&str] = if self.store.has_versions {
            &["data", "metadata", "delete", "undelete", "destroy"]
        } else {
            &["data"]
        };
        for minted in self.store.minted {
            let names = super::pattern::names_below(&minted.path, self.store.prefix);
            for kind in kinds {
                let (path, is_exact) = self.path(kind, &names);
                if is_exact {
                    leave_out(rules, path);
                } else {
                    self.wider.insert(format!(
                        "{} is minted, and what the KV engine may have at its path cannot be left out in the server's language",
                        minted.path
                    ));
                }
            }
        }
    }

    /// The rules for what is minted, as the server writes them.
    pub(super) fn minting_rules(&self) -> Vec<ServerRule> {
        let rule = |(path, (right, parameters)): (&String, &(&'static str, Parameters))| ServerRule {
            path: if self.above.is_empty() { path.clone() } else { format!("{}/{path}", self.above) },
            capabilities: vec![*right],
            allowed_parameters: parameters
                .iter()
                .map(|(name, values)| (*name, values.iter().cloned().collect()))
                .collect(),
        };
        self.minting.iter().map(rule).collect()
    }
}

/// Leaves at a path what is said of it as a folder.
fn leave_out(rules: &mut Rules, path: AclPath) {
    let own = rules.remove(&path);
    let covering = rules.iter().filter(|(rule, _)| rule.covers(&path));
    let looked_at = covering.max_by(|one, other| one.0.rank(other.0)).map(|(_, rights)| rights.clone());
    let is_covered = looked_at.is_some();
    let Some(rights) = own.or(looked_at) else { return };
    let lists = rights.contains("list");
    if lists || is_covered {
        rules.insert(path, Rights::from([if lists { "list" } else { "deny" }]));
    }
}

/// Whether a name of an engine or role means itself in a policy.
fn is_plain(name: &str) -> bool {
    can_be_written(name) && !name.contains('*') && !name.split('/').any(|part| part == "+")
}
