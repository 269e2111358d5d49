//! User and group names to ids, through the machine's name service. It may wait for a network: only at load time.

use std::ffi::{CStr, CString};

/// Largest buffer given to the name service, in bytes: a group with tens of thousands of members fits.
const BUFFER_BYTES_MAX: usize = 4 * 1024 * 1024;

/// The uid of a user, as getpwnam_r(3) says. `None`: unknown, or the service failed.
#[must_use]
pub fn uid_of(user: &str) -> Option<u32> {
    account(&CString::new(user).ok()?).map(|account| account.uid)
}

/// The gid of a group, as getgrnam_r(3) says. `None`: unknown, or the service failed.
#[must_use]
pub fn gid_of(group: &str) -> Option<u32> {
    let name = CString::new(group).ok()?;
    with_growing_buffer(|buffer| {
        let mut entry = std::mem::MaybeUninit::<libc::group>::uninit();
        let mut found = std::ptr::null_mut();
        // SAFETY: every pointer is valid for the call, and the buffer's length is the one given.
        let status = unsafe {
            libc::getgrnam_r(
                name.as_ptr(),
                entry.as_mut_ptr(),
                buffer.as_mut_ptr().cast(),
                buffer.len(),
                &raw mut found,
            )
        };
        // SAFETY: where `found` is not null it points to `entry`, filled in.
        (status, (!found.is_null()).then(|| unsafe { (*found).gr_gid }))
    })
}

/// The groups of a user, his own first, as getgrouplist(3) says. `None`: unknown.
#[must_use]
pub fn groups_of(user: &str) -> Option<Vec<u32>> {
    let name = CString::new(user).ok()?;
    let own = account(&name)?.gid;
    let mut groups = vec![0; 64];
    loop {
        let mut count = libc::c_int::try_from(groups.len()).ok()?;
        // SAFETY: the list has room for `count` groups, which is what is said; `name` ends with a NUL.
        let status = unsafe { libc::getgrouplist(name.as_ptr(), own, groups.as_mut_ptr(), &raw mut count) };
        let count = usize::try_from(count).ok()?;
        if status >= 0 {
            groups.truncate(count);
            return Some(groups);
        }
        if groups.len() >= 65_536 {
            return None;
        }
        groups.resize(count.max(groups.len() * 2), 0);
    }
}

/// The effective uid of this process.
#[must_use]
pub fn own_uid() -> u32 {
    // SAFETY: geteuid has no preconditions and cannot fail.
    unsafe { libc::geteuid() }
}

/// A user, by its numbers.
struct Account {
    uid: u32,
    gid: u32,
}

fn account(name: &CStr) -> Option<Account> {
    with_growing_buffer(|buffer| {
        let mut entry = std::mem::MaybeUninit::<libc::passwd>::uninit();
        let mut found = std::ptr::null_mut();
        // SAFETY: every pointer is valid for the call, and the buffer's length is the one given.
        let status = unsafe {
            libc::getpwnam_r(
                name.as_ptr(),
                entry.as_mut_ptr(),
                buffer.as_mut_ptr().cast(),
                buffer.len(),
                &raw mut found,
            )
        };
        // SAFETY: where `found` is not null it points to `entry`, filled in.
        let found = (!found.is_null()).then(|| unsafe { &*found });
        (status, found.map(|entry| Account { uid: entry.pw_uid, gid: entry.pw_gid }))
    })
}

/// Repeats `ask` with larger buffers while it says that the entry does not fit.
fn with_growing_buffer<T>(mut ask: impl FnMut(&mut [u8]) -> (i32, Option<T>)) -> Option<T> {
    let mut buffer = vec![0_u8; 1024];
    loop {
        match ask(&mut buffer) {
            (libc::ERANGE, _) if buffer.len() < BUFFER_BYTES_MAX => {
                let larger = buffer.len() * 4;
                buffer.resize(larger, 0);
            }
            (0, found) => return found,
            _ => return None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn root_is_known_and_a_stranger_is_not() {
        assert_eq!(uid_of("root"), Some(0));
        assert_eq!(gid_of("root"), Some(0));
        assert_eq!(uid_of("no-such-user-here"), None);
        assert_eq!(gid_of("no-such-group\0here"), None);
    }
}
