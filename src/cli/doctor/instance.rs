//! What the instance needs: configuration, policy, mount point, store, audit log.

use std::fs::File;
use std::path::Path;
use std::time::Duration;

use crate::config::{Config, DEFAULT_CONFIG};
use crate::control::{CommandFault, StatusAnswer};
use crate::daemon::{self, OpenTrouble, RemoteFinding, RemoteTrouble};
use crate::document::Fault;
use crate::policy::Policy;
use crate::store::StoreState;
use crate::sys::file::{self, Space};
use crate::sys::mount::{self, Standing};
use crate::sys::mountinfo::{self, MountEntry};

use super::super::connect::running;
use super::super::{Context, audit};
use super::{Finding, clock, files, units};

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
    let policy = match daemon::load_policy(&config) {
        Ok(loaded) => {
            let grants = loaded.policy.grant_count();
            findings.push(Finding::ok("policy", format!("is valid and has {grants} grants")));
            let warned = |warning: &Fault| Finding::warning("policy", warning.what(), &*warning.remedy);
            findings.extend(loaded.warnings.iter().map(warned));
            Some(loaded.policy)
        }
        Err(faults) => {
            findings.push(of_faults("policy", &CommandFault::invalid(&faults)));
            None
        }
    };
    findings.extend(files::look(&config));
    findings.push(clock::look(Some(&config.audit.path)));
    findings.extend(remote(&config, policy.as_ref(), context));
    findings.push(mount_point(&config));
    findings.extend(mounts_around(&config.mount_point, &mountinfo::mounts().unwrap_or_default()));
    // The units of the package serve the machine's own configuration, and no other.
    if config.file == std::path::Path::new(DEFAULT_CONFIG) {
        findings.extend(units::look());
    }
    match running(&config) {
        Some(status) => findings.extend(of_running(&status)),
        None => findings.extend(of_files(&config, context)),
    }
    findings.extend(audit_log(&config));
    findings
}

/// Whether each remote store can be reached, and each login works there.
fn remote(config: &Config, policy: Option<&Policy>, context: &Context) -> Vec<Finding> {
    let finding = |found: RemoteFinding| match found.outcome {
        Ok(what) => Finding::ok("store", format!("{}: {what}", found.about)),
        Err(RemoteTrouble { message, remedy }) => {
            Finding::fault("store", format!("{}: {message}", found.about), remedy)
        }
    };
    daemon::check_remote(config, policy, &context.surroundings).into_iter().map(finding).collect()
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

/// What lies on the mount point, and what it lies on.
fn mounts_around(mount_point: &Path, mounts: &[MountEntry]) -> Vec<Finding> {
    // A stat by someone from whom a directory is hidden makes the kernel forget it, and detach what is mounted below.
    let below = |path: &Path| path != mount_point && path.starts_with(mount_point);
    let mut findings: Vec<Finding> = mounts
        .iter()
        .filter(|entry| below(&entry.mount_point))
        .map(|entry| {
            Finding::warning(
                "mount below",
                format!("{} lies on the mount and may be detached at any time", entry.mount_point.display()),
                "mount it somewhere else",
            )
        })
        .collect();
    let around = mounts
        .iter()
        .filter(|entry| entry.mount_point != mount_point && mount_point.starts_with(&entry.mount_point))
        .max_by_key(|entry| entry.mount_point.as_os_str().len());
    findings.extend(around.map(|around| {
        let place = around.mount_point.display();
        if around.is_shared {
            return Finding::ok("propagation", format!("what is mounted on {place} is seen by every service"));
        }
        Finding::warning(
            "propagation",
            format!("{place} is a private mount: a service with a mount namespace of its own, as by PrivateTmp=, that \
                     was started before credfs does not see the tree"),
            format!("mount --make-rshared {place}"),
        )
    }));
    findings
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
    findings.extend(audit_space(file::space_around(&log).ok(), audit_bytes(path), config.audit.max_bytes));
    findings
}

/// What all files of the log take, in bytes.
fn audit_bytes(path: &Path) -> u64 {
    let (Some(directory), Some(name)) = (path.parent(), path.file_name().and_then(|name| name.to_str()))
    else {
        return 0;
    };
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    entries
        .filter(|entry| entry.file_name().to_string_lossy().starts_with(name))
        .filter_map(|entry| entry.metadata().ok())
        .map(|found| found.len())
        .sum()
}

fn audit_space(space: Option<Space>, used_bytes: u64, budget_bytes: u64) -> Vec<Finding> {
    let mut findings = Vec::new();
    let Some(space) = space else { return findings };
    if space.free_bytes < space.total_bytes / SPACE_SHARE_MIN {
        findings.push(Finding::warning(
            "audit log",
            format!("its file system has {} of {} bytes left", space.free_bytes, space.total_bytes),
            "free some: when it is full nothing is released",
        ));
    }
    // What is not handed off is never removed, so the budget alone does not bound it.
    if used_bytes > budget_bytes - budget_bytes / SPACE_SHARE_MIN {
        findings.push(Finding::warning(
            "audit log",
            format!("it takes {used_bytes} of the {budget_bytes} bytes that audit.max_bytes allows"),
            "hand off what it holds with `credfs audit checkpoint`: then the oldest files may go",
        ));
    }
    if budget_bytes.saturating_sub(used_bytes) > space.free_bytes {
        findings.push(Finding::warning(
            "audit log",
            format!(
                "audit.max_bytes allows {budget_bytes} bytes, and its file system has {} left",
                space.free_bytes
            ),
            "lower audit.max_bytes or give the log a larger file system: when it is full nothing is released",
        ));
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::super::Weight;
    use super::*;

    fn mount(at: &str, is_shared: bool) -> MountEntry {
        MountEntry {
            id: 1,
            parent: 1,
            device: (0, 1),
            mount_point: at.into(),
            options: "rw".to_owned(),
            is_shared,
            kind: "tmpfs".to_owned(),
            source: "tmpfs".into(),
            super_options: "rw".to_owned(),
        }
    }

    #[test]
    fn mounts_below_and_a_private_mount_around_are_warned_of() {
        let tree = Path::new("/run/credfs");
        let shared =
            [mount("/", false), mount("/run", true), mount("/run/credfs", true), mount("/run/other", false)];
        let found = mounts_around(tree, &shared);
        assert_eq!(found.iter().map(|finding| finding.weight).collect::<Vec<_>>(), [Weight::Ok]);
        let private = [mount("/", true), mount("/run", false), mount("/run/credfs/prod/x", true)];
        let found = mounts_around(tree, &private);
        let said: Vec<_> = found.iter().map(|finding| (finding.about, finding.weight)).collect();
        assert_eq!(said, [("mount below", Weight::Warning), ("propagation", Weight::Warning)]);
        assert!(found[0].found.contains("/run/credfs/prod/x"), "{}", found[0].found);
    }

    #[test]
    fn an_audit_log_that_will_not_fit_is_warned_of() {
        let space = |free_bytes, total_bytes| Some(Space { total_bytes, free_bytes });
        assert!(audit_space(space(900, 1_000), 10, 100).is_empty());
        for (space, used, budget, word) in [
            (space(50, 1_000), 0, 50, "bytes left"),
            (space(900, 1_000), 95, 100, "audit checkpoint"),
            (space(500, 1_000), 0, 900, "lower audit.max_bytes"),
        ] {
            let found = audit_space(space, used, budget);
            assert_eq!(found.len(), 1, "{found:?}");
            let said = format!("{} {}", found[0].found, found[0].remedy.as_deref().unwrap_or_default());
            assert!(said.contains(word), "{said}");
        }
    }
}
