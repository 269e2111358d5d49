//! Configurations as people write them, and files that others could have written.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, chown, symlink};
use std::path::{Path, PathBuf};

use super::*;
use crate::document::Fault;
use crate::policy::{Options, Policy, SystemNames};

const FILE: &str = "/etc/credfs/credfs.toml";

fn load(text: &str) -> Result<Config, Vec<Fault>> {
    Config::from_text(Path::new(FILE), text, 0)
}

const STORE: &str = "[stores.main]\nkind = \"local\"\npath = \"store.db\"\nkey_file = \"store.key\"\n";

#[test]
fn what_is_not_said_has_its_default() {
    let config = load(STORE).unwrap();
    assert_eq!(config.mount_point, Path::new("/run/credfs"));
    assert_eq!(config.stores[0].local().unwrap().path, Path::new("/etc/credfs/store.db"));
    assert_eq!(config.stores[0].local().unwrap().key, KeySetting::File("/etc/credfs/store.key".into()));
    assert_eq!(config.policy.paths, [Path::new("/etc/credfs/policy.toml")]);
    assert_eq!(config.audit.path, Path::new("/var/log/credfs/audit.log"));
    assert_eq!(config.control.socket, Path::new("/run/credfs-control/control.sock"));
    let private = Config::from_text(Path::new("/tmp/t/credfs.toml"), STORE, 5).unwrap();
    assert_eq!(private.audit.path, Path::new("/tmp/t/audit.log"));
    assert_eq!(private.control.socket, Path::new("/tmp/t/control.sock"));
    assert_eq!(private.owner_uid, 5);
}

#[test]
fn the_store_with_the_longest_prefix_serves() {
    let text = format!(
        "{STORE}[stores.inner]\nkind = \"local\"\nprefix = \"central/eu\"\npath = \"b\"\nkey_credential = \"k\"\n\
         [stores.outer]\nkind = \"local\"\nprefix = \"central\"\npath = \"c\"\nkey_file = \"k\"\nkeep_versions = 3\n"
    );
    let config = load(&text).unwrap();
    let name = |path| config.store_of(path).unwrap().name.as_str();
    assert_eq!(
        [name("central/eu/x"), name("central/eux"), name("centralx"), name("a")],
        ["inner", "outer", "main", "main"]
    );
    assert_eq!(config.warnings().len(), 3);
}

const VAULT: &str = "[stores.central]\nkind = \"vault\"\nprefix = \"central\"\naddresses = [\"https://vault-1:8200\", \"https://vault-2:8200\"]\n";
const LOGIN: &str =
    "[stores.central.login]\nmethod = \"approle\"\nrole_id = \"r\"\nsecret_id_file = \"secret-id\"\n";

#[test]
fn a_vault_store_has_its_keys_and_their_defaults() {
    use crate::policy::{LoginFile, LoginMethod};
    let config = load(&format!("{VAULT}{LOGIN}")).unwrap();
    let vault = config.stores[0].vault().unwrap();
    assert_eq!(
        vault.addresses.iter().map(ToString::to_string).collect::<Vec<_>>(),
        ["https://vault-1:8200", "https://vault-2:8200"]
    );
    assert_eq!((vault.mount.as_str(), &vault.namespace, &vault.ca_file), ("secret", &None, &None));
    assert_eq!((vault.connect_deadline.as_secs(), vault.request_deadline.as_secs()), (1, 4));
    let secret_id = LoginFile::Path("/etc/credfs/secret-id".into());
    assert_eq!(
        vault.login.method,
        LoginMethod::AppRole { role_id: "r".into(), secret_id, is_wrapped: false, wrapped_at: None }
    );
    assert_eq!(vault.files(), [(PathBuf::from("/etc/credfs/secret-id"), true)]);
    let every = format!(
        "{VAULT}namespace = \"team\"\nmount = \"/a/b/\"\nca_file = \"ca\"\nclient_cert_file = \"c\"\nclient_key_file = \"k\"\n\
         proxy = \"http://proxy:3128\"\nown_login_required = true\nconnect_deadline = \"500ms\"\nrequest_deadline = \"2s\"\n\
         response_bytes_max = 1048576\n[stores.central.login]\nmethod = \"cert\"\nmount = \"/m/\"\nnamespace = \"\"\n"
    );
    let config = load(&every).unwrap();
    let vault = config.stores[0].vault().unwrap();
    assert_eq!((vault.mount.as_str(), vault.namespace.as_deref()), ("a/b", Some("team")));
    assert_eq!(vault.client_cert, Some(("/etc/credfs/c".into(), "/etc/credfs/k".into())));
    assert!(vault.remote.needs_own_login && vault.proxy.is_some());
    assert_eq!((vault.login.mount.as_deref(), vault.login.namespace.as_deref()), (Some("m"), Some("")));
}

