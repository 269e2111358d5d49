//! Views: files at paths of their own, with the owner and mode that one program demands. A name, never a right.

use super::names::Names;
use super::read_identity::Warning;
use crate::document::{Placed, Section};
use crate::model::{FieldName, SecretPath};

/// A file at a path of its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct View {
    /// Where it is, below the mount point.
    pub path: SecretPath,
    /// The secret behind it.
    pub secret: SecretPath,
    /// The field behind it.
    pub field: FieldName,
    /// Its owner; `None`: whoever asks.
    pub uid: Option<u32>,
    /// Its group; `None`: that of whoever asks.
    pub gid: Option<u32>,
    /// Its mode: `0400` unless given.
    pub mode: u32,
}

impl View {
    /// Whether it fixes neither owner nor group nor mode.
    #[must_use]
    pub const fn is_plain(&self) -> bool {
        self.uid.is_none() && self.gid.is_none() && self.mode == 0o400
    }
}

/// Reads one `[views."PATH"]`. `None` where it is faulty, or its owner does not exist here (a warning).
pub(super) fn read_view(
    path: Placed<&str>,
    section: Section<'_>,
    names: &dyn Names,
    warnings: &mut Vec<Warning>,
) -> Option<View> {
    let own_path = SecretPath::parse(path.value).map_err(|fault| {
        section.fault(
            path.line,
            format!("the path of a view is no path: {fault}"),
            "write it as it shall appear below the mount point, such as [views.\"nginx/orders.pem\"]",
        );
    });
    if section.has("template") {
        section.fault(
            section.line_of("template"),
            "\"template\" is not supported by this version",
            "use field = \"NAME\" instead",
        );
    }
    let secret = section.required_text("secret", "prod/orders/tls").and_then(|text| {
        let secret = SecretPath::parse(text.value);
        secret
            .map_err(|fault| {
                section.fault(text.line, fault.to_string(), "write secret = \"prod/orders/tls\"")
            })
            .ok()
    });
    let field = if section.has("template") {
        None
    } else {
        section.required_text("field", "bundle").and_then(|text| {
            let field = FieldName::from_store(text.value);
            field
                .map_err(|fault| section.fault(text.line, fault.to_string(), "write field = \"bundle\""))
                .ok()
        })
    };
    let owner = account(&section, "owner", &|user| names.uid(user), warnings);
    let group = account(&section, "group", &|group| names.gid(group), warnings);
    let mode = read_mode(&section);
    section.finish();
    Some(View {
        path: own_path.ok()?,
        secret: secret?,
        field: field?,
        uid: owner.ok()?,
        gid: group.ok()?,
        mode: mode?,
    })
}

/// An account by name, or by number written as a string. `Err`: it does not exist here, or is no text.
fn account(
    section: &Section<'_>,
    key: &'static str,
    find: &dyn Fn(&str) -> Option<u32>,
    warnings: &mut Vec<Warning>,
) -> Result<Option<u32>, ()> {
    if !section.has(key) {
        return Ok(None);
    }
    let text = section.text(key).ok_or(())?;
    let number = text.value.parse().ok().filter(|id| *id != u32::MAX);
    let found = find(text.value).or(number);
    if found.is_none() {
        warnings.push((
            text.line,
            format!("{key} {:?} does not exist on this machine, so the view is left out", text.value),
            "create it and reload, or correct the name".to_owned(),
        ));
    }
    found.map(Some).ok_or(())
}

fn read_mode(section: &Section<'_>) -> Option<u32> {
    if !section.has("mode") {
        return Some(0o400);
    }
    let text = section.text("mode")?;
    let octal =
        (3..=4).contains(&text.value.len()) && text.value.bytes().all(|byte| (b'0'..=b'7').contains(&byte));
    let mode = u32::from_str_radix(text.value, 8).ok().filter(|_| octal);
    let Some(mode) = mode else {
        section.fault(text.line, "\"mode\" is not an octal mode", "write mode = \"0440\"");
        return None;
    };
    // Only the owner may have a write bit: some programs want 0600. Nothing can be written through the mount.
    if mode & !0o644 != 0 || mode & 0o400 == 0 {
        section.fault(
            text.line,
            format!("mode {mode:04o} is not one of a file to be read"),
            "use 0400, 0440, 0444, 0600, 0640 or 0644: no execute, setuid or sticky bit, no writing by others",
        );
        return None;
    }
    Some(mode)
}
