//! `[stores.NAME.dynamic."PATH"]`: a directory whose values are minted for each consumer.

use std::time::Duration;

use crate::document::{Placed, Section};
use crate::model::{SecretPath, Sharing};
use crate::store::{Declared, Engine, Pki};

#[derive(Clone, Copy)]
enum Kind {
    Database,
    Pki,
}

const KINDS: [(&str, Kind); 2] = [("database", Kind::Database), ("pki", Kind::Pki)];
const SHARINGS: [(&str, Sharing); 2] = [("unit", Sharing::Unit), ("process", Sharing::Process)];

/// Every directory that the store's section declares.
pub(super) fn read(store: &Section<'_>) -> Vec<Declared> {
    let mut all: Vec<(usize, Declared)> = Vec::new();
    for (name, section) in store.named_sections("dynamic") {
        let line = name.line;
        let path = read_path(&section, name);
        let read = read_one(&section);
        section.finish();
        let Some((path, (engine, sharing))) = path.zip(read) else { continue };
        let is_within = |one: &SecretPath, other: &SecretPath| {
            one.as_str().strip_prefix(other.as_str()).is_some_and(|rest| rest.starts_with('/'))
        };
        for (_, other) in &all {
            if is_within(&path, &other.path) || is_within(&other.path, &path) {
                store.fault(
                    line,
                    format!("[{}.dynamic] has both \"{path}\" and \"{}\", one inside of the other", store.name(), other.path),
                    "a directory whose values are minted holds its fields and nothing else: give them paths apart",
                );
            }
        }
        all.push((line, Declared { path, engine, sharing }));
    }
    all.into_iter().map(|(_, declared)| declared).collect()
}

fn read_path(section: &Section<'_>, name: Placed<&str>) -> Option<SecretPath> {
    match SecretPath::parse(name.value) {
        Ok(path) => Some(path),
        Err(fault) => {
            section.fault(
                name.line,
                format!("{:?} is no path below the store's prefix: {fault}", name.value),
                "write [stores.NAME.dynamic.\"db/orders\"]",
            );
            None
        }
    }
}

fn read_one(section: &Section<'_>) -> Option<(Engine, Sharing)> {
    if !section.has("engine") {
        section.fault(
            section.line(),
            format!("\"engine\" in [{}] is missing", section.name()),
            "add engine = \"database\" or \"pki\"",
        );
    }
    let kind = section.word("engine", &KINDS);
    let sharing =
        if section.has("consumer") { section.word("consumer", &SHARINGS) } else { Some(Sharing::Unit) };
    let Some(kind) = kind else {
        // Without a known engine, which keys belong to it is not known either.
        section.allow(&["mount", "role", "common_name", "alt_names", "ip_sans", "ttl"]);
        return None;
    };
    let mount = section
        .text("mount")
        .map_or_else(|| Some(usual_mount(kind).to_owned()), |text| checked(section, "mount", text, true));
    let role = section.required_text("role", "orders").and_then(|text| checked(section, "role", text, false));
    let engine = match kind {
        Kind::Database => Engine::Database { mount: mount?, role: role? },
        Kind::Pki => {
            let common_name = section
                .required_text("common_name", "orders.internal")
                .and_then(|text| named(section, "common_name", text));
            let list = |key: &'static str| -> Vec<String> {
                let texts = section.texts(key).unwrap_or_default();
                texts.into_iter().filter_map(|text| named(section, key, text)).collect()
            };
            let (alt_names, ip_sans) = (list("alt_names"), addresses(section));
            let range = Duration::from_secs(60)..=Duration::from_secs(366 * 24 * 3600);
            let ttl = section.span("ttl", range);
            Engine::Pki(Pki {
                mount: mount?,
                role: role?,
                common_name: common_name?,
                alt_names,
                ip_sans,
                ttl,
            })
        }
    };
    Some((engine, sharing?))
}

const fn usual_mount(kind: Kind) -> &'static str {
    match kind {
        Kind::Database => "database",
        Kind::Pki => "pki",
    }
}

/// A name at the server, or with `is_path` several joined by slashes.
fn checked(section: &Section<'_>, key: &str, text: Placed<&str>, is_path: bool) -> Option<String> {
    let value = if is_path { text.value.trim_matches('/') } else { text.value };
    let is_plain =
        |name: &str| !name.is_empty() && name != "." && name != ".." && !name.chars().any(char::is_control);
    if value.split('/').all(is_plain) && (is_path || !value.contains('/')) {
        return Some(value.to_owned());
    }
    section.fault(
        text.line,
        format!("\"{key}\" is no {} at a server: {:?}", if is_path { "path" } else { "name" }, text.value),
        format!("write {key} as the server's administrators call it"),
    );
    None
}

