//! Making and removing the FUSE mount, and telling a mount that is ours and dead from all others.
//!
//! Nothing here sends the file system a request that a daemon would have to answer: directories are held by `O_PATH`
//! descriptors, mounts are told apart by number, and the one question that needs an answer (is anyone serving?) is
//! asked by a child process with a deadline.

use std::ffi::CString;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::fusermount::fusermount;
use super::mountinfo::{self, MountEntry};

/// The type that the mount carries in mountinfo.
pub const KIND: &str = "fuse.credfs";
const SOURCE: &str = "credfs";
const SUBTYPE: &str = "credfs";
const FLAGS: libc::c_ulong = libc::MS_NOSUID | libc::MS_NODEV | libc::MS_NOEXEC | libc::MS_NOATIME;
/// How many dead mounts on one directory are taken away before we give up.
const STACK_MAX: usize = 64;

/// How to mount.
#[derive(Clone, Debug)]
pub struct MountOptions {
    /// Whether users other than the one who mounts are let in. As a plain user this needs `user_allow_other` in
    /// /etc/fuse.conf.
    pub allow_other: bool,
    /// The largest read the kernel sends, in bytes; the kernel's own limit if absent.
    pub max_read_bytes: Option<u32>,
    /// How long a mount found in the way may take to say that it is alive.
    pub probe_max: Duration,
}

impl Default for MountOptions {
    fn default() -> Self {
        Self { allow_other: true, max_read_bytes: None, probe_max: Duration::from_secs(2) }
    }
}

/// Where the notifier's helper makes its renames: a tree in which writing is not refused by the kernel.
#[derive(Debug)]
pub enum WritableTree {
    /// A clone of the mount that is mounted nowhere (made by root).
    Detached(OwnedFd),
    /// The public mount itself, which a plain user cannot make read-only for itself alone.
    Path(PathBuf),
}

/// A mount of ours.
#[derive(Debug)]
pub struct Mounted {
    /// The connection to the kernel. The first request on it is INIT.
    pub device: OwnedFd,
    /// For the notifier's helper only.
    pub tree: WritableTree,
    /// What unmounts it.
    pub handle: MountHandle,
}

/// Names one mount, so that it and no other is unmounted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MountHandle {
    /// The directory, with every symbolic link resolved.
    pub mount_point: PathBuf,
    /// The minor device number, which names the connection in fusectl.
    pub minor: u32,
    /// The kernel's number of the mount, unique while it lives.
    pub id: u64,
}

/// What is at a directory that shall become the mount point.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Nothing is mounted there.
    Free,
    /// A mount of our type whose daemon is gone.
    Stale,
    /// A mount of our type that answers.
    Served,
    /// A mount of our type that neither answers nor is known to be dead.
    Silent {
        /// Names its connection in fusectl.
        minor: u32,
    },
    /// Some other file system.
    Foreign {
        /// Its type.
        kind: String,
    },
}

