//! The files that `credfs init` writes, as text: a configuration, and a policy that grants nothing.

use std::path::Path;

use super::settings::is_default;
use crate::document::quoted;

/// Where everything of a new instance lies.
#[derive(Debug, Clone, Copy)]
pub struct InitialPaths<'a> {
    /// The mount point.
    pub mount_point: &'a Path,
    /// The database of the local store.
    pub store: &'a Path,
    /// Its key.
    pub key: &'a Path,
    /// The policy file.
    pub policy: &'a Path,
    /// A directory of more policy files; `None`: there is none.
    pub policy_directory: Option<&'a Path>,
    /// The audit log.
    pub audit: &'a Path,
    /// The control socket; `None`: the usual one.
    pub control: Option<&'a Path>,
}

/// The configuration, with every usual setting written out.
#[must_use]
pub fn config_text(paths: &InitialPaths<'_>) -> String {
    let text = |path: &Path| quoted(&path.to_string_lossy());
    let mut policy_paths = text(paths.policy);
    if let Some(directory) = paths.policy_directory {
        policy_paths = format!("{policy_paths}, {}", text(directory));
    }
    let control =
        paths.control.map_or_else(String::new, |socket| format!("\n[control]\nsocket = {}\n", text(socket)));
    format!(
        r#"# The configuration of credfs. After a change: credfs check, then credfs reload.
# Relative paths are relative to this file. Spans have a unit: "250ms", "30s", "12h", "7d".

mount_point = {mount_point}

# The embedded store: one database, each value sealed with a key that only this machine has.
# Keep a copy of the key file elsewhere: without it nothing in the store can be read.
[stores.main]
kind = "local"
prefix = ""
path = {store}
key_file = {key}
# How many versions of a secret are kept; 0: all. Older ones without a stage are erased once retire_after is over.
keep_versions = 0

# Who may read what. Files, and directories of *.toml.
[policy]
paths = [{policy_paths}]
# How long a version that lost its stage may still be read, so that no reader is cut off by a rotation.
retire_after = "30s"

# Every read is recorded here before a byte is handed over.
[audit]
path = {audit}
# "process-safe": written before the answer; "power-safe": on the disk before the answer.
durability = "process-safe"
segment_bytes = 16777216
max_bytes = 1073741824
{control}
# Deadlines, queues and sizes; these are the defaults.
[limits]
#request_deadline = "5s"
#audit_wait = "40ms"
#in_flight_per_uid_max = 64
#cache_bytes_max = 4194304
"#,
        mount_point = text(paths.mount_point),
        store = text(paths.store),
        key = text(paths.key),
        audit = text(paths.audit),
    )
}

/// A policy that grants nothing, with examples as comments: lines that begin with `#` directly before a key or a
/// bracket are policy, the others are words.
#[must_use]
pub fn policy_text(config: &Path) -> String {
    let option = if is_default(config) { String::new() } else { format!(" --config {}", config.display()) };
    let option: String = option.chars().filter(|character| !character.is_control()).collect();
    let mut text = String::from(
        r#"# Who may read what. Nothing is granted until a grant says so, to root neither: what nobody granted does not
# exist for those who ask. Take the # away from an example to begin; then:
"#,
    );
    text.push_str(&format!("#   credfs check{option}\n#   credfs reload{option}\n"));
    text.push_str(&format!("#   credfs explain{option} prod/orders/db password --user orders\n"));
    text.push_str(EXAMPLES);
    text
}

const EXAMPLES: &str = r#"
# Administrators (root, and the owner of the configuration) may see all names and metadata through the mount, and no
# value. The commands of credfs they may use without this.
#[[grants]]
#to = ["administrator"]
#list = ["**"]

# A service: the user it runs as and its systemd unit, both of which must be true.
#[identities.orders]
#user = ["orders"]
#unit = ["orders.service"]

# It may read its own secrets: prod/orders/db, prod/orders/db/replica and so on. Reading implies listing.
#[[grants]]
#to = ["orders"]
#read = ["prod/orders/**"]

# A program by its file and digest, one field only, and only while it starts.
#[identities.backup]
#uid = [0]
#exe = ["/usr/sbin/backup-agent"]
#unit = ["backup.service"]
#[[grants]]
#to = ["backup"]
#read = ["prod/*/db"]
#fields = ["password"]
#within = "30s"

# People of a group may see the next version before it becomes current, a few times a minute.
#[identities.operators]
#group = ["operators"]
#session = ["any"]
#[[grants]]
#to = ["operators"]
#read = ["staging/**"]
#stages = ["current", "previous", "next"]
#reads_per_minute = 30

# Some may change secrets without being root: put, rollback, revoke, delete.
#[[grants]]
#to = ["operators"]
#admin = ["staging/**"]
#list = ["staging/**"]

# A file at a path of its own, with the owner and mode that one program demands. Who may read prod/orders/tls may
# read it.
#[views."nginx/orders.pem"]
#secret = "prod/orders/tls"
#field = "bundle"
#owner = "root"
#group = "root"
#mode = "0440"
"#;
