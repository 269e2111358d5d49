//! `credfs learn --store NAME`: the grants in force as policies of the server behind a store.

use serde_json::json;

use crate::control::CommandFault;
use crate::daemon;
use crate::policy::{ServerPolicy, ServerStore};

use super::arguments::Learn;
use super::{Context, Exit, output};

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
    let policies = policy.server_policies(&ServerStore {
        name,
        prefix: &store.prefix,
        mount: &vault.mount,
        namespace: vault.namespace.as_deref().unwrap_or_default(),
        has_versions: options.kv == 2,
        machine_namespace: vault.login.namespace.as_deref(),
        own_login_required: vault.remote.needs_own_login,
        administrator: options.administrator,
        others_within: &others,
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
    if context.json {
        let all: Vec<_> = wanted
            .iter()
            .map(|policy| {
                let mut value = json!(policy);
                value["hcl"] = json!(hcl(policy, name));
                value
            })
            .collect();
        output::json(&json!({ "store": name, "mount": vault.mount, "kv": options.kv, "policies": all }))?;
    } else {
        let texts: Vec<String> = wanted.iter().map(|policy| hcl(policy, name)).collect();
        output::text(&texts.join("\n"))?;
    }
    Ok(Exit::Done)
}

fn hcl(policy: &ServerPolicy, store: &str) -> String {
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
    policy.wider.iter().for_each(|wider| text.push_str(&format!("# WIDER: {}\n", plain(wider))));
    policy.notes.iter().for_each(|note| text.push_str(&format!("# Note: {}\n", plain(note))));
    if policy.rules.is_empty() {
        text.push_str("# No grant is about it.\n");
    }
    for rule in &policy.rules {
        let capabilities: Vec<String> = rule.capabilities.iter().map(|one| format!("{one:?}")).collect();
        text.push_str(&format!(
            "path \"{}\" {{ capabilities = [{}] }}\n",
            rule.path.replace('\\', "\\\\").replace('"', "\\\""),
            capabilities.join(", ")
        ));
    }
    text
}

/// A text that stays within its comment.
fn plain(text: &str) -> String {
    text.chars().map(|character| if character.is_control() { '?' } else { character }).collect()
}
