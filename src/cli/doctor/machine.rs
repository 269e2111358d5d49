//! What the machine offers: kernel, FUSE, locked memory.

use std::fs;

use crate::sys::{harden, memory};

use super::Finding;

/// Below this nothing is promised.
const KERNEL_MIN: (u32, u32) = (5, 15);
/// From here a successor can ask for requests that were in flight (`FUSE_NOTIFY_RESEND`).
const KERNEL_RESEND: (u32, u32) = (6, 9);
/// From here callers are told by one call (`PIDFD_GET_INFO`).
const KERNEL_PIDFD_INFO: (u32, u32) = (6, 13);
/// What the values of some hundred open files take, in bytes.
const LOCKED_BYTES_WANTED: u64 = 4 * 1024 * 1024;

pub(super) fn look() -> Vec<Finding> {
    let mut findings = vec![kernel(), device()];
    if harden::own_uid() != 0 {
        findings.push(mount_helper());
        findings.push(sharing());
    }
    findings.push(locked_memory());
    findings
}

fn kernel() -> Finding {
    let text = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let text = text.trim();
    judge_kernel(text)
}

fn judge_kernel(release: &str) -> Finding {
    let mut numbers = release.split(['.', '-']).map_while(|part| part.parse().ok());
    let (Some(major), Some(minor)) = (numbers.next(), numbers.next()) else {
        return Finding::warning("kernel", "its version cannot be told", "mount /proc");
    };
    let version = (major, minor);
    if version < KERNEL_MIN {
        return Finding::fault(
            "kernel",
            format!("Linux {release} is older than 5.15"),
            "install a newer kernel",
        );
    }
    if version < KERNEL_RESEND {
        return Finding::warning(
            "kernel",
            format!("Linux {release}: before 6.9 a restart of the daemon fails requests that are in flight"),
            "run 6.9 or newer where that matters",
        );
    }
    if version < KERNEL_PIDFD_INFO {
        return Finding::warning(
            "kernel",
            format!("Linux {release}: before 6.13 callers are told from /proc, which takes longer"),
            "run 6.13 or newer where that matters",
        );
    }
    Finding::ok("kernel", format!("Linux {release}"))
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

fn sharing() -> Finding {
    let text = fs::read_to_string("/etc/fuse.conf").unwrap_or_default();
    if text.lines().any(|line| line.trim() == "user_allow_other") {
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

#[cfg(test)]
mod tests {
    use super::super::Weight;
    use super::*;

    #[test]
    fn kernels_are_judged_by_the_floors_that_the_design_names() {
        for (release, weight) in [
            ("5.14.21-default", Weight::Fault),
            ("5.15.0-91-generic", Weight::Warning),
            ("6.8.0", Weight::Warning),
            ("6.9.1", Weight::Warning),
            ("6.12.48+deb13-amd64", Weight::Warning),
            ("6.13-rc1", Weight::Ok),
            ("7.0.0", Weight::Ok),
            ("odd", Weight::Warning),
        ] {
            assert_eq!(judge_kernel(release).weight, weight, "{release}");
        }
    }
}
