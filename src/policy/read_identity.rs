//! Reads `[identities.NAME]` tables.

use std::collections::BTreeMap;
use std::path::{Component, Path, PathBuf};

use super::identity::{ADMINISTRATOR, Condition, EVERYONE, Identity, SessionRule};
use super::interpreter::interpreter_at;
use super::login::LoginSpec;
use super::names::Names;
use crate::document::{Placed, Section};
use crate::model::Sha256Digest;

/// Shortest prefix of a container's id that names it: what container tools print.
const CONTAINER_PREFIX_MIN: usize = 12;
/// Longest name of an identity, in bytes.
const NAME_BYTES_MAX: usize = 128;
/// Kinds of units that hold processes (systemd.unit(5)); a slice holds only other units.
const UNIT_KINDS: [&str; 5] = [".service", ".scope", ".socket", ".mount", ".swap"];

/// A warning: a line, what is odd, and what to do.
pub(super) type Warning = (usize, String, String);

/// Reads one identity. Faults are noted in the section's file; the identity is then of no use.
pub(super) fn read_identity(
    name: Placed<&str>,
    section: Section<'_>,
    place: String,
    names: &dyn Names,
    warnings: &mut Vec<Warning>,
) -> Identity {
    check_name(name, &section);
    let mut conditions = Vec::new();
    read_accounts(&section, names, &mut conditions, warnings);
    read_places(&section, &mut conditions);
    read_executable(&section, &mut conditions);
    let logins = read_logins(&section);
    if conditions.is_empty() {
        section.fault(
            name.line,
            format!("identity \"{}\" has no condition, so it would be everyone", name.value.escape_debug()),
            "add user, uid, group, gid, unit, container, exe, sha256 or session; or grant to \"everyone\"",
        );
    }
    section.finish();
    conditions.sort_by_key(Condition::cost);
    Identity { name: name.value.to_owned(), conditions, place, logins }
}

fn check_name(name: Placed<&str>, section: &Section<'_>) {
    if [EVERYONE, ADMINISTRATOR].contains(&name.value) {
        section.fault(
            name.line,
            format!("identity \"{}\" is built in and cannot be defined", name.value),
            "choose another name",
        );
    }
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"_-.@:".contains(&byte);
    if name.value.is_empty() || name.value.len() > NAME_BYTES_MAX || !name.value.bytes().all(plain) {
        section.fault(
            name.line,
            "the name of an identity is empty, longer than 128 bytes or holds other than letters, digits and _-.@:",
            "choose a plain name, such as [identities.orders]",
        );
    }
}

fn read_accounts(
    section: &Section<'_>,
    names: &dyn Names,
    conditions: &mut Vec<Condition>,
    warnings: &mut Vec<Warning>,
) {
    let mut resolve = |key: &'static str, find: &dyn Fn(&str) -> Option<u32>| {
        let mut found = Vec::new();
        for text in distinct(section, key, section.texts(key)?) {
            match find(text.value) {
                Some(id) => found.push(id),
                None => warnings.push((
                    text.line,
                    format!("{key} {:?} does not exist on this machine, so no caller is it", text.value),
                    "create it and reload, or correct the name".to_owned(),
                )),
            }
        }
        Some(found)
    };
    let users = resolve("user", &|user| names.uid(user)).map(|uids| or_nobody(uids, Condition::Uid));
    let groups = resolve("group", &|group| names.gid(group)).map(|gids| or_nobody(gids, Condition::Group));
    let uids =
        section.ids("uid").map(|uids| or_nobody(values(distinct(section, "uid", uids)), Condition::Uid));
    let gids =
        section.ids("gid").map(|gids| or_nobody(values(distinct(section, "gid", gids)), Condition::Group));
    conditions.extend([users, groups, uids, gids].into_iter().flatten());
}

/// The condition that one of `values` holds; one that never does where there is none.
fn or_nobody<T>(values: Vec<T>, condition: impl FnOnce(Vec<T>) -> Condition) -> Condition {
    if values.is_empty() { Condition::Nobody } else { condition(values) }
}

fn values<T>(placed: Vec<Placed<T>>) -> Vec<T> {
    placed.into_iter().map(|one| one.value).collect()
}

fn read_places(section: &Section<'_>, conditions: &mut Vec<Condition>) {
    if let Some(units) = section.texts("unit") {
        let units = distinct(section, "unit", units).into_iter().filter(|unit| check_unit(section, *unit));
        conditions.push(or_nobody(units.map(|unit| unit.value.to_owned()).collect(), Condition::Unit));
    }
    if let Some(ids) = section.texts("container") {
        let ids = distinct(section, "container", ids).into_iter().filter(|id| check_container(section, *id));
        conditions.push(or_nobody(ids.map(|id| id.value.to_owned()).collect(), Condition::Container));
    }
    let read = |value: Result<i64, &str>| match value {
        Ok(id) => u32::try_from(id).ok().filter(|id| *id != u32::MAX).map(SessionRule::Id),
        Err("any") => Some(SessionRule::Any),
        Err("none") => Some(SessionRule::None),
        Err(_) => None,
    };
    if let Some(rules) = section.mixed("session", "the number of a session, \"any\" or \"none\"", read) {
        conditions.push(or_nobody(values(rules), Condition::Session));
    }
}

