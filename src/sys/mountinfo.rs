//! What is mounted where: `/proc/self/mountinfo`, read without touching any of the mounts it names.

use std::ffi::OsString;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

/// One line of mountinfo (proc(5)), as far as we need it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MountEntry {
    /// The kernel's number of this mount, unique while it lives.
    pub id: u64,
    /// The mount below it.
    pub parent: u64,
    /// Device numbers of the file system; a FUSE connection is known by its minor.
    pub device: (u32, u32),
    /// Where it is mounted, octal escapes undone.
    pub mount_point: PathBuf,
    /// Per-mount options, such as `ro,nosuid`.
    pub options: String,
    /// Whether what is mounted below appears in other mount namespaces as well (`shared:`, mount_namespaces(7)).
    pub is_shared: bool,
    /// Type, such as `fuse.credfs`.
    pub kind: String,
    /// Source, as given by who mounted.
    pub source: OsString,
    /// Options of the file system itself, such as `rw,user_id=0`.
    pub super_options: String,
}

impl MountEntry {
    /// The number after `name=` in the file system's options (`user_id`, `group_id`).
    #[must_use]
    pub fn super_number(&self, name: &str) -> Option<u32> {
        self.super_options.split(',').find_map(|option| {
            let (key, value) = option.split_once('=')?;
            (key == name).then(|| value.parse().ok())?
        })
    }

    /// Whether a per-mount option is set.
    #[must_use]
    pub fn has_option(&self, name: &str) -> bool {
        self.options.split(',').any(|option| option == name)
    }
}

/// Every mount this process can see, in the kernel's order.
///
/// # Errors
/// When /proc is not there.
pub fn mounts() -> io::Result<Vec<MountEntry>> {
    Ok(parse(&std::fs::read("/proc/self/mountinfo")?))
}

/// The mount that an open descriptor lies in. An `O_PATH` descriptor will do; the file system is not asked.
///
/// # Errors
/// When /proc is not there, or shows no mount number.
pub fn mount_id_of(descriptor: BorrowedFd<'_>) -> io::Result<u64> {
    let text = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", descriptor.as_raw_fd()))?;
    text.lines()
        .find_map(|line| line.strip_prefix("mnt_id:")?.trim().parse().ok())
        .ok_or_else(|| io::Error::other("the kernel shows no mnt_id in fdinfo"))
}

/// The mounts at exactly this path, in the kernel's order.
#[must_use]
pub fn at<'a>(mounts: &'a [MountEntry], mount_point: &Path) -> Vec<&'a MountEntry> {
    mounts.iter().filter(|entry| entry.mount_point == mount_point).collect()
}

fn parse(text: &[u8]) -> Vec<MountEntry> {
    text.split(|byte| *byte == b'\n').filter_map(parse_line).collect()
}

/// `36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw,errors=continue`
fn parse_line(line: &[u8]) -> Option<MountEntry> {
    let mut fields = line.split(|byte| *byte == b' ');
    let id = number(fields.next()?)?;
    let parent = number(fields.next()?)?;
    let device = std::str::from_utf8(fields.next()?).ok()?;
    let (major, minor) = device.split_once(':')?;
    let _root = fields.next()?;
    let mount_point = PathBuf::from(OsString::from_vec(unescape(fields.next()?)));
    let options = text(fields.next()?);
    // Any number of optional fields ends with a lone hyphen.
    let mut is_shared = false;
    loop {
        let field = fields.next()?;
        if field == b"-" {
            break;
        }
        is_shared |= field.starts_with(b"shared:");
    }
    let kind = text(fields.next()?);
    let source = OsString::from_vec(unescape(fields.next()?));
    let super_options = fields.next().map(text).unwrap_or_default();
    let device = (major.parse().ok()?, minor.parse().ok()?);
    Some(MountEntry { id, parent, device, mount_point, options, is_shared, kind, source, super_options })
}

fn number(field: &[u8]) -> Option<u64> {
    std::str::from_utf8(field).ok()?.parse().ok()
}

fn text(field: &[u8]) -> String {
    String::from_utf8_lossy(&unescape(field)).into_owned()
}

/// Undoes the kernel's `\ooo` (seq_path: space, tab, newline and backslash).
fn unescape(field: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let [first, tail @ ..] = rest {
        if *first == b'\\'
            && let [a @ b'0'..=b'3', b @ b'0'..=b'7', c @ b'0'..=b'7', after @ ..] = tail
        {
            bytes.push((a - b'0') * 64 + (b - b'0') * 8 + (c - b'0'));
            rest = after;
        } else {
            bytes.push(*first);
            rest = tail;
        }
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_with_escapes_and_optional_fields_is_read_whole() {
        let line = b"36 35 0:98 / /mnt/a\\040b\\134c\\011\\012 ro,nosuid shared:1 master:2 - fuse.credfs cre\\040dfs rw,user_id=7,group_id=8";
        let entry = parse_line(line).unwrap();
        assert_eq!(entry.mount_point, Path::new("/mnt/a b\\c\t\n"));
        assert_eq!((entry.id, entry.parent, entry.device), (36, 35, (0, 98)));
        assert_eq!(entry.kind, "fuse.credfs");
        assert_eq!(entry.source, "cre dfs");
        assert_eq!(entry.super_number("user_id"), Some(7));
        assert_eq!(entry.super_number("id"), None);
        assert!(entry.has_option("ro") && !entry.has_option("rw"));
        assert!(entry.is_shared);
        let private = parse_line(b"36 35 0:98 / /mnt ro master:2 - tmpfs tmpfs rw").unwrap();
        assert!(!private.is_shared);
    }

    #[test]
    fn a_backslash_that_escapes_nothing_stays() {
        assert_eq!(unescape(b"a\\9\\04"), b"a\\9\\04");
    }

    #[test]
    fn lines_that_make_no_sense_are_left_out() {
        assert!(parse(b"\nnonsense\n1 2 3\n1 2 0:1 / /x rw no hyphen").is_empty());
    }

    #[test]
    fn an_open_descriptor_tells_the_mount_it_lies_in() {
        let proc = std::fs::File::open("/proc").unwrap();
        let id = mount_id_of(std::os::fd::AsFd::as_fd(&proc)).unwrap();
        let mounts = mounts().unwrap();
        let entry = mounts.iter().find(|entry| entry.id == id).unwrap();
        assert_eq!(entry.kind, "proc");
        assert!(at(&mounts, Path::new("/proc")).contains(&entry));
    }
}
