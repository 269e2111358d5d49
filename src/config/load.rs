//! Reads the configuration file into settings; every fault at once.

use std::io::Read as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Component, Path, PathBuf};
use std::time::Duration;

use super::settings::{DEFAULT_CONTROL_SOCKET, DEFAULT_MOUNT_POINT, PRIVATE_CONTROL_SOCKET, is_default};
use super::{
    AuditSettings, Config, ControlSettings, Durability, KeySetting, LimitSettings, LocalSettings,
    PolicySettings, StoreKind, StoreSettings, VaultSettings,
};
use crate::document::{Document, FILE_BYTES_MAX, Fault, Faults, Placed, Section};
use crate::model::SecretPath;

const SEGMENT_BYTES: u64 = 16 * 1024 * 1024;
const LOG_BYTES: u64 = 1024 * 1024 * 1024;

/// Keys that name one file, in whatever table.
const FILES: [&str; 9] = [
    "path",
    "key_file",
    "socket",
    "ca_file",
    "client_cert_file",
    "client_key_file",
    "secret_id_file",
    "jwt_file",
    "token_file",
];

impl Config {
    /// Loads the configuration. Paths in the result are absolute if `file` is.
    ///
    /// # Errors
    /// Every fault of the file.
    pub fn load(file: &Path) -> Result<Self, Vec<Fault>> {
        let file = std::path::absolute(file).map_err(|error| vec![unreadable(file, &error)])?;
        let (text, owner_uid) = read_file(&file).map_err(|fault| vec![fault])?;
        Self::from_text(&file, &text, owner_uid)
    }

    /// Makes settings of a text already read.
    ///
    /// # Errors
    /// Every fault of the text.
    pub fn from_text(file: &Path, text: &str, owner_uid: u32) -> Result<Self, Vec<Fault>> {
        let (config, faults) = Self::as_far_as_readable(file, text, owner_uid);
        if faults.is_empty() { Ok(config) } else { Err(faults) }
    }

    /// Reads what can be read, with defaults in the place of what is wrong, and says every fault: so that the files
    /// which a faulty configuration names can be checked in one go with it. Not to be served from.
    ///
    /// # Errors
    /// Where there is no text to read.
    pub fn load_with_faults(file: &Path) -> Result<(Self, Vec<Fault>), Fault> {
        let file = std::path::absolute(file).map_err(|error| unreadable(file, &error))?;
        let (text, owner_uid) = read_file(&file)?;
        Ok(Self::as_far_as_readable(&file, &text, owner_uid))
    }

    fn as_far_as_readable(file: &Path, text: &str, owner_uid: u32) -> (Self, Vec<Fault>) {
        let faults = Faults::of(file);
        let document = Document::parse(text, &faults);
        let is_toml = faults.count() == 0;
        let root = document.root(&faults);
        let mount_point =
            root.path("mount_point").map_or_else(|| PathBuf::from(DEFAULT_MOUNT_POINT), |path| path.value);
        if mount_point == Path::new("/") || mount_point.components().any(|part| part == Component::ParentDir)
        {
            root.fault(
                root.line_of("mount_point"),
                "\"mount_point\" is / or holds ..",
                "name a directory of its own",
            );
        }
        let stores = read_stores(&root);
        let policy = read_policy(&root);
        let audit = read_audit(&root);
        let limits = root.section("limits").map_or_else(LimitSettings::default, LimitSettings::read);
        let control = read_control(&root);
        let worker_user = read_worker(&root);
        refuse_paths_on_the_mount(&root, &mount_point);
        root.finish();
        let config = Self {
            file: file.to_owned(),
            owner_uid,
            is_toml,
            mount_point,
            stores,
            policy,
            audit,
            limits,
            control,
            worker_user,
        };
        (config, faults.into_vec())
    }