#[test]
fn each_mistake_about_a_vault_store_is_a_fault_at_its_line() {
    for (text, line, says) in [
        ("[stores.v]\nkind = \"vault\"\n".to_owned() + &LOGIN.replace("central", "v"), 1, "\"addresses\""),
        (VAULT.to_owned(), 1, "has no login"),
        (format!("{}{LOGIN}", VAULT.replace("https://vault-2", "http://vault-2")), 4, "in clear"),
        (format!("{}{LOGIN}", VAULT.replace("https://vault-2", "ftp://vault-2")), 4, "neither https"),
        (format!("{}{LOGIN}", VAULT.replace("vault-2:8200", "vault-2:8200/v1")), 4, "more than a host"),
        (format!("{}{LOGIN}", VAULT.replace("vault-2", "vault-1")), 4, "twice"),
        (format!("{VAULT}mount = \"a//b\"\n{LOGIN}"), 5, "no path at a server"),
        (format!("{VAULT}client_cert_file = \"c\"\n{LOGIN}"), 5, "without its key"),
        (format!("{VAULT}client_key_file = \"c\"\n{LOGIN}"), 5, "without its certificate"),
        (format!("{VAULT}connect_deadline = \"5s\"\n{LOGIN}"), 5, "longer than"),
        (format!("{VAULT}adresses = []\n{LOGIN}"), 5, "not a known key"),
        (format!("{VAULT}path = \"x\"\n{LOGIN}"), 5, "not a known key"),
        (format!("{VAULT}{LOGIN}secret_id_credential = \"x\"\n"), 9, "both"),
        (format!("{VAULT}{LOGIN}secret_id_wrapping_path = \"x\"\n"), 9, "not wrapped"),
        (format!("{VAULT}{}", LOGIN.replace("approle", "magic")), 6, "cannot be"),
        (
            format!("mount_point = \"/run/credfs\"\n{VAULT}ca_file = \"/run/credfs/ca\"\n{LOGIN}"),
            6,
            "on the mount point",
        ),
        (
            format!(
                "mount_point = \"/run/credfs\"\n{VAULT}{}",
                LOGIN.replace("\"secret-id\"", "\"/run/credfs/x\"")
            ),
            9,
            "on the mount point",
        ),
    ] {
        let faults = load(&text).unwrap_err();
        let found = faults
            .iter()
            .any(|fault| fault.line == line && format!("{} {}", fault.message, fault.remedy).contains(says));
        assert!(found, "{says}: {faults:?}\n{text}");
    }
}

