//! Reads `[[grants]]` tables.

use std::sync::Arc;
use std::time::Duration;

use super::grant::{Grant, Stages};
use super::identity::{ADMINISTRATOR, EVERYONE};
use super::pattern::Pattern;
use super::read_identity::distinct;
use crate::document::{Section, nearest};
use crate::model::{Stage, StageSet};

/// Longest time after a process's start that a grant can be limited to.
const WITHIN_MAX: Duration = Duration::from_secs(365 * 24 * 3600);

/// Reads one grant. `identities` are the names known, in the order of their numbers. Faults are noted in the
/// section's file; the grant is then of no use.
pub(super) fn read_grant(section: Section<'_>, identities: &[&str], rule: Arc<str>) -> Grant {
    let grant = Grant {
        to: read_to(&section, identities),
        read: read_patterns(&section, "read"),
        list: read_patterns(&section, "list"),
        admin: read_patterns(&section, "admin"),
        stages: read_stages(&section),
        fields: read_fields(&section),
        reads_per_minute: section
            .integer("reads_per_minute", 1..=1_000_000)
            .and_then(|reads| u32::try_from(reads.value).ok()),
        within: section.span("within", Duration::from_secs(1)..=WITHIN_MAX),
        rule,
    };
    if !section.has("read") && !section.has("list") && !section.has("admin") {
        section.fault(
            section.line(),
            "the grant lets nothing be done",
            "add read = [\"PATH/**\"], list or admin; or remove the grant",
        );
    }
    for limit in ["reads_per_minute", "within"] {
        if section.has(limit) && !section.has("read") {
            section.fault(
                section.line_of(limit),
                format!("\"{limit}\" limits reads, and the grant has no \"read\""),
                "remove it, or add read",
            );
        }
    }
    section.finish();
    grant
}

fn read_to(section: &Section<'_>, identities: &[&str]) -> Vec<usize> {
    if !section.has("to") {
        section.fault(
            section.line(),
            "the grant is to nobody",
            "add to = [\"IDENTITY\"], or to = [\"everyone\"]",
        );
    }
    let names = distinct(section, "to", section.texts("to").unwrap_or_default());
    let numbers = names.into_iter().filter_map(|name| {
        let number = identities.iter().position(|known| *known == name.value);
        if number.is_none() {
            let remedy = match nearest(name.value, identities.iter().copied()) {
                Some(meant) => format!("did you mean \"{meant}\"?"),
                None => {
                    format!("define [identities.NAME], or grant to \"{EVERYONE}\" or \"{ADMINISTRATOR}\"")
                }
            };
            section.fault(name.line, format!("identity {:?} is not defined", name.value), remedy);
        }
        number
    });
    numbers.collect()
}

fn read_patterns(section: &Section<'_>, key: &'static str) -> Vec<Pattern> {
    let texts = distinct(section, key, section.texts(key).unwrap_or_default());
    let patterns = texts.into_iter().filter_map(|text| match Pattern::parse(text.value) {
        Ok(pattern) => Some(pattern),
        Err(fault) => {
            section.fault(
                text.line,
                format!("{key} holds {:?}, which is no pattern: {fault}", text.value),
                "a pattern looks like prod/orders/db, prod/orders/* or prod/orders/**",
            );
            None
        }
    });
    patterns.collect()
}

fn read_stages(section: &Section<'_>) -> Stages {
    let Some(words) = section.texts("stages") else { return Stages::default() };
    let mut stages = Stages { named: StageSet::EMPTY, all: false };
    for word in distinct(section, "stages", words) {
        match (word.value, Stage::named(word.value)) {
            ("all", _) => stages.all = true,
            (_, Some(stage)) => stages.named = stages.named.with(stage),
            _ => section.fault(
                word.line,
                format!("{:?} is not a stage", word.value),
                "choose of \"current\", \"previous\", \"next\" and \"all\"",
            ),
        }
    }
    stages
}

fn read_fields(section: &Section<'_>) -> Option<Vec<String>> {
    let fields = distinct(section, "fields", section.texts("fields")?);
    let checked = fields.into_iter().filter_map(|field| {
        let fault = crate::model::FieldName::from_store(field.value).err();
        if let Some(fault) = fault {
            section.fault(
                field.line,
                format!("fields holds what is no field: {fault}"),
                "name fields, or shapes such as \"tls.*\"; leave the key out for every field",
            );
            return None;
        }
        Some(field.value.to_owned())
    });
    Some(checked.collect())
}
