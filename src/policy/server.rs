//! The same grants in the words of a Vault or OpenBao server: one policy for each login that credfs has there, which lets that
//! login do what credfs would ask for under it, and nothing else.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use super::acl::{AclPath, Rights, Rules, Step, settle};
use super::grant::Grant;
use super::identity::Identity;
use super::pattern::{Element, Pattern};
use super::server_minted::{Minted, MintingRules};
use super::{ADMINISTRATOR, Policy};

/// How the store lies at its server.
#[derive(Debug, Clone, Copy)]
pub struct ServerStore<'a> {
    /// Its name in the configuration.
    pub name: &'a str,
    /// Where it appears in the tree; empty: at the top.
    pub prefix: &'a str,
    /// The path of the KV engine.
    pub mount: &'a str,
    /// The engine's namespace; empty: the root's.
    pub namespace: &'a str,
    /// Whether the engine numbers versions (KV 2).
    pub has_versions: bool,
    /// In which namespace the machine logs in, if not in that of the store.
    pub machine_namespace: Option<&'a str>,
    /// Whether identities without a login of their own are refused.
    pub own_login_required: bool,
    /// Whether the machine's login gets the rights of the built-in administrator too: everything.
    pub administrator: bool,
    /// Prefixes of other stores that lie within this one's: what is there is not this store's.
    pub others_within: &'a [&'a str],
    /// What of it is minted, and so not in the KV engine.
    pub minted: &'a [Minted],
}

/// The policy of one login.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ServerPolicy {
    /// `machine`, or `identity:NAME`, as `credfs status` calls it.
    pub login: String,
    /// What it may be called at the server.
    pub name: String,
    /// In which namespace it belongs; empty: the root's.
    pub namespace: String,
    /// Its rules.
    pub rules: Vec<ServerRule>,
    /// Where it lets more be done than the grants do, and why.
    pub wider: Vec<String>,
    /// What it leaves to credfs.
    pub notes: Vec<String>,
}

/// One rule of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ServerRule {
    /// The path, as the server's policies write it.
    pub path: String,
    /// The capabilities.
    pub capabilities: Vec<&'static str>,
    /// The only parameters that a request may have, by name, and the values of each, where `*` at an end is whatever goes on;
    /// no values: any. None: any parameters.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub allowed_parameters: BTreeMap<&'static str, Vec<String>>,
}

/// Why a policy cannot be written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ServerPolicyFault {
    /// It would have too many rules.
    #[error("the policy of {0} would have more than 2000 rules: grant fewer overlapping patterns")]
    TooMany(String),
    /// The server's language cannot say a name.
    #[error(
        "the mount or role {0:?} cannot be written in a policy of the server: its signs mean something else there"
    )]
    Unwritable(String),
    /// The login cannot be given rights there.
    #[error(
        "{login} logs in in the namespace {of:?}, which is not above {namespace:?}: no policy there can speak of the store"
    )]
    Namespace {
        /// Whose login.
        login: String,
        /// Its namespace.
        of: String,
        /// The store's.
        namespace: String,
    },
}

/// What is asked for under one login, collected grant by grant.
pub(super) struct Draft<'a> {
    pub(super) store: &'a ServerStore<'a>,
    /// Names before the mount's own.
    pub(super) above: String,
    /// For the KV engine.
    rules: Rules,
    /// For engines that mint.
    pub(super) minting: MintingRules,
    pub(super) wider: BTreeSet<String>,
    pub(super) notes: BTreeSet<String>,
}

impl Policy {
    /// The policies of every login at a store: that of the machine first.
    ///
    /// # Errors
    /// [`ServerPolicyFault`] where one cannot be written.
    pub fn server_policies(&self, store: &ServerStore<'_>) -> Result<Vec<ServerPolicy>, ServerPolicyFault> {
        let mut policies = vec![self.machine_policy(store)?];
        for identity in &self.identities {
            if let Some(login) = identity.logins.get(store.name) {
                policies.push(self.identity_policy(store, identity, login.namespace.as_deref())?);
            }
        }
        Ok(policies)
    }

    fn machine_policy(&self, store: &ServerStore<'_>) -> Result<ServerPolicy, ServerPolicyFault> {
        let login = "machine".to_owned();
        let mut draft = Draft::new(store, &login, store.machine_namespace)?;
        let reads_for_others =
            |identity: &&Identity| !identity.logins.contains_key(store.name) && !store.own_login_required;
        for grant in &self.grants {
            let named: Vec<&Identity> =
                grant.to.iter().filter_map(|number| self.identities.get(*number)).collect();
            let reads = named.iter().any(reads_for_others);
            if reads {
                draft.mint(grant)?;
            }
            for pattern in &grant.read {
                draft.list(grant, pattern);
                if reads {
                    draft.read(grant, pattern);
                }
            }
            grant.list.iter().for_each(|pattern| draft.list(grant, pattern));
            // Whoever may change some fields only may change nothing: changes are of whole secrets.
            for pattern in grant.admin.iter().filter(|_| grant.fields.is_none()) {
                draft.list(grant, pattern);
                draft.administer(grant, pattern);
            }
        }
        if store.administrator {
            draft.administer_everything();
        } else {
            draft.notes.insert(format!(
                "without the rights of the built-in {ADMINISTRATOR}: `credfs get` and `put` as root work on what a grant's \
                 \"admin\" names (--administrator: on everything)"
            ));
        }
        draft.finish(login)
    }

