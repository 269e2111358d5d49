//! What a cgroup path says: systemd unit and container. Only the part that root laid down counts; behind the first
//! unit a user may make any name he likes.

use std::sync::Arc;

use crate::model::Unknown;

/// Kinds of unit that have processes (`systemd.unit(5)`); slices only hold other units.
const UNIT_SUFFIXES: [&str; 5] = [".service", ".scope", ".socket", ".mount", ".swap"];
/// Prefixes of scopes that container engines make under systemd: `PREFIX<64 hex>.scope`.
const ENGINE_PREFIXES: [&str; 4] = ["docker-", "libpod-", "cri-containerd-", "crio-"];
/// Longest unit name (`UNIT_NAME_MAX` in systemd).
const UNIT_BYTES_MAX: usize = 255;

/// Where in the cgroup tree a process is, in the words of policy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) unit: Option<Arc<str>>,
    pub(super) container: Option<Arc<str>>,
    /// The cgroup of the whole unit, else of the container, as a path from the root.
    pub(super) group: Option<Arc<str>>,
}

impl Place {
    /// Reads an absolute path as `/proc/TID/cgroup` shows it.
    ///
    /// # Errors
    /// [`Unknown`] outside the root of our cgroup namespace (`/..`), and for a removed cgroup, which no thread that
    /// can ask is in.
    pub(super) fn of(path: &[u8]) -> Result<Self, Unknown> {
        let inner = path.strip_prefix(b"/").ok_or(Unknown)?;
        if inner == b".." || inner.starts_with(b"../") || path.ends_with(b" (deleted)") {
            return Err(Unknown);
        }
        // A name that is no UTF-8 is no unit's and no engine's; the empty name stands for it.
        let names: Vec<&str> =
            inner.split(|byte| *byte == b'/').map(|name| std::str::from_utf8(name).unwrap_or("")).collect();
        let depth = names.iter().take_while(|name| is_slice(name)).count();
        let Some((first, below)) = names[depth..].split_first() else {
            return Ok(Self { unit: None, container: None, group: None });
        };
        let unit = unit_name(first);
        let container = match unit {
            Some(unit) => container_of_unit(unit),
            // Engines without systemd start at the root of the tree.
            None if depth == 0 => container_of_tree(first, below),
            None => None,
        };
        let group = match (unit, &container) {
            (Some(_), _) => Some(depth + 1),
            (None, Some(id)) => names.iter().position(|name| name.contains(id.as_str())).map(|at| at + 1),
            (None, None) => None,
        };
        // A name that is no UTF-8 stands above: such a path cannot be told.
        let group = group
            .filter(|length| names[..*length].iter().all(|name| !name.is_empty()))
            .map(|length| Arc::from(format!("/{}", names[..length].join("/"))));
        Ok(Self { unit: unit.map(Arc::from), container: container.map(Arc::from), group })
    }
}

fn is_slice(name: &str) -> bool {
    name.strip_suffix(".slice").is_some_and(|stem| !stem.is_empty() && is_unit_text(name))
}

/// The unit that a directory belongs to. systemd puts one `_` before names that could be taken for a file of the
/// kernel's (`cg_escape`).
fn unit_name(name: &str) -> Option<&str> {
    let name = name.strip_prefix('_').unwrap_or(name);
    let stem = UNIT_SUFFIXES.iter().find_map(|suffix| name.strip_suffix(suffix))?;
    (!stem.is_empty() && is_unit_text(name)).then_some(name)
}

/// Whether systemd could have given this name (`VALID_CHARS` in its unit-name.c).
fn is_unit_text(name: &str) -> bool {
    name.len() <= UNIT_BYTES_MAX
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b":-_.\\@".contains(&byte))
}

fn container_of_unit(unit: &str) -> Option<String> {
    let stem = unit.strip_suffix(".scope")?;
    if let Some(id) = ENGINE_PREFIXES.iter().find_map(|prefix| stem.strip_prefix(prefix)) {
        return is_engine_id(id).then(|| id.to_owned());
    }
    // systemd-machined: nspawn, libvirt.
    stem.strip_prefix("machine-").and_then(unescape_unit)
}

fn container_of_tree(first: &str, below: &[&str]) -> Option<String> {
    if let Some(name) = first.strip_prefix("lxc.payload.") {
        return (!name.is_empty()).then(|| name.to_owned());
    }
    let id = match (first, below) {
        ("docker", [id, ..]) => id,
        ("libpod_parent", [name, ..]) => name.strip_prefix("libpod-")?,
        ("kubepods", ["burstable" | "besteffort", pod, id, ..] | [pod, id, ..]) if pod.starts_with("pod") => {
            id
        }
        _ => return None,
    };
    is_engine_id(id).then(|| id.to_owned())
}

fn is_engine_id(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte))
}