    /// What is odd about the configuration without being wrong: prefixes that shadow one another.
    #[must_use]
    pub fn warnings(&self) -> Vec<Fault> {
        let mut warnings = Vec::new();
        for (number, inner) in self.stores.iter().enumerate() {
            // Longest first: whatever shadows and is shadowed comes in this order.
            for outer in self.stores.iter().skip(number + 1).filter(|outer| outer.serves(&inner.prefix)) {
                warnings.push(Fault::of_file(
                    &self.file,
                    format!(
                        "store \"{}\" (prefix \"{}\") hides what store \"{}\" (prefix \"{}\") has at the same paths",
                        inner.name, inner.prefix, outer.name, outer.prefix
                    ),
                    "intended if the longer prefix shall win; else give them prefixes apart",
                ));
            }
        }
        warnings
    }
}

fn read_stores(root: &Section<'_>) -> Vec<StoreSettings> {
    let sections = root.named_sections("stores");
    if sections.is_empty() {
        root.fault(
            root.line_of("stores"),
            "no store is configured",
            "add [stores.main] with kind = \"local\", path and key_file",
        );
    }
    let mut stores: Vec<StoreSettings> = Vec::new();
    for (name, section) in sections {
        let line = name.line;
        let Some(store) = read_store(name, &section) else { continue };
        for other in &stores {
            if other.prefix == store.prefix {
                root.fault(
                    line,
                    format!("stores \"{}\" and \"{}\" have the same prefix", other.name, store.name),
                    "give each a prefix of its own",
                );
            }
            if other.local().is_some_and(|other| store.local().is_some_and(|own| own.path == other.path)) {
                root.fault(
                    line,
                    format!("stores \"{}\" and \"{}\" have the same database", other.name, store.name),
                    "give each a path of its own",
                );
            }
        }
        stores.push(store);
    }
    // Longest first: the first that serves a path is the one.
    stores.sort_by(|one, other| {
        let depth = |store: &StoreSettings| store.prefix.len();
        depth(other).cmp(&depth(one)).then_with(|| one.name.cmp(&other.name))
    });
    stores
}

fn read_store(name: Placed<&str>, section: &Section<'_>) -> Option<StoreSettings> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"_-.".contains(&byte);
    if name.value.is_empty() || name.value.len() > 64 || !name.value.bytes().all(plain) {
        section.fault(
            name.line,
            "the name of a store is empty, longer than 64 bytes or holds other than letters, digits and _-.",
            "choose a plain name, such as [stores.main]",
        );
    }
    let kind = section.required_text("kind", "local")?;
    if !["local", "vault"].contains(&kind.value) {
        let message = match kind.value {
            "aws" | "etcd" => {
                format!("kind \"{}\" is not in this build, which serves \"local\" and \"vault\"", kind.value)
            }
            other => format!("{other:?} is not a kind of store; this build serves \"local\" and \"vault\""),
        };
        section.fault(kind.line, message, "write kind = \"local\" or \"vault\", or remove this store");
        // Which keys another kind has is not known: they are no further faults.
        return None;
    }
    let prefix = read_prefix(section);
    let kind = if kind.value == "vault" {
        VaultSettings::read(name.value, section).map(|vault| StoreKind::Vault(Box::new(vault)))
    } else {
        read_local(section).map(StoreKind::Local)
    };
    section.report_unknown();
    Some(StoreSettings { name: name.value.to_owned(), prefix: prefix?, kind: kind? })
}

fn read_local(section: &Section<'_>) -> Option<LocalSettings> {
    let path = section.required_text("path", "/var/lib/credfs/store.db").and_then(|_| section.path("path"));
    let key = read_key(section);
    let keep_versions = section.integer("keep_versions", 0..=1_000_000).map_or(0, |keep| keep.value);
    Some(LocalSettings {
        path: path?.value,
        key: key?,
        keep_versions: u32::try_from(keep_versions).unwrap_or(0),
    })
}

fn read_prefix(section: &Section<'_>) -> Option<String> {
    let Some(text) = section.text("prefix") else { return (!section.has("prefix")).then(String::new) };
    if text.value.is_empty() {
        return Some(String::new());
    }
    match SecretPath::parse(text.value) {
        Ok(prefix) => Some(prefix.into()),
        Err(fault) => {
            section.fault(
                text.line,
                format!("\"prefix\" is no path: {fault}"),
                "write prefix = \"central\", or \"\" for the top",
            );
            None
        }
    }
}

