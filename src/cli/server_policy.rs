//! `credfs learn --store NAME`: the grants in force as policies of the server behind a store.

use serde_json::json;

use crate::config::{Config, StoreSettings, VaultSettings};
use crate::control::CommandFault;
use crate::daemon;
use crate::model::SecretPath;
use crate::policy::{Minted, MintedKind, ServerPolicy, ServerRule, ServerStore};
use crate::store::{Declared, Engine};

use super::arguments::Learn;
use super::connect::running;
use super::{Context, Exit, output};

/// The version of a KV engine, and how it is known.
struct Kv {
    version: u8,
    /// Why it was taken for that, where nobody said it.
    doubt: Option<String>,
}

pub(super) fn server_policy(context: &Context, name: &str, options: &Learn) -> Result<Exit, CommandFault> {
    let config = context.trusted_config()?;
    let policy = daemon::load_policy(&config).map_err(|faults| CommandFault::invalid(&faults))?.policy;
    let store = config.stores.iter().find(|store| store.name == name).ok_or_else(|| {
        let known: Vec<&str> = config.stores.iter().map(|store| store.name.as_str()).collect();
        CommandFault::not_found(format!(
            "there is no store {name:?}: the configuration has {}",
            known.join(", ")
        ))
    })?;
    let vault = store.vault().ok_or_else(|| {
        CommandFault::usage(format!(
            "the store {name:?} is no Vault or OpenBao server: its only lock is the local policy"
        ))
    })?;
    let others: Vec<&str> = config
        .stores
        .iter()
        .map(|other| other.prefix.as_str())
        .filter(|other| *other != store.prefix && store.serves(other))
        .collect();
    let minted: Vec<Minted> =
        vault.dynamic.iter().filter_map(|declared| minted(declared, &store.prefix)).collect();
    let kv = match options.kv {
        Some(version) => Kv { version, doubt: None },
        None => kv_version(context, &config, store, vault),
    };
    let policies = policy.server_policies(&ServerStore {
        name,
        prefix: &store.prefix,
        mount: &vault.mount,
        namespace: vault.namespace.as_deref().unwrap_or_default(),
        has_versions: kv.version == 2,
        machine_namespace: vault.login.namespace.as_deref(),
        own_login_required: vault.remote.needs_own_login,
        administrator: options.administrator,
        others_within: &others,
        minted: &minted,
    });
    let policies = policies.map_err(|fault| CommandFault::failed(fault.to_string()))?;
    let wanted: Vec<&ServerPolicy> = policies
        .iter()
        .filter(|one| options.login.as_ref().is_none_or(|login| one.login == *login))
        .collect();
    if wanted.is_empty() {
        let known: Vec<&str> = policies.iter().map(|policy| policy.login.as_str()).collect();
        return Err(CommandFault::not_found(format!(
            "no such login at the store {name:?}: it has {}",
            known.join(", ")
        )));
    }
    // Whoever pipes the policy to the server sees standard error alone.
    kv.doubt.iter().for_each(|doubt| output::say(&format!("credfs: warning: {doubt}")));
    print(context, name, vault, &kv, &wanted)?;
    Ok(Exit::Done)
}

/// What is declared, by its path in the tree.
fn minted(declared: &Declared, prefix: &str) -> Option<Minted> {
    let path = match prefix {
        "" => declared.path.clone(),
        prefix => SecretPath::parse(&format!("{prefix}/{}", declared.path)).ok()?,
    };
    let (mount, role, kind) = match &declared.engine {
        Engine::Database { mount, role } => (mount, role, MintedKind::User),
        Engine::Pki(pki) => (&pki.mount, &pki.role, MintedKind::Certificate(pki.parameters())),
    };
    Some(Minted { path, fields: declared.engine.fields(), mount: mount.clone(), role: role.clone(), kind })
}

/// The version as the running instance was told it, else as the server tells it now. Before there is a login that works
/// neither knows: whoever sets that up needs the policy first, and so is given that of the usual version, and told.
fn kv_version(context: &Context, config: &Config, store: &StoreSettings, vault: &VaultSettings) -> Kv {
    let instance = running(config).and_then(|status| {
        let known = status.stores.iter().find(|one| one.name == store.name);
        known.and_then(|known| known.kv)
    });
    if let Some(version) = instance {
        return Kv { version, doubt: None };
    }
    let why = match daemon::ask_kv_version(&store.name, vault, &context.surroundings) {
        Ok(version) => return Kv { version, doubt: None },
        Err(why) => why,
    };
    let doubt = format!(
        "the server could not be asked which version its KV engine {:?} has ({}): it is taken for version 2; add --kv 1 if it \
         is the other",
        vault.mount,
        plain(&why)
    );
    Kv { version: 2, doubt: Some(doubt) }
}

fn print(
    context: &Context,
    store: &str,
    vault: &VaultSettings,
    kv: &Kv,
    policies: &[&ServerPolicy],
) -> Result<(), CommandFault> {
    let texts = policies.iter().map(|policy| hcl(policy, store, kv));
    if !context.json {
        return output::text(&texts.collect::<Vec<_>>().join("\n"));
    }
    let all: Vec<_> = policies
        .iter()
        .zip(texts)
        .map(|(policy, hcl)| {
            let mut value = json!(policy);
            value["hcl"] = json!(hcl);
            value
        })
        .collect();
    let mut told = json!({ "store": store, "mount": vault.mount, "kv": kv.version, "policies": all });
    if let Some(doubt) = &kv.doubt {
        told["kv_assumed"] = json!(doubt);
    }
    output::json(&told)
}

fn hcl(policy: &ServerPolicy, store: &str, kv: &Kv) -> String {
    let namespace = match policy.namespace.as_str() {
        "" => String::new(),
        namespace => format!("-namespace={} ", plain(namespace)),
    };
    let mut text = format!(
        "# {} at the store {store}: credfs learn --store {store} --login {} | bao policy write {namespace}{} -\n\
         # Its role needs this policy beside the server's \"default\", by which tokens are renewed and revoked.\n",
        plain(&policy.login),
        plain(&policy.login),
        plain(&policy.name),
    );
    kv.doubt.iter().for_each(|doubt| text.push_str(&format!("# NOT ASKED: {}\n", plain(doubt))));
    policy.wider.iter().for_each(|wider| text.push_str(&format!("# WIDER: {}\n", plain(wider))));
    policy.notes.iter().for_each(|note| text.push_str(&format!("# Note: {}\n", plain(note))));
    if policy.rules.is_empty() {
        text.push_str("# No grant is about it.\n");
    }
    policy.rules.iter().for_each(|rule| text.push_str(&hcl_rule(rule)));
    text
}

fn hcl_rule(rule: &ServerRule) -> String {
    let list = |all: &mut dyn Iterator<Item = &str>| all.map(quoted).collect::<Vec<_>>().join(", ");
    let (path, capabilities) = (quoted(&rule.path), list(&mut rule.capabilities.iter().copied()));
    if rule.allowed_parameters.is_empty() {
        return format!("path {path} {{ capabilities = [{capabilities}] }}\n");
    }
    let mut text = format!("path {path} {{\n  capabilities = [{capabilities}]\n  allowed_parameters = {{\n");
    for (name, values) in &rule.allowed_parameters {
        text.push_str(&format!(
            "    {} = [{}]\n",
            quoted(name),
            list(&mut values.iter().map(String::as_str))
        ));
    }
    text.push_str("  }\n}\n");
    text
}

fn quoted(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}

/// A text that stays within its comment.
fn plain(text: &str) -> String {
    text.chars().map(|character| if character.is_control() { '?' } else { character }).collect()
}