/// Why there is no mount.
#[derive(Debug, thiserror::Error)]
pub enum MountFault {
    /// No such directory.
    #[error("mount point {0} does not exist; create it: mkdir -p {0}")]
    Missing(PathBuf),
    /// A file, a symbolic link or a device.
    #[error("mount point {0} is not a directory; name a directory, and not through a symbolic link")]
    NotADirectory(PathBuf),
    /// Mounting would hide what is there.
    #[error("mount point {0} is not empty; empty it or name another directory")]
    NotEmpty(PathBuf),
    /// Another instance serves there.
    #[error("{0} is already served by a running credfs; stop that one or choose another mount point")]
    AlreadyServed(PathBuf),
    /// Another instance is there and hangs.
    #[error(
        "{path} has a credfs mount that does not answer; stop its daemon, or as a last resort as root: echo 1 > /sys/fs/fuse/connections/{minor}/abort"
    )]
    Silent {
        /// The mount point.
        path: PathBuf,
        /// Its connection.
        minor: u32,
    },
    /// Something that is not ours.
    #[error("{path} already has a file system of type {kind}; unmount it or choose another mount point")]
    Foreign {
        /// The mount point.
        path: PathBuf,
        /// The type of what is mounted there.
        kind: String,
    },
    /// The kernel has no FUSE, or we may not use it.
    #[error(
        "cannot open /dev/fuse: {0}; load it with `modprobe fuse`, or in a container pass --device /dev/fuse"
    )]
    Device(io::Error),
    /// The mount helper for plain users is not installed.
    #[error("fusermount3 was not found, and only root mounts without it; install fuse3")]
    HelperMissing,
    /// fusermount3 said no.
    #[error(
        "fusermount3 refused for {path}: {message}; see /etc/fuse.conf and the permissions of the mount point"
    )]
    HelperRefused {
        /// The mount point.
        path: PathBuf,
        /// Its own words.
        message: String,
    },
    /// What was mounted is not where it should be.
    #[error("{0} was replaced while it was being mounted on; check who may write to its parent directories")]
    Replaced(PathBuf),
    /// The mount point lies on the mount it shall carry, or its path cannot be resolved.
    #[error(
        "cannot {step} at {path}: {source}; check the permissions of the path, and that this may mount (CAP_SYS_ADMIN)"
    )]
    System {
        /// What was tried.
        step: &'static str,
        /// The mount point.
        path: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },
}

/// Mounts on an empty directory, as root by mount(2), as anyone else by fusermount3.
///
/// As root the file system is writable and the public mount of it read-only, so that a private clone can make the
/// renames that inotify sees. INIT lies unanswered in `device` when this returns.
///
/// # Errors
/// Every way in which the directory, the device or the system refuses, with its remedy.
pub fn mount(mount_point: &Path, options: &MountOptions) -> Result<Mounted, MountFault> {
    let path = resolve(mount_point)?;
    match standing_of(&path, options.probe_max)? {
        Standing::Free => {}
        Standing::Served => return Err(MountFault::AlreadyServed(path)),
        Standing::Silent { minor } => return Err(MountFault::Silent { path, minor }),
        Standing::Foreign { kind } => return Err(MountFault::Foreign { path, kind }),
        Standing::Stale => {
            return Err(system("mount", &path)(io::Error::other("a dead mount is in the way")));
        }
    }
    let directory = open_empty(&path)?;
    if is_root() { mount_as_root(&path, &directory, options) } else { mount_as_user(&path, options) }
}

/// Says what is mounted at a directory, without ever waiting longer than `probe_max`.
///
/// # Errors
/// When the directory's parent cannot be resolved or /proc cannot be read.
pub fn standing(mount_point: &Path, probe_max: Duration) -> Result<Standing, MountFault> {
    standing_of(&resolve(mount_point)?, probe_max)
}

/// Takes away every dead mount of ours that is stacked on a directory and says how many there were. Stops at the
/// first mount that is not ours or not dead, and leaves it alone.
///
/// # Errors
/// When a dead one cannot be taken away.
pub fn clear_stale(mount_point: &Path, probe_max: Duration) -> Result<usize, MountFault> {
    let path = resolve(mount_point)?;
    for cleared in 0..STACK_MAX {
        if standing_of(&path, probe_max)? != Standing::Stale {
            return Ok(cleared);
        }
        let Some(entry) = top_of(&path)? else { return Ok(cleared) };
        detach(&path, entry.id)?;
    }
    Ok(STACK_MAX)
}

/// Detaches a mount of ours if it is still the topmost one at its place; whoever has files open keeps them. The
/// kernel ends the session once those, and the notifier's tree, are closed. Answers whether there was anything to do.
///
/// # Errors
/// When the kernel or fusermount3 refuses.
pub fn unmount(handle: &MountHandle) -> Result<bool, MountFault> {
    let Some(entry) = top_of(&handle.mount_point)? else { return Ok(false) };
    // Mount numbers are reused at once, so the number alone proves nothing.
    if (entry.id, entry.device, entry.kind.as_str()) != (handle.id, (0, handle.minor), KIND) {
        return Ok(false);
    }
    detach(&handle.mount_point, entry.id)?;
    Ok(true)
}

