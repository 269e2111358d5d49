//! The service: how systemd says that its two units are, and whether a drop-in took away what the worker needs.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use super::Finding;

const WORKER: &str = "credfs.service";
const KEEPER: &str = "credfs-keeper.service";
/// systemd answers at once, or something is wrong with it that this program does not wait for.
const ANSWER_MAX: Duration = Duration::from_secs(3);
const PROPERTIES: &str = "Id,LoadState,ActiveState,SubState,UnitFileState,Result,NRestarts,NeedDaemonReload,User,\
                          PrivateUsers,ProtectProc,PrivateMounts,PrivateTmp,ProtectSystem,DynamicUser";
/// So many restarts by systemd itself say that something is not as it should be.
const RESTARTS_MAX: u64 = 3;

type Properties = BTreeMap<String, String>;

/// What is found about the units, where this machine runs systemd and has them.
pub(super) fn look() -> Vec<Finding> {
    if !Path::new("/run/systemd/system").is_dir() {
        return Vec::new();
    }
    match ask() {
        Some(answer) => judge(&parse(&answer)),
        None => vec![Finding::warning(
            "service",
            "systemd does not say how the units are",
            "systemctl status credfs",
        )],
    }
}

/// `systemctl show`, bounded: without a bus it may wait for one.
fn ask() -> Option<String> {
    let mut child = Command::new("systemctl")
        .args(["show", "--no-pager", "-p", PROPERTIES, WORKER, KEEPER])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .ok()?;
    let until = Instant::now() + ANSWER_MAX;
    loop {
        match child.try_wait().ok()? {
            Some(status) if status.success() => break,
            Some(_) => return None,
            None if Instant::now() >= until => {
                drop(child.kill());
                drop(child.wait());
                return None;
            }
            None => std::thread::sleep(Duration::from_millis(10)),
        }
    }
    // Two units' properties are smaller than a pipe.
    let output = child.wait_with_output().ok()?;
    String::from_utf8(output.stdout).ok()
}

/// `Name=value` lines, an empty line between units.
fn parse(answer: &str) -> Vec<Properties> {
    answer
        .split("\n\n")
        .map(|unit| {
            unit.lines()
                .filter_map(|line| line.split_once('='))
                .map(|(name, value)| (name.to_owned(), value.trim().to_owned()))
                .collect()
        })
        .collect()
}

fn judge(units: &[Properties]) -> Vec<Finding> {
    units.iter().filter(|unit| get(unit, "LoadState") != "not-found").flat_map(judge_unit).collect()
}

fn get<'a>(unit: &'a Properties, name: &str) -> &'a str {
    unit.get(name).map_or("", String::as_str)
}

fn judge_unit(unit: &Properties) -> Vec<Finding> {
    let name = get(unit, "Id");
    let mut findings = vec![state(unit, name)];
    let mut warn = |found: String, remedy: String| findings.push(Finding::warning("service", found, remedy));
    if get(unit, "NeedDaemonReload") == "yes" {
        warn(
            format!("{name} was changed on the disk since systemd read it"),
            "systemctl daemon-reload".to_owned(),
        );
    }
    if get(unit, "UnitFileState") == "disabled" {
        warn(format!("{name} is not started at boot"), format!("systemctl enable {name}"));
    }
    if get(unit, "NRestarts").parse::<u64>().is_ok_and(|count| count > RESTARTS_MAX) {
        let count = get(unit, "NRestarts");
        warn(
            format!("{name} had to be started again {count} times"),
            format!("journalctl -u {name} says why"),
        );
    }
    findings.extend(drop_ins(unit, name));
    findings
}

fn state(unit: &Properties, name: &str) -> Finding {
    let (active, sub, result) = (get(unit, "ActiveState"), get(unit, "SubState"), get(unit, "Result"));
    let remedy = format!("systemctl start {name}; journalctl -u {name} says why it ended");
    match active {
        "active" | "reloading" => Finding::ok("service", format!("{name} is {active}")),
        // Nobody started it: it would run.
        "inactive" => Finding::warning("service", format!("{name} does not run"), remedy),
        _ => Finding::fault("service", format!("{name} is {active} ({sub}, {result})"), remedy),
    }
}