/// Undoes `systemd-escape`: `\x2d` is one byte, `-` is `/`, which no machine's name has.
fn unescape_unit(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((byte, tail)) = rest.split_first() {
        rest = tail;
        match byte {
            b'\\' => {
                let digits = std::str::from_utf8(rest.strip_prefix(b"x")?.get(..2)?).ok()?;
                bytes.push(u8::from_str_radix(digits, 16).ok()?);
                rest = rest.get(3..)?;
            }
            b'-' => bytes.push(b'/'),
            byte => bytes.push(*byte),
        }
    }
    String::from_utf8(bytes).ok().filter(|name| !name.is_empty() && !name.chars().any(char::is_control))
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEX: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

    fn place(path: &str) -> (Option<String>, Option<String>) {
        let place = Place::of(path.replace("HEX", HEX).as_bytes()).unwrap();
        (place.unit.map(|unit| unit.to_string()), place.container.map(|container| container.to_string()))
    }

    #[test]
    fn the_unit_is_the_first_name_behind_the_slices() {
        for (path, unit) in [
            ("/system.slice/orders.service", Some("orders.service")),
            ("/orders.service", Some("orders.service")),
            ("/init.scope", Some("init.scope")),
            ("/apps.slice/apps-web.slice/legacy@a-b.service/inner/x.service", Some("legacy@a-b.service")),
            ("/user.slice/user-1000.slice/session-2.scope", Some("session-2.scope")),
            (
                "/user.slice/user-1000.slice/user@1000.service/app.slice/orders.service",
                Some("user@1000.service"),
            ),
            ("/system.slice/a\\x2db.service", Some("a\\x2db.service")),
            ("/system.slice/_cpu.service", Some("cpu.service")),
            ("/system.slice/__x.service", Some("_x.service")),
            ("/system.slice/dbus.socket", Some("dbus.socket")),
            ("/system.slice/srv-data.mount", Some("srv-data.mount")),
            ("/system.slice/dev-sda2.swap", Some("dev-sda2.swap")),
            ("/", None),
            ("/system.slice", None),
            ("/evil/system.slice/orders.service", None),
            ("/system.slice/evil/orders.service", None),
            ("/.slice/orders.service", None),
            ("/evil space.slice/orders.service", None),
            ("/system.slice/.service", None),
            ("/system.slice/orders.service ", None),
            ("/system.slice/orders.service (deleted) x", None),
            ("/system.slice/or ders.service", None),
            ("/system.slice/orders.timer", None),
            ("/system.slice/örders.service", None),
            ("//system.slice/orders.service", None),
            ("/...service/x", None),
        ] {
            let expected = if path == "/...service/x" { Some("...service") } else { unit };
            assert_eq!(place(path).0.as_deref(), expected, "{path}");
        }
        let long = format!("/system.slice/{}.service", "a".repeat(248));
        assert_eq!(place(&long).0, None, "longer than systemd allows");
        assert_eq!(Place::of(b"/system.slice/\xFF.service").unwrap().unit, None);
    }

    #[test]
    fn outside_our_namespace_or_removed_is_unknown() {
        for path in
            ["/..", "/../system.slice/orders.service", "/system.slice/orders.service (deleted)", "", "x"]
        {
            assert_eq!(Place::of(path.as_bytes()), Err(Unknown), "{path}");
        }
        assert!(Place::of(b"/..x.service").is_ok());
    }

    #[test]
    fn containers_are_known_by_what_their_engine_made_and_nowhere_else() {
        for (path, container) in [
            ("/system.slice/docker-HEX.scope", Some(HEX)),
            ("/system.slice/docker-HEX.scope/init", Some(HEX)),
            ("/machine.slice/libpod-HEX.scope/container", Some(HEX)),
            (
                "/kubepods.slice/kubepods-burstable.slice/kubepods-podx.slice/cri-containerd-HEX.scope",
                Some(HEX),
            ),
            ("/kubepods.slice/kubepods-pod1.slice/crio-HEX.scope", Some(HEX)),
            ("/docker/HEX", Some(HEX)),
            ("/docker/HEX/inner", Some(HEX)),
            ("/kubepods/burstable/pod1-2/HEX", Some(HEX)),
            ("/kubepods/pod1-2/HEX", Some(HEX)),
            ("/libpod_parent/libpod-HEX", Some(HEX)),
            ("/lxc.payload.web", Some("web")),
            ("/machine.slice/machine-a\\x2db.scope/payload", Some("a-b")),
            ("/machine.slice/libpod-conmon-HEX.scope", None),
            ("/kubepods.slice/crio-conmon-HEX.scope", None),
            ("/user.slice/user-1000.slice/user@1000.service/user.slice/libpod-HEX.scope", None),
            ("/user.slice/user-1000.slice/user@1000.service/docker/HEX", None),
            ("/user.slice/docker/HEX", None),
            ("/system.slice/web.service/docker/HEX", None),
            ("/system.slice/web.service/docker-HEX.scope", None),
            ("/system.slice/docker-HEXa.scope", None),
            ("/system.slice/docker-HEX.service", None),
            ("/docker/short", None),
            ("/kubepods/besteffort/HEX", None),
            ("/kubepods/burstable/x/HEX", None),
            ("/lxc.payload.", None),
            ("/machine.slice/machine-.scope", None),
            ("/machine.slice/machine-a\\x0ab.scope", None),
            ("/machine.slice/machine-a\\xzz.scope", None),
        ] {
            assert_eq!(place(path).1.as_deref(), container, "{path}");
        }
        assert_eq!(place(&format!("/docker/{}", HEX.to_uppercase())).1, None);
    }
}