/// A name in a certificate. A comma would make two of it.
fn named(section: &Section<'_>, key: &str, text: Placed<&str>) -> Option<String> {
    let is_plain =
        !text.value.is_empty() && !text.value.contains(',') && !text.value.chars().any(char::is_control);
    if !is_plain {
        section.fault(
            text.line,
            format!("\"{key}\" holds {:?}, which is no name for a certificate", text.value),
            "write one name, without commas",
        );
    }
    is_plain.then(|| text.value.to_owned())
}

fn addresses(section: &Section<'_>) -> Vec<String> {
    let texts = section.texts("ip_sans").unwrap_or_default();
    let mut all = Vec::new();
    for text in texts {
        match text.value.parse::<std::net::IpAddr>() {
            Ok(address) => all.push(address.to_string()),
            Err(_) => section.fault(
                text.line,
                format!("\"ip_sans\" holds {:?}, which is no address", text.value),
                "write addresses, such as [\"10.0.0.7\"]",
            ),
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::document::{Document, Faults};

    fn read_text(text: &str) -> (Vec<Declared>, Vec<String>) {
        let faults = Faults::of(std::path::Path::new("credfs.toml"));
        let document = Document::parse(text, &faults);
        let root = document.root(&faults);
        let declared = root.section("store").map(|store| read(&store)).unwrap_or_default();
        drop(root);
        (declared, faults.into_vec().iter().map(ToString::to_string).collect())
    }

    #[test]
    fn engines_are_read_with_what_is_usual() {
        let (declared, faults) = read_text(
            "[store.dynamic.\"db/orders\"]\nengine = \"database\"\nrole = \"orders\"\n\
             [store.dynamic.web]\nengine = \"pki\"\nmount = \"/team/pki/\"\nrole = \"web\"\nconsumer = \"process\"\n\
             common_name = \"a.internal\"\nalt_names = [\"b.internal\"]\nip_sans = [\"::1\"]\nttl = \"1h\"\n",
        );
        assert_eq!(faults, Vec::<String>::new());
        let engine = Engine::Database { mount: "database".into(), role: "orders".into() };
        let at = |path: &str| SecretPath::parse(path).unwrap();
        assert_eq!(declared[0], Declared { path: at("db/orders"), engine, sharing: Sharing::Unit });
        let engine = Engine::Pki(Pki {
            mount: "team/pki".into(),
            role: "web".into(),
            common_name: "a.internal".into(),
            alt_names: vec!["b.internal".into()],
            ip_sans: vec!["::1".into()],
            ttl: Some(Duration::from_secs(3600)),
        });
        assert_eq!(declared[1], Declared { path: at("web"), engine, sharing: Sharing::Process });
    }

    #[test]
    fn every_fault_is_told_with_its_line_and_remedy() {
        for (text, line, part) in [
            ("[store.dynamic.\"/x/\"]\nengine = \"database\"\nrole = \"r\"\n", 1, "no path below"),
            ("[store.dynamic.x]\nrole = \"r\"\n", 1, "\"engine\""),
            ("[store.dynamic.x]\nengine = \"ssh\"\nrole = \"r\"\n", 2, "engine"),
            ("[store.dynamic.x]\nengine = \"database\"\n", 1, "\"role\""),
            ("[store.dynamic.x]\nengine = \"database\"\nrole = \"a/b\"\n", 3, "no name at a server"),
            (
                "[store.dynamic.x]\nengine = \"database\"\nrole = \"r\"\nmount = \"a//b\"\n",
                4,
                "no path at a server",
            ),
            ("[store.dynamic.x]\nengine = \"database\"\nrole = \"r\"\nttl = \"1h\"\n", 4, "ttl"),
            ("[store.dynamic.x]\nengine = \"database\"\nrole = \"r\"\nconsumer = \"user\"\n", 4, "consumer"),
            ("[store.dynamic.x]\nengine = \"pki\"\nrole = \"r\"\n", 1, "common_name"),
            (
                "[store.dynamic.x]\nengine = \"pki\"\nrole = \"r\"\ncommon_name = \"a,b\"\nip_sans = [\"1.2\"]\n",
                5,
                "no address",
            ),
            (
                "[store.dynamic.x]\nengine = \"database\"\nrole = \"r\"\n[store.dynamic.\"x/y\"]\nengine = \"database\"\nrole = \"r\"\n",
                4,
                "one inside of the other",
            ),
        ] {
            let (_, faults) = read_text(text);
            let told = faults
                .iter()
                .any(|fault| fault.contains(&format!("credfs.toml:{line}:")) && fault.contains(part));
            assert!(told, "{text}: {faults:?}");
        }
    }
}
