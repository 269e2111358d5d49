//! Files that lie in memory alone (memfd_create(2)), made unchangeable before they are handed on, or of a fixed length.

use std::ffi::CStr;
use std::fs::File;
use std::io::{self, Write as _};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::fs::FileExt as _;

const FIXED: libc::c_int = libc::F_SEAL_SEAL | libc::F_SEAL_SHRINK | libc::F_SEAL_GROW;
const SEALS: libc::c_int = FIXED | libc::F_SEAL_WRITE;

/// Makes a file of these bytes that nobody can change any more.
///
/// # Errors
/// Where no memory or descriptor is left.
pub fn sealed(name: &CStr, bytes: &[u8]) -> io::Result<OwnedFd> {
    with_seals(name, bytes, SEALS)
}

/// Makes a file of so many zero bytes, which whoever has it may overwrite, and nobody make longer or shorter.
///
/// # Errors
/// As [`sealed`].
pub fn fixed(name: &CStr, length_bytes: usize) -> io::Result<OwnedFd> {
    with_seals(name, &vec![0; length_bytes], FIXED)
}

fn with_seals(name: &CStr, bytes: &[u8], seals: libc::c_int) -> io::Result<OwnedFd> {
    // SAFETY: the name is a C string.
    let descriptor =
        unsafe { libc::memfd_create(name.as_ptr(), libc::MFD_CLOEXEC | libc::MFD_ALLOW_SEALING) };
    if descriptor < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel just made this descriptor for us and nobody else knows it.
    let mut file = unsafe { File::from_raw_fd(descriptor) };
    file.write_all(bytes)?;
    // SAFETY: F_ADD_SEALS takes integers alone.
    if unsafe { libc::fcntl(file.as_raw_fd(), libc::F_ADD_SEALS, seals) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(file.into())
}

/// Whether this is such a file, unchangeable and of at most `bytes_max` bytes.
#[must_use]
pub fn is_sealed(descriptor: &OwnedFd, bytes_max: u64) -> bool {
    // SAFETY: F_GET_SEALS takes integers alone; anything but a memory file is an error.
    let seals = unsafe { libc::fcntl(descriptor.as_raw_fd(), libc::F_GET_SEALS) };
    let length = descriptor.try_clone().and_then(|copy| File::from(copy).metadata()).map(|found| found.len());
    seals >= 0 && seals & SEALS == SEALS && length.is_ok_and(|length| length <= bytes_max)
}

/// Reads such a file from its beginning, whoever else reads it.
///
/// # Errors
/// `InvalidData` where it is no such file or longer than `bytes_max`.
pub fn read_sealed(descriptor: &OwnedFd, bytes_max: u64) -> io::Result<Vec<u8>> {
    if !is_sealed(descriptor, bytes_max) {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let file = File::from(descriptor.try_clone()?);
    let length = usize::try_from(file.metadata()?.len()).map_err(io::Error::other)?;
    let mut bytes = vec![0; length];
    file.read_exact_at(&mut bytes, 0)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_sealed_is_read_again_and_cannot_be_changed() {
        let file = sealed(c"credfs-test", b"left").unwrap();
        for _ in 0..2 {
            assert_eq!(read_sealed(&file, 4).unwrap(), b"left");
        }
        assert!(read_sealed(&file, 3).is_err());
        assert!(File::from(file.try_clone().unwrap()).write_all(b"x").is_err());
        assert!(!is_sealed(&File::open("/dev/null").unwrap().into(), 10));
    }

    #[test]
    fn one_of_fixed_length_is_overwritten_and_neither_grows_nor_shrinks() {
        let file = File::from(fixed(c"credfs-test", 4).unwrap());
        file.write_all_at(b"mark", 0).unwrap();
        assert!(file.write_all_at(b"more", 1).is_err() && file.set_len(3).is_err());
        let mut bytes = [0; 4];
        file.read_exact_at(&mut bytes, 0).unwrap();
        assert_eq!(&bytes[..1], b"m");
    }
}