fn check_unit(section: &Section<'_>, unit: Placed<&str>) -> bool {
    let name = unit.value;
    let shown = name.escape_debug();
    if !UNIT_KINDS.iter().any(|kind| name.len() > kind.len() && name.ends_with(kind)) {
        let remedy = if name.contains('.') {
            "name a service, scope, socket, mount or swap: only they hold processes".to_owned()
        } else {
            format!("write the full name, such as \"{shown}.service\"")
        };
        section.fault(
            unit.line,
            format!("\"{shown}\" is not the name of a unit that holds processes"),
            remedy,
        );
        return false;
    }
    // Characters of unit names: systemd.unit(5).
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b":-_.\\@*".contains(&byte);
    if !name.bytes().all(plain) || name.len() > 255 {
        section.fault(
            unit.line,
            "the name of a unit holds a character that none has, or is longer than 255 bytes",
            "write it as systemctl shows it",
        );
        return false;
    }
    let template = name.split_once('@').map_or(name, |(template, _)| template);
    if template.contains('*') || name.rsplit_once('.').is_some_and(|(_, kind)| kind.contains('*')) {
        section.fault(
            unit.line,
            format!("\"{shown}\" has a * outside its instance"),
            "a * may stand only after the @, as in \"app@*.service\"; name each unit",
        );
        return false;
    }
    true
}

fn check_container(section: &Section<'_>, id: Placed<&str>) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    let fits = (CONTAINER_PREFIX_MIN..=255).contains(&id.value.len()) && id.value.bytes().all(plain);
    if !fits {
        section.fault(
            id.line,
            "a container is named by its id, or 12 or more of its first characters",
            "write what the container tool prints as its id",
        );
    }
    fits
}

fn read_executable(section: &Section<'_>, conditions: &mut Vec<Condition>) {
    if let Some(paths) = section.texts("exe") {
        let paths: Vec<PathBuf> = distinct(section, "exe", paths)
            .into_iter()
            .filter(|path| check_executable(section, *path))
            .map(|path| PathBuf::from(path.value))
            .collect();
        conditions.push(or_nobody(paths, Condition::Exe));
    }
    if let Some(digests) = section.texts("sha256") {
        let digests = distinct(section, "sha256", digests).into_iter().filter_map(|text| {
            let digest = Sha256Digest::parse(text.value);
            if digest.is_none() {
                section.fault(
                    text.line,
                    "a sha256 is 64 hexadecimal digits",
                    "write what sha256sum prints for the executable",
                );
            }
            digest
        });
        conditions.push(or_nobody(digests.collect(), Condition::Sha256));
    }
}

fn check_executable(section: &Section<'_>, text: Placed<&str>) -> bool {
    let path = Path::new(text.value);
    let plain = path.is_absolute()
        && !text.value.contains("/.")
        && !text.value.ends_with('/')
        && !text.value.chars().any(char::is_control)
        && path.components().all(|component| matches!(component, Component::RootDir | Component::Normal(_)));
    if !plain {
        section.fault(
            text.line,
            format!("\"{}\" is not the full path of an executable", text.value.escape_debug()),
            "write it from the root, without . or .., as in \"/usr/sbin/nginx\"",
        );
        return false;
    }
    if section.has("unit") {
        return true;
    }
    if let Some(interpreter) = interpreter_at(path) {
        section.fault(
            text.line,
            format!("\"{}\" is an interpreter ({interpreter}): it runs any script of anyone", text.value),
            "add unit = [\"NAME.service\"] to this identity, so that only that unit's scripts are meant",
        );
        return false;
    }
    true
}

fn read_logins(section: &Section<'_>) -> BTreeMap<String, LoginSpec> {
    section
        .named_sections("login")
        .into_iter()
        .filter_map(|(store, login)| Some((store.value.to_owned(), LoginSpec::read(login)?)))
        .collect()
}

/// The values without repetition; a repeated one is a fault.
pub(super) fn distinct<T: PartialEq + Copy + std::fmt::Debug>(
    section: &Section<'_>,
    key: &str,
    values: Vec<Placed<T>>,
) -> Vec<Placed<T>> {
    let mut seen: Vec<Placed<T>> = Vec::with_capacity(values.len());
    for value in values {
        if seen.iter().any(|earlier| earlier.value == value.value) {
            section.fault(value.line, format!("{key} names {:?} twice", value.value), "remove one of them");
        } else {
            seen.push(value);
        }
    }
    seen
}