/// What other hardening guides advise and credfs cannot live with.
fn drop_ins(unit: &Properties, name: &str) -> Vec<Finding> {
    let is_set = |key: &str| !matches!(get(unit, key), "" | "no" | "default");
    let wrong: &[(&str, &str)] = if name == KEEPER {
        &[
            ("PrivateMounts", "its mount would be seen by no other service"),
            ("PrivateTmp", "its mount would be seen by no other service"),
            ("ProtectSystem", "its mount would be seen by no other service"),
            ("PrivateUsers", "it may not mount then"),
        ]
    } else {
        &[
            ("PrivateUsers", "it cannot tell who asks: every other user looks like nobody"),
            ("ProtectProc", "it cannot tell who asks: processes of others are hidden from it"),
            ("DynamicUser", "its files belong to another user at each start"),
        ]
    };
    wrong
        .iter()
        .filter(|(key, _)| is_set(key))
        .map(|(key, why)| {
            let found = format!("{name} has {key}={}: {why}", get(unit, key));
            Finding::fault(
                "service",
                found,
                format!("take {key}= out of the drop-in: systemctl cat {name} shows it"),
            )
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::super::Weight;
    use super::*;

    const SOUND: &str = "Id=credfs.service\nLoadState=loaded\nActiveState=active\nSubState=running\nUnitFileState=enabled\n\
                         Result=success\nNRestarts=0\nNeedDaemonReload=no\nPrivateUsers=no\nProtectProc=default\n\
                         ProtectSystem=strict\nPrivateTmp=yes\nDynamicUser=no\n\nId=credfs-keeper.service\n\
                         LoadState=loaded\nActiveState=active\nNRestarts=1\nPrivateTmp=no\nProtectSystem=no\n";

    #[test]
    fn units_that_run_as_they_were_shipped_are_well() {
        let findings = judge(&parse(SOUND));
        assert_eq!(findings.len(), 2);
        assert!(findings.iter().all(|finding| finding.weight == Weight::Ok), "{findings:?}");
    }

    #[test]
    fn units_that_are_not_there_are_no_finding() {
        assert!(judge(&parse(&SOUND.replace("loaded", "not-found"))).is_empty());
    }

    #[test]
    fn what_is_wrong_with_a_unit_is_said_with_its_remedy() {
        for (from, to, weight, word) in [
            ("ActiveState=active\nSub", "ActiveState=failed\nSub", Weight::Fault, "failed"),
            ("ActiveState=active\nSub", "ActiveState=activating\nSub", Weight::Fault, "activating"),
            ("ActiveState=active\nSub", "ActiveState=inactive\nSub", Weight::Warning, "does not run"),
            ("UnitFileState=enabled", "UnitFileState=disabled", Weight::Warning, "at boot"),
            ("NRestarts=0", "NRestarts=12", Weight::Warning, "12 times"),
            ("NeedDaemonReload=no", "NeedDaemonReload=yes", Weight::Warning, "on the disk"),
            ("PrivateUsers=no", "PrivateUsers=yes", Weight::Fault, "PrivateUsers=yes"),
            ("ProtectProc=default", "ProtectProc=invisible", Weight::Fault, "ProtectProc=invisible"),
            ("DynamicUser=no", "DynamicUser=yes", Weight::Fault, "DynamicUser=yes"),
            ("PrivateTmp=no", "PrivateTmp=yes", Weight::Fault, "no other service"),
            ("ProtectSystem=no", "ProtectSystem=full", Weight::Fault, "no other service"),
        ] {
            assert!(SOUND.contains(from), "{from}");
            let findings = judge(&parse(&SOUND.replace(from, to)));
            let found = findings.iter().find(|finding| finding.weight != Weight::Ok);
            let found = found.unwrap_or_else(|| panic!("{to} goes unnoticed"));
            assert_eq!(found.weight, weight, "{to}");
            assert!(found.found.contains(word) && found.remedy.is_some(), "{found:?}");
        }
    }
}
