//! Proposing grants from what was refused: exactly what was asked for and no more, as text to be read by a person.

use std::collections::{BTreeMap, BTreeSet};

use crate::document::quoted;
use crate::model::{FieldName, SecretPath, StageSet};

/// One refusal, from the audit log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    /// What was asked for.
    pub secret: SecretPath,
    /// Which field; `None`: the secret's directory.
    pub field: Option<FieldName>,
    /// The stages of the version asked for, as far as known.
    pub stages: Option<StageSet>,
    /// Who asked.
    pub uid: u32,
    /// From which unit.
    pub unit: Option<String>,
    /// By which executable; unproven, so for people only.
    pub exe: Option<String>,
}

/// What one asker was refused.
#[derive(Default)]
struct Wishes {
    /// For each secret, what was asked of it.
    secrets: BTreeMap<SecretPath, Wish>,
    executables: BTreeSet<String>,
    count: usize,
}

#[derive(Default, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Wish {
    fields: BTreeSet<FieldName>,
    /// `next` and `all` must be asked for by name.
    next: bool,
    all: bool,
}

/// Proposes the smallest policy under which what was refused would be granted. The text is a policy file of its own.
#[must_use]
pub fn propose(refused: impl IntoIterator<Item = Refused>) -> String {
    let mut askers: BTreeMap<(u32, Option<String>), Wishes> = BTreeMap::new();
    let mut starred = 0_usize;
    for one in refused {
        // Anyone may ask for a file called "**": what is proposed must never be a pattern of an asker's making.
        if one.secret.as_str().contains('*')
            || one.field.as_ref().is_some_and(|field| field.as_str().contains('*'))
        {
            starred += 1;
            continue;
        }
        let wishes = askers.entry((one.uid, one.unit.filter(|unit| is_plain_unit(unit)))).or_default();
        wishes.count += 1;
        wishes.executables.extend(one.exe);
        let wish = wishes.secrets.entry(one.secret).or_default();
        if let Some(stages) = one.stages {
            wish.next |= stages == StageSet::of(crate::model::Stage::Next);
            wish.all |= stages.is_empty();
        }
        wish.fields.extend(one.field);
    }
    let mut text = String::from(
        "# Proposed from refusals in the audit log. Each line grants something that was refused: keep only what is\n\
         # meant, and put it into a policy file.\n",
    );
    if starred > 0 {
        text.push_str(&format!(
            "# {starred} refusals of names that hold a * are left out: as patterns they would grant more.\n"
        ));
    }
    let mut names = BTreeSet::new();
    for ((uid, unit), wishes) in askers {
        let name = name_for(uid, unit.as_deref(), &mut names);
        write_asker(&mut text, &name, uid, unit.as_deref(), &wishes);
    }
    text
}

/// Writes one asker's identity and grants.
fn write_asker(text: &mut String, name: &str, uid: u32, unit: Option<&str>, wishes: &Wishes) {
    text.push_str(&format!("\n# {} refusals\n", wishes.count));
    for executable in wishes.executables.iter().take(5) {
        let shown: String = executable.chars().flat_map(char::escape_debug).take(200).collect();
        text.push_str(&format!("# seen running (unproven): {shown}\n"));
    }
    text.push_str(&format!("[identities.{}]\nuid = [{uid}]\n", quoted(name)));
    if let Some(unit) = unit {
        text.push_str(&format!("unit = [{}]\n", quoted(unit)));
    }
    // Secrets of which the same was asked share a grant.
    let mut groups: BTreeMap<&Wish, Vec<&SecretPath>> = BTreeMap::new();
    for (secret, wish) in &wishes.secrets {
        groups.entry(wish).or_default().push(secret);
    }
    for (wish, secrets) in groups {
        let secrets: Vec<String> = secrets.into_iter().map(|secret| quoted(secret.as_str())).collect();
        let verb = if wish.fields.is_empty() { "list" } else { "read" };
        text.push_str(&format!("\n[[grants]]\nto = [{}]\n{verb} = [{}]\n", quoted(name), secrets.join(", ")));
        if !wish.fields.is_empty() {
            let fields: Vec<String> = wish.fields.iter().map(|field| quoted(field.as_str())).collect();
            text.push_str(&format!("fields = [{}]\n", fields.join(", ")));
        }
        if wish.next || wish.all {
            let next = if wish.next { ", \"next\"" } else { "" };
            let all = if wish.all { ", \"all\"" } else { "" };
            text.push_str(&format!("stages = [\"current\", \"previous\"{next}{all}]\n"));
        }
    }
}

/// Whether a unit's name can stand in a rule as it is.
fn is_plain_unit(unit: &str) -> bool {
    let kinds = [".service", ".scope", ".socket", ".mount", ".swap"];
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b":-_.\\@".contains(&byte);
    unit.len() <= 255
        && unit.bytes().all(plain)
        && kinds.iter().any(|kind| unit.len() > kind.len() && unit.ends_with(kind))
}

/// A name for the identity: after its unit, else its uid; told apart by a number where two would be called the same.
fn name_for(uid: u32, unit: Option<&str>, names: &mut BTreeSet<String>) -> String {
    let stem = unit
        .and_then(|unit| unit.rsplit_once('.'))
        .map_or_else(|| format!("uid-{uid}"), |(stem, _)| stem.to_owned());
    let plain: String =
        stem.chars()
            .take(64)
            .map(|character| {
                if character.is_ascii_alphanumeric() || "_-.@".contains(character) { character } else { '-' }
            })
            .collect();
    let mut name = plain.clone();
    let mut number = 2;
    while [super::EVERYONE, super::ADMINISTRATOR].contains(&name.as_str()) || !names.insert(name.clone()) {
        name = format!("{plain}-{number}");
        number += 1;
    }
    name
}
