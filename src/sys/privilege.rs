//! Giving rights up: capabilities, the chance of new ones, and the user.

use std::io;

/// A right that a process of root may keep (capabilities(7)).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Capability {
    /// Gives files to other users.
    Chown = 0,
    /// Opens files whatever their mode.
    DacOverride = 1,
    /// Changes modes of other users' files.
    Fowner = 3,
    /// Locks memory past the limit.
    IpcLock = 14,
    /// Mounts, and much else.
    SysAdmin = 21,
}

/// `_LINUX_CAPABILITY_VERSION_3` (`include/uapi/linux/capability.h`): two words of 32 each.
const VERSION: u32 = 0x2008_0522;
/// More than any kernel has.
const NUMBERS: std::ops::Range<libc::c_ulong> = 0..64;

#[repr(C)]
struct Header {
    version: u32,
    pid: i32,
}

#[repr(C)]
#[derive(Clone, Copy, Default, PartialEq, Eq)]
struct Data {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

/// Gives every capability up but those in `keep`, for this thread and all that it starts, and forbids that any program
/// started from here brings one (`no_new_privs`). Call it before any thread is started.
///
/// # Errors
/// What the kernel reports.
pub fn keep_only(keep: &[Capability]) -> io::Result<()> {
    // SAFETY: these options of prctl take integers alone. Dropping from the bounding set needs CAP_SETPCAP, which a plain
    // user has not; he has nothing to drop either, and no_new_privs keeps it so.
    unsafe {
        for number in NUMBERS.filter(|number| !keep.iter().any(|kept| *kept as libc::c_ulong == *number)) {
            libc::prctl(libc::PR_CAPBSET_DROP, number, 0, 0, 0);
        }
        libc::prctl(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0);
        if libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0 {
            return Err(io::Error::last_os_error());
        }
    }
    let kept = keep.iter().fold(0_u32, |kept, one| kept | 1 << (*one as u32));
    change_held(|held| {
        // What is not held cannot be kept.
        let kept = kept & held[0].permitted;
        [Data { effective: kept, permitted: kept, inheritable: 0 }, Data::default()]
    })
}

/// Gives one capability up, for this thread and all that it starts.
///
/// # Errors
/// What the kernel, or a filter of system calls, reports.
pub fn give_up(capability: Capability) -> io::Result<()> {
    let kept = !(1_u32 << (capability as u32));
    change_held(|[low, high]| {
        let left = Data {
            effective: low.effective & kept,
            permitted: low.permitted & kept,
            inheritable: low.inheritable & kept,
        };
        [left, high]
    })
}

/// Makes what this thread holds into what `wanted` says.
fn change_held(wanted: impl FnOnce([Data; 2]) -> [Data; 2]) -> io::Result<()> {
    let mut header = Header { version: VERSION, pid: 0 };
    let mut held = [Data::default(); 2];
    // SAFETY: a header and two words of data, as this version demands; the kernel writes no more.
    if unsafe { libc::syscall(libc::SYS_capget, &raw mut header, held.as_mut_ptr()) } != 0 {
        return Err(io::Error::last_os_error());
    }
    let wanted = wanted(held);
    if held == wanted {
        // Under systemd there may be nothing to give up, and the filter of system calls lets nobody ask.
        return Ok(());
    }
    // SAFETY: as above; the kernel only reads.
    if unsafe { libc::syscall(libc::SYS_capset, &raw mut header, wanted.as_ptr()) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Becomes another user for good, with his groups. Async-signal-safe: for use between fork and exec.
///
/// # Errors
/// `EPERM` where we may not.
pub fn become_user(uid: u32, groups: &[u32]) -> io::Result<()> {
    let gid = groups.first().copied().unwrap_or(uid);
    // SAFETY: the group list is valid for its length; the other calls take integers alone.
    let failed = unsafe {
        libc::syscall(libc::SYS_setgroups, groups.len(), groups.as_ptr()) != 0
            || libc::syscall(libc::SYS_setresgid, gid, gid, gid) != 0
            || libc::syscall(libc::SYS_setresuid, uid, uid, uid) != 0
    };
    if failed { Err(io::Error::last_os_error()) } else { Ok(()) }
}
