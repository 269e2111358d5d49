//! What the machine offers: kernel, FUSE, locked memory.

use std::fs;

use crate::fuse::is_resend_switched_off;
use crate::sys::{harden, memory};

use super::Finding;

/// Below this nothing is promised.
const KERNEL_MIN: (u32, u32) = (5, 15);
/// From here a successor can ask for requests that were in flight (`FUSE_NOTIFY_RESEND`).
const KERNEL_RESEND: (u32, u32) = (6, 9);
/// From here callers are told by one call (`PIDFD_GET_INFO`).
const KERNEL_PIDFD_INFO: (u32, u32) = (6, 13);
/// Four times as many as callers are remembered by default (`limits.callers_max`).
const OPEN_FILES_WANTED: u64 = 16_384;
/// What the values of some hundred open files take, in bytes.
const LOCKED_BYTES_WANTED: u64 = 4 * 1024 * 1024;

pub(super) fn look() -> Vec<Finding> {
    let mut findings = kernel();
    findings.push(device());
    if harden::own_uid() != 0 {
        findings.push(mount_helper());
        findings.push(sharing(&fs::read_to_string("/etc/fuse.conf").unwrap_or_default()));
    }
    findings.push(locked_memory());
    findings.push(open_files(harden::open_files_max()));
    findings
        .push(tracing_of_others(fs::read_to_string("/proc/sys/kernel/yama/ptrace_scope").ok().as_deref()));
    findings.push(swap(&fs::read_to_string("/proc/swaps").unwrap_or_default(), &is_encrypted));
    findings.push(cores(
        &fs::read_to_string("/proc/sys/kernel/core_pattern").unwrap_or_default(),
        fs::read_to_string("/proc/sys/fs/suid_dumpable").unwrap_or_default().trim(),
    ));
    findings.extend(security_modules(
        fs::read_to_string("/sys/fs/selinux/enforce").ok().as_deref(),
        fs::read_to_string("/sys/module/apparmor/parameters/enabled").ok().as_deref(),
    ));
    findings
}

fn kernel() -> Vec<Finding> {
    let text = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    judge_kernel(text.trim(), is_resend_switched_off())
}

fn judge_kernel(release: &str, is_without_resend: bool) -> Vec<Finding> {
    let mut numbers = release.split(['.', '-']).map_while(|part| part.parse().ok());
    let (Some(major), Some(minor)) = (numbers.next(), numbers.next()) else {
        return vec![Finding::warning("kernel", "its version cannot be told", "mount /proc")];
    };
    let version = (major, minor);
    if version < KERNEL_MIN {
        let found = format!("Linux {release} is older than 5.15");
        return vec![Finding::fault("kernel", found, "install a newer kernel")];
    }
    let mut findings = Vec::new();
    if version < KERNEL_RESEND || is_without_resend {
        findings.push(Finding::warning(
            "kernel",
            format!("Linux {release}: before 6.9 requests in flight fail when the worker dies, and the mount is made anew"),
            "run 6.9 or newer where that matters",
        ));
    }
    if version < KERNEL_PIDFD_INFO {
        findings.push(Finding::warning(
            "kernel",
            format!("Linux {release}: before 6.13 callers are told from /proc, which takes longer"),
            "run 6.13 or newer where that matters",
        ));
    }
    if findings.is_empty() {
        findings.push(Finding::ok("kernel", format!("Linux {release}")));
    }
    findings
}

fn device() -> Finding {
    match fs::File::options().read(true).write(true).open("/dev/fuse") {
        Ok(_) => Finding::ok("/dev/fuse", "can be opened"),
        Err(error) => Finding::fault(
            "/dev/fuse",
            format!("cannot be opened: {error}"),
            "load it with `modprobe fuse`; in a container pass --device /dev/fuse",
        ),
    }
}

fn mount_helper() -> Finding {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path)
        .map(|directory| directory.join("fusermount3"))
        .find(|file| file.is_file());
    match found {
        Some(file) => Finding::ok("fusermount3", format!("is {}", file.display())),
        None => {
            Finding::fault("fusermount3", "was not found, and only root mounts without it", "install fuse3")
        }
    }
}

fn sharing(fuse_conf: &str) -> Finding {
    if fuse_conf.lines().any(|line| line.trim() == "user_allow_other") {
        Finding::ok("sharing", "other users may be let in")
    } else {
        Finding::warning(
            "sharing",
            "a plain user's mount is his alone",
            "for other users, have root write user_allow_other into /etc/fuse.conf",
        )
    }
}

