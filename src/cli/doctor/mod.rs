//! `credfs doctor`: what is wrong on this machine, and the remedy.

mod clock;
mod files;
mod instance;
mod machine;
mod units;

use serde::Serialize;
use serde_json::json;

use crate::control::CommandFault;

use super::{Context, Exit, output};

/// How a finding matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Weight {
    /// As it should be.
    Ok,
    /// It runs, but not as well as it could.
    Warning,
    /// It does not run.
    Fault,
}

/// One thing looked at.
#[derive(Debug, Serialize)]
struct Finding {
    about: &'static str,
    weight: Weight,
    found: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    remedy: Option<String>,
}

impl Finding {
    fn ok(about: &'static str, found: impl Into<String>) -> Self {
        Self { about, weight: Weight::Ok, found: found.into(), remedy: None }
    }

    fn warning(about: &'static str, found: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { about, weight: Weight::Warning, found: found.into(), remedy: Some(remedy.into()) }
    }

    fn fault(about: &'static str, found: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { about, weight: Weight::Fault, found: found.into(), remedy: Some(remedy.into()) }
    }
}

pub(super) fn doctor(context: &Context) -> Result<Exit, CommandFault> {
    let mut findings = machine::look();
    findings.extend(instance::look(context));
    let runs = findings.iter().all(|finding| finding.weight != Weight::Fault);
    if context.json {
        output::json(&json!({ "ok": runs, "findings": findings }))?;
    } else {
        let mut text = String::new();
        for finding in &findings {
            let mark = match finding.weight {
                Weight::Ok => "ok      ",
                Weight::Warning => "warning ",
                Weight::Fault => "FAULT   ",
            };
            text.push_str(&format!("{mark} {}: {}\n", finding.about, finding.found));
            if let Some(remedy) = &finding.remedy {
                text.push_str(&format!("           remedy: {remedy}\n"));
            }
        }
        output::text(&text)?;
    }
    Ok(if runs { Exit::Done } else { Exit::Failed })
}