/// Whether a mount of ours is still the topmost one at its place.
///
/// # Errors
/// When /proc cannot be read.
pub fn is_there(handle: &MountHandle) -> Result<bool, MountFault> {
    let Some(entry) = top_of(&handle.mount_point)? else { return Ok(false) };
    Ok((entry.id, entry.device, entry.kind.as_str()) == (handle.id, (0, handle.minor), KIND))
}

/// Makes the tree for the notifier's helper anew, of a mount that was made before.
///
/// # Errors
/// When the mount is not there any more, or the kernel refuses.
pub fn writable_again(handle: &MountHandle) -> Result<WritableTree, MountFault> {
    let path = &handle.mount_point;
    if !is_there(handle)? {
        return Err(MountFault::Replaced(path.clone()));
    }
    if !is_root() {
        return Ok(WritableTree::Path(path.clone()));
    }
    let top = open_directory(path)?;
    let tree = clone_of(&top).map_err(system("prepare the mount", path))?;
    // The clone has the public mount's flags: all but one stay.
    let change =
        libc::mount_attr { attr_set: 0, attr_clr: libc::MOUNT_ATTR_RDONLY, propagation: 0, userns_fd: 0 };
    let flags = libc::AT_EMPTY_PATH;
    // SAFETY: the path is an empty C string and `change` of the size given; both outlive the call.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            tree.as_raw_fd(),
            c"".as_ptr(),
            flags,
            &raw const change,
            size_of::<libc::mount_attr>(),
        )
    };
    if result != 0 {
        return Err(system("prepare the mount", path)(io::Error::last_os_error()));
    }
    Ok(WritableTree::Detached(tree))
}

fn is_root() -> bool {
    // SAFETY: geteuid has no preconditions and cannot fail.
    unsafe { libc::geteuid() == 0 }
}

pub(super) fn system(step: &'static str, path: &Path) -> impl FnOnce(io::Error) -> MountFault {
    let path = path.to_owned();
    move |source| MountFault::System { step, path, source }
}

/// The path as mountinfo will write it. The last component is not looked at: it may be a dead mount.
fn resolve(mount_point: &Path) -> Result<PathBuf, MountFault> {
    let absolute = std::path::absolute(mount_point).map_err(system("resolve the path", mount_point))?;
    let (Some(parent), Some(name)) = (absolute.parent(), absolute.file_name()) else {
        return Err(MountFault::NotADirectory(mount_point.to_owned()));
    };
    match parent.canonicalize() {
        Ok(parent) => Ok(parent.join(name)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Err(MountFault::Missing(absolute)),
        Err(error) => Err(system("resolve the path", mount_point)(error)),
    }
}

fn c_path(path: &Path) -> io::Result<CString> {
    CString::new(path.as_os_str().as_bytes()).map_err(|_| io::ErrorKind::InvalidInput.into())
}

fn through_descriptor(descriptor: BorrowedFd<'_>) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", descriptor.as_raw_fd()))
}

/// Opens by `O_PATH`, which asks no file system anything.
fn open_path(path: &Path) -> io::Result<OwnedFd> {
    let name = c_path(path)?;
    let flags = libc::O_PATH | libc::O_NOFOLLOW | libc::O_DIRECTORY | libc::O_CLOEXEC;
    // SAFETY: `name` is a C string that outlives the call.
    let descriptor = unsafe { libc::open(name.as_ptr(), flags) };
    owned(descriptor)
}

fn owned(descriptor: RawFd) -> io::Result<OwnedFd> {
    if descriptor < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel just made this descriptor for us and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(descriptor) })
}

fn open_directory(path: &Path) -> Result<OwnedFd, MountFault> {
    open_path(path).map_err(|error| match error.raw_os_error() {
        Some(libc::ENOENT) => MountFault::Missing(path.to_owned()),
        Some(libc::ENOTDIR | libc::ELOOP) => MountFault::NotADirectory(path.to_owned()),
        _ => system("open the mount point", path)(error),
    })
}