    fn identity_policy(
        &self,
        store: &ServerStore<'_>,
        identity: &Identity,
        namespace: Option<&str>,
    ) -> Result<ServerPolicy, ServerPolicyFault> {
        let login = format!("identity:{}", identity.name);
        let mut draft = Draft::new(store, &login, namespace)?;
        let is_named =
            |number: &usize| self.identities.get(*number).is_some_and(|one| one.name == identity.name);
        for grant in self.grants.iter().filter(|grant| grant.to.iter().any(is_named)) {
            draft.mint(grant)?;
            for pattern in &grant.read {
                draft.read(grant, pattern);
                draft.describe(grant, pattern);
            }
            grant.list.iter().for_each(|pattern| draft.describe(grant, pattern));
            if !grant.admin.is_empty() {
                draft.notes.insert(
                    "\"admin\" is in the policy of the machine's login: changes are made under that"
                        .to_owned(),
                );
            }
        }
        draft.finish(login)
    }
}

impl<'a> Draft<'a> {
    fn new(
        store: &'a ServerStore<'a>,
        login: &str,
        namespace: Option<&str>,
    ) -> Result<Self, ServerPolicyFault> {
        let of = namespace.unwrap_or(store.namespace);
        let above = match store.namespace.strip_prefix(of) {
            Some(rest) if of.is_empty() || rest.is_empty() || rest.starts_with('/') => {
                rest.trim_matches('/').to_owned()
            }
            _ => {
                return Err(ServerPolicyFault::Namespace {
                    login: login.to_owned(),
                    of: of.to_owned(),
                    namespace: store.namespace.to_owned(),
                });
            }
        };
        let mut draft = Self {
            store,
            above,
            rules: Rules::new(),
            minting: MintingRules::new(),
            wider: BTreeSet::new(),
            notes: BTreeSet::new(),
        };
        for other in store.others_within {
            draft.notes.insert(format!(
                "what the server has below {other} in the tree belongs to another store, and is not left out"
            ));
        }
        Ok(draft)
    }

    /// Values.
    fn read(&mut self, grant: &Grant, pattern: &Pattern) {
        self.allow("data", grant, pattern, &["read"]);
        if let Some(fields) = &grant.fields {
            self.notes.insert(format!(
                "{} is about the fields {} only: the server knows secrets as wholes, credfs hides the rest",
                grant.rule,
                fields.join(", ")
            ));
        }
    }

    /// What versions there are.
    fn describe(&mut self, grant: &Grant, pattern: &Pattern) {
        if self.store.has_versions {
            self.allow("metadata", grant, pattern, &["read"]);
        }
    }

    /// That, and the names in each folder on the way.
    fn list(&mut self, grant: &Grant, pattern: &Pattern) {
        self.describe(grant, pattern);
        for rest in pattern.rest_below(self.store.prefix) {
            for folder in folders_of(&rest) {
                let (path, is_exact) = self.path("metadata", folder);
                self.note_wider(is_exact, grant, pattern, &path);
                self.rules.entry(path).or_default().insert("list");
            }
        }
    }

    fn administer(&mut self, grant: &Grant, pattern: &Pattern) {
        if !self.store.has_versions {
            return self.allow("data", grant, pattern, &["create", "read", "update", "delete"]);
        }
        self.allow("data", grant, pattern, &["create", "read", "update"]);
        self.allow("metadata", grant, pattern, &["create", "read", "patch"]);
        for path in ["delete", "undelete", "destroy"] {
            self.allow(path, grant, pattern, &["update"]);
        }
        self.ask_limits();
    }

    /// How many versions the engine keeps: a staged one must not push out the current one.
    fn ask_limits(&mut self) {
        let (path, _) = self.path("config", &[]);
        self.rules.entry(path).or_default().insert("read");
    }