fn locked_memory() -> Finding {
    let unlocked = memory::unlocked_bytes();
    let has_swap = fs::read_to_string("/proc/swaps").is_ok_and(|text| text.lines().count() > 1);
    match harden::lockable_bytes() {
        Ok(Some(bytes)) if harden::own_uid() != 0 && (bytes < LOCKED_BYTES_WANTED || unlocked > 0) => {
            let found = format!(
                "this process may lock {bytes} bytes{}",
                if has_swap { ", and values past that can be swapped out" } else { "; there is no swap" }
            );
            let remedy = "raise it: LimitMEMLOCK= in the unit, or memlock in /etc/security/limits.conf";
            if has_swap {
                Finding::warning("locked memory", found, remedy)
            } else {
                Finding::ok("locked memory", found)
            }
        }
        Ok(_) => Finding::ok("locked memory", "values are kept out of swap and core files"),
        Err(error) => Finding::warning(
            "locked memory",
            format!("its limit cannot be told: {error}"),
            "see setrlimit(2)",
        ),
    }
}

/// A pidfd is held for each caller that is remembered, in a quarter of what may be open.
fn open_files(count_max: u64) -> Finding {
    if count_max < OPEN_FILES_WANTED {
        return Finding::warning(
            "open files",
            format!(
                "a process may have {count_max} open, so fewer callers are remembered, and the others take longer"
            ),
            "raise it: LimitNOFILE= in the unit, or nofile in /etc/security/limits.conf",
        );
    }
    Finding::ok("open files", format!("a process may have {count_max} open"))
}

/// kernel.yama.ptrace_scope (Documentation/admin-guide/LSM/Yama.rst).
fn tracing_of_others(scope: Option<&str>) -> Finding {
    let remedy = "sysctl kernel.yama.ptrace_scope=1, and a file in /etc/sysctl.d that says so";
    match scope.map(str::trim) {
        None => Finding::warning(
            "tracing",
            "this kernel has no yama: programs of one user can read each other's memory, and so each other's secrets",
            "run services as users of their own, or a kernel with CONFIG_SECURITY_YAMA",
        ),
        Some("0") => Finding::warning(
            "tracing",
            "programs of one user can read each other's memory, and so each other's secrets",
            remedy,
        ),
        Some(_) => Finding::ok("tracing", "programs of one user cannot trace each other at will"),
    }
}

/// `/proc/swaps` has a heading and a line for each area, its file first.
fn swap(swaps: &str, is_encrypted: &dyn Fn(&str) -> bool) -> Finding {
    let areas: Vec<&str> = swaps.lines().skip(1).filter_map(|line| line.split_whitespace().next()).collect();
    let open: Vec<&str> = areas.iter().copied().filter(|area| !is_encrypted(area)).collect();
    if areas.is_empty() {
        return Finding::ok("swap", "there is none");
    }
    if open.is_empty() {
        return Finding::ok("swap", "it is encrypted, or in memory");
    }
    Finding::warning(
        "swap",
        format!(
            "what readers do with a secret may be written to {}: credfs locks its own memory only",
            open.join(", ")
        ),
        "encrypt it (swap in crypttab(5) with a random key), use zram, or set MemorySwapMax=0 for the readers",
    )
}

/// A device of dm-crypt, by the name that the device mapper gives it; zram never leaves memory.
fn is_encrypted(area: &str) -> bool {
    let Ok(device) = fs::canonicalize(area) else { return false };
    let Some(name) = device.file_name().and_then(|name| name.to_str()) else { return false };
    name.starts_with("zram")
        || fs::read_to_string(format!("/sys/block/{name}/dm/uuid"))
            .is_ok_and(|uuid| uuid.starts_with("CRYPT-"))
}

/// core(5), and suid_dumpable in proc(5).
fn cores(pattern: &str, suid_dumpable: &str) -> Finding {
    if suid_dumpable == "1" {
        return Finding::warning(
            "core files",
            "fs.suid_dumpable is 1: programs that change their user leave cores that others can read",
            "sysctl fs.suid_dumpable=0, and a file in /etc/sysctl.d that says so",
        );
    }
    let pattern = pattern.trim();
    let to = if pattern.is_empty() { "nowhere".to_owned() } else { format!("to {pattern}") };
    Finding::ok("core files", format!("credfs makes none; those of readers go {to}, secrets included"))
}