#[test]
fn each_kind_of_mistake_is_a_fault_at_its_line() {
    let cases: Vec<(String, usize, &str)> = vec![
        (String::new(), 1, "no store"),
        (format!("mount_pint = \"/x\"\n{STORE}"), 1, "did you mean \"mount_point\"?"),
        (format!("mount_point = \"/\"\n{STORE}"), 1, "of its own"),
        (format!("mount_point = 5\n{STORE}"), 1, "not a string"),
        ("[stores.v]\nkind = \"etcd\"\nendpoints = [\"x\"]\n".into(), 2, "\"local\" and \"vault\""),
        ("[stores.v]\nkind = \"redis\"\n".into(), 2, "\"local\" and \"vault\""),
        ("[stores.v]\npath = \"x\"\n".into(), 1, "\"kind\""),
        (format!("{STORE}key_credential = \"k\"\n"), 5, "keep one"),
        ("[stores.v]\nkind = \"local\"\npath = \"x\"\n".into(), 1, "has no key"),
        ("[stores.v]\nkind = \"local\"\npath = \"x\"\nkey_credential = \"../k\"\n".into(), 4, "not the name"),
        (format!("{STORE}prefix = \"/x\"\n"), 5, "no path"),
        (format!("{STORE}fresh_for = \"1s\"\n"), 5, "not a known key"),
        (format!("{STORE}{}", STORE.replace("main", "other")), 5, "same prefix"),
        (format!("{STORE}[policy]\nretire_after = 30\n"), 6, "string with a unit"),
        (format!("{STORE}[policy]\nretire_after = \"30\"\n"), 6, "units are"),
        (format!("{STORE}[audit]\ndurability = \"none\"\n"), 6, "process-safe"),
        (format!("{STORE}[audit]\nsegment_bytes = 1\n"), 6, "out of range"),
        (format!("{STORE}[audit]\nmax_bytes = 200000\n"), 6, "at least twice"),
        (format!("{STORE}[limits]\nrequest_dedline = \"5s\"\n"), 6, "request_deadline"),
        (format!("{STORE}[limits]\nhandles_max = 1.5\n"), 6, "not an integer"),
        (format!("mount_point = \"/etc/credfs\"\n{STORE}"), 1, "on the mount point"),
        (format!("mount_point = \"/m\"\n{STORE}[audit]\npath = \"/m/audit.log\"\n"), 7, "on the mount point"),
        (
            format!("mount_point = \"/m\"\n{STORE}[audit]\npath = \"/x/../m/./audit.log\"\n"),
            7,
            "on the mount point",
        ),
        (
            format!("mount_point = \"/m\"\n{STORE}[policy]\npaths = [\"/p\",\n\"/m/p\"]\n"),
            8,
            "on the mount point",
        ),
        (
            "mount_point = \"/m\"\n[stores.v]\nkind = \"local\"\npath = \"/m/x\"\nkey_file = \"/m/k\"\n"
                .into(),
            5,
            "on the mount point",
        ),
        (format!("{STORE}[stores.main]\nkind = \"local\"\n"), 5, "duplicate"),
    ];
    for (text, line, part) in cases {
        let faults = load(&text).expect_err(&text);
        let found = faults.iter().any(|fault| fault.line == line && fault.to_string().contains(part));
        assert!(found, "{text}: {faults:#?}");
        let mut told = faults.clone();
        told.dedup();
        assert_eq!(told.len(), faults.len(), "told twice: {faults:#?}");
    }
}

fn initial() -> (String, String) {
    let paths = InitialPaths {
        mount_point: Path::new("/tmp/it's \"m\"/mnt"),
        store: Path::new("store.db"),
        key: Path::new("store.key"),
        policy: Path::new("policy.toml"),
        policy_directory: Some(Path::new("policy.d")),
        audit: Path::new("audit.log"),
        control: Some(Path::new("control.sock")),
    };
    (config_text(&paths), policy_text(Path::new("/tmp/t/credfs.toml")))
}

/// Takes the `#` away from lines that are no words: a bracket or a key follows it directly.
fn uncommented(text: &str) -> String {
    let lines = text.lines().map(|line| match line.strip_prefix('#') {
        Some(rest) if !rest.is_empty() && !rest.starts_with(' ') => rest,
        _ => line,
    });
    lines.collect::<Vec<_>>().join("\n")
}

#[test]
fn what_init_writes_is_read_without_fault_also_with_every_example_in_force() {
    let (config, policy) = initial();
    for text in [config.clone(), uncommented(&config)] {
        let config = load(&text).unwrap_or_else(|faults| panic!("{faults:#?}"));
        assert_eq!(config.mount_point, Path::new("/tmp/it's \"m\"/mnt"));
        assert_eq!(config.limits, LimitSettings::default());
    }
    let load = |text: String| {
        Policy::from_texts(&[(PathBuf::from("policy.toml"), text)], &Options::default(), &SystemNames)
            .unwrap_or_else(|faults| panic!("{faults:#?}"))
            .policy
    };
    assert_eq!(load(policy.clone()).grant_count(), 0, "it grants nothing");
    let all = load(uncommented(&policy));
    assert_eq!((all.grant_count(), all.views().len()), (5, 1));
    let root = crate::policy::Assumed::default();
    assert!(all.may_list(&root, &crate::model::SecretPath::parse("any/thing").unwrap()));
}

/// A directory of root's with a configuration, all strict, and its removal afterwards.
struct Place(PathBuf);