fn read_key(section: &Section<'_>) -> Option<KeySetting> {
    let (file, credential) = (section.path("key_file"), section.text("key_credential"));
    match (section.has("key_file"), section.has("key_credential")) {
        (true, true) => section.fault(
            section.line_of("key_credential"),
            "both \"key_file\" and \"key_credential\" are given",
            "keep one of them",
        ),
        (false, false) => section.fault(
            section.line(),
            format!("[{}] has no key", section.name()),
            "add key_file = \"/etc/credfs/store.key\", or key_credential = \"NAME\"",
        ),
        _ => {}
    }
    if let Some(name) = credential {
        // As systemd demands of credentials (systemd.exec(5), LoadCredential=): a file name.
        if name.value.is_empty() || name.value.contains(['/', '\0', ':']) || [".", ".."].contains(&name.value)
        {
            section.fault(
                name.line,
                "\"key_credential\" is not the name of a credential",
                "write the ID of LoadCredential= in the unit, without a slash",
            );
            return None;
        }
        return Some(KeySetting::Credential(name.value.to_owned()));
    }
    file.map(|file| KeySetting::File(file.value))
}

fn read_policy(root: &Section<'_>) -> PolicySettings {
    let directory = root.file().parent().unwrap_or(Path::new("/"));
    let mut policy =
        PolicySettings { paths: vec![directory.join("policy.toml")], retire_after: Duration::from_secs(30) };
    if let Some(section) = root.section("policy") {
        if let Some(paths) = section.paths("paths") {
            policy.paths = paths.into_iter().map(|path| path.value).collect();
        }
        let range = Duration::ZERO..=Duration::from_secs(24 * 3600);
        if let Some(span) = section.span("retire_after", range) {
            policy.retire_after = span;
        }
        section.finish();
    }
    policy
}

fn read_audit(root: &Section<'_>) -> AuditSettings {
    let directory = root.file().parent().unwrap_or(Path::new("/"));
    let usual = if is_default(root.file()) { Path::new("/var/log/credfs") } else { directory };
    let mut audit = AuditSettings {
        path: usual.join("audit.log"),
        durability: Durability::ProcessSafe,
        segment_bytes: SEGMENT_BYTES,
        max_bytes: LOG_BYTES,
    };
    let Some(section) = root.section("audit") else { return audit };
    if let Some(path) = section.path("path") {
        audit.path = path.value;
    }
    let words = [("process-safe", Durability::ProcessSafe), ("power-safe", Durability::PowerSafe)];
    if let Some(durability) = section.word("durability", &words) {
        audit.durability = durability;
    }
    if let Some(bytes) = section.integer("segment_bytes", 65_536..=1 << 40) {
        audit.segment_bytes = bytes.value;
        audit.max_bytes = audit.max_bytes.max(bytes.value.saturating_mul(2));
    }
    if let Some(bytes) = section.integer("max_bytes", 131_072..=1 << 50) {
        audit.max_bytes = bytes.value;
        if bytes.value < audit.segment_bytes.saturating_mul(2) {
            section.fault(
                bytes.line,
                "\"max_bytes\" is less than two files of \"segment_bytes\", so nothing could be kept while one is written",
                "make it at least twice segment_bytes",
            );
        }
    }
    section.finish();
    audit
}

fn read_worker(root: &Section<'_>) -> Option<String> {
    let section = root.section("worker")?;
    let user = section.text("user").map(|user| (user.line, user.value.to_owned()));
    if let Some((line, user)) = &user
        && user.is_empty()
    {
        section.fault(*line, "\"user\" is empty", "name a user, or leave it out");
    }
    section.finish();
    user.map(|(_, user)| user)
}

fn read_control(root: &Section<'_>) -> ControlSettings {
    let directory = root.file().parent().unwrap_or(Path::new("/"));
    let mut socket = if is_default(root.file()) {
        PathBuf::from(DEFAULT_CONTROL_SOCKET)
    } else {
        directory.join(PRIVATE_CONTROL_SOCKET)
    };
    if let Some(section) = root.section("control") {
        if let Some(path) = section.path("socket") {
            // sun_path of unix(7) holds 108 bytes with the closing NUL.
            if path.value.as_os_str().len() > 107 {
                section.fault(
                    path.line,
                    "the socket's path is longer than 107 bytes",
                    "choose a shorter one",
                );
            }
            socket = path.value;
        }
        section.finish();
    }
    ControlSettings { socket }
}

