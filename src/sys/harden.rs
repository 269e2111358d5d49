//! What a process that holds secrets asks of the kernel before it holds one.

use std::io;

/// Makes this process unreadable for others of its uid: no core file, no ptrace, no /proc/PID/mem (prctl(2)).
///
/// # Errors
/// What the kernel reports.
pub fn forbid_dumps() -> io::Result<()> {
    // SAFETY: PR_SET_DUMPABLE takes integers alone.
    if unsafe { libc::prctl(libc::PR_SET_DUMPABLE, 0, 0, 0, 0) } != 0 {
        return Err(io::Error::last_os_error());
    }
    set_limit(libc::RLIMIT_CORE, libc::rlimit { rlim_cur: 0, rlim_max: 0 })
}

/// Files are made for their owner alone from now on.
pub fn private_files() {
    // SAFETY: umask takes an integer and cannot fail.
    unsafe { libc::umask(0o077) };
}

/// Lets this process open as many files as its hard limit says.
///
/// # Errors
/// What the kernel reports.
pub fn raise_open_files() -> io::Result<u64> {
    let mut limit = get_limit(libc::RLIMIT_NOFILE)?;
    limit.rlim_cur = limit.rlim_max;
    set_limit(libc::RLIMIT_NOFILE, limit)?;
    Ok(limit.rlim_max)
}

/// How many files this process may have open.
#[must_use]
pub fn open_files_max() -> u64 {
    get_limit(libc::RLIMIT_NOFILE).map_or(0, |limit| limit.rlim_cur)
}

/// Has freed memory go back to the system, and threads share few heaps. Without it glibc takes the first large block
/// that is freed (16 MiB, for the first request of a FUSE session) as a reason to keep all later ones (mallopt(3)).
pub fn keep_heap_small() {
    #[cfg(target_env = "gnu")]
    // SAFETY: mallopt takes integers alone, and no other thread runs yet that could be allocating.
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, 128 * 1024);
        libc::mallopt(libc::M_TRIM_THRESHOLD, 128 * 1024);
        libc::mallopt(libc::M_ARENA_MAX, 2);
    }
}

/// How much memory this process may lock, in bytes; `None`: as much as it likes.
///
/// # Errors
/// What the kernel reports.
pub fn lockable_bytes() -> io::Result<Option<u64>> {
    let limit = get_limit(libc::RLIMIT_MEMLOCK)?;
    Ok((limit.rlim_cur != libc::RLIM_INFINITY).then_some(limit.rlim_cur))
}

/// The effective user of this process.
#[must_use]
pub fn own_uid() -> u32 {
    // SAFETY: geteuid has no preconditions and cannot fail.
    unsafe { libc::geteuid() }
}

/// The effective group of this process.
#[must_use]
pub fn own_gid() -> u32 {
    // SAFETY: getegid has no preconditions and cannot fail.
    unsafe { libc::getegid() }
}

/// The supplementary groups of this process.
#[must_use]
pub fn own_groups() -> Vec<u32> {
    // SAFETY: a size of 0 only asks how many there are.
    let count = unsafe { libc::getgroups(0, std::ptr::null_mut()) };
    let mut groups = vec![0; usize::try_from(count).unwrap_or(0)];
    // SAFETY: the buffer has room for `count` groups, which is what is said.
    let filled = unsafe { libc::getgroups(count, groups.as_mut_ptr()) };
    groups.truncate(usize::try_from(filled).unwrap_or(0));
    groups
}

fn get_limit(resource: libc::__rlimit_resource_t) -> io::Result<libc::rlimit> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `limit` lives through the call.
    if unsafe { libc::getrlimit(resource, &raw mut limit) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(limit)
}

fn set_limit(resource: libc::__rlimit_resource_t, limit: libc::rlimit) -> io::Result<()> {
    // SAFETY: `limit` lives through the call.
    if unsafe { libc::setrlimit(resource, &raw const limit) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}
