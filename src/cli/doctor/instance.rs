//! What the instance needs: configuration, policy, mount point, store, audit log.

use std::fs::File;
use std::time::Duration;

use crate::config::Config;
use crate::control::{Answer, Command, CommandFault, StatusAnswer};
use crate::daemon::{self, OpenTrouble};
use crate::store::StoreState;
use crate::sys::mount::{self, Standing};
use crate::sys::{file, mountinfo};

use super::super::connect::through_instance;
use super::super::{Context, audit};
use super::Finding;

const PROBE_WAIT: Duration = Duration::from_secs(1);
/// Below this share of the audit log's file system refusals are only counted.
const SPACE_SHARE_MIN: u64 = 10;

pub(super) fn look(context: &Context) -> Vec<Finding> {
    let config = match Config::load(&context.config_file) {
        Ok(config) => config,
        Err(faults) => return vec![of_faults("configuration", &CommandFault::invalid(&faults))],
    };
    let mut findings = Vec::new();
    match daemon::check(&context.config_file) {
        Ok(_) => findings.push(Finding::ok("configuration", format!("{} is valid", config.file.display()))),
        Err(faults) => findings.push(of_faults("configuration", &CommandFault::invalid(&faults))),
    }
    match daemon::load_policy(&config) {
        Ok(loaded) => {
            let grants = loaded.policy.grant_count();
            findings.push(Finding::ok("policy", format!("is valid and has {grants} grants")));
            findings.extend(loaded.warnings.iter().map(|warning| {
                Finding::warning(
                    "policy",
                    format!("{}:{}: {}", warning.file.display(), warning.line, warning.message),
                    &*warning.remedy,
                )
            }));
        }
        Err(faults) => findings.push(of_faults("policy", &CommandFault::invalid(&faults))),
    }
    findings.push(mount_point(&config));
    findings.extend(mounts_below(&config));
    match running(&config) {
        Some(status) => findings.extend(of_running(&status)),
        None => findings.extend(of_files(&config, context)),
    }
    findings.extend(audit_log(&config));
    findings
}

fn of_faults(about: &'static str, faults: &CommandFault) -> Finding {
    Finding::fault(
        about,
        faults.message.replace('\n', "; "),
        "each line says its own; `credfs check` shows them again",
    )
}

fn mount_point(config: &Config) -> Finding {
    let path = config.mount_point.display();
    if !config.mount_point.exists() && std::fs::symlink_metadata(&config.mount_point).is_err() {
        return Finding::ok(
            "mount point",
            format!("{path} does not exist yet and is made by `credfs mount`"),
        );
    }
    match mount::standing(&config.mount_point, PROBE_WAIT) {
        Ok(Standing::Free) => Finding::ok("mount point", format!("nothing is mounted on {path}")),
        Ok(Standing::Served) => Finding::ok("mount point", format!("{path} is served")),
        Ok(Standing::Stale) => Finding::warning(
            "mount point",
            format!("{path} has a dead mount"),
            "the next `credfs mount` takes it away",
        ),
        Ok(Standing::Silent { minor }) => Finding::fault(
            "mount point",
            format!("{path} is mounted and does not answer"),
            format!("stop its daemon, or as root: echo 1 > /sys/fs/fuse/connections/{minor}/abort"),
        ),
        Ok(Standing::Foreign { kind }) => Finding::fault(
            "mount point",
            format!("{path} has a file system of type {kind}"),
            "unmount it or name another mount point",
        ),
        Err(fault) => Finding::fault("mount point", fault.to_string(), "see above"),
    }
}

/// A stat by someone from whom a directory is hidden makes the kernel forget it, and detach what is mounted below.
fn mounts_below(config: &Config) -> Vec<Finding> {
    let mounts = mountinfo::mounts().unwrap_or_default();
    let below = |path: &std::path::Path| path != config.mount_point && path.starts_with(&config.mount_point);
    mounts
        .iter()
        .filter(|entry| below(&entry.mount_point))
        .map(|entry| {
            Finding::warning(
                "mount below",
                format!("{} lies on the mount and may be detached at any time", entry.mount_point.display()),
                "mount it somewhere else",
            )
        })
        .collect()
}