/// A file of ours below our own mount would be asked of ourselves: a deadlock.
fn refuse_paths_on_the_mount(root: &Section<'_>, mount_point: &Path) {
    let check = |section: &Section<'_>, key: &'static str, many: bool| {
        if !section.has(key) {
            return;
        }
        // The paths were read before: their faults are told, and would be told twice.
        let found = section.quietly(|section| {
            if many {
                section.paths(key).unwrap_or_default()
            } else {
                section.path(key).into_iter().collect()
            }
        });
        for path in found.iter().filter(|path| lies_on(&path.value, mount_point)) {
            section.fault(
                path.line,
                format!("\"{key}\" lies on the mount point {} itself", mount_point.display()),
                "choose a path outside the mount",
            );
        }
    };
    if lies_on(root.file(), mount_point) {
        root.fault(
            root.line_of("mount_point"),
            "the configuration lies on the mount point itself",
            "move one of the two",
        );
    }
    let sections = root.quietly(|root| {
        let mut all: Vec<_> = root.named_sections("stores").into_iter().map(|(_, section)| section).collect();
        let logins: Vec<_> = all.iter().filter_map(|store| store.section("login")).collect();
        all.extend(logins);
        all.extend(
            ["policy", "audit", "control"]
                .into_iter()
                .filter(|key| root.has(key))
                .filter_map(|key| root.section(key)),
        );
        all
    });
    for section in &sections {
        for key in FILES {
            check(section, key, false);
        }
        check(section, "paths", true);
    }
}

/// Whether `path` is `mount_point` or below it, by name: also where a link leads there, as far as it exists.
fn lies_on(path: &Path, mount_point: &Path) -> bool {
    let plain = |path: &Path| -> PathBuf {
        let mut parts = PathBuf::new();
        for part in path.components() {
            match part {
                Component::ParentDir => {
                    parts.pop();
                }
                Component::CurDir => {}
                other => parts.push(other),
            }
        }
        parts
    };
    let (path, mount_point) = (plain(path), plain(mount_point));
    if path.starts_with(&mount_point) {
        return true;
    }
    // Only the parent of the mount is looked at: the mount itself may be hanging.
    let real_mount = mount_point
        .parent()
        .and_then(|parent| std::fs::canonicalize(parent).ok())
        .zip(mount_point.file_name())
        .map(|(parent, name)| parent.join(name));
    real_mount.is_some_and(|mount| path.starts_with(mount))
}

fn unreadable(file: &Path, error: &std::io::Error) -> Fault {
    match error.kind() {
        std::io::ErrorKind::NotFound => Fault::of_file(
            file,
            "the configuration does not exist",
            "credfs init makes one; or name another with --config",
        ),
        kind => Fault::of_file(
            file,
            format!("the configuration cannot be read: {kind}"),
            "run as its owner or as root",
        ),
    }
}

fn read_file(file: &Path) -> Result<(String, u32), Fault> {
    let unreadable = |error: std::io::Error| unreadable(file, &error);
    if !std::fs::metadata(file).map_err(unreadable)?.is_file() {
        return Err(Fault::of_file(file, "the configuration is not a regular file", "replace it by one"));
    }
    let opened = std::fs::File::open(file).map_err(unreadable)?;
    let owner_uid = opened.metadata().map_err(unreadable)?.uid();
    let mut bytes = Vec::new();
    opened.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(unreadable)?;
    if bytes.len() as u64 > FILE_BYTES_MAX {
        return Err(Fault::of_file(file, "the configuration is larger than 16 MiB", "shorten it"));
    }
    let text = String::from_utf8(bytes)
        .map_err(|_| Fault::of_file(file, "the configuration is not UTF-8", "save it as UTF-8"))?;
    Ok((text, owner_uid))
}