fn open_empty(path: &Path) -> Result<OwnedFd, MountFault> {
    let directory = open_directory(path)?;
    let mut entries = std::fs::read_dir(through_descriptor(directory.as_fd()))
        .map_err(system("list the mount point", path))?;
    match entries.next() {
        None => Ok(directory),
        Some(_) => Err(MountFault::NotEmpty(path.to_owned())),
    }
}

/// The topmost mount at exactly this path.
fn top_of(path: &Path) -> Result<Option<MountEntry>, MountFault> {
    let directory = open_directory(path)?;
    let id = mountinfo::mount_id_of(directory.as_fd()).map_err(system("find the mount", path))?;
    let mounts = mountinfo::mounts().map_err(system("read mountinfo", path))?;
    Ok(mounts.into_iter().find(|entry| entry.id == id && entry.mount_point == path))
}

fn standing_of(path: &Path, probe_max: Duration) -> Result<Standing, MountFault> {
    let Some(entry) = top_of(path)? else { return Ok(Standing::Free) };
    if entry.kind != KIND {
        return Ok(Standing::Foreign { kind: entry.kind });
    }
    let directory = open_directory(path)?;
    let answer = super::probe::ask(directory.as_fd(), owner_of(&entry), probe_max)
        .map_err(system("probe the mount", path))?;
    Ok(match answer {
        super::probe::Answer::Dead => Standing::Stale,
        super::probe::Answer::Alive => Standing::Served,
        super::probe::Answer::Silent => Standing::Silent { minor: entry.device.1 },
    })
}

/// FUSE without `allow_other` answers EACCES to all but its owner, also to root, and dead or alive: ask as the owner.
fn owner_of(entry: &MountEntry) -> Option<(u32, u32)> {
    if !is_root() {
        return None;
    }
    Some((entry.super_number("user_id")?, entry.super_number("group_id")?))
}

fn mount_as_root(path: &Path, directory: &OwnedFd, options: &MountOptions) -> Result<Mounted, MountFault> {
    let device = File::options().read(true).write(true).open("/dev/fuse").map_err(MountFault::Device)?;
    let target = c_path(&through_descriptor(directory.as_fd())).map_err(system("mount", path))?;
    let data = c_path(Path::new(&mount_data(device.as_raw_fd(), options))).map_err(system("mount", path))?;
    mount_call(Some(SOURCE), &target, Some(KIND), FLAGS, Some(&data)).map_err(system("mount", path))?;

    let top = open_directory(path)?;
    let handle = verified(path, &top, || undo(directory))?;
    let finished = clone_of(&top).and_then(|tree| restrict(&top).map(|()| tree));
    match finished {
        Ok(tree) => Ok(Mounted { device: device.into(), tree: WritableTree::Detached(tree), handle }),
        Err(error) => {
            detach(path, handle.id)?;
            Err(system("prepare the mount", path)(error))
        }
    }
}

fn mount_data(device: RawFd, options: &MountOptions) -> String {
    // SAFETY: these calls have no preconditions and cannot fail.
    let (user, group) = unsafe { (libc::getuid(), libc::getgid()) };
    let mut data = format!("fd={device},rootmode=40000,user_id={user},group_id={group}");
    if options.allow_other {
        data.push_str(",allow_other");
    }
    if let Some(bytes) = options.max_read_bytes {
        data.push_str(&format!(",max_read={bytes}"));
    }
    data
}