fn security_modules(selinux_enforce: Option<&str>, apparmor_enabled: Option<&str>) -> Vec<Finding> {
    let mut findings = Vec::new();
    if selinux_enforce.is_some_and(|text| text.trim() == "1") {
        findings.push(Finding::warning(
            "SELinux",
            "is enforcing: a confined service reads a FUSE mount only where its policy lets it",
            "look with `ausearch -m avc -ts recent`; for nginx: setsebool -P httpd_use_fusefs on",
        ));
    }
    if apparmor_enabled.is_some_and(|text| text.trim() == "Y") {
        findings.push(Finding::ok(
            "AppArmor",
            "is in use: the profile of a confined service needs a line such as `/run/credfs/** r,`",
        ));
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::super::Weight;
    use super::*;

    fn heaviest(findings: &[Finding]) -> Weight {
        let order = [Weight::Fault, Weight::Warning, Weight::Ok];
        order.into_iter().find(|weight| findings.iter().any(|finding| finding.weight == *weight)).unwrap()
    }

    #[test]
    fn kernels_are_judged_by_the_floors_that_the_design_names() {
        for (release, weight, count) in [
            ("5.14.21-default", Weight::Fault, 1),
            ("5.15.0-91-generic", Weight::Warning, 2),
            ("6.8.0", Weight::Warning, 2),
            ("6.9.1", Weight::Warning, 1),
            ("6.12.48+deb13-amd64", Weight::Warning, 1),
            ("6.13-rc1", Weight::Ok, 1),
            ("7.0.0", Weight::Ok, 1),
            ("odd", Weight::Warning, 1),
        ] {
            let findings = judge_kernel(release, false);
            assert_eq!((heaviest(&findings), findings.len()), (weight, count), "{release}");
        }
    }

    #[test]
    fn a_mount_that_cannot_be_shared_is_warned_of() {
        assert_eq!(sharing("#user_allow_other\n").weight, Weight::Warning);
        assert_eq!(sharing("mount_max = 5\n user_allow_other \n").weight, Weight::Ok);
    }

    #[test]
    fn a_machine_on_which_programs_of_one_user_can_trace_each_other_is_warned_of() {
        assert_eq!(tracing_of_others(Some("0\n")).weight, Weight::Warning);
        assert_eq!(tracing_of_others(None).weight, Weight::Warning);
        assert_eq!(tracing_of_others(Some("1\n")).weight, Weight::Ok);
        assert_eq!(tracing_of_others(Some("3\n")).weight, Weight::Ok);
    }

    #[test]
    fn swap_in_the_clear_is_warned_of_by_name() {
        let head = "Filename\t\tType\t\tSize\n";
        let crypted = |area: &str| area == "/dev/dm-1";
        assert_eq!(swap(head, &crypted).weight, Weight::Ok);
        assert_eq!(swap(&format!("{head}/dev/dm-1 partition 1\n"), &crypted).weight, Weight::Ok);
        let found = swap(&format!("{head}/dev/dm-1 partition 1\n/swapfile file 2\n"), &crypted);
        assert_eq!(found.weight, Weight::Warning);
        assert!(found.found.contains("/swapfile") && !found.found.contains("dm-1"), "{}", found.found);
    }

    #[test]
    fn cores_of_programs_that_change_their_user_are_warned_of() {
        assert_eq!(cores("core", "1").weight, Weight::Warning);
        assert_eq!(cores("|/usr/lib/systemd/systemd-coredump %P", "2").weight, Weight::Ok);
        assert!(cores("", "0").found.contains("nowhere"));
    }

    #[test]
    fn few_open_files_are_warned_of() {
        assert_eq!(open_files(1_024).weight, Weight::Warning);
        assert_eq!(open_files(524_288).weight, Weight::Ok);
    }

    #[test]
    fn what_confines_readers_is_named() {
        assert!(security_modules(Some("0"), Some("N\n")).is_empty());
        let found = security_modules(Some("1"), Some("Y\n"));
        assert_eq!(
            found.iter().map(|finding| finding.weight).collect::<Vec<_>>(),
            [Weight::Warning, Weight::Ok]
        );
    }
}