fn running(config: &Config) -> Option<StatusAnswer> {
    match through_instance(config, &Command::Status) {
        Ok(reply) => match reply.answer {
            Answer::Status(status) => Some(*status),
            _ => None,
        },
        Err(_) => None,
    }
}

fn of_running(status: &StatusAnswer) -> Vec<Finding> {
    let pid = status.worker_pid.map_or_else(String::new, |pid| format!(" as process {pid}"));
    let mut findings = vec![match (status.state.as_str(), &status.why) {
        ("serving", _) => Finding::ok("instance", format!("serves{pid}")),
        (state, why) => {
            let why = why.as_deref().map_or_else(String::new, |why| format!(": {why}"));
            Finding::fault("instance", format!("is {state}{pid}{why}"), "its log says more")
        }
    }];
    for store in &status.stores {
        findings.push(if store.state == StoreState::Ready {
            Finding::ok("store", format!("{} is ready", store.name))
        } else {
            let state = format!("{:?}", store.state).to_lowercase();
            Finding::fault("store", format!("{} is {state}", store.name), "the instance's log says why")
        });
    }
    match status.audit.as_deref() {
        None | Some("recording") => {}
        Some(fault) => {
            findings.push(Finding::fault("audit log", fault, "nothing is released until it can be written"))
        }
    }
    if let Some(bytes) = status.unlocked_bytes.filter(|bytes| *bytes > 0) {
        findings.push(Finding::warning(
            "locked memory",
            format!("the instance holds {bytes} bytes of secret memory that could not be locked"),
            "raise LimitMEMLOCK= of its unit",
        ));
    }
    findings
}

/// No instance runs: open everything as it would, and prove every value.
fn of_files(config: &Config, context: &Context) -> Vec<Finding> {
    let mut findings = vec![Finding::ok("instance", "does not run; `credfs mount` starts it".to_owned())];
    let rooms = match daemon::open(config, &context.surroundings, None, Duration::from_secs(2)) {
        Ok(rooms) => rooms,
        Err(OpenTrouble::NotOurs(fault)) => {
            findings.push(Finding::warning(
                "store",
                fault.message,
                "run this as the owner of the files or as root",
            ));
            return findings;
        }
        Err(trouble) => {
            findings.push(Finding::fault("store", trouble.into_fault().message, "see above"));
            return findings;
        }
    };
    for (name, local) in &rooms.locals {
        findings.push(match local.store.check() {
            Ok(checked) if checked.faults.is_empty() => Finding::ok(
                "store",
                format!("{name}: {} secrets, {} values, all of them proven", checked.secrets, checked.values),
            ),
            Ok(checked) => Finding::fault(
                "store",
                format!("{name}: {}", checked.faults.join("; ")),
                "restore a backup with `credfs restore`",
            ),
            Err(fault) => Finding::fault("store", format!("{name}: {fault}"), "see above"),
        });
    }
    if let Err(fault) = rooms.gate.log().check() {
        findings.push(Finding::fault(
            "audit log",
            fault.to_string(),
            "nothing is released until it can be written",
        ));
    }
    findings
}

fn audit_log(config: &Config) -> Vec<Finding> {
    let path = &config.audit.path;
    let Ok(log) = File::open(path) else {
        return vec![Finding::warning(
            "audit log",
            format!("{} cannot be read", path.display()),
            "run this as its owner; where it is missing the next start begins a new chain",
        )];
    };
    let mut findings = vec![match audit::proof(config) {
        Ok(verdict) if verdict.ok => {
            Finding::ok("audit log", format!("{} records, all of them proven", verdict.records))
        }
        Ok(verdict) => {
            let what = verdict
                .fault
                .map_or_else(String::new, |fault| format!("record {}: {}", fault.seq, fault.what));
            Finding::fault("audit log", what, "`credfs audit verify` says more; keep a copy of all its files")
        }
        Err(fault) => Finding::warning("audit log", fault.message, "run this as its owner"),
    }];
    if let Ok(space) = file::space_around(&log)
        && space.free_bytes < space.total_bytes / SPACE_SHARE_MIN
    {
        findings.push(Finding::warning(
            "audit log",
            format!("its file system has {} of {} bytes left", space.free_bytes, space.total_bytes),
            "free some: when it is full nothing is released",
        ));
    }
    findings
}