fn mount_call(
    source: Option<&str>,
    target: &CString,
    kind: Option<&str>,
    flags: libc::c_ulong,
    data: Option<&CString>,
) -> io::Result<()> {
    let source = source.map(CString::new).transpose()?;
    let kind = kind.map(CString::new).transpose()?;
    let pointer = |text: Option<&CString>| text.map_or(std::ptr::null(), |text| text.as_ptr());
    // SAFETY: every pointer is null or a C string that outlives the call.
    let result = unsafe {
        libc::mount(
            pointer(source.as_ref()),
            target.as_ptr(),
            pointer(kind.as_ref()),
            flags,
            pointer(data).cast(),
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// A mount that landed elsewhere is taken away from the directory it was made on, wherever that is now. Where even
/// that fails, closing the device leaves it dead, and the fault names the cause.
fn undo(directory: &OwnedFd) {
    let Ok(path) = std::fs::read_link(through_descriptor(directory.as_fd())) else { return };
    if let Ok(Some(entry)) = top_of(&path)
        && entry.kind == KIND
        && let Err(fault) = detach(&path, entry.id)
    {
        tracing::warn!(%fault, "a misplaced mount could not be taken away");
    }
}

fn verified(path: &Path, top: &OwnedFd, undo: impl FnOnce()) -> Result<MountHandle, MountFault> {
    let id = mountinfo::mount_id_of(top.as_fd()).map_err(system("find the mount", path))?;
    let mounts = mountinfo::mounts().map_err(system("read mountinfo", path))?;
    let found = mounts.into_iter().find(|entry| entry.id == id && entry.mount_point == path);
    match found {
        Some(entry) if entry.kind == KIND => {
            Ok(MountHandle { mount_point: path.to_owned(), minor: entry.device.1, id })
        }
        _ => {
            undo();
            Err(MountFault::Replaced(path.to_owned()))
        }
    }
}

/// A detached clone: shares the file system and so inotify's inodes, has its own (writable) mount flags.
fn clone_of(top: &OwnedFd) -> io::Result<OwnedFd> {
    let flags = libc::OPEN_TREE_CLONE | libc::OPEN_TREE_CLOEXEC | libc::AT_EMPTY_PATH as libc::c_uint;
    // SAFETY: the descriptor is open and the path an empty C string.
    let descriptor = unsafe { libc::syscall(libc::SYS_open_tree, top.as_raw_fd(), c"".as_ptr(), flags) };
    owned(RawFd::try_from(descriptor).map_err(io::Error::other)?)
}

/// Makes this one mount read-only; the file system stays writable for the clone. A remount sets all flags anew.
fn restrict(top: &OwnedFd) -> io::Result<()> {
    let target = c_path(&through_descriptor(top.as_fd()))?;
    let flags = FLAGS | libc::MS_BIND | libc::MS_REMOUNT | libc::MS_RDONLY;
    mount_call(None, &target, None, flags, None)
}

/// Lazily unmounts the topmost mount at `path` if it is still the one with this number.
fn detach(path: &Path, id: u64) -> Result<(), MountFault> {
    let top = open_directory(path)?;
    let now = mountinfo::mount_id_of(top.as_fd()).map_err(system("find the mount", path))?;
    if now != id {
        return Err(MountFault::Replaced(path.to_owned()));
    }
    if !is_root() {
        drop(top);
        return fusermount(path, &["-u", "-q", "-z"], None);
    }
    let target = c_path(&through_descriptor(top.as_fd())).map_err(system("unmount", path))?;
    // SAFETY: `target` is a C string that outlives the call.
    match unsafe { libc::umount2(target.as_ptr(), libc::MNT_DETACH) } {
        0 => Ok(()),
        _ => Err(system("unmount", path)(io::Error::last_os_error())),
    }
}

fn mount_as_user(path: &Path, options: &MountOptions) -> Result<Mounted, MountFault> {
    let (ours, theirs) = std::os::unix::net::UnixStream::pair().map_err(system("make a socket", path))?;
    let mut words = format!("fsname={SOURCE},subtype={SUBTYPE},nosuid,nodev,noexec,noatime");
    if options.allow_other {
        words.push_str(",allow_other");
    }
    if let Some(bytes) = options.max_read_bytes {
        words.push_str(&format!(",max_read={bytes}"));
    }
    fusermount(path, &["-o", &words], Some(theirs.as_fd()))?;
    drop(theirs);
    let device = super::descriptor::receive(ours.as_fd()).map_err(MountFault::Device)?;
    let top = open_directory(path)?;
    let handle = verified(path, &top, || {})?;
    Ok(Mounted { device, tree: WritableTree::Path(path.to_owned()), handle })
}