impl Place {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("credfs-owner-{name}-{}", std::process::id()));
        let _removed = fs::remove_dir_all(&path);
        fs::create_dir_all(path.join("d")).unwrap();
        fs::write(
            path.join("credfs.toml"),
            STORE.replace("path = \"", "path = \"d/") + "[policy]\npaths = [\"policy.toml\", \"policy.d\"]\n",
        )
        .unwrap();
        for file in ["policy.toml", "store.key", "d/store.db", "d/store.db-wal", "audit.log"] {
            fs::write(path.join(file), "").unwrap();
        }
        fs::create_dir(path.join("policy.d")).unwrap();
        fs::write(path.join("policy.d/10.toml"), "").unwrap();
        let place = Self(path);
        for file in ["", "d", "policy.d"] {
            place.mode(file, 0o755);
        }
        for file in
            ["credfs.toml", "policy.toml", "policy.d/10.toml", "d/store.db", "d/store.db-wal", "audit.log"]
        {
            place.mode(file, 0o644);
        }
        place.mode("store.key", 0o600);
        place
    }

    fn mode(&self, file: &str, mode: u32) {
        fs::set_permissions(self.at(file), fs::Permissions::from_mode(mode)).unwrap();
    }

    fn at(&self, file: &str) -> PathBuf {
        if file.is_empty() { self.0.clone() } else { self.0.join(file) }
    }

    fn faults(&self, uid: u32) -> Vec<Fault> {
        let config = Config::load(&self.at("credfs.toml")).unwrap_or_else(|faults| panic!("{faults:#?}"));
        check_ownership(&config, uid)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _removed = fs::remove_dir_all(&self.0);
    }
}

fn must_be_root() {
    assert_eq!(crate::sys::names::own_uid(), 0, "this test changes owners: run it as root");
}

#[test]
fn every_laxness_of_owner_and_mode_is_told_by_name() {
    must_be_root();
    let files = [
        "",
        "d",
        "policy.d",
        "credfs.toml",
        "policy.toml",
        "policy.d/10.toml",
        "d/store.db",
        "d/store.db-wal",
        "audit.log",
        "store.key",
    ];
    let place = Place::new("table");
    assert_eq!(place.faults(0), [], "strict files are accepted");
    for file in files {
        for extra in [0o020, 0o002, 0o022] {
            let usual = fs::metadata(place.at(file)).unwrap().permissions().mode() & 0o7777;
            place.mode(file, usual | extra);
            let faults = place.faults(0);
            assert_eq!(faults.len(), 1, "{file:?} {extra:o}: {faults:#?}");
            assert_eq!(faults[0].file, place.at(file));
            assert!(faults[0].remedy.starts_with("chmod "), "{faults:#?}");
            place.mode(file, usual);
        }
        chown(place.at(file), Some(1234), None).unwrap();
        let faults = place.faults(0);
        assert!(faults.len() == 1 && faults[0].file == place.at(file), "{file:?}: {faults:#?}");
        assert!(faults[0].remedy.starts_with("chown 0 "), "{faults:#?}");
        assert_eq!(place.faults(1234), [], "the daemon's own uid is as good as root");
        chown(place.at(file), Some(0), None).unwrap();
    }
    for mode in [0o640, 0o604, 0o610, 0o601] {
        place.mode("store.key", mode);
        assert_eq!(place.faults(0).len(), 1, "{mode:o}");
    }
}

#[test]
fn links_are_followed_only_where_every_step_is_trusted() {
    must_be_root();
    let (place, elsewhere) = (Place::new("links"), Place::new("elsewhere"));
    fs::remove_file(place.at("policy.toml")).unwrap();
    symlink(elsewhere.at("policy.toml"), place.at("policy.toml")).unwrap();
    assert_eq!(place.faults(0), []);
    elsewhere.mode("", 0o777);
    let faults = place.faults(0);
    assert!(faults.len() == 1 && faults[0].file == elsewhere.at(""), "{faults:#?}");
    elsewhere.mode("", 0o755);
    std::os::unix::fs::lchown(place.at("policy.toml"), Some(1234), None).unwrap();
    assert_eq!(place.faults(0).len(), 1, "a link of another's");
    fs::remove_file(place.at("policy.toml")).unwrap();
    symlink("policy.toml", place.at("policy.toml")).unwrap();
    assert!(!place.faults(0).is_empty(), "a link to itself");
    fs::remove_file(place.at("policy.toml")).unwrap();
    symlink("../nowhere/x", place.at("policy.toml")).unwrap();
    assert_eq!(place.faults(0), [], "what does not exist is for the loader to miss");
}

#[test]
fn a_sticky_directory_is_trusted_only_if_root_owns_it() {
    must_be_root();
    let place = Place::new("sticky");
    place.mode("", 0o1777);
    assert_eq!(place.faults(0), []);
    chown(place.at(""), Some(1234), None).unwrap();
    assert_eq!(place.faults(1234).len(), 1, "its owner may replace files in it");
}