    fn administer_everything(&mut self) {
        let all = [Element::AnyName, Element::AnyNames];
        let kinds: &[(&str, &[&'static str])] = if self.store.has_versions {
            self.ask_limits();
            &[
                ("data", &["create", "read", "update"]),
                ("metadata", &["create", "read", "patch", "list"]),
                ("delete", &["update"]),
                ("undelete", &["update"]),
                ("destroy", &["update"]),
            ]
        } else {
            &[("data", &["create", "read", "update", "delete", "list"])]
        };
        for (kind, rights) in kinds {
            let (path, _) = self.path(kind, &all);
            self.rules.entry(path).or_default().extend(*rights);
        }
        let (top, _) = self.path("metadata", &[]);
        self.rules.entry(top).or_default().insert("list");
    }

    fn allow(&mut self, kind: &str, grant: &Grant, pattern: &Pattern, rights: &[&'static str]) {
        for rest in pattern.rest_below(self.store.prefix) {
            let (path, is_exact) = self.path(kind, &rest);
            self.note_wider(is_exact, grant, pattern, &path);
            self.rules.entry(path).or_default().extend(rights);
        }
    }

    fn note_wider(&mut self, is_exact: bool, grant: &Grant, pattern: &Pattern, path: &AclPath) {
        if !is_exact {
            self.wider.insert(format!(
                "{:?} of {} has no equal at the server: {} lets more through",
                pattern.as_str(),
                grant.rule,
                path.text()
            ));
        }
    }

    /// The path at the server of what a pattern names below the store, and whether it names that and no more.
    pub(super) fn path(&self, kind: &str, elements: &[Element]) -> (AclPath, bool) {
        let (mut path, is_exact) = draw(elements);
        let kind = if self.store.has_versions { kind } else { "" };
        let names = self.above.split('/').chain(self.store.mount.split('/')).chain([kind]);
        let steps = names.filter(|name| !name.is_empty()).map(|name| Step::Name(name.into()));
        path.steps.splice(0..0, steps);
        (path, is_exact)
    }

    fn finish(mut self, login: String) -> Result<ServerPolicy, ServerPolicyFault> {
        let asked = std::mem::take(&mut self.rules);
        let (mut rules, beyond) = settle(asked).map_err(|_| ServerPolicyFault::TooMany(login.clone()))?;
        self.leave_minted_out(&mut rules);
        let minting = self.minting_rules();
        let mut wider = self.wider;
        wider.extend(beyond.iter().map(|(path, other)| {
            format!(
                "{} also has the rights of {}, for the server looks at one of the two only",
                path.text(),
                other.text()
            )
        }));
        let name = format!("credfs-{}-{}", self.store.name, login.trim_start_matches("identity:"));
        let above = self.above.len()
            + usize::from(!self.above.is_empty() && self.above.len() < self.store.namespace.len());
        let namespace = self.store.namespace.get(..self.store.namespace.len() - above).unwrap_or_default();
        Ok(ServerPolicy {
            login,
            name,
            namespace: namespace.to_owned(),
            rules: rules.into_iter().map(|(path, rights)| rule(&path, &rights)).chain(minting).collect(),
            wider: wider.into_iter().collect(),
            notes: self.notes.into_iter().collect(),
        })
    }
}

fn rule(path: &AclPath, rights: &Rights) -> ServerRule {
    let capabilities = rights.iter().copied().collect();
    ServerRule { path: path.text(), capabilities, allowed_parameters: BTreeMap::new() }
}

/// The folders that must be listed to come to what a pattern names.
fn folders_of(elements: &[Element]) -> Vec<&[Element]> {
    let deep = elements.iter().position(|element| *element == Element::AnyNames);
    // `**` is two elements: the folder before it, and everything below.
    let fixed = deep.map_or(elements.len(), |at| at);
    let mut folders: Vec<&[Element]> = (0..fixed).filter_map(|count| elements.get(..count)).collect();
    folders.extend(deep.and_then(|at| elements.get(..=at)));
    folders
}

/// Whether the server's language can say a name: it has no way to write these without their meaning.
pub(super) fn can_be_written(name: &str) -> bool {
    name != "+" && !["\"", "\\", "{{", "}}", "${", "%{"].iter().any(|mark| name.contains(mark))
}

/// Elements as a path of the server: the narrowest that lets all of them through, and whether it lets through no more.
fn draw(elements: &[Element]) -> (AclPath, bool) {
    let (mut steps, mut is_exact) = (Vec::new(), true);
    for (at, element) in elements.iter().enumerate() {
        let rest = elements.get(at + 1..).unwrap_or_default();
        let is_open = rest.iter().all(|element| matches!(element, Element::AnyName | Element::AnyNames));
        match element {
            Element::Name(name) if can_be_written(name) => steps.push(Step::Name(name.clone())),
            Element::AnyName => steps.push(Step::Any),
            Element::Shape(shape) if is_open => {
                let head = shape.split('*').next().unwrap_or_default();
                if !head.is_empty() && can_be_written(head) && !head.ends_with('+') {
                    return (AclPath { steps, glob: Some(head.into()) }, false);
                }
                (steps, is_exact) = (with(steps, Step::Any), false);
            }
            Element::Name(_) | Element::Shape(_) => (steps, is_exact) = (with(steps, Step::Any), false),
            Element::AnyNames => {
                // One name at least, and those that must follow; the last of them is any number.
                steps.pop();
                let least = rest.iter().filter(|element| **element != Element::AnyNames).count();
                steps.extend(std::iter::repeat_n(Step::Any, least));
                return (AclPath { steps, glob: Some("".into()) }, is_exact && is_open);
            }
        }
    }
    (AclPath { steps, glob: None }, is_exact)
}

fn with(mut steps: Vec<Step>, step: Step) -> Vec<Step> {
    steps.push(step);
    steps
}
